"""Full-ranking metrics on later data, through the very objects that serve.

Every item of the catalogue is ranked for every case, unless the cases bring candidates of their own (a
sampled protocol; its figures compare only with figures on the same candidates); where a customer cannot want
the same item twice, those already had are left out. For each customer, with H the held-out items and top_k
the k best ranked:

    recall@k         |top_k and H| / |H|                  the denominator is all that was held out
    recall_capped@k  |top_k and H| / min(k, |H|)          that of the VAE papers
    ndcg@k           DCG@k / best possible DCG@k, binary gains, log2 discount
    hr@k             1 if top_k meets H
    map              average precision over the whole ranking
    mrr              1 / rank of the first of H
    coverage@k       distinct items in all top_k / items that could be ranked
    novelty@k        mean of -log2 p(item) over top_k, p the share of users who had it in training

Ties go to the lower item row, as in serving. Intervals are 95 % by a Poisson bootstrap over customers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.transforms import History
from serving.domain import Scores
from serving.models import best_rows

KS = (10, 20, 50)
RESAMPLES = 1000
FEW = 12  # held-out items of a case up to which comparing each with all beats a sort
WORTH_THREADS = 20_000_000  # scores to rank from which threads are worth it


@dataclass(frozen=True, slots=True)
class Lists:
    """One list of item rows per case (CSR); lists hold no item twice."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def of(self, case: int) -> NDArray[np.int32]:
        return self.items[self.indptr[case] : self.indptr[case + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.indptr)

    @classmethod
    def group(cls, cases: NDArray[np.integer], items: NDArray[np.int32], n_cases: int) -> Lists:
        """From pairs, in any order and possibly repeated."""
        if not len(items):
            return cls(np.zeros(n_cases + 1, np.int64), np.zeros(0, np.int32))
        width = int(items.max()) + 1
        cell = np.unique(cases.astype(np.int64) * width + items)
        counts = np.bincount(cell // width, minlength=n_cases)
        indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        return cls(indptr, (cell % width).astype(np.int32))


@dataclass(frozen=True, slots=True)
class Past:
    """The history of each case at the cut, as `features.transforms.history` gives it (CSR)."""

    indptr: NDArray[np.int64]
    rows: NDArray[np.int32]
    weights: NDArray[np.float32]

    def of(self, case: int) -> History:
        part = slice(self.indptr[case], self.indptr[case + 1])
        return History(self.rows[part], self.weights[part])


@dataclass(frozen=True, slots=True)
class Cases:
    """Customers with something held out. `users` (c,) rows of `customers`; `seen` is not ranked.

    `candidates`: only these and what is held out are ranked, whether seen or not.
    """

    users: NDArray[np.int32]
    held: Lists
    seen: Lists
    n_items: int
    candidates: Lists | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: NDArray[np.intp]) -> Cases:
        held, seen = _take(self.held, chosen), _take(self.seen, chosen)
        candidates = None if self.candidates is None else _take(self.candidates, chosen)
        return Cases(self.users[chosen], held, seen, self.n_items, candidates)

    def opened(self, case: int, scores: Scores) -> Scores:
        """A copy of the scores of all items, NaN for those that are not to be ranked."""
        if self.candidates is None:
            found = np.array(scores, np.float32)
            found[self.seen.of(case)] = np.nan
            return found
        found = np.full(self.n_items, np.nan, np.float32)
        for pool in (self.candidates.of(case), self.held.of(case)):
            found[pool] = scores[pool]
        return found


def _take(lists: Lists, chosen: NDArray[np.intp]) -> Lists:
    parts = [lists.of(int(case)) for case in chosen]
    indptr = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
    return Lists(indptr, np.concatenate(parts) if parts else np.zeros(0, np.int32))


@dataclass(frozen=True, slots=True)
class Ranking:
    """What one model made of the cases.

    `ranks` is parallel to `held.items`: 0 is best, -1 where the model could not score the item. `top`
    (c, depth): the best rows, -1 padded.
    """

    ranks: NDArray[np.int64]
    top: NDArray[np.int32]


Scorer = Callable[[int], Scores]


def rank(
    scorer: Scorer,
    cases: Cases,
    depth: int = max(KS),
    told: Callable[[int], None] | None = None,
    threads: int = 1,
) -> Ranking:
    """Rank all items for all cases; `depth` 0 skips the top lists (cheaper). `told`: of each case done.

    With more `threads` the scorer is asked by each of them; the ranking is the same.
    """
    ranks = np.full(len(cases.held.items), -1, np.int64)
    top = np.full((len(cases), depth), -1, np.int32)

    def part(first: int, end: int) -> None:
        for case in range(first, end):
            scores = cases.opened(case, scorer(case))
            begin, stop = cases.held.indptr[case], cases.held.indptr[case + 1]
            ranks[begin:stop] = ranks_of(scores, cases.held.items[begin:stop])
            if depth:
                best = best_rows(scores, depth)
                top[case, : len(best)] = best
            if told is not None:
                told(1)

    if threads == 1 or len(cases) * cases.n_items < WORTH_THREADS:
        part(0, len(cases))
        return Ranking(ranks, top)
    cuts = np.linspace(0, len(cases), threads + 1).astype(int).tolist()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(part, first, end) for first, end in pairwise(cuts)]:
            done.result()
    return Ranking(ranks, top)


def ranks_of(scores: Scores, items: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many items come before each of `items`; -1 for those without a finite score."""
    wanted = scores[items]
    finite = np.isfinite(wanted)
    clean = np.where(np.isfinite(scores), scores, -np.inf)
    if len(items) <= FEW:
        found = np.full(len(items), -1, np.int64)
        for place in np.flatnonzero(finite).tolist():
            ahead = int(np.count_nonzero(clean > wanted[place]))
            found[place] = ahead + np.count_nonzero(clean[: items[place]] == wanted[place])
        return found
    # Sorting once beats comparing each held-out item with all when many are held out.
    ordered = np.sort(clean)
    up_to = np.searchsorted(ordered, wanted, side="right")
    above = len(clean) - up_to
    tied = up_to - np.searchsorted(ordered, wanted, side="left")
    for place in np.flatnonzero(finite & (tied > 1)).tolist():
        above[place] += np.count_nonzero(clean[: items[place]] == wanted[place])
    return np.where(finite, above, -1)


@dataclass(frozen=True, slots=True)
class Measures:
    """Metrics of one model. `per_case` (c, m) by `names`; `whole`: those that are not means over cases."""

    names: tuple[str, ...]
    per_case: NDArray[np.float64]
    whole: dict[str, float]

    def values(self) -> dict[str, float]:
        """Every metric's value."""
        means = self.per_case.mean(axis=0) if len(self.per_case) else np.zeros(len(self.names))
        return dict(zip(self.names, map(float, means), strict=True)) | self.whole

    def value(self, name: str) -> float:
        """Raises KeyError, naming those that exist."""
        values = self.values()
        if name not in values:
            raise KeyError(f"no metric {name!r}; there are {', '.join(values)}")
        return values[name]

    def of_case(self, name: str) -> NDArray[np.float64]:
        return self.per_case[:, self.names.index(name)]

    def intervals(self, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals of the means over cases."""
        return dict(zip(self.names, _intervals(self.per_case, rng), strict=True))


def difference(a: Measures, b: Measures, name: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """a - b on the same cases: the mean, and its paired 95 % interval."""
    gap = (a.of_case(name) - b.of_case(name))[:, None]
    low, high = _intervals(gap, rng)[0]
    return float(gap.mean()) if len(gap) else 0.0, low, high


def measure(
    ranking: Ranking, cases: Cases, had_share: NDArray[np.float64], ks: Sequence[int] = KS
) -> Measures:
    """`had_share` (n_items,): the share of users who had each item in training, for novelty."""
    held = cases.held.lengths
    owner = np.repeat(np.arange(len(cases)), held)
    columns: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        columns |= _at(k, ranking.ranks, owner, held)
        near = np.where(ranking.ranks < k, ranking.ranks, -1)
        columns[f"map@{k}"], columns[f"mrr@{k}"] = _whole_ranking(near, owner, held, k)
    columns["map"], columns["mrr"] = _whole_ranking(ranking.ranks, owner, held)
    whole: dict[str, float] = {}
    for k in ks:
        if k <= ranking.top.shape[1]:
            whole |= _lists_at(k, ranking.top[:, :k], cases, had_share)
    table = np.stack(list(columns.values()), axis=1) if len(cases) else np.zeros((0, len(columns)))
    return Measures(tuple(columns), table, whole)


def _at(
    k: int, ranks: NDArray[np.int64], owner: NDArray[np.intp], held: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    hit = (ranks >= 0) & (ranks < k)
    hits = np.bincount(owner[hit], minlength=len(held)).astype(np.float64)
    gain = np.bincount(owner[hit], 1.0 / np.log2(ranks[hit] + 2.0), minlength=len(held))
    ideal = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))))
    return {
        f"recall@{k}": hits / np.maximum(held, 1),
        f"recall_capped@{k}": hits / np.maximum(np.minimum(held, k), 1),
        f"ndcg@{k}": gain / np.maximum(ideal[np.minimum(held, k)], 1e-12),
        f"hr@{k}": (hits > 0).astype(np.float64),
    }


def _whole_ranking(
    ranks: NDArray[np.int64], owner: NDArray[np.intp], held: NDArray[np.int64], k: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and reciprocal rank; an item that was not ranked adds nothing."""
    wanted = held if k is None else np.minimum(held, k)
    placed = ranks >= 0
    owner, ranks = owner[placed], ranks[placed]
    order = np.lexsort((ranks, owner))
    owner, ranks = owner[order], ranks[order]
    starts = np.searchsorted(owner, np.arange(len(held)))
    nth = np.arange(len(owner)) - starts[owner] + 1
    precision = np.bincount(owner, nth / (ranks + 1.0), minlength=len(held)) / np.maximum(wanted, 1)
    first = nth == 1
    reciprocal = np.zeros(len(held))
    reciprocal[owner[first]] = 1.0 / (ranks[first] + 1.0)
    return precision, reciprocal


def _lists_at(
    k: int, top: NDArray[np.int32], cases: Cases, had_share: NDArray[np.float64]
) -> dict[str, float]:
    shown = top[top >= 0]
    if not len(shown):
        return {f"coverage@{k}": 0.0, f"novelty@{k}": 0.0, f"gini@{k}": 0.0}
    floor = 0.5 / max(len(cases), 1)  # an item nobody had is as novel as half a customer's
    places = np.sort(np.bincount(shown, minlength=cases.n_items))
    rising = np.arange(1, cases.n_items + 1)
    gini = (2.0 * (rising * places).sum() / places.sum() - cases.n_items - 1) / cases.n_items
    return {
        f"coverage@{k}": float((places > 0).sum() / cases.n_items),
        f"novelty@{k}": float(-np.log2(np.maximum(had_share[shown], floor)).mean()),
        f"gini@{k}": float(gini),
    }


def _intervals(per_case: NDArray[np.float64], rng: np.random.Generator) -> list[tuple[float, float]]:
    cases, metrics = per_case.shape
    if not cases:
        return [(0.0, 0.0)] * metrics
    means = np.empty((RESAMPLES, metrics))
    for start in range(0, RESAMPLES, 100):
        times = rng.poisson(1.0, (100, cases)).astype(np.float64)
        means[start : start + 100] = times @ per_case / np.maximum(times.sum(axis=1, keepdims=True), 1.0)
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
