"""A candidate bundle in the shadow of the live one: from the log's entries to the verdict."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from rich.console import Console

import fenliu
from features.customer import Blobs, decode_customer
from features.events import served_to_log, unpack
from features.ids import key32
from features.log import Entry, MemoryLog
from features.store import StoreUnavailable
from features.token import PLACES
from serving.bundle import Bundle, save
from serving.control import Kill
from serving.decide import decide
from serving.kept import PLAN, kept_entry, plan_body
from serving.live import Live
from serving.log_tail import Tail
from serving.plan import Plan
from serving.ranking import Ranked
from serving.registry import Registry, RegistryError
from serving.served import record
from serving.wire import RecommendAsk, context_of
from tests.rankers import ranked_bundle
from tests.worlds import NOW, SLOTS, profile_blob, query, recent_entries, tiny_bundle, tiny_live, tiny_plan
from training.gate import Refusal, Verdict
from training.job import _outcome
from training.lake import Lake
from training.lives import Lives
from training.placed_chances import chances_of, ranked_by
from training.publish import put_and_promote
from training.shadow import RIPE_S, Shadow
from training.shadow_arguments import LIMITS
from training.shadow_commands import _drawing, document, follow, limits_of
from training.shadow_figures import MOST_REASONS, OTHER, Figures, Limits, limits_told, not_told, refusals
from training.shadow_inputs import TailedInputs
from training.shadow_report import table_of, write_shadow

PAGES = 400
LATE = NOW + PAGES + 2 * RIPE_S
CONTEXT = {"channel": "app", "app_version": "9.2.0", "auth_level": "bound_card"}


@cache
def live_bundle() -> Bundle:
    return replace(ranked_bundle(tiny_bundle()), version="b-live")


def named(version: str, **changes: Any) -> Bundle:
    return replace(live_bundle(), version=version, **changes)


def shuffled() -> Bundle:
    """What each item draws is another item's."""
    ranker = live_bundle().ranker
    assert ranker is not None
    facts = ranker.facts
    table = facts.table[np.random.default_rng(5).permutation(len(facts.table))]
    return named("b-shuffled", ranker=replace(ranker, facts=replace(facts, table=table)))


def page_of(live: Live, number: int, at: float | None = None) -> tuple[dict[str, Any], Any]:
    """A served record, and the query that it came from."""
    at = NOW + number if at is None else at
    seen = recent_entries((f"i{number % 120}", "clicked", 50.0), (f"i{7 * number % 120}", "clicked", 9.0))
    blobs = Blobs(
        profile_blob(age=20 + number % 50, risk_level=number % 6, star_level=number % 8, segment=number % 4),
        None, seen.tobytes(), None, None,
    )  # fmt: skip
    known = decode_customer(blobs, now=at, schemas=live.bundle.schemas, consented=True)
    ask = RecommendAsk(user_id=f"u{number}", context=CONTEXT)
    asked = query(live, known, decision_id=f"d{number}", subject=f"u:u{number}", now=at)
    asked = replace(asked, context=context_of(ask.context))
    return record(decide(asked, live), blobs, ask, live), asked


def served(live: Live, number: int, at: float | None = None) -> tuple[dict[str, Any], list[Entry]]:
    """A page and what became of it: everything displayed, clicked as often as the live ranker says."""
    row, asked = page_of(live, number, at)
    items = np.frombuffer(row["items"], "<u8")
    slot = np.frombuffer(row["place_slot"], "u1").astype(np.int64)
    names = [row["slots"][one] for one in slot.tolist()]
    position = np.arange(len(slot)) - np.searchsorted(slot, slot)
    places = np.zeros(len(items), PLACES)
    places["item"], places["slot"], places["position"] = items, [key32(one) for one in names], position
    true = chances_of(asked, live, items, names, position)
    hit = np.random.default_rng(number).random(len(items)) < np.nan_to_num(true)
    entries = [Entry(f"s{number}", row["subject"], served_to_log(row))]
    for kind, some in (("displayed", places), ("clicked", places[hit])):
        if len(some):
            said = {"t": kind, "subject": row["subject"], "decision_id": row["id"], "places": some.tobytes()}
            entries.append(Entry(f"{kind}{number}", row["subject"], msgpack.packb(said)))
    return row, entries


def plan_entry(plan: Plan) -> Entry:
    live = tiny_live(live_bundle(), plan)
    return kept_entry(PLAN, live.plan.version, NOW, lambda: plan_body(plan))


@cache
def traffic(pages: int = PAGES) -> tuple[Entry, ...]:
    live = tiny_live(live_bundle())
    return (*(one for n in range(pages) for one in served(live, n)[1]), plan_entry(tiny_plan()))


def logged(entries: Iterable[Entry]) -> MemoryLog:
    log = MemoryLog(lambda: NOW)
    asyncio.run(log.append(list(entries)))
    return log


def shadowed(
    tmp_path: Path, candidate: Bundle, entries: Iterable[Entry], now: float = LATE, **options: Any
) -> dict[str, Any]:
    """What `--once` says."""
    log, held = logged(entries), {"b-live": live_bundle(), candidate.version: candidate}
    inputs = TailedInputs(Lake(str(tmp_path / "lake")), log)
    shadow = Shadow(Lives(inputs, held.__getitem__), inputs, candidate, "b-live", **options)
    follow(shadow, log, 0.0, None, lambda: None, clock=lambda: now)
    return document(shadow, candidate.version, "b-live", options.get("share", 1.0), Limits())


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


class TestLimits:
    def found(self, **changes: Any) -> dict[str, Any]:
        sides = {"live": 1.0, "candidate": 1.0}
        one = {"ratio": 1.0, "low": 0.95, "high": 1.05, "clicks": 900}
        return {
            "pages": {"compared": 900, "left_out": {}, "candidate_failed": 0},
            "fill": sides,
            "degraded": {side: {"alone": 0.0, "causes": {"Ranked": 2}} for side in sides},
            "drift": {"home": 0.1, "wealth": None},
            "displays": {
                "places": 9_000,
                "calibration": {side: {"all": one, "home.feed": one} for side in sides},
                "log_loss": {"live": 0.2, "candidate": 0.2, "difference": [0.0, -0.001, 0.001]},
            },
        } | changes  # fmt: skip

    def codes(self, limits: Limits | None = None, **changes: Any) -> list[str]:
        return [one.code for one in refusals(self.found(**changes), limits or Limits())]

    def test_each_of_them(self) -> None:
        assert self.codes() == []
        assert self.codes(fill={"live": 1.0, "candidate": 0.97}) == ["fill"]
        assert self.codes(drift={"home": 0.3}) == ["drift"] == self.codes(drift={"home": float("nan")})
        degraded = {side: {"alone": part, "causes": {}} for side, part in (("live", 0.1), ("candidate", 0.2))}
        assert self.codes(degraded=degraded) == ["degraded"]
        displays = self.found()["displays"]
        wrong = {"ratio": 1.2, "low": 1.1, "high": 1.3, "clicks": 900}
        mine = {"all": wrong, "home.grid": wrong | {"clicks": 5}}
        off = displays | {
            "calibration": {"candidate": mine, "live": {slot: {"ratio": 0.85} for slot in mine}}
        }
        assert self.codes(displays=off) == ["calibration"]
        assert self.codes(Limits(calibration=0.11), displays=off) == []
        assert "home.grid" in not_told(self.found(displays=off), Limits())[-1]
        both = off | {"calibration": {"candidate": mine, "live": {slot: {"ratio": 0.8} for slot in mine}}}
        assert self.codes(displays=both) == []
        assert "all is off by 1.200" in not_told(self.found(displays=both), Limits())[-1]
        worse = displays | {"log_loss": {"live": 0.2, "candidate": 0.21, "difference": [0.01, 0.003, 0.02]}}
        assert (
            self.codes(displays=worse) == ["log_loss"] and self.codes(Limits(loss=0.02), displays=worse) == []
        )
        assert self.codes(pages=self.found()["pages"] | {"compared": 10}) == ["too_few_pages"]

    def test_help_names_the_defaults(self) -> None:
        said = limits_told(Limits())
        assert {name for name, *_ in LIMITS} == said.keys()
        for name, _, _, about in LIMITS:
            assert f"({said[name]:g})" in about
        none = argparse.Namespace(**{f"limit_{name}": None for name in said})
        assert limits_of(none) == Limits()
        none.limit_fill = 0.5
        assert limits_of(none) == Limits(fill=0.5)


class TestFollowing:
    def test_it_reads_on_until_the_time_is_over(self, tmp_path: Path) -> None:
        """Pages that come while it watches; those served before are not looked at."""
        entries, log = traffic(60), logged([plan_entry(tiny_plan())])
        inputs = TailedInputs(Lake(str(tmp_path)), log)
        held = {"b-live": live_bundle()}
        start = NOW + 19.5
        shadow = Shadow(Lives(inputs, held.__getitem__), inputs, named("b-next"), "b-live", since=start)
        times, drawn = iter(range(1_000)), []
        clock = [start]
        parts = [entries[:30], (), entries[30:90], entries[90:], ()]

        def sleep(seconds: float) -> None:
            assert 0 <= seconds <= 1
            clock[0] += 60.0
            if (n := next(times)) < len(parts):
                asyncio.run(log.append(list(parts[n])))

        follow(
            shadow, log, start, start + 900, lambda: drawn.append(1), clock=lambda: clock[0], sleep=sleep
        )  # fmt: skip
        found = shadow.figures.document()
        assert found["pages"]["seen"] == found["pages"]["compared"] == 40 and not found["pages"]["left_out"]
        assert found["displays"]["ripe_pages"] == 40 and len(drawn) > 5

    def test_a_store_that_is_away_is_waited_for(self, tmp_path: Path) -> None:
        class Away(MemoryLog):
            calls = 0

            def read(self, shard: int, after: str, count: int) -> list[tuple[str, bytes]]:
                self.calls += 1
                if self.calls in (2, 4, 9, 14):
                    raise StoreUnavailable("away")
                return super().read(shard, after, count)

        log = Away(lambda: NOW, shards=3)
        asyncio.run(log.append([plan_entry(tiny_plan()), *traffic(20)[:-1]]))
        now = [LATE]

        def watched(end: float | None) -> Figures:
            inputs = TailedInputs(Lake(str(tmp_path)), log)
            lives = Lives(inputs, {"b-live": live_bundle()}.__getitem__)
            shadow = Shadow(lives, inputs, named("b-next"), "b-live")
            follow(shadow, log, 0.0, end, lambda: None, clock=lambda: now[0], sleep=sleep)
            return shadow.figures

        def sleep(seconds: float) -> None:
            now[0] += seconds

        with pytest.raises(StoreUnavailable):
            watched(None)
        found = watched(LATE + 30)
        assert found.ripe_pages == found.compared == 20 and log.calls > 14

    def test_a_plan_logged_after_the_tail_began_is_found(self, tmp_path: Path) -> None:
        live = tiny_live(live_bundle())
        log = logged([Entry("x", "u:a", served_to_log(page_of(live, 1)[0]))])
        inputs = TailedInputs(Lake(str(tmp_path)), log)
        shadow = Shadow(Lives(inputs, {"b-live": live_bundle()}.__getitem__), inputs, named("b-n"), "b-live")
        tail = Tail(log, 0.0)
        for payloads in tail.read():
            shadow.take(payloads)
        assert inputs.bodies(PLAN, NOW) == {}
        asyncio.run(log.append([plan_entry(tiny_plan())]))  # another shard, after this one was read
        shadow.settle()
        assert shadow.figures.compared == 1 and shadow.figures.left_out == {}
        assert inputs.body(PLAN, live.plan.version, NOW) is not None
        assert not inputs.again()

    def test_shards_take_turns(self) -> None:
        log = MemoryLog(lambda: NOW, shards=2)
        names = {shard: next(f"u{n}" for n in range(99) if _shard(f"u{n}") == shard) for shard in (0, 1)}
        rows = [(f"a{n}", names[0]) for n in range(50)] + [("b", names[1])]
        asyncio.run(log.append([Entry(one, subject, one.encode()) for one, subject in rows]))
        tail = Tail(log, 0.0, part=5, most=20)
        first = [one for part in tail.read() for one in part]
        assert b"b" in first and not tail.caught_up and len(first) == 21
        rest = [one for _ in range(3) for part in tail.read() for one in part]
        assert sorted([*first, *rest]) == sorted(one.encode() for one, _ in rows) and tail.caught_up


def _shard(subject: str) -> int:
    from features.log import shard_of

    return shard_of(subject, 2)


class TestHeld:
    def test_what_passes_waits_to_be_promoted(self, tmp_path: Path) -> None:
        registry, folder = Registry(tmp_path / "registry"), save(live_bundle(), tmp_path / "made")
        assert put_and_promote(registry, folder, Verdict(()), by="t", hold=True) == ("b-live", False)
        assert registry.list() == ["b-live"] and registry.live() is None
        registry.promote("b-live", by="t")
        assert put_and_promote(registry, folder, Verdict(()), by="t", hold=True) == ("b-live", True)
        said = _outcome("b-live", Verdict(()), promoted=False, before=None)
        assert "is held: fenliu bundle shadow b-live" in said[0]
        no = Verdict((Refusal("not_finite", "no"),))
        assert "is not promoted" in _outcome("b-live", no, promoted=False, before=None)[0]


class TestTheCommand:
    def help(self, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
        with pytest.raises(SystemExit) as end:
            fenliu.main([*argv, "--help"])
        assert end.value.code == 0
        return capsys.readouterr().out

    def test_help_has_examples(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.help(capsys, "bundle", "shadow")
        assert "examples:" in said and "--minutes 30 && fenliu bundle promote" in said
        assert "fenliu bundle shadow" in self.help(capsys, "bundle")

    def test_what_cannot_be_asked_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FENLIU_HOME", str(tmp_path))

        def status(*argv: str) -> tuple[int, str]:
            return fenliu.main(["bundle", "shadow", "b-next", *argv]), capsys.readouterr().err

        assert status() == (
            2,
            "fenliu: say for how long: --once (what the log holds) or --minutes N (from now on)\n",
        )
        assert "above 0" in status("--once", "--share", "0")[1]
        code, said = status("--once")
        assert code == 2 and "no bundle is live" in said
        with pytest.raises(RegistryError, match="there is no bundle"):
            Registry(tmp_path / "registry").show("b-next")
