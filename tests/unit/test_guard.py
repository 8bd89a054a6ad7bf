"""Arms that do harm are switched off; those that do not are left alone."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

import pytest

from features.log import MemoryLog
from serving.control import MemoryControl
from serving.guard import Guard, Ward, breaches, running_in
from serving.guard_counts import GuardCounts
from serving.guard_failures import Fresh
from serving.guard_statistics import AT
from serving.observe import Metrics
from serving.office import Office
from serving.principals import PrincipalError, Principals, local_identity
from tests.exposed import RUNNING, acted, clicked, fill, page
from tests.governed import frame, governed, plan, refused
from tests.shell import run, running
from tests.worlds import tiny_bundle, tiny_plan

NOW = 1_790_000_000.0


class TestCounting:
    def test_a_unit_fails_for_the_first_time_once(self) -> None:
        counts = GuardCounts()
        bad: dict[str, Any] = {"degraded": ["full"]}
        rows = [page("u1", "a"), page("u1", "a", **bad), page("u1", "a", **bad), page("u2", "control")]
        counts.take([*rows, page("u3", "control")], {"e": False})
        told = counts.fresh("e")["errors"]
        assert told == {"a": Fresh(1, 1), "control": Fresh(2, 0)}
        counts.take([page("u1", "a"), page("u2", "control", **bad), page("u4", "a")], {"e": False})
        told = counts.fresh("e")["errors"]
        assert told == {"a": Fresh(1, 0), "control": Fresh(1, 1)}
        assert counts.fresh("e")["errors"] == {} and counts.fresh("other") == {}
        counts.forget("e")
        assert counts.fresh("e") == {}

    def test_first_failures_are_of_all_units_where_sums_are_full(self, monkeypatch) -> None:
        monkeypatch.setattr("serving.guard_counts.MOST_UNITS", 2)
        counts = GuardCounts()
        counts.take([page(f"u{n}", "a", degraded=["full"] if n == 3 else []) for n in range(4)], {"e": False})
        assert counts.units("e") == 2 and counts.fresh("e")["errors"] == {"a": Fresh(4, 1)}
        counts.take([page("u4", "a", degraded=["full"]), page("u5", "a")], {"e": False})
        assert counts.fresh("e")["errors"] == {"a": Fresh(1, 1)}  # two have failed: that is the end of it

    def test_a_units_pages_and_events_are_its_own(self) -> None:
        counts = GuardCounts()
        rows = [page("u1", "a"), page("u1", "a", degraded=["full"], effort="light"), page("u2", "control")]
        rows += [clicked("u1"), clicked("u1", kind="converted", amount=20.0), acted("u2", "complained")]
        rows += [clicked("u9"), page("u3", "a", forced=["l"]), page("u4", "a", at=NOW - 9e9)]
        counts = GuardCounts(since=NOW - 100)
        counts.take(rows, {"e": False})
        own, control = counts.sums("e", "a"), counts.sums("e", "control")
        assert own is not None and control is not None and counts.units("e") == 2
        told = {name: own.first[at] for name, at in AT.items() if own.first[at]}
        assert told == {
            "one": 1, "pages": 2, "errors": 1, "lower": 1, "asked": 4, "filled": 4, "ms": 24,
            "clicks": 1, "conversions": 1, "value": 20,
        }  # fmt: skip
        assert control.first[AT["complaints"]] == 1

    def test_a_linked_customer_is_one_unit(self) -> None:
        counts = GuardCounts()
        rows = [page("u1", "a", unit="v:d1"), page("v:d1", "a", unit="v:d1", prefix="")]
        counts.take([*rows, clicked("u1")], {"e": False})
        own = counts.sums("e", "a")
        assert own is not None and own.units == 1 and own.first[AT["clicks"]] == 1

    def test_what_a_page_lacked_from_outside_is_no_error(self) -> None:
        counts = GuardCounts()
        counts.take([page("u1", "a", degraded=["profile", "control", "ledger"])], {"e": False})
        own = counts.sums("e", "a")
        assert own is not None and own.first[AT["errors"]] == 0


def harmful(log: MemoryLog, n: int = 1_500, errors: float = 0.3) -> None:
    asyncio.run(log.append(fill(n, errors)))


def guard_of(bank: Any, control: MemoryControl, log: MemoryLog, name: str = "r1") -> Guard:
    office = Office(bank.governance, control, monotonic=lambda: 0.0)
    return Guard(control, log, office, lambda: plan(bank), Metrics(), name, clock=lambda: NOW)


class TestTheGuard:
    def test_a_harmful_arm_goes_off_by_a_revision_of_the_system(self, tmp_path) -> None:
        bank, control, log = governed(tmp_path), MemoryControl(lambda: NOW), MemoryLog(lambda: NOW)
        bank.publish("frame", frame(experiments=RUNNING))
        before = bank.governance.state.release.plan
        harmful(log)
        guard = guard_of(bank, control, log)
        gone = asyncio.run(guard.step())
        assert [(one.experiment, one.arm) for one in gone] == [("e", "a")] and guard.leads
        after = plan(bank)
        arms = after.experiments.layers[0].experiments[0].arms
        assert [arm.state for arm in arms] == ["live", "off", "live"] and after.version != before
        assert asyncio.run(control.poll()).plan == after.version
        record = bank.governance.books.audit.records[-1]
        assert (record.principal, record.action, record.object) == ("system", "switched_off", "frame")
        assert record.detail["arm"] == "e/a" and record.detail["evidence"]["guards"][0]["metric"] == "errors"
        assert "guardrail: errors" in record.reason and bank.governance.books.audit.verify().ok
        assert asyncio.run(guard.step()) == []  # b is like the control

    def test_an_arm_of_an_adaptive_experiment_goes_off_too(self, tmp_path) -> None:
        bank, control, log = governed(tmp_path), MemoryControl(lambda: NOW), MemoryLog(lambda: NOW)
        adaptive = deepcopy(RUNNING)
        adaptive["layers"][0]["experiments"][0]["adaptive"] = True
        bank.publish("frame", frame(experiments=adaptive))
        draw = ["e", ["control", "a", "b"], [1 / 3] * 3, 0]
        asyncio.run(log.append(fill(1_500, 0.3, arm_draws=[draw])))
        gone = asyncio.run(guard_of(bank, control, log).step())
        assert [(one.experiment, one.arm) for one in gone] == [("e", "a")]
        assert any(one.first and one.metric == "errors" for one in gone[0].looks)

    def test_one_guard_watches_at_a_time_and_another_follows(self, tmp_path) -> None:
        bank, log = governed(tmp_path), MemoryLog(lambda: NOW)
        control = MemoryControl(lambda: NOW)
        bank.publish("frame", frame(experiments=RUNNING))
        first, second = guard_of(bank, control, log, "r1"), guard_of(bank, control, log, "r2")

        async def steps() -> None:
            await first.step()
            await second.step()
            assert first.leads and not second.leads
            await first.stop()
            await second.step()

        asyncio.run(steps())
        assert second.leads

    def test_a_guard_that_cannot_read_changes_nothing(self, tmp_path) -> None:
        bank, control = governed(tmp_path), MemoryControl(lambda: NOW)
        bank.publish("frame", frame(experiments=RUNNING))
        head = bank.governance.state.head

        class Away(MemoryLog):
            def read(self, shard: int, after: str, count: int) -> list[tuple[str, bytes]]:
                raise OSError("the disk is gone")

        guard = guard_of(bank, control, Away(lambda: NOW))
        assert asyncio.run(guard.step()) == [] and bank.governance.refresh().head == head

    def test_without_experiments_nothing_is_read(self, tmp_path) -> None:
        class Untouched(MemoryLog):
            def read(self, shard: int, after: str, count: int) -> list[tuple[str, bytes]]:
                raise AssertionError

        bank, control = governed(tmp_path), MemoryControl(lambda: NOW)
        bank.publish("frame", frame())
        guard = guard_of(bank, control, Untouched(lambda: NOW))
        assert asyncio.run(guard.step()) == [] and not guard.leads

    def test_another_question_begins_anew(self) -> None:
        log = MemoryLog(lambda: NOW)
        ward = Ward(log, 0.0)
        harmful(log, 400)
        assert breaches(ward.step(tiny_plan(experiments=RUNNING), NOW))
        other = {"layers": [{"name": "l", "experiments": [{**RUNNING["layers"][0]["experiments"][0]}]}]}
        other["layers"][0]["experiments"][0]["salt"] = "2"
        assert breaches(ward.step(tiny_plan(experiments=other), NOW)) == []

    def test_experiments_that_are_over_or_paused_are_not_watched(self) -> None:
        one = RUNNING["layers"][0]["experiments"][0]
        for change in ({"state": "paused"}, {"until": "2026-02-01T00:00:00Z"}):
            text = {"layers": [{"name": "l", "experiments": [{**one, **change}]}]}
            assert running_in(tiny_plan(experiments=text), NOW) == []


def test_a_dead_guard_stops_no_page() -> None:
    """Pages are decided, and the plan stays, whatever becomes of the guard."""

    async def story() -> None:
        async with running(tiny_bundle(), plan=tiny_plan(experiments=RUNNING)) as shell:
            guard = shell.service._parts.guard
            shell.service._parts.stores.log.read = None  # reading fails in a way that nobody foresaw
            assert await guard.step() == []
            assert (await shell.page("u1"))["slots"]
            assert b'fenliu_guard_steps_total{result="failed"} 1.0' in shell.service.metrics.exposition()

    run(story)


class TestWhoMay:
    def test_only_head_office_and_the_system(self, tmp_path) -> None:
        bank = governed(tmp_path)
        bank.publish("frame", frame(experiments=RUNNING))
        off = bank.governance.undo.arm
        refused("forbidden", off, bank.bob, "e", "a", reason="r")
        refused("wrong_state", off, bank.alice, "e", "control", reason="r")
        off(bank.alice, "e", "a", reason="r")
        refused("wrong_state", off, bank.alice, "e", "a", reason="r")

    def test_an_approver_takes_it_back(self, tmp_path) -> None:
        bank = governed(tmp_path)
        bank.publish("frame", frame(experiments=RUNNING))
        bank.governance.undo.arm(bank.alice, "e", "a", reason="r")
        bank.governance.undo.part(bank.ann, "frame", reason="looked at it")
        assert plan(bank).experiments.layers[0].experiments[0].arms[1].state == "live"

    def test_nobody_is_called_system(self) -> None:
        with pytest.raises(PrincipalError, match="system"):
            Principals().issue("system", ["admin"], local_identity(), "2026-01-01T00:00:00Z")
