"""The look through a plan's offers against plain NumPy that says the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.offering import Table, Terms
from serving.shortlist import best_per_slot, chances, promising, quoted, shelf_of
from serving.worth import GAINED, USED, priced

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


def test_the_compiled_choice_of_offers_is_that_of_its_plain_twin() -> None:
    rng = np.random.default_rng(3)
    for m, keep in ((0, 3), (5, 8), (60, 4), (60, 1)):
        value = rng.choice(rng.normal(0, 1, 20), m).astype(np.float32)
        slots = rng.integers(0, 8, m).astype(np.uint64)
        plain = np.zeros(m, np.bool_)
        for bit in np.array([1, 2, 4], np.uint64):
            mine = np.flatnonzero(slots & bit)
            if len(mine):
                least = np.sort(value[mine])[::-1][min(keep, len(mine)) - 1]
                plain[mine[value[mine] >= least]] = True
        assert best_of_slots(value, slots, 3, keep) == np.flatnonzero(plain).tolist()


def test_offers_that_tie_at_the_end_of_a_slots_list_all_stay() -> None:
    value = np.array([1, 2, 2, 2, 0], np.float32)
    slots = np.array([1, 1, 1, 2, 2], np.uint64)
    assert best_of_slots(value, slots, 2, 1) == [1, 2, 3]


def test_offers_that_do_not_run_are_never_among_the_best() -> None:
    value = np.array([-np.inf, 3, -np.inf, 2], np.float32)
    assert best_of_slots(value, np.array([1, 1, 1, 1], np.uint64), 2, 3) == [1, 3]
    assert best_of_slots(np.full(4, -np.inf, np.float32), np.array([1, 1, 2, 3], np.uint64), 2, 1) == []


@few
@given(seeds)
def test_a_look_at_an_offer_says_what_it_is_worth_and_the_best_of_each_slot_are_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, campaigns, rows = int(rng.integers(1, 200)), 20, 50
    campaign = np.sort(rng.integers(0, campaigns, n)).astype(np.int32)
    row = rng.integers(0, rows, n).astype(np.int32)
    band = np.where(rng.random(n) < 0.05, 0, 1).astype(np.uint8)
    slots, pin = (
        rng.integers(0, 16, n).astype(np.uint64),
        np.where(rng.random(n) < 0.1, 0, -1).astype(np.int32),
    )
    until = np.where(rng.random(n) < 0.5, 10.0, np.inf)
    terms = np.abs(rng.normal(0, 1, (n, 7))).astype(np.float32)
    table = Table(np.arange(n, dtype=np.int32), campaign, row, slots, pin, pin, band)
    shelf = shelf_of(table, Terms(terms, until, campaign, np.full(n, -1, np.int32)), mandatory=False)
    prices = rng.normal(0, 1, (campaigns, 3)).astype(np.float32)
    model = rng.normal(0, 3, int(rng.integers(0, rows + 1))).astype(np.float32)
    model[rng.random(len(model)) < 0.2] = np.nan
    looks = np.abs(rng.normal(0, 2, (3, n))).astype(np.float32)
    running, now = rng.random(campaigns) < 0.7, float(rng.choice([5.0, 10.0]))
    asked, keep = np.array([0, 2], np.int64), int(rng.integers(1, 30))
    found, which = promising(shelf, running, model, looks, quoted(shelf, prices, now), asked, keep)
    assert which.tolist() == row[found].tolist()
    here = running[campaign] & (slots & np.uint64(5) != 0)
    if here.sum() <= keep:
        assert found.tolist() == np.flatnonzero(here).tolist()
        return
    said = np.append(model, np.full(rows, np.nan, np.float32))[row]
    logit = np.where(np.isnan(said), looks[2], looks[0] * said + looks[1]).astype(np.float64)
    p = (1 / (1 + np.exp(-np.clip(logit, -15, 15)))).astype(np.float32)
    worth = np.array(
        [
            priced(p[o], terms[o], terms[o, USED], terms[o, GAINED], now < until[o], prices[campaign[o]])[0]
            for o in range(n)
        ]
    )
    always = (band == 0) | (pin >= 0)
    worth = np.where(always, np.inf, worth)
    for slot in asked:
        mine = np.flatnonzero(here & (slots >> np.uint64(slot) & np.uint64(1) == 1))
        least = np.sort(worth[mine])[::-1][min(keep, len(mine)) - 1] if len(mine) else np.inf
        assert set(mine[worth[mine] > least + 1e-4].tolist()) <= set(found.tolist())
    assert set(found.tolist()) <= set(np.flatnonzero(here).tolist())
    assert set(np.flatnonzero(here & always).tolist()) <= set(found.tolist())


@few
@given(seeds)
def test_the_chance_of_a_look_is_the_logistic_function(seed: int) -> None:
    logit = np.random.default_rng(seed).normal(0, 6, 300).astype(np.float32)
    plain = 1 / (1 + np.exp(-np.clip(logit.astype(np.float64), -15, 15)))
    chances(logit, np.empty(300, np.int32))
    assert logit == pytest.approx(plain, rel=1e-6)


def best_of_slots(value: np.ndarray, slots: np.ndarray, many: int, keep: int) -> list[int]:
    """Places of those that are kept of so many slots, all asked for."""
    lists = [np.flatnonzero(slots >> np.uint64(slot) & np.uint64(1)) for slot in range(many)]
    first, n = np.cumsum([0, *map(len, lists)]), len(value)
    marks = np.empty(n, np.uint8)
    best_per_slot(
        value, np.concatenate(lists).astype(np.int32), first, np.arange(many), keep,
        np.empty(n, np.uint32), np.empty(n, np.int32), marks,
    )  # fmt: skip
    return np.flatnonzero(marks).tolist()
