"""The slots of a page as the columns that `serving.page` takes."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from features.ids import KINDS
from serving.page import Slots
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
