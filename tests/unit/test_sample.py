from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.ids import key32
from serving.audience import compile_audiences
from serving.audience_facts import lookups_of
from serving.decide import page_of
from serving.pipeline import Trace
from tests.worlds import (
    NOW,
    customer,
    item,
    query,
    recent_entries,
    tiny_bundle,
    tiny_items,
    tiny_live,
    tiny_plan,
)
from training.booking_commands import estimated
from training.sample import Gatherer
from training.sample_columns import SampleError, joined, load, ordered, save, thinned
from training.sample_strata import chosen, earlier

CAMPAIGNS = [
    {"id": "c1", "items": ["i2", "i8"], "slots": ["home.banner", "home.popup"]},
    {"id": "c2", "items": ["i1", "i7"], "slots": ["home.shelf"]},
]


def world():
    items = tiny_items(120)
    items[8] = item(8, risk_class=5)
    return tiny_live(tiny_bundle(items=items), tiny_plan(campaigns=CAMPAIGNS))


def queries(live, count=12):
    made = []
    for n in range(count):
        who = customer(
            audiences=[7] if n % 3 == 0 else [],
            recent=recent_entries((f"i{n + 5}", "clicked", 60.0 + n)) if n % 2 else None,
            star_level=1 + n % 5,
            risk_level=n % 6,
            org=key32("bj") if n % 2 else 0,
            segment=n % 3,
        )
        counts = {"home.feed": 3} if n % 4 == 1 else {}
        made.append(query(live, who, now=NOW + 10.0 * n, counts=counts, decision_id=f"d{n}"))
    return made


def sampled(live, asked):
    rows = np.array([live.row(name) for name in ("i1", "i2", "i7", "i8")], np.int32)
    n = len(asked)
    gather = Gatherer(live, rows, 100.0, NOW + 100, NOW - 100)
    return gather.of(asked, np.arange(n, dtype=np.uint64), np.zeros((n, 3), np.int32), np.full(n, 2.0, "f4"))


def test_probability_and_permission_are_those_that_the_decision_works_with():
    live = world()
    asked = queries(live)
    sample = sampled(live, asked)
    assert len(sample.shapes) == 2 and {shape.whole for shape in sample.shapes} == {True, False}
    permitted = np.unpackbits(sample.permitted, axis=1, bitorder="little").astype(bool)
    met = denied = 0
    for j, at in enumerate(sample.at.tolist()):
        one = asked[round((at - NOW) / 10.0)]
        page = page_of(one, live)
        ranked, found, drops = live.pipelines["full"].run(page, Trace())
        for r, row in enumerate(sample.items[sample.bookable].tolist()):
            mine = np.flatnonzero(live.keys[found.rows] == row)
            if len(mine):
                assert permitted[j, r] == (drops[mine[0]] == 0)
                denied += not permitted[j, r]
            mine = np.flatnonzero(live.keys[ranked.rows] == row)
            if len(mine):
                assert sample.p[j, r] == pytest.approx(ranked.score[mine[0]], rel=1e-6)
                met += 1
        mine = slice(sample.option_at[j], sample.option_at[j + 1])
        at_row = np.searchsorted(ranked.rows, sample.option[mine])
        assert (ranked.rows[at_row] == sample.option[mine]).all()
        assert (ranked.score[at_row] == sample.option_p[mine]).all()
    assert met > 20 and denied > 2


def test_audiences_over_the_sample_are_those_of_each_customer():
    live = world()
    asked = queries(live)
    sample = sampled(live, asked)
    rules = {
        "young": {"field": "star_level", "at_least": 3},
        "listed": {"member": 7},
        "active": {"did": "clicked", "within": "1h", "at_least": 1},
    }
    from serving.audience import parse_rule

    audiences = compile_audiences({name: parse_rule(rule) for name, rule in rules.items()})
    lookups = lookups_of(live.items.rows_of_keys, live.table)
    members = audiences.evaluate_columns(list(rules), sample.columns(lookups)).members
    for j, at in enumerate(sample.at.tolist()):
        one = asked[round((at - NOW) / 10.0)]
        assert (audiences.evaluate(one.customer, one.now, lookups) == members[:, j]).all()
    assert members.any(axis=1).all() and not members.all(axis=1).any()


def test_a_sample_is_the_same_after_it_was_written(tmp_path):
    live = world()
    sample = sampled(live, queries(live))
    save(sample, tmp_path / "sample")
    again = load(tmp_path / "sample")
    assert again.shapes == sample.shapes and again.population == 100.0
    for name in ("at", "p", "permitted", "option", "option_at", "log_at", "org", "earlier"):
        assert (getattr(again, name) == getattr(sample, name)).all(), name
    assert set(again.fields) == set(sample.fields)
    with pytest.raises(SampleError, match="run `fenliu plan sample`"):
        load(tmp_path / "nothing")


def test_parts_join_to_the_whole_and_a_part_stands_for_as_much():
    live = world()
    asked = queries(live)
    whole = sampled(live, asked)
    halves = [sampled(live, asked[:6]), sampled(live, asked[6:])]
    shapes = {shape for half in halves for shape in half.shapes}
    assert shapes == set(whole.shapes)
    order = {shape: at for at, shape in enumerate(whole.shapes)}
    same = [
        replace(
            half, shapes=whole.shapes, shape=np.array([order[half.shapes[s]] for s in half.shape], np.int32)
        )
        for half in halves
    ]
    again = joined(same)
    assert (again.at == whole.at).all() and (again.p == whole.p).all()
    assert (again.option == whole.option).all() and (again.log == whole.log).all()
    assert {n: rows.tolist() for n, rows in again.memberships.items()} == {
        n: rows.tolist() for n, rows in whole.memberships.items()
    }
    some = whole.take(np.array([0, 3, 7]))
    assert some.weight.sum() == pytest.approx(whole.weight.sum())
    assert (some.option[: some.option_at[1]] == whole.option[: whole.option_at[1]]).all()
    assert ordered(some) is some


def test_items_that_the_sample_does_not_hold_have_nearly_the_same_probability():
    live = world()
    sample = sampled(live, queries(live))
    rows = sample.bookable.astype(np.int32)
    guess = estimated(live, sample, rows)
    assert guess == pytest.approx(sample.p, rel=0.2)  # all but fatigue and what is held


def test_pages_are_spread_over_groups_and_hours():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [9_000, 900, 100])
    at = rng.uniform(0, 28 * 86_400.0, 10_000)
    pages, weight = chosen(group, at, 1_000, seed=3)
    again, _ = chosen(group, at, 1_000, seed=3)
    assert (pages == again).all() and (np.diff(pages) > 0).all()
    counts = np.bincount(group[pages])
    assert 0.95 * 1_000 < counts.sum() <= 1_000 and counts[2] > 40
    for g, size in enumerate((9_000, 900, 100)):
        assert weight[group[pages] == g].sum() == pytest.approx(size, rel=1e-3)
    hours = np.bincount((at[pages[group[pages] == 0]] // 86_400.0).astype(int), minlength=28)
    assert hours.min() > 0.7 * hours.mean()
    assert (thinned(10, 20) == np.arange(10)).all() and len(thinned(100, 7)) == 7


def test_earlier_page_views_are_counted_by_customer_and_window():
    day = 86_400.0
    at = np.array([0.0, 0.5, 1.5, 9.0, 40.0, 0.2]) * day
    who = np.array([1, 1, 1, 1, 1, 2], np.uint64)
    assert earlier(who, at).tolist() == [[0, 0, 0], [1, 1, 1], [0, 2, 2], [0, 0, 3], [0, 0, 0], [0, 0, 0]]
    assert earlier(np.zeros(0, np.uint64), np.zeros(0)).shape == (0, 3)
