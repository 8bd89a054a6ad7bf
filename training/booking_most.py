"""The most that a goal could have, how sure that is, why it is no more, and what would give it more."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import numpy as np

from serving.causes import Cause, GoalFacts, cause
from training.booking_limits import limits_of
from training.booking_pages import Part
from training.booking_plan import Decided, Work, parts_of
from training.booking_programme import Most, most_of, of_goals, without_value
from training.booking_report import Relax
from training.sample_columns import thinned

Z: Final = 1.645  # of a 90 % interval
WIDEN: Final = 1.0  # of the deviation: on seed 2 of `fenliu bench booking` 94 % of 90 % intervals held
LEAN: Final = 0.99  # most over the bound where others limit it: that is approached from above; seed 2 again
TRAFFIC_ERROR: Final = 0.05  # relative, of a flight's forecast, until the track record says
AT_CEILING: Final = 0.98  # of the penalty: from here on a goal is not expected to be met


class Doubt(NamedTuple):
    """What the sample is to the traffic that is booked: a `part` of it, or of a `past` like it."""

    of: Literal["part", "past"] = "past"
    traffic: float = TRAFFIC_ERROR
    widen: float = WIDEN


def limits_of_most(most: Most, doubt: Doubt, share: float) -> tuple[float, float, float]:
    """(most, low, high) in displays or clicks: 90 % of what the traffic that is booked would say."""
    middle = leant(most)
    if doubt.of == "part":
        deviation = most.error * np.sqrt(max(1.0 - share, 0.0))
    else:
        deviation = most.error_customers * np.sqrt(1.0 + share)
    wide = Z * float(np.hypot(doubt.widen * deviation, doubt.traffic * middle))
    return middle, max(middle - wide, 0.0), middle + wide


def leant(most: Most) -> float:
    """What is expected of the bound; a goal's own reach is no bound but a count."""
    return most.units * (LEAN if most.units < most.best else 1.0)


class Closely:
    """What a goal could have at most, why no more, and what would give it more."""

    def __init__(self, before: Decided, now: Decided, work: Work, doubt: Doubt) -> None:
        self._now, self._work, self._doubt = now, work, doubt
        had = dict(
            zip(before.terms.goals, zip(before.delivered, before.terms.at_least, strict=True), strict=True)
        )
        least = now.terms.at_least.copy()
        for g, name in enumerate(now.terms.goals):
            got, asked = had.get(name, (least[g], least[g]))
            short = before.prices.get(name, 0.0) >= AT_CEILING * now.terms.programme.penalty[g] / max(
                float(now.terms.goal_factor[g]), 1e-12
            )
            if short and got < asked:  # what could not be kept before is not held against the new one
                least[g] = min(least[g], got)
        self._programme = now.terms.programme._replace(
            least=np.divide(
                least, now.terms.goal_factor, out=np.zeros_like(least), where=now.terms.goal_factor > 0
            )
        )
        self._units = of_goals(self._programme, now.joined.campaigns)
        sample = now.joined.sample
        self._pages = thinned(len(sample), work.few)
        self._few = without_value(parts_of(now.joined, self._pages, self._units))
        self._checked_pages = thinned(len(sample), work.checked)
        self._checked = without_value(parts_of(now.joined, self._checked_pages, self._units))
        self._all = without_value(list(now.joined.parts(units=self._units)))
        self._share = len(sample) / max(sample.population, 1.0)
        self._found: dict[int, Most] = {}
        funnel = now.joined.funnel()
        self._funnel = funnel._replace(capped=funnel.capped.copy())

    def most(self, g: int) -> tuple[float, float, float]:
        few, checked, every = self._parts_for(g)
        found = self._found[g] = most_of(
            self._programme, g, few, every, self._work.most_steps, checked=checked,
            subjects=self._now.joined.sample.subject,
        )  # fmt: skip
        middle, low, high = limits_of_most(found, self._doubt, self._share)
        quota = self._quota(g)
        return min(middle, quota), min(low, quota), min(high, quota)

    def _parts_for(self, g: int) -> tuple[list[Part], list[Part], list[Part]]:
        """Few, checked and all pages; of a campaign with caps at the rate that the most of it means."""
        joined, c = self._now.joined, int(self._programme.goal_campaign[g])
        if not joined.campaigns.caps_of[c]:
            return self._few, self._checked, self._all
        top = np.zeros(len(joined.campaigns))
        top[c] = joined.top_rate(c)
        limits = joined.limits.copy()
        limits[c] = limits_of(joined.stocked.plan, top)[c]
        capped = joined.limited(limits)
        self._funnel.capped[c] = capped.funnel().capped[c]
        few, checked = (
            without_value(parts_of(capped, pages, self._units))
            for pages in (self._pages, self._checked_pages)
        )
        return few, checked, without_value(list(capped.parts(units=self._units)))

    def _quota(self, g: int) -> float:
        programme = self._programme
        same = (programme.quota_campaign == programme.goal_campaign[g]) & (
            programme.quota_unit == programme.goal_unit[g]
        )
        return float(programme.most[same].min(initial=np.inf))

    def cause(self, g: int, most: float) -> Cause:
        now, programme = self._now, self._programme
        c, factor = int(programme.goal_campaign[g]), float(now.terms.goal_factor[g])
        funnel, best = self._funnel, self._found[g].best
        open_part = max(1.0 - (funnel.capped[c] + funnel.denied[c]) / max(funnel.running[c], 1e-9), 1e-9)
        price, ceiling = now.prices[now.terms.goals[g]], float(now.joined.campaigns.penalty[c])
        facts = GoalFacts(
            at_least=float(now.terms.at_least[g]),
            delivered=0.0,
            expected_end=min(most, 0.99 * float(now.terms.at_least[g])),
            units_left=factor * best / open_part,
            eligible=float(funnel.running[c]),
            dropped=float(funnel.denied[c]),
            refused_cap=float(funnel.capped[c]),
            price=price,
            ceiling=ceiling,
            quota_left=factor * self._quota(g),
            slots_on=now.joined.slots_on(c),
        )
        return cause(facts) or Cause.OUT_PRICED

    def remedies(self, g: int, low: float) -> list[Relax]:
        """A smaller goal, more days, everybody, other slots, no caps: each by itself, on the few pages."""
        now, programme = self._now, self._programme
        c, asked = int(programme.goal_campaign[g]), float(now.terms.at_least[g])
        name, factor = now.terms.goals[g], float(now.terms.goal_factor[g])
        middle = max(factor * limits_of_most(self._found[g], self._doubt, self._share)[0], 1e-9)
        found = [Relax(name, f"ask for {low:,.0f}", middle, True)]
        if 1.0 < asked / middle <= 10.0 and np.isfinite(asked):
            more = asked / middle - 1.0
            found.append(Relax(name, f"{more:.0%} more days like these", asked, True))
        for how, change in self._changes(c).items():
            joined = now.joined.relaxed(c, **change)
            few = without_value(parts_of(joined, self._pages, self._units))
            steps, start = max(self._work.most_steps // 2, 1), self._found[g].prices
            few_checked = without_value(parts_of(joined, thinned(len(joined.sample), 512), self._units))
            most = most_of(programme, g, few, few, steps, start=start, checked=few_checked)
            could = factor * leant(most)
            if could > 1.02 * middle:
                found.append(Relax(name, how, could, could >= asked))
        return found

    def _changes(self, c: int) -> dict[str, dict[str, Any]]:
        joined = self._now.joined
        plan, campaigns = joined.stocked.plan, joined.campaigns
        found: dict[str, dict[str, Any]] = {}
        if campaigns.audience[c] >= 0:
            found["everybody as audience"] = {"everybody": True}
        rows = joined.table.row[joined.table.campaign == c]
        own = int(np.bitwise_or.reduce(joined.table.slots[joined.table.campaign == c], initial=0))
        may = int(np.bitwise_or.reduce(plan.placeable[rows], initial=0))
        for spec in plan.slots.values():
            if spec.bit & may & ~own:
                found[f"also in {spec.name}"] = {"slots": spec.bit}
        if np.isfinite(joined.limits[c]).any():
            found["without its caps"] = {"uncapped": True}
        return found
