"""Prices: what the pacer writes to control about once a second and every decision reads.

A campaign's net price per display, per click and per conversion (Σ λ of its goals − Σ μ of its quotas, CNY)
is added to the value of its placements; a campaign may also be shut (a quota that is only bounded is spent).
Replicas hold the last prices that were good: what is garbage, or older than what is held, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

import numpy as np
import orjson
from numpy.typing import NDArray

MOST_CNY: Final = 100_000.0  # no penalty, hence no price per unit, is beyond this
MOST_BYTES: Final = 4 << 20
MOST_CAMPAIGNS: Final = 20_000
MOST_SEQUENCE: Final = (1 << 32) - 1
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class PricesError(ValueError):
    """A blob that is no set of prices; the last good one stays in force."""


class Named(Protocol):
    """`serving.campaigns.Campaigns`, as far as prices need it."""

    @property
    def ids(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, eq=False)
class PriceColumns:
    """Prices aligned to the C campaigns of a plan; what a decision reads."""

    display: NDArray[np.float32]  # (C,) CNY per display
    click: NDArray[np.float32]  # (C,) CNY per click
    convert: NDArray[np.float32]  # (C,) CNY per conversion
    closed: NDArray[np.bool_]  # (C,) not to be placed by now
    version: int = 0
    made_at: float = 0.0

    def __len__(self) -> int:
        return len(self.display)


@dataclass(frozen=True, slots=True)
class Prices:
    """One set of prices. Campaigns that are not named are free and open.

    `version` is (fence << 32) | sequence: it grows with every write, also from leader to leader. `causes`:
    goal id (`serving.pace_inputs.goal_id`) -> code of `serving.causes.Cause`; `notes`: figures for people.
    """

    version: int = 0
    made_at: float = 0.0  # POSIX seconds by the leader's clock
    per_display: Mapping[str, float] = field(default_factory=dict)
    per_click: Mapping[str, float] = field(default_factory=dict)
    per_convert: Mapping[str, float] = field(default_factory=dict)
    open: Mapping[str, bool] = field(default_factory=dict)
    causes: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def fence(self) -> int:
        return self.version >> 32

    @property
    def sequence(self) -> int:
        return self.version & MOST_SEQUENCE

    def columns(self, campaigns: Named) -> PriceColumns:
        """Aligned to a plan's campaigns; prices of campaigns that the plan does not have are ignored."""
        ids = campaigns.ids
        shut = self.open
        return PriceColumns(
            display=_column(self.per_display, ids),
            click=_column(self.per_click, ids),
            convert=_column(self.per_convert, ids),
            closed=np.fromiter((not shut.get(name, True) for name in ids), np.bool_, len(ids)),
            version=self.version,
            made_at=self.made_at,
        )

    def encode(self) -> bytes:
        """Compact JSON without zeros and open campaigns. Raises PricesError for what may not be sent."""
        _check(self)
        priced: dict[str, list[float]] = {}
        for at, prices in enumerate((self.per_display, self.per_click, self.per_convert)):
            for name, price in prices.items():
                if price:
                    priced.setdefault(name, [0.0, 0.0, 0.0])[at] = float(f"{price:.7g}")
        blob = orjson.dumps(
            {
                "version": self.version,
                "made_at": self.made_at,
                "prices": {name: _trimmed(three) for name, three in priced.items()},
                "closed": [name for name, is_open in self.open.items() if not is_open],
                "causes": dict(self.causes),
                "notes": dict(self.notes),
            }
        )
        if len(blob) > MOST_BYTES:
            raise PricesError(f"prices of {len(blob)} bytes are more than {MOST_BYTES}: fewer notes")
        return blob


NO_PRICES: Final = Prices()


def version_of(fence: int, sequence: int) -> int:
    """Raises PricesError when a leader has written so often that it must be elected anew."""
    if fence < 0 or not 0 <= sequence <= MOST_SEQUENCE:
        raise PricesError(f"fence {fence}, sequence {sequence} make no version: elect a leader anew")
    return (fence << 32) | sequence


def decode_prices(blob: bytes | str) -> Prices:
    """Raises PricesError for whatever is not a whole, finite, bounded set of prices."""
    if len(blob) > MOST_BYTES:
        raise PricesError(f"prices of {len(blob)} bytes are more than {MOST_BYTES}")
    try:
        raw = orjson.loads(blob)  # refuses NaN and Infinity itself; 1e999 it reads as infinite
    except orjson.JSONDecodeError as error:
        raise PricesError(f"prices are not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise PricesError("prices are not an object")
    three: list[dict[str, float]] = [{}, {}, {}]
    for name, values in _mapping(raw, "prices").items():
        if not isinstance(values, list) or len(values) > len(three):
            raise PricesError(f"the prices of campaign {name[:64]!r} are not at most three numbers")
        for column, value in zip(three, values, strict=False):
            column[name] = _number(value, f"the price of campaign {name[:64]!r}")
    prices = Prices(
        version=_version(raw.get("version")),
        made_at=_number(raw.get("made_at"), "`made_at`"),
        per_display=three[0],
        per_click=three[1],
        per_convert=three[2],
        open=dict.fromkeys(_names(raw.get("closed", [])), False),
        causes=_texts(raw, "causes"),
        notes=_texts(raw, "notes"),
    )
    _check(prices)
    return prices


def newer(blob: bytes | str, held: Prices) -> Prices:
    """What is in the blob, when it was made after `held`. Raises PricesError otherwise: an old leader's."""
    found = decode_prices(blob)
    if found.version <= held.version:
        raise PricesError(
            f"prices {found.fence}.{found.sequence} are not newer than {held.fence}.{held.sequence}"
        )
    return found


def _check(prices: Prices) -> None:
    if prices.version < 0 or not isfinite(prices.made_at):
        raise PricesError("prices without a version and a time")
    for what in (prices.per_display, prices.per_click, prices.per_convert):
        if len(what) > MOST_CAMPAIGNS:
            raise PricesError(f"prices of {len(what)} campaigns: at most {MOST_CAMPAIGNS}")
        for name, price in what.items():
            if not (isfinite(price) and abs(price) <= MOST_CNY):
                raise PricesError(f"the price of campaign {name[:64]!r} is {price}: at most {MOST_CNY} CNY")


def _column(prices: Mapping[str, float], ids: Sequence[str]) -> NDArray[np.float32]:
    return np.fromiter((prices.get(name, 0.0) for name in ids), np.float32, len(ids))


def _trimmed(three: list[float]) -> list[float]:
    return three[: 1 + max((at for at, price in enumerate(three) if price), default=0)]


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PricesError(f"{what} is not a number")
    return float(value)


def _version(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PricesError("prices without a version")
    return value


def _names(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise PricesError("`closed` is not a list of campaigns")
    return cast("list[str]", value)


def _mapping(raw: Mapping[str, object], field: str) -> dict[str, object]:
    value = raw.get(field, _NOTHING)
    if value is _NOTHING:
        return {}
    if not isinstance(value, dict):
        raise PricesError(f"`{field}` is not an object")
    return value


def _texts(raw: Mapping[str, object], field: str) -> dict[str, str]:
    value = _mapping(raw, field)
    if not all(isinstance(text, str) for text in value.values()):
        raise PricesError(f"`{field}` holds what is not text")
    return cast("dict[str, str]", value)
