"""What one page did to every campaign, and what its rules cost; made off the request's path."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.domain import Decision
from serving.live import Live
from serving.page import RULES
from serving.tag_sums import Tagged
from serving.tallies import PageCounts


def counts_of(decision: Decision, live: Live) -> PageCounts:
    """Raises nothing: a page on which no campaign ran counts nothing.

    What a campaign met is marked by bits in one byte each, and its fate looked up by them: arithmetic of
    sets, eleven of them a page, cost twenty times as much.
    """
    met = decision.met
    if met is None:
        return PageCounts()
    shape = tuple([(asked.spec.index, asked.count) for asked in decision.query.slots])
    best = live.stalls.best_places(shape)
    marks = np.zeros(len(best), np.uint8)
    marks[met.running] = _HERE
    marks[met.spent] = _HERE | _SPENT
    marks[best <= 0] = 0  # no slot of this page is one of its own
    marks[met.looked_at] |= _LOOKED_AT
    marks[met.permitted] |= _PERMITTED
    marks[met.full] |= _FULL
    for campaign, why in {one.campaign: one.why for one in decision.refused if one.campaign >= 0}.items():
        marks[campaign] |= _BY.get(why, 0)
    tagged = [place for place in decision.placements if place.campaign >= 0]
    placed = np.array([place.campaign for place in tagged], np.int32)
    marks[placed] |= _PLACED
    fates = _FATES[marks]
    here, dropped = _these(fates, _ELIGIBLE), _these(fates, _DROPPED)
    return PageCounts(
        eligible=here,
        potential=best.take(here),
        dropped=dropped,
        masks=_masks(dropped, met.looked_at, met.drops),
        refused_cap=_these(fates, _REFUSED_CAP),
        refused_quota=_these(fates, _REFUSED_QUOTA),
        offered=_these(fates, _OFFERED),
        lost_price=_these(fates, _LOST_PRICE),
        placed=placed,
        units=np.array([place.units for place in tagged], np.float32).reshape(-1, 3),
    )


_HERE, _SPENT, _LOOKED_AT, _PERMITTED, _FULL, _CAP, _QUOTA, _PLACED = (1 << bit for bit in range(8))
_ELIGIBLE, _DROPPED, _REFUSED_CAP, _REFUSED_QUOTA, _OFFERED, _LOST_PRICE = (1 << bit for bit in range(6))
_BY: Final = {"cap": _CAP, "quota": _QUOTA}


def _fate(marks: int) -> int:
    """What became of a campaign that met this."""
    here, placed = bool(marks & _HERE), bool(marks & _PLACED)
    dropped = bool(marks & _LOOKED_AT) and not marks & _PERMITTED
    capped = bool(marks & (_FULL | _CAP)) and not placed
    spent = bool(marks & _SPENT) or (bool(marks & _QUOTA) and not placed)
    offered = here and not dropped and not capped and not spent
    fates = (here, dropped, capped and not dropped, spent and not dropped, offered, offered and not placed)
    return sum(1 << bit for bit, true in enumerate(fates) if true)


_FATES: Final = np.array([_fate(marks) for marks in range(256)], np.uint8)


def _these(fates: NDArray[np.uint8], fate: int) -> NDArray[np.int32]:
    return (fates & np.uint8(fate)).nonzero()[0].astype(np.int32)


def tagged_of(decision: Decision, live: Live) -> list[Tagged]:
    """One for each place that a rule decided."""
    campaigns, query = live.plan.campaigns, decision.query
    found = []
    for place in decision.placements:
        if not place.rule:
            continue
        of = place.by if place.by >= 0 else place.campaign
        campaign = campaigns.ids[of] if of >= 0 else ""
        org = campaigns.specs[of].org if of >= 0 else ""
        worth = place.base + place.tag / place.shown if place.shown > 0 else float("nan")
        slot = query.slots[place.slot].spec.name
        found.append(Tagged(RULES[place.rule], campaign, org, slot, place.tag, place.shown, worth))
    return found


def _masks(
    dropped: NDArray[np.int32], campaign: NDArray[np.int32], drops: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    """The rules that dropped the items of each, together."""
    masks = np.zeros(len(dropped), np.uint32)
    at = np.searchsorted(dropped, campaign)
    at = np.minimum(at, max(0, len(dropped) - 1))
    if len(dropped):
        mine = dropped[at] == campaign
        np.bitwise_or.at(masks, at[mine], drops[mine])
    return masks
