"""Where `fenliu tune` searches, and how Optuna is asked for the next setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from training.model import NEVER, Params

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


@dataclass(frozen=True, slots=True)
class Range:
    """Between `low` and `high`; `log`: by factors."""

    low: float
    high: float
    log: bool = True

    def ask(self, trial: BaseTrial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few."""

    values: tuple[float, ...]

    def ask(self, trial: BaseTrial, name: str) -> float:
        return float(trial.suggest_categorical(name, list(self.values)))


Space = Mapping[str, Range | Choice]
_WIDTHS: Final = Choice((16.0, 32.0, 64.0, 128.0, 192.0, 256.0))
_LIVES: Final = Choice((NEVER, 365.0, 90.0, 30.0, 10.0))

SPACES: Final[Mapping[str, Space]] = {
    "als": {
        "factors": _WIDTHS,
        "regularization": Range(0.1, 300.0),
        "alpha": Range(0.3, 50.0),
        "strength": Range(0.01, 3.0),
        "half_life_days": _LIVES,
    },
    "ials": {
        "factors": _WIDTHS,
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


def suggest(trial: BaseTrial, model: str, *, timed: bool) -> dict[str, float]:
    """The trial's setting; without times nothing decays."""
    fixed = set() if timed or model == "popular" else {"half_life_days"}
    found = {name: one.ask(trial, name) for name, one in SPACES[model].items() if name not in fixed}
    return found | dict.fromkeys(fixed, NEVER)


def first(model: str, params: Params, *, timed: bool) -> dict[str, float] | None:
    """The model's own first setting as a trial, so that no search ends below it; None outside the space."""
    found: dict[str, float] = {}
    for name, space in SPACES[model].items():
        if name == "half_life_days" and not timed and model != "popular":
            continue
        value = params[name]
        inside = value in space.values if isinstance(space, Choice) else space.low <= value <= space.high
        if not inside:
            return None
        found[name] = value
    return found


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
