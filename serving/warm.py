"""Compile what a replica needs before one starts: `python -m serving.warm`, once per version of the code.

Machine code is kept beside the source (features/compiled.py), by the exact types it was called with, and
whether an array may be written is part of its type. So a small made-up bundle is written and loaded as a
replica does, and pages are decided on every rung, with and without campaigns. Processes that start
afterwards load in a fraction of a second what takes a minute to compile.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from features.customer import NOTHING, Customer, decode_customer
from features.ids import CHANNEL_CODE, KINDS, Vocabulary
from features.schema import Record
from features.views import CONTACT, ITEM_STATS, PROFILE, RECENT, SCHEMAS
from serving.blend import Blend
from serving.bundle import Bundle, load, save
from serving.catalogue import Item, compile_items
from serving.control import Kill
from serving.decide import decide
from serving.domain import EFFORTS, Context, Query, SlotRequest
from serving.fold_in import Room, Solved, folded
from serving.live import Live, build_live
from serving.models import Neighbours, Popular, PopularModel
from serving.plan import check_plan, default_plan
from serving.prices import Prices, version_of
from serving.tables import top_table
from serving.taste import KindRows

NOW: Final = 1_790_000_000.0
CREATIVE: Final = "v1"  # of the most popular content
EACH: Final = 45  # items of a kind: enough that the files of a bundle are mapped, as large ones are


def warm() -> float:
    """Seconds that it took: a minute or two where nothing was compiled yet, else about one."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="fenliu-warm-") as folder:
        save(_bundle(), Path(folder) / "bundle")
        bundle = load(Path(folder) / "bundle")
        for raw in (default_plan(bundle.kind_counts()).model_dump(mode="json", by_alias=True), _plan(bundle)):
            live = build_live(bundle, (), check_plan(raw))
            live.plan.audiences.warm()
            _decide(live)
            prices = {one.id: 0.5 for one in live.plan.campaigns.specs}
            _decide(live.priced(Prices(version_of(1, 1), NOW, prices, prices, prices)))
            _decide(build_live(bundle, (), check_plan(raw), (Kill("creative", CREATIVE),)))
    _fold_in()
    return time.monotonic() - began


def _fold_in() -> None:
    """The bundle above has no vectors; a customer of one that has them is folded in."""
    one = np.ones((1, 1), np.float32)
    of = Solved(one, one, np.ones(1, np.bool_), np.zeros(1), one, 1.0, Room.of(1, 1))
    folded(of, np.zeros(1, np.int32), np.ones(1, np.float32), np.zeros(1, np.intp))


def _decide(live: Live) -> None:
    for customer in (_somebody(), decode_customer(NOTHING, now=NOW)):
        for effort in EFFORTS:
            for surface, slots in live.plan.surfaces.items():
                asked = tuple(SlotRequest(slot, slot.size) for slot in slots)
                context = Context(channel=CHANNEL_CODE["app"])
                query = Query("warm", "u:warm", surface, asked, context, customer, NOW)
                len(decide(query, live, effort).spares)  # made when they are looked at


def _somebody() -> Customer:
    record = Record(PROFILE.blank_record, PROFILE.all_known, NOW)
    return Customer(record, np.zeros(0, np.uint16), np.zeros(0, RECENT), np.zeros(0, CONTACT))


def _items() -> list[Item]:
    creative = {"id": CREATIVE, "layouts": ["feed", "shelf"], "title": "v"}
    return [
        Item.model_validate(
            {
                "id": f"{kind}{number}",
                "kind": kind,
                "title": {"zh": f"{kind} {number}", "en": f"{kind} {number}"},
                "category": f"{kind}/{number % 5}",
                "action": f"app://{kind}/{number}",
                **({"creatives": [creative]} if (kind, number) == ("content", EACH - 1) else {}),
            }
        )
        for number in range(EACH)
        for kind in KINDS
    ]


def _bundle() -> Bundle:
    compiled = compile_items(_items())
    n, kinds = len(compiled.ids), np.ascontiguousarray(compiled.table["kind"])
    shares = np.full((1, n), 1.0 / n, np.float32) * np.linspace(0.5, 1.5, n, dtype=np.float32)
    rows, scores = top_table(shares, KindRows(kinds), 50)
    none = (
        np.zeros(0, np.uint32),
        np.zeros((0, *rows.shape[1:]), np.int32),
        np.zeros((0, *rows.shape[1:]), "f4"),
    )
    popular = Popular(shares, np.zeros(0, np.uint16), rows, scores, *none)
    nobody = Neighbours(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Bundle(
        version="warm",
        manifest={"model": {"name": "popular"}},
        items=Vocabulary(compiled.ids),
        compiled=compiled,
        stats=ITEM_STATS.blank(n),
        model=PopularModel(popular, kinds),
        popular=popular,
        neighbours=nobody,
        blend=Blend.neutral(),
        schemas=SCHEMAS,
    )


def _plan(bundle: Bundle) -> dict[str, Any]:
    """Every sort of rule that a page knows."""
    raw = default_plan(bundle.kind_counts()).model_dump(mode="json", by_alias=True)
    changes: dict[str, dict[str, Any]] = {
        "home.banner": {"cross": 0.9},
        "home.grid": {"refresh": "session", "switching_cost": 0.02},
        "home.popup": {"interruption": 0.01},
        "home.feed": {"kinds_least": {"product": 1}, "kinds_most": {"content": 6}, "explore": 0.1},
    }
    for slot in raw["slots"]:
        slot |= changes.get(slot["name"], {})
    flight = {"from": "2026-01-01", "until": "2027-01-01"}
    promise = {"tier": "guaranteed", "goals": [{"at_least": 1000}], "flight": flight}
    lever = {"factor": 2.0, "owner": "w", "reason": "warm", "until": "2027-01-01T00:00:00Z"}
    cap = {"most": 3, "window": "1d", "min_gap_s": 60}
    banner = ["home.banner"]
    return raw | {
        "values": {"version": "v1", "click": 0.1, "convert": 5.0, "dismiss": -0.05},
        "audiences": {
            "grown": {"field": "age", "at_least": 18},
            "away": {"all": [{"days_since": "login", "at_least": 3}, {"not": {"audience": "grown"}}]},
            "keen": {"did": "viewed", "kind": "product", "within": "7d"},
        },
        "exclusions": [{"id": "x", "campaigns": ["c2", "c3"], "items": ["activity9"], "most": 1}],
        "contact_rules": [
            {"id": "r1", "most": 3, "window": "day", "scope": "slot", "of": ["home.popup"]},
            {"id": "r2", "event": "dismissed", "most": 2, "window": "30d", "scope": "item"},
        ],
        "campaigns": [
            {"id": "c1", "items": ["activity1"], "slots": banner, "tier": "mandatory", "pin": {banner[0]: 0}},
            {"id": "c2", "items": ["activity2"], "slots": banner, "caps": [cap], **promise},
            {"id": "c3", "items": ["activity3"], "slots": banner, "lever": lever, "flight": flight},
            {"id": "c4", "items": ["product4"], "slots": ["home.shelf"], "audience": "keen"},
            {"id": "c5", "items": ["benefit5"], "slots": ["home.benefits"], "benefit": {"cost": 1}},
            {"id": "c6", "items": ["content6"], "slots": ["home.feed"], "tier": "house", "audience": "away"},
            {
                "id": "c7",
                "items": ["activity7", "content8"],
                "slots": ["home.banner", "home.feed"],
                "roadblock": True,
                "flight": flight,
            },
        ],
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(f"machine code is ready, {warm():.1f} s\n")
