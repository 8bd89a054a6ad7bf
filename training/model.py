"""The port that every model is trained through, and what it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.models import ServedModel
from training.item_traits import Traits

Params = Mapping[str, float]
NEVER = 36_500.0
"""A half-life in days by which nothing fades: the service's histories know none that is infinite."""


@dataclass(frozen=True, slots=True)
class Positives:
    """What people did and meant: one entry per (user, item) event, ordered by time.

    `user`, `item` i4 rows; `at` f8 POSIX seconds; `weight` f4 > 0 before any decay.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    at: NDArray[np.float64]
    weight: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: NDArray[Any]) -> Positives:
        return Positives(self.user[chosen], self.item[chosen], self.at[chosen], self.weight[chosen])


@dataclass(frozen=True, slots=True)
class Customers:
    """What is known of the users beside their behaviour, one entry per user row.

    `tokens[indptr[u]:indptr[u+1]]` are user u's profile tokens (`features.transforms.tokens_many`);
    `segment` u2 and `city` u4, 0 unknown.
    """

    indptr: NDArray[np.int64]
    tokens: NDArray[np.uint32]
    segment: NDArray[np.uint16]
    city: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.segment)

    def tokens_of(self, user: int) -> NDArray[np.uint32]:
        return self.tokens[self.indptr[user] : self.indptr[user + 1]]

    @classmethod
    def unknown(cls, n: int) -> Customers:
        return cls(
            np.zeros(n + 1, np.int64), np.zeros(0, np.uint32), np.zeros(n, np.uint16), np.zeros(n, np.uint32)
        )


@dataclass(frozen=True, slots=True)
class TrainData:
    """One training window. `kinds` (n_items,) u1; `now`, to which weights decay, is the window's end.

    `traits`: what is known of the items beside behaviour, by which new ones are placed; None: nothing.
    """

    positives: Positives
    customers: Customers
    kinds: NDArray[np.uint8]
    now: float
    traits: Traits | None = None

    @property
    def n_users(self) -> int:
        return len(self.customers)

    def had_by(self) -> NDArray[np.float64]:
        """(n_items,) the customers with a positive of each item."""
        cell = np.unique(self.positives.user.astype(np.int64) * self.n_items + self.positives.item)
        return np.bincount(cell % self.n_items, minlength=self.n_items).astype(np.float64)

    @property
    def n_items(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True, slots=True)
class Effort:
    """What a fit may use, and what makes it repeatable."""

    seed: int
    threads: int


class Model(Protocol):
    """A way of learning. `fit` repeats: same data, parameters and effort, same arrays, bit for bit."""

    @property
    def name(self) -> str: ...

    def trials(self) -> Sequence[Params]:
        """The hyper-parameters to try on the validation window, the most promising first."""

    def fit(self, data: TrainData, params: Params, effort: Effort) -> ServedModel: ...


def decayed(positives: Positives, now: float, half_life_days: float) -> NDArray[np.float32]:
    """Weights halved each `half_life_days` before `now`; inf: as they are, and so an undated (NaN) event."""
    if not np.isfinite(half_life_days):
        return positives.weight
    age = np.nan_to_num(np.maximum(now - positives.at, 0.0) / 86400.0)
    return (positives.weight * np.exp2(-age / half_life_days)).astype(np.float32)
