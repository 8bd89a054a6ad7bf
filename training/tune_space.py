"""Where `fenliu tune` searches, and how it goes on: at random first, then around the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from training.model import NEVER, Params

RANDOM_FIRST: Final = 8  # trials before the best are looked around
RANDOM_SHARE: Final = 0.25  # of the later ones
PARENTS: Final = 3


@dataclass(frozen=True, slots=True)
class Range:
    """Between `low` and `high`; `log`: by factors."""

    low: float
    high: float
    log: bool = True

    def draw(self, rng: np.random.Generator) -> float:
        return self._of(rng.random())

    def near(self, value: float, rng: np.random.Generator) -> float:
        return self._of(float(np.clip(self._share(value) + 0.12 * rng.standard_normal(), 0.0, 1.0)))

    def _of(self, share: float) -> float:
        if self.log:
            return float(f"{math.exp(math.log(self.low) + share * math.log(self.high / self.low)):.4g}")
        return float(f"{self.low + share * (self.high - self.low):.4g}")

    def _share(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few."""

    values: tuple[float, ...]

    def draw(self, rng: np.random.Generator) -> float:
        return float(self.values[rng.integers(len(self.values))])

    def near(self, value: float, rng: np.random.Generator) -> float:
        return self.draw(rng) if rng.random() < 0.2 else value


Space = Mapping[str, Range | Choice]
_LIVES: Final = Choice((NEVER, 365.0, 90.0, 30.0, 10.0))

SPACES: Final[Mapping[str, Space]] = {
    "als": {
        "regularization": Range(0.1, 300.0),
        "alpha": Range(0.3, 50.0),
        "strength": Range(0.01, 3.0),
        "half_life_days": _LIVES,
    },
    "ials": {
        "regularization": Range(0.001, 0.1),
        "ratio": Range(1.0, 200.0),
        "exponent": Choice((1.0, 0.9, 0.75, 0.5)),
        "strength": Choice((0.0, 1.0, 3.0, 10.0)),
        "half_life_days": _LIVES,
    },
    "ease": {"l2": Range(10.0, 3000.0), "pseudo": Range(0.001, 1.0), "half_life_days": _LIVES},
    "neighbours": {
        "damping": Range(0.0, 1.0, log=False),
        "shrink": Range(1.0, 100.0),
        "pseudo": Range(0.01, 100.0),
        "half_life_days": _LIVES,
    },
    "popular": {"half_life_days": Range(1.0, 3650.0), "smoothing": Range(10.0, 10_000.0)},
}
EPOCHS: Final = {"als": "iterations", "ials": "epochs"}
"""What a trial of the model may be given a third of, to see whether it is worth the rest."""


def suggest(model: str, seen: Sequence[tuple[Params, float]], seed: int, *, timed: bool) -> dict[str, float]:
    """The next setting to try, from the settings and values so far: the same for the same past."""
    space = SPACES[model]
    rng = np.random.default_rng([seed, len(seen)])
    ranked = sorted((one for one in seen if np.isfinite(one[1])), key=lambda one: -one[1])[:PARENTS]
    if len(seen) < RANDOM_FIRST or not ranked or rng.random() < RANDOM_SHARE:
        found = {name: one.draw(rng) for name, one in space.items()}
    else:
        parent = ranked[int(rng.integers(len(ranked)))][0]
        found = {name: one.near(parent[name], rng) for name, one in space.items()}
    return found if timed or model == "popular" else found | {"half_life_days": NEVER}


def section(model: str, params: Params) -> dict[str, Any]:
    """The configuration that makes `fenliu train` try this one setting of the model."""
    lives = [min(params["half_life_days"], NEVER)]
    if model == "als":
        pair = [params["regularization"], params["alpha"]]
        return {
            "factors": int(params["factors"]), "iterations": int(params["iterations"]), "settings": [pair],
            "strengths": [params["strength"]], "half_lives": lives,
        }  # fmt: skip
    if model == "ials":
        return {
            "factors": int(params["factors"]),
            "epochs": int(params["epochs"]),
            "exponent": params["exponent"],
            "settings": [[params["regularization"], params["ratio"]]],
            "strengths": [params["strength"]],
            "half_lives": lives,
        }
    if model == "ease":
        return {"ridges": [params["l2"]], "pseudos": [params["pseudo"]], "half_lives": lives}
    if model == "neighbours":
        names = {"dampings": "damping", "shrinks": "shrink", "pseudos": "pseudo"}
        return {key: [params[name]] for key, name in names.items()} | {"half_lives": lives}
    return {"half_lives": lives, "smoothings": [params["smoothing"]]}
