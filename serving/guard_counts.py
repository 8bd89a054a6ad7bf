"""What units of running experiments met and did, summed from the event log as it is written.

A unit is in from its first page under an arm; its later events that name a page count with it. Rows are kept
per unit, because a test needs the spread over units, up to `MOST_UNITS` of an experiment: who comes later is
left out, the same in every arm. First failures are counted of everybody.

Where arms are drawn hour by hour (`adaptive`), a unit is a customer's hour: in the arm of its first page,
weighted by that draw's logged chance, with what the customer does until their next hour.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import numpy as np

from features.events import unpack
from features.ids import key64
from serving.bandit import HOUR_S
from serving.domain import EFFORTS
from serving.experiment_checks import HOLDOUT
from serving.guard_drawn import Drawn
from serving.guard_failures import Fresh
from serving.guard_statistics import AT, COLUMNS, FIRSTS, RATES, Floats, Sums

MOST_UNITS: Final = 100_000  # of an experiment: 13 numbers and two places in a dict each, about 25 MB
MOST_MS: Final = 2_000.0  # a page that took longer counts as this: one stalled page is no arm's fault
OUTSIDE: Final = frozenset(
    (
        "profile",
        "membership",
        "live",
        "experiments",
        "anchor_item",
        "store",
        "control",
        "prices",
        "ledger",
        "killed",
    )
)
"""What a page may lack without its rung or a stage of it having failed."""
_EVENTS: Final = {
    "displayed": "displays", "clicked": "clicks", "dismissed": "dismissals", "converted": "conversions"
}  # fmt: skip
_FIRST: Final = 256
_FLAGS: Final = tuple([AT[RATES[name].top] for name in FIRSTS])  # columns of what can happen to a page


class _Units:
    """Of one experiment: a row a unit, and the arm it was met in."""

    def __init__(self) -> None:
        self.rows = np.zeros((_FIRST, len(COLUMNS)))
        self.arm = np.zeros(_FIRST, np.int16)
        self.weight = np.ones(_FIRST)
        self.arms: dict[str, int] = {}
        self.at: dict[int, int] = {}  # key64 of a unit, and of a subject that it was met under -> its row
        self.n = 0

    def row(self, unit: int, subject: int, arm: str, weight: float = 1.0) -> int:
        """−1 for a unit that finds no room."""
        at = self.at.get(unit, -1)
        if at < 0:
            if self.n >= MOST_UNITS:
                return -1
            at, self.n = self.n, self.n + 1
            if at == len(self.rows):
                self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
                self.arm = np.concatenate([self.arm, np.zeros_like(self.arm)])
                self.weight = np.concatenate([self.weight, np.ones_like(self.weight)])
            self.at[unit] = at
            self.rows[at, 0] = 1.0
            self.arm[at] = self.arms.setdefault(arm, len(self.arms))
            self.weight[at] = weight
        self.at[subject] = at
        return at


class _Firsts:
    """Of one experiment and metric of FIRSTS: who failed, and what the step brought by arm.

    Only who failed is kept, so units are not limited; who failed, to MOST_UNITS, far beyond what decides.
    """

    def __init__(self, column: int) -> None:
        self._column = column
        self._failed: set[int] = set()
        self._met: set[int] = set()  # in this step
        self._fresh: dict[str, list[int]] = {}

    def add(self, unit: int, arm: str, page: Floats) -> None:
        """A page of a unit (key64). One that has failed before is not looked at again."""
        if unit in self._failed or len(self._failed) >= MOST_UNITS:
            return
        counted = self._fresh.setdefault(arm, [0, 0])
        if unit not in self._met:
            self._met.add(unit)
            counted[0] += 1
        if page[self._column] > 0:
            self._failed.add(unit)
            counted[1] += 1

    def taken(self) -> dict[str, Fresh]:
        """By arm, what came since the last call: a step of the guard."""
        told = {arm: Fresh(*counted) for arm, counted in self._fresh.items()}
        self._met, self._fresh = set(), {}
        return told


class _Draws:
    """Of one adaptive experiment: hours of customers that were met, and of first pages that failed in this
    step which arm was drawn, among which chances."""

    def __init__(self) -> None:
        self.hour = 0
        self._seen: set[int] = set()  # in this hour and the one before
        self._before: set[int] = set()
        self._failed: list[list[tuple[str, Mapping[str, float]]]] = [[] for _ in _FLAGS]

    def first(self, hour: int, unit: int) -> bool:
        """Whether it is the customer's first page of the hour. Of hours gone by, none is."""
        if hour > self.hour:
            self._before = self._seen if hour == self.hour + 1 else set()
            self.hour, self._seen = hour, set()
        if hour < self.hour - 1:
            return False
        seen = self._seen if hour == self.hour else self._before
        if unit in seen:
            return False
        seen.add(unit)
        return True

    def add(self, arm: str, chances: Mapping[str, float], page: Floats) -> None:
        for failed, column in zip(self._failed, _FLAGS, strict=True):
            if page[column] > 0:
                failed.append((arm, chances))

    def taken(self) -> list[list[tuple[str, Mapping[str, float]]]]:
        told, self._failed = self._failed, [[] for _ in _FLAGS]
        return told


class GuardCounts:
    """`since`: POSIX seconds; what was decided before is not counted."""

    def __init__(self, since: float = 0.0) -> None:
        self._since = since
        self._held: dict[str, _Units] = {}
        self._firsts: dict[str, list[_Firsts]] = {}
        self._draws: dict[str, _Draws] = {}

    def take(
        self, payloads: Iterable[bytes], watched: Mapping[str, bool], adaptive: Collection[str] = ()
    ) -> int:
        """Log entries in order; `watched`: experiment -> whether its unit is the device; those that are
        adaptive among them. How many counted."""
        counted = 0
        for name in [name for name in self._held if name not in watched]:
            self.forget(name)
        for payload in payloads:
            row = unpack(payload)
            kind = row["t"]
            if kind == "served":
                counted += self._page(row, watched, adaptive)
            elif kind in _EVENTS or kind in ("outcome", "acted"):
                counted += self._event(row, kind)
        return counted

    def sums(self, experiment: str, arm: str) -> Sums | None:
        """None before anybody was met in the arm."""
        held = self._held.get(experiment)
        number = None if held is None else held.arms.get(arm)
        if held is None or number is None:
            return None
        mine = held.arm[: held.n] == number
        weight = held.weight[: held.n][mine] if experiment in self._draws else None
        return Sums.of(held.rows[: held.n][mine], weight)

    def fresh(self, experiment: str) -> dict[str, dict[str, Fresh]]:
        """By metric of FIRSTS and arm, what came since the last call: a step of the guard."""
        firsts = self._firsts.get(experiment, ())
        return {name: one.taken() for name, one in zip(FIRSTS, firsts, strict=False)}

    def drawn(self, experiment: str) -> dict[str, list[tuple[str, Mapping[str, float]]]]:
        """Of an adaptive one, by metric of FIRSTS: the arm of each failure since the last call, and the
        chances it was drawn by."""
        draws = self._draws.get(experiment)
        return {} if draws is None else dict(zip(FIRSTS, draws.taken(), strict=True))

    def units(self, experiment: str) -> int:
        held = self._held.get(experiment)
        return 0 if held is None else held.n

    def forget(self, experiment: str) -> None:
        """Its question was changed: begin anew."""
        self._held.pop(experiment, None)
        self._firsts.pop(experiment, None)
        self._draws.pop(experiment, None)

    def _page(self, row: Mapping[str, Any], watched: Mapping[str, bool], adaptive: Collection[str]) -> int:
        arms = row["arms"]
        page: Floats | None = None
        if not arms or row["at"] < self._since:
            return 0
        for layer, name in arms.items():
            experiment, _, arm = name.partition("/")
            if name == HOLDOUT or experiment not in watched:
                continue
            if layer in row.get("forced", ()) or layer in row.get("idle", ()):
                continue
            if experiment in adaptive:
                page = _of_page(row) if page is None else page
                self._drawn_page(row, experiment, arm, page)
                continue
            subject = row["subject"]
            unit = (row.get("device") if watched[experiment] else row.get("unit")) or subject
            page = _of_page(row) if page is None else page
            key = key64(unit)
            for one in self._firsts.setdefault(experiment, [_Firsts(column) for column in _FLAGS]):
                one.add(key, arm, page)
            held = self._held.setdefault(experiment, _Units())
            at = held.row(key, key64(subject), arm)
            if at >= 0:
                held.rows[at] += page
        return int(page is not None)

    def _drawn_page(self, row: Mapping[str, Any], experiment: str, arm: str, page: Floats) -> None:
        drawn = next((one for one in row.get("arm_draws", ()) if one[0] == experiment), None)
        hour = int(row["at"] // HOUR_S)
        if drawn is None or hour * HOUR_S < self._since:  # the first page of that hour may not have been read
            return
        chances = dict(zip(drawn[1], drawn[2], strict=True))
        if chances.get(arm, 0.0) <= 0:
            return
        subject = row["subject"]
        unit = key64(f"{row.get('unit') or subject}|{hour}")
        draws = self._draws.setdefault(experiment, _Draws())
        if draws.first(hour, unit):
            draws.add(arm, chances, page)
        held = self._held.setdefault(experiment, _Units())
        at = held.row(unit, key64(subject), arm, 1.0 / (len(chances) * chances[arm]))
        if at >= 0:
            held.rows[at] += page

    def _event(self, row: Mapping[str, Any], kind: str) -> int:
        complaint = kind == "acted" and row.get("action") == "complained"
        if not (kind in _EVENTS or complaint or (kind == "outcome" and row.get("amount"))):
            return 0
        subject, counted = key64(str(row.get("subject", ""))), 0
        for held in self._held.values():
            at = held.at.get(subject, -1)
            if at < 0:
                continue
            mine = held.rows[at]
            if kind in _EVENTS:
                each = len(row["places"]) // _PLACE if kind == "displayed" and "places" in row else 1
                mine[AT[_EVENTS[kind]]] += each
            elif complaint:
                mine[AT["complaints"]] += 1
            if kind in ("converted", "outcome"):
                mine[AT["value"]] += row.get("amount") or 0.0
            counted = 1
        return counted


_PLACE: Final = 24  # bytes of a place in an event's record


def between(failures: Iterable[tuple[str, Mapping[str, float]]], arm: str, control: str) -> Drawn:
    """Of an adaptive experiment's failures those of the arm and of the control, which both could be drawn."""
    some = [
        (which == arm, chances[arm] / (chances[arm] + chances[control]))
        for which, chances in failures
        if which in (arm, control) and chances.get(arm, 0.0) > 0 and chances.get(control, 0.0) > 0
    ]
    return Drawn([one for one, _ in some], [chance for _, chance in some])


def _of_page(row: Mapping[str, Any]) -> Floats:
    """What one page adds to its unit."""
    found = np.zeros(len(COLUMNS))
    failed = any(one in EFFORTS or one not in OUTSIDE for one in row["degraded"])
    for name, value in (
        ("pages", 1.0),
        ("errors", float(failed)),
        ("lower", float(row["effort"] != "full")),
        ("asked", float(sum(row["sizes"]))),
        ("filled", float(len(row["place_slot"]))),
        ("ms", min(float(row.get("ms", 0.0)), MOST_MS)),
    ):
        found[AT[name]] = value
    return found
