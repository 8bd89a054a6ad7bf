"""Which arms a unit is in, now, on this page. Pure; the same on every replica.

Three hashes of a unit: where it stands in a layer, whether it is enrolled, and which arm it is in. A ramp
moves only the second one's threshold, and upwards, so nobody who is in leaves or changes the arm.
An experiment counts a page only where the page asks for a slot that one of its arms changes: whom none of
the arms could have treated differently is not in its figures.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import inf
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.ids import signed64
from serving.audience import NO_AUDIENCES, CompiledAudiences
from serving.audience_facts import NO_LOOKUPS, Lookups
from serving.experiment_checks import GLOBAL, HOLDOUT
from serving.splitting import parts_of

EVERYWHERE: Final = (1 << 64) - 1
MOST_TOLD: Final = 4_096  # sets of arms that are remembered
NOBODY, ASK = 1, 2  # answers of serving.assigning_kernel
_TOP: Final = 1 << 63
GLOBAL_SALT, DOMAIN_SALT = 0, 1  # places of these salts among those of the plan


class Assigned(NamedTuple):
    """A unit's arm in a layer. `arm` is its name among the arms that change anything, −1 for none."""

    layer: str
    name: str  # EXPERIMENT/ARM, or holdout
    arm: int = -1  # number among the arms with changes
    forced: bool = False  # a tester's, not counted


class Adaptive(NamedTuple):
    """The live arms of an adaptive experiment, and their names within it."""

    options: tuple[Assigned, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, options: Sequence[Assigned]) -> Adaptive:
        return cls(tuple(options), tuple([option.name.partition("/")[2] for option in options]))


@dataclass(frozen=True, slots=True)
class CompiledArm:
    assigned: Assigned
    below: float  # of the arm's hash
    live: bool


@dataclass(frozen=True, slots=True)
class CompiledExperiment:
    low: float
    high: float
    since: tuple[float, ...]  # POSIX seconds of the ramp's steps
    enrolled: tuple[float, ...]
    until: float
    audience: int  # −1 everybody
    by_device: bool
    enrol_salt: int
    arm_salt: int
    at: int  # of both among the salts of the plan, the arm's the next one
    arms: tuple[CompiledArm, ...]
    slots: int  # bits of the slots where its arms can differ

    @property
    def steps(self) -> tuple[float, ...]:
        """POSIX seconds at which `share` may change."""
        return *self.since, self.until

    def share(self, now: float) -> float:
        """The part of its range that is enrolled."""
        if now >= self.until:
            return 0.0
        at = bisect_right(self.since, now)
        return self.enrolled[at - 1] if at else 0.0


@dataclass(frozen=True, slots=True)
class CompiledLayer:
    name: str
    salt: int
    at: int  # of it among the salts of the plan
    domain: tuple[float, float] | None
    holdout: float  # where it begins; 1 none
    experiments: tuple[CompiledExperiment, ...]


@dataclass(slots=True, eq=False)
class _Moment:
    """The layers from one step of any ramp to the next, as serving.assigning_kernel has them.

    `arms`: what its numbers mean; `told`: the answers already given, by what was found.
    """

    since: float
    until: float
    names: tuple[str, ...]
    domains: tuple[tuple[float, float] | None, ...]
    given: tuple[NDArray[Any], ...]  # salts, layers, experiments, touched, arms: of the loop's arguments
    arms: tuple[Assigned, ...]
    devices: bool  # whether an experiment divides devices
    told: dict[bytes, tuple[Assigned, ...]] = field(default_factory=dict)
    spare: list[NDArray[np.int64]] = field(default_factory=list)  # arrays for what is found

    @classmethod
    def of(
        cls,
        layers: Sequence[CompiledLayer],
        salts: NDArray[np.uint64],
        since: float,
        until: float,
        now: float,
    ) -> _Moment:
        rows: list[tuple[float, ...]] = []
        running: list[tuple[float, ...]] = []
        touched: list[int] = []
        arms: list[CompiledArm] = []
        for layer in layers:
            begin = len(running)
            for one in layer.experiments:
                if (share := one.share(now)) > 0:
                    limits = len(arms), len(arms) + len(one.arms)
                    running.append((one.low, one.high, share, one.at, one.audience, *limits, one.by_device))
                    touched.append(one.slots if one.slots < _TOP else one.slots - 2 * _TOP)
                    arms += one.arms
            rows.append((layer.at, *(layer.domain or (0.0, 2.0)), layer.holdout, begin, len(running)))
        given = (
            salts,
            np.array(rows, np.float64).reshape(-1, 6),
            np.array(running, np.float64).reshape(-1, 8),
            np.array(touched, np.int64),
            np.array([(arm.below, arm.live) for arm in arms], np.float64).reshape(-1, 2),
        )
        return cls(
            *(since, until, tuple([one.name for one in layers]), tuple([one.domain for one in layers])),
            *(given, tuple([arm.assigned for arm in arms]), any(one[-1] for one in running)),
        )

    def answer(self, found: bytes, forced: Mapping[str, Assigned] | None) -> tuple[Assigned, ...]:
        """The arms by layer: what was found, and what a tester has instead."""
        numbers = np.frombuffer(found, np.int64).tolist()
        made: list[Assigned] = []
        for name, number in zip(self.names, numbers, strict=True):
            if forced is not None and name in forced:
                made.append(forced[name])
            elif number:
                made.append(self.arms[number - 2] if number > 1 else Assigned(name, HOLDOUT))
        return tuple(made)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledExperiments:
    """`arms`: names of the arms with changes, by their number."""

    layers: tuple[CompiledLayer, ...] = ()
    arms: tuple[str, ...] = ()
    global_salt: int = 0
    global_holdout: float = 0.0
    domain_salt: int = 0
    testers: Mapping[str, Mapping[str, Assigned]] = field(default_factory=dict)  # subject -> layer -> arm
    audiences: CompiledAudiences = NO_AUDIENCES
    lookups: Lookups = NO_LOOKUPS
    adaptive: Mapping[str, Adaptive] = field(default_factory=dict)  # by the name of the experiment
    campaigns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of experiments whose arms change nothing but campaigns: these, by their place among the plan's."""
    salts: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(2, np.uint64))  # by GLOBAL_SALT …
    _moments: list[_Moment] = field(default_factory=list, repr=False)  # the latest asked for, remembered

    def assigned(
        self, subject: str, device: str | None, customer: Customer, now: float, slots: int = EVERYWHERE
    ) -> tuple[Assigned, ...]:
        """The arms of a page: by layer in the plan's order. `slots`: bits of the slots it asks for.

        `subject` is a user's or a visitor's, `device` the visitor's subject beside a user's.
        """
        if not self.layers or customer.unit is None:
            return ()
        unit, moment = customer.unit or subject, self._moments[0] if self._moments else None
        if moment is None or not moment.since <= now < moment.until:
            moment = self._at(now)
        holdout, out, stands = self.global_holdout, 0, -1.0
        owner = (device or (unit if unit.startswith("v:") else None)) if moment.devices else None
        forced = None
        if self.testers:
            forced = self.testers.get(subject) or (self.testers.get(device) if device else None)
        if forced is not None:  # a tester is in the domain of what they ask for, whatever their hash says
            holdout, out = 0.0, sum(1 << at for at, name in enumerate(moment.names) if name in forced)
            named = zip(moment.names, moment.domains, strict=True)
            domains = (domain for name, domain in named if name in forced)
            stands = next((domain[0] for domain in domains if domain is not None), stands)
        key, others = signed64(unit), signed64(owner) if owner is not None else 0
        wanted = slots if slots < _TOP else slots - 2 * _TOP
        found = moment.spare.pop() if moment.spare else np.empty(len(moment.names), np.int64)
        assign, owned = _assigner(), owner is not None
        given = moment.given
        said = assign(key, others, owned, wanted, holdout, out, stands, _UNKNOWN, found, *given)
        if said == ASK:
            holds = np.ascontiguousarray(self.audiences.evaluate(customer, now, self.lookups))
            said = assign(key, others, owned, wanted, holdout, out, stands, holds, found, *given)
        name = found.tobytes()
        moment.spare.append(found)
        if said == NOBODY:
            return _HELD_OUT
        if forced is not None:
            return moment.answer(name, forced)
        told = moment.told.get(name)
        if told is None:
            if len(moment.told) >= MOST_TOLD:
                moment.told.clear()
            told = moment.told[name] = moment.answer(name, None)
        return told

    def _at(self, now: float) -> _Moment:
        """The layers as they are now."""
        steps = sorted({step for layer in self.layers for one in layer.experiments for step in one.steps})
        at = bisect_right(steps, now)
        since, until = steps[at - 1] if at else -inf, steps[at] if at < len(steps) else inf
        moment = _Moment.of(self.layers, self.salts, since, until, now)
        self._moments[:] = [moment]
        return moment

    def many(self, keys: NDArray[np.uint64], now: float, layer: str) -> NDArray[np.int16]:
        """(n,) the arm of many units (key64) in a layer: its number in `names(layer)`, −1 none, −2 holdout.

        Audiences are taken to hold, slots to be asked for. The same as `assigned`, column by column.
        """
        chosen = next(one for one in self.layers if one.name == layer)
        place = parts_of(keys, chosen.salt)
        result = np.full(len(keys), -1, np.int16)
        number = 0
        for one in chosen.experiments:
            share = one.share(now)
            inside = (place >= one.low) & (place < one.high) & (result == -1)
            if share < 1:
                inside &= parts_of(keys, one.enrol_salt) < share
            limits = np.array([arm.below for arm in one.arms[:-1]])
            arm = np.searchsorted(limits, parts_of(keys, one.arm_salt), side="right")
            live = np.array([arm.live for arm in one.arms])
            inside &= live[arm]
            result[inside] = number + arm[inside]
            number += len(one.arms)
        result[place >= chosen.holdout] = -2
        if chosen.domain is not None:
            stands = parts_of(keys, self.domain_salt)
            result[(stands < chosen.domain[0]) | (stands >= chosen.domain[1])] = -1
        if self.global_holdout:
            result[parts_of(keys, self.global_salt) < self.global_holdout] = -2
        return result

    def names(self, layer: str) -> tuple[str, ...]:
        """EXPERIMENT/ARM of every arm of a layer, in the plan's order."""
        chosen = next(one for one in self.layers if one.name == layer)
        return tuple(arm.assigned.name for one in chosen.experiments for arm in one.arms)


_HELD_OUT: Final = (Assigned(GLOBAL, HOLDOUT),)
_UNKNOWN: Final = np.empty(0, np.bool_)
NO_EXPERIMENTS: Final = CompiledExperiments()


def idle(
    arms: Iterable[Assigned], changed: Mapping[str, tuple[int, ...]], eligible: NDArray[np.bool_] | None
) -> tuple[str, ...]:
    """Layers whose experiment changes campaigns of which none could be on the page, in whichever arm: there
    its arms are alike. `changed`: by experiment; `eligible` (C,), None where it is not known.
    """
    if eligible is None:
        return ()
    found: list[str] = []
    for one in arms:
        theirs = changed.get(one.name.partition("/")[0])
        if theirs is None:
            continue
        for campaign in theirs:  # a loop, for it is asked of every page
            if eligible[campaign]:
                break
        else:
            found.append(one.layer)
    return tuple(found)


@cache
def _assigner() -> Callable[..., int]:
    """The compiler is loaded by the first page, not by whoever compiles a plan."""
    from serving.assigning_kernel import assign

    return assign
