"""What the controller sees: the plan's goals and quotas joined with the meters, pools and the forecast.

Pure but for its caches, which hold nothing that the meters, the forecast and the time do not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.meters import ShareMeter
from serving.calendar import Calendar
from serving.causes import GoalFacts
from serving.forecast import Forecast
from serving.pace_inputs import (
    Book,
    Meter,
    Pooled,
    campaign_share,
    delivered_meter,
    expected_meter,
    lost_pages,
    pages_meter,
    share_of_day,
    slot_share,
    views_meter,
)
from serving.pace_plan import PacePlan, Stretch, Term, day_of, stretch, stretch_key
from serving.pacing import GoalsSeen, QuotasSeen
from serving.reasons import Drop
from serving.tallies import FIRST_DROP, ROWS, What

HOUR_S: Final = 3600.0
UNITS: Final = ("displayed", "clicked", "converted")
SHOWN_AFTER_S: Final = 20.0  # mean time from a decision to its displays
MATURE_H: Final[Mapping[str, int]] = {"clicked": 2, "converted": 48, "cny": 48}
KNOWN: Final = 200.0  # expected displays after which displayed / expected counts half
LATELY_H: Final = 24  # of the funnel's pages
AHEAD_EVERY_S: Final = 10.0  # the forecast's hours are summed anew
WHOLE_EVERY_S: Final = 60.0
_ELSEWHERE: Final = (What.DISPLAYED, What.CLICKED, What.CONVERTED, What.POTENTIAL)
HISTORY_DAYS: Final = 28
KEPT_DAYS: Final = 39

Floats = NDArray[np.float64]


class Spell(NamedTuple):
    """One term's eligible traffic, page views: until now, and until the end of its flight or day."""

    passed: float
    whole: float
    came: float  # the same without the calendar: until now, and whole
    all_day: float


class Traffic:
    """Page views by stream and hour: as they came until now, as forecast from now on."""

    def __init__(self) -> None:
        self._stretches: dict[str, tuple[tuple[float, float], Stretch]] = {}
        self._first = self._count = 0
        self._came = self._ahead = np.zeros((0, 0))
        self._whole_at = self._ahead_at = float("-inf")

    def spells(self, plan: PacePlan, book: Book, forecast: Forecast, now: float) -> dict[str, Spell]:
        terms = (*plan.goal_terms, *plan.quota_terms)
        stretches = {term.id: self._stretch(term, now) for term in terms}
        self._hours(stretches, now)
        self._come(plan, book, now)
        self._expect(forecast, now)
        sums: dict[bytes, tuple[Floats, Floats]] = {}
        return {term.id: self._spell(term, stretches[term.id], sums, now) for term in terms}

    def _stretch(self, term: Term, now: float) -> Stretch:
        key = stretch_key(term, now)
        held = self._stretches.get(term.id)
        if held is None or held[0] != key:
            held = self._stretches[term.id] = key, stretch(term.calendar, term.daily, now)
        return held[1]

    def _hours(self, stretches: Mapping[str, Stretch], now: float) -> None:
        hour = int(now // HOUR_S)
        first = min([one.start for one in stretches.values()] + [hour])
        count = max([one.start + len(one.open) for one in stretches.values()] + [hour + 1]) - first
        if (first, count) != (self._first, self._count):
            self._first, self._count = first, count
            self._whole_at = self._ahead_at = float("-inf")

    def _come(self, plan: PacePlan, book: Book, now: float) -> None:
        streams = plan.territory.streams
        if not 0 <= now - self._whole_at < WHOLE_EVERY_S or len(self._came) != len(streams):
            self._came, self._whole_at = np.zeros((len(streams), self._count)), now
            low, high = 0, self._count
        else:
            low = max(0, int(now // HOUR_S) - 1 - self._first)
            high = min(low + 2, self._count)
        for at, (surface, org) in enumerate(streams):
            name = views_meter(surface, org)
            self._came[at, low:high] = book.hours([name], self._first + low, high - low)

    def _expect(self, forecast: Forecast, now: float) -> None:
        same = self._ahead.shape == (len(forecast.level), self._count)
        if not same or not 0 <= now - self._ahead_at < AHEAD_EVERY_S:
            self._ahead = forecast.views(self._first * HOUR_S, self._count)
            self._ahead_at = now

    def _spell(
        self, term: Term, held: Stretch, sums: dict[bytes, tuple[Floats, Floats]], now: float
    ) -> Spell:
        key = term.mask.tobytes()
        if key not in sums:
            sums[key] = self._came[term.mask].sum(axis=0), self._ahead[term.mask].sum(axis=0)
        low, n = held.start - self._first, len(held.open)
        came, ahead = sums[key][0][low : low + n], sums[key][1][low : low + n]
        at = min(max(now / HOUR_S - held.start, 0.0), float(n))
        hour = int(at)
        gone, left = _split(term.calendar, held, hour, now)
        passed, ahead_left = float(came @ gone), float(ahead @ left)
        if not term.daily or not _within_the_day(term, now):
            so_far = float(came[: min(hour + 1, n) if at > 0 else 0].sum())
            rest = ahead[hour:].copy()
            if hour < n:
                rest[0] *= 1.0 - (at - hour)
            return Spell(passed, passed + ahead_left, so_far, so_far + float(rest.sum()))
        return Spell(passed, passed + ahead_left, passed, passed + ahead_left)


def _split(calendar: Calendar, held: Stretch, hour: int, now: float) -> tuple[Floats, Floats]:
    """By hour, which part of the views that came, and of the forecast, is of the open time: past, to come.

    A flight that begins or ends within the hour that runs has the views of its own minutes, as if the hour's
    came evenly.
    """
    gone, left = held.open.astype(np.float64), held.open.astype(np.float64)
    gone[hour + 1 :], left[:hour] = 0.0, 0.0
    if hour < len(gone):
        begins = (held.start + hour) * HOUR_S
        over = (now - begins) / HOUR_S
        whole = float(held.open[hour])
        before = whole * over if whole in (0.0, 1.0) else calendar.seconds_open(begins, now) / HOUR_S
        gone[hour] = before / over if over > 0 else 0.0
        left[hour] = max(whole - before, 0.0)
    return gone, left


def _within_the_day(term: Term, now: float) -> bool:
    """Whether the flight begins or ends in the local day of `now`: its share is of what is shown in it."""
    begins, ends = day_of(term.calendar.tz, now)
    return term.calendar.start > begins or term.calendar.end < ends


@dataclass(slots=True)
class InFlight:
    """Expected units of what was placed and has had no time to be shown; (N, 3) by campaign and `UNITS`.

    Displays follow decisions after SHOWN_AFTER_S on average, exponentially: what is placed decays into what
    is known, and nothing has to be remembered decision by decision.
    """

    units: dict[str, Floats]
    placed: dict[str, Floats]  # sums of the meters as last seen
    at: float = 0.0

    def step(self, placed: Mapping[str, Floats], now: float) -> None:
        keep = exp(-max(now - self.at, 0.0) / SHOWN_AFTER_S)
        units = {}
        for campaign, sums in placed.items():
            before = self.placed.get(campaign)
            fresh = np.zeros(3) if before is None else np.maximum(sums - before, 0.0)
            units[campaign] = self.units.get(campaign, np.zeros(3)) * keep + fresh
        self.units, self.placed, self.at = units, dict(placed), now


def names(plan: PacePlan, now: float) -> list[Meter]:
    """Every meter that pacing reads of a plan each second."""
    ids = plan.campaigns.ids
    found = [views_meter(surface, org) for surface, org in plan.territory.streams]
    for campaign in plan.paced:
        found += [delivered_meter(ids[campaign], unit) for unit in (*UNITS, "cny")]
        found += [expected_meter(ids[campaign], unit) for unit in UNITS]
        found.append(pages_meter(ids[campaign], What.POTENTIAL))
    for term in plan.goal_terms:
        if term.slot >= 0:
            found += [share_of_day(share, now) for share in shares_of(term, plan)]
    return list(dict.fromkeys(found))


def days_back(plan: PacePlan, now: float) -> int:
    """UTC days whose hours matter: since the first flight began, four weeks for the forecast."""
    first = min((spell_start(term) for term in (*plan.goal_terms, *plan.quota_terms)), default=now / HOUR_S)
    return int(min(max((now / HOUR_S - first) / 24, HISTORY_DAYS), KEPT_DAYS)) + 1


def slow_names(plan: PacePlan) -> list[Meter]:
    """Meters that causes and potentials read: now and then."""
    rows = [row for row in range(ROWS) if row not in _ELSEWHERE]
    ids, campaigns = plan.campaigns.ids, sorted({term.campaign for term in plan.goal_terms})
    return [pages_meter(ids[campaign], row) for campaign in campaigns for row in rows]


def placed_of(plan: PacePlan, book: Book) -> dict[str, Floats]:
    """Expected units placed since the beginning, per paced campaign."""
    ids = plan.campaigns.ids
    return {
        ids[c]: np.array([book.total(expected_meter(ids[c], unit)) for unit in UNITS]) for c in plan.paced
    }


def goals_seen(
    plan: PacePlan, book: Book, spells: Mapping[str, Spell], flight: InFlight, now: float
) -> GoalsSeen:
    rows = [_goal(at, plan, book, spells, flight, now) for at in range(len(plan.goal_terms))]
    columns = np.array(rows, np.float64).reshape(len(rows), 8).T
    return GoalsSeen(*columns)


def quotas_seen(
    plan: PacePlan,
    book: Book,
    spells: Mapping[str, Spell],
    pools: Mapping[str, Pooled],
    now: float,
) -> QuotasSeen:
    """`pools` by quota key; of units that are only bounded the meters say what is spent."""
    rows = []
    for term, quota in zip(plan.quota_terms, plan.campaigns.quotas, strict=True):
        spell, pool = spells[term.id], pools.get(term.id)
        if term.unit == "displayed" and pool is not None:
            spent, coming = float(pool.confirmed), float(pool.outstanding)
        else:
            campaign = plan.campaigns.ids[term.campaign]
            spent = book.total(delivered_meter(campaign, term.unit), _since(term, now))
            coming = _unmatured(term, plan, book, now)
        rows.append((quota.at_most, spent, coming, spell.passed, spell.whole))
    return QuotasSeen(*np.array(rows, np.float64).reshape(len(rows), 5).T)


class Standing(NamedTuple):
    """How a goal stands by the controller's figures, in its units."""

    wanted: float
    due: float
    done: float
    price: float
    quota_left: float  # of the scarcest quota of its campaign in the same unit
    views_over_forecast: float
    slots_on: bool


def facts_of(at: int, plan: PacePlan, book: Book, spell: Spell, standing: Standing, now: float) -> GoalFacts:
    """What `causes.cause` needs of a goal: the funnel of the last day, and the controller's figures.

    The expected end is the goal times what is done of what is due: as it went, so it will go on.
    """
    term, campaigns = plan.goal_terms[at], plan.campaigns
    since = max(int(spell_start(term)), int(now // HOUR_S) - LATELY_H)
    wanted, due, done = standing.wanted, standing.due, standing.done
    pages = lost_pages(book, campaigns.ids[term.campaign], since)
    left = max(spell.whole - spell.passed, 0.0)
    return GoalFacts(
        at_least=wanted,
        delivered=done,
        expected_end=wanted if due <= 0 else max(done, wanted * min(done / due, 1.0)),
        units_left=left * _per_view(term, plan, book, spell),
        eligible=float(pages[What.ELIGIBLE]),
        dropped=float(pages[What.DROPPED]),
        drops={drop: float(pages[FIRST_DROP + drop]) for drop in Drop if pages[FIRST_DROP + drop]},
        refused_cap=float(pages[What.REFUSED_CAP]),
        refused_quota=float(pages[What.REFUSED_QUOTA]),
        price=standing.price,
        ceiling=float(campaigns.penalty[term.campaign]),
        views_over_forecast=standing.views_over_forecast,
        quota_left=standing.quota_left,
        slots_on=standing.slots_on and bool(term.mask.any()),
    )


def spell_start(term: Term) -> float:
    """The first hour of a term's flight; 0 of one that has always been running."""
    start = term.calendar.start
    return start // HOUR_S if start > 0 else 0.0


def _goal(
    at: int, plan: PacePlan, book: Book, spells: Mapping[str, Spell], flight: InFlight, now: float
) -> tuple[float, ...]:
    term, goal = plan.goal_terms[at], plan.campaigns.goals[at]
    spell, campaign = spells[term.id], plan.campaigns.ids[term.campaign]
    eligible = spell.whole * _per_view(term, plan, book, spell)
    flying = _coming(term, plan, book, flight)
    if term.slot >= 0:
        done, shown = (book.total(share_of_day(share, now)) for share in shares_of(term, plan))
        wanted = goal.share * shown * max(spell.all_day / max(spell.came, 1.0), 1.0)
        return (wanted, done, flying, 0.0, 0.0, spell.passed, spell.whole, eligible)
    since = _since(term, now)
    if term.unit == "displayed":
        done = book.total(delivered_meter(campaign, "displayed"), since)
        return (goal.at_least, done, flying, 0.0, 0.0, spell.passed, spell.whole, eligible)
    old = int(now // HOUR_S) - MATURE_H[term.unit]
    each = amount_of(term, plan, book)
    shown_share = _displayed_share(campaign, book, flight)
    meter = expected_meter(campaign, _base(term.unit))
    delivered = max(book.total(meter, since) * each - flying, 0.0) * shown_share
    matured = book.total(meter, since, old) * each * shown_share
    actual = book.total(delivered_meter(campaign, term.unit), since, old)
    return (goal.at_least, delivered, flying, actual, matured, spell.passed, spell.whole, eligible)


def _coming(term: Term, plan: PacePlan, book: Book, flight: InFlight) -> float:
    """Expected units in flight, at the rate at which what was expected has been displayed."""
    campaign = plan.campaigns.ids[term.campaign]
    units = flight.units.get(campaign)
    if units is None:
        return 0.0
    one = float(units[UNITS.index(_base(term.unit))]) * amount_of(term, plan, book)
    return one * (_displayed_share(campaign, book, flight) if term.unit == "displayed" else 1.0)


def _unmatured(term: Term, plan: PacePlan, book: Book, now: float) -> float:
    """What is still expected of placements that are not old enough for all of it to have come."""
    campaign, hour = plan.campaigns.ids[term.campaign], int(now // HOUR_S)
    old = max(hour - MATURE_H.get(term.unit, 1), _since(term, now))
    expected = book.total(expected_meter(campaign, _base(term.unit)), old) * amount_of(term, plan, book)
    return max(expected - book.total(delivered_meter(campaign, term.unit), old), 0.0)


def _displayed_share(campaign: str, book: Book, flight: InFlight) -> float:
    """Confirmed over expected displays of what has had the time, shrunk to 1."""
    units = flight.units.get(campaign)
    placed = book.total(expected_meter(campaign, "displayed")) - (0.0 if units is None else float(units[0]))
    shown = book.total(delivered_meter(campaign, "displayed"))
    return min((shown + KNOWN) / (max(placed, 0.0) + KNOWN), 2.0)


def amount_of(term: Term, plan: PacePlan, book: Book) -> float:
    """CNY per conversion, of a term in CNY: as they came, shrunk to the campaign's own value; else 1."""
    if term.unit != "cny":
        return 1.0
    campaign = plan.campaigns.ids[term.campaign]
    cost, value = float(plan.campaigns.cost[term.campaign]), float(plan.campaigns.convert[term.campaign])
    usual = cost if cost > 0 else value if value == value and value > 0 else 1.0
    uses, cny = (
        book.total(delivered_meter(campaign, "converted")),
        book.total(delivered_meter(campaign, "cny")),
    )
    return (cny + 10.0 * usual) / (uses + 10.0)


def _per_view(term: Term, plan: PacePlan, book: Book, spell: Spell) -> float:
    """Expected units per page view of its streams if it had the best place everywhere; NaN: not known."""
    campaign = plan.campaigns.ids[term.campaign]
    potential = book.total(pages_meter(campaign, What.POTENTIAL), int(spell_start(term)))
    if potential <= 0 or spell.passed <= 0:
        return float("nan")
    rate = min(potential / spell.passed, 100.0)
    if term.unit == "displayed":
        return rate
    shown = max(book.total(expected_meter(campaign, "displayed")), 1e-9)
    each = book.total(expected_meter(campaign, _base(term.unit))) / shown
    return rate * each * amount_of(term, plan, book)


def _since(term: Term, now: float) -> int:
    """The first hour that counts for a term."""
    start = stretch_key(term, now)[0] // HOUR_S if term.daily else spell_start(term)
    return int(start)


def _base(unit: str) -> str:
    return "converted" if unit == "cny" else unit


def shares_of(term: Term, plan: PacePlan) -> tuple[ShareMeter, ShareMeter]:
    """What a share is measured by: the campaign's displays in the slot, and everybody's."""
    campaigns, territory = plan.campaigns, plan.territory
    slot, zone = plan.slots[term.slot], ZoneInfo(term.calendar.tz)
    whole = int(campaigns.customers_of[term.campaign])
    orgs = [org for org in territory.orgs if territory.within(org, whole)] if whole else []
    return campaign_share(slot, campaigns.ids[term.campaign], zone), slot_share(slot, orgs, zone)
