"""What is measured of a unit: columns counted from events and pages, and metrics made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from serving.guard_counts import MOST_MS
from training.usage import UsageError

EVENT_COUNTS: Final[Mapping[str, str]] = {
    "displays": "count(*) FILTER (type = 'displayed')",
    "clicks": "count(*) FILTER (type = 'clicked')",
    "dismissals": "count(*) FILTER (type = 'dismissed')",
    "conversions": "count(*) FILTER (type = 'converted')",
    "complaints": "count(*) FILTER (action = 'complained' OR type = 'complaint')",
    "value": "coalesce(sum(amount) FILTER (type IN ('converted', 'outcome')), 0)",
    "nps_sum": "coalesce(sum(amount) FILTER (type = 'outcome:nps'), 0)",
    "nps_answers": "count(*) FILTER (type = 'outcome:nps')",
}
"""Columns by events (SQL, per unit and day). Outcomes come as events of type `outcome` (purchases that the
app did not report), `complaint` and `outcome:nps`. Value is in the events' own currency, CNY."""
MATURING: Final = ("conversions", "complaints", "value", "nps_sum", "nps_answers")
MATURES: Final = "type IN ('converted', 'outcome', 'complaint', 'outcome:nps') OR action = 'complained'"
"""Columns, and the events (SQL), of what comes of a page later than on it."""
PAGE_COUNTS: Final[Mapping[str, str]] = {
    "pages": "count(*)",
    "lower": "count(*) FILTER (effort <> 'full')",
    "failed": "count(*) FILTER (failed)",
    "judged": "count(failed)",
    "ms": f"coalesce(sum(least(ms, {MOST_MS:g})), 0)",
    "timed": "count(ms)",
    "filled": "coalesce(sum(filled), 0)",
    "asked": "coalesce(sum(asked), 0)",
}
"""Columns by pages. Pages that were logged before they said how long they took, or what they lacked, count
neither above nor below."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`top` summed over a unit's days; with `bottom` the ratio of both sums over all units."""

    name: str
    top: str
    bottom: str | None = None
    better: Literal["higher", "lower"] = "higher"
    about: str = ""

    @property
    def matures(self) -> bool:
        """Whether it changes after the last page: not everything comes at once."""
        return any(name in MATURING for name in self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.top,) if self.bottom is None else (self.top, self.bottom)


METRICS: Final = {
    one.name: one
    for one in (
        Metric("value", "value", about="CNY of conversions and outcomes a unit"),
        Metric("clicks", "clicks", about="a unit"),
        Metric("conversions", "conversions", about="a unit"),
        Metric("ctr", "clicks", "displays", about="clicks per display"),
        Metric("cvr", "conversions", "clicks", about="conversions per click"),
        Metric("dismissals", "dismissals", better="lower", about="a unit"),
        Metric("dismissal_rate", "dismissals", "displays", better="lower", about="per display"),
        Metric("complaints", "complaints", better="lower", about="a unit"),
        Metric("nps", "nps_sum", "nps_answers", about="mean of the answers imported as outcomes of kind nps"),
        Metric(
            "errors", "failed", "judged", better="lower", about="part of pages that a rung or stage failed"
        ),
        Metric("latency", "ms", "timed", better="lower", about="ms until a page was made"),
        Metric("fill", "filled", "asked", about="part of the places asked for"),
        Metric("lower_rungs", "lower", "pages", better="lower", about="part of pages below the rung full"),
    )
}


def named(names: Iterable[str]) -> tuple[Metric, ...]:
    """Raises UsageError for a name that is none."""
    found = []
    for name in dict.fromkeys(names):
        if name not in METRICS:
            raise UsageError(f"{name!r} is no metric: name some of {', '.join(METRICS)}")
        found.append(METRICS[name])
    return tuple(found)


def columns_of(metrics: Sequence[Metric], known: Mapping[str, str]) -> tuple[str, ...]:
    """The columns among `known` that the metrics need, in its order."""
    wanted = {column for one in metrics for column in one.columns}
    return tuple(name for name in known if name in wanted)
