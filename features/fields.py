"""The fields that events and outcomes share on the wire: how each is read, and what a bad one is called."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import isfinite
from typing import Any, Final

from features.ids import CHANNEL_CODE, BadId, check_id

MAX_AMOUNT: Final = 1e15


class Rejected(ValueError):
    """An event or outcome that is refused: a stable `code` and a `detail` for the developer who sent it."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def parse_time(raw: Any, name: str) -> float:
    """POSIX seconds of an RFC 3339 time. Raises Rejected(bad_time) otherwise, also when it names no zone."""
    if (
        isinstance(raw, str)
        and 20 <= len(raw) <= 40
        and raw[4] == raw[7] == "-"
        and raw[13] == raw[16] == ":"
    ):
        try:
            moment = datetime.fromisoformat(raw.upper() if raw[-1] == "z" else raw)
            if moment.tzinfo is not None:
                return moment.timestamp()
        except (ValueError, OverflowError):
            pass
    raise Rejected("bad_time", f"{name} must be an RFC 3339 time with a zone, as 2026-03-01T08:00:00Z")


def parse_value(raw: Any) -> tuple[float | None, str | None]:
    """(amount, currency) of {"amount": number, "currency": "CNY"}; (None, None) of null."""
    if raw is None:
        return None, None
    if not isinstance(raw, dict) or not raw.keys() <= {"amount", "currency"} or "amount" not in raw:
        raise Rejected("bad_value", 'value must be {"amount": number, "currency": "CNY"}')
    amount, currency = raw["amount"], raw.get("currency")
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise Rejected("bad_value", "value.amount must be a number")
    if not (abs(amount) <= MAX_AMOUNT and isfinite(amount)):
        raise Rejected("bad_value", "value.amount must be finite and at most 10^15")
    if currency is not None and not (
        isinstance(currency, str) and len(currency) == 3 and currency.isascii() and currency.isupper()
    ):
        raise Rejected("bad_value", "value.currency must be three capital letters, as CNY")
    return float(amount), currency


def told(value: Any) -> str:
    """A bad value as an error may repeat it: text is cut, of anything else (it may be deep) only the type."""
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


def needed(raw: Mapping[str, Any], name: str) -> Any:
    if (value := raw.get(name)) is None:
        raise Rejected("missing_field", f"{name} is missing")
    return value


def identifier(raw: Mapping[str, Any], name: str) -> str:
    try:
        return check_id(needed(raw, name), name)
    except BadId as problem:
        raise Rejected("bad_id", str(problem)) from None


def optional_id(raw: Mapping[str, Any], name: str) -> str | None:
    return identifier(raw, name) if raw.get(name) is not None else None


def channel_code(raw: Mapping[str, Any]) -> int:
    """The code of the optional field `channel`, 0 when it is not given."""
    if (channel := raw.get("channel")) is None:
        return 0
    if not isinstance(channel, str) or channel not in CHANNEL_CODE:
        raise Rejected("bad_value", f"channel must be one of {', '.join(CHANNEL_CODE)}")
    return CHANNEL_CODE[channel]
