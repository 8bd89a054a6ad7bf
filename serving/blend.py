"""One score for candidates of every source: a small logistic model per item kind, fitted on later data.

Its inputs are few, and the same in training and in service: the model's score, the log of the item's share in
the customer's segment, whether the model knows the item at all, and how often it was displayed in vain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from serving.domain import Scores

TERMS: Final = ("bias", "model_score", "log_popularity", "has_vector", "fatigue")
LOWEST_LOG_POPULARITY: Final = float(np.log(1e-9))  # of an item nobody has touched, or that came later


class Looks(NamedTuple):
    """What the blend says of every row before fatigue: logit = slope · model's score + with_model, or
    `without` where the model says nothing."""

    model: Scores  # (rows that the model knows,) scores
    slope: Scores  # (rows,)
    with_model: Scores
    without: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """`coefficients` (kinds, terms) f4: one logistic model per item kind. Scores lie in (0, 1)."""

    coefficients: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.coefficients.shape != (len(KINDS), len(TERMS)):
            raise ValueError(f"a blend is {(len(KINDS), len(TERMS))}, not {self.coefficients.shape}")
        if not np.isfinite(self.coefficients).all():
            raise ValueError("a blend's coefficients must be finite")

    @classmethod
    def neutral(cls) -> Blend:
        """Before anything is fitted: the model where it speaks, popularity where not, less of what tires."""
        return cls(np.tile(np.array([0.0, 2.0, 0.25, 0.5, -0.3], np.float32), (len(KINDS), 1)))

    def terms(
        self, kinds: NDArray[np.uint8], model_score: Scores, log_popularity: Scores, fatigue: Scores
    ) -> Scores:
        """What each term adds to the logit, (n, terms): the explanation of a score."""
        added: Scores = self.coefficients[kinds] * columns_of(model_score, log_popularity, fatigue)
        return added

    def logit(
        self, kinds: NDArray[np.uint8], model_score: Scores, log_popularity: Scores, fatigue: Scores
    ) -> Scores:
        """(n,) f4, finite whatever is not known."""
        columns = columns_of(model_score, log_popularity, fatigue)
        z: Scores = np.einsum("ij,ij->i", self.coefficients[kinds], columns)
        return z

    def score(
        self, kinds: NDArray[np.uint8], model_score: Scores, log_popularity: Scores, fatigue: Scores
    ) -> Scores:
        """(n,) f4 in (0, 1). `kinds` are codes of KINDS; the others are as in `columns_of`."""
        return probability(self.logit(kinds, model_score, log_popularity, fatigue))

    def save(self, folder: Path) -> None:
        body = {"kinds": KINDS, "terms": TERMS, "coefficients": self.coefficients.tolist()}
        (folder / "blend.json").write_text(json.dumps(body, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Blend:
        """Raises ValueError when it was written for other kinds or terms."""
        body: dict[str, Any] = json.loads((folder / "blend.json").read_text())
        if body["kinds"] != list(KINDS) or body["terms"] != list(TERMS):
            raise ValueError(
                f"{folder}/blend.json was made for {body['terms']}, not {list(TERMS)}: train again"
            )
        return cls(np.array(body["coefficients"], np.float32))


def probability(logit: Scores) -> Scores:
    """The logistic function, in (0, 1) also in single precision."""
    return probability_of(np.minimum(np.maximum(-logit, -15), 15))


def probability_of(against: Scores) -> Scores:
    """The same of logits with their sign turned, within 15 of 0; they are written over."""
    np.exp(against, out=against)  # NumPy's: the compiler's differs in the last bit
    against += 1
    return np.reciprocal(against, out=against)


def columns_of(model_score: Scores, log_popularity: Scores, fatigue: Scores) -> Scores:
    """The terms of n candidates before their coefficients, (n, terms), finite.

    `model_score`: NaN where the model knows nothing of the item; `log_popularity`: log of the share in the
    customer's segment, NaN where there is none; `fatigue`: displays without an answer lately, decayed.
    """
    columns = np.empty((len(model_score), len(TERMS)), np.float32)
    known = np.isfinite(model_score)
    columns[:, 0] = 1
    columns[:, 1] = np.where(known, model_score, 0)
    columns[:, 2] = np.where(np.isfinite(log_popularity), log_popularity, LOWEST_LOG_POPULARITY)
    columns[:, 3] = known
    columns[:, 4] = fatigue
    return columns
