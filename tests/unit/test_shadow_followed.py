"""The shadow as it is asked for: limits, following the log, what waits to be promoted, the command line."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import pytest

import fenliu
from features.events import served_to_log
from features.log import Entry, MemoryLog
from features.store import StoreUnavailable
from serving.bundle import save
from serving.kept import PLAN
from serving.log_tail import Tail
from serving.registry import Registry, RegistryError
from tests.shadows import (
    LATE,
    live_bundle,
    logged,
    named,
    page_of,
    plan_entry,
    traffic,
)
from tests.worlds import NOW, tiny_live, tiny_plan
from training.gate import Refusal, Verdict
from training.job import _outcome
from training.lake import Lake
from training.lives import Lives
from training.publish import put_and_promote
from training.shadow import Shadow
from training.shadow_arguments import LIMITS
from training.shadow_commands import follow, limits_of
from training.shadow_figures import Figures, Limits, limits_told, not_told, refusals
from training.shadow_inputs import TailedInputs


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
