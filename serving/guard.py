"""The guard: every few seconds the one that leads looks at the arms of running experiments, and switches off
what makes things worse.

Every replica has one; control elects the leader, as it does the pacer. The leader reads the event log from an
hour ago on, sums what units of each arm met and did (`guard_counts`), tests it (`guard_statistics`), and has
an arm that breaches switched off by a revision of the plan, written and audited as the system. It only ever
takes away: a winner is promoted by people. While nobody leads nothing changes, and pages are decided as
before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from features.log import EventLog
from features.store import StoreUnavailable
from serving.control import Control, ControlError
from serving.errors import Problem
from serving.experiment import Arm, Experiment
from serving.guard_counts import GuardCounts, between
from serving.guard_drawn import Drawn
from serving.guard_failures import Fresh
from serving.guard_statistics import ALPHA, Look, Watched, guards_of
from serving.log_tail import Tail
from serving.observe import Metrics
from serving.office import Office
from serving.plan_text import Plan
from serving.principals import THE_SYSTEM
from serving.turns import Turns, resign

LOG: Final = logging.getLogger("fenliu.guard")
GUARD: Final = "guard"  # what control elects
EVERY_S: Final = 5.0
LEAD_S: Final = 20.0
STEP_TIMEOUT_S: Final = 15.0  # less than LEAD_S
BACK_S: Final = 3_600.0  # a new leader counts from this long ago, as far as the log goes back


class Breach(NamedTuple):
    """An arm that has to go, and the guards that say so."""

    experiment: str
    arm: str
    looks: tuple[Look, ...]

    @property
    def reason(self) -> str:
        return "guardrail: " + "; ".join(one.told for one in self.looks)

    @property
    def evidence(self) -> dict[str, Any]:
        return {
            "alpha": ALPHA,
            "guards": [{**one._asdict(), "breached": True} for one in self.looks],
        }


@dataclass(slots=True)
class _Question:
    """What was asked when counting began; another one begins anew."""

    asked: str
    arms: dict[str, Watched]


@dataclass(slots=True)
class Ward:
    """Reads, counts and judges; changes nothing. Of one leader. `since`: POSIX seconds."""

    log: EventLog
    since: float
    counts: GuardCounts = field(init=False)
    _tail: Tail = field(init=False)
    _questions: dict[str, _Question] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts, self._tail = GuardCounts(self.since), Tail(self.log, self.since)

    def step(self, plan: Plan, now: float) -> dict[tuple[str, str], list[Look]]:
        """By (experiment, arm). Blocking: reads what the log has since the last time."""
        running = {one.name: one for one in running_in(plan, now)}
        self._ask(running)
        devices = {name: one.unit == "device" for name, one in running.items()}
        adaptive = {name for name, one in running.items() if one.adaptive}
        for payloads in self._tail.read():
            self.counts.take(payloads, devices, adaptive)
        found: dict[tuple[str, str], list[Look]] = {}
        for name, question in self._questions.items():
            usual, fresh, drawn = running[name].control.name, self.counts.fresh(name), self.counts.drawn(name)
            control = self.counts.sums(name, usual)
            for arm, watched in question.arms.items():
                live = any(arm == one.name for one in live_arms(running[name]))
                own = self.counts.sums(name, arm) if live else None
                if own is not None and control is not None:
                    step: dict[str, tuple[Fresh, Fresh] | Drawn] = {**pairs(fresh, arm, usual)}
                    step |= {metric: between(some, arm, usual) for metric, some in drawn.items()}
                    found[name, arm] = watched.look(own, control, step)
        return found

    def _ask(self, running: Mapping[str, Experiment]) -> None:
        for name in [name for name in self._questions if name not in running]:
            del self._questions[name]
        for name, one in running.items():
            asked = _asked(one)
            held = self._questions.get(name)
            if held is None or held.asked != asked:
                if held is not None:
                    self.counts.forget(name)
                arms, guards = one.arms[1:], guards_of(one.guardrails)
                watched = {arm.name: Watched(guards, ALPHA / len(arms), one.adaptive) for arm in arms}
                self._questions[name] = _Question(asked, watched)


def pairs(fresh: Mapping[str, Mapping[str, Fresh]], arm: str, control: str) -> dict[str, tuple[Fresh, Fresh]]:
    """By metric, what a step brought in the arm and in the control."""
    return {
        metric: (by_arm.get(arm, Fresh()), by_arm.get(control, Fresh())) for metric, by_arm in fresh.items()
    }


def running_in(plan: Plan | None, now: float) -> list[Experiment]:
    """Experiments that enrol somebody now and have an arm beside the control to be watched."""
    layers = plan.experiments.layers if plan is not None and plan.experiments is not None else ()
    return [
        one
        for layer in layers
        for one in layer.experiments
        if one.state == "running"
        and one.ramp[0].at.timestamp() <= now
        and (one.until is None or now < one.until.timestamp())
        and one.control.state == "live"
        and live_arms(one)
    ]


def live_arms(one: Experiment) -> Sequence[Arm]:
    """The arms beside the control that are not off."""
    return [arm for arm in one.arms[1:] if arm.state == "live"]


def breaches(looks: Mapping[tuple[str, str], Sequence[Look]]) -> list[Breach]:
    """The arms with a breached guard."""
    found = [
        Breach(name, arm, tuple(one for one in some if one.breached)) for (name, arm), some in looks.items()
    ]
    return [one for one in found if one.looks]


class Guard:
    """`plan` gives what is run by now. Started and stopped with the service; `step` raises nothing."""

    def __init__(
        self,
        control: Control,
        log: EventLog,
        office: Office,
        plan: Callable[[], Plan | None],
        metrics: Metrics,
        candidate: str,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._control, self._log, self._office, self._plan = control, log, office, plan
        self._candidate, self._clock = candidate, clock
        self._fence: int | None = None
        self._ward: Ward | None = None
        self._turns = Turns(self.step, every_s, "fenliu-guard")
        self._metrics = metrics
        self._stuck: set[str] = set()  # arms that cannot be switched off from here: said once

    @property
    def leads(self) -> bool:
        return self._fence is not None

    async def start(self) -> None:
        self._turns.start()

    async def stop(self) -> None:
        """Resigns, so that another leads at once."""
        await self._turns.stop()
        if self._fence is not None:
            self._fence = None
            await resign(self._control, GUARD, self._candidate)

    async def step(self) -> list[Breach]:
        """Lead if nobody else does, look, and switch off what breaches: those are returned."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                result, gone = await self._step()
        except (StoreUnavailable, TimeoutError, ControlError, Problem, OSError) as away:
            LOG.warning("arms were not watched: %s", away or "out of time")
            result, gone, self._ward = "failed", [], None  # a thread may be reading by it still
        except Exception:  # watching must go on: the next step may read what can be read
            LOG.exception("a step of the guard failed")
            result, gone, self._ward = "failed", [], None
        self._metrics.guard_steps.labels(result).inc()
        return gone

    async def _step(self) -> tuple[str, list[Breach]]:
        now, plan = self._clock(), self._plan()
        if plan is None or not running_in(plan, now):
            self._ward = None
            return "idle", []
        fence = await self._control.lead(GUARD, self._candidate, LEAD_S)
        if fence is None:
            self._fence = self._ward = None
            return "following", []
        if self._ward is None or fence != self._fence:
            self._fence, self._ward = fence, Ward(self._log, now - BACK_S)
        looks = await asyncio.to_thread(self._ward.step, plan, now)
        return "watched", [one for one in breaches(looks) if await self._switch_off(one)]

    async def _switch_off(self, breach: Breach) -> bool:
        name = f"{breach.experiment}/{breach.arm}"
        try:
            await self._office.switch_off(
                THE_SYSTEM, breach.experiment, breach.arm, reason=breach.reason, evidence=breach.evidence
            )
        except Problem as problem:
            if problem.code != "wrong_state":
                raise
            if name not in self._stuck:
                LOG.error("%s should go off and cannot: %s (%s)", name, problem.detail, breach.reason)
            self._stuck.add(name)
            return False
        self._stuck.discard(name)
        LOG.warning("%s is switched off: %s", name, breach.reason)
        self._metrics.guard_offs.inc()
        return True


def _asked(one: Experiment) -> str:
    """What an experiment compares: a ramp or the state of an arm may change, the rest is another question."""
    arms = [(arm.name, arm.weight, arm.changes.model_dump(mode="json")) for arm in one.arms]
    return repr((one.salt, one.unit, one.audience, one.range, one.guardrails, one.adaptive, arms))
