"""A plan joined with the replay sample: which campaigns run on each page, and what competes for its places.

The rules are those of a decision: flights by the hour, audiences with live behaviour, the customer's org,
surfaces, permission; who is held out from a campaign is not shown it. Three things are approximated, and said
so:

caps       A campaign is closed to a page of a customer's who had more page views before, in the cap's
           window, than the cap allows at the rate at which the campaign is displayed. Contact rules
           of slots likewise; those of items, categories and channels are not looked at.
items      What the sample does not hold (an item put since) is estimated (`Stocked.estimate`), and is
           permitted only if it is open to everybody.
stability  Nothing is held from the page before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.audience_facts import NO_LOOKUPS, Lookups
from serving.ghosts import Ghosts, held_out
from serving.page import Batch, Offers, Options, Slots
from serving.plan import CompiledPlan, CompiledSlot
from serving.running import EVERYBODY, OfferTable
from serving.worth import OfferWorth, Worth
from training.booking_fill import Columns, Runs, counted, filled
from training.booking_limits import at_most, cap_limit, no_limits, slots_of
from training.sample_columns import Sample, Shape

CHUNK: Final = 4096  # pages of a batch
HOUR_S: Final = 3600.0

Floats = NDArray[np.float64]
Estimate = Callable[[Sample, NDArray[np.int32]], NDArray[np.float32]]


class Stocked(NamedTuple):
    """A plan over a catalogue, as far as booking needs it."""

    plan: CompiledPlan
    worth: Worth
    keys: NDArray[np.uint64]  # (rows,)
    categories: NDArray[np.uint32]
    kinds: NDArray[np.uint8]
    name: Callable[[int], str]  # of a row
    lookups: Lookups = NO_LOOKUPS
    open: NDArray[np.bool_] | None = None  # (rows,) may be shown to everybody; None: nothing is known
    estimate: Estimate | None = None  # (pages, rows) P(clicked | displayed) of rows the sample does not hold


class Spread(NamedTuple):
    """Where the sample's pages stand in the time that is booked: POSIX s, and page views each stands for."""

    at: Floats
    weight: Floats


class Part(NamedTuple):
    """Pages that share slots. `row` per candidate; the rest per offer, at no price."""

    pages: NDArray[np.int64]
    weight: Floats
    batch: Batch
    slots: tuple[int, ...]  # index in the plan of each slot
    row: NDArray[np.int32]
    p: NDArray[np.float32]
    used: NDArray[np.float32]  # P(converted or used | displayed)
    value: NDArray[np.float32]  # with the lever
    offer: NDArray[np.int32]  # in the offer table


class Funnel(NamedTuple):
    """Page views by campaign (C,): where it runs; of these, where caps close it, where it is denied."""

    running: Floats
    capped: Floats
    denied: Floats


class Joined:
    """`spread` aligned with the sample's pages; `limits` (C, RANKS): earlier page views that close one."""

    def __init__(
        self, stocked: Stocked, sample: Sample, spread: Spread, limits: Floats | None = None
    ) -> None:
        plan, campaigns = stocked.plan, stocked.plan.campaigns
        self.stocked, self.sample, self.spread = stocked, sample, spread
        self.campaigns = campaigns
        self.table = OfferTable.of(campaigns)
        self.offered: OfferWorth = stocked.worth.bound(campaigns)
        self.limits = no_limits(len(campaigns)) if limits is None else limits
        self._funnel: Funnel | None = None
        self._ghosts = Ghosts.of(plan.plan, campaigns.ids)
        self._columns = self._catalogue()
        self.row_of_item = self._rows()
        self._of_offers()
        self._in_time(plan)
        self._for_customers(plan)
        self._groups = self._by_slots(plan)
        self._starts = np.searchsorted(self.table.campaign, np.arange(len(campaigns) + 1)).astype(np.int64)

    @property
    def missing(self) -> list[str]:
        """Offered items that the sample does not hold."""
        rows = sorted(set(self.table.row[self._column < 0].tolist()))
        return [self.stocked.name(row) for row in rows]

    def parts(
        self, pages: NDArray[np.int64] | None = None, *, units: NDArray[np.bool_] | None = None
    ) -> Iterator[Part]:
        """In order of shape, then of the pages. `units` (C,): these campaigns alone, nothing organic."""
        wanted = None
        if pages is not None:
            wanted = np.zeros(len(self.sample), np.bool_)
            wanted[pages] = True
        for (shape, closed), members in self._groups.items():
            some = members if wanted is None else members[wanted[members]]
            specs, slots = self._slots(self.sample.shapes[shape], closed)
            if not specs:
                continue
            for low in range(0, len(some), CHUNK):
                yield self._part(some[low : low + CHUNK], specs, slots, units)

    def funnel(self, pages: NDArray[np.int64] | None = None) -> Funnel:
        """Of all pages, or of some: weighted counts."""
        if pages is None and self._funnel is not None:
            return self._funnel
        found = np.zeros((3, len(self.campaigns)))
        some = np.arange(len(self.sample)) if pages is None else pages
        counted(some, self._running(None), self._starts, self._column, self.sample.permitted,
                self._spare_ok, self.spread.weight, found)  # fmt: skip
        made = Funnel(*found)
        if pages is None:
            self._funnel = made
        return made

    def eligible(self, campaign: int) -> NDArray[np.bool_]:
        """(n,) pages on which the campaign runs, caps and permission aside, for who is not held out."""
        audience = int(self._audience[campaign])
        found: NDArray[np.bool_] = self._open[self._hour, campaign] & self._here[self._place, campaign]
        if audience >= 0:
            found &= self._member[audience]
        unit, (salt, share) = self.sample.unit, (self._ghosts.salt, self._ghosts.share)
        each = np.full(len(unit), campaign)
        found &= (unit == 0) | ~held_out(np.asarray(unit), salt[each], share[each])
        return found

    def slot_displays(self, slot: int) -> Floats:
        """(n,) displays that a page has in a slot of the plan."""
        found = np.zeros(len(self.sample))
        for (shape, closed), members in self._groups.items():
            specs, slots = self._slots(self.sample.shapes[shape], closed)
            for at, spec in enumerate(specs):
                if spec.index == slot:
                    found[members] = float(slots.rates[at].sum())
        return found

    def slots_on(self, campaign: int) -> bool:
        """Whether any slot of the campaign's is asked for on any page."""
        bits = int(np.bitwise_or.reduce(self.table.slots[self.table.campaign == campaign], initial=0))
        asked = (spec.bit for shape, closed in self._groups for spec in self._open_slots(shape, closed))
        return any(bits & bit for bit in asked)

    def top_rate(self, campaign: int) -> float:
        """P(displayed) of the best place that it may have."""
        bits = int(np.bitwise_or.reduce(self.table.slots[self.table.campaign == campaign], initial=0))
        specs = (spec for shape, closed in self._groups for spec in self._open_slots(shape, closed))
        return max((float(spec.rates[0]) for spec in specs if spec.bit & bits), default=0.0)

    def relaxed(
        self, campaign: int, *, everybody: bool = False, slots: int = 0, uncapped: bool = False
    ) -> Joined:
        """The same pages with one campaign's terms widened: its audience, more slots (bits), no caps."""
        other = copy(self)
        other._funnel = None
        if everybody:
            other._audience = self._audience.copy()
            other._audience[campaign] = EVERYBODY
        if slots:
            more = self.table.slots.copy()
            more[self.table.campaign == campaign] |= np.uint64(slots)
            other.table = replace(self.table, slots=more)
        if uncapped:
            other.limits = self.limits.copy()
            other.limits[campaign] = inf
        return other

    def limited(self, limits: Floats) -> Joined:
        """The same with other limits of caps."""
        other = copy(self)
        other._funnel = None
        other.limits = limits
        return other

    def _open_slots(self, shape: int, closed: int) -> tuple[CompiledSlot, ...]:
        specs, slots = self._slots(self.sample.shapes[shape], closed)
        return tuple(spec for spec, count in zip(specs, slots.count.tolist(), strict=True) if count)

    def _part(
        self,
        pages: NDArray[np.int64],
        specs: tuple[CompiledSlot, ...],
        slots: Slots,
        units: NDArray[np.bool_] | None,
    ) -> Part:
        plan, sample = self.stocked.plan, self.sample
        pin_at = np.full(64, -1, np.int32)
        for at, spec in enumerate(specs):
            pin_at[spec.index] = at
        bits = np.uint64(sum(spec.bit for spec in specs))
        campaigns = self.campaigns
        made = filled(
            pages, self._running(units), self._starts, self._column, sample.permitted, sample.p,
            self._spare_ok, self._spare_p, self.table.row, self.table.slots, bits,
            units is not None, sample.option_at, sample.option, sample.option_p, self.row_of_item,
            plan.members, self._columns, self._most, self._group_of, self._group_most,
        )  # fmt: skip
        of = made.offer
        now = float(np.average(self.spread.at[pages]))
        free = np.zeros((len(campaigns), 3), np.float32)
        each = np.arange(len(of), dtype=np.int32)
        value, base = self.offered.values(made.p, each, self.table.offer[of], free, now)
        used = (made.p * self.offered.terms[self.table.offer[of], 5]).astype(np.float32)
        campaign = self.table.campaign[of]
        pin_slot = np.where(self.table.pin_slot[of] >= 0, pin_at[self.table.pin_slot[of]], -1).astype(
            np.int32
        )
        nothing = np.zeros(len(pages) + 1, np.int64)
        n = len(made.row)
        options = Options(
            made.members, np.full(n, np.bitwise_or.reduce(slots.origins, initial=0), np.uint32), made.value,
            made.category, self.stocked.kinds[made.row], made.option_room, np.zeros(n, np.uint8),
        )  # fmt: skip
        offers = Offers(
            made.candidate, campaign, self.table.slots[of] & bits, value, base, campaigns.band[campaign],
            pin_slot, np.where(pin_slot >= 0, self.table.pin[of], -1).astype(np.int32), made.room,
            np.zeros(len(of), np.uint8), campaigns.roadblock[campaign].astype(np.uint8),
        )  # fmt: skip
        batch = Batch(
            slots, options, made.option_at, offers, made.offer_at, made.left, made.left_at,
            np.zeros((0, 3), np.int32), nothing, made.limits,
        )  # fmt: skip
        indices = tuple(spec.index for spec in specs)
        return Part(pages, self.spread.weight[pages], batch, indices, made.row, made.p, used, value, of)

    def _running(self, units: NDArray[np.bool_] | None) -> Runs:
        wanted = np.ones(len(self.campaigns), np.bool_) if units is None else units
        return Runs(
            self._hour, self._open & wanted, self._place, self._here, self._audience, self._member,
            self.sample.earlier, self.limits, self.sample.unit, self._ghosts.salt, self._ghosts.share,
        )  # fmt: skip

    def _catalogue(self) -> Columns:
        stocked = self.stocked
        _, category = np.unique(np.concatenate([[np.uint32(0)], stocked.categories]), return_inverse=True)
        row_group = np.full(len(stocked.keys), -1, np.int32)
        for row, groups in self.campaigns.item_groups.items():
            row_group[row] = groups[0]
        worth = stocked.worth
        return Columns(worth.gain, worth.loss, category[1:].astype(np.int32), row_group)

    def _rows(self) -> NDArray[np.int32]:
        order = np.argsort(self.stocked.keys, kind="stable")
        held, items = self.stocked.keys[order], self.sample.items
        at = np.minimum(np.searchsorted(held, items), len(held) - 1)
        return np.where(held[at] == items, order[at], -1).astype(np.int32)

    def _of_offers(self) -> None:
        """Each offer's column in the sample; of those it does not hold, what stands in."""
        columns = np.full(len(self.stocked.keys), -1, np.int32)
        rows = self.row_of_item[self.sample.bookable]
        columns[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        self._column = columns[self.table.row]
        new = np.unique(self.table.row[self._column < 0])
        n, stocked = len(self.sample), self.stocked
        self._spare_p = np.zeros((n, len(new)), np.float32)
        if stocked.estimate is not None and len(new):
            self._spare_p = stocked.estimate(self.sample, new)
        self._spare_ok = np.zeros(len(new), np.bool_) if stocked.open is None else stocked.open[new]
        at = np.searchsorted(new, self.table.row)
        self._column = np.where(self._column < 0, -1 - at, self._column).astype(np.int32)

    def _in_time(self, plan: CompiledPlan) -> None:
        hours, hour = np.unique((self.spread.at // HOUR_S).astype(np.int64), return_inverse=True)
        opened = [plan.campaigns.open_at((one + 0.5) * HOUR_S) for one in hours.tolist()]
        self._hour = hour.astype(np.int32)
        self._open = np.array(opened, np.bool_).reshape(len(hours), len(self.campaigns))

    def _for_customers(self, plan: CompiledPlan) -> None:
        campaigns, sample = self.campaigns, self.sample
        surfaces = sorted({shape.surface for shape in sample.shapes})
        surface = np.array([surfaces.index(shape.surface) for shape in sample.shapes], np.uint32)
        three = np.stack([surface[sample.shape], sample.org, sample.owner], axis=1)
        places, place = np.unique(three, axis=0, return_inverse=True)
        self._place = place.ravel().astype(np.int32)
        here = np.zeros((len(places), len(campaigns)), np.bool_)
        for at, (where, org, owner) in enumerate(places.tolist()):
            names = plan.called(surfaces[where])
            above = [key for one in (org, owner) if one for key in plan.lineages.get(one, (one,))]
            mine = np.isin(campaigns.customers_of, np.array([0, *above], np.uint32))
            on = [not own or not own.isdisjoint(names) for own in campaigns.surfaces]
            here[at] = mine & np.array(on, np.bool_)
        self._here = here
        used = sorted(set(campaigns.audience.tolist()) - {EVERYBODY})
        names_of = [plan.audiences.names[one] for one in used]
        self._member = np.zeros((max(len(used), 1), len(sample)), np.bool_)
        if used:
            columns = sample.columns(self.stocked.lookups)
            self._member = plan.audiences.evaluate_columns(names_of, columns).members
        at_of = {one: at for at, one in enumerate(used)}
        self._audience = np.array([at_of.get(one, -1) for one in campaigns.audience.tolist()], np.int32)
        self._most = np.array([at_most(plan, c) for c in range(len(campaigns))], np.int32)
        self._group_of = np.array(
            [(*of[:2], -1, -1)[:2] for of in campaigns.group_of] or np.zeros((0, 2)), np.int32
        ).reshape(-1, 2)
        self._group_most = np.array([group.most for group in campaigns.groups], np.int32)

    def _by_slots(self, plan: CompiledPlan) -> dict[tuple[int, int], NDArray[np.int64]]:
        """Pages by shape and the slots that contact rules close to them."""
        closed = np.zeros(len(self.sample), np.uint64)
        for index in plan.campaigns.contact_rules:
            rule = plan.campaigns.caps[index]
            if rule.scope != "slot" or rule.event != "displayed":
                continue
            for spec in plan.slots.values():
                if not rule.keys or spec.key in rule.keys:
                    window, most = cap_limit(rule, float(spec.rates[0]))
                    closed[self.sample.earlier[:, window] >= most] |= np.uint64(spec.bit)
        found: dict[tuple[int, int], NDArray[np.int64]] = {}
        both = np.stack([self.sample.shape.astype(np.uint64), closed], axis=1)
        kinds, which = np.unique(both, axis=0, return_inverse=True)
        for at, (shape, bits) in enumerate(kinds.tolist()):
            found[int(shape), int(bits)] = np.flatnonzero(which.ravel() == at)
        return found

    def _slots(self, shape: Shape, closed: int) -> tuple[tuple[CompiledSlot, ...], Slots]:
        """What is asked for under this plan: a slot that it has no more is closed, a new one open."""
        plan = self.stocked.plan
        surface = plan.surface(shape.surface)
        if surface is None:
            return (), slots_of((), ())
        asked = dict(shape.slots)
        specs = tuple(spec for spec in surface[0] if shape.whole or spec.name in asked)
        counts = [spec.size if shape.whole else min(asked[spec.name], spec.size) for spec in specs]
        return specs, slots_of(
            specs, [0 if spec.bit & closed else count for spec, count in zip(specs, counts, strict=True)]
        )
