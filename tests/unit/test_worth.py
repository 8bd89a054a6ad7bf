"""Worth: one number per display, and what decides it."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.ids import KIND_CODE, KINDS, key32, key64
from features.views import ITEM_STATS
from serving.campaign import Outcomes, Values
from serving.stocking import D_MEASURED, Stock, goods_of, stocked
from serving.uplift import COLUMNS, PerClick, Uplift
from serving.worth import BENEFIT_SHARE, OfferWorth, Worth, offer_values, price_table

KEYS = np.array([key64(f"i{n}") for n in range(6)], np.uint64)
EACH = np.arange(6, dtype=np.uint8)  # one item of each kind
ROWS = np.arange(6, dtype=np.int32)
BENEFIT = KIND_CODE["benefit"]
FINITE = st.floats(-50, 50, width=32)


def stats(**columns: list[float]) -> np.ndarray:
    found = ITEM_STATS.blank(6)
    for name, values in columns.items():
        found[name] = values
    return found


def table(**changes: object) -> Values:
    said = {"version": "v1", "click": {"product": 0.4}, "convert": 30.0, "dismiss": -0.5}
    return Values.model_validate({**said, **changes})


def worth(values: Values | None = None, **more: Any) -> Worth:
    return Worth.of(values, stats(), EACH, KEYS, **more)


def offers(terms: list[list[float]], until: float = np.inf) -> OfferWorth:
    n = len(terms)
    return OfferWorth(
        np.array(terms, np.float32),
        np.full(n, until),
        np.zeros(n, np.int32),
        np.full(n, -1, np.int32),
    )


def valued(
    one: OfferWorth,
    p: float,
    prices: tuple[float, float, float] = (0.0, 0.0, 0.0),
    now: float = 0.0,
    measured: PerClick | None = None,
) -> tuple[float, float]:
    priced = price_table(*(np.array([x], np.float32) for x in prices))
    value, base = one.values(
        np.array([p], np.float32), np.zeros(1, np.int32), np.zeros(1, np.int32), priced, now, measured
    )
    return float(value[0]), float(base[0])


def organic(made: Worth, p: np.ndarray, measured: PerClick | None = None) -> np.ndarray:
    """What the market says of a page of all rows, without offers."""
    none, nothing = np.zeros(0, np.float32), np.zeros((0, D_MEASURED + 1), np.int64)
    terms, until = np.zeros((0, 7), np.float32), np.zeros(0)
    goods = goods_of(made, np.zeros(6, np.uint64), np.zeros(6, np.int32), EACH)
    where, nobody = np.zeros(6, np.int32), np.zeros(0, np.int32)
    use, delta = (none, none) if measured is None else measured
    stock = stocked(
        *(*goods, nothing, terms, until, nobody, where, np.zeros(0, np.int64), ROWS, np.ones(6, np.uint32)),
        *(np.asarray(p, np.float32), use, delta, np.zeros((0, 3), np.float32), 0.0, nobody, False),
    )
    return Stock._make(stock).value


def test_without_a_value_table_a_display_is_worth_its_probability() -> None:
    costs = np.full(6, 9, np.float32)
    plain = Worth.of(
        None, stats(clicks=[9] * 6, dismissals=[5] * 6, displays=[50] * 6), EACH, KEYS, costs=costs
    )
    p = np.array([0, 1e-6, 0.013, 0.3, 0.7, 1], np.float32)
    assert organic(plain, p).tobytes() == p.tobytes()


def test_clicks_conversions_and_dismissals_are_worth_what_the_table_says() -> None:
    made = worth(table(items={"i0": Outcomes(convert=100.0)}))
    assert made.value.click.tolist() == pytest.approx([0, 0.4, 0, 0, 0, 0])
    assert made.value.convert.tolist() == [100, 30, 30, 30, 30, 30]
    assert made.value.dismiss.tolist() == pytest.approx([0.5] * 6)
    u = organic(made, np.full(6, 0.1, np.float32))
    assert u[1] == pytest.approx(0.1 * (0.4 + made.cvr[1] * 30) - made.dismissed[1] * 0.5, rel=1e-5)
    assert u[0] > u[2]


def test_a_benefit_that_was_not_measured_gains_little_and_costs_all() -> None:
    made = worth(table(click=0.0), costs=np.full(6, 4, np.float32))
    p, cvr = np.float32(0.2), made.cvr[BENEFIT]
    expected = p * cvr * (BENEFIT_SHARE * 30 - 4) - made.dismissed[BENEFIT] * 0.5
    assert organic(made, np.full(6, p))[BENEFIT] == pytest.approx(expected, rel=1e-5)


def test_rates_lie_between_the_item_and_its_kind() -> None:
    kinds = np.full(6, 1, np.uint8)
    counted = stats(clicks=[0, 10, 1000, 50, 50, 50], conversions=[0, 10, 500, 1, 1, np.nan])
    made = Worth.of(table(), counted, kinds, KEYS)
    pooled = (512 + 5) / (1160 + 100)
    assert made.cvr[0] == pytest.approx(pooled)
    assert pooled < made.cvr[1] < 1 and 0.49 < made.cvr[2] < 0.5 and made.cvr[5] < made.cvr[3] < pooled


def test_conversions_without_clicks_leave_a_rate_a_probability() -> None:
    made = Worth.of(table(), stats(clicks=[1] * 6, conversions=[500] * 6), EACH, KEYS)
    assert (made.cvr <= 1).all() and (made.cvr > 0).all()


def test_items_put_since_the_bundle_have_their_kinds_rates() -> None:
    kinds = np.append(EACH, np.uint8(1))
    made = Worth.of(table(), stats(clicks=[100] * 6), kinds, np.append(KEYS, key64("new")))
    assert len(made.gain) == 7 and made.cvr[6] > made.cvr[1]


def measured_worth(values: Values) -> Worth:
    width = 1 + len(COLUMNS)
    kind_bias = np.full(len(KINDS), np.nan, np.float32)
    kind_bias[BENEFIT] = 0.0
    model = Uplift(
        tags=np.zeros(0, np.int64),
        centre=np.zeros(width - 1, np.float32),
        scale=np.ones(width - 1, np.float32),
        groups=np.array([key32("dining")], np.uint32),
        base=np.zeros((2, width), np.float32),
        shift=0.0,
        persuaded=np.zeros(width, np.float32),
        slope=0.0,
        item_keys=np.zeros(0, np.uint64),
        item_bias=np.zeros(0, np.float32),
        kind_bias=kind_bias,
    )
    tops = np.full(6, key32("dining"), np.uint32)
    return worth(values, costs=np.full(6, 4, np.float32), uplift=model, tops=tops)


def test_a_measured_benefit_is_worth_what_it_adds() -> None:
    made = measured_worth(table(click=0.0, dismiss=0.0))
    assert made.measured is not None
    found = made.per_click(made.measured.model.of(SimpleNamespace(profile=None)))  # type: ignore[arg-type]
    assert found is not None and found.use[0] == pytest.approx(0.75) and found.delta[0] == pytest.approx(0.25)
    u = organic(made, np.full(6, 0.1, np.float32), found)
    assert u[BENEFIT] == pytest.approx(0.1 * (0.25 * 30 - 0.75 * 4), rel=1e-5)
    without = organic(made, np.full(6, 0.1, np.float32))
    others = ROWS != BENEFIT
    assert u[others].tobytes() == without[others].tobytes() and u[BENEFIT] != without[BENEFIT]


def test_what_nobody_knows_is_worth_nothing() -> None:
    made = worth(table())
    u = organic(made, np.array([np.nan, np.nan, np.inf, -np.inf, 2, -1], np.float32))
    assert np.isfinite(u).all() and u[0] == -made.loss[0] and u[3] == -made.loss[3]


# click, convert, loss per display, cost, lever, use per click, gained per click
PLAIN = [0.4, 30.0, 0.01, 5.0, 2.0, 0.1, 0.04]


def test_an_offer_is_worth_the_formula() -> None:
    value, base = valued(offers([PLAIN]), 0.2, (0.3, 1.5, -7.0))
    good = 0.2 * (0.4 + 0.04 * 30) - 0.01
    assert base == pytest.approx(good - 0.2 * 0.1 * 5, rel=1e-5)
    assert value == pytest.approx(2 * good - 0.2 * 0.1 * 5 + 0.3 + 0.2 * 1.5 - 0.02 * 7, rel=1e-5)


def test_a_budget_is_priced_as_the_issue_says() -> None:
    """Δp·v − (1 + μ)·p₁·cost, with the budget's μ in the price per conversion."""
    mu, cost = 1.7, 5.0
    value, _ = valued(offers([[0, 30, 0, cost, 1, 0.1, 0.04]]), 0.2, (0, 0, -mu * cost))
    assert value == pytest.approx(0.2 * 0.04 * 30 - (1 + mu) * 0.2 * 0.1 * cost, rel=1e-5)


def test_a_lever_ends_and_never_pushes_down() -> None:
    lasting = offers([PLAIN], until=100.0)
    (before, base), (after, _) = valued(lasting, 0.2, now=99.9), valued(lasting, 0.2, now=100.0)
    assert before > after == base
    disliked = [[0.0, 0.0, 0.5, 0.0, lever, 0.1, 0.1] for lever in (0.2, 1.0, 5.0)]
    assert {valued(offers([one]), 0.2)[0] for one in disliked} == {-0.5}


def test_the_measured_uplift_takes_the_place_of_counts() -> None:
    one = offers([PLAIN])
    one.measured[:] = 0
    own = PerClick(np.array([0.5], np.float32), np.array([-0.1], np.float32))
    assert valued(one, 0.2, measured=own)[1] == pytest.approx(
        0.2 * (0.4 - 3) - 0.01 - 0.2 * 0.5 * 5, rel=1e-5
    )
    assert valued(one, 0.2)[1] == valued(offers([PLAIN]), 0.2)[1]


def test_campaigns_override_the_table() -> None:
    made = worth(table(), costs=np.array([0, 0, 0, 0, 7, 7], np.float32))
    nan = np.float32(np.nan)
    campaigns = SimpleNamespace(
        click=np.array([nan, 2], np.float32), convert=np.array([nan, nan], np.float32),
        dismiss=np.array([nan, -3], np.float32), cost=np.array([0, 9], np.float32),
        lever=np.array([1, 1.5], np.float32), lever_until=np.array([np.inf, 50.0]),
        offer_campaign=np.array([0, 1], np.int32), offer_row=np.array([4, 1], np.int32),
    )  # fmt: skip
    bound = made.bound(campaigns)  # type: ignore[arg-type]
    share = made.share[[4, 1]]
    assert bound.terms[0] == pytest.approx(
        [0, 30, made.loss[4], 7, 1, made.cvr[4], made.cvr[4] * share[0]], rel=1e-5
    )
    assert bound.terms[1] == pytest.approx(
        [2, 30, made.dismissed[1] * 3, 9, 1.5, made.cvr[1], made.cvr[1]], rel=1e-5
    )
    assert bound.until.tolist() == [np.inf, 50.0]


@given(
    seed=st.integers(0, 2**32 - 1),
    p=st.lists(st.floats(width=32), min_size=1, max_size=5),
    now=st.floats(0, 2),
)
def test_the_compiled_loop_is_the_plain_one(seed: int, p: list[float], now: float) -> None:
    rng = np.random.default_rng(seed)
    m, count, campaigns, b = 7, 9, 3, 4
    args = (
        np.array(p, np.float32), rng.integers(0, len(p), m).astype(np.int32),
        rng.integers(0, count, m).astype(np.int32), rng.normal(0, 3, (count, 7)).astype(np.float32),
        rng.uniform(0, 2, count), rng.integers(0, campaigns, count).astype(np.int32),
        rng.integers(-1, b, count).astype(np.int32), rng.random(b).astype(np.float32),
        rng.random(b).astype(np.float32), rng.normal(0, 2, (campaigns, 3)).astype(np.float32), now,
    )  # fmt: skip
    fast, plain = ([np.empty(m, np.float32) for _ in range(2)] for _ in range(2))
    offer_values(*args, *fast)
    offer_values.py_func(*args, *plain)  # type: ignore[attr-defined]
    for one, other in zip(fast, plain, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


@given(seed=st.integers(0, 2**32 - 1), p=st.lists(st.floats(width=32), min_size=6, max_size=6))
def test_what_rows_are_worth_is_finite_and_the_formula(seed: int, p: list[float]) -> None:
    rng = np.random.default_rng(seed)
    made = measured_worth(table())
    assert made.measured is not None
    found = PerClick(*rng.random((2, 1)).astype(np.float32))
    fast = organic(made, np.array(p, np.float32), found)
    own = made.gain.copy()
    own[BENEFIT] = (made.value.click + found.delta * made.value.convert - found.use * made.cost)[BENEFIT]
    chance = np.fmin(np.fmax(np.array(p, np.float32), 0), 1)
    assert np.isfinite(fast).all()
    np.testing.assert_array_equal(fast, chance * own - made.loss)
    others = ROWS != BENEFIT
    np.testing.assert_array_equal(fast[others], organic(made, np.array(p, np.float32))[others])


@given(
    terms=st.lists(FINITE, min_size=4, max_size=4), p=st.floats(0, 1, width=32), use=st.floats(0, 1, width=32)
)
def test_a_higher_lever_never_lowers_an_offer(terms: list[float], p: float, use: float) -> None:
    found = [valued(offers([[*terms, lever, use, use / 2]]), p)[0] for lever in (0.2, 0.5, 1.0, 2.0, 5.0)]
    assert all(low <= high + 1e-4 for low, high in pairwise(found))


def test_prices_that_are_no_numbers_are_no_prices() -> None:
    column = np.array([np.nan, np.inf, -np.inf, 2], np.float32)
    assert price_table(column, column, column).tolist() == [[0] * 3, [0] * 3, [0] * 3, [2] * 3]
