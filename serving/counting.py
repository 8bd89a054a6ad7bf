"""What pages did to every campaign, and what their rules cost; made off the request's path."""

from __future__ import annotations

from typing import Final

import numpy as np

from serving.counting_kernel import CAP, QUOTA, tallied
from serving.domain import Decision, Scores
from serving.live import Live
from serving.page import RULES
from serving.placed import Columns
from serving.tag_sums import Tagged
from serving.tallies import Sums


class Counting:
    """Adds pages to the sums of `serving.tallies`. Of one event loop: its scratch is kept."""

    def __init__(self) -> None:
        self._marks, self._masks = np.zeros(0, np.uint8), np.zeros(0, np.uint32)

    def add(self, sums: Sums, decision: Decision, live: Live) -> None:
        """`sums` (ROWS, C) over the campaigns of `live`. A page on which no campaign ran adds nothing."""
        met = decision.met
        if met is None:
            return
        if len(self._marks) != sums.shape[1]:
            self._marks, self._masks = np.zeros(sums.shape[1], np.uint8), np.zeros(sums.shape[1], np.uint32)
        columns = Columns.of(decision.placements)
        tagged = [at for at, campaign in enumerate(columns.campaign) if campaign >= 0]
        # Of a campaign that was refused twice, the last word.
        refused = {no.campaign: no.why for no in decision.refused if no.campaign >= 0 and no.why in _BY}
        tallied(
            sums, self._marks, self._masks, _best(decision, live),
            met.running, met.spent, met.looked_at, met.drops, met.permitted, met.full,
            np.array(list(refused), np.int32) if refused else _NOBODY,
            np.array([_BY[why] for why in refused.values()], np.uint8) if refused else _NO_WHY,
            np.array([columns.campaign[at] for at in tagged], np.int32),
            np.array([columns.units[at] for at in tagged], np.float64).reshape(-1, 3),
        )  # fmt: skip


def _best(decision: Decision, live: Live) -> Scores:
    return live.stalls.best_places(tuple([(one.spec.index, one.count) for one in decision.query.slots]))


_BY: Final = {"cap": CAP, "quota": QUOTA}
_NOBODY: Final = np.empty(0, np.int32)
_NO_WHY: Final = np.empty(0, np.uint8)


def tagged_of(decision: Decision, live: Live) -> list[Tagged]:
    """One for each place that a rule decided."""
    campaigns, query = live.plan.campaigns, decision.query
    found = []
    for index in [at for at, rule in enumerate(Columns.of(decision.placements).rule) if rule]:
        place = decision.placements[index]
        of = place.by if place.by >= 0 else place.campaign
        campaign = campaigns.ids[of] if of >= 0 else ""
        org = campaigns.specs[of].org if of >= 0 else ""
        worth = place.base + place.tag / place.shown if place.shown > 0 else float("nan")
        slot = query.slots[place.slot].spec.name
        found.append(Tagged(RULES[place.rule], campaign, org, slot, place.tag, place.shown, worth))
    return found
