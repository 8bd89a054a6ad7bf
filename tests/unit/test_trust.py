"""The bank's own models are believed as far as their items' displays bear out, and no further."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from features.external import NO_SCORES
from features.ids import key32, key64
from serving.decide import page_of
from serving.domain import Query
from serving.pipeline import Page, Trace
from serving.ranker import Ranker
from serving.ranking import Ranked, chosen_of
from serving.trust import MOST_SHIFT, Trust, shifted
from tests.rankers import ranked_bundle, tiny_ranker
from tests.unit.test_external import entries
from tests.worlds import NOW, customer, query, tiny_bundle, tiny_live
from training.trust import FEWEST, Heard, fit_trust, heard_of, heard_together

LATER = NOW + 1e6


def trust(*models: str, level: float = 0.5, slope: float = 0.2) -> Trust:
    keys = np.sort(np.array([key32(one) for one in models], np.uint32))
    column = np.ones(len(keys), np.float32)
    return Trust(keys, 0 * column, column, level * column, slope * column)


def test_a_shift_is_level_and_slope_of_what_has_not_expired() -> None:
    keys = np.array([key64(f"i{n}") for n in range(6)], np.uint64)
    rows = np.array([0, 2, 3, 5, 9], np.int32)  # the last was put since the bundle
    held = entries("a", ("i2", 2.0, LATER), ("i3", 99.0, LATER), ("i5", 1.0, NOW - 1), ("i4", 1.0, LATER))
    found = trust("a", "b").shifts(held, NOW, keys, rows)
    assert found is not None
    assert found.tolist() == pytest.approx([0, 0.5 + 0.2 * 2, 0.5 + 0.2 * 3, 0, 0])  # z ends at 3
    far = trust("a", level=9.0).shifts(held, NOW, keys, rows)
    assert far is not None and far.max() == MOST_SHIFT
    both = np.concatenate([held, entries("b", ("i2", 0.0, LATER))])
    two = trust("a", "b").shifts(both, NOW, keys, rows)
    assert two is not None and two[1] == pytest.approx(0.9 + 0.5)


def test_who_is_not_known_is_not_believed() -> None:
    keys, rows = np.array([key64("i0")], np.uint64), np.zeros(1, np.int32)
    held = entries("stranger", ("i0", 5.0, LATER))
    assert trust("a").shifts(held, NOW, keys, rows) is None
    assert Trust.nothing().shifts(held, NOW, keys, rows) is None
    assert trust("a").shifts(NO_SCORES, NOW, keys, rows) is None
    assert trust("a").shifts(entries("a", ("else", 5.0, LATER)), NOW, keys, rows) is None
    broken = entries("a", ("i0", float("nan"), LATER))
    assert trust("a").shifts(broken, NOW, keys, rows) is None


@pytest.mark.parametrize("change", [{"scale": np.zeros(1, np.float32)}, {"level": np.full(1, np.nan)},
                                    {"slope": np.zeros(2, np.float32)}])  # fmt: skip
def test_what_cannot_be_is_refused(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="trust"):
        replace(trust("a"), **change)


def test_probabilities_are_shifted_and_unknown_ones_stay() -> None:
    p = np.array([0.1, 0.5, np.nan, 0.0], np.float32)
    found = shifted(p, np.array([0.0, np.log(3), 0.0, 1.0], np.float32))
    assert found[:2].tolist() == pytest.approx([0.1, 0.75]) and np.isnan(found[2]) and found[3] == 0


def test_a_ranker_keeps_its_trust(tmp_path) -> None:
    plain = tiny_ranker(tiny_bundle())
    plain.save(tmp_path / "plain")
    assert "trust" not in json.loads((tmp_path / "plain/ranker/ranker.json").read_text())
    assert len(Ranker.load(tmp_path / "plain").trust) == 0
    replace(plain, trust=trust("a", "b")).save(tmp_path / "told")
    loaded = Ranker.load(tmp_path / "told").trust
    assert loaded.models.tolist() == trust("a", "b").models.tolist()
    assert loaded.level.tobytes() == trust("a", "b").level.tobytes()


def test_a_believed_item_rises_on_the_page_and_nothing_else_moves() -> None:
    bundle = ranked_bundle(tiny_bundle())
    assert bundle.ranker is not None
    believing = replace(bundle, ranker=replace(bundle.ranker, trust=trust("a", level=1.0, slope=0.0)))

    def scores(of, held) -> dict[int, float]:
        live = tiny_live(of)
        asked: Query = replace(query(live), customer=replace(customer(), external=held))
        page: Page = page_of(asked, live)
        found, _, _ = live.pipelines["full"].run(page, Trace())
        return dict(zip(found.rows.tolist(), found.score.tolist(), strict=True))

    before = scores(bundle, NO_SCORES)
    row = next(iter(before))
    item = bundle.items.ids[row]
    held = entries("a", (item, 1.0, 4e9))
    unbelieved, believed = scores(bundle, held), scores(believing, held)
    assert unbelieved[row] == before[row]
    p = before[row]
    assert believed[row] == pytest.approx(p * np.e / (1 - p + p * np.e), rel=1e-4)
    assert before.keys() == believed.keys()
    assert {at: s for at, s in believed.items() if at != row} == {
        at: s for at, s in unbelieved.items() if at != row
    }


def test_what_a_model_says_counts_for_who_is_ranked() -> None:
    """Of more candidates than are ranked the blend's best take part; by a model's word the last does too."""
    bundle = ranked_bundle(tiny_bundle(600))
    assert bundle.ranker is not None
    believing = replace(bundle.ranker, trust=trust("a", level=MOST_SHIFT, slope=0.0))
    live, rows = tiny_live(replace(bundle, ranker=believing)), np.arange(600, dtype=np.int32)
    (stage,) = (one for one in live.pipelines["full"].scorers if isinstance(one, Ranked))
    blend = np.linspace(0.3, 0.1, 600).astype(np.float32)
    candidates, last = live.pipelines["full"].candidates(rows).scored(blend), 599
    plain = page_of(query(live, customer()), live)
    assert last not in chosen_of(rows, blend, stage._kinds, plain.demand, 600).tolist()
    (alone,) = stage.score(plain, candidates.take(np.array([last])))
    held = entries("a", (bundle.items.ids[last], 1.0, 4e9))
    told = page_of(replace(plain.query, customer=replace(customer(), external=held)), live)
    expected = shifted(np.array([alone]), np.array([MOST_SHIFT], np.float32))
    assert stage.score(told, candidates)[last] == pytest.approx(float(expected[0]), rel=1e-4)


def displays(seed: int, n: int, level: float, slope: float):
    """A ranker's word, slots, and what a model said of a third of n displays that follow both."""
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 30, n)
    slot = rng.integers(0, 3, n)
    on = np.flatnonzero(rng.random(n) < 1 / 3)
    score = rng.normal(5, 2, len(on)).astype(np.float32)
    shift = np.zeros(n)
    shift[on] = level + slope * (score - 5) / 2
    odds = p / (1 - p) * np.exp(shift + 0.3 * (slot == 1))  # the ranker is wrong about a slot
    clicked = rng.random(n) < odds / (1 + odds)
    return p, clicked, slot, Heard(on, np.full(len(on), key32("a"), np.uint32), score)


def test_level_and_slope_are_found_whatever_the_ranker_thinks_of_a_slot() -> None:
    learned = fit_trust(*displays(1, 60_000, 0.4, 0.25))
    assert learned.trust.level[0] == pytest.approx(0.4, abs=0.12)
    assert learned.trust.slope[0] == pytest.approx(0.25, abs=0.1)
    known = learned.known[key32("a")]
    assert known.displays > FEWEST and 0 < known.level_sd < 0.1
    assert json.loads(json.dumps(learned.to_json()))[str(key32("a"))]["displays"] == known.displays


def test_a_list_that_says_nothing_is_not_believed() -> None:
    learned = fit_trust(*displays(2, 60_000, 0.0, 0.0))
    assert abs(learned.trust.level[0]) < 0.12 and abs(learned.trust.slope[0]) < 0.1


def test_little_evidence_is_drawn_to_believing_nothing() -> None:
    """A few clicks of displays that hardly draw any: less than RIDGE says."""
    told = [fit_trust(*displays(seed, 1_000, 1.0, 0.0)).trust.level[0] for seed in range(20)]
    assert 0.2 < np.mean(told) < 0.75  # without the ridge 1.0


def test_too_few_displays_teach_nothing() -> None:
    p, clicked, slot, heard = displays(3, 600, 2.0, 0.0)
    assert len(heard.display) < FEWEST
    assert not len(fit_trust(p, clicked, slot, heard).trust)
    assert not len(fit_trust(p, clicked, slot, Heard.nothing()).trust)


def test_what_was_heard_is_numbered_through() -> None:
    keys = np.array([key64("x"), key64("y")], np.uint64)
    held = entries("a", ("y", 3.0, LATER), ("x", 1.0, NOW - 5), ("z", 2.0, LATER))
    one = heard_of(held, NOW, keys, 10)
    assert one.display.tolist() == [11] and one.score.tolist() == [3.0]
    whole = heard_together([one, heard_of(held, NOW, keys, 12)])
    assert whole.display.tolist() == [11, 13]
    kept = np.zeros(14, np.bool_)
    kept[12:] = True
    assert whole.take(kept).display.tolist() == [1]
    assert len(heard_together([]).display) == 0
