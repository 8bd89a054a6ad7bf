"""What the pacer reads: meters by name and hour, kept in memory and brought up to date every second.

Meters are the ledger's (`features.meters`): sums per hour to which every member adds once. Beside what
events confirm, replicas count into them what they placed, what became of campaigns on pages, and page views.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.ids import key32
from features.meters import Meters, ShareMeter, Sum, share_meter
from serving.campaigns import Campaigns, GoalSpec
from serving.tag_sums import DrainedTags
from serving.tallies import ROWS, What

OLD_EVERY_S: Final = 60.0  # hours that may still change are read again about so often, the last two each time
CHANGING_DAYS: Final = 3  # conversions of a day and a half ago have an hour that still changes
PART: Final = 200  # meters read at once
WHOLE_PART: Final = 20  # with the hours of days
COUNTED: Final = "displayed"  # the unit of sums that have none of their own

Floats = NDArray[np.float64]


Meter = tuple[str, str]  # (name, unit) as `features.meters` keeps them


class Pools(Protocol):
    """`features.ledger.Ledger`, as far as pacing needs it."""

    async def pools(self, quotas: Sequence[str]) -> Mapping[str, Pooled]: ...


class Pooled(Protocol):
    """`features.ledger.Pool`: displays in time, and what may still come."""

    @property
    def confirmed(self) -> int: ...
    @property
    def outstanding(self) -> int: ...


def delivered_meter(campaign: str, unit: str) -> Meter:
    """Confirmed: displays, clicks, conversions, CNY of the campaign's tagged placements."""
    return campaign, unit


def expected_meter(campaign: str, unit: str) -> Meter:
    """Expected of what was placed: displays, clicks, conversions."""
    return f"e:{campaign}", unit


def pages_meter(campaign: str, row: int) -> Meter:
    """Pages by what became of the campaign on them: a row of `serving.tallies`."""
    return f"p{row}:{campaign}", COUNTED


def views_meter(surface: str, org: str) -> Meter:
    """Page views of a surface by customers of an org."""
    return f"v:{surface}|{org}", COUNTED


def slot_share(slot: str, orgs: Iterable[str], zone: ZoneInfo) -> ShareMeter:
    """Displays of anything in a slot and day to customers of these orgs."""
    named = sorted(org for org in orgs if org)
    return ShareMeter(f"s:{slot}|{','.join(named)}", frozenset(key32(org) for org in named), 0, zone)


def campaign_share(slot: str, campaign: str, zone: ZoneInfo) -> ShareMeter:
    """Displays of a campaign in one slot and day."""
    return ShareMeter(f"h:{slot}|{campaign}", frozenset(), key32(campaign), zone)


def share_of_day(share: ShareMeter, now: float) -> Meter:
    return share_meter(share, now), COUNTED


def goal_id(goal: GoalSpec, campaigns: Campaigns) -> str:
    """The name of a goal in prices, causes and logs."""
    what = f"share-{goal.slot}" if goal.share > 0 else goal.unit.lower()
    return f"{campaigns.ids[goal.campaign]}/{what}"


_EXPECTED: Final = {
    int(What.DISPLAYED): "displayed", int(What.CLICKED): "clicked", int(What.CONVERTED): "converted"
}  # fmt: skip


def tally_sums(amounts: Mapping[str, Floats], now: float) -> list[Sum]:
    """What a replica counted of campaigns (`CampaignTally.drain`), for the meters."""
    found = []
    for campaign, rows in amounts.items():
        for row in np.flatnonzero(rows).tolist():
            unit = _EXPECTED.get(row)
            meter = pages_meter(campaign, row) if unit is None else expected_meter(campaign, unit)
            found.append(Sum(*meter, float(rows[row]), now))
    return found


def view_sums(views: Mapping[tuple[str, str], int], now: float) -> list[Sum]:
    """Page views by (surface, org of the customer)."""
    return [Sum(*views_meter(*stream), float(n), now) for stream, n in views.items()]


def tag_sums(drained: DrainedTags, now: float) -> list[Sum]:
    """Price tags, CNY, per rule × campaign × org; a slot's inner value and the displays it is of."""
    found = [
        Sum(f"t:{key.rule}|{key.campaign}|{key.org}", "cny", one.cny, now)
        for key, one in drained.tags.items()
    ]
    for slot, price in drained.slots.items():
        found.append(Sum(f"w:{slot}", "cny", price.cny, now))
        found.append(Sum(f"w:{slot}", COUNTED, price.displays, now))
    return found


class Book:
    """Meters as last read. Hours long past are read once, those that may change every minute or second."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._held: dict[Meter, dict[int, float]] = {}
        self._since: dict[str, float] = {}  # when all hours that may change were read last

    async def read(self, names: Sequence[Meter], now: float, days: int) -> None:
        """Bring these meters up to date: one not yet held `days` back, others as far as they may change.

        Part by part: what a deadline cuts off goes on with the next call. Days are read of a few meters at a
        time, those that were read longest ago: all at once would hold up whoever else is on this loop.
        """
        wanted = list(dict.fromkeys(name for name, _ in names))
        new = [name for name in wanted if name not in self._since]
        held = [name for name in wanted if name in self._since]
        age = {name: now - self._since[name] for name in held}
        old = [name for name in held if not 0 <= age[name] < OLD_EVERY_S / 2]
        over = sum(not 0 <= age[name] < OLD_EVERY_S for name in old)
        old.sort(key=self._since.__getitem__)
        due = max(over, len(held) // 20 + 1)
        for at in range(0, len(held), PART):
            self._take(await self._meters.lately(held[at : at + PART]))
        for some, back in ((old[:due], CHANGING_DAYS), (new, days)):
            for at in range(0, len(some), WHOLE_PART):
                part = some[at : at + WHOLE_PART]
                self._take(await self._meters.hours(part, days=back))
                self._since.update(dict.fromkeys(part, now))

    def _take(self, found: Mapping[str, Mapping[str, Mapping[int, float]]]) -> None:
        for name, units in found.items():
            for unit, hours in units.items():
                self._held.setdefault((name, unit), {}).update(hours)

    def total(self, meter: Meter, since: int = 0, until: int = 1 << 40) -> float:
        """Of the hours since <= h < until."""
        return sum(amount for hour, amount in self._held.get(meter, {}).items() if since <= hour < until)

    def hours(self, meters: Iterable[Meter], start: int, count: int) -> Floats:
        """(count,) the sum of these meters in each hour from `start`."""
        found = np.zeros(count)
        for meter in meters:
            for hour, amount in self._held.get(meter, {}).items():
                if 0 <= hour - start < count:
                    found[hour - start] += amount
        return found


def lost_pages(book: Book, campaign: str, since: int) -> Floats:
    """Sums of `serving.tallies` by row, of the hours from `since` on; rows of expected units stay 0."""
    return np.array([book.total(pages_meter(campaign, row), since) for row in range(ROWS)])
