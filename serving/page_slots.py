"""The slots of a page as the columns that `serving.page` takes, and as the page's loops do."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from features.ids import KINDS
from serving.page import Slots
from serving.page_packing import packed_slots
from serving.page_seating import T_CAPPED, T_LAYOUT, T_LEAST, T_RESERVED
from serving.page_state import F8, I8
from serving.plan import CompiledSlot
from serving.surfaces import RECIPES


def page_slots(asked: Sequence[tuple[CompiledSlot, int]]) -> Slots:
    """The slots of a page as columns: (slot, places to fill) in page order."""
    specs = [spec for spec, _ in asked]
    counts = [count for _, count in asked]
    recipes = [RECIPES[spec.layout] for spec in specs]
    rates = np.zeros((len(specs), max([1, *counts])), np.float32)
    for at, (spec, count) in enumerate(asked):
        rates[at, :count] = spec.rates[:count]
    return Slots(
        bit=np.array([spec.bit for spec in specs], np.uint64),
        count=np.array(counts, np.int32),
        rates=rates,
        origins=np.array([recipe.selector.origins for recipe in recipes], np.uint32),
        per_category=np.array(
            [spec.per_category or recipe.per_category for spec, recipe in zip(specs, recipes, strict=True)],
            np.int32,
        ),
        per_kind=np.array(
            [
                ceil(count * recipe.per_kind) if len(spec.kinds) > 1 else count
                for (spec, count), recipe in zip(asked, recipes, strict=True)
            ],
            np.int32,
        ),
        diminish=np.array([spec.diminish for spec in specs], np.float32),
        cross=np.array([spec.cross for spec in specs], np.float32),
        interruption=np.array([spec.interruption for spec in specs], np.float32),
        switching=np.array(
            [spec.switching_cost if spec.refresh != "view" else 0.0 for spec in specs], np.float32
        ),
        kind_least=np.array([spec.kinds_least for spec in specs], np.uint8).reshape(len(specs), len(KINDS)),
        kind_most=np.array([spec.kinds_most for spec in specs], np.uint8).reshape(len(specs), len(KINDS)),
    )


class Shape(NamedTuple):
    """What pages that ask for the same places share."""

    slots: Slots
    whole: I8  # both by the columns S_… of serving.page_state
    parts: F8
    terms: I8  # (s, …) by T_LAYOUT … of serving.page_seating
    shown: F8  # (s, k) P(displayed | slot, position)
    stable: bool  # whether any slot is to stand as it stood


def shape_of(asked: Sequence[tuple[CompiledSlot, int]], capped: Sequence[bool], *, in_order: bool) -> Shape:
    """`asked`: (slot, places to fill) in page order; `capped`: of each whether whatever stands there needs a
    reservation. `in_order`: slot by slot, each from its first place on.
    """
    slots = page_slots(asked)
    if in_order:
        one = np.ones_like(slots.diminish)
        slots = slots._replace(rates=np.sign(slots.rates), diminish=one, cross=one)
    reserved = [RECIPES[spec.layout].reserved for spec, _ in asked]
    terms = np.zeros((len(asked), T_RESERVED + max([0, *map(len, reserved)])), np.int64)
    shown = np.zeros((len(asked), max([1, *(len(spec.shown) for spec, _ in asked)])))
    for at, (spec, count) in enumerate(asked):
        terms[at, T_LAYOUT], terms[at, T_CAPPED] = spec.layout_code, capped[at]
        terms[at, T_LEAST] = count if spec.interruption <= 0 else 0
        terms[at, T_RESERVED : T_RESERVED + len(reserved[at])] = [1 << source for source in reserved[at]]
        shown[at, : len(spec.shown)] = spec.shown
    return Shape(slots, *packed_slots(slots), terms, shown, bool((slots.switching > 0).any()))
