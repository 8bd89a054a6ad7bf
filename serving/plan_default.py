"""A plan for a catalogue that has none: the canonical homepage, or as much of one as there are items for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from features.ids import KINDS
from serving.plan_error import PlanError
from serving.plan_read import check_plan
from serving.plan_text import Plan

CANONICAL: Final[tuple[tuple[str, str, int, tuple[str, ...]], ...]] = (
    ("home.banner", "banner", 5, ("activity", "content", "benefit")),
    ("home.grid", "icon_grid", 10, ("function",)),
    ("home.shelf", "shelf", 8, ("product",)),
    ("home.popup", "popup", 1, ("activity", "benefit", "content")),
    ("home.benefits", "shelf", 4, ("benefit",)),
    ("home.feed", "feed", 12, ("content", "product", "activity", "service")),
)
"""The canonical homepage: 6 slots, 40 places."""


def default_plan(kind_counts: Mapping[str, int]) -> Plan:
    """A plan that fits a catalogue: the canonical homepage, or a shelf and a feed of a third of it."""
    present = tuple(kind for kind in KINDS if kind_counts.get(kind, 0) > 0)
    if not present:
        raise PlanError("surfaces.home", "the catalogue is empty", "load items first")
    if _canonical_fits(kind_counts):
        return _home("canonical", CANONICAL)
    places = min(20, max(1, sum(kind_counts[kind] for kind in present) // 3))
    shelf = min(8, (places + 1) // 2)
    slots = [("home.shelf", "shelf", shelf, present), ("home.feed", "feed", places - shelf, present)]
    return _home("sized-to-catalogue", [slot for slot in slots if slot[2] > 0])


def _canonical_fits(kind_counts: Mapping[str, int]) -> bool:
    """Thrice the places of every kind, so that there is something to choose from."""
    demand = {kind: sum(size for _, _, size, kinds in CANONICAL if kind in kinds) for kind in KINDS}
    return all(kind_counts.get(kind, 0) >= 3 * max(1, demand[kind] // 2) for kind in KINDS)


def _home(name: str, slots: Sequence[tuple[str, str, int, tuple[str, ...]]]) -> Plan:
    declared = [
        {"name": slot, "layout": layout, "size": size, "kinds": list(kinds)}
        for slot, layout, size, kinds in slots
    ]
    return check_plan({"name": name, "surfaces": {"home": [slot[0] for slot in slots]}, "slots": declared})
