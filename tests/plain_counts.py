"""What a page did to every campaign by plain arithmetic of sets: the twin of serving.counting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from serving.domain import Decision
from serving.live import Live
from serving.reasons import Drop
from serving.tallies import FIRST_DROP, ROWS, Sums, What

NONE = np.empty(0, np.int32)


class PageCounts(NamedTuple):
    """One page or some, by indices of campaigns; a campaign stands once a page in each but `placed`."""

    eligible: np.ndarray = NONE
    potential: np.ndarray = NONE  # of `eligible`: expected displays at its best place
    dropped: np.ndarray = NONE
    masks: np.ndarray = NONE  # of `dropped`: the rules that dropped its items, together
    refused_cap: np.ndarray = NONE
    refused_quota: np.ndarray = NONE
    offered: np.ndarray = NONE
    lost_price: np.ndarray = NONE
    placed: np.ndarray = NONE
    units: np.ndarray = np.empty((0, 3), np.float32)  # of `placed`: expected displays, clicks, conversions

    def added(self, sums: Sums) -> None:
        for row, which, weights in (
            (What.ELIGIBLE, self.eligible, 1.0),
            (What.POTENTIAL, self.eligible, self.potential),
            (What.DROPPED, self.dropped, 1.0),
            (What.REFUSED_CAP, self.refused_cap, 1.0),
            (What.REFUSED_QUOTA, self.refused_quota, 1.0),
            (What.OFFERED, self.offered, 1.0),
            (What.LOST_PRICE, self.lost_price, 1.0),
            (What.PLACED, self.placed, 1.0),
            (What.DISPLAYED, self.placed, self.units[:, 0]),
            (What.CLICKED, self.placed, self.units[:, 1]),
            (What.CONVERTED, self.placed, self.units[:, 2]),
        ):
            np.add.at(sums[row], which, weights)
        for drop in Drop:
            np.add.at(sums[FIRST_DROP + drop], self.dropped, (self.masks & drop.bit) != 0)


def plain_sums(pages: list[Decision], live: Live) -> Sums:
    sums = np.zeros((ROWS, len(live.plan.campaigns.ids)))
    for page in pages:
        plain_counts(page, live).added(sums)
    return sums


def plain_counts(decision: Decision, live: Live) -> PageCounts:
    met = decision.met
    if met is None:
        return PageCounts()
    shape = tuple((asked.spec.index, asked.count) for asked in decision.query.slots)
    best = live.stalls.best_places(shape)
    here = {c for c in {*met.running.tolist(), *met.spent.tolist()} if best[c] > 0}
    placed = [place.campaign for place in decision.placements if place.campaign >= 0]
    dropped = {*met.looked_at.tolist()} - {*met.permitted.tolist()}
    refused = {one.campaign: one.why for one in decision.refused if one.campaign >= 0}
    by_quota = {c for c, why in refused.items() if why == "quota"} - {*placed}
    by_quota |= {*met.spent.tolist()} & here
    capped = ({*met.full.tolist()} | {c for c, why in refused.items() if why == "cap"}) - {*placed}
    offered = here - dropped - capped - by_quota
    masks = dict.fromkeys(sorted(dropped), 0)
    for campaign, drops in zip(met.looked_at.tolist(), met.drops.tolist(), strict=True):
        if campaign in masks:
            masks[campaign] |= drops

    def column(which: set[int]) -> np.ndarray:
        return np.array(sorted(which), np.int32)

    return PageCounts(
        column(here), best[sorted(here)], column(dropped), np.array(list(masks.values()), np.uint32),
        column(capped - dropped), column(by_quota - dropped), column(offered),
        column(offered - {*placed}), np.array(placed, np.int32),
        np.array([p.units for p in decision.placements if p.campaign >= 0], np.float32).reshape(-1, 3),
    )  # fmt: skip
