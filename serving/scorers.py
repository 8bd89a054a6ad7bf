"""From columns to one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.blend import TERMS, Blend
from serving.domain import Candidates, Column, Scores
from serving.pipeline import Page, Scorer


@dataclass(frozen=True)
class Blended(Scorer):
    """The bundle's blend. A column that could not be had counts as not known."""

    blend: Blend

    def score(self, page: Page, candidates: Candidates) -> Scores:  # noqa: ARG002
        return self.blend.score(candidates.items["kind"], *_inputs(candidates))

    def terms(self, page: Page, candidates: Candidates) -> Mapping[str, Column]:  # noqa: ARG002
        table = self.blend.terms(candidates.items["kind"], *_inputs(candidates))
        return {name: table[:, i] for i, name in enumerate(TERMS)}


def _inputs(candidates: Candidates) -> tuple[Scores, Scores, Scores]:
    columns, n = candidates.columns, len(candidates)
    unknown = np.full(n, np.nan, np.float32)
    return (
        columns.get("model", unknown),
        columns.get("popularity", unknown),
        columns.get("fatigue", np.zeros(n, np.float32)),
    )
