"""The bandit: what it believes, what it draws, and how it learns from the log."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from features.ids import key32, key64
from features.log import Entry, MemoryLog
from features.token import PLACES
from fenliu import main
from serving.bandit import (
    CELLS,
    FLOOR,
    HOUR_S,
    RESHAPE,
    BanditError,
    Learned,
    Seen,
    decode_learned,
    learned,
    reshape_of,
    table_of,
    version_of,
)
from serving.bandit_draws import chances_of, group_of
from serving.bandit_lead import LEARNER, RIPE_S, Harvest, Learner, base_of
from serving.bandit_shelf import BanditShelf
from serving.control import MemoryControl
from serving.decide import decide
from serving.kept import learned_of
from serving.live import Live
from serving.newcomers import PRIOR
from serving.observe import Metrics
from tests.shell import run, running
from tests.worlds import (
    NOW,
    SLOTS,
    customer,
    item,
    query,
    sold,
    tiny_bundle,
    tiny_items,
    tiny_live,
    tiny_plan,
)
from training.bandit_commands import newcomers

ARMS = ("cr0", "cr1", "cr2")
KEYS = tuple(key32(name) for name in ARMS)
HEX = tuple(f"{key:08x}" for key in KEYS)


def seen(rates: dict[int, tuple[float, ...]], n: float = 2_000.0) -> Seen:
    """By cell the rate of each arm, exactly."""
    made = Seen.none(HEX)
    for cell, some in rates.items():
        made.shown[:, cell] = n
        made.reward[:, cell] = made.squares[:, cell] = n * np.array(some)
    return made


class TestBelief:
    def test_the_best_arm_is_shown_most_and_none_never(self) -> None:
        table = table_of(seen({1: (0.05, 0.10, 0.05)}), 0.05, seed=1)
        chances = table.chances[table.row(1)]
        assert chances.argmax() == 1 and chances[1] > 0.98 and chances.min() >= FLOOR - 1e-6
        assert np.allclose(table.chances.sum(axis=1), 1) and table.loss[0] < 0.02

    def test_audiences_differ_and_a_new_one_borrows(self) -> None:
        table = table_of(seen({1: (0.03, 0.09, 0.03), 2: (0.03, 0.08, 0.11)}, 20_000), 0.05, seed=1)
        assert table.chances[table.row(1)].argmax() == 1 and table.chances[table.row(2)].argmax() == 2
        unknown = table.mean[table.row(9)]
        assert table.row(9) == 2 and unknown[0] < min(unknown[1], unknown[2])

    def test_nothing_known_is_even(self) -> None:
        table = table_of(Seen.none(HEX), 0.05, seed=3, draws=4_000)
        assert np.allclose(table.chances, 1 / 3, atol=0.03) and 0 < table.loss[0] < 0.5

    def test_more_displays_make_it_surer(self) -> None:
        few = table_of(seen({1: (0.05, 0.06, 0.05)}, 100), 0.05, seed=1)
        many = table_of(seen({1: (0.05, 0.06, 0.05)}, 50_000), 0.05, seed=1)
        assert many.deviation[0, 1] < few.deviation[0, 1] / 5 and many.chances[0, 1] > few.chances[0, 1]

    def test_draws_narrow_as_displays_grow(self) -> None:
        parts = [reshape_of(displays) for displays in (0.0, 1e3, 3e3, 1e4, 1e5, 1e9)]
        assert parts[0] == parts[1] == RESHAPE[0] and parts[-1] == parts[-2] == RESHAPE[1]
        assert parts == sorted(parts, reverse=True) and parts[3] == pytest.approx(sum(RESHAPE) / 2)
        chances = table_of(seen({1: (0.05, 0.05, 0.05)}, 1e5), 0.05, seed=1, draws=4_000).chances
        assert np.allclose(chances, 1 / 3, atol=0.04), "what earns the same stays mixed"

    def test_a_version_is_its_bytes(self) -> None:
        groups = {key64("a"): seen({1: (0.1, 0.2, 0.1), 31: (0.1, 0.1, 0.3)})}
        one = learned(groups, lambda _: 0.05, made_at=NOW, until=NOW - 60)
        again = decode_learned(one.encode())
        assert again.encode() == one.encode() and again.version == one.version == version_of(one.encode())
        assert np.array_equal(again.seen[key64("a")].reward, groups[key64("a")].reward)
        with pytest.raises(BanditError, match="cannot be read"):
            decode_learned(b'{"made_at": 1}')

    def test_what_is_hardly_new_is_not_worked_out_again(self) -> None:
        groups = {1: seen({1: (0.1, 0.2, 0.1)})}
        one = learned(groups, lambda _: 0.05, made_at=NOW, until=NOW)
        groups[1].shown[0, 1] += 3
        later = learned(groups, lambda _: 0.05, one, made_at=NOW + 60, until=NOW + 60)
        assert np.array_equal(later.tables[1].chances, one.tables[1].chances)
        groups[1].shown[:, 1] *= 2
        assert learned(groups, lambda _: 0.05, one, made_at=NOW, until=NOW).tables[1].displays > 11_000


def creative_items() -> list[Any]:
    """Every activity has three approved creatives for banners and pop-ups."""
    made = []
    for one in tiny_items(60):
        number = int(one.id[1:])
        if one.kind != "activity":
            made.append(one)
            continue
        texts = [
            {"id": f"{one.id}-{name}", "title": name, "layouts": ["banner", "popup", "feed"], "state": "live"}
            for name in ARMS
        ]
        made.append(item(number, "activity", creatives=texts))
    return made


def live_of(explore: float = 0.2, *campaigns: Any, **slot: Any) -> Live:
    slots = [{**one, "explore": explore, **slot} for one in SLOTS]
    plan = tiny_plan(slots=slots, campaigns=list(campaigns))
    return tiny_live(tiny_bundle(items=creative_items()), plan)


def decided(live: Live, number: int = 0, **fields: Any):
    asked = query(live, customer(segment=2, **fields))
    return decide(replace(asked, decision_id=f"d{number}"), live)


class TestPages:
    def test_creatives_are_drawn_as_often_as_is_logged(self) -> None:
        live = live_of()
        first = decided(live)
        assert first.draws and all(len(one.keys) == 3 for one in first.draws)
        place, counts = first.draws[0].place, {}
        for number in range(300):
            page = decided(live, number)
            one = next(one for one in page.draws if one.place == place)
            shown = page.placements[place]
            assert shown.creative_key == one.keys[one.drawn] and sum(one.probabilities) == pytest.approx(1)
            if shown.key == first.placements[place].key:
                counts[shown.creative_key] = counts.get(shown.creative_key, 0) + 1
        assert len(counts) == 3 and min(counts.values()) > 0.2 * sum(counts.values())

    def test_only_creatives_differ_from_a_page_without(self) -> None:
        live = live_of()
        drawn = decided(live)
        quiet = decide(replace(drawn.query, profiling=False), live)
        assert not quiet.draws and not decided(live_of(0.0)).draws
        again = decided(live)
        assert again.draws == drawn.draws and again.placements == drawn.placements

    def test_what_is_learned_is_shown(self) -> None:
        live = live_of()
        held = [decided(live, number) for number in range(30)]
        rows = [page.placements[one.place].row for page in held for one in page.draws]
        row = max(set(rows), key=rows.count)
        key, texts = int(live.keys[row]), live.texts[row].creatives
        told = Seen.none([f"{one.key:08x}" for one in texts])
        told.shown[:, 2], told.reward[:, 2] = 5_000, (100, 100, 500)
        live = live.taught(learned({key: told}, lambda _: 0.05, made_at=NOW, until=NOW))
        pages = [decided(live, number) for number in range(60)]
        wins = [one.creative == 2 for page in pages for one in page.placements if one.key == key]
        assert len(wins) > 20 and sum(wins) >= 0.95 * len(wins)
        assert decided(live).learned == live.learned.version

    def test_a_campaign_shows_its_own_creatives_only(self) -> None:
        names = next(one.id for one in creative_items() if one.kind == "activity")
        mine = sold(1, names, creatives={names: [f"{names}-cr0", f"{names}-cr2"]})
        live = live_of(0.2, {**mine, "tier": "mandatory"})
        for number in range(30):
            page = decided(live, number)
            for one in page.draws:
                if page.placements[one.place].campaign >= 0:
                    allowed = {key32(f"{names}-cr0"), key32(f"{names}-cr2")}
                    assert set(one.keys) == allowed
                    return
        pytest.fail("the campaign was never shown")

    def test_a_budget_bounds_what_drawing_gives_up(self) -> None:
        told = seen({1: (0.05, 0.052, 0.05)}, 300)
        one = Learned(tables={7: table_of(told, 0.05, seed=1)})
        free, bound = chances_of(one, 7, 1, KEYS, 1.0), chances_of(one, 7, 1, KEYS, 0.02)
        assert max(bound) > max(free) and sum(bound) == pytest.approx(1)
        assert (1 - max(bound)) / (1 - max(free)) <= 0.02 / one.tables[7].loss[0] + 0.05

    def test_a_creative_that_is_new_has_an_equal_chance(self) -> None:
        one = Learned(tables={7: table_of(seen({1: (0.02, 0.3, 0.02)}), 0.05, seed=1)})
        chances = chances_of(one, 7, 1, (*KEYS, 99), 1.0)
        assert chances[3] == pytest.approx(0.25) and chances[1] > 0.7


def served(number: int, at: float, creative: int, *, cell: int = 2) -> list[Entry]:
    """A page that drew a creative of item 7, displayed; a click for creative 1."""
    subject, name = f"u:u{number}", f"d{number}"
    place = np.zeros(1, PLACES)
    place["item"], place["creative"] = 7, KEYS[creative]
    row = {
        "t": "served", "subject": subject, "id": name, "at": at, "cell": cell,
        "items": np.uint64(7).tobytes(), "draws": [[0, list(KEYS), [1 / 3] * 3, creative]],
    }  # fmt: skip
    told = {"subject": subject, "decision_id": name, "places": place.tobytes()}
    rows = [row, {"t": "displayed", **told}] + ([{"t": "clicked", **told}] if creative == 1 else [])
    return [Entry(f"{name}:{at}", subject, msgpack.packb(one)) for at, one in enumerate(rows)]


def world(n: int = 60, at: float = NOW - RIPE_S - 60) -> list[Entry]:
    return [entry for number in range(n) for entry in served(number, at + number / 10, number % 3)]


class TestLearning:
    def test_a_page_counts_once_and_when_it_is_ripe(self) -> None:
        harvest = Harvest(0.0)
        harvest.take(entry.payload for entry in world(30))
        early, _, _ = harvest.ripe(NOW - 9e9, {}, {}, {})
        found, _, _ = harvest.ripe(NOW, early, {}, {})
        assert early == {} and found[7].shown[:, 2].tolist() == [10, 10, 10]
        assert found[7].reward[:, 2].tolist() == [0, 10, 0]
        assert harvest.ripe(NOW, found, {}, {})[0][7].shown.sum() == 30

    def test_the_leader_writes_versions_and_the_next_goes_on(self, tmp_path) -> None:
        log, control = MemoryLog(lambda: NOW), MemoryControl(lambda: NOW)
        live, now = live_of(), [NOW]

        def learner(name: str) -> Learner:
            return Learner(control, log, str(tmp_path), lambda: live, Metrics(), name, clock=lambda: now[0])

        async def story() -> tuple[Learned, Learned]:
            first, second = learner("r1"), learner("r2")
            await log.append(world(60))
            assert await first.step() == "written" and await second.step() == "following"
            one = BanditShelf(str(tmp_path)).fetch((await control.poll()).bandit or "")
            await first.stop()
            assert await second.step() == "idle"  # the log holds the same pages still
            now[0] += 600
            await log.append([e for n in range(60, 90) for e in served(n, NOW + 1, n % 3)])
            assert await second.step() == "written"
            return one, BanditShelf(str(tmp_path)).fetch((await control.poll()).bandit or "")

        one, two = asyncio.run(story())
        assert one.seen[7].shown.sum() == 60 and two.seen[7].shown.sum() == pytest.approx(90, rel=1e-3)
        assert one.tables[7].chances[0].argmax() == 1 and two.version != one.version

    def test_nothing_explores_nothing_is_learned(self, tmp_path) -> None:
        control = MemoryControl(lambda: NOW)
        live = live_of(0.0)
        one = Learner(control, MemoryLog(lambda: NOW), str(tmp_path), lambda: live, Metrics(), "r")
        assert asyncio.run(one.step()) == "idle" and not one.leads
        assert asyncio.run(control.lead(LEARNER, "other", 5.0)) is not None

    def test_the_bundle_warms_it(self) -> None:
        live = live_of()
        base = base_of(live)
        assert base(int(live.keys[0])) == pytest.approx(0.05, abs=0.05) and base(12345) == 0.05

    def test_what_is_kept_for_replay_decides_alike(self) -> None:
        one = learned({7: seen({1: (0.1, 0.2, 0.1)})}, lambda _: 0.05, made_at=NOW, until=NOW)
        import zlib

        kept = learned_of(one.version, zlib.compress(one.encode(whole=False)))
        assert kept.version == one.version and kept.seen == {} and CELLS == 32
        assert chances_of(kept, 7, 1, KEYS, 0.5) == chances_of(one, 7, 1, KEYS, 0.5)


LEVERS: dict[str, Any] = {
    "layers": [
        {
            "name": "levers",
            "experiments": [
                {
                    "name": "push",
                    "adaptive": True,
                    "ramp": [{"at": "2026-01-01T00:00:00Z", "enrolled": 1}],
                    "arms": [
                        {"name": "plain"},
                        {"name": "up", "changes": {"levers": {"c1": 5.0}}},
                        {"name": "without", "changes": {"paused": ["c1"]}},
                    ],
                }
            ],
        }
    ]
}


def adaptive_live() -> Live:
    plan = tiny_plan(experiments=LEVERS, campaigns=[sold(1, "i2", values={"click": 2.0})])
    return tiny_live(tiny_bundle(), plan)


class TestArms:
    """Campaigns and levers: arms of an experiment whose shares follow what they earn."""

    def test_untold_arms_are_even_and_an_hour_keeps_its_arm(self) -> None:
        live = adaptive_live()
        counts: dict[str, int] = {}
        for number in range(150):
            asked = query(live, customer(segment=2), subject=f"u:u{number}")
            page = decide(asked, live)
            (one,) = page.arm_draws
            assert page.arms[0].name == f"push/{one.arms[one.drawn]}" and sum(one.probabilities) == 1
            counts[one.arms[one.drawn]] = counts.get(one.arms[one.drawn], 0) + 1
            if number < 5:
                again = decide(replace(asked, decision_id="another", now=asked.now + 1), live)
                assert again.arms == page.arms
        assert set(counts) == {"plain", "up", "without"} and min(counts.values()) > 25

    def test_the_bundle_warms_arms_by_clicks_a_page(self) -> None:
        bundle = tiny_bundle()
        bundle.stats["displays"][:], bundle.stats["clicks"][:] = 1_000, 200
        plan = tiny_plan(experiments=LEVERS, campaigns=[sold(1, "i2", values={"click": 2.0})])
        live = tiny_live(bundle, plan)
        base = base_of(live)(group_of("push"))
        page = sum(sum(slot.shown) for slot in live.plan.surfaces["home"])
        assert base == pytest.approx(0.2 * page, rel=1e-3) and base > 1
        cold, warm = (table_of(Seen.none(("a", "b")), rate, seed=1) for rate in (0.05, base))
        assert warm.mean.max() == pytest.approx(base) and warm.deviation.max() > 10 * cold.deviation.max()
        assert base_of(live)(int(live.keys[0])) == pytest.approx(0.2, rel=0.1)

    def test_the_segment_that_likes_an_arm_gets_it(self) -> None:
        live, told = adaptive_live(), Seen.none(("plain", "up", "without"))
        told.shown[:, [2, 3]] = 4_000
        told.reward[:, 2], told.reward[:, 3] = (400, 900, 300), (400, 300, 900)
        told.squares[:] = told.reward
        live = live.taught(learned({group_of("push"): told}, lambda _: 0.1, made_at=NOW, until=NOW))
        for segment, arm in ((2, "up"), (3, "without")):
            found = [
                decide(query(live, customer(segment=segment), subject=f"u:v{n}"), live).arms[0].name
                for n in range(20)
            ]
            assert found.count(f"push/{arm}") >= 19

    def test_tables_of_experiments_change_with_the_hour_alone(self) -> None:
        hour = NOW // HOUR_S * HOUR_S
        first = learned(
            {7: seen({1: (0.1, 0.2, 0.1)}), 8: seen({1: (0.1, 0.2, 0.1)})},
            lambda _: 0.05,
            made_at=hour,
            until=0,
        )
        more = {7: seen({1: (0.3, 0.1, 0.1)}, 9_000.0), 8: seen({1: (0.3, 0.1, 0.1)}, 9_000.0)}
        same = learned(more, lambda _: 0.05, first, made_at=hour + HOUR_S - 1, until=0, hourly=[8])
        assert same.tables[7].displays > first.tables[7].displays
        assert same.tables[8].displays == first.tables[8].displays
        after = learned(more, lambda _: 0.05, same, made_at=hour + HOUR_S, until=0, hourly=[8])
        assert after.tables[8].displays > first.tables[8].displays

    def test_it_learns_from_clicks_a_page(self) -> None:
        rows = []
        for number in range(40):
            base = {"subject": f"u:{number}", "decision_id": "d"}
            draws = [["push", ["plain", "up"], [0.5, 0.5], number % 2]]
            row = {"t": "served", **base, "id": "d", "at": NOW, "cell": 3, "items": b"", "draws": []}
            place = np.zeros(1, PLACES).tobytes()
            rows += [row | {"arm_draws": draws}, {"t": "displayed", **base, "places": place}]
            rows += [{"t": "clicked", **base, "places": place}] * (number % 4 == 1)
        harvest = Harvest(0.0)
        harvest.take(msgpack.packb(row) for row in rows)
        found = harvest.ripe(NOW + 1, {}, {}, {})[0][group_of("push")]
        assert found.shown[:, 3].tolist() == [20, 20] and found.reward[:, 3].tolist() == [0, 10]


def test_replicas_take_up_a_version_and_keep_the_last_good_one() -> None:
    one = learned({7: seen({1: (0.1, 0.2, 0.1)})}, lambda _: 0.05, made_at=NOW, until=NOW)

    async def story() -> None:
        async with running(tiny_bundle()) as shell:
            version = BanditShelf(shell.service.settings.registry_url).put(one)
            await shell.control.set("bandit", version)
            await shell.service.reloader.poll()
            assert shell.service.holder.live.learned.version == version == one.version
            await shell.control.set("bandit", "0123456789ab")
            await shell.service.reloader.poll()
            assert shell.service.holder.live.learned.version == version
            await shell.control.set("bandit", None)
            await shell.service.reloader.poll()
            assert not shell.service.holder.live.learned.version

    run(story)


def test_operators_see_arms_posterior_and_share(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FENLIU_HOME", str(tmp_path))
    groups = {key64("a7"): seen({1: (0.1, 0.2, 0.1), 2: (0.1, 0.1, 0.1)})}
    version = BanditShelf(str(tmp_path / "registry")).put(
        learned(groups, lambda _: 0.05, made_at=NOW, until=NOW)
    )
    assert main(["bandit", "status", "--version", version, "--json", "--item", "a7"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["items"]
    assert [one["segment"] for one in told["segments"]] == [1, 2, "all"] and told["displays"] == 12_000
    best = max(told["segments"][0]["creatives"], key=lambda one: one["share"])
    assert best["clicks"] == 400 and best["mean"] == pytest.approx(0.2, rel=0.05) and best["share"] > 0.9
    assert main(["bandit", "status", "--version", version, "--segments"]) == 0
    assert "±" in capsys.readouterr().out


def test_operators_see_what_is_told_of_new_items() -> None:
    bundle = tiny_bundle()
    bundle.stats["clicks"][:] = 0
    ids = bundle.compiled.ids
    told = {key64(ids[0]): (10.0, 16.0), key64(ids[1]): (30.0, 6.0), key64("gone"): (5.0, 1.0)}
    one = Learned(bundle=bundle.version, fresh=told)
    less, more, put = newcomers(one, bundle)
    assert [less["item"], more["item"]] == [ids[1], ids[0]] and more["clicks"] == 16
    assert put["item"] == f"{key64('gone'):016x}" and put["mean"] == (PRIOR + 1) / (PRIOR + 5)
    assert more["mean"] == pytest.approx((PRIOR + 16) / (PRIOR + 10)) and more["share"] == 10 / 45
    assert more["better"] > 0.9 > 0.1 > less["better"] and less["deviation"] < more["deviation"]
    live = tiny_live(bundle).taught(one)
    assert live.newcomers.mean is not None
    assert live.newcomers.mean[0] == pytest.approx(more["mean"], rel=1e-6)
    assert [one["item"] for one in newcomers(one, bundle, ids[0])] == [ids[0]]
    assert newcomers(replace(one, bundle="another"), bundle) == [] == newcomers(one, None)
