"""The ranker's stage: how it orders, what it leaves alone, and what happens when it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from features.ids import KINDS
from features.ranking import FEATURES, Facts, clock_of
from features.ranking_kernel import CLICK_GAIN, HOURS, calibrate
from features.views import CONSENTS
from serving.bundle import BundleError, load, save
from serving.decide import decide
from serving.ranker import Answer, ByKind, Ranker
from serving.ranking import MOST, Signals, chosen_of, levelled
from serving.reasons import LIFT_TEXTS, Lift
from serving.wire import explained_slots
from tests.rankers import ranked_bundle, stumps, tiny_ranker
from tests.worlds import NOW, contact_entries, customer, query, recent_entries, tiny_bundle, tiny_live

DAY = 86_400.0
PLAIN = tiny_bundle()
RANKED = ranked_bundle(PLAIN)
LIVE = tiny_live(RANKED)


def matrix_of(who, rows, live=LIVE, now=NOW):
    from training.ranker_rows import page_matrix

    ranker = live.bundle.ranker
    signals = Signals(ranker.facts, live.bundle.popular, ranker.scale)
    found = page_matrix(query(live, who, now=now), live, np.asarray(rows, np.int32), signals)
    return {name: found[at] for at, name in enumerate(FEATURES)}


def test_contacts_become_fatigue_and_recency() -> None:
    met = contact_entries(
        ("i3", "displayed", 3 * DAY), ("i3", "displayed", 600.0), ("i5", "displayed", 9 * DAY),
        ("i5", "clicked", 8 * DAY), ("i7", "dismissed", 2 * DAY), ("i9", "displayed", 40 * DAY),
    )  # fmt: skip
    met = met[np.argsort(met["at"], kind="stable")]
    found = matrix_of(customer(contact=met), [3, 5, 7, 9])
    assert found["shown_1d"].tolist() == [1, 0, 0, 0]
    assert found["shown_7d"].tolist() == [2, 0, 0, 0]
    assert found["shown_30d"].tolist() == [2, 1, 0, 0]
    assert found["since_shown"] == pytest.approx([600 / DAY, 9, 60, 40], abs=1e-4)
    assert found["since_click"] == pytest.approx([60, 8, 60, 60], abs=1e-4)
    assert found["since_dismissal"] == pytest.approx([60, 60, 2, 60], abs=1e-4)
    assert found["tired"][0] > 1.4 and found["tired"][1] == 0  # the click ended it


def test_what_was_done_lifts_its_item_category_and_kind() -> None:
    did = recent_entries(("i3", "clicked", 60.0), ("i3", "clicked", 30.0))
    found, rest = matrix_of(customer(recent=did), [3, 4]), matrix_of(customer(), [3, 4])
    assert (
        found["own_interest"][0] == pytest.approx(2 * CLICK_GAIN, abs=1e-3) and found["own_interest"][1] == 0
    )
    assert found["same_category"].tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    assert found["since_touched"][0] < 0.01 and rest["since_touched"][0] == 60
    ties = LIVE.bundle.ranker.facts.ties  # type: ignore[union-attr]
    code = int(LIVE.bundle.ranker.facts.codes[3, 0])  # type: ignore[union-attr]
    assert np.exp(found["interest"]) == pytest.approx(
        (2 * CLICK_GAIN * ties[[3, 4], code] + 1) / (2 * CLICK_GAIN + 1), rel=1e-3
    )
    assert rest["interest"].tolist() == pytest.approx([0.0, 0.0], abs=1e-5)


def test_hours_are_the_customers_own() -> None:
    noon_utc_on_a_saturday = 1_790_424_000.0 // DAY * DAY + 12 * 3600
    zones = np.array([b"Asia/Shanghai", b"", b"No/Where"])
    clock = clock_of(np.full(3, noon_utc_on_a_saturday), zones)
    assert [int(one) for one in clock.hour] == [44, 36, 36]
    day = datetime.fromtimestamp(noon_utc_on_a_saturday, UTC).day
    assert clock.day.tolist() == [HOURS + day - 1] * 3


def test_what_permission_rests_on_moves_no_score() -> None:
    sharing = 1 << CONSENTS.index("data_sharing")  # `income` is seen under it, so both have given it
    facts = {"age": 70, "risk_level": 5, "consents": 7, "blocked": 0}
    young, old = customer(age=20, risk_level=1, consents=sharing, blocked=0), customer(**facts)
    rows = np.arange(30)
    for name, column in matrix_of(young, rows).items():
        assert np.array_equal(column, matrix_of(old, rows)[name]), name


def test_the_ranker_orders_the_page_and_light_does_without() -> None:
    asked = query(LIVE, customer(star_level=3))
    ranked, plain = decide(asked, LIVE), decide(replace(asked), tiny_live(PLAIN))
    assert ranked.degraded == plain.degraded
    assert [p.score for p in ranked.placements] != [p.score for p in plain.placements]
    light, without = decide(asked, LIVE, "light"), decide(asked, tiny_live(PLAIN), "light")
    assert [(p.row, p.score) for p in light.placements] == [(p.row, p.score) for p in without.placements]


def test_scores_are_the_answers_at_the_first_place_of_each_slot() -> None:
    ranker = RANKED.ranker
    assert ranker is not None
    rows = np.flatnonzero(PLAIN.compiled.table["kind"] == KINDS.index("product"))[:5].astype(np.int32)
    decision = decide(query(LIVE, customer()), LIVE)
    by_row = {place.row: place.score for place in decision.placements}
    from training.ranker_rows import page_matrix

    rows = np.array([row for row in sorted(by_row) if row in set(rows.tolist())], np.int32)
    assert len(rows)
    signals = Signals(ranker.facts, RANKED.popular, ranker.scale)
    matrix = page_matrix(query(LIVE, customer()), LIVE, rows, signals)
    slot = np.full(len(rows), ranker.code("home.shelf"))
    said = ranker.click.at(matrix, slot, np.zeros(len(rows), np.int64))
    assert said == pytest.approx([by_row[row] for row in rows.tolist()], rel=1e-5)


def test_a_ranker_that_fails_leaves_the_blend_and_says_so() -> None:
    ranker = RANKED.ranker
    assert ranker is not None
    broken = replace(ranker.click, forest=replace(stumps(), feature=stumps().feature))
    live = tiny_live(replace(PLAIN, ranker=replace(ranker, click=broken)))
    stage = next(one for one in live.pipelines["full"].scorers if one.name == "Ranked")
    stage.signals = None  # type: ignore[attr-defined]  # as if its memory were gone
    asked = query(live, customer())
    decision, plain = decide(asked, live), decide(asked, tiny_live(PLAIN))
    assert "Ranked" in decision.degraded
    assert [p.row for p in decision.placements] == [p.row for p in plain.placements]


def test_at_most_so_many_are_ranked_and_every_kind_has_its_part() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, len(KINDS), 700).astype(np.uint8)
    rows, score = np.arange(0, 700, 2, dtype=np.int32), rng.random(350).astype(np.float32)
    demand = tuple((kind, 10 + 5 * kind) for kind in range(len(KINDS)))
    chosen = chosen_of(rows, score, kinds, demand, 600)
    assert 90 <= len(chosen) <= MOST and (np.diff(chosen) > 0).all() and rows[chosen].max() < 600
    for kind in range(len(KINDS)):
        mine = np.flatnonzero((kinds[rows] == kind) & (rows < 600))
        taken = np.intersect1d(mine, chosen)
        assert len(taken) and score[taken].min() >= np.delete(score[mine], np.searchsorted(mine, taken)).max()
    assert chosen_of(rows[:40], score[:40], kinds, demand, 600).tolist() == list(range(40))


def test_those_not_ranked_keep_their_order_at_their_kinds_level() -> None:
    candidates = tiny_live(PLAIN).pipelines["full"].candidates(np.arange(12, dtype=np.int32))
    candidates = candidates.scored(np.linspace(0.1, 0.6, 12).astype(np.float32))
    kinds = np.zeros(12, np.uint8)
    found = levelled(candidates, np.array([10, 11]), np.array([0.01, 0.03], np.float32), kinds)
    assert found[10:].tolist() == pytest.approx([0.01, 0.03])
    assert (np.diff(found[:10]) > 0).all() and found[9] < 0.03


def test_explanations_speak_in_the_closed_vocabulary() -> None:
    decision = decide(query(LIVE, customer(), explain=True), LIVE)
    assert decision.explained is not None
    said = set(decision.explained.terms) & {lift.code for lift in Lift}
    assert said == {lift.code for lift in Lift} and set(LIFT_TEXTS) == set(Lift)
    assert all(len(zh) and en.isascii() for zh, en in LIFT_TEXTS.values())
    told = [slot.get("lifted", {}) for slot in explained_slots(decision, LIVE.texts)]
    words = [one for slot in told for lifts in slot.values() for one in lifts]
    assert words and {one["code"] for one in words} <= said
    assert all(one["log_odds"] >= 0.05 for one in words) and all(
        [one["log_odds"] for one in lifts] == sorted((one["log_odds"] for one in lifts), reverse=True)
        for slot in told
        for lifts in slot.values()
    )
    met = contact_entries(("i3", "displayed", 60.0), ("i3", "displayed", 30.0))
    tired = decide(query(LIVE, customer(contact=met), explain=True), LIVE).explained
    assert tired is not None
    rested = tired.terms["rested"]
    at = int(np.searchsorted(tired.rows, 3))
    if tired.rows[at] == 3:
        assert rested[at] < 0


def test_it_survives_its_bundle_and_is_refused_where_it_does_not_fit(tmp_path: Path) -> None:
    save(RANKED, tmp_path / "b")
    again = load(tmp_path / "b").ranker
    ranker = RANKED.ranker
    assert again is not None and ranker is not None
    assert again.slots == ranker.slots and again.scale == ranker.scale
    assert np.array_equal(again.click.slope, ranker.click.slope)
    assert np.array_equal(again.facts.ties, ranker.facts.ties)
    path = tmp_path / "b" / "ranker" / "ranker.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"features": body["features"][:-1]}))
    with pytest.raises(BundleError, match="train again"):
        load(tmp_path / "b", verify=False)
    with pytest.raises(BundleError, match="ranker"):
        replace(PLAIN, ranker=tiny_ranker(tiny_bundle(60)))


def test_a_ranker_from_before_floors_and_bends_says_what_it_said(tmp_path: Path) -> None:
    ranker = tiny_ranker(PLAIN)
    ranker.save(tmp_path)
    root = tmp_path / "ranker"
    for answer in ("click", "convert"):
        for name in ("floor", "bend"):
            (root / answer / f"{name}.npy").unlink()
    np.save(root / "facts-hours.npy", ranker.facts.hours[:, :HOURS])
    old = Ranker.load(tmp_path)
    assert not old.facts.hours[:, HOURS:].any()
    who, rows = customer(), np.arange(30)
    known = np.stack(list(matrix_of(who, rows).values()))
    slot, at = np.zeros(30, np.int64), np.zeros(30, np.int64)
    line = ranker.click.place[0, 0] + known[FEATURES.index("item_clicks")] + known[FEATURES.index("interest")]
    ranker.click.forest.add(known, line)
    kind = known[FEATURES.index("kind")].astype(int)
    said = 1 / (1 + np.exp(-(line * ranker.click.slope[0, kind] + ranker.click.level[0, kind])))
    assert old.click.at(known, slot, at) == pytest.approx(said, rel=1e-5)
    assert not np.allclose(ranker.click.at(known, slot, at), said, rtol=1e-3)


def test_a_floor_is_clicked_whatever_stands_there() -> None:
    ranker = tiny_ranker(PLAIN)
    known = np.stack(list(matrix_of(customer(), np.arange(30)).values()))
    known[FEATURES.index("item_clicks")] = -25.0
    plain = replace(ranker.click, slope=np.ones_like(ranker.click.slope), bend=ranker.click.bend * 0)
    slot, at = np.zeros(30, np.int64), np.arange(30)
    assert plain.at(known, slot, at) == pytest.approx(plain.floor[0, :30], rel=1e-4)
    with pytest.raises(ValueError, match="floor"):
        replace(plain, floor=plain.floor + 1)
    with pytest.raises(ValueError, match="bend"):
        replace(plain, bend=-np.cumsum(np.ones_like(plain.bend), axis=1))


def test_tables_that_are_not_numbers_are_refused() -> None:
    ranker = tiny_ranker(PLAIN)
    with pytest.raises(ValueError, match="finite"):
        replace(ranker.click, level=ranker.click.level * np.nan)
    with pytest.raises(ValueError, match="slope above 0"):
        replace(ranker.click, slope=-ranker.click.slope)
    with pytest.raises(ValueError, match="finite"):
        replace(ranker.facts, ties=ranker.facts.ties * np.inf)
    with pytest.raises(ValueError, match="slots"):
        replace(ranker, slots=ranker.slots[:-1])
    assert isinstance(ranker.facts, Facts) and isinstance(ranker, Ranker) and isinstance(ranker.click, Answer)


def test_a_page_in_one_call_says_what_the_steps_say_bit_for_bit() -> None:
    ranker, rows = tiny_ranker(PLAIN), np.arange(5, 35, dtype=np.int32)
    did = recent_entries(("i3", "clicked", 60.0), ("i9", "acted", 3 * DAY))
    known = np.stack(list(matrix_of(customer(recent=did), rows).values()))
    kinds = np.ascontiguousarray(PLAIN.compiled.table["kind"])
    click, first = ranker.click, np.arange(len(KINDS) + 1) % len(ranker.slots)
    every = np.arange(len(first))
    table = ByKind(
        click.place[first, 0], click.floor[first, 0], click.slope[first, every], click.level[first, every],
        click.bend[first],
    )  # fmt: skip
    kind = kinds[rows].astype(np.int64)
    steps = click.raw(known, table.place[kind], table.floor[kind])
    calibrate(steps, kind, table.slope, table.level, table.bend)
    assert click.by_kind(known, rows, kinds, table, 0).tobytes() == steps.tobytes()


def test_entries_may_lie_anywhere_in_memory() -> None:
    did = recent_entries(*((f"i{n}", "clicked", 60.0 * n) for n in range(9, 0, -1)))
    shifted = np.frombuffer(b"x" + did.tobytes(), did.dtype, offset=1)
    assert not shifted.view(np.uint64).flags.aligned
    one, other = matrix_of(customer(recent=did), [3, 4]), matrix_of(customer(recent=shifted), [3, 4])
    assert all(one[name].tobytes() == other[name].tobytes() for name in FEATURES)
    assert one["own_interest"].max() > 0
