"""How far the bank's own models are believed: what one says of an item, as log-odds of a click.

    shift = level + slope · z        z = (score − centre) / scale, within ±MOST_Z, of the model's live entries

Per model, learnt from what its items came to where they were displayed (`training.trust`), beside what the
ranker said of them. Of a model that training has not met nothing is believed: its items may be proposed, and
stand by what the ranker says. A wrong list ends at level and slope 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.domain import Rows, Scores

MOST_Z: Final = 3.0
MOST_SHIFT: Final = 2.0  # of the log-odds, by one model
_NUMBERS: Final = ("centre", "scale", "level", "slope")


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """`models` (m,) key32, ascending; the rest (m,) f4, finite. Raises ValueError where they do not fit."""

    models: NDArray[np.uint32]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    level: NDArray[np.float32]
    slope: NDArray[np.float32]

    def __post_init__(self) -> None:
        columns = [getattr(self, name) for name in _NUMBERS]
        if any(one.shape != self.models.shape or not np.isfinite(one).all() for one in columns):
            raise ValueError("trust in the bank's models: every model needs four finite numbers")
        if (np.diff(self.models.astype(np.int64)) <= 0).any() or not (self.scale > 0).all():
            raise ValueError("trust in the bank's models: models ascend, and scales lie above 0")

    def __len__(self) -> int:
        return len(self.models)

    @classmethod
    def nothing(cls) -> Trust:
        none = np.zeros(0, np.float32)
        return cls(np.zeros(0, np.uint32), none, none, none, none)

    def z(self, place: NDArray[np.integer[Any]], score: NDArray[np.float32]) -> Scores:
        """(n,) of scores of the models at these places."""
        told = (score - self.centre[place]) / self.scale[place]
        found: Scores = np.minimum(np.maximum(told, -MOST_Z), MOST_Z).astype(np.float32)
        return found

    def shifts(
        self, held: NDArray[np.void], now: float, keys: NDArray[np.uint64], rows: Rows
    ) -> Scores | None:
        """(n,) to add to the log-odds of `rows` (n,), ascending, by a customer's entries
        (`features.external.ENTRY`); `keys` of the catalogue's first rows, of the others nobody says anything.
        None where nothing is believed.
        """
        if not len(self.models) or not len(held):
            return None
        place = np.minimum(np.searchsorted(self.models, held["model"]), len(self.models) - 1)
        good = (self.models[place] == held["model"]) & (held["expires"] > now) & np.isfinite(held["score"])
        if not good.any():
            return None
        held, place = held[good], place[good]
        each = self.level[place] + self.slope[place] * self.z(place, held["score"])
        each = np.minimum(np.maximum(each, -MOST_SHIFT), MOST_SHIFT)
        mine = keys[rows[: np.searchsorted(rows, len(keys))]]
        if not len(mine):
            return None
        order = np.argsort(mine)
        at = np.minimum(np.searchsorted(mine, held["item"], sorter=order), len(mine) - 1)
        there = order[at]
        hit = mine[there] == held["item"]
        if not hit.any():
            return None
        found = np.zeros(len(rows), np.float32)
        np.add.at(found, there[hit], each[hit])
        return found

    def to_json(self) -> dict[str, list[float]]:
        return {"models": self.models.tolist(), **{name: getattr(self, name).tolist() for name in _NUMBERS}}

    @classmethod
    def from_json(cls, body: Mapping[str, Any] | None) -> Trust:
        """None, as of bundles made before there was any: nothing is believed."""
        if body is None:
            return cls.nothing()
        numbers = (np.array(body[name], np.float32) for name in _NUMBERS)
        return cls(np.array(body["models"], np.uint32), *numbers)


def shifted(p: Scores, shift: Scores) -> Scores:
    """Probabilities with their log-odds moved; those that are not known stay so."""
    odds = p / np.maximum(1 - p, np.float32(1e-6)) * np.exp(shift)
    found: Scores = np.where(shift == 0, p, odds / (1 + odds)).astype(np.float32)
    return found
