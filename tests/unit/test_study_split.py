"""`fenliu evaluate` divides them: by time, the last of each, at random, as marked, the core."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.study_files import START, events
from training.source import DataError
from training.study_split import OUT, TEST, TRAIN, VALID, core, divide, validation

ROWS = [(u, (u * 7 + n) % 11, float(START + 10 * n + u)) for u in range(8) for n in range(6)]


def test_splits_by_time() -> None:
    one = events(ROWS)
    part = divide(one, "time:0.5,0.75", None, timed=True, seed=0).part
    assert one.at[part == TRAIN].max() < one.at[part == VALID].min() <= one.at[part == VALID].max()
    assert one.at[part == VALID].max() < one.at[part == TEST].min()
    assert (part == TRAIN).sum() == pytest.approx(24, abs=2)
    by_date = divide(one, "date:2001-01-01", None, timed=True, seed=0).part
    assert (by_date == TEST).all()


def test_the_last_of_each_and_nothing_of_who_has_one() -> None:
    one = events([*ROWS, (99, 1, float(START))])
    part = divide(one, "last", None, timed=True, seed=0).part
    for user in range(8):
        mine = np.flatnonzero(one.user == user)
        assert part[mine].tolist().count(TEST) == 1
        assert part[mine[np.argmax(one.at[mine])]] == TEST
    assert part[-1] == TRAIN


def test_at_random_leaves_everybody_something_to_train_on() -> None:
    one = events(ROWS)
    part = divide(one, "random:0.4", None, timed=False, seed=3).part
    assert all((part[one.user == user] == TRAIN).any() for user in range(8))
    assert np.array_equal(part, divide(one, "random:0.4", None, timed=False, seed=3).part)


def test_as_marked() -> None:
    part = divide(events(ROWS[:4]), "marked", ["train", "Test", "valid", ""], timed=False, seed=0).part
    assert part.tolist() == [TRAIN, TEST, VALID, OUT]


@pytest.mark.parametrize(
    "how", ["time", "time:2", "time:0.9,0.5", "date:soon", "often", "random:x", "marked"]
)
def test_splits_that_cannot_be_done_say_so(how: str) -> None:
    with pytest.raises(DataError, match=r"Write time:0\.8"):
        divide(events(ROWS), how, None, timed=True, seed=0)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60), st.integers(2, 4))
def test_the_core_is_the_largest_part_where_all_have_partners(
    cells: list[tuple[int, int]], least: int
) -> None:
    one = events([(u, i, 0.0) for u, i in cells])
    kept = core(one, least)
    inside = {cell for cell, keep in zip(cells, kept.tolist(), strict=True) if keep}
    for place in (0, 1):
        for who in {cell[place] for cell in inside}:
            assert sum(cell[place] == who for cell in inside) >= least
    left = set(cells)
    while True:  # the plain definition
        bad = {
            c
            for c in left
            if sum(o[0] == c[0] for o in left) < least or sum(o[1] == c[1] for o in left) < least
        }
        if not bad:
            break
        left -= bad
    assert inside == left


def test_validation_is_cut_as_the_test_was() -> None:
    one = events(ROWS)
    later = events([(u, 1, START + 1e6) for u in range(8)])
    by_time = validation(one, later, timed=True, seed=0)
    assert one.at[by_time.part == VALID].min() >= one.at[by_time.part == TRAIN].max()
    one_each = validation(one, events([(u, 1, 0.0) for u in range(8)]), timed=False, seed=0)
    assert np.bincount(one.user[one_each.part == VALID]).tolist() == [1] * 8
