"""What a page did to every campaign by plain arithmetic of sets: the twin of serving.counting."""

from __future__ import annotations

import numpy as np

from serving.domain import Decision
from serving.live import Live
from serving.tallies import PageCounts


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
