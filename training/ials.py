"""iALS with frequency-scaled regularisation (Rendle et al. 2021), by a block solver on both cores.

    L = Σ_{(u,i) seen} v_ui (x_u·y_i − 1)² + α₀ Σ_{u,i} (x_u·y_i)² + Σ_u ρ(n_u) |x_u|² + Σ_i ρ(n_i) |y_i|²,
    ρ(n_u) = λ (n_u + α₀ |I|)^ν,  ρ(n_i) = λ (n_i + α₀ |U|)^ν

with v = log2(1 + decayed weight), 1 for one event, and n the sums of v. The weight of
all that a user has not met is α₀ |I|; its `ratio` to what they have met, α₀ |I| / mean n_u, means the same on
every data set, which α₀ does not: published settings lie between 3 and 30.
`implicit` has neither the exponent
nor the unobserved weight apart from the rest. Every pass lowers L; served by `serving.ials_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from serving.ials_model import IalsModel, Ridge
from training.ials_kernel import improve_rows
from training.model import NEVER, Effort, Params, Positives, TrainData, decayed
from training.placing import placed
from training.prior import fit_prior

FEWEST_EVENTS = 3  # items a user needs for the factors to say something about the profile's part
SETTINGS = ((0.03, 5.0), (0.01, 35.0), (0.01, 10.0), (0.03, 15.0), (0.003, 30.0), (0.003, 100.0))
INIT = 0.1  # standard deviation of the first factors, times 1 / sqrt(d), as published
BLOCK = 128  # dimensions solved at once
_SHARES = 8  # parts a pass is cut into, for each thread
_FIT = ("factors", "epochs", "regularization", "unobserved", "ratio", "exponent", "half_life_days")


class Factors(NamedTuple):
    """One fit: user (n_users, d) and item vectors (n_items, d), who had enough to be learnt from, and α₀."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    active: NDArray[np.bool_]
    unobserved: float


@dataclass(slots=True)
class FrequencyALS:
    """Tries regularisation with the unobserved weight (a fit each), and the prior's strength (a fold-in).

    `settings` holds (regularization, ratio); `fixed`, where given, (regularization, unobserved) instead.

    The factors are kept between trials on the same window that differ in `strength` only.
    """

    factors: int = 64
    epochs: int = 12
    settings: tuple[tuple[float, float], ...] = SETTINGS
    fixed: tuple[tuple[float, float], ...] = ()
    exponent: float = 1.0
    strengths: tuple[float, ...] = (1.0,)
    half_lives: tuple[float, ...] = (NEVER, 30.0)
    block: int = BLOCK
    name: ClassVar[str] = "ials"
    _fitted: tuple[Positives, tuple[float, ...], Factors] | None = field(default=None, repr=False)

    def trials(self) -> Sequence[Params]:
        """`unobserved` 0: by the ratio."""
        chosen = [(one, 0.0, ratio) for one, ratio in self.settings]
        if self.fixed:
            chosen = [(one, unobserved, 0.0) for one, unobserved in self.fixed]
        return [
            {
                "factors": float(self.factors),
                "epochs": float(self.epochs),
                "regularization": regularization,
                "unobserved": unobserved,
                "ratio": ratio,
                "exponent": self.exponent,
                "half_life_days": half_life,
                "strength": strength,
            }
            for regularization, unobserved, ratio in chosen
            for half_life in self.half_lives
            for strength in self.strengths
        ]

    def fit(self, data: TrainData, params: Params, effort: Effort) -> IalsModel:
        wanted = tuple(params[name] for name in _FIT)
        if self._fitted is None or self._fitted[0] is not data.positives or self._fitted[1] != wanted:
            self._fitted = (data.positives, wanted, fit_factors(data, params, effort, self.block))
        return served(self._fitted[2], data, params)


def served(found: Factors, data: TrainData, params: Params) -> IalsModel:
    """The model the service asks, rotated so that the items' Gram matrix is diagonal."""
    wide = found.items.astype(np.float64)
    turn = np.linalg.eigh(wide.T @ wide)[1][:, ::-1]
    prior = fit_prior((found.users @ turn).astype(np.float32), found.active, data.customers)
    unobserved = found.unobserved
    ridge = Ridge(params["regularization"], unobserved, params["exponent"], unobserved * data.n_items)
    vectors = np.ascontiguousarray((wide @ turn).astype(np.float32))
    return IalsModel(vectors, data.kinds, prior, ridge=ridge, strength=params["strength"])


def fit_factors(data: TrainData, params: Params, effort: Effort, block: int = BLOCK) -> Factors:
    """Raises ValueError where the fit is not finite."""
    seen = observed(data, params["half_life_days"])
    width = int(max(2, min(params["factors"], *seen.shape)))
    fitting = Fitting(seen, width, params, effort, block)
    for _ in range(int(params["epochs"])):
        fitting.epoch()
    if not (np.isfinite(fitting.users).all() and np.isfinite(fitting.items).all()):
        raise ValueError(
            f"iALS gave factors that are not finite with {dict(params)}; raise the regularization"
        )
    items = placed(fitting.items, data.had_by(), data.traits, seed=effort.seed)
    return Factors(fitting.users, items, np.diff(seen.indptr) >= FEWEST_EVENTS, fitting.unobserved)


def observed(data: TrainData, half_life_days: float) -> sparse.csr_matrix:
    """log2(1 + decayed weight) of each user and item that met: (n_users, n_items) f4."""
    weight = decayed(data.positives, data.now, half_life_days)
    cell = (data.positives.user, data.positives.item)
    matrix = sparse.csr_matrix((weight, cell), shape=(data.n_users, data.n_items), dtype=np.float32)
    matrix.sum_duplicates()
    matrix.data = np.log2(1.0 + matrix.data).astype(np.float32)
    return matrix


class Fitting:
    """Factors under way. One `epoch` is a pass over the users, then one over the items."""

    def __init__(
        self, seen: sparse.csr_matrix, width: int, params: Params, effort: Effort, block: int = BLOCK
    ) -> None:
        rng = np.random.default_rng(effort.seed)
        deviation = INIT / np.sqrt(width)
        n_users, n_items = seen.shape
        self.users = _normal(rng, n_users, width, deviation)
        self.items = _normal(rng, n_items, width, deviation)
        self.unobserved = unobserved_of(seen, params)
        self.block, self.threads = min(block, width), effort.threads
        self.by_user, self.by_item = _side(seen), _side(seen.T.tocsr())
        self.user_ridge = _ridges(self.by_user, self.unobserved * n_items, params)
        self.item_ridge = _ridges(self.by_item, self.unobserved * n_users, params)

    def epoch(self) -> None:
        with threadpool_limits(limits=1, user_api="blas"):  # a thread a part: no more inside
            self._pass(self.users, self.items, self.by_user, self.user_ridge)
            self._pass(self.items, self.users, self.by_item, self.item_ridge)

    def _pass(
        self, rows: NDArray[np.float32], other: NDArray[np.float32], side: Side, ridge: NDArray[np.float32]
    ) -> None:
        gram = np.float32(self.unobserved) * (other.T @ other)
        cuts = _cuts(side.indptr, self.threads * _SHARES)

        def part(first: int, end: int) -> None:
            improve_rows(rows, other, gram, *side, ridge, self.block, first, end)

        _together(part, list(pairwise(cuts)), self.threads)

    def objective(self) -> float:
        """L, in double precision."""
        x, y = self.users.astype(np.float64), self.items.astype(np.float64)
        indptr, indices, weight = self.by_user
        owner = np.repeat(np.arange(len(x)), np.diff(indptr))
        miss = np.einsum("ij,ij->i", x[owner], y[indices]) - 1.0
        everywhere = float(((x.T @ x) * (y.T @ y)).sum())
        pulls = float(
            (self.user_ridge * (x**2).sum(axis=1)).sum() + (self.item_ridge * (y**2).sum(axis=1)).sum()
        )
        return float((weight * miss**2).sum()) + self.unobserved * everywhere + pulls


def warm_up() -> None:
    """Have the kernel compiled, or read from its cache, before a fit is timed."""
    one = sparse.csr_matrix(np.ones((2, 2), np.float32))
    params = {"regularization": 1.0, "unobserved": 1.0, "exponent": 1.0}
    Fitting(one, 2, params, Effort(0, 1)).epoch()


def unobserved_of(seen: sparse.csr_matrix, params: Params) -> float:
    """α₀ as given, else from the ratio: what an average user has met, times the ratio, over all items."""
    if params["unobserved"] > 0:
        return params["unobserved"]
    users = max(int((np.diff(seen.indptr) > 0).sum()), 1)
    return params["ratio"] * float(seen.data.sum(dtype=np.float64)) / users / seen.shape[1]


class Side(NamedTuple):
    """CSR of one side."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    weight: NDArray[np.float32]


def _side(matrix: sparse.csr_matrix) -> Side:
    return Side(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32)
    )


def _normal(rng: np.random.Generator, n: int, width: int, deviation: float) -> NDArray[np.float32]:
    return rng.standard_normal((n, width), np.float32) * np.float32(deviation)


def _ridges(side: Side, base: float, params: Params) -> NDArray[np.float32]:
    owner = np.repeat(np.arange(len(side.indptr) - 1), np.diff(side.indptr))
    n = np.bincount(owner, side.weight, len(side.indptr) - 1)
    return (params["regularization"] * (n + base) ** params["exponent"]).astype(np.float32)


def _cuts(indptr: NDArray[np.int64], parts: int) -> list[int]:
    """Rows cut into parts of about equal work."""
    rows = len(indptr) - 1
    work = indptr + 20 * np.arange(rows + 1)
    inner = np.searchsorted(work, np.linspace(0, work[-1], parts + 1)[1:-1])
    return [0, *np.minimum(inner, rows).tolist(), rows]


def _together(part: Callable[[int, int], None], cuts: list[tuple[int, int]], threads: int) -> None:
    """The parts on so many threads. Which thread takes which makes no difference to the result."""
    if threads == 1:
        for first, end in cuts:
            part(first, end)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(part, first, end) for first, end in cuts]:
            done.result()
