"""What a case is asked, what is left out of its ranking, and what it is known to have done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.events import WHAT
from features.ids import Vocabulary
from features.transforms import EventWeights, history
from features.views import RECENT
from serving.catalogue import compile_items, parse_item
from training.dataset import Dataset
from training.interactions import Interactions
from training.profiles import profile_records
from training.windows import behaviour_of, cases_of, customers_of, had_share, masks, train_data

DAY = 86_400.0
WEIGHTS = EventWeights(half_life_days=10.0)


def events(*rows):
    """Rows of (user, item, what, at in days)."""
    user, item, what, at = zip(*rows, strict=True)
    codes = np.array([WHAT[name] for name in what], np.uint8)
    n = len(rows)
    action = np.zeros(n, np.uint16)
    return Interactions(
        np.array(user, np.int32),
        np.array(item, np.int32),
        codes,
        action,
        np.array(at) * DAY,
        WEIGHTS.of(codes, action),
        np.zeros(n, np.uint8),
    )


def dataset_of(before, never=()):
    made = [
        parse_item(
            {
                "id": f"i{n}",
                "kind": "product",
                "title": {"en": f"{n}"},
                "repeat": "never" if n in never else "always",
            }
        )
        for n in range(6)
    ]
    items = compile_items(made)
    subjects = ("u:a", "u:b", "u:c")
    profiles = profile_records(None, ["a", "b", "c"])
    return Dataset(subjects, Vocabulary(items.ids), items, before, profiles, WEIGHTS, 100 * DAY)


ROWS = [
    (0, 1, "clicked", 1),
    (0, 2, "converted", 2),
    (0, 3, "dismissed", 3),
    (1, 4, "clicked", 4),
    (0, 1, "clicked", 5),
]
BEFORE = events(*ROWS)
LATER = events((0, 1, "clicked", 11), (0, 5, "clicked", 12), (1, 4, "clicked", 12), (2, 0, "clicked", 13))


def cases(repeats, before=BEFORE, later=LATER, never=(), most=100):
    rng = np.random.default_rng(1)
    return cases_of(dataset_of(before, never), before, later, repeats=repeats, most=most, rng=rng)


def test_masked_items_are_neither_ranked_nor_asked_for():
    found = cases("mask")
    assert found.users.tolist() == [0, 2]  # user 1 wants only what they had
    assert [found.held.of(case).tolist() for case in range(2)] == [[5], [0]]
    assert [found.seen.of(case).tolist() for case in range(2)] == [[1, 2], []]


def test_kept_items_are_ranked_again():
    found = cases("keep")
    assert found.users.tolist() == [0, 1, 2]
    assert [found.held.of(case).tolist() for case in range(3)] == [[1, 5], [4], [0]]
    assert not len(found.seen.items)


def test_what_is_held_for_ever_is_never_ranked():
    found = cases("keep", never=(2,))
    assert found.seen.of(0).tolist() == [2]


def test_auto_looks_whether_customers_repeat_themselves():
    assert not masks(BEFORE, LATER, 6, "auto")  # two of four wanted items were had before
    assert masks(BEFORE, events((0, 5, "clicked", 11), (2, 0, "clicked", 12)), 6, "auto")
    assert masks(BEFORE, LATER, 6, "mask") and not masks(BEFORE, LATER, 6, "keep")


def test_a_sample_is_no_larger_than_asked_for_and_repeats():
    first, second = cases("keep", most=2), cases("keep", most=2)
    assert len(first) == 2 and first.users.tolist() == second.users.tolist()


def row_of(keys):
    return (keys.astype(np.int64) - 1).astype(np.int32)


def recent_of(rows, keep):
    mine = [row for row in rows if row[0] == 0][-keep:]
    log = np.zeros(len(mine), RECENT)
    for place, (_, item, what, at) in enumerate(mine):
        log[place]["item"], log[place]["at"], log[place]["what"] = item + 1, at * DAY, WHAT[what]
    return log


@pytest.mark.parametrize("keep", [1, 2, 3, 64])
def test_the_past_is_the_history_that_the_service_would_build(keep):
    found = cases("keep")
    past = behaviour_of(found, BEFORE, 10 * DAY, keep=keep).past(WEIGHTS)
    wanted = history(recent_of(ROWS, keep), row_of, 10 * DAY, WEIGHTS)
    assert past.of(0).rows.tolist() == wanted.rows.tolist()
    assert past.of(0).weights.tolist() == wanted.weights.tolist()
    assert len(past.of(2).rows) == 0


def test_another_bundle_s_rows():
    found = cases("keep")
    there = np.array([9, -1, 7, 6, 5, 4], np.int32)  # item 1 is unknown there
    past = behaviour_of(found, BEFORE, 10 * DAY).past(WEIGHTS, there)
    assert past.of(0).rows.tolist() == [7]
    assert past.of(1).rows.tolist() == [5]


def test_a_training_window_holds_positives_only():
    dataset = dataset_of(BEFORE)
    data = train_data(dataset, customers_of(dataset), BEFORE, 10 * DAY)
    assert data.positives.item.tolist() == [1, 2, 4, 1]
    assert had_share(data).tolist() == [0, 0.5, 0.5, 0, 0.5, 0]
    assert (replace(data, now=1.0).positives.weight > 0).all()
