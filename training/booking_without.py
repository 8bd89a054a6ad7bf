"""A compiled plan without its campaigns: what a first booking is compared with."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from serving.campaigns import Campaigns
from serving.plan import CompiledPlan


def without_campaigns(plan: CompiledPlan) -> CompiledPlan:
    """Slots, permission, values and contact rules stay; exclusive items stay apart."""
    kept: dict[str, Any] = {}
    campaigns = plan.campaigns
    for one in fields(Campaigns):
        value = getattr(campaigns, one.name)
        if one.name in ("caps", "contact_rules", "groups", "item_groups", "exclusive_rows"):
            continue
        if one.name == "_memo":
            kept[one.name] = []
        elif isinstance(value, np.ndarray):
            kept[one.name] = value[:0]
        else:
            kept[one.name] = ()
    return replace(plan, campaigns=replace(campaigns, **kept))
