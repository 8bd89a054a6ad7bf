"""Prices: what is sent, what is refused, and how they come into force."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.prices import (
    MOST_BYTES,
    MOST_CNY,
    MOST_SEQUENCE,
    NO_PRICES,
    Prices,
    PricesError,
    decode_prices,
    newer,
    version_of,
)

PLAN = SimpleNamespace(ids=("c1", "活动", "c3"))
SOME = Prices(
    version=version_of(1_767_000_000, 7),
    made_at=1.7e9,
    per_display={"c1": 0.25, "gone": 1.0},
    per_click={"活动": -2.5},
    per_convert={"c1": 30.0},
    open={"c3": False},
    causes={"c1/displayed": "capped"},
    notes={"views_over_forecast": "0.8"},
)


def raw(**changes):
    return orjson.dumps({**orjson.loads(SOME.encode()), **changes})


def test_what_is_sent_arrives():
    found = decode_prices(SOME.encode())
    assert (found.fence, found.sequence) == (1_767_000_000, 7)
    assert {name: price for name, price in found.per_display.items() if price} == {"c1": 0.25, "gone": 1.0}
    assert found.open == {"c3": False}
    assert found.causes == SOME.causes
    assert found.encode() == SOME.encode()
    assert decode_prices(NO_PRICES.encode()) == NO_PRICES


def test_columns_are_aligned_to_the_plan():
    columns = decode_prices(SOME.encode()).columns(PLAN)
    assert columns.display.tolist() == [0.25, 0.0, 0.0]
    assert columns.click.tolist() == [0.0, -2.5, 0.0]
    assert columns.convert.tolist() == [30.0, 0.0, 0.0]
    assert columns.closed.tolist() == [False, False, True]
    assert {column.dtype for column in (columns.display, columns.click, columns.convert)} == {np.dtype("f4")}
    assert (columns.version, columns.made_at, len(columns)) == (SOME.version, SOME.made_at, 3)
    nothing = NO_PRICES.columns(PLAN)
    assert not nothing.display.any()
    assert not nothing.closed.any()


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"no json",
        b"[]",
        b"null",
        b"{}",
        raw(version=None),
        raw(version=-1),
        raw(version=True),
        raw(made_at="yesterday"),
        raw(prices=[]),
        raw(prices={"c1": 0.5}),
        raw(prices={"c1": [1, 2, 3, 4]}),
        raw(prices={"c1": ["0.5"]}),
        raw(prices={"c1": [None]}),
        raw(prices={"c1": [MOST_CNY * 1.01]}),
        raw(closed="c1"),
        raw(closed=[1]),
        raw(causes={"g": 1}),
        raw(notes=[]),
        SOME.encode().replace(b"0.25", b"NaN"),
        SOME.encode().replace(b"0.25", b"1e999"),
        SOME.encode()[:-3],
        b" " * (MOST_BYTES + 1),
    ],
)
def test_garbage_is_refused(blob):
    with pytest.raises(PricesError):
        decode_prices(blob)


@pytest.mark.parametrize("price", [float("nan"), float("inf"), -float("inf"), 2 * MOST_CNY])
def test_what_may_not_be_sent_is_not(price):
    with pytest.raises(PricesError, match="campaign 'c1'"):
        Prices(version=1, per_click={"c1": price}).encode()


def test_what_is_not_newer_is_refused():
    assert newer(SOME.encode(), NO_PRICES).version == SOME.version
    with pytest.raises(PricesError, match="not newer"):
        newer(SOME.encode(), SOME)
    deposed = Prices(version=version_of(1_766_999_999, MOST_SEQUENCE))
    with pytest.raises(PricesError, match="not newer"):
        newer(deposed.encode(), SOME)
    assert newer(Prices(version=version_of(1_767_000_001, 0)).encode(), SOME).sequence == 0


@pytest.mark.parametrize(("fence", "sequence"), [(-1, 0), (1, -1), (1, MOST_SEQUENCE + 1)])
def test_a_version_has_room(fence, sequence):
    with pytest.raises(PricesError):
        version_of(fence, sequence)


@given(
    st.dictionaries(st.text(min_size=1, max_size=12), st.floats(-MOST_CNY, MOST_CNY), max_size=8),
    st.dictionaries(st.text(min_size=1, max_size=12), st.booleans(), max_size=8),
)
def test_any_prices_survive_the_way(priced, is_open):
    plan = SimpleNamespace(ids=tuple(dict.fromkeys([*priced, *is_open])))
    prices = Prices(version=1, per_click=priced, open=is_open)
    here, there = prices.columns(plan), decode_prices(prices.encode()).columns(plan)
    np.testing.assert_allclose(there.click, here.click, rtol=6e-7, atol=1e-12)
    assert there.closed.tolist() == here.closed.tolist()


@given(st.binary(max_size=200))
def test_any_bytes_are_prices_or_refused(blob):
    with suppress(PricesError):
        decode_prices(blob)
