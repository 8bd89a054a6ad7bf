"""A dataset in a run's folder, so that a resumed run does not read the lake again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from features.ids import Vocabulary
from features.transforms import EventWeights
from serving.catalogue import CompiledItems
from training.dataset import Dataset, Others
from training.interactions import Interactions
from training.profiles import Profiles


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Arrays as `.npy`, subjects as JSON; not the items, which are compiled from the lake's catalogue."""
    for name in Interactions.__slots__:
        np.save(folder / f"{name}.npy", getattr(dataset.interactions, name), allow_pickle=False)
    np.save(folder / "profiles.npy", dataset.profiles.records, allow_pickle=False)
    np.save(folder / "known.npy", dataset.profiles.known, allow_pickle=False)
    for name, column in dataset.others._asdict().items():
        np.save(folder / f"others_{name}.npy", column, allow_pickle=False)
    said = {"subjects": dataset.subjects, "now": dataset.now, "dropped": dataset.dropped}
    (folder / "dataset.json").write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")


def load_dataset(folder: Path, items: CompiledItems, weights: EventWeights) -> Dataset:
    """What `save_dataset` wrote, over the same catalogue and weights."""
    columns: list[Any] = [
        np.load(folder / f"{name}.npy", allow_pickle=False) for name in Interactions.__slots__
    ]
    said = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return Dataset(
        subjects=tuple(said["subjects"]),
        items=Vocabulary(items.ids),
        compiled=items,
        interactions=Interactions(*columns),
        profiles=Profiles(
            np.load(folder / "profiles.npy", allow_pickle=False),
            np.load(folder / "known.npy", allow_pickle=False),
        ),
        weights=weights,
        now=said["now"],
        dropped=said["dropped"],
        others=Others(
            np.load(folder / "others_user.npy", allow_pickle=False),
            np.load(folder / "others_at.npy", allow_pickle=False),
        ),
    )
