"""A page answers what was just done, whatever model serves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from features.transforms import History
from serving.decide import decide
from serving.interest import LAST, NEIGHBOURS, RecentInterest
from tests.worlds import customer, query, recent_entries, tiny_bundle, tiny_live


class Few:
    def __init__(self, rows):
        self.rows = np.asarray(rows, np.int32)
        self.score = np.linspace(0.05, 0.6, len(rows), dtype=np.float32)

    def __len__(self):
        return len(self.rows)


def page(*history):
    rows = np.array(history, np.int32)
    return SimpleNamespace(history=History(rows, np.ones(len(rows), np.float32)))


@pytest.mark.parametrize("history", [(5,), (5, 17), (1, 5, 17, 40), (119,)])
@pytest.mark.parametrize("rows", [range(120), range(0, 120, 7), [5], []])
def test_ties_are_the_closest_to_any_of_the_last_items(history, rows):
    bundle = tiny_bundle()
    stage, few = RecentInterest(bundle.neighbours), Few(rows)
    expected = np.zeros(len(few))
    for place, row in enumerate(few.rows.tolist()):
        for last in history[-LAST:]:
            near, ties = bundle.neighbours.similar(last, NEIGHBOURS)
            tie = dict(zip(near.tolist(), (ties / ties[0]).tolist(), strict=True)).get(row, 0.0)
            expected[place] = max(expected[place], tie, float(row == last))
    np.testing.assert_allclose(stage.related(page(*history), few), expected, rtol=1e-6)
    lifted = stage.score(page(*history), few)
    assert ((lifted > few.score) == (expected > 0)).all() and (lifted < 1).all()


@pytest.mark.parametrize("model", ["als", "neighbours", "popular"])
def test_the_next_page_answers_a_click_whatever_model_serves(model):
    live = tiny_live(tiny_bundle(model=model))
    before = decide(query(live, customer()), live)
    unpopular = live.bundle.items.ids[int(live.ranked[-1])]
    after = decide(query(live, customer(recent=recent_entries((unpopular, "clicked", 5.0)))), live)
    assert before.rows.tolist() != after.rows.tolist() and len(before.rows) == len(after.rows)
