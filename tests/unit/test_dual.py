"""The offline dual against HiGHS on small markets, and the page's bound against the exact assignment."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from serving.page import Batch, Offers, Options, Slots
from training.dual import (
    CLICKED,
    DISPLAYED,
    Columns,
    Outcome,
    Programme,
    bound_at,
    campaign_prices,
    master,
    outcome_of,
    primal_at,
    solve_dual,
    units,
)
from training.page_bound import page_bounds

PAGES, CAMPAIGNS = 1_500, 5


class Market:
    """One place a page; organic or one of five campaigns: the linear programme can be written down whole."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.value = rng.lognormal(0, 0.5, (PAGES, CAMPAIGNS + 1))
        self.value[:, 1:] *= 0.6
        self.p = rng.uniform(0.05, 0.3, (PAGES, CAMPAIGNS))
        self.programme = Programme(
            CAMPAIGNS,
            np.array([0, 1, 2]),
            np.array([DISPLAYED, DISPLAYED, CLICKED]),
            np.array([300.0, 250.0, 30.0]),
            np.array([2.0, 2.0, 20.0]),
            np.array([3, 1]),
            np.array([DISPLAYED, DISPLAYED]),
            np.array([60.0, 400.0]),
            np.array([5.0, 5.0]),
        )

    def met(self, display, click):
        priced = self.value.copy()
        priced[:, 1:] += display + self.p * click
        best = priced.argmax(axis=1)
        page = np.arange(PAGES)
        tagged = np.flatnonzero(best > 0)
        campaign = best[tagged] - 1
        columns = Columns(
            page, self.value[page, best], tagged, campaign, np.ones(len(tagged)), self.p[tagged, campaign]
        )
        return columns, float(priced[page, best].sum())

    def evaluate(self, display, click):
        columns, worth = self.met(display, click)
        return outcome_of(columns, CAMPAIGNS, worth)

    def exact(self):
        """The whole programme by HiGHS."""
        programme = self.programme
        size, many = len(programme.least), PAGES * (CAMPAIGNS + 1)
        unit = [np.zeros((PAGES, CAMPAIGNS + 1)) for _ in range(size + 2)]
        both = [np.ones((PAGES, CAMPAIGNS)), self.p]
        at = [*zip(programme.goal_campaign, programme.goal_unit, strict=True)]
        at += [*zip(programme.quota_campaign, programme.quota_unit, strict=True)]
        for use, (campaign, kind) in zip(unit, at, strict=True):
            use[:, campaign + 1] = both[kind][:, campaign]
        rows = np.zeros((size + 2, many + size))
        for row, use in enumerate(unit):
            rows[row, :many] = use.ravel() * (-1 if row < size else 1)
        rows[np.arange(size), many + np.arange(size)] = -1
        limit = np.r_[-programme.least, programme.most]
        one = np.zeros((PAGES, many + size))
        for page in range(PAGES):
            one[page, page * (CAMPAIGNS + 1) : (page + 1) * (CAMPAIGNS + 1)] = 1
        cost = np.r_[-self.value.ravel(), programme.penalty]
        answer = linprog(cost, rows, limit, one, np.ones(PAGES), method="highs")
        assert answer.status == 0
        return -answer.fun

    def solved(self, steps=120):
        return solve_dual(
            self.programme,
            self.evaluate,
            first_step=(np.array([0.1, 0.1, 1.0]), np.full(2, 0.1)),
            steps=steps,
        )


@pytest.fixture(scope="module")
def market():
    return Market(4)


class TestDual:
    def test_bound_is_the_programme_s_value_to_one_in_ten_thousand(self, market):
        dual, exact = market.solved(), market.exact()
        assert dual.bound >= exact - 1e-6
        assert dual.bound / exact - 1 < 1e-4

    def test_every_price_gives_a_bound(self, market):
        exact, rng = market.exact(), np.random.default_rng(1)
        for _ in range(20):
            goals, quotas = rng.uniform(0, 2, 3), rng.uniform(0, 2, 2)
            outcome = market.evaluate(*campaign_prices(market.programme, goals, quotas))
            assert bound_at(market.programme, goals, quotas, outcome.worth) >= exact

    def test_goals_are_met_at_the_prices(self, market):
        dual = market.solved()
        assert (np.abs(dual.surplus) < 0.02).all()

    def test_a_quota_that_does_not_bind_is_free(self, market):
        dual = market.solved()
        assert dual.quotas[0] > 0.01
        assert dual.quotas[1] == 0.0

    def test_what_cannot_be_delivered_costs_its_ceiling(self, market):
        programme = market.programme._replace(least=np.array([300.0, 250.0, 900.0]))
        step = (np.array([0.1, 0.1, 1.0]), np.full(2, 0.1))
        dual = solve_dual(programme, market.evaluate, first_step=step, steps=80)
        assert dual.goals[2] == pytest.approx(20.0)

    def test_master_by_highs_reaches_the_bound(self, market):
        dual = market.solved()
        columns, rng = [], np.random.default_rng(2)
        for near in (0.0, 0.01, 0.01, 0.03, 0.03, 0.1):
            goals = dual.goals * np.exp(near * rng.normal(size=3))
            columns.append(market.met(*campaign_prices(market.programme, goals, dual.quotas))[0])
        value, goals, quotas = master(market.programme, columns, PAGES)
        exact = market.exact()
        assert value <= exact + 1e-6
        assert dual.bound / value - 1 < 5e-4
        assert (goals >= 0).all()
        assert (quotas >= 0).all()

    def test_master_of_one_version_is_that_version(self, market):
        columns, worth = market.met(np.zeros(CAMPAIGNS), np.zeros(CAMPAIGNS))
        programme = market.programme._replace(most=np.full(2, 1e9))
        value, _, _ = master(programme, [columns], PAGES)
        outcome = outcome_of(columns, CAMPAIGNS, worth)
        assert value == pytest.approx(primal_at(programme, outcome))

    def test_units_are_displays_or_clicks(self):
        programme = Market(1).programme
        outcome = Outcome(0.0, 0.0, np.arange(5.0), 10 + np.arange(5.0))
        got, spent = units(programme, outcome)
        assert got.tolist() == [0.0, 1.0, 12.0]
        assert spent.tolist() == [3.0, 1.0]


def slots():
    rates = np.array([[0.8, 0.4, 0.2, 0.0], [0.7, 0.6, 0.5, 0.4]], np.float32)
    one, two = np.ones(2, np.float32), np.zeros((2, 6), np.uint8)
    return Slots(
        np.array([1, 2], np.uint64), np.array([3, 4], np.int32), rates, np.zeros(2, np.uint32),
        np.full(2, 99, np.int32), np.full(2, 99, np.int32), one, one, np.zeros(2, np.float32),
        np.zeros(2, np.float32), two, two + 255,
    )  # fmt: skip


def one_page(rng, n=14, m=6):
    members = rng.integers(1, 4, n).astype(np.uint64)
    value = rng.lognormal(0, 1, n).astype(np.float32) * rng.choice([1, 1, 1, -1], n).astype(np.float32)
    candidate = rng.integers(0, n, m).astype(np.int32)
    no = np.full(m, -1, np.int32)
    priced = rng.lognormal(0, 1, m).astype(np.float32)
    options = Options(
        members, np.zeros(n, np.uint32), value, np.zeros(n, np.int32), np.zeros(n, np.uint8),
        np.full((n, 2), -1, np.int32), np.zeros(n, np.uint8),
    )  # fmt: skip
    offers = Offers(
        candidate, np.arange(m, dtype=np.int32), rng.integers(1, 4, m).astype(np.uint64), priced, priced,
        np.ones(m, np.uint8), no, no, np.full((m, 6), -1, np.int32), np.zeros(m, np.uint8),
    )  # fmt: skip
    zero = np.zeros(2, np.int64)
    return Batch(
        slots(), options, np.array([0, n]), offers, np.array([0, m]), np.zeros(0, np.int32), zero,
        np.zeros((0, 3), np.int32), zero,
    )  # fmt: skip


def exact_page(batch):
    """The best assignment: places and items, with the choice to leave a place empty."""
    n = len(batch.options.value)
    worth = np.zeros((2, n))
    for s, bit in enumerate(batch.slots.bit):
        mine = (batch.options.members & bit) != 0
        worth[s] = np.where(mine, batch.options.value, 0.0)
        for o, i in enumerate(batch.offers.candidate):
            if batch.offers.slots[o] & bit:
                worth[s, i] = max(worth[s, i], batch.offers.value[o])
    rows = [batch.slots.rates[s, k] * worth[s] for s in range(2) for k in range(batch.slots.count[s])]
    table = np.maximum(np.array(rows), 0.0)
    places, items = linear_sum_assignment(table, maximize=True)
    return table[places, items].sum()


def test_page_bound_is_above_the_exact_page_and_close():
    rng = np.random.default_rng(8)
    for _ in range(60):
        batch = one_page(rng)
        bound, exact = float(page_bounds(batch)[0]), float(exact_page(batch))
        assert bound >= exact - 1e-5
        assert bound <= exact * 1.002 + 1e-6


def test_page_bound_of_nothing_worth_showing_is_zero():
    batch = one_page(np.random.default_rng(1))
    options = batch.options._replace(value=-np.ones_like(batch.options.value))
    offers = batch.offers._replace(value=-np.ones_like(batch.offers.value))
    assert page_bounds(batch._replace(options=options, offers=offers))[0] == 0.0
