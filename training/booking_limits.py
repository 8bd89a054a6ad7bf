"""Slots and caps as booking takes them: what a page asks for, and when a cap closes a campaign."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ledger import CapSpec
from serving.page import Slots
from serving.page_slots import page_slots
from serving.plan import CompiledPlan, CompiledSlot
from training.sample_columns import RANKS

WINDOW_S: Final = dict(zip(RANKS, (86_400.0, 7 * 86_400.0, 28 * 86_400.0), strict=True))
CALENDAR: Final = {"session": "day", "day": "day", "week": "week", "month": "month", "ever": "month"}

Floats = NDArray[np.float64]


def slots_of(specs: Sequence[CompiledSlot], counts: Sequence[int]) -> Slots:
    """As a decision's allocation sees them, nothing held."""
    slots = page_slots(list(zip(specs, counts, strict=True)))
    return slots._replace(switching=np.zeros(len(specs), np.float32))


def no_limits(campaigns: int) -> Floats:
    return np.full((campaigns, len(RANKS)), inf)


def limits_of(plan: CompiledPlan, rate: Floats) -> Floats:
    """(C, RANKS) earlier page views that use a campaign's caps up, displayed at `rate` (C,) per page view."""
    found = no_limits(len(plan.campaigns))
    for c, of in enumerate(plan.campaigns.caps_of):
        for index in of:
            window, most = cap_limit(plan.campaigns.caps[index], float(rate[c]))
            found[c, window] = min(found[c, window], most)
    return found


def cap_limit(cap: CapSpec, rate: float) -> tuple[int, float]:
    """(the rank it is read from, earlier page views from which on it is used up). Only displays are expected.

    A page whose middle would be past the cap is closed: half a display more or less evens out.
    """
    name = CALENDAR.get(cap.calendar) or min(
        RANKS, key=lambda one: abs(np.log(WINDOW_S[one] / max(cap.window_s, 1)))
    )
    if cap.event != "displayed" or rate <= 0:
        return RANKS.index(name), inf
    held = WINDOW_S[name] / cap.window_s if cap.window_s else 1.0
    return RANKS.index(name), max(cap.most * held / rate - 0.5, 0.5)


def at_most(plan: CompiledPlan, c: int) -> int:
    campaigns = plan.campaigns
    caps = [campaigns.caps[i] for i in campaigns.caps_of[c]]
    most = [cap.most for cap in caps if cap.event == "displayed" and cap.scope == "campaign"]
    return min([int(campaigns.per_page[c]), *most])
