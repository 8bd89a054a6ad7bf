"""A candidate bundle in the shadow of the live one: from the log's entries to the verdict."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from rich.console import Console

from features.events import served_to_log, unpack
from features.log import Entry
from features.token import PLACES
from serving.control import Kill
from serving.decide import decide
from serving.live import Live
from serving.ranking import Ranked
from tests.rankers import ranked_bundle
from tests.shadows import (
    PAGES,
    live_bundle,
    named,
    page_of,
    plan_entry,
    served,
    shadowed,
    shuffled,
    traffic,
)
from tests.worlds import NOW, SLOTS, query, tiny_bundle, tiny_live, tiny_plan
from training.placed_chances import chances_of, ranked_by
from training.shadow import RIPE_S
from training.shadow_commands import _drawing
from training.shadow_figures import MOST_REASONS, OTHER, Figures
from training.shadow_report import table_of, write_shadow


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return shadowed(tmp_path_factory.mktemp("same"), named("b-next"), traffic())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return shadowed(tmp_path_factory.mktemp("other"), shuffled(), traffic())


class TestTheSameBundle:
    def test_differs_nowhere(self, same: Mapping[str, Any]) -> None:
        pages, places = same["pages"], same["places"]
        assert (pages["seen"], pages["sampled"], pages["compared"]) == (PAGES, PAGES, PAGES)
        assert pages["left_out"] == {} and pages["live_as_logged"] == 1.0
        assert places["compared"] > 15 * PAGES and places["differ"] == 0.0
        for one in places["by_slot"].values():
            assert one["differ"] == 0.0 and set(one["overlap"].values()) == {1.0}
        assert set(places["by_slot"]["home.feed"]["overlap"]) == {"1", "5"}
        assert same["drift"] == {"home": 0.0}
        assert same["fill"]["live"] == same["fill"]["candidate"] > 0.9

    def test_says_the_same_of_displays_and_keeps_every_limit(self, same: Mapping[str, Any]) -> None:
        shown = same["displays"]
        assert shown["ripe_pages"] == shown["displayed_pages"] == PAGES and shown["unripe_pages"] == 0
        assert shown["log_loss"]["live"] == shown["log_loss"]["candidate"]
        assert shown["log_loss"]["difference"] == [0.0, 0.0, 0.0]
        assert shown["calibration"]["live"] == shown["calibration"]["candidate"]
        assert shown["calibration"]["live"]["all"]["clicks"] == shown["clicks"] > 300
        assert same["refusals"] == []
        assert min(same["us_per_page"].values()) > 0

    def test_sums_are_those_of_every_display(self, tmp_path: Path) -> None:
        """Against the plain sums over displays and clicks of the log."""
        entries = traffic(40)
        found = shadowed(tmp_path, named("b-next"), entries)["displays"]
        rows = [unpack(one.payload) for one in entries]
        counts = {
            kind: sum(len(row["places"]) // PLACES.itemsize for row in rows if row["t"] == kind)
            for kind in ("displayed", "clicked")
        }
        assert (found["places"], found["clicks"]) == (counts["displayed"], counts["clicked"])
        live, p, loss = tiny_live(live_bundle()), 0.0, 0.0
        for number in range(40):
            row, asked = page_of(live, number)
            items = np.frombuffer(row["items"], "<u8")
            slot = np.frombuffer(row["place_slot"], "u1").astype(np.int64)
            at = np.arange(len(slot)) - np.searchsorted(slot, slot)
            mine = chances_of(asked, live, items, [row["slots"][one] for one in slot], at).astype(float)
            hit = np.random.default_rng(number).random(len(mine)) < mine
            p, loss = p + mine.sum(), loss - np.log(np.where(hit, mine, 1 - mine)).sum()
        everything = found["calibration"]["live"]["all"]
        assert everything["ratio"] == pytest.approx(p / counts["clicked"], abs=1e-4)
        assert found["log_loss"]["live"] == pytest.approx(loss / counts["displayed"], rel=1e-6)


class TestAShuffledBundle:
    def test_is_told(self, other: Mapping[str, Any]) -> None:
        assert other["places"]["differ"] > 0.3
        assert other["places"]["by_slot"]["home.feed"]["overlap"]["5"] < 0.9
        loss = other["displays"]["log_loss"]
        assert loss["difference"][1] > 0.01 * loss["live"]
        codes = {one["code"] for one in other["refusals"]}
        assert "log_loss" in codes
        assert "beyond doubt" in next(one["text"] for one in other["refusals"] if one["code"] == "log_loss")

    def test_the_live_one_is_what_it_was(self, other: Mapping[str, Any], same: Mapping[str, Any]) -> None:
        assert other["displays"]["calibration"]["live"] == same["displays"]["calibration"]["live"]
        assert other["pages"]["live_as_logged"] == 1.0

    def test_a_terminal_sees_the_table_while_it_runs(self, other: dict[str, Any]) -> None:
        seen = io.StringIO()
        with _drawing(Console(file=seen, force_terminal=True, width=132)) as draw:
            draw(lambda: other)
        assert "pages decided again by b-shuffled" in seen.getvalue() and "log loss" in seen.getvalue()
        with _drawing(Console(file=(nothing := io.StringIO()))) as draw:
            draw(lambda: other)
        assert nothing.getvalue() == ""

    def test_reasons_are_as_many_as_can_be_read(self) -> None:
        figures = Figures()
        for n in range(100):
            figures.leave(f"prices {n}")
        assert len(figures.left_out) == MOST_REASONS + 1 and figures.left_out[OTHER] == 100 - MOST_REASONS

    def test_its_report_has_both(self, other: dict[str, Any], tmp_path: Path) -> None:
        path = write_shadow(other, tmp_path / "out")
        text = path.read_text()
        assert "does not keep its limits" in text and "`log_loss`" in text and "overlap@5" in text
        assert (tmp_path / "out" / "shadow.png").stat().st_size > 5_000
        assert json.loads((tmp_path / "out" / "shadow.json").read_text())["candidate"] == "b-shuffled"
        assert table_of(other).row_count > 10


class TestWhatIsLeftOut:
    def test_pages_of_other_bundles_plans_and_rungs_and_what_cannot_be_read(self, tmp_path: Path) -> None:
        live = tiny_live(live_bundle())
        lost = tiny_plan(slots=[one | {"size": 1} for one in SLOTS])
        unknown = tiny_live(live_bundle(), lost)
        rows = {name: page_of(live, number)[0] for number, name in enumerate("abcd")}
        rows["b"] |= {"base": "b-old", "bundle": "b-old"}
        rows["c"]["bundle"] = "b-arm"
        rows["d"]["cached"] = rows["d"]["items"]
        payloads = [served_to_log(row) for row in rows.values()]
        payloads.append(served_to_log(page_of(unknown, 8)[0]))
        odd = page_of(live, 9)[0]
        payloads.append(msgpack.packb({"t": "served", **{n: v for n, v in odd.items() if n != "context"}}))
        payloads.append(served_to_log(page_of(live, 10)[0] | {"blobs": [b"\x00", b"", b"", b"", b""]}))
        payloads += [b"\xc1", msgpack.packb([1]), msgpack.packb({"t": "served"})]
        payloads.append(
            msgpack.packb({"t": "displayed", "subject": "u:u0", "decision_id": "d0", "places": b"1"})
        )
        entries = [Entry(f"e{n}", "u:u1", payload) for n, payload in enumerate(payloads)]
        found = shadowed(tmp_path, named("b-next"), [plan_entry(tiny_plan()), *entries])
        pages = found["pages"]
        left = pages["left_out"]
        assert left["made by bundle b-old, not by the live one"] == 1
        assert left["an experiment's arm has a bundle of its own"] == 1
        assert left["the customer's last page once more (rung cached)"] == 1
        (plan,) = (reason for reason in left if "neither the log nor the lake has it" in reason)
        assert unknown.plan.version in plan
        assert sum("context" in reason for reason in left) == 1
        assert pages["unreadable_rows"] == 4
        assert pages["compared"] + sum(left.values()) == pages["sampled"] == 7
        assert pages["compared"] >= 1 and pages["plans"] == {live.plan.version: pages["compared"]}
        assert [one["code"] for one in found["refusals"]] == ["too_few_pages"]
        assert "b-old" in found["refusals"][0]["text"]

    def test_pages_of_another_plan_are_decided_under_theirs(self, tmp_path: Path) -> None:
        short = tiny_plan(slots=[one | {"size": 1} for one in SLOTS])
        plans = tiny_plan(), short
        rows = [page_of(tiny_live(live_bundle(), plan), n)[0] for n, plan in enumerate(plans)]
        entries = [Entry(f"e{n}", "u:u1", served_to_log(row)) for n, row in enumerate(rows)]
        found = shadowed(tmp_path, named("b-next"), [*entries, *map(plan_entry, plans)])
        assert found["pages"]["compared"] == 2 and len(found["pages"]["plans"]) == 2
        assert found["places"]["differ"] == 0.0

    def test_killed_items_stand_nowhere_and_their_displays_are_counted_apart(self, tmp_path: Path) -> None:
        live = tiny_live(live_bundle())
        before, entries = served(live, 0)
        gone = before["item_ids"][0]
        after = page_of(tiny_live(live_bundle(), kills=[Kill("item", gone)]), 1)[0]
        all_gone = page_of(tiny_live(live_bundle(), kills=[Kill("everything", "all")]), 2)[0]
        assert after["kills"] and not len(all_gone["items"])
        entries += [Entry("s1", "u:u1", served_to_log(after)), Entry("s2", "u:u2", served_to_log(all_gone))]
        only_item = [one for one in entries if one.event_id != "s2"]
        found = shadowed(tmp_path, named("b-next"), [plan_entry(tiny_plan()), *only_item])
        assert found["pages"]["compared"] == 2 and found["pages"]["with_kills"] == 1
        assert found["places"]["differ"] == 0.0
        assert found["displays"]["left_out"] == {"killed since": 1}
        assert found["displays"]["places"] == len(before["item_ids"]) - 1
        found = shadowed(tmp_path, named("b-next"), [plan_entry(tiny_plan()), *entries])
        assert found["pages"]["compared"] == 3 and found["degraded"]["live"]["causes"]["killed"] == 1
        assert found["degraded"]["live"] == found["degraded"]["candidate"]

    def test_items_that_the_candidate_does_not_have(self, tmp_path: Path) -> None:
        fewer = replace(ranked_bundle(tiny_bundle(60)), version="b-fewer")
        found = shadowed(tmp_path, fewer, traffic(20))
        assert found["pages"]["compared"] == 20 and found["pages"]["candidate_failed"] == 0
        assert found["displays"]["left_out"]["not ranked by the candidate"] > 20

    def test_a_share_is_taken_by_the_pages_ids_and_no_more_than_asked(self, tmp_path: Path) -> None:
        some = shadowed(tmp_path, named("b-next"), traffic(100), share=0.3)
        again = shadowed(tmp_path, named("b-next"), reversed(traffic(100)), share=0.3)
        assert 10 < some["pages"]["sampled"] == again["pages"]["sampled"] < 60
        assert some["pages"]["seen"] == 100 and some["share"] == 0.3
        assert shadowed(tmp_path, named("b-next"), traffic(100), most=7)["pages"]["compared"] == 7
        late = shadowed(tmp_path, named("b-next"), traffic(100), since=NOW + 90)
        assert late["pages"]["seen"] == 10

    def test_a_page_is_joined_when_it_is_ripe(self, tmp_path: Path) -> None:
        found = shadowed(tmp_path, named("b-next"), traffic(40), now=NOW + RIPE_S + 9.5)
        assert found["displays"]["ripe_pages"] == 10 and found["displays"]["unripe_pages"] == 30
        young = shadowed(tmp_path, named("b-next"), traffic(40), now=NOW)
        assert young["displays"]["log_loss"] is None and "no display is ripe" in young["not_told"][-1]

    def test_a_candidate_that_cannot_decide_is_counted_and_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import training.shadow

        def failing(asked: Any, live: Live, effort: Any) -> Any:
            if live.bundle.version == "b-next" and asked.decision_id == "d3":
                raise ZeroDivisionError
            return decide(asked, live, effort)

        monkeypatch.setattr(training.shadow, "decide", failing)
        found = shadowed(tmp_path, named("b-next"), traffic(10))
        assert found["pages"]["left_out"] == {"the candidate fails: ZeroDivisionError": 1}
        assert "failed" in {one["code"] for one in found["refusals"]}

    def test_a_stage_that_fails_open_is_told_and_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ranker = live_bundle().ranker
        assert ranker is not None
        broken, sound = replace(ranker, scale=(0.0, 0.31)), Ranked.score

        def score(self: Ranked, page: Any, candidates: Any) -> Any:
            if self.ranker is broken:
                raise ZeroDivisionError
            return sound(self, page, candidates)

        monkeypatch.setattr(Ranked, "score", score)
        found = shadowed(tmp_path, named("b-broken", ranker=broken), traffic(10))
        assert found["degraded"]["live"] == {"pages": 1.0, "alone": 0.0, "causes": {"membership": 10}}
        lost = found["degraded"]["candidate"]
        assert lost == {"pages": 1.0, "alone": 1.0, "causes": {"membership": 10, "Ranked": 10}}
        assert {one["code"] for one in found["refusals"]} == {"too_few_pages", "degraded"}


class TestWithoutARanker:
    def test_the_first_stage_speaks(self, tmp_path: Path) -> None:
        bare = named("b-bare", ranker=None)
        live = tiny_live(bare)
        row, asked = page_of(tiny_live(live_bundle()), 4)
        items, n = np.frombuffer(row["items"], "<u8"), len(row["items"]) // 8
        assert ranked_by(live) is None and ranked_by(tiny_live(live_bundle())) is not None
        plain = decide(replace(asked, slots=query(live).slots), live)
        score = {one.key: one.score for one in plain.placements}
        told = dict(
            zip(
                items.tolist(),
                chances_of(asked, live, items, ["x"] * n, np.zeros(n, int)).tolist(),
                strict=True,
            )
        )
        both = score.keys() & told.keys()
        assert both and all(told[key] == pytest.approx(score[key], rel=1e-4) for key in both)
        found = shadowed(tmp_path, bare, traffic(20))
        assert found["displays"]["places"] > 300 and found["displays"]["left_out"] == {}
