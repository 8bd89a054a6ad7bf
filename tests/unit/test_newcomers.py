"""New items: what little is known of them, what the last minutes tell, and how often they are tried."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from scipy import stats

from features.log import Entry, MemoryLog
from features.token import PLACES
from serving.bandit import Learned, decode_learned
from serving.bandit_lead import RIPE_S, Harvest, Learner
from serving.bandit_shelf import BanditShelf
from serving.control import MemoryControl
from serving.decide import decide
from serving.exploring_kernel import tried
from serving.live import Live
from serving.newcomer_pages import MOST_FRESH, ONE_IN, Predictions, Watched, counted, shares_of
from serving.newcomers import KNOWN, PRIOR, Newcomers
from serving.newcomers_kernel import correct
from serving.observe import Metrics
from tests.worlds import NOW, SLOTS, customer, market_live, query

FEED = "home.feed"


def live_of(known: float = KNOWN, new: tuple[str, ...] = (), **slot: Any) -> Live:
    """Everything has met `known` clicks but what is `new`."""
    changed = {"explore": 0.0, "explore_new": 0.3} | slot
    slots = [one | changed if one["name"] == FEED else one for one in SLOTS]
    live = market_live(slots=slots)
    stats_of = live.bundle.stats.copy()
    stats_of["clicks"] = known
    for name in new:
        stats_of["clicks"][live.row(name)] = 0
    newcomers = Newcomers.of(stats_of["clicks"], len(live))
    return replace(live, newcomers=newcomers, _lottery_items={})


class TestPosterior:
    def test_it_is_the_gamma_one(self) -> None:
        """Against the posterior over a grid of factors."""
        one = Newcomers.of(np.array([6.0, np.nan]), 3)
        told = one.told({70: (20.0, 31.0)}, lambda keys: np.array([0], np.int32))
        grid = np.linspace(1e-4, 8, 200_001)
        weight = stats.gamma.pdf(grid, PRIOR + 6, scale=1 / (PRIOR + 6)) * stats.poisson.pmf(31, grid * 20)
        mean = np.average(grid, weights=weight)
        deviation = np.sqrt(np.average((grid - mean) ** 2, weights=weight))
        assert told.mean is not None
        assert told.mean[0] == pytest.approx(mean, rel=1e-4)
        assert told.unsure[0] == pytest.approx(deviation / mean, rel=1e-4)
        assert told.mean[1:].tolist() == [1.0, 1.0]
        assert told.unsure[1:] == pytest.approx(1 / np.sqrt(PRIOR))

    def test_what_many_clicks_taught_is_known(self) -> None:
        one = Newcomers.of(np.array([KNOWN, np.inf, -3.0]), 3)
        assert one.unsure.tolist() == [0.0, 0.0, pytest.approx(0.5)]

    def test_what_is_not_there_is_left_out_and_nothing_told_is_none(self) -> None:
        one = Newcomers.of(np.zeros(2), 2)
        gone = one.told({9: (3.0, 1.0)}, lambda keys: np.array([-1], np.int32))
        assert gone.mean is not None and gone.mean.tolist() == [1.0, 1.0]
        assert gone.told({}, lambda keys: np.zeros(0, np.int32)).mean is None

    def test_a_corrected_chance_stays_one(self) -> None:
        one = Newcomers.of(np.zeros(2), 2).told({1: (1.0, 50.0)}, lambda keys: np.array([1], np.int32))
        assert one.mean is not None
        found = np.zeros(3, np.float32)
        correct(np.array([0, 1, 0], np.int32), np.array([0.3, 0.4, 1.5], np.float32), one.mean, found)
        assert found.tolist() == pytest.approx([0.3, 1.0, 1.5])

    def test_tried_as_often_as_draws_put_it_first(self) -> None:
        rng = np.random.default_rng(3)
        own, worth = rng.normal(1.0, 0.2, 10**6), rng.normal(0.9, 0.9 * 0.5, 10**6)
        assert tried(1.0, 0.2, 0.9, 0.5, 0.0, 1.0) == pytest.approx((worth > own).mean(), abs=2e-3)
        assert tried(1.0, 0.2, 0.9, 0.5, 0.0, 0.1) == 0.1
        assert tried(1.0, 0.0, 0.9, 0.0, 0.02, 0.1) == 0.02


class TestPages:
    def test_only_what_is_new_is_tried(self) -> None:
        assert not decide(query(live_of()), live_of()).lotteries
        plain = decide(query(live_of(), customer()), live_of())
        best = next(one for one in plain.placements if plain.query.slots[one.slot].spec.name == FEED)
        live = live_of(new=(live_of().texts[best.row].id,))
        found = decide(query(live, customer()), live).lotteries
        assert len(found) == 1 and found[0].keys[0] == best.key
        assert 0 < sum(found[0].probabilities[1:]) <= 0.3

    def test_what_was_told_moves_what_is_predicted(self) -> None:
        live = live_of(known=0.0)
        page = decide(query(live, customer()), live)
        best = next(one for one in page.placements if page.query.slots[one.slot].spec.name == FEED)
        one = Learned(bundle=live.bundle.version, fresh={best.key: (40.0, 4.0)}, version="0" * 12)
        told = live.taught(one)
        after = decide(query(live, customer()), told)
        mean = (PRIOR + 4) / (PRIOR + 40)
        scores = {place.key: place.score for place in after.placements}
        if best.key in scores:
            assert scores[best.key] == pytest.approx(best.score * mean, rel=1e-5)
        first = next(one for one in after.placements if after.query.slots[one.slot].spec.name == FEED)
        assert first.key != best.key
        other = live.taught(replace(one, bundle="another"))
        assert decide(query(live, customer()), other).rows.tolist() == page.rows.tolist()
        assert told.taught(Learned()).newcomers.mean is None

    def test_the_table_of_lotteries_is_told_too(self) -> None:
        live = live_of(known=0.0)
        table = live.lottery_items(False)
        key = int(live.keys[3])
        told = live.taught(Learned(bundle=live.bundle.version, fresh={key: (1.0, 500.0)}))
        assert told.lottery_items(False)["unsure"][3] == 0 and table["unsure"][3] == 0.5
        assert told.lottery_items(True)["unsure"][3] == 0

    def test_lower_rungs_keep_their_order(self) -> None:
        live = live_of(known=0.0)
        fresh = {int(key): (40.0, 0.0) for key in live.keys[:5]}
        told = live.taught(Learned(bundle=live.bundle.version, fresh=fresh))
        for effort in ("popular", "fallback"):
            before, after = (decide(query(one, customer()), one, effort) for one in (live, told))
            assert before.rows.tolist() == after.rows.tolist()


def served(number: int, live: Live, keys: list[int], scores: list[float], **fields: Any) -> dict[str, Any]:
    """A page whose places are all of the feed."""
    return {
        "t": "served", "id": f"d{number}", "subject": "u:1", "at": NOW - RIPE_S - 60, "draws": [],
        "bundle": live.bundle.version, "effort": "full", "arms": {}, "slots": [FEED],
        "place_slot": bytes(len(keys)), "items": np.array(keys, "<u8").tobytes(),
        "scores": np.array(scores, "<f4").tobytes(),
    } | fields  # fmt: skip


def met(kind: str, number: int, keys: list[int]) -> dict[str, Any]:
    places = np.zeros(len(keys), PLACES)
    places["item"] = keys
    return {"t": kind, "decision_id": f"d{number}", "subject": "u:1", "places": places.tobytes()}


def page(*places: tuple[int, str, float, bool], shown: set[int], clicked: set[int]) -> Any:
    items, at, predicted, new = zip(*places, strict=True)
    return Watched(np.array(items, "u8"), at, np.array(predicted, "f4"), np.array(new)), shown, clicked


class TestCounts:
    def test_a_page_counts_displays_once_and_what_was_not_displayed_never(self) -> None:
        watched, _, _ = page((5, "f:0", 0.25, True), (6, "f:1", 0.5, True), shown=set(), clicked=set())
        harvest = Harvest(0.0, lambda row: watched)
        rows = [served(1, live_of(), [5, 6], [0.25, 0.5]), met("displayed", 1, [5]), met("displayed", 1, [5])]
        harvest.take(msgpack.packb(row) for row in [*rows, met("clicked", 1, [5]), met("clicked", 1, [5])])
        _, found, _ = harvest.ripe(NOW, {}, {5: (1.0, 2.0), 9: (3.0, 1.0)}, {})
        assert found == {5: (1.25, 3.0), 9: (3.0, 1.0)}
        assert harvest.ripe(NOW, {}, found, {})[1] == found

    def test_a_page_that_is_logged_twice_waits_once(self, monkeypatch) -> None:
        monkeypatch.setattr("serving.bandit_lead.MOST_WATCHED", 2)
        watched, _, _ = page((5, "f:0", 0.25, True), shown=set(), clicked=set())
        harvest = Harvest(0.0, lambda row: watched)
        for number in (1, 1, 2):
            harvest.take([msgpack.packb(served(number, live_of(), [5], [0.25]))])
        harvest.take(msgpack.packb(met("displayed", number, [5])) for number in (1, 2))
        assert harvest.ripe(NOW, {}, {}, {})[1] == {5: (0.5, 0.0)}

    def test_new_items_are_held_to_what_known_ones_got_there(self) -> None:
        """A model that says too much, places that draw less, clicks that come too late: none is to blame."""
        rng, pages = np.random.default_rng(4), []
        for _ in range(40_000):
            p = rng.uniform(0.02, 0.1, 4)
            hit = rng.random(4) < p * 0.8 * np.array([1.0, 0.7, 0.5, 0.4])
            keys = [int(one) for one in (rng.permutation([1, 2, 103, 104]))]
            told = [(key, f"feed:{at}", 1.3 * p[at], key < 100) for at, key in enumerate(keys)]
            pages.append(
                page(*told, shown=set(keys), clicked={key for key, one in zip(keys, hit, strict=True) if one})
            )
        fresh, usual = counted({}, {}, pages)
        assert set(usual) == {"feed:0", "feed:1", "feed:2", "feed:3"}
        told_of = Newcomers.of(np.zeros(3), 3).told(fresh, lambda keys: keys.astype(np.int32))
        assert told_of.mean is not None and told_of.mean[1:] == pytest.approx(1.0, abs=0.06)

    def test_a_place_of_which_little_is_known_is_like_its_slot(self) -> None:
        usual = {"feed:0": (1_000.0, 500.0), "feed:9": (0.0, 0.0), "grid:0": (100.0, 100.0)}
        share = shares_of(usual)
        assert share("feed:9") == share("feed:30") == pytest.approx((20 + 500) / (20 + 1_000))
        assert share("grid:0") == 1.0 and share("banner:0") == 1.0

    def test_so_many_items_and_no_more(self) -> None:
        full = dict.fromkeys(range(10, 10 + MOST_FRESH), (1.0, 0.0))
        one = page((5, "feed:0", 0.25, True), (10, "feed:1", 0.25, True), shown={5, 10}, clicked=set())
        found, _ = counted(full, {}, [one])
        assert found == full | {10: (1.25, 0.0)}

    def test_predictions_are_told_apart_from_what_corrected_them(self, tmp_path) -> None:
        live = live_of(known=KNOWN, new=("i3",))
        key, known = int(live.keys[live.row("i3") or 0]), int(live.keys[live.row("i4") or 0])
        shelf = BanditShelf(str(tmp_path))
        version = shelf.put(Learned(bundle=live.bundle.version, fresh={key: (36.0, 16.0)}))
        predicted = Predictions(shelf.fetch)
        assert predicted(served(1, live, [key], [0.2])) is None
        predicted.watch(live)
        found = predicted(served(1, live, [key, known], [0.2, 0.3], learned=version))
        assert found is not None and found.items.tolist() == [key, known]
        assert found.places == (f"{FEED}:0", f"{FEED}:1") and found.new.tolist() == [True, False]
        assert found.predicted.tolist() == pytest.approx([0.4, 0.3])
        gone = predicted(served(1, live, [key], [0.2], learned="0" * 12))
        assert gone is not None and gone.predicted.tolist() == [pytest.approx(0.2)]
        kept = [predicted(served(n, live, [known], [0.2])) is not None for n in range(400)]
        assert 400 / ONE_IN * 0.5 < sum(kept) < 400 / ONE_IN * 1.6  # of pages without a new item
        for other in ({"bundle": "another"}, {"effort": "cached"}, {"slots": ["home.grid"]}):
            assert predicted(served(1, live, [key], [0.2], **other)) is None
        predicted.watch(quiet := live_of(known=0.0, explore_new=0.0))
        assert predicted(served(1, quiet, [key], [0.2])) is None

    def test_pages_under_an_arm_that_changes_something_are_left_out(self, tmp_path) -> None:
        live = live_of(known=0.0)
        live = replace(live, experiments=replace(live.experiments, arms=("e/popular",)))
        predicted = Predictions(BanditShelf(str(tmp_path)).fetch)
        predicted.watch(live)
        key = int(live.keys[3])
        assert predicted(served(1, live, [key], [0.2], arms={"l": "e/control"})) is not None
        assert predicted(served(1, live, [key], [0.2], arms={"l": "e/popular"})) is None

    def test_the_leader_counts_them_by_the_minute_and_anew_for_another_bundle(self, tmp_path) -> None:
        log, control, lives, now = (
            MemoryLog(lambda: NOW),
            MemoryControl(lambda: NOW),
            [live_of(known=0.0)],
            [NOW],
        )
        key = int(lives[0].keys[3])
        learner = Learner(control, log, str(tmp_path), lambda: lives[0], Metrics(), "a", clock=lambda: now[0])

        def rows(at: float, *numbers: int) -> list[Entry]:
            told = []
            for n in numbers:
                told.append(served(n, lives[0], [key], [0.25], at=at))
                told += [met("displayed", n, [key]), met("clicked", n, [key])]
            return [Entry(f"{at}:{n}", "u:1", msgpack.packb(row)) for n, row in enumerate(told)]

        async def fresh() -> dict[int, tuple[float, float]]:
            assert await learner.step() == "written"
            one = BanditShelf(str(tmp_path)).fetch((await control.poll()).bandit or "")
            lives[0] = lives[0].taught(one)
            return dict(one.fresh)

        async def story() -> None:
            await log.append(rows(NOW - RIPE_S - 60, 1, 2))
            assert await fresh() == {key: (0.5, 2.0)}  # no known item to hold it to
            assert lives[0].newcomers.mean is not None
            now[0] += 600
            await log.append(rows(NOW + 1, 3))
            assert await fresh() == {key: (0.75, 3.0)}
            bundle = replace(lives[0].bundle, version="b-next")
            await log.append(rows(NOW + 690, 5))  # of the bundle before, ripe only under the next
            now[0] += 120
            assert await learner.step() == "idle"
            lives[0] = replace(lives[0], bundle=bundle)
            now[0] += 600
            await log.append(rows(NOW + 800, 4))
            assert await fresh() == {key: (0.25, 1.0)}

        asyncio.run(story())

    def test_a_version_keeps_what_was_told(self) -> None:
        one = Learned(1.0, 2.0, bundle="b", fresh={2**63 + 1: (1.5, 2.0)}, usual={"home.feed:3": (4.0, 3.0)})
        again = decode_learned(one.encode())
        assert (again.fresh, again.usual, again.bundle) == (one.fresh, one.usual, "b")
        kept = decode_learned(one.encode(whole=False))  # what decisions read of it
        assert (kept.fresh, kept.usual) == (one.fresh, {})
