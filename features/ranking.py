"""The ranker's features: what is known of a customer, a moment and some items, as one matrix.

`matrix` is the only place where they are made: a page in service and a logged page in training go through it
alike, with the record and the logs as they were read. Only fields whose purpose is service or profiling are
looked at: what permission rests on (age, risk level, holdings, consents) never moves a score. What is not
known is UNKNOWN, below every value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from math import log1p
from operator import itemgetter
from struct import Struct
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.events import WHAT
from features.ids import KINDS
from features.ranking_kernel import CLICK_GAIN, DAY, HOURS, MOMENTS, UNKNOWN, fill, hashed
from features.transforms import EventWeights
from features.views import CONTACT, PROFILE, RECENT

OF_PAGE: Final = (
    *("hour", "weekday", "month_day", "assets", "income", "age_band", "star_level", "tenure", "payroll"),
    *("lifecycle", "city_tier", "gender", "channel", "events", "displays", "click_rate"),
)
OF_ITEM: Final = (
    *("kind", "min_amount", "rate", "risk_class", "age_days", "price"),
    *("item_clicks", "item_evidence", "item_conversions"),
)
OF_BOTH: Final = (
    *("model", "popularity", "interest", "same_category", "same_area", "same_kind", "own_interest"),
    *("shown_1d", "shown_7d", "shown_30d", "tired", "since_shown", "since_click", "since_dismissal"),
    *("since_touched", "category_clicks", "category_shown", "area_hour", "means"),
)
FEATURES: Final = (*OF_PAGE, *OF_ITEM, *OF_BOTH)
"""Names of the matrix' rows, in their order."""

INTEREST: Final = EventWeights(
    clicked=CLICK_GAIN, converted=1.0, dismissed=-1.0, acted=dict.fromkeys(EventWeights().acted, 1.0)
)
"""What an event says of interest: each look as much as a purchase, a click less, for what is shown is clicked
more than it is sought. Of the synthetic bank's attainable log loss, event weights as the models use them left
2.4 points more behind, and clicks that count in full 0.3."""

_ACTED: Final = INTEREST.of(np.full(65_536, WHAT["acted"], np.uint8), np.arange(65_536).astype(np.uint16))

_FIELDS: Final = (  # in the order of OF_PAGE; of the first two the logarithm is told
    ("assets", "assets"), ("income", "income"), ("age_band", "age_band"), ("star_level", "star_level"),
    ("tenure", "tenure_days"), ("payroll", "payroll"), ("lifecycle", "lifecycle"),
    ("city_tier", "city_tier"), ("gender", "gender"),
)  # fmt: skip
_READ: Final = ("tz", *(field for _, field in _FIELDS))
_BITS: Final = tuple(PROFILE.bit(field) for _, field in _FIELDS)
_ALL: Final = sum(_BITS)
_TZ: Final = PROFILE.bit("tz")
_PACKED: Final = Struct(f"<{len(OF_PAGE)}f")
_NOTHING_READ: Final = (UNKNOWN,) * len(_FIELDS)


def _layout() -> tuple[Struct, tuple[int, ...]]:
    """The fields of a profile record that are looked at, all read by one call: a field by its name takes half
    a microsecond. Where each of `_READ` comes out.
    """
    fields = sorted((PROFILE.dtype.fields[name][1], name) for name in _READ)  # type: ignore[index]
    form, end = "<", 0
    for offset, name in fields:
        kind = PROFILE.dtype[name]
        form += f"{offset - end}x" + (f"{kind.itemsize}s" if kind.kind == "S" else kind.char)
        end = offset + kind.itemsize
    names = [name for _, name in fields]
    return Struct(form), tuple(names.index(name) for name in _READ)


_STRUCT, _ORDER = _layout()
_picked: Final[Callable[[tuple[Any, ...]], tuple[Any, ...]]] = itemgetter(*_ORDER)
_NO_SCORES: Final = np.zeros(0, np.float32)
_NOTHING_DONE: Final = np.frombuffer(b"", RECENT)
_NOTHING_MET: Final = np.frombuffer(b"", CONTACT)


Room = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int16]]  # scratch, which, places of `fill`


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of n items, and what training has found of their categories (C) and areas (T).

    `codes` (n, 3) i4: category, area (top category), kind, each from 0. `table` (n, len(OF_ITEM)) f4; `ties`
    (n, C) f4 how many times likelier a customer of each category clicks than anybody; `hours` (T, MOMENTS) f4
    log lifts by the customer's clock: the hours of working days, those of weekends, and the days of a month.
    """

    keys: NDArray[np.uint64]  # (n,)
    codes: NDArray[np.int32]
    table: NDArray[np.float32]
    ties: NDArray[np.float32]
    hours: NDArray[np.float32]
    buckets: NDArray[np.int32] = field(init=False, repr=False)  # rows by key: see `ranking_kernel.hashed`
    spare: list[Room] = field(init=False, repr=False, default_factory=list)  # what `fill` works in

    def __post_init__(self) -> None:
        n, width = len(self.keys), self.ties.shape[1]
        if self.codes.shape != (n, 3) or self.table.shape != (n, len(OF_ITEM)):
            raise ValueError(f"facts of {n} items: {self.codes.shape} codes and {self.table.shape} columns")
        if len(self.ties) != n or self.hours.ndim != 2 or self.hours.shape[1] != MOMENTS:
            raise ValueError(f"ties {self.ties.shape} and hours {self.hours.shape} do not fit")
        most = (width, len(self.hours), len(KINDS) + 1)
        if n and ((self.codes < 0) | (self.codes >= np.array(most))).any():
            raise ValueError("a code is beyond its table")
        if not all(np.isfinite(one).all() for one in (self.table, self.ties, self.hours)):
            raise ValueError("facts must be finite")
        buckets = np.full(1 << max(4, int(2 * n).bit_length()), -1, np.int32)
        hashed(self.keys, buckets)
        object.__setattr__(self, "buckets", buckets)

    def room(self) -> Room:
        width = max(self.ties.shape[1], len(self.hours), len(KINDS) + 1)
        places = np.full(len(self.keys), -1, np.int16)
        return np.empty((6, width), np.float32), np.empty(width, np.int32), places


@lru_cache(maxsize=4096)
def offset_s(zone: bytes, hour: int) -> float:
    """Seconds east of UTC of a time zone in the hour that begins `hour` hours after 1970; 0: no such zone."""
    if not zone:
        return 0.0
    try:
        there = datetime.fromtimestamp(hour * 3600.0, UTC).astimezone(ZoneInfo(zone.decode()))
    except (ValueError, KeyError, OSError):
        return 0.0
    away = there.utcoffset()
    return away.total_seconds() if away is not None else 0.0


class Clock(NamedTuple):
    """By each customer's own clock (m,): the hour, + 24 at weekends, and HOURS + the day of the month from 0;
    both are columns of `Facts.hours`.
    """

    hour: NDArray[np.int64]
    day: NDArray[np.int64]

    @classmethod
    def of(cls, local: NDArray[np.float64]) -> Clock:
        """`local` (m,) seconds since 1970 by the customer's clock."""
        days = np.floor_divide(local, DAY).astype(np.int64)
        hour = ((local - days * DAY) // 3600).astype(np.int64) + 24 * ((days + 3) % 7 >= 5)
        day = days.astype("datetime64[D]")
        return cls(hour, HOURS + (day - day.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64))


def clock_of(at: NDArray[np.float64], zones: NDArray[np.bytes_]) -> Clock:
    """Of instants `at` (m,) in the time zones named."""
    names, code = np.unique(zones, return_inverse=True)
    hour = (at // 3600).astype(np.int64)
    cells, back = np.unique(hour * max(len(names), 1) + code, return_inverse=True)
    away = [offset_s(bytes(names[one % len(names)]), one // len(names)) for one in cells.tolist()]
    return Clock.of(at + np.array(away, np.float64)[back])


def constants(customer: Customer, now: float, channel: int) -> NDArray[np.float32]:
    """What is the same for all items of a page, (len(OF_PAGE),), by OF_PAGE; the last two wait."""
    record, did = customer.profile, customer.recent
    zone, known = b"", 0
    read: tuple[float, ...] = _NOTHING_READ
    if record is not None:
        told = _STRUCT.unpack_from(record.values.tobytes())
        known = record.known
        zone, *values = _picked(told)
        zone = zone.rstrip(b"\0") if known & _TZ else b""
        read = (log1p(max(values[0], 0.0)), log1p(max(values[1], 0.0)), *values[2:])
        if known & _ALL != _ALL:
            read = tuple([value if known & bit else UNKNOWN for value, bit in zip(read, _BITS, strict=True)])
    local = now + offset_s(zone, int(now // 3600))
    day, second = divmod(local, DAY)
    many = log1p(len(did)) if did is not None else UNKNOWN
    return np.frombuffer(
        _PACKED.pack(
            second // 3600, (day + 3) % 7, _day_of_month(int(day)), *read, channel, many, UNKNOWN, UNKNOWN
        ),
        np.float32,
    )


def matrix(
    customer: Customer,
    now: float,
    channel: int,
    rows: NDArray[np.int32],
    model: NDArray[np.float32] | None,
    scale: tuple[float, float],
    share: NDArray[np.float32],
    facts: Facts,
) -> NDArray[np.float32]:
    """(len(FEATURES), n) f4, finite, for items `rows` (n,), ascending and within `facts`.

    `model` (n,) its scores, NaN where not known, told by `scale` (mean, deviation); `share` (items,) the log
    share in the customer's segment. Of a customer who is not profiled only contacts are looked at, as for
    caps.
    """
    out = np.empty((len(FEATURES), len(rows)), np.float32)
    did = customer.recent if customer.recent is not None else _NOTHING_DONE
    met = customer.contact if customer.contact is not None else _NOTHING_MET
    words = _words(did)
    room = facts.spare.pop() if facts.spare else facts.room()
    scratch, which, places = room
    fill(
        now, constants(customer, now, channel), words, words.view(np.float64), _ACTED, _words(met),
        rows, _NO_SCORES if model is None else model, scale[0], scale[1], share,
        facts.keys, facts.buckets, facts.codes, facts.table, facts.ties, facts.hours,
        scratch, which, places, out,
    )  # fmt: skip
    facts.spare.append(room)
    return out


def _words(entries: NDArray[np.void]) -> NDArray[np.uint64]:
    """Entries one after the other as words of 64 bits. A kernel is compiled for words that are aligned."""
    found = entries.view(np.uint64)
    return found if found.flags.aligned else found.copy()


@lru_cache(maxsize=1024)
def _day_of_month(day: int) -> int:
    return datetime.fromtimestamp(day * DAY, UTC).day
