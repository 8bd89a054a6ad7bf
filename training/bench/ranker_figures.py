"""What `fenliu bench ranker` measures: log loss against the truth, calibration, and microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from training.ranker_fit import Floats, log_loss, platt
from training.world import HOME

CAMPAIGNS: Final = 40  # made up: sets of items, as campaigns are
DECIDES: Final = 4_300  # clicks taught: of fewer, 1.96 / sqrt(clicks) is more than 3 %
TOLERATED: Final = 0.03
FEWEST: Final = 200  # positives of a campaign, or expected ones of a slot and kind, that count
NAMES: Final = tuple(slot.name for slot in HOME.slots)


def cell_of(slot: NDArray[np.int64], kind: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each slot and kind."""
    found: NDArray[np.int64] = slot * (len(KINDS) + 1) + kind
    return found


def attained(p: Floats, truth: Floats, constant: float) -> float:
    """(constant − model) / (constant − truth) of mean log loss in expectation over the truth."""
    worst, best = log_loss(np.full(len(truth), constant), truth), log_loss(truth, truth)
    return (worst - log_loss(p, truth)) / (worst - best)


def ratios(p: Floats, good: Floats, group: NDArray[np.int64], fewest: float) -> dict[int, float]:
    """Σp/Σy by group, of those with at least `fewest` positives."""
    said, there = np.bincount(group, p), np.bincount(group, good)
    return {one: float(said[one] / there[one]) for one in np.flatnonzero(there >= fewest).tolist()}


def click_figures(
    p: Floats, truth: Floats, clicked: Floats, slot: NDArray[np.int64], kind: NDArray[np.int64],
    item: NDArray[np.int32], constant: float, taught: NDArray[np.float64],
) -> dict[str, float]:  # fmt: skip
    """Of displays on held-out days. Sums are over the truth, which is what clicks come to without chance; the
    sum over the clicks that were drawn is beside it. `taught`: clicks that each cell (`cell_of`) learnt from.
    """
    found = {
        "constant_over_truth": log_loss(np.full(len(truth), constant), truth) / log_loss(truth, truth),
        "attained": attained(p, truth, constant),
        "sum_over_clicks": float(p.sum() / clicked.sum()),
        "sum_over_truth": float(p.sum() / truth.sum()),
    }
    every = ratios(p, truth, cell_of(slot, kind), FEWEST)
    cells = {one: ratio for one, ratio in every.items() if one < len(taught) and taught[one] >= DECIDES}
    found["cells_undecided"] = float(len(every) - len(cells))
    learnt = {one: max(float(taught[one]) if one < len(taught) else 0.0, 1.0) for one in every}
    found["cells_beyond_chance"] = float(
        sum(abs(ratio - 1) > TOLERATED + 1.96 / learnt[one] ** 0.5 for one, ratio in every.items())
    )
    found["fewest_taught"] = float(min((taught[one] for one in cells), default=0.0))
    cells = cells or {0: float("nan")}  # nothing that could be held to a bar: it is missed
    found["cell_lowest"], found["cell_highest"] = min(cells.values()), max(cells.values())
    worst = max(cells, key=lambda one: abs(cells[one] - 1))
    raw = np.log(p / (1 - p))
    found["slope"] = platt(raw, truth, (1.0, 0.0))[0]
    found["slope_off"] = abs(found["slope"] - 1)
    decile = np.minimum(np.argsort(np.argsort(p, kind="stable"), kind="stable") * 10 // len(p), 9)
    tenths = ratios(p, truth, decile, 0.0)
    found["decile_lowest"], found["decile_highest"] = min(tenths.values()), max(tenths.values())
    campaign = (item.astype(np.int64) * 2654435761 >> 8) % CAMPAIGNS
    sold = np.bincount(campaign, clicked, CAMPAIGNS) >= FEWEST
    whole = ratios(p, truth, campaign, 0.0)
    mine = [whole[one] for one in np.flatnonzero(sold).tolist()]
    found["campaigns"] = float(len(mine))
    found["campaign_lowest"], found["campaign_highest"] = (min(mine), max(mine)) if mine else (1.0, 1.0)
    found["cells"], found["worst_cell"] = float(len(cells)), float(worst)
    return found


def timed(pages: Sequence[Callable[[], object]], batch: int = 16, rounds: int = 60) -> float:
    """µs of processor time a page: the best of `rounds` batches, one page after the other."""
    best = float("inf")
    for turn in range(rounds):
        some = [pages[(turn * batch + k) % len(pages)] for k in range(batch)]
        started = time.process_time_ns()
        for page in some:
            page()
        best = min(best, (time.process_time_ns() - started) / batch / 1000)
    return best


def agreement(score: Floats, perceived: Floats, slot: NDArray[np.int64], page: NDArray[np.int64]) -> float:
    """How well a score orders a slot's displayed items as they would draw at one and the same place: the
    share of pairs of one page and slot, neighbours by position, put in the truth's order.
    """
    key = page * 16 + slot
    order = np.argsort(key, kind="stable")
    right = total = 0.0
    for lag in (1, 2, 3):
        left, other = order[:-lag], order[lag:]
        same = key[left] == key[other]
        gap = np.log(perceived[left[same]]) - np.log(perceived[other[same]])
        said = score[left[same]] - score[other[same]]
        clear = np.abs(gap) > 0.1
        right += float((np.sign(said[clear]) == np.sign(gap[clear])).sum())
        total += float(clear.sum())
    return right / max(total, 1.0)
