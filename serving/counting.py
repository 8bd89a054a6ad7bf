"""What one page did to every campaign, and what its rules cost; made off the request's path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.domain import Decision
from serving.live import Live
from serving.page import RULES
from serving.tag_sums import Tagged
from serving.tallies import PageCounts


def counts_of(decision: Decision, live: Live) -> PageCounts:
    """Raises nothing: a page on which no campaign ran counts nothing."""
    met = decision.met
    if met is None:
        return PageCounts()
    running = np.union1d(met.running, met.spent).astype(np.int32)
    shape = tuple((asked.spec.index, asked.count) for asked in decision.query.slots)
    best = live.stalls.best_places(shape)
    here = running[best.take(running) > 0]
    permitted = np.unique(met.permitted)
    looked_at = np.unique(met.looked_at)
    dropped = np.setdiff1d(looked_at, permitted).astype(np.int32)
    tagged = [place for place in decision.placements if place.campaign >= 0]
    placed = np.array([place.campaign for place in tagged], np.int32)
    refused = {one.campaign: one.why for one in decision.refused if one.campaign >= 0}
    by_cap = _those(refused, "cap", placed)
    by_quota = np.union1d(_those(refused, "quota", placed), np.intersect1d(met.spent, here))
    capped = np.setdiff1d(np.union1d(met.full, by_cap), placed)
    offered = np.setdiff1d(here, np.concatenate([dropped, capped, by_quota]))
    return PageCounts(
        eligible=here.astype(np.int32),
        potential=best.take(here),
        dropped=dropped,
        masks=_masks(dropped, met.looked_at, met.drops),
        refused_cap=np.setdiff1d(capped, dropped).astype(np.int32),
        refused_quota=np.setdiff1d(by_quota, dropped).astype(np.int32),
        offered=offered.astype(np.int32),
        lost_price=np.setdiff1d(offered, placed).astype(np.int32),
        placed=placed,
        units=np.array([place.units for place in tagged], np.float32).reshape(-1, 3),
    )


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


def _those(refused: dict[int, str], why: str, placed: NDArray[np.int32]) -> NDArray[np.int32]:
    these = np.array(sorted(c for c, reason in refused.items() if reason == why), np.int32)
    return np.setdiff1d(these, placed).astype(np.int32)


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
