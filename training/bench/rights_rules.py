"""What `fenliu bench rights` judges by: items under every rule about customers, and the rules in plain words.

The rules are written once more over plain values, apart from `serving.filters`; a page is judged by these and
by `Permission.drops_asked` besides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from features.customer import Blobs, decode_customer
from features.events import WHAT
from features.ids import CHANNEL_CODE, KIND_CODE
from features.views import CONTACT, HOLDINGS_KEPT
from serving.bundle import Bundle
from serving.catalogue import CompiledItems
from serving.decide import page_of
from serving.domain import Context, Query, SlotRequest
from serving.live import Live

if TYPE_CHECKING:
    from training.bench.in_process import InProcess

DAY: Final = 86_400.0
RULES: Final = (
    "risk",
    "age",
    "consent",
    "needs",
    "excludes",
    "repeat",
    "cooling",
    "audience",
    "blocked",
    "barred",
)
NEVER: Final = 2  # of `repeat`
MET: Final = 12  # items of the catalogue that are looked at besides a page
LISTS: Final = 80  # uploaded lists, which are permission and not profiling
_BARRED: Final = {KIND_CODE["product"]: 4, KIND_CODE["activity"]: 8, KIND_CODE["benefit"]: 32 + 1}


def restricted(bundle: Bundle, seed: int) -> Bundle:
    """The bundle with a third of its items under one or two rules each, of all kinds alike."""
    rng = np.random.default_rng([seed, 22])
    table = bundle.compiled.table.copy()
    keys = np.ascontiguousarray(table["key"])
    for row in np.flatnonzero(rng.random(len(table)) < 0.33).tolist():
        for rule in rng.choice(8, int(rng.integers(1, 3)), replace=False).tolist():
            _put(table[row : row + 1], rule, keys, rng)
    made = bundle.compiled
    compiled = CompiledItems(made.ids, table, made.known, made.layouts, made.texts)
    return replace(bundle, compiled=compiled)


def _put(one: NDArray[np.void], rule: int, keys: NDArray[np.uint64], rng: np.random.Generator) -> None:
    others = rng.choice(keys[keys != one["key"][0]], 2, replace=False)
    if rule == 0:
        one["min_age"], one["max_age"] = ((18, 0), (0, 65), (30, 60))[int(rng.integers(3))]
    elif rule == 1:
        one["consents"] = rng.integers(1, 8)
    elif rule == 2:
        one["needs"][0, 0] = others[0]
    elif rule == 3:
        one["excludes"][0, :2] = others
    elif rule == 4:
        one["repeat"] = NEVER
    elif rule == 5:
        one["cooling"] = 1
    elif rule == 6:
        one["risk_class"] = rng.integers(1, 6)
    else:
        one["audience"] = rng.integers(1, LISTS + 1)


@dataclass(frozen=True, slots=True)
class Person:
    """What permission may know of a customer."""

    risk: int
    age: int
    consents: int
    blocked: int
    held: frozenset[int]
    audiences: frozenset[int]
    dismissed: frozenset[int]
    converted: frozenset[int]
    complained: bool

    @classmethod
    def of(cls, facts: NDArray[np.void], audiences: NDArray[Any], contact: bytes, now: float) -> Person:
        log = np.frombuffer(contact, CONTACT)
        lately = log[log["at"] > now - 14 * DAY]
        return cls(
            int(facts["risk_level"]), int(facts["age"]), int(facts["consents"]), int(facts["blocked"]),
            frozenset(facts["holdings"].tolist()) - {0}, frozenset(audiences.tolist()),
            frozenset(lately["item"][lately["what"] == WHAT["dismissed"]].tolist()),
            frozenset(log["item"][log["what"] == WHAT["converted"]].tolist()),
            bool((lately["what"] == WHAT["acted"]).any()),
        )  # fmt: skip

    @property
    def cut(self) -> bool:
        """Whether more may be held than the record has room for."""
        return len(self.held) == HOLDINGS_KEPT

    def broken(self, item: np.void) -> list[str]:
        """Rules of an ITEM row by which it may not be shown to them."""
        key, needs, excludes = int(item["key"]), _keys(item["needs"]), _keys(item["excludes"])
        risk, youngest, oldest = int(item["risk_class"]), int(item["min_age"]), int(item["max_age"])
        asks, audience = bool(under(item)), int(item["audience"])
        never, cooling = int(item["repeat"]) == NEVER, bool(item["cooling"])
        found = {
            "risk": risk > 0 and risk > self.risk,
            "age": (youngest > 0 and self.age < youngest) or (oldest > 0 and self.age > oldest),
            "consent": bool(int(item["consents"]) & ~self.consents),
            "needs": not needs <= self.held,
            "excludes": bool(excludes) and (self.cut or bool(excludes & self.held)),
            "repeat": never and (self.cut or key in self.held | self.converted),
            "cooling": cooling and (self.complained or key in self.dismissed),
            "audience": audience > 0 and audience not in self.audiences,
            "blocked": asks and bool(self.blocked & 1),
            "barred": bool(self.blocked & _BARRED.get(int(item["kind"]), 0)),
        }
        return [rule for rule in RULES if found[rule]]


def under(item: np.void) -> bool:
    """Whether an ITEM row asks anything of the customer."""
    named = ("risk_class", "min_age", "max_age", "consents", "cooling", "audience")
    return (
        any(int(item[name]) for name in named)
        or bool(_keys(item["needs"]) | _keys(item["excludes"]))
        or int(item["repeat"]) == NEVER
    )


def _keys(held: NDArray[np.uint64]) -> frozenset[int]:
    return frozenset(held.tolist()) - {0}


@dataclass
class Judged:
    """What was looked at. `met` counts, by rule, items of the catalogue that a customer may not be shown."""

    pages: int = 0
    places: int = 0
    ruled: int = 0
    denied: int = 0
    short: int = 0
    wrong: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    met: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))

    def look(self, bench: InProcess, body: bytes, person: Person, blobs: Blobs) -> None:
        """One page, place by place, and some items of the catalogue besides."""
        live = bench.service.holder.live
        page = json.loads(body)
        rows = [live.row(placed["item_id"]) for slot in page["slots"] for placed in slot["items"]]
        known = [row for row in rows if row is not None]
        self.pages += 1
        self.places += len(rows)
        self.short += sum(slot.size for slot in live.plan.surfaces["home"]) - len(rows)
        self.denied += len(rows) - len(known) + _denied(live, known, blobs, bench.clock())
        for row in known:
            self.ruled += under(live.table[row])
            for rule in person.broken(live.table[row]):
                self.wrong[rule] += 1
        for at in range(MET):
            for rule in person.broken(live.table[(self.pages * MET + at) * 7919 % len(live.table)]):
                self.met[rule] += 1


def _denied(live: Live, rows: list[int], blobs: Blobs, now: float) -> int:
    """How many of the rows the service's rules deny, each asked by itself and none looked up."""
    who = decode_customer(blobs, now=now, profiling=False, materialised=live.materialised)
    slots = tuple(SlotRequest(slot, slot.size) for slot in live.plan.surfaces["home"])
    context = Context(channel=CHANNEL_CODE["app"], app_version=9_002_000, auth_level=4)
    page = page_of(Query("judged", "u:judged", "home", slots, context, who, now), live)
    drops = live.pipelines["full"].permission.drops_asked(page, np.array(rows, np.int32))
    return int(np.count_nonzero(drops))
