"""The offline dual: prices of goals and quotas by subgradient, with a bound that no policy can exceed.

    maximise  Σ pages base(page) − Σ goals penalty · shortfall   over pages that are feasible by themselves
    subject to  units(goal) + shortfall ≥ least,   units(quota) ≤ most

Weak duality: for every λ in [0, penalty] and μ ≥ 0,
    Σ pages max(page under prices) − Σ λ · least + Σ μ · most
is at least the best value in hindsight. It stays a bound as long as the first term is not below the true
maximum, so `Outcome.worth` must come from `training.page_bound` (or be exact) where a bound is claimed; the
subgradient may come from the product's near-optimal pages. `master` is the check: the linear programme over
pages that were met on the way (columns), by HiGHS, is a feasible mix, so it is never above the optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, vstack

from serving.curves import Floats
from serving.page import Batch, Pages

Ints = NDArray[np.int64]
DISPLAYED, CLICKED = 0, 1
GROW: Final = 1.25
SHRINK: Final = 0.5
NEAR: Final = 0.05  # within this relative deviation a step shrinks with it


class Programme(NamedTuple):
    """G goals and Q quotas of C campaigns; units are displays or clicks."""

    campaigns: int
    goal_campaign: Ints
    goal_unit: Ints
    least: Floats
    penalty: Floats  # CNY per unit short: the ceiling of λ
    quota_campaign: Ints
    quota_unit: Ints
    most: Floats
    ceiling: Floats  # of μ


class Outcome(NamedTuple):
    """What pages under given prices come to."""

    worth: float  # Σ pages' objective, prices included; from above where a bound is wanted
    base: float  # without prices
    displayed: Floats  # (C,) expected displays
    clicked: Floats  # (C,) expected clicks


Evaluate = Callable[[Floats, Floats], Outcome]  # prices per display and per click (C,)


@dataclass(frozen=True, slots=True, eq=False)
class Dual:
    goals: Floats  # λ
    quotas: Floats  # μ
    bound: float
    primal: float  # base value less penalties of the pages at these prices; quotas may be a little over
    surplus: Floats  # (G,) relative: delivered / least − 1
    over: Floats  # (Q,) relative: spent / most − 1
    bounds: tuple[float, ...]  # by step


def campaign_prices(programme: Programme, goals: Floats, quotas: Floats) -> tuple[Floats, Floats]:
    """Net prices per display and per click, (C,) each: Σ λ − Σ μ."""
    net = np.zeros((2, programme.campaigns))
    np.add.at(net, (programme.goal_unit, programme.goal_campaign), goals)
    np.subtract.at(net, (programme.quota_unit, programme.quota_campaign), quotas)
    return net[DISPLAYED], net[CLICKED]


def units(programme: Programme, outcome: Outcome) -> tuple[Floats, Floats]:
    """(of the goals, of the quotas)."""
    both = np.stack([outcome.displayed, outcome.clicked])
    return (
        both[programme.goal_unit, programme.goal_campaign],
        both[programme.quota_unit, programme.quota_campaign],
    )


def bound_at(programme: Programme, goals: Floats, quotas: Floats, worth: float) -> float:
    return float(worth - goals @ programme.least + quotas @ programme.most)


def primal_at(programme: Programme, outcome: Outcome) -> float:
    got, _ = units(programme, outcome)
    return float(outcome.base - programme.penalty @ np.maximum(programme.least - got, 0.0))


def solve_dual(
    programme: Programme,
    evaluate: Evaluate,
    *,
    start: tuple[Floats, Floats] | None = None,
    first_step: tuple[Floats, Floats],
    steps: int = 60,
) -> Dual:
    """Subgradient with a step per price that grows while its sign holds and halves when it turns.

    Resilient steps (Riedmiller and Braun 1993) need no Lipschitz constant per campaign; near balance the step
    shrinks with the deviation. The last third is averaged, and the best bound met is returned.
    `first_step`: CNY, (G,) and (Q,).
    """
    size = len(programme.least)
    x = np.zeros(size + len(programme.most)) if start is None else np.concatenate(start)
    step = np.concatenate(first_step)
    top = np.concatenate([programme.penalty, programme.ceiling])
    limit = np.maximum(np.concatenate([programme.least, programme.most]), 1e-9)
    last, total, averaged = np.zeros_like(x), np.zeros_like(x), 0
    best: Dual | None = None
    bounds: list[float] = []
    for number in range(steps + 1):
        if number == steps:
            x = total / max(averaged, 1)
        outcome = evaluate(*campaign_prices(programme, x[:size], x[size:]))
        found = _found(programme, x, outcome, bounds)
        if best is None or found.bound < best.bound:
            best = found
        off = np.concatenate(units(programme, outcome)) / limit - 1.0
        off[size:] *= -1.0  # spending too much raises μ as delivering too little raises λ
        step = np.where(off * last > 0, step * GROW, np.where(off * last < 0, step * SHRINK, step))
        last = off
        x = np.clip(x - np.sign(off) * step * np.minimum(np.abs(off) / NEAR, 1.0), 0.0, top)
        if number >= steps * 2 // 3:
            total, averaged = total + x, averaged + 1
    assert best is not None
    return Dual(best.goals, best.quotas, best.bound, best.primal, best.surplus, best.over, tuple(bounds))


def _found(programme: Programme, x: Floats, outcome: Outcome, bounds: list[float]) -> Dual:
    size = len(programme.least)
    goals, quotas = x[:size].copy(), x[size:].copy()
    got, spent = units(programme, outcome)
    bounds.append(bound_at(programme, goals, quotas, outcome.worth))
    return Dual(
        goals, quotas, bounds[-1], primal_at(programme, outcome),
        got / np.maximum(programme.least, 1e-9) - 1.0, spent / np.maximum(programme.most, 1e-9) - 1.0, (),
    )  # fmt: skip


class Columns(NamedTuple):
    """Pages as they were decided: what each is worth and uses. n columns, m uses."""

    page: Ints  # (n,)
    base: Floats  # (n,)
    use_column: Ints  # (m,)
    use_campaign: Ints
    displayed: Floats
    clicked: Floats


def columns_of(batch: Batch, pages: Pages, p_click: NDArray[np.float32], first: int = 0) -> Columns:
    """One column a page. `p_click` is per candidate of the batch; pages are numbered from `first`."""
    page = np.repeat(np.arange(len(pages.at) - 1), np.diff(pages.at))
    base = totals(page, pages.factor * pages.base, len(pages.at) - 1)
    tagged = np.flatnonzero(pages.offer >= 0)
    of = page[tagged]
    shown = pages.factor[tagged].astype(np.float64)
    campaign = batch.offers.campaign[batch.offer_at[of] + pages.offer[tagged]].astype(np.int64)
    p = p_click[batch.option_at[of] + pages.candidate[tagged]]
    return Columns(first + np.arange(len(pages.at) - 1), base, of, campaign, shown, shown * p)


def totals(of: NDArray[np.integer[Any]], amount: NDArray[np.floating[Any]] | None, many: int) -> Floats:
    """(many,) sum of the amounts (None: 1 each) by index."""
    return np.bincount(of, amount, many).astype(np.float64)


def outcome_of(columns: Columns, campaigns: int, worth: float) -> Outcome:
    return Outcome(
        worth,
        float(columns.base.sum()),
        totals(columns.use_campaign, columns.displayed, campaigns),
        totals(columns.use_campaign, columns.clicked, campaigns),
    )


def master(programme: Programme, met: Sequence[Columns], pages: int) -> tuple[float, Floats, Floats]:
    """The best mix of the pages met, by HiGHS: (value, its λ, its μ). A lower bound of the optimum.

    `met[k]` holds page p's k-th version at p. Versions are differences to the first one, so that the
    programme stays small: a page that never changed is a constant.
    """
    size, quotas = len(programme.least), len(programme.most)
    first = _use(programme, met[0])
    uses, bases, owners = [], [], []
    for columns in met[1:]:
        use = (_use(programme, columns) - first).tocsr()
        gain = columns.base - met[0].base
        changed = np.flatnonzero((np.abs(gain) > 1e-12) | (np.diff(use.indptr) > 0))
        uses.append(use[changed])
        bases.append(gain[changed])
        owners.append(changed)
    if not owners:
        uses, bases, owners = [first[:0]], [np.zeros(0)], [np.zeros(0, np.int64)]
    use, gain, owner = vstack(uses).tocsc(), np.concatenate(bases), np.concatenate(owners)
    many = len(owner)
    total = np.asarray(first.sum(axis=0)).ravel()
    one_each = coo_matrix((np.ones(many), (owner, np.arange(many))), (pages, many))
    sign = np.r_[-np.ones(size), np.ones(quotas)]
    limit = np.r_[-(programme.least - total[:size]), programme.most - total[size:]]
    balance = use.T.multiply(sign[:, None]).tocoo()
    goal = np.arange(size)
    short = coo_matrix((-np.ones(size), (goal, many + goal)), (size + quotas, many + size))
    rows = vstack([
        coo_matrix((balance.data, (balance.row, balance.col)), (size + quotas, many + size)) + short,
        coo_matrix((one_each.data, (one_each.row, one_each.col)), (pages, many + size)),
    ]).tocsr()  # fmt: skip
    used = np.r_[np.ones(size + quotas, np.bool_), np.bincount(owner, minlength=pages) > 0]
    answer = linprog(
        np.r_[-gain, programme.penalty], rows[used], np.r_[limit, np.ones(pages)][used], method="highs-ipm"
    )
    if answer.status != 0:
        raise ValueError(f"HiGHS could not solve the check: {answer.message}")
    prices = -np.asarray(answer.ineqlin.marginals)[: size + quotas]
    return float(met[0].base.sum() - answer.fun), prices[:size], prices[size:]


def _use(programme: Programme, columns: Columns) -> Any:
    """Sparse (pages, G + Q): units that each page gives to each goal and takes from each quota."""
    wide = coo_matrix(
        (
            np.r_[columns.displayed, columns.clicked],
            (
                np.r_[columns.use_column, columns.use_column],
                np.r_[columns.use_campaign, columns.use_campaign + programme.campaigns],
            ),
        ),
        (len(columns.page), 2 * programme.campaigns),
    ).tocsc()
    goal = programme.goal_unit * programme.campaigns + programme.goal_campaign
    quota = programme.quota_unit * programme.campaigns + programme.quota_campaign
    return wide[:, np.r_[goal, quota]]
