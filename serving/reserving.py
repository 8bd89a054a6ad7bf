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
    for index, place in enumerate(decision.placements):
        if place.campaign >= 0 and (of := campaigns.quota_of[place.campaign]):
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
    for index, place in enumerate(decision.placements):
        if not place.capped or index in without:
            continue
        caps = tuple([checks.setdefault(check(cap), len(checks)) for cap in _caps(place, decision, live)])
        if caps:
            places.append(index)
            wishes.append((_wish(place, decision, live, caps),))
    scope = scope_of(query.surface, query.device)
    valid_s = decision.valid_until - query.now
    reserving = Reserving(query.decision_id, scope, valid_s, tuple(wishes), tuple(checks), epoch, attempt)
    return Asking(tuple(places), reserving)


def _caps(place: Placement, decision: Decision, live: Live) -> Iterator[CapSpec]:
    campaigns = live.plan.campaigns
    if place.campaign >= 0:
        for index in campaigns.caps_of[place.campaign]:
            yield campaigns.caps[index]
    for index in campaigns.contact_rules:
        rule = campaigns.caps[index]
        own = _own(rule, place, decision, live)
        if own and (not rule.keys or own in rule.keys):
            yield rule


def _own(rule: CapSpec, place: Placement, decision: Decision, live: Live) -> int:
    """The placement's key in the rule's scope; 0 where it has none."""
    scope, query = rule.scope, decision.query
    if scope == "item":
        return place.key
    if scope == "creative":
        return place.creative_key
    if scope == "campaign":
        return place.campaign_key
    if scope == "category":
        return live.category_of[place.row]
    if scope == "slot":
        return query.slots[place.slot].spec.key
    return query.context.channel if scope == "channel" else 0


def _wish(place: Placement, decision: Decision, live: Live, caps: tuple[int, ...]) -> Wish:
    query = decision.query
    return Wish(
        item=place.key,
        campaign=place.campaign_key,
        category=live.category_of[place.row],
        slot=query.slots[place.slot].spec.key,
        creative=place.creative_key,
        org=0,
        channel=query.context.channel,
        caps=caps,
    )


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
    places = decision.placements
    free = [i for i, one in enumerate(places) if one.flags & RESERVED and i not in held]
    if not free:
        return decision
    made = list(places)
    for index in free:
        made[index] = made[index]._replace(flags=made[index].flags & ~RESERVED)
    return replace(decision, placements=tuple(made))


def refused_of(places: tuple[int, ...], taken: tuple[int, ...]) -> dict[int, str]:
    """Index of each place that the ledger did not give -> "cap"."""
    return {place: "cap" for place, one in zip(places, taken, strict=True) if one < 0}
