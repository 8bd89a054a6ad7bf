"""What customers like: a few interests each, of different weight, that drift and now and then change.

Items and themes are points in one space; a customer holds five themes with weights. The affinity of a
customer for an item is a floor plus the weighted sum of heavy-tailed kernels around those themes: an
ideal-point mixture, not a product of two vectors. It is 1 on average over the catalogue for every theme.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.world.catalogue import Catalogue
from training.world.customers import Customers
from training.world.naming import TOPICS, TOPICS_PER_AREA
from training.world.words import AREA_CODES, AREAS

HELD: Final = 5  # themes a customer holds; the first is always of daily banking
NICHES: Final = 2  # themes a topic
DIMENSIONS: Final = 8
SPREAD: Final = 1.7  # standard deviation of log weights
PULL_BACK: Final = 0.995  # of log weights, a day
SWAP: Final = 0.012  # P(a customer replaces one interest), a day
DAILY: Final = 0.8  # daily banking weighs less than its draw: it is what all have in common
FLOOR: Final = 0.06  # of the affinity: what is owed to no interest

_AREA_SD, _TOPIC_SD, _NICHE_SD, _ITEM_SD = 3.0, 1.2, 0.7, 0.45
_SCALE, _TAIL = 4.0, 3.5


@dataclass(frozen=True)
class Themes:
    """`kernel[t, i]`: affinity of theme t for item i, 1 on average over items. `area[t]`: row of AREAS."""

    kernel: NDArray[np.float32]
    area: NDArray[np.int64]
    steps: NDArray[np.float64]  # row t ascends from t to t + 1: where theme t's own choices fall

    def choose(self, themes: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """The item that each of these themes, left to itself, picks (by kernel and appeal)."""
        flat = np.searchsorted(self.steps.ravel(), themes + uniform, side="right")
        last = self.kernel.shape[1] - 1
        items: NDArray[np.int64] = np.minimum(flat - themes * (last + 1), last)
        return items


class Tastes:
    """Themes and weights of every customer today. `drift` moves them by one day."""

    def __init__(
        self, held: NDArray[np.int64], log_weights: NDArray[np.float64], segment: NDArray[np.int64]
    ) -> None:
        self.held = held
        self._log_weights = log_weights
        order = np.argsort(segment, kind="stable")
        self._neighbours = np.empty_like(order)
        self._neighbours[order] = np.arange(len(order))
        self._order = order
        self.weights = _normalised(log_weights)

    def copy(self) -> Tastes:
        other = object.__new__(Tastes)
        other.__dict__.update(self.__dict__)
        other.held, other._log_weights = self.held.copy(), self._log_weights.copy()
        return other

    def drift(self, rng: np.random.Generator) -> None:
        """A day passes: weights wander; some customers take up an interest of somebody like them."""
        noise = SPREAD * np.sqrt(1 - PULL_BACK**2)
        self._log_weights = PULL_BACK * self._log_weights + rng.normal(0, noise, self.held.shape)
        changed = np.flatnonzero(rng.random(len(self.held)) < SWAP)
        place = rng.integers(1, HELD, len(changed))
        step = rng.integers(-50, 51, len(changed))  # somebody near in the order of segments
        like = self._order[(self._neighbours[changed] + step) % len(self._order)]
        wanted = self.held[like, rng.integers(1, HELD, len(changed))]
        new = (self.held[changed] != wanted[:, None]).all(axis=1)
        self.held[changed[new], place[new]] = wanted[new]
        self.weights = _normalised(self._log_weights)

    def affinity(
        self, themes: Themes, customers: NDArray[np.int64], items: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(n, k) affinities of customers (n) for items (n, k), at least FLOOR."""
        total = np.full(items.shape, FLOOR, np.float32)
        count, flat = themes.kernel.shape[1], themes.kernel.ravel()
        for place in range(HELD):
            base = (self.held[customers, place] * count)[:, None]
            total += (1 - FLOOR) * self.weights[customers, place, None] * flat[base + items]
        return total

    def area_weights(self, themes: Themes) -> NDArray[np.float64]:
        """(customers, areas): the weight of each area among a customer's interests."""
        n = len(self.held)
        flat = np.arange(n)[:, None] * len(AREAS) + themes.area[self.held]
        total = np.bincount(flat.ravel(), self.weights.ravel().astype(np.float64), n * len(AREAS))
        return total.astype(np.float64).reshape(n, len(AREAS))


def draw_themes(rng: np.random.Generator, catalogue: Catalogue) -> Themes:
    areas = np.repeat(rng.normal(0, _AREA_SD, (len(AREAS), DIMENSIONS)), TOPICS_PER_AREA, axis=0)
    topics = areas + rng.normal(0, _TOPIC_SD, (len(TOPICS), DIMENSIONS))
    themes = np.repeat(topics, NICHES, axis=0)
    themes = themes + rng.normal(0, _NICHE_SD, themes.shape)
    points = topics[catalogue.topic] + rng.normal(0, _ITEM_SD, (len(catalogue), DIMENSIONS))
    kernel = np.empty((len(themes), len(catalogue)))
    for row, theme in enumerate(themes):
        kernel[row] = (1 + ((points - theme) ** 2).sum(axis=1) / _SCALE) ** -_TAIL
    kernel /= kernel.mean(axis=1, keepdims=True)
    own = np.cumsum(kernel * catalogue.appeal, axis=1)
    steps = own / own[:, -1:] + np.arange(len(themes))[:, None]
    area = np.repeat(np.arange(len(AREAS)), TOPICS_PER_AREA * NICHES)
    return Themes(kernel.astype(np.float32), area, steps)


def draw_tastes(rng: np.random.Generator, customers: Customers, themes: Themes) -> Tastes:
    """Interests follow age and wealth, with much noise: a profile says something, never all."""
    n, count = len(customers), len(themes.area)
    typical_age = np.array([area.age for area in AREAS])[themes.area] + rng.normal(0, 6, count)
    typical_wealth = np.array([area.wealth for area in AREAS])[themes.area] + rng.normal(0, 0.12, count)
    common = rng.normal(0, 0.4, count)
    held = np.empty((n, HELD), np.int64)
    daily = themes.area == AREA_CODES.index("everyday")
    for first in range(0, n, 4096):
        rows = slice(first, min(first + 4096, n))
        age = ((customers.age[rows, None] - typical_age) / 10) ** 2 / 2
        wealth = ((customers.wealth[rows, None] - typical_wealth) / 0.2) ** 2 / 2
        liking = common - age - wealth + rng.gumbel(0, 1, age.shape)
        held[rows, 0] = np.flatnonzero(daily)[np.argmax(liking[:, daily], axis=1)]
        np.put_along_axis(liking, held[rows, :1], -np.inf, axis=1)
        top = np.argpartition(-liking, HELD - 2, axis=1)[:, : HELD - 1]
        held[rows, 1:] = np.sort(top, axis=1)
    return Tastes(held, rng.normal(0, SPREAD, (n, HELD)), customers.segment)


def _normalised(log_weights: NDArray[np.float64]) -> NDArray[np.float32]:
    weights = np.exp(log_weights)
    weights[:, 0] *= DAILY
    normal: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normal
