"""A small synthetic bundle, a Live over it and customers, for tests of anything that decides.

live = tiny_live()
decision = decide(query(live, customer(risk_level=3)), live)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.customer import Blobs, Customer, decode_customer
from features.events import WHAT
from features.ids import KIND_CODE, KINDS, Vocabulary, key32, key64
from features.views import CONTACT, ITEM_STATS, MEMBERSHIP, PROFILE, RECENT, SCHEMAS
from serving.blend import Blend
from serving.bundle import Bundle
from serving.catalogue import Item, compile_items
from serving.domain import Context, Query, SlotRequest
from serving.live import Live, build_live
from serving.models import Neighbours, Popular, Prior, VectorModel
from serving.plan import Plan, check_plan
from serving.table_models import PopularModel
from serving.tables import top_table
from serving.taste import KindRows

NOW = 1_790_000_000.0
DAY = 86_400.0
WIDTH = 8

SLOTS: list[dict[str, Any]] = [
    {"name": "home.banner", "layout": "banner", "size": 3, "kinds": ["activity", "content", "benefit"]},
    {"name": "home.grid", "layout": "icon_grid", "size": 5, "kinds": ["function"]},
    {"name": "home.shelf", "layout": "shelf", "size": 4, "kinds": ["product"]},
    {"name": "home.popup", "layout": "popup", "size": 1, "kinds": ["activity", "benefit", "content"]},
    {"name": "home.benefits", "layout": "shelf", "size": 3, "kinds": ["benefit"]},
    {
        "name": "home.feed",
        "layout": "feed",
        "size": 6,
        "kinds": ["content", "product", "activity", "service"],
    },
]


def tiny_plan(**changes: Any) -> Plan:
    """A homepage of 6 slots and 22 places. No ghosts unless named: they have tests of their own."""
    home = [slot["name"] for slot in SLOTS]
    experiments = {"ghosts": 0, **(changes.pop("experiments", None) or {})}
    raw = {"name": "tiny", "surfaces": {"home": home}, "slots": SLOTS, **changes}
    return check_plan({**raw, "experiments": experiments})


def item(number: int, kind: str | None = None, **fields: Any) -> Item:
    """Item `i{number}`: open to everybody unless the fields say otherwise. Kinds follow in turn."""
    chosen = kind or KINDS[number % len(KINDS)]
    body: dict[str, Any] = {
        "id": f"i{number}",
        "kind": chosen,
        "title": {"zh": f"物品{number}", "en": f"Item {number}"},
        "category": f"{chosen}/c{number % 4}",
        "action": f"app://i/{number}",
    }
    return Item.model_validate(body | fields)


def tiny_items(n_items: int = 120) -> list[Item]:
    return [item(number) for number in range(n_items)]


def tiny_bundle(
    n_items: int = 120,
    seed: int = 0,
    items: Sequence[Item] | None = None,
    model: str = "als",
    version: str = "b-tiny",
    **manifest: Any,
) -> Bundle:
    """A bundle whose vectors and popularity are drawn from the seed; `items` replaces the drawn catalogue."""
    rng = np.random.default_rng(seed)
    items = list(items) if items is not None else tiny_items(n_items)
    compiled = compile_items(items)
    n, kinds = len(items), np.ascontiguousarray(compiled.table["kind"])
    popular = _popular(rng, kinds)
    vectors = rng.normal(0, 0.4, (n, WIDTH)).astype(np.float32)
    served = _als(rng, vectors, kinds) if model == "als" else PopularModel(popular, kinds)
    return Bundle(
        version=version,
        manifest={"model": {"name": model}, "seed": seed, **manifest},
        items=Vocabulary(compiled.ids),
        compiled=compiled,
        stats=ITEM_STATS.blank(n),
        model=served,
        popular=popular,
        neighbours=_neighbours(vectors),
        blend=Blend.neutral(),
        schemas=SCHEMAS,
    )


def _als(rng: np.random.Generator, vectors: np.ndarray, kinds: np.ndarray) -> VectorModel:
    tokens = np.sort(np.array([key32(f"star_level={level}") for level in range(1, 8)], np.uint32))
    weights = rng.normal(0, 0.3, (len(tokens), WIDTH)).astype(np.float32)
    prior = Prior(vectors.mean(axis=0), tokens, weights)
    return VectorModel(vectors, kinds, prior, regularization=1.0, tau=2.0, alpha=20.0)


def _popular(
    rng: np.random.Generator, kinds: np.ndarray, segments: int = 3, cities: Sequence[str] = ("310000",)
) -> Popular:
    shares = rng.gamma(0.5, size=(1 + segments, len(kinds))).astype(np.float32)
    shares /= shares.sum(axis=1, keepdims=True)
    by_kind, kept = KindRows(kinds), 200
    top_rows, top_scores = top_table(shares, by_kind, kept)
    codes = np.sort(np.array([key32(city) for city in cities], np.uint32))
    local = rng.gamma(0.5, size=(len(codes), len(kinds))).astype(np.float32)
    city_rows, city_scores = top_table(local, by_kind, kept)
    known = np.arange(1, 1 + segments, dtype=np.uint16)
    return Popular(shares, known, top_rows, top_scores, codes, city_rows, city_scores)


def _neighbours(vectors: np.ndarray, k: int = 10) -> Neighbours:
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    k = min(k, len(vectors) - 1)
    rows = np.argsort(-likeness, axis=1, kind="stable")[:, :k].astype(np.int32)
    weights = np.take_along_axis(likeness, rows, axis=1).astype(np.float32)
    indptr = np.arange(0, k * len(vectors) + 1, max(k, 1), dtype=np.int64)[: len(vectors) + 1]
    return Neighbours(indptr, rows.reshape(-1), weights.reshape(-1))


def tiny_live(
    bundle: Bundle | None = None,
    plan: Plan | None = None,
    overlay: Sequence[Any] = (),
    kills: Sequence[Any] = (),
    **options: Any,
) -> Live:
    made = bundle if bundle is not None else tiny_bundle()
    return build_live(made, overlay, plan or tiny_plan(), kills, **options)


def profile_blob(as_of: float = NOW - DAY, known: Sequence[str] | None = None, **fields: Any) -> bytes:
    """A PROFILE record in which everything, or only `known`, is known."""
    record = PROFILE.blank(1)
    for name, value in fields.items():
        column = record[name][0]
        if np.ndim(column):
            record[name][0][: len(value)] = value
        else:
            record[name] = value
    bits = None if known is None else sum(PROFILE.bit(name) for name in known)
    return PROFILE.encode(record[0], as_of=as_of, known=bits)


def membership_blob(*audiences: int, as_of: float = NOW - DAY) -> bytes:
    record = MEMBERSHIP.blank(1)
    record["audiences"][0][: len(audiences)] = sorted(audiences)
    return MEMBERSHIP.encode(record[0], as_of=as_of)


def recent_entries(*events: tuple[str, str, float], action: int = 0) -> np.ndarray:
    """RECENT entries from (item id, what, seconds before NOW), oldest first."""
    log = np.zeros(len(events), RECENT)
    for i, (name, what, ago) in enumerate(events):
        log[i] = (key64(name), i + 1, NOW - ago, WHAT[what], 1, action, 0.0)
    return log


def shown(
    name: str,
    ago: float = 60.0,
    *,
    campaign: str = "",
    slot: str = "",
    position: int = 0,
    what: str = "displayed",
    category: str = "",
    now: float = NOW,
) -> np.ndarray:
    """One CONTACT entry of a place on a page, `ago` seconds before `now`."""
    entry = np.zeros(1, CONTACT)
    entry["item"], entry["event"], entry["at"] = key64(name), int(ago) + 1, int(now - ago)
    entry["what"], entry["channel"], entry["position"] = WHAT[what], 1, position
    for field, text in (("campaign", campaign), ("slot", slot), ("category", category)):
        entry[field] = key32(text) if text else 0
    return entry


def contacts(*entries: np.ndarray) -> np.ndarray:
    """A contact log of such entries, oldest first."""
    log = np.concatenate(entries) if entries else np.zeros(0, CONTACT)
    return log[np.argsort(log["at"], kind="stable")]


def sold(number: int, item: str, slot: str = "home.banner", **fields: Any) -> dict[str, Any]:
    """Campaign `c{number}`, always open, of one item in one slot."""
    return {"id": f"c{number}", "items": [item], "slots": [slot], **fields}


def market_live(*campaigns: Mapping[str, Any], kills: Sequence[Any] = (), **changes: Any) -> Live:
    """The tiny homepage with these campaigns; what a page shows without them is the same bundle's."""
    return tiny_live(plan=tiny_plan(campaigns=list(campaigns), **changes), kills=kills)


def placed(decision: Any, live: Live, campaign: str | None = None) -> list[tuple[str, int, str]]:
    """(slot, position, item id) of the tagged places, or of one campaign's."""
    ids = live.plan.campaigns.ids
    return [
        (decision.query.slots[one.slot].spec.name, one.position, live.texts[one.row].id)
        for one in decision.placements
        if one.campaign >= 0 and campaign in (None, ids[one.campaign])
    ]


def contact_entries(*events: tuple[str, str, float]) -> np.ndarray:
    """CONTACT entries from (item id, what, seconds before NOW), oldest first."""
    log = np.zeros(len(events), CONTACT)
    for i, (name, what, ago) in enumerate(events):
        log["item"][i], log["event"][i], log["at"][i] = key64(name), i + 1, int(NOW - ago)
        log["what"][i], log["channel"][i] = WHAT[what], 1
    return log


def customer(
    audiences: Sequence[int] = (),
    recent: np.ndarray | None = None,
    contact: np.ndarray | None = None,
    now: float = NOW,
    profiling: bool = True,
    **fields: Any,
) -> Customer:
    """A customer whose every view is there; fields are those of PROFILE (age 40 unless said)."""
    blobs = Blobs(
        profile_blob(now - DAY, **{"age": 40, "risk_level": 3, **fields}),
        membership_blob(*audiences, as_of=now - DAY),
        None if recent is None else recent.tobytes(),
        None if contact is None else contact.tobytes(),
        None,
    )
    return decode_customer(blobs, now=now, profiling=profiling)


def stranger() -> Customer:
    """Nobody knows anything about them; the stores answered."""
    return decode_customer(Blobs(None, None, None, None, None), now=NOW)


def query(live: Live, who: Customer | None = None, surface: str = "home", **fields: Any) -> Query:
    """All slots of a surface at their sizes; `counts` and `exclude` by slot name; context fields by name."""
    counts: Mapping[str, int] = fields.pop("counts", {})
    exclude: Mapping[str, Sequence[str]] = fields.pop("exclude", {})
    context = {name: fields.pop(name) for name in list(fields) if name in Context.__dataclass_fields__}
    slots = tuple(
        SlotRequest(
            spec,
            counts.get(spec.name, spec.size),
            frozenset(key64(name) for name in exclude.get(spec.name, ())),
        )
        for spec in live.plan.surfaces[surface]
    )
    at = Context(**{"channel": 1, "app_version": 9_002_000, "auth_level": 4, **context})
    plain = {"decision_id": "d1", "subject": "u:u1", "surface": surface, "now": NOW, **fields}
    return Query(slots=slots, context=at, customer=who or customer(), **plain)


def names(live: Live, decision: Any, slot: str | None = None) -> list[str]:
    """Ids of the placed items, of one slot or of the page."""
    wanted = [i for i, asked in enumerate(decision.query.slots) if slot in (None, asked.spec.name)]
    return [live.texts[place.row].id for place in decision.placements if place.slot in wanted]


__all__ = [
    "KIND_CODE",
    "NOW",
    "contacts",
    "item",
    "market_live",
    "names",
    "placed",
    "query",
    "shown",
    "sold",
    "tiny_bundle",
    "tiny_items",
    "tiny_live",
    "tiny_plan",
]
