"""The compiled loops of the decision against plain NumPy and dictionaries that say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import WHAT
from features.ids import Vocabulary
from features.past import Directory, faded
from features.transforms import DAY, EventWeights, fatigue, fatigue_of, history
from features.views import CONTACT, RECENT
from serving.best import best_of_kinds
from serving.fold_in import Room, Solved, folded
from serving.proposing import beside, lately_published
from serving.standins import Rules, Stand, agreeing
from serving.tables import Neighbours
from serving.union import undropped, union
from tests.plain_standins import plain_agreeing

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)
NOW = 40 * DAY


@few
@given(seeds)
def test_stand_ins_agree_as_sets_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m, p, slots, counters = 12, 6, 8, 3, 5
    rules = Rules(
        rng.integers(0, 3, counters).astype(np.int32),
        rng.integers(-1, counters, (n, 2)).astype(np.int32),
        rng.integers(-1, counters, (m, 6)).astype(np.int32),
        rng.integers(0, 3, n).astype(np.uint8),
        rng.choice(np.array([1, 2, 255], np.uint8), (slots, 3)),
    )
    slot = np.sort(rng.integers(0, slots, p)).astype(np.int32)
    page = Stand(slot, rng.permutation(n)[:p].astype(np.int32), rng.integers(-1, m, p).astype(np.int32))
    at = np.sort(rng.permutation(p)[:4])
    spares = Stand(slot[at], rng.integers(0, n, 4).astype(np.int32), rng.integers(-1, m, 4).astype(np.int32))
    assert agreeing(page, at, spares, rules).tolist() == plain_agreeing(page, at, spares, rules)


def test_more_counters_than_can_be_held_are_refused() -> None:
    wide = Rules(
        np.zeros(1, np.int32), np.zeros((1, 2), np.int32), np.zeros((1, 31), np.int32),
        np.zeros(1, np.uint8), np.zeros((1, 1), np.uint8),
    )  # fmt: skip
    none = Stand(*(np.zeros(0, np.int32) for _ in range(3)))
    with pytest.raises(ValueError, match="32 counters"):
        agreeing(none, np.zeros(0, np.int64), none, wide)


@few
@given(seeds)
def test_the_best_of_each_kind(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, 40).astype(np.float32)  # with ties
    scores[rng.random(40) < 0.2] = np.nan
    rows = rng.permutation(40)[:30].astype(np.int32)
    ends = np.array([0, 7, 7, 20, 30])
    wants = rng.integers(0, 12, 5)
    found, their = best_of_kinds(scores, rows, ends, wants)
    plain: list[int] = []
    for start, end, keep in zip([0, *ends], ends, wants, strict=False):
        mine = np.nan_to_num(scores[rows[start:end]], nan=-np.inf)
        plain += sorted(np.argsort(-mine, kind="stable")[:keep] + start)
    assert found.tolist() == rows[plain].tolist()
    np.testing.assert_array_equal(their, scores[found])


@few
@given(seeds, st.sampled_from([1, 7, 100]))
def test_the_union_keeps_the_best_score_and_every_source(seed: int, many: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(20)[: rng.integers(1, 8)].astype(np.int32) for _ in range(4)]
    parts = [part * many for part in parts]  # over several words of the set
    every = np.concatenate(parts)
    score = rng.integers(0, 4, len(every)).astype(np.float32)
    score[rng.random(len(every)) < 0.3] = np.nan
    bits = np.array([1, 4, 8, 64], np.uint32)
    scores = np.split(score, np.cumsum([len(part) for part in parts])[:-1])
    rows, origin, best = union(list(zip((0, 2, 3, 6), parts, scores, strict=True)), 20 * many)
    assert rows.tolist() == sorted({*every.tolist()})
    of = np.repeat(bits, [len(part) for part in parts])
    for row, bit, top in zip(rows, origin, best, strict=True):
        mine = every == row
        assert bit == np.bitwise_or.reduce(of[mine])
        np.testing.assert_equal(top, np.fmax.reduce(score[mine]))


@pytest.mark.parametrize("row", [-1, 64])
def test_a_row_that_is_not_there_has_no_union(row: int) -> None:
    part = np.array([3, row], np.int32)
    with pytest.raises(IndexError, match="0 to 63"):
        union([(0, part, part.astype(np.float32))], 64)


@few
@given(seeds)
def test_what_nothing_drops_stays_in_its_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 30))
    rows, origin = rng.permutation(n).astype(np.int32), rng.integers(1, 9, n).astype(np.uint32)
    score, drops = rng.normal(size=n).astype(np.float32), rng.integers(0, 3, n).astype(np.uint32)
    for found, column in zip(undropped(rows, origin, score, drops), (rows, origin, score), strict=True):
        assert found.tolist() == column[drops == 0].tolist()


@few
@given(seeds, st.integers(0, 12), st.sampled_from([5, 6]))
def test_a_history_is_folded_in_as_the_direct_solve_does(seed: int, h: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(30, width)).astype(np.float32)
    usable = rng.random(30) < 0.8
    system = vectors.T.astype(np.float64) @ vectors + 2 * np.eye(width)
    solved = (vectors @ np.linalg.inv(system)).astype(np.float32)
    weights, tokens = rng.normal(size=(4, width)).astype(np.float32), rng.permutation(4)[: rng.integers(0, 4)]
    of = Solved(vectors, solved, usable, rng.normal(size=width), weights, 3.0, Room.of(12, width))
    rows = rng.permutation(34)[:h].astype(np.int32)  # of rows beyond the table too
    said = rng.uniform(0, 2, h).astype(np.float32)
    met = [row < 30 and bool(usable[row]) for row in rows.tolist()]
    y, extra = vectors[rows[met]].astype(np.float64), 3.0 * said[met].astype(np.float64)
    prior = of.mean + weights[tokens].sum(axis=0)
    plain = np.linalg.solve(
        system + y.T @ (extra[:, None] * y), system @ prior + y.T @ (1 + extra)
    )  # the right side of the normal equations
    found, count = folded(of, rows, said, tokens)
    assert count == sum(met)
    np.testing.assert_allclose(found, plain, rtol=2e-4, atol=2e-5)


@few
@given(seeds, st.integers(0, 60))
def test_a_history_is_what_a_dictionary_gives(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    items = Vocabulary([f"i{i}" for i in range(12)])
    log = np.zeros(n, RECENT)
    log["item"] = np.append(items.keys[:9], np.uint64(7))[rng.integers(0, 10, n)]
    log["at"] = rng.integers(0, 40, n) * DAY
    log["what"] = rng.choice([WHAT["clicked"], WHAT["converted"], WHAT["dismissed"], WHAT["acted"]], n)
    log["action"] = rng.integers(0, 5, n)
    weights = EventWeights()
    found = history(log, items.rows_of_keys, NOW, weights)
    gain = weights.decayed(log["what"], log["action"], log["at"], NOW)
    total: dict[int, float] = {}
    rows = [int(np.flatnonzero(items.keys == key)[0]) if key in items.keys else -1 for key in log["item"]]
    for entry in log["at"].argsort(kind="stable").tolist():
        if rows[entry] >= 0:
            total[rows[entry]] = total.pop(rows[entry], 0.0) + float(gain[entry])
    liked = {row: weight for row, weight in total.items() if weight > 0}
    assert found.rows.tolist() == list(liked)
    assert found.weights.tolist() == np.array(list(liked.values()), np.float32).tolist()


@few
@given(seeds, st.integers(1, 60))
def test_fatigue_of_rows_is_fatigue_of_their_keys(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    items = Vocabulary([f"i{i}" for i in range(12)])
    log = np.zeros(n, CONTACT)
    log["item"] = np.append(items.keys, np.uint64(7))[rng.integers(0, 13, n)]
    log["at"] = (NOW - rng.integers(0, 10, n) * DAY).astype(np.uint32)
    log["what"] = rng.choice([WHAT["displayed"], WHAT["clicked"], WHAT["dismissed"]], n)
    rows = np.sort(rng.permutation(12)[:8]).astype(np.int32)
    found = fatigue_of(log, rows, items.rows_of_keys, NOW)
    np.testing.assert_array_equal(found, fatigue(log, items.keys[rows], NOW))


@few
@given(st.lists(st.floats(-5, 1500), max_size=20))
def test_what_fades_halves_with_each_half_life(ages: list[float]) -> None:
    age = np.array(ages, np.float64)
    plain = np.where(age < 1000, np.exp2(-np.maximum(age, 0)), 0)
    np.testing.assert_allclose(faded(4 * age, 4.0), plain, rtol=1e-15)
    whole = np.floor(np.abs(age))
    np.testing.assert_array_equal(faded(whole, 1.0), np.where(whole < 1000, np.exp2(-whole), 0))


@few
@given(seeds, st.sampled_from([0, 40, 60, 63]))
def test_keys_that_begin_alike_are_told_apart(seed: int, alike: int) -> None:
    rng = np.random.default_rng(seed)
    keys = np.unique(rng.integers(0, 2**64, 30, np.uint64) >> np.uint64(alike))
    order = rng.permutation(len(keys)).astype(np.int32)
    asked = np.concatenate([keys, keys + np.uint64(1), rng.integers(0, 2**64, 5, np.uint64)])
    plain = dict(zip(keys.tolist(), order.tolist(), strict=True))
    assert Directory(keys, order).of(asked).tolist() == [plain.get(key, -1) for key in asked.tolist()]


@few
@given(seeds)
def test_neighbours_of_a_few_rows_are_those_of_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, 9)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rows, weights = rng.integers(0, 9, indptr[-1]).astype(np.int32), rng.random(indptr[-1], np.float32)
    near = Neighbours(indptr, rows, weights)
    asked = rng.integers(0, 12, int(rng.integers(0, 4))).astype(np.int32)  # of rows beyond the table too
    found, score = beside(asked, 3, indptr, rows, weights)
    parts = [near.similar(row, 3) for row in asked.tolist()]
    assert found.tolist() == [row for part in parts for row in part.rows.tolist()]
    assert score.tolist() == [one for part in parts for one in part.score.tolist()]


@few
@given(seeds)
def test_what_is_new_is_as_fresh_as_it_is_young(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, now, window = np.arange(20, dtype=np.int32), 50 * DAY, 30 * DAY
    at = rng.choice([0.0, now - window, now - DAY, now - 3.3, now, now + 9, np.inf], 20)
    there = ((at > now - window) & (at <= now)) | np.isinf(at)
    found, score = lately_published(rows, at, now, window)
    assert found.tolist() == rows[there].tolist()
    plain = (1 - (now - np.minimum(at[there], now)) / window).astype(np.float32)
    assert score.tolist() == plain.tolist()


@few
@given(seeds)
def test_keys_are_found_as_a_search_over_many_finds_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = Vocabulary([f"i{i}" for i in range(int(rng.integers(1, 40)))])
    keys = np.append(items.keys, np.array([0, 2**64 - 1], np.uint64))[rng.integers(0, len(items) + 2, 50)]
    known = {key: row for row, key in enumerate(items.keys.tolist())}
    assert items.rows_of_keys(keys).tolist() == [known.get(key, -1) for key in keys.tolist()]
    many = np.tile(keys, 100)  # beyond what a page asks: by NumPy
    assert items.rows_of_keys(many)[:50].tolist() == items.rows_of_keys(keys).tolist()
