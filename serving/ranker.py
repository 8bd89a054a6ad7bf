"""The second stage: P(clicked | displayed) and P(converted | displayed) of an item at a place.

    logit = slope · (place + item + interest + forest) + level        slope and level by slot and kind

`place` is how much a slot's position draws by itself, told apart from what stands there; item and interest
are the logs of what training has counted (`features.ranking.Facts`); the forest adds the rest. At serving
the place is fixed to the first of the slot that takes the item's kind, so that candidates compare; what a
logged placement is expected to earn is asked with its own place.

    ranker/facts-*.npy  ranker/click/*.npy  ranker/convert/*.npy  ranker/ranker.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from features.ranking import FEATURES, Facts
from features.ranking_kernel import KNOTS, MOMENTS, PART, answered, calibrate, floored, logistic, summed
from serving.domain import Scores
from serving.forest import Forest
from serving.taste import load_array, save_arrays
from serving.trust import Trust

FOLDER: Final = "ranker"
FILE: Final = "ranker/ranker.json"
POSITIONS: Final = 64  # of a slot; later ones draw as the last
_ITEM, _INTEREST, _HOUR, _BUYS, _KIND = (
    FEATURES.index(name) for name in ("item_clicks", "interest", "area_hour", "item_conversions", "kind")
)
_TERMS: Final = {
    (timed, buys): np.array([_ITEM, _INTEREST, *([_HOUR] if timed else []), *([_BUYS] if buys else [])])
    for timed in (True, False)
    for buys in (True, False)
}
"""What is added up beside the place, by whether the moment counts and whether conversion rates do."""
_FACTS: Final = ("keys", "codes", "table", "ties", "hours")


class ByKind(NamedTuple):
    """By kind (kinds + 1,): what its place draws, its floor, its slope, its level and its bend (…, KNOTS)."""

    place: Scores
    floor: Scores
    slope: Scores
    level: Scores
    bend: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One of the two questions. `place` (slots + 1, POSITIONS) f4 log-odds, the last row for slots that
    training never saw; `slope`, `level` (slots + 1, kinds + 1) f4, `bend` (slots + 1, KNOTS) f4: see
    `features.ranking_kernel.calibrate`; `floor` (slots + 1, POSITIONS) f4 what is clicked of whatever stands
    there; `buys`: whether conversion rates count; `timed`: whether the moment's lift does.
    """

    forest: Forest
    place: NDArray[np.float32]
    slope: NDArray[np.float32]
    level: NDArray[np.float32]
    bend: NDArray[np.float32]
    floor: NDArray[np.float32]
    buys: bool
    timed: bool = True

    def __post_init__(self) -> None:
        self.forest.check(len(FEATURES))
        slots = len(self.place)
        if self.place.shape != (slots, POSITIONS) or self.slope.shape != (slots, len(KINDS) + 1):
            raise ValueError(f"places {self.place.shape} and slopes {self.slope.shape} do not fit")
        if self.level.shape != self.slope.shape or not (self.slope > 0).all():
            raise ValueError("every slot and kind needs a slope above 0 and a level")
        if self.bend.shape != (slots, KNOTS) or not (np.diff(self.bend, axis=1) > -PART).all():
            raise ValueError(f"every slot needs a bend of {KNOTS} knots that leaves the order as it is")
        if self.floor.shape != self.place.shape or not ((self.floor >= 0) & (self.floor < 1)).all():
            raise ValueError("every place needs a floor from 0 to below 1")
        if not all(np.isfinite(one).all() for one in (self.place, self.slope, self.level, self.bend)):
            raise ValueError("a ranker's tables must be finite")

    def raw(
        self,
        matrix: NDArray[np.float32],
        places: NDArray[np.float32],
        floors: NDArray[np.float32],
        shared: int = 0,
    ) -> Scores:
        """(n,) log-odds before calibration; `places` (n,) what each place draws, `floors` (n,) its floor;
        the first `shared` rows of the matrix hold one value each, as of one page.
        """
        logit: Scores = places.astype(np.float32)  # a copy
        summed(matrix, _TERMS[self.timed, self.buys], logit)
        self.forest.add(matrix, logit, shared)
        floored(logit, floors)
        return logit

    def by_kind(
        self,
        matrix: NDArray[np.float32],
        rows: NDArray[np.int32],
        kinds: NDArray[np.uint8],
        table: ByKind,
        shared: int,
    ) -> Scores:
        """(n,) calibrated log-odds of a page's candidates `rows` (n,), each at its kind's place; `kinds` of
        all rows; the rest as of `raw`.
        """
        forest, terms = self.forest, _TERMS[self.timed, self.buys]
        odds, reached = np.empty(len(rows), np.float32), np.empty(len(rows), np.uint16)
        answered(
            matrix, rows, kinds, *table, terms, forest.feature, forest.threshold, forest.mask,
            forest.starts, forest.leaves, reached, shared, odds,
        )  # fmt: skip
        return odds

    def at(
        self, matrix: NDArray[np.float32], slot: NDArray[np.integer[Any]], position: NDArray[np.integer[Any]]
    ) -> Scores:
        """(n,) probabilities at these places; `slot` (n,) codes of `Ranker.slots`, `position` from 0."""
        width = self.slope.shape[1]
        where = slot, np.minimum(position, POSITIONS - 1)
        found = self.raw(matrix, self.place[where], self.floor[where])
        which = slot.astype(np.int64) * width + matrix[_KIND].astype(np.int64)
        bend = np.repeat(self.bend, width, axis=0)
        calibrate(found, which, self.slope.ravel(), self.level.ravel(), bend)
        logistic(found)
        return found

    def save(self, folder: Path) -> None:
        self.forest.save(folder)
        tables = {name: getattr(self, name) for name in ("place", "slope", "level", "bend", "floor")}
        save_arrays(folder, **tables)

    @classmethod
    def load(cls, folder: Path, *, buys: bool) -> Answer:
        place, slope, level = (np.array(load_array(folder, name)) for name in ("place", "slope", "level"))
        if not (folder / "floor.npy").exists():  # as it was learnt before there were floors and bends
            straight = np.zeros((len(place), KNOTS), np.float32)
            return cls(
                Forest.load(folder), place, slope, level, straight, np.zeros_like(place), buys, timed=False
            )
        bend, floor = (np.array(load_array(folder, name)) for name in ("bend", "floor"))
        return cls(Forest.load(folder), place, slope, level, bend, floor, buys)


@dataclass(frozen=True, slots=True, eq=False)
class Ranker:
    """`slots`: names in the order of their codes; `neutral` (features,) f4 what explains nothing; `scale`
    mean and deviation of the model's scores; `trust` in the bank's own models.
    """

    facts: Facts
    slots: tuple[str, ...]
    click: Answer
    convert: Answer
    neutral: NDArray[np.float32]
    scale: tuple[float, float]
    trust: Trust = field(default_factory=Trust.nothing)

    def __post_init__(self) -> None:
        for answer in (self.click, self.convert):
            if len(answer.place) != len(self.slots) + 1:
                raise ValueError(
                    f"tables of {len(answer.place)} slots for {len(self.slots)} names and the rest"
                )
        if not np.isfinite(self.scale).all() or self.scale[1] <= 0:
            raise ValueError(f"scores are scaled by a mean and a deviation above 0, not {self.scale}")
        if self.neutral.shape != (len(FEATURES),) or not np.isfinite(self.neutral).all():
            raise ValueError("a neutral value is needed for every feature")

    def __len__(self) -> int:
        return len(self.facts.keys)

    def code(self, slot: str) -> int:
        """Of a slot's name; the code after the last for one that training never saw."""
        return self.slots.index(slot) if slot in self.slots else len(self.slots)

    def save(self, folder: Path) -> None:
        root = folder / FOLDER
        root.mkdir(parents=True, exist_ok=True)
        save_arrays(
            root, neutral=self.neutral, **{f"facts-{name}": getattr(self.facts, name) for name in _FACTS}
        )
        self.click.save(root / "click")
        self.convert.save(root / "convert")
        body: dict[str, Any] = {
            "features": FEATURES, "kinds": KINDS, "slots": self.slots, "scale": list(self.scale),
        }  # fmt: skip
        if len(self.trust):
            body["trust"] = self.trust.to_json()
        (root / "ranker.json").write_text(
            json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Raises ValueError when it was made for other features or kinds."""
        root = folder / FOLDER
        body: dict[str, Any] = json.loads((root / "ranker.json").read_text(encoding="utf-8"))
        if body["features"] != list(FEATURES) or body["kinds"] != list(KINDS):
            raise ValueError(f"{root}/ranker.json was made for other features or kinds: train again")
        told = {name: np.array(load_array(root, f"facts-{name}")) for name in _FACTS}
        days = max(MOMENTS - told["hours"].shape[1], 0)  # of a month: once there were none
        told["hours"] = np.pad(told["hours"], ((0, 0), (0, days)))
        facts = Facts(**told)
        return cls(
            facts, tuple(body["slots"]), Answer.load(root / "click", buys=False),
            Answer.load(root / "convert", buys=True), np.array(load_array(root, "neutral")),
            tuple(body["scale"]), Trust.from_json(body.get("trust")),
        )  # fmt: skip
