"""Look-alikes: customers who resemble those of a seed list, by their profiles.

Logistic regression of seed against the rest of the base (learning from positive and unlabelled examples:
Elkan and Noto, KDD 2008; for the ranking a constant factor does not matter), on standardised numbers, whether
they are known, codes and attributes. Part of the seeds is held out: the lift says how many times more often a
held-out seed scores as the top N do than a customer taken at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from features.views import PROFILE
from training.base_columns import Base

AGAINST: Final = 10  # customers of the base per seed to learn from
MOST: Final = 200_000  # rows to learn from
HELD_OUT: Final = 0.2
FEWEST: Final = 20  # seeds that are in the base
RIDGE: Final = 1e-2
STRETCH: Final = 1 << 16
NUMBERS: Final = (
    "age",
    "assets",
    "income",
    "tenure_days",
    "clicks_30d",
    "conversions_90d",
    "active_days_30d",
)
CODES: Final = ("gender", "star_level", "payroll", "lifecycle", "city_tier", "risk_level", "age_band")
ATTRIBUTES_USED: Final = 64  # the most frequent tokens


class LookalikeError(ValueError):
    """No look-alikes can be found from these seeds; says why."""


@dataclass(frozen=True, slots=True)
class Lookalikes:
    """`rows` of the base, best first; `lift` on held-out seeds, with a 90 % interval by bootstrap."""

    rows: NDArray[np.int64]
    lift: float
    interval: tuple[float, float]
    seeds: int
    held_out: int


class _Encoder(NamedTuple):
    """What is made of a profile: fitted on the rows learnt from."""

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    codes: tuple[NDArray[np.int64], ...]  # per CODES: the values that have a column each
    tokens: NDArray[np.uint32]


def lookalikes(base: Base, seeds: NDArray[np.int64], top: int, rng: np.random.Generator) -> Lookalikes:
    """The `top` customers of the base most like the seeds (rows), seeds left out.

    Personalisation refused: neither learnt from nor found. Raises LookalikeError for too few seeds.
    """
    allowed = np.asarray(base.fields["profiling"]) != 0
    seeds = np.unique(seeds[allowed[seeds]])
    if len(seeds) < FEWEST:
        raise LookalikeError(
            f"{len(seeds)} seeds are in the base and allow personalisation; {FEWEST} are needed"
        )
    shuffled = rng.permutation(seeds)
    held = np.sort(shuffled[: max(1, round(len(seeds) * HELD_OUT))])
    learnt = np.sort(shuffled[len(held) :])[: MOST // 2]
    is_seed = np.zeros(base.n, np.bool_)
    is_seed[seeds] = True
    others = np.flatnonzero(allowed & ~is_seed)
    if not len(others):
        raise LookalikeError("every customer is a seed: nobody is left to be found")
    against = np.sort(rng.choice(others, min(len(others), AGAINST * len(learnt), MOST), replace=False))
    rows = np.concatenate([learnt, against])
    encoder = _encoder(base, rows)
    x, y = _encoded(base, encoder, rows), np.arange(len(rows)) < len(learnt)
    weights = _fitted(x, y)
    score = np.concatenate(
        [
            _encoded(base, encoder, np.arange(at, min(at + STRETCH, base.n))) @ weights
            for at in range(0, base.n, STRETCH)
        ]
    )
    score[~allowed] = -np.inf
    top = min(top, len(others))
    chosen = others[np.lexsort((others, -score[others]))[:top]]
    lift, interval = _lift(score, held, others, top, rng)
    return Lookalikes(chosen, lift, interval, len(seeds), len(held))


def _lift(
    score: NDArray[np.float64],
    held: NDArray[np.int64],
    others: NDArray[np.int64],
    top: int,
    rng: np.random.Generator,
) -> tuple[float, tuple[float, float]]:
    """Held-out seeds above the score of the last one chosen, over what chance would give."""
    bar = np.partition(score[others], len(others) - top)[len(others) - top]
    above = score[held] >= bar
    chance = float((score[others] >= bar).mean())
    drawn = above[rng.integers(len(held), size=(500, len(held)))].mean(axis=1) / chance
    low, high = np.quantile(drawn, (0.05, 0.95)).tolist()
    return float(above.mean()) / chance, (low, high)


def _fitted(x: NDArray[np.float64], y: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights by L-BFGS; both classes weigh the same, the first column (the constant) is not shrunk."""
    sign = np.where(y, 1.0, -1.0)
    weight = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
    shrunk = np.full(x.shape[1], RIDGE)
    shrunk[0] = 0.0

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (x @ w)
        value = float(weight @ np.logaddexp(0.0, -margin)) + 0.5 * float(shrunk @ (w * w))
        slope = -weight * sign * special.expit(-margin)
        return value, x.T @ slope + shrunk * w

    found: Any = optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    weights: NDArray[np.float64] = found.x
    return weights


def _encoder(base: Base, rows: NDArray[np.int64]) -> _Encoder:
    numbers, known = _numbers(base, rows)
    n = np.maximum(known.sum(axis=0), 1)
    centre = (numbers * known).sum(axis=0) / n
    spread = np.sqrt((((numbers - centre) * known) ** 2).sum(axis=0) / n)
    codes = tuple(np.unique(np.asarray(base.fields[name][rows], np.int64))[:40] for name in CODES)
    tokens, counts = np.unique(np.asarray(base.fields["attributes"][rows]), return_counts=True)
    common = np.argsort(-np.where(tokens == 0, 0, counts), kind="stable")[:ATTRIBUTES_USED]
    return _Encoder(centre, np.where(spread > 0, spread, 1.0), codes, np.sort(tokens[common]))


def _encoded(base: Base, encoder: _Encoder, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, columns): a constant, numbers and whether they are known, codes and attributes as 0 or 1."""
    numbers, known = _numbers(base, rows)
    parts = [np.ones((len(rows), 1)), (numbers - encoder.centre) / encoder.scale * known, known * 1.0]
    bits = np.asarray(base.known[rows])
    for name, values in zip(CODES, encoder.codes, strict=True):
        there = (bits & np.uint64(PROFILE.bit(name))) != 0
        parts.append((np.asarray(base.fields[name][rows])[:, None] == values) & there[:, None])
    held = np.asarray(base.fields["attributes"][rows])
    has = np.zeros((len(rows), len(encoder.tokens)), np.bool_)
    for k in range(held.shape[1]):
        at = np.minimum(np.searchsorted(encoder.tokens, held[:, k]), len(encoder.tokens) - 1)
        same = np.flatnonzero((encoder.tokens[at] == held[:, k]) & (held[:, k] != 0))
        has[same, at[same]] = True
    return np.concatenate([*parts, has], axis=1).astype(np.float64)


def _numbers(base: Base, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Amounts on a logarithmic scale: they range over orders of magnitude."""
    bits = np.asarray(base.known[rows])
    columns = [np.log1p(np.asarray(base.fields[name][rows], np.float64)) for name in NUMBERS]
    known = [(bits & np.uint64(PROFILE.bit(name))) != 0 for name in NUMBERS]
    return np.stack(columns, axis=1), np.stack(known, axis=1)
