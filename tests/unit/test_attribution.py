"""Attribution against the rule written out in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.attribution import Attribution, Results, Touches, attribute
from features.ids import CHANNELS

DISPLAYED, CLICKED = 1, 2
HOUR, DAY = 3600.0, 86_400.0


def touches(*rows) -> Touches:
    """Rows of (subject, item, family, at, what, channel)."""
    columns = list(zip(*rows, strict=True)) or [()] * 6
    kinds = (np.uint64, np.uint64, np.uint32, np.float64, np.uint8, np.uint8)
    return Touches(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def results(*rows) -> Results:
    """Rows of (subject, item, family, at, value)."""
    columns = list(zip(*rows, strict=True)) or [()] * 5
    kinds = (np.uint64, np.uint64, np.uint32, np.float64, np.float64)
    return Results(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def credited(seen, done, **goal) -> list[tuple[int, int, float]]:
    found = attribute(touches(*seen), results(*done), Attribution(**goal))
    return list(zip(found.outcome.tolist(), found.touch.tolist(), found.share.tolist(), strict=True))


def test_the_latest_click_gets_it_all():
    seen = [
        (1, 7, 0, 0, CLICKED, 1),
        (1, 7, 0, 50, CLICKED, 1),
        (1, 7, 0, 60, DISPLAYED, 1),
        (1, 7, 0, 101, CLICKED, 1),
    ]
    assert credited(seen, [(1, 7, 0, 100.0, 500.0)]) == [(0, 1, 1.0)]


def test_without_a_click_the_latest_display_does():
    seen = [
        (1, 7, 0, 10, DISPLAYED, 1),
        (1, 7, 0, 5, DISPLAYED, 1),
        (2, 7, 0, 20, CLICKED, 1),
        (1, 8, 0, 20, CLICKED, 1),
    ]
    assert credited(seen, [(1, 7, 0, 100.0, 1.0)]) == [(0, 0, 1.0)]


def test_windows_are_inclusive_and_separate():
    seen = [(1, 7, 0, 0, CLICKED, 1), (1, 7, 0, 0, DISPLAYED, 1)]
    goal = {"click_window_s": DAY, "view_window_s": 2 * DAY}
    assert credited(seen, [(1, 7, 0, DAY, 1.0)], **goal) == [(0, 0, 1.0)]
    assert credited(seen, [(1, 7, 0, DAY + 1, 1.0)], **goal) == [(0, 1, 1.0)]
    assert credited(seen, [(1, 7, 0, 2 * DAY + 1, 1.0)], **goal) == []
    assert credited(seen, [(1, 7, 0, 1.0, 1.0)], click_window_s=0, view_window_s=0) == []


def test_linear_shares_add_up_to_one():
    seen = [(1, 7, 0, t, CLICKED, 1) for t in (3, 1, 2)]
    found = attribute(touches(*seen), results((1, 7, 0, 9.0, 90.0)), Attribution(credit="linear"))
    assert found.touch.tolist() == [1, 2, 0] and found.value.tolist() == [30.0] * 3
    assert found.share.sum() == pytest.approx(1.0)


def test_a_family_credits_any_item_of_it():
    seen = [(1, 7, 30, 1, CLICKED, 1), (1, 8, 30, 2, CLICKED, 1), (1, 9, 31, 3, CLICKED, 1)]
    assert credited(seen, [(1, 0, 30, 9.0, 1.0), (1, 0, 0, 9.0, 1.0)]) == [(0, 1, 1.0)]


def test_channels_limit_the_touches():
    seen = [(1, 7, 0, 1, CLICKED, 1), (1, 7, 0, 2, CLICKED, 5)]
    assert CHANNELS[0] == "app"
    assert credited(seen, [(1, 7, 0, 9.0, 1.0)], channels=("app",)) == [(0, 0, 1.0)]


def test_what_was_taken_back_credits_nobody():
    assert credited([(1, 7, 0, 1, CLICKED, 1)], [(1, 7, 0, 9.0, 0.0)]) == []


def test_nothing_in_nothing_out():
    assert credited([], []) == [] and credited([(1, 7, 0, 1, CLICKED, 1)], []) == []
    assert credited([], [(1, 7, 0, 9.0, 1.0)]) == []


@pytest.mark.parametrize(
    "goal", [{"click_window_s": -1.0}, {"view_window_s": float("inf")}, {"channels": ("fax",)}]
)
def test_a_goal_that_makes_no_sense_is_refused(goal):
    with pytest.raises(ValueError):
        Attribution(**goal)


def plain(seen, done, goal: Attribution) -> list[tuple[int, int, float]]:
    """The rule of the module's first lines, one outcome at a time."""
    answer = []
    for row, (subject, item, family, at, value) in enumerate(done):
        if value == 0 or (item == 0 and family == 0):
            continue
        for what, window in ((CLICKED, goal.click_window_s), (DISPLAYED, goal.view_window_s)):
            fit = [
                (t[3], i)
                for i, t in enumerate(seen)
                if t[0] == subject and t[4] == what and (t[1] == item if item else t[2] == family)
                and at - window <= t[3] <= at and window > 0
                and (not goal.channels or CHANNELS[t[5] - 1] in goal.channels)
            ]  # fmt: skip
            if fit:
                fit = sorted(fit) if goal.credit == "linear" else [max(fit)]
                answer += [(row, i, 1 / len(fit)) for _, i in fit]
                break
    return answer


small = st.integers(0, 2)
TOUCH = st.tuples(small, st.integers(1, 3), small, st.integers(0, 12), st.integers(1, 3), st.integers(1, 3))
RESULT = st.tuples(
    small, st.integers(0, 3), small, st.integers(0, 12).map(float), st.integers(0, 2).map(float)
)
GOAL = st.builds(
    Attribution,
    click_window_s=st.integers(0, 6).map(float),
    view_window_s=st.integers(0, 6).map(float),
    channels=st.sampled_from([(), ("app",), ("app", "mini_program")]),
    credit=st.sampled_from(["last_touch", "linear"]),
)


@settings(max_examples=300)
@given(st.lists(TOUCH, max_size=25), st.lists(RESULT, max_size=8), GOAL)
def test_the_columns_agree_with_the_loops(seen, done, goal):
    found = attribute(touches(*seen), results(*done), goal)
    rows = list(zip(found.outcome.tolist(), found.touch.tolist(), found.share.tolist(), strict=True))
    assert rows == plain(seen, done, goal)
