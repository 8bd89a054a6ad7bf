"""`PUT /v1/users/{id}`: values as people write them, turned into what the profile holds.

Codes of places and items become keys, consents bits, dates nothing: what is computed from events is not
accepted. Fields of purpose `permission` are the bank's core's to say, but for what a customer decides in the
app: personalisation, tags switched off, consents taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from features.ids import BadId, check_id, key32, key64
from features.patch import fitted
from features.views import (
    AGGREGATED_FIELDS,
    ATTRIBUTES_KEPT,
    BLOCKED,
    CONSENTS,
    HOLDINGS_KEPT,
    OFFERS,
    PROFILE,
    TAG_BITS,
    withheld,
)
from serving.errors import FieldError, Problem

OWN: Final = ("profiling", "tags_off", "consents")
"""Permission fields that the app may pass on; of `consents` only that one is withdrawn."""
_FLAGS: Final = ("profiling", "payroll")
_TAGS: Final = ("tags", "tags_off")
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "risk_level": (0, 5),
    "age": (0, 150),
    "gender": (0, 3),
    "assets": (0, 1e13),
    "income": (0, 1e10),
    "tenure_days": (0, 60_000),
}


def profile_changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Field to value as PROFILE holds them. Raises Problem naming every field that is unknown or does not
    fit.
    """
    changes: dict[str, Any] = {}
    errors = []
    for name, value in given.items():
        if name not in PROFILE.names:
            errors.append(
                FieldError(f"profile.{name[:80]}", "unknown_field", "the profile declares no such field")
            )
        elif name in AGGREGATED_FIELDS:
            errors.append(FieldError(f"profile.{name}", "invalid_field", "this is computed from events"))
        else:
            try:
                changes[name] = _in_range(name, _READERS.get(name, _number)(value))
                fitted(name, changes[name])
            except (ValueError, TypeError, OverflowError) as bad:
                errors.append(FieldError(f"profile.{name}", "invalid_field", str(bad)[:200]))
    if errors:
        raise Problem(errors[0].code, f"{errors[0].field}: {errors[0].detail}", errors=errors)
    return changes


def check_own(changes: Mapping[str, Any]) -> None:
    """Raises Problem `forbidden` naming what only the bank's core may say of a customer."""
    said = "the bank's core says this: it needs a key of scope core, engineer or admin"
    errors = [
        FieldError(f"profile.{name}", "forbidden", said)
        for name in changes
        if PROFILE.field(name).purpose == "permission" and name not in OWN
    ]
    if errors:
        raise Problem("forbidden", f"{errors[0].field}: {said}", errors=errors)


def _in_range(name: str, value: Any) -> Any:
    low, high = _RANGES.get(name, (0, float("inf")))
    if np.ndim(value) == 0 and not isinstance(value, bytes) and not low <= value <= high:
        raise ValueError(f"must lie from {low:g} to {high:g}")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is needed")
    return value


def _flag(value: Any) -> int:
    if not isinstance(value, bool):
        raise ValueError("true or false is needed")
    return int(value)


def _blocked(value: Any) -> int:
    """True: everything that asks about the customer, and benefits; or the kinds that are withheld."""
    if not isinstance(value, list):
        return _flag(value) * BLOCKED
    if unknown := [kind for kind in _list(value, len(OFFERS)) if kind not in OFFERS]:
        raise ValueError(f"true, false, or kinds of {', '.join(OFFERS)}, not {str(unknown[0])[:40]!r}")
    return sum(withheld(kind) for kind in set(value))


def _zone(value: Any) -> bytes:
    try:
        ZoneInfo(_text(value))
    except (OSError, ValueError, KeyError):
        raise ValueError("this is no IANA time zone, such as Asia/Shanghai") from None
    return str(value).encode()


def _text(value: Any) -> str:
    try:
        return check_id(value, "the value")
    except BadId as bad:
        raise ValueError(str(bad)) from None


def _key(value: Any) -> int:
    return key32(_text(value))


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"a list of at most {most} is needed")
    return value


def _consents(value: Any) -> int:
    names = _list(value, len(CONSENTS))
    unknown = [name for name in names if name not in CONSENTS]
    if unknown:
        raise ValueError(f"consents are {', '.join(CONSENTS)}")
    return sum(1 << CONSENTS.index(name) for name in set(names))


def _holdings(value: Any) -> Any:
    ids = dict.fromkeys(_text(one) for one in _list(value, HOLDINGS_KEPT))
    return np.array([key64(one) for one in ids], np.uint64)


def _attributes(value: Any) -> Any:
    if not isinstance(value, dict) or len(value) > ATTRIBUTES_KEPT:
        raise ValueError(f"an object of at most {ATTRIBUTES_KEPT} names and values is needed")
    return np.array([key32(f"{_text(name)}={_text(one)}") for name, one in value.items()], np.uint32)


def _tag_bits(value: Any) -> Any:
    bits = np.zeros(TAG_BITS, np.uint8)
    for bit in _list(value, TAG_BITS):
        if isinstance(bit, bool) or not isinstance(bit, int) or not 0 <= bit < TAG_BITS:
            raise ValueError(f"tags are given by their bit in the tag dictionary, 0 to {TAG_BITS - 1}")
        bits[bit] = 1
    return np.packbits(bits, bitorder="little")


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "tz": _zone,
    "org": _key,
    "city": _key,
    "consents": _consents,
    "blocked": _blocked,
    "holdings": _holdings,
    "attributes": _attributes,
    **dict.fromkeys(_FLAGS, _flag),
    **dict.fromkeys(_TAGS, _tag_bits),
}
