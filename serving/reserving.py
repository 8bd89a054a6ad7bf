"""What a decided page asks of the ledger, and the page that its answer makes. Both pure.

`reserving_of` lists the capped placements with the caps that hold for each; `settle` replaces what was
refused by the uncapped stand-ins that the decision named, or leaves the place out where there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from features.ledger import CapCheck, CapSpec, Reserving, Wish, scope_of
from features.reservations import RESERVED
from serving.domain import PINNED, Decision, Placement, Refused
from serving.headroom import Headroom
from serving.live import Live
from serving.placed import Columns, Placements

if TYPE_CHECKING:
    from serving.plan import CompiledSlot


class Asking(NamedTuple):
    """`places`: index in the page of each of `reserving.places`; both empty where no cap holds."""

    places: tuple[int, ...]
    reserving: Reserving


def quotas_of(decision: Decision, live: Live) -> dict[int, tuple[str, ...]]:
    """The quotas that each place of the page would take a unit of, by its index."""
    campaigns = live.plan.campaigns
    wanted: dict[int, tuple[str, ...]] = {}
    for index, campaign in enumerate(Columns.of(decision.placements).campaign):
        if campaign >= 0 and (of := campaigns.quota_of[campaign]):
            keys = tuple(campaigns.quotas[q].key for q in of if campaigns.quotas[q].unit == "displayed")
            if keys:
                wanted[index] = keys
    return wanted


def reserving_of(
    decision: Decision, live: Live, epoch: int, *, attempt: int = 0, without: Collection[int] = ()
) -> Asking:
    """`without`: places that are refused already."""
    query = decision.query
    check = Headroom(query).check
    checks: dict[CapCheck, int] = {}
    places: list[int] = []
    wishes: list[tuple[Wish, ...]] = []
    columns, categories = Columns.of(decision.placements), live.of(decision).category_of
    for index in [at for at, one in enumerate(columns.capped) if one and at not in without]:
        place = _Place.of_columns(columns, index, decision, categories)
        caps = tuple([checks.setdefault(check(cap), len(checks)) for cap in _caps(place, live)])
        if caps:
            places.append(index)
            wishes.append((Wish(*place[:5], 0, place.channel, caps),))
    scope = scope_of(query.surface, query.device)
    valid_s = decision.valid_until - query.now
    reserving = Reserving(query.decision_id, scope, valid_s, tuple(wishes), tuple(checks), epoch, attempt)
    return Asking(tuple(places), reserving)


class _Place(NamedTuple):
    """The keys by which caps may count a placement, in the order of `features.ledger.Wish`; 0: none."""

    item: int
    campaign: int
    category: int
    slot: int
    creative: int
    channel: int
    of: int  # index of the campaign, −1 organic

    @classmethod
    def of_columns(cls, columns: Columns, index: int, decision: Decision, categories: list[int]) -> _Place:
        query = decision.query
        return cls(
            columns.key[index],
            columns.campaign_key[index],
            categories[columns.row[index]],
            query.slots[columns.slot[index]].spec.key,
            columns.creative_key[index],
            query.context.channel,
            columns.campaign[index],
        )


def _caps(place: _Place, live: Live) -> Iterator[CapSpec]:
    campaigns = live.plan.campaigns
    if place.of >= 0:
        for index in campaigns.caps_of[place.of]:
            yield campaigns.caps[index]
    for index in campaigns.contact_rules:
        rule = campaigns.caps[index]
        own = getattr(place, rule.scope, 0)
        if own and (not rule.keys or own in rule.keys):
            yield rule


def settle(decision: Decision, refused: Mapping[int, str]) -> Decision:
    """The page without what was refused (index -> why): the stand-in where there is one, else one place less.

    Positions of a slot stay without gaps. The same decision when nothing was refused.
    """
    if not refused:
        return decision
    slots: list[list[tuple[int, Placement]]] = [[] for _ in decision.query.slots]
    for index, place in enumerate(decision.placements):
        kept = decision.spares.get(index) if index in refused else place
        if kept is not None:
            slots[kept.slot].append((index, kept))
    placed: list[Placement] = []
    moved: dict[int, int] = {}  # index before -> index now
    for asked, places in zip(decision.query.slots, slots, strict=True):
        for position, (index, place) in enumerate(_seated(places)):
            moved[index] = len(placed)
            placed.append(_at(place, position, asked.spec))
    lost = tuple(
        Refused(index, decision.placements[index].campaign, why) for index, why in sorted(refused.items())
    )
    stand = {index: at for index, at in moved.items() if index not in refused}  # a refused draw is none
    lotteries, draws = (
        tuple(replace(one, place=stand[one.place]) for one in some if one.place in stand)
        for some in (decision.lotteries, decision.draws)
    )
    return replace(decision, placements=tuple(placed), lotteries=lotteries, draws=draws, refused=lost)


def _seated(places: list[tuple[int, Placement]]) -> list[tuple[int, Placement]]:
    """Without gaps: what is pinned keeps its position as long as the slot reaches so far."""
    last = len(places) - 1
    pinned = {
        one.position: (index, one) for index, one in places if one.flags & PINNED and one.position <= last
    }
    held = {index for index, _ in pinned.values()}
    free = iter([pair for pair in places if pair[0] not in held])
    return [pinned[at] if at in pinned else next(free) for at in range(len(places))]


def _at(place: Placement, position: int, spec: CompiledSlot) -> Placement:
    """The placement at another position, where it is seen more or less often."""
    if place.position == position:
        return place
    shown = float(spec.rates[position])
    by = shown / place.shown if place.shown > 0 else 0.0
    displays, clicks, conversions = place.units
    return place._replace(
        position=position, shown=shown, units=(displays * by, clicks * by, conversions * by)
    )


def unreserved(decision: Decision, held: Collection[int]) -> Decision:
    """The page on which only what the ledger is asked to hold (by index) says so in its token.

    A place that is capped by a quota alone is not held on the customer's keys, so its display is never late
    there.
    """
    columns = Columns.of(decision.placements)
    free = [i for i, flags in enumerate(columns.flags) if flags & RESERVED and i not in held]
    if not free:
        return decision
    flags = list(columns.flags)
    for index in free:
        flags[index] &= ~RESERVED
    return replace(decision, placements=Placements(columns._replace(flags=flags)))


def refused_of(places: tuple[int, ...], taken: tuple[int, ...]) -> dict[int, str]:
    """Index of each place that the ledger did not give -> "cap"."""
    return {place: "cap" for place, one in zip(places, taken, strict=True) if one < 0}
