"""A logged day decided again under another plan or bundle: what would have stood where.

Every page keeps its logged inputs: the customer as read then, context, kills, item changes, spent quotas, and
the prices of that second by campaign. What would have followed from other pages (other clicks, other prices,
other contacts) is not played on: this answers "what changes at once", a forecast (`fenliu plan check
--forecast`) how delivery paces itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from features.ids import key32
from serving.bundle import Bundle
from serving.domain import Decision
from serving.live import Live
from serving.plan import Plan
from training.lives import Lives
from training.replay import Record, ReplayError, decided_first
from training.sample import as_of

ORGANIC: Final = "(organic)"
Progress = Callable[[int, int], None]


@dataclass
class Side:
    """Sums over the pages of one side; displays and clicks are expected, CNY without prices."""

    displays: Counter[tuple[str, str]] = field(default_factory=Counter)  # (slot, campaign)
    clicks: Counter[str] = field(default_factory=Counter)  # campaign
    value: Counter[str] = field(default_factory=Counter)  # slot
    places: int = 0
    asked: int = 0

    def document(self) -> dict[str, Any]:
        slots: dict[str, dict[str, float]] = {}
        of: Counter[str] = Counter()
        for (slot, campaign), shown in sorted(self.displays.items()):
            slots.setdefault(slot, {})[campaign] = shown
            of[campaign] += shown
        return {
            "places": self.places,
            "asked": self.asked,
            "fill": self.places / self.asked if self.asked else 1.0,
            "value_cny": float(sum(self.value.values())),
            "slots": {
                slot: {
                    "displays": sum(shown.values()),
                    "value_cny": self.value[slot],
                    "shares": {name: one / max(sum(shown.values()), 1e-12) for name, one in shown.items()},
                }
                for slot, shown in slots.items()
            },
            "campaigns": {
                name: {"displays": shown, "clicks": self.clicks[name]}
                for name, shown in sorted(of.items())
                if name != ORGANIC
            },
        }


@dataclass
class WhatIf:
    before: Side = field(default_factory=Side)
    after: Side = field(default_factory=Side)
    pages: int = 0
    changed: int = 0  # places whose item or campaign is another
    compared: int = 0
    capped: Counter[str] = field(default_factory=Counter)  # campaign -> pages on which its caps were full
    spent: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)  # why a page could not be decided

    def document(self) -> dict[str, Any]:
        return {
            "pages": self.pages,
            "skipped": dict(self.skipped),
            "places_changed": self.changed / self.compared if self.compared else 0.0,
            "before": self.before.document(),
            "after": self.after.document(),
            "caps_full_on_pages": dict(sorted(self.capped.items())),
            "quota_spent_on_pages": dict(sorted(self.spent.items())),
        }


def what_if(
    records: Iterable[Record],
    lives: Lives,
    *,
    plan: Plan | None,
    bundle: Bundle | None,
    total: int = 0,
    progress: Progress | None = None,
) -> WhatIf:
    """`plan` and `bundle`: None is the one that each page was decided by."""
    found = WhatIf()
    names: dict[str, dict[int, str]] = {}
    for done, record in enumerate(records, 1):
        try:
            live = lives.of(record, plan=plan, bundle=bundle)
            decision = decided_first(under(record, live), live)
        except ReplayError as lost:
            found.skipped[str(lost).partition(": ")[2][:160]] += 1
            continue
        finally:
            if progress is not None and done % 64 == 0:
                progress(done, total)
        known = names.setdefault(str(record["plan"]), {})
        if not known:
            known.update(_names(lives, record, live))
        found.pages += 1
        before = _as_served(found.before, record, known)
        after = _as_decided(found.after, decision, live)
        for at in before.keys() | after.keys():
            found.compared += 1
            found.changed += before.get(at) != after.get(at)
        if decision.met is not None:
            for c in decision.met.full.tolist():
                found.capped[live.plan.campaigns.ids[c]] += 1
            for c in decision.met.spent.tolist():
                found.spent[live.plan.campaigns.ids[c]] += 1
    if progress is not None:
        progress(max(total, 1), max(total, 1))
    return found


def under(record: Record, live: Live) -> dict[str, Any]:
    """The logged inputs, as if asked of this view; what was spent and whether the ledger answered stay."""
    return as_of(record, live) | {
        "spent": record["spent"],
        "capped": record["capped"],
        "effort": "full" if record["cached"] is not None else record["effort"],
        "cached": None,
    }


def _names(lives: Lives, record: Record, live: Live) -> dict[int, str]:
    """Campaign ids by key32: of the plan that the page was made by, where it is known, and of the other."""
    ids = list(live.plan.campaigns.ids)
    with suppress(ReplayError):  # then keys of campaigns that are in neither stay numbers
        ids += lives.of(record, priced=False).plan.campaigns.ids
    return {key32(name): name for name in ids}


def _as_served(side: Side, record: Record, names: dict[int, str]) -> dict[tuple[str, int], tuple[str, int]]:
    slots = np.frombuffer(record["place_slot"], np.uint8).tolist()
    shown = np.frombuffer(record["shown"], "<f4").tolist()
    base = np.frombuffer(record["bases"], "<f4").tolist()
    score = np.frombuffer(record["scores"], "<f4").tolist()
    items = np.frombuffer(record["items"], "<u8").tolist()
    campaigns = np.frombuffer(record["campaigns"], "<u4").tolist()
    side.asked += sum(record["sizes"])
    seen: Counter[int] = Counter()
    placed: dict[tuple[str, int], tuple[str, int]] = {}
    for index, slot in enumerate(slots):
        campaign = names.get(campaigns[index], f"#{campaigns[index]}") if campaigns[index] else ORGANIC
        name = str(record["slots"][slot])
        placed[name, seen[slot]] = campaign, items[index]
        seen[slot] += 1
        _add(side, name, campaign, shown[index], base[index], score[index])
    return placed


def _as_decided(side: Side, decision: Decision, live: Live) -> dict[tuple[str, int], tuple[str, int]]:
    side.asked += sum(asked.count for asked in decision.query.slots)
    placed: dict[tuple[str, int], tuple[str, int]] = {}
    for place in decision.placements:
        name = decision.query.slots[place.slot].spec.name
        campaign = live.plan.campaigns.ids[place.campaign] if place.campaign >= 0 else ORGANIC
        placed[name, place.position] = campaign, place.key
        _add(side, name, campaign, place.shown, place.base, place.score)
    return placed


def _add(side: Side, slot: str, campaign: str, shown: float, base: float, score: float) -> None:
    side.places += 1
    side.displays[slot, campaign] += shown  # type: ignore[assignment] # a Counter of floats
    side.value[slot] += shown * base  # type: ignore[assignment]
    if campaign != ORGANIC:
        side.clicks[campaign] += shown * score  # type: ignore[assignment]
