"""Learns how far to believe the bank's own models: `serving.trust`, from displays beside the ranker's word.

Displays whose item one of the models had named to the customer are compared with the other displays of their
slots, given what a ranker that has not seen their day says of each. Level and slope of each model are drawn
to 0, which is to believe nothing, by as much as RIDGE clicks say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.trust import Trust
from training.uplift import logistic

Floats = NDArray[np.float64]

FEWEST: Final = 300  # displays that a model named, of whom less is known than is to be learnt
RIDGE: Final = 30.0
_SLOT_RIDGE: Final = 1e-3


class Heard(NamedTuple):
    """What models had said of displays (k entries): the display's number, the model's key32, its score."""

    display: NDArray[np.int64]
    model: NDArray[np.uint32]
    score: NDArray[np.float32]

    @classmethod
    def nothing(cls) -> Heard:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.float32))

    def take(self, kept: NDArray[np.bool_]) -> Heard:
        """Of the displays that are kept (m,), numbered anew."""
        number, mine = np.cumsum(kept) - 1, kept[self.display]
        return Heard(number[self.display[mine]], self.model[mine], self.score[mine])


class Known(NamedTuple):
    """What one model came to, for the manifest: its displays, and the deviations of level and slope."""

    displays: int
    level: float
    slope: float
    level_sd: float
    slope_sd: float


@dataclass(frozen=True, slots=True)
class Learned:
    trust: Trust
    known: dict[int, Known]  # by key32

    def to_json(self) -> dict[str, Any]:
        return {str(model): one._asdict() for model, one in self.known.items()}


def heard_of(held: NDArray[np.void], now: float, keys: NDArray[np.uint64], first: int) -> Heard:
    """What a customer's entries said of items with these `keys` (n,) then; displays are numbered from
    `first`.
    """
    held = held[(held["expires"] > now) & np.isfinite(held["score"])]
    order = np.argsort(keys)
    at = order[np.minimum(np.searchsorted(keys, held["item"], sorter=order), len(keys) - 1)]
    hit = keys[at] == held["item"]
    return Heard(at[hit] + first, held["model"][hit].astype(np.uint32), held["score"][hit])


def heard_together(parts: list[Heard]) -> Heard:
    """Parts whose displays are numbered through already."""
    return (
        Heard(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else Heard.nothing()
    )


def fit_trust(p: Floats, clicked: NDArray[np.bool_], slot: NDArray[np.int64], heard: Heard) -> Learned:
    """Of displays (m): `p` what the ranker says of each at its own place without having seen its day."""
    models, counts = np.unique(heard.model, return_counts=True)
    models = models[counts >= FEWEST]
    if not len(models):
        return Learned(Trust.nothing(), {})
    mine = np.isin(heard.model, models)
    display, score = heard.display[mine], heard.score[mine]
    place = np.searchsorted(models, heard.model[mine])
    centre = np.array([np.median(score[place == one]) for one in range(len(models))], np.float32)
    scale = np.array([score[place == one].std() for one in range(len(models))], np.float32)
    blank = np.zeros(len(models), np.float32)
    trust = Trust(models, centre, np.maximum(scale, np.float32(1e-6)), blank, blank)
    slots = int(slot.max()) + 1
    design = np.zeros((len(p), slots + 2 * len(models)))
    design[np.arange(len(p)), slot] = 1.0
    np.add.at(design, (display, slots + 2 * place), 1.0)
    np.add.at(design, (display, slots + 2 * place + 1), trust.z(place, score))
    p = np.clip(p, 1e-7, 1 - 1e-7)
    offset = np.log(p / (1 - p))
    ridge = np.concatenate([np.full(slots, _SLOT_RIDGE), np.full(2 * len(models), RIDGE)])
    found = logistic(design, clicked.astype(np.float64), ridge, offset=offset)
    q = 1 / (1 + np.exp(-(offset + design @ found)))
    curve = (design * (q * (1 - q))[:, None]).T @ design + np.diag(ridge)
    sd = np.sqrt(np.diag(np.linalg.inv(curve)))[slots:]
    level, slope = found[slots::2], found[slots + 1 :: 2]
    displays = np.bincount(place, minlength=len(models))
    rows = zip(
        displays.tolist(), level.tolist(), slope.tolist(), sd[::2].tolist(), sd[1::2].tolist(), strict=True
    )
    known = {int(model): Known(*row) for model, row in zip(models.tolist(), rows, strict=True)}
    made = Trust(models, centre, trust.scale, level.astype(np.float32), slope.astype(np.float32))
    return Learned(made, known)
