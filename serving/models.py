"""The models a bundle may serve by, and their tables. Evaluation ranks with these very objects.

    als         `VectorModel`     prior from the profile, folded in from recent items
    ials        `IalsModel`       iALS: the same with frequency-scaled regularisation
    neighbours  `NeighbourModel`  conditional probability, shrunk to popularity
    ease        `EaseModel`       closed-form item-item weights, shrunk to popularity
    ensemble    `EnsembleModel`   a weighted sum of several of these
    popular     `PopularModel`    by segment, with decay

Adding one: a class with the port `ServedModel`, a line in `_LOADERS`, a `training.model.Model` that fits it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from serving.blend import TERMS, Blend
from serving.ensemble_model import EnsembleModel
from serving.ials_model import IalsModel
from serving.table_models import EaseModel, NeighbourModel, PopularModel
from serving.tables import Neighbours, Popular
from serving.taste import KindRows, ServedModel, Taste, best_rows
from serving.vector_model import ItemVectors, Prior, VectorModel

__all__ = [
    "TERMS",
    "Blend",
    "EaseModel",
    "EnsembleModel",
    "IalsModel",
    "ItemVectors",
    "KindRows",
    "NeighbourModel",
    "Neighbours",
    "Popular",
    "PopularModel",
    "Prior",
    "ServedModel",
    "Taste",
    "VectorModel",
    "best_rows",
    "load_model",
]

_LOADERS: dict[str, Callable[[Path], ServedModel]] = {
    VectorModel.name: VectorModel.load,
    NeighbourModel.name: NeighbourModel.load,
    PopularModel.name: PopularModel.load,
    IalsModel.name: IalsModel.load,
    EaseModel.name: EaseModel.load,
}


def load_model(folder: Path) -> ServedModel:
    """The model that `save` wrote. Raises ValueError for a kind of model this version does not know."""
    kind = json.loads((folder / "model.json").read_text())["model"]
    if kind == EnsembleModel.name:
        return EnsembleModel.load(folder, load_model)
    if kind not in _LOADERS:
        raise ValueError(
            f"{folder}/model.json names the model {kind!r}; known: {', '.join(sorted(_LOADERS))}"
        )
    return _LOADERS[kind](folder)
