"""What a training job may be told, typed; from YAML. The manifest of every bundle repeats it whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from features.attribution import Attribution
from features.ranking import FEATURES
from features.transforms import DAY, EventWeights
from training.als import ImplicitALS
from training.ease import Ease
from training.evaluate import KS
from training.ials import SETTINGS, FrequencyALS
from training.model import NEVER, Model
from training.neighbours import NeighboursByProbability
from training.popular import PopularByDecay
from training.results import OutcomeRules

MODELS = ("als", "neighbours", "popular")
"""What is tried unless the configuration names others."""
KNOWN = ("als", "ials", "ease", "neighbours", "popular")
"""Every model there is, in the order in which they are tried; `ensemble` is made of the others."""
ENSEMBLE = "ensemble"
METRICS = ("recall", "recall_capped", "ndcg", "hr")


class ConfigError(ValueError):
    """A training configuration that cannot be used: the file, the field, what is wrong, what to write."""


class _Typed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Weights(_Typed):
    """What one event of each type says, before decay. An action that is not named says nothing."""

    clicked: float = 1.0
    converted: float = 4.0
    dismissed: float = -1.0
    acted: dict[str, float] = Field(default_factory=lambda: dict(EventWeights().acted))

    def event_weights(self, half_life_days: float) -> EventWeights:
        return EventWeights(
            self.clicked, self.converted, self.dismissed, dict(self.acted), half_life_days=half_life_days
        )


class Outcomes(_Typed):
    """Which outcomes of the bank's own systems count as conversions, and what they are credited to.

    `organic`: those that no display or click is credited with count as well, where they name an item.
    """

    kinds: tuple[str, ...] = OutcomeRules().kinds
    click_window_days: float = Field(30.0, ge=0, le=3650)
    view_window_days: float = Field(1.0, ge=0, le=3650)
    channels: tuple[Literal["app", "h5", "mini_program", "web", "push"], ...] = ()
    credit: Literal["last_touch", "linear"] = "last_touch"
    organic: bool = True

    def rules(self) -> OutcomeRules:
        windows = (self.click_window_days * DAY, self.view_window_days * DAY)
        return OutcomeRules(self.kinds, Attribution(*windows, self.channels, self.credit), self.organic)


class AlsGrid(_Typed):
    """`settings`: (regularization, alpha), a fit each; `strengths`: of the prior; `half_lives` in days."""

    factors: int = Field(64, ge=1, le=1024)
    iterations: int = Field(12, ge=1, le=200)
    settings: tuple[tuple[float, float], ...] = ((3.0, 1.0), (100.0, 10.0), (30.0, 3.0))
    strengths: tuple[float, ...] = (1.0, 0.1)
    half_lives: tuple[float, ...] = (365.0, 30.0)


class IalsGrid(_Typed):
    """`settings`: (regularization, ratio of the unobserved weight to the observed), a fit each; `fixed`:
    (regularization, unobserved weight) in their place; `strengths`: items that the prior is worth.
    """

    factors: int = Field(64, ge=1, le=1024)
    epochs: int = Field(12, ge=1, le=500)
    settings: tuple[tuple[float, float], ...] = SETTINGS
    fixed: tuple[tuple[float, float], ...] = ()
    exponent: float = Field(1.0, ge=0, le=2)
    strengths: tuple[float, ...] = (1.0,)
    half_lives: tuple[float, ...] = (NEVER, 30.0)
    block: int = Field(128, ge=1, le=1024)


class EaseGrid(_Typed):
    """`ridges`: an inverse each; `pseudos`: the pull to popularity; `top`: weights kept of an item of a
    catalogue of more than `whole_up_to` items.
    """

    ridges: tuple[float, ...] = (300.0, 1000.0, 100.0, 30.0)
    pseudos: tuple[float, ...] = (0.01,)
    half_lives: tuple[float, ...] = (NEVER, 30.0)
    top: int = Field(200, ge=1)
    whole_up_to: int = Field(4_000, ge=0, le=20_000)


class NeighboursGrid(_Typed):
    dampings: tuple[float, ...] = (0.3, 0.0)
    shrinks: tuple[float, ...] = (10.0,)
    pseudos: tuple[float, ...] = (0.05, 1.0, 10.0)
    half_lives: tuple[float, ...] = (365.0, 30.0)


class PopularGrid(_Typed):
    half_lives: tuple[float, ...] = (90.0, 365.0, 30.0, 7.0, 3650.0, 1.0)
    smoothings: tuple[float, ...] = (2000.0, 200.0)


class Evaluation(_Typed):
    """`repeats`: may a customer want an item again? `auto`: yes, where a fifth of what is held out is such.

    `learn_from`: what the models that are tested learn from. `auto`: of a split that the source marks, only
    the training part, so that figures compare with published ones; else the validation part as well.
    """

    protocol: Literal["auto", "temporal", "given", "leave_last_out"] = "auto"
    repeats: Literal["auto", "mask", "keep"] = "auto"
    learn_from: Literal["auto", "train", "train_and_valid"] = "auto"
    tuning_customers: int = Field(1500, ge=10)
    test_customers: int = Field(20_000, ge=10)
    most_trials: int = Field(12, ge=1)


class GateRules(_Typed):
    """`margin`: how much worse, relative to the other's value, is not worse yet.

    `slice_margin`: the same of a segment against popularity; `group_ratio`: a group's metric over
    everybody's; both only of `fewest_slice` customers or more. `concentration`: the share of places that a
    hundredth of the items may take; `drift`: the stability index against the live bundle.
    `off_policy_margin`: how much less it may earn on logged pages with lotteries, relative to what was earned
    there; of at most `off_policy_pages` (0: not asked). `hold`: what passes is published and not made live,
    for a release that waits (`fenliu bundle shadow`).
    """

    metric: str = "recall@20"
    margin: float = Field(0.02, ge=0, le=1)
    index_recall: float = Field(0.99, ge=0, le=1)
    fewest_customers: int = Field(20, ge=1)
    slice_margin: float = Field(0.1, ge=0, le=1)
    group_ratio: float = Field(0.5, ge=0, le=1)
    fewest_slice: int = Field(100, ge=1)
    concentration: float = Field(1.0, gt=0, le=1)
    drift: float = Field(2.0, gt=0)
    off_policy_margin: float = Field(0.05, ge=0, le=1)
    off_policy_pages: int = Field(5_000, ge=0)
    hold: bool = False

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        known = [f"{name}@{k}" for name in METRICS for k in KS] + ["map", "mrr"]
        if metric not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return metric

    def metric_for(self, n_items: int) -> str:
        """The metric by which models are tuned, picked and judged over a catalogue of `n_items`.

        As configured; unless nothing was configured and the default's 20 places are more than a quarter of
        the catalogue: every ranking is then nearly right, and the reciprocal rank is what tells them apart.
        """
        if "metric" not in self.model_fields_set and n_items < 4 * 20:
            return "mrr"
        return self.metric


class RankerGrid(_Typed):
    """The second stage. `pages`: logged pages looked at in each window; `monotone`: features that may only
    lift (1) or only lower (-1) a score.
    """

    enabled: bool = True
    pages: int = Field(20_000, ge=1)
    fewest_displays: int = Field(20_000, ge=100)
    fewest_clicks: int = Field(300, ge=20)
    trees: int = Field(32, ge=1, le=200)
    leaves: int = Field(16, ge=2, le=16)
    monotone: dict[str, Literal[-1, 1]] = {"tired": -1}

    @field_validator("monotone")
    @classmethod
    def _named(cls, monotone: dict[str, int]) -> dict[str, int]:
        if strange := sorted(set(monotone) - set(FEATURES)):
            raise ValueError(f"knows no {', '.join(strange)}: features are {', '.join(FEATURES)}")
        return monotone


class TrainConfig(_Typed):
    """One training job. `threads` is part of what makes it repeatable; `window_days` None: all events."""

    seed: int = Field(7, ge=0, lt=2**32)
    threads: int = Field(2, ge=1, le=256)
    window_days: float | None = Field(None, gt=0)
    weights: Weights = Weights()
    outcomes: Outcomes = Outcomes()
    models: tuple[Literal["als", "ials", "ease", "neighbours", "popular", "ensemble"], ...] = MODELS  # type: ignore[assignment]  # the same names
    als: AlsGrid = AlsGrid()
    ials: IalsGrid = IalsGrid()
    ease: EaseGrid = EaseGrid()
    neighbours: NeighboursGrid = NeighboursGrid()
    popular: PopularGrid = PopularGrid()
    ranker: RankerGrid = RankerGrid()
    evaluation: Evaluation = Evaluation()
    gate: GateRules = GateRules()

    def build_models(self) -> dict[str, Model]:
        """The models to try, by name; popularity always, as the baseline."""
        made: dict[str, Model] = {
            "als": ImplicitALS(**self.als.model_dump()),
            "ials": FrequencyALS(**self.ials.model_dump()),
            "ease": Ease(**self.ease.model_dump()),
            "neighbours": NeighboursByProbability(**self.neighbours.model_dump()),
            "popular": PopularByDecay(**self.popular.model_dump()),
        }
        return {name: made[name] for name in KNOWN if name in self.models or name == "popular"}

    @property
    def blends(self) -> bool:
        """Whether the models are also tried together."""
        return ENSEMBLE in self.models


def read_config(path: Path | None) -> TrainConfig:
    """The configuration in a YAML file; the defaults without one. Raises ConfigError."""
    if path is None:
        return TrainConfig()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML ({error})") from error
    return parse_config({} if raw is None else raw, str(path))


def parse_config(raw: Mapping[str, Any] | Any, where: str = "configuration") -> TrainConfig:
    """Raises ConfigError naming the first field that is wrong."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: must hold names and values, such as `seed: 7`")
    try:
        return TrainConfig.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(f"{where}: {field}: {first['msg']}") from error
