"""The Open Bandit data (Saito et al. 2021) in its small form: two logs, three positions, 34 items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.ope.estimators import Floats, Logged
from training.ope.rewards import cross_fitted
from training.usage import UsageError

FOLDER: Final = "open-bandit-men"
LOGS: Final = {"random": "random_men.csv.gz", "bts": "bts_men.csv.gz"}
PUBLISHED: Final = {"dm": 0.157, "ips": 0.311, "snips": 0.312, "dr": 0.292}
"""Relative errors, random -> Bernoulli-TS, on the full data (30 bootstraps)."""


EVEN: Final = 1e-6  # relative


@dataclass(frozen=True, slots=True)
class Rounds:
    item: NDArray[np.int64]
    position: NDArray[np.int64]  # from 0
    click: Floats
    chance: Floats
    items: int

    def __len__(self) -> int:
        return len(self.click)

    @property
    def frequencies(self) -> Floats:
        """(positions, items) how often the policy showed each item at each position: what stands for it."""
        counts = np.zeros((int(self.position.max()) + 1, self.items))
        np.add.at(counts, (self.position, self.item), 1.0)
        shares: Floats = counts / counts.sum(axis=1, keepdims=True)
        return shares

    def take(self, rows: NDArray[np.int64]) -> Rounds:
        return Rounds(self.item[rows], self.position[rows], self.click[rows], self.chance[rows], self.items)


def load(data: Path, log: str) -> Rounds:
    """UsageError where the file is absent."""
    path = data / FOLDER / LOGS[log]
    if not path.exists():
        raise UsageError(f"{path} is not there: name the folder of the data sets by FENLIU_DATA")
    table = pd.read_csv(path, usecols=["item_id", "position", "click", "propensity_score"])
    items = int(pd.read_csv(data / FOLDER / "item_context.csv", usecols=["item_id"])["item_id"].max()) + 1
    position = table["position"].to_numpy(np.int64)
    return Rounds(
        table["item_id"].to_numpy(np.int64),
        position - position.min(),
        table["click"].to_numpy(np.float64),
        table["propensity_score"].to_numpy(np.float64),
        items,
    )


def seen_as(log: Rounds, policy: Floats, rng: np.random.Generator) -> Logged:
    """A log under another policy, (positions, items) chances, with a model of clicks by item and position."""
    q, v = cross_fitted(log.click, log.item, log.position, policy, rng)
    bound = None
    if np.ptp(log.chance) < EVEN * log.chance[0]:  # uniform: so the chances of what was not shown are known
        bound = (policy.max(axis=1) / log.chance[0])[log.position]
    return Logged(log.click, log.chance, policy[log.position, log.item], q, v, bound=bound)
