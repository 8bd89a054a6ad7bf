"""What `fenliu bench decide` decides on: a made-up bundle, plan and customers of any size, from a seed.

Vectors lie around topics, as trained ones do; campaigns sell what suits their slots, to audiences drawn from
a pool of distinct rules, some of them capped, promised or levered, at prices of both signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.customer import Blobs, Customer, decode_customer
from features.events import WHAT, action_code
from features.ids import CHANNEL_CODE, KINDS, Vocabulary, key32
from features.views import CONTACT, ITEM_STATS, MEMBERSHIP, PROFILE, RECENT, SCHEMAS
from serving.blend import Blend
from serving.bundle import Bundle
from serving.catalogue import Item, compile_items
from serving.domain import Context, Query, SlotRequest
from serving.live import Live, build_live
from serving.models import Neighbours, Popular, Prior, VectorModel
from serving.plan import Plan, check_plan
from serving.plan_default import CANONICAL
from serving.prices import Prices, version_of
from serving.tables import top_table
from serving.tallying import tells_tags
from serving.taste import KindRows
from training.bench.audience_figures import NUMBERS

NOW: Final = 1_790_000_000.0
DAY: Final = 86_400.0
WIDTH: Final = 64
TOPICS: Final = 40
SHARES: Final = (0.06, 0.30, 0.10, 0.40, 0.10, 0.04)  # of the catalogue, by kind
SEGMENTS: Final = 6
NEIGHBOURS: Final = 20
DISTINCT: Final = 500  # audience rules that campaigns share
SLOTS: Final = ("home.banner", "home.shelf", "home.popup", "home.benefits", "home.feed")


def live_of(items: int, campaigns: int, slots: int, seed: int, creatives: int = 0) -> Live:
    """A Live of so many items, campaigns and slots (copies of the canonical six), priced; so many creatives
    of each activity.
    """
    bundle, plan = world_of(items, campaigns, slots, seed, creatives)
    live = build_live(bundle, (), plan)
    live.plan.audiences.warm()
    rng = np.random.default_rng([seed, 3])
    price = rng.normal(0.0, 0.02, campaigns)
    prices = {f"c{number}": float(cny) for number, cny in enumerate(price)}
    return live.priced(Prices(version_of(1, 1), NOW, prices))


def queries(live: Live, customers: int, history: int, seed: int) -> list[Query]:
    """One page view of each of so many customers, with so many live events each."""
    rng = np.random.default_rng([seed, 4])
    keys, slots = live.keys, tuple(SlotRequest(slot, slot.size) for slot in live.plan.surfaces["home"])
    context = Context(channel=CHANNEL_CODE["app"], app_version=9_002_000, auth_level=4)
    return [
        Query(
            decision_id=f"d{number}", subject=f"u:{number}", surface="home", slots=slots, context=context,
            customer=_customer(keys, history, rng), now=NOW, capped=True, tagged=tells_tags(f"d{number}"),
        )
        for number in range(customers)
    ]  # fmt: skip


def _customer(keys: NDArray[np.uint64], history: int, rng: np.random.Generator) -> Customer:
    return decode_customer(blobs_of(keys, history, rng), now=NOW)


def blobs_of(keys: NDArray[np.uint64], history: int, rng: np.random.Generator) -> Blobs:
    """A customer's records as the stores hold them, with so many live events of each kind."""
    profile = PROFILE.blank(1)[0]
    profile["consents"], profile["profiling"], profile["risk_level"] = 7, 1, rng.integers(1, 6)
    profile["age"], profile["segment"] = rng.integers(18, 80), rng.integers(1, SEGMENTS + 1)
    profile["assets"], profile["income"] = rng.lognormal(10, 1.5), rng.lognormal(9, 0.6)
    profile["tenure_days"], profile["city"] = rng.uniform(10, 5000), key32(str(310_000 + rng.integers(0, 20)))
    profile["star_level"] = rng.integers(1, 8)
    profile["attributes"][:1] = key32(f"star_level={profile['star_level']}")
    profile["clicks_30d"], profile["active_days_30d"] = rng.poisson(4), rng.integers(0, 30)
    member = MEMBERSHIP.blank(1)[0]
    joined = np.sort(rng.choice(80, 12, replace=False)) + 1
    member["audiences"][:12] = joined
    recent = np.zeros(history, RECENT)
    recent["item"], recent["event"] = rng.choice(keys, history), np.arange(history) + 1
    recent["at"] = np.sort(NOW - rng.uniform(60, 10 * DAY, history))
    did = [WHAT["acted"], WHAT["clicked"], WHAT["converted"]]
    recent["what"] = rng.choice(did, history, p=[0.6, 0.3, 0.1])
    recent["action"] = np.where(recent["what"] == WHAT["acted"], action_code("viewed"), 0)
    recent["channel"] = CHANNEL_CODE["app"]
    contact = np.zeros(history, CONTACT)
    contact["item"], contact["event"] = rng.choice(keys, history), np.arange(history) + 1
    contact["at"] = np.sort(NOW - rng.uniform(60, 3 * DAY, history)).astype(contact["at"].dtype)
    contact["what"], contact["channel"] = WHAT["displayed"], CHANNEL_CODE["app"]
    return Blobs(
        PROFILE.encode(profile, as_of=NOW - DAY),
        MEMBERSHIP.encode(member, as_of=NOW - DAY),
        recent.tobytes(),
        contact.tobytes(),
        None,
    )


def world_of(items: int, campaigns: int, slots: int, seed: int, creatives: int = 0) -> tuple[Bundle, Plan]:
    """The bundle and the plan alone."""
    bundle = bundle_of(items, seed, creatives)
    return bundle, check_plan(plan_of(bundle, campaigns, slots, seed))


def bundle_of(many: int, seed: int, creatives: int = 0, items: Sequence[Item] | None = None) -> Bundle:
    """Over so many made-up items, or over these."""
    rng = np.random.default_rng([seed, 1])
    compiled = compile_items(_items(many, rng, creatives) if items is None else items)
    kinds = np.ascontiguousarray(compiled.table["kind"])
    topic = rng.integers(0, TOPICS, many)
    centre = rng.normal(0, 0.5, (TOPICS, WIDTH))
    vectors = (centre[topic] + rng.normal(0, 0.25, (many, WIDTH))).astype(np.float32)
    popular = _popular(rng, kinds)
    tokens = np.sort(np.array([key32(f"star_level={level}") for level in range(1, 8)], np.uint32))
    prior = Prior(vectors.mean(axis=0), tokens, rng.normal(0, 0.2, (7, WIDTH)).astype(np.float32))
    return Bundle(
        version="bench",
        manifest={"model": {"name": "als"}, "seed": seed},
        items=Vocabulary(compiled.ids),
        compiled=compiled,
        stats=ITEM_STATS.blank(many),
        model=VectorModel(vectors, kinds, prior, regularization=1.0, tau=2.0, alpha=20.0),
        popular=popular,
        neighbours=_neighbours(topic, rng),
        blend=Blend.neutral(),
        schemas=SCHEMAS,
    )


def _items(many: int, rng: np.random.Generator, creatives: int) -> list[Item]:
    kinds = np.repeat(np.arange(len(KINDS)), np.maximum(1, np.round(np.array(SHARES) * many).astype(int)))
    kinds = rng.permutation(np.resize(kinds, many))
    return [
        Item.model_validate(
            {
                "id": f"i{number}",
                "kind": KINDS[kind],
                "title": {"zh": f"物品{number}", "en": f"Item {number}"},
                "category": f"{KINDS[kind]}/c{number % 7}",
                "action": f"app://i/{number}",
                **({"creatives": _creatives(number, creatives)} if KINDS[kind] == "activity" else {}),
                **({"risk_class": 1 + number % 5} if KINDS[kind] == "product" and number % 3 == 0 else {}),
            }
        )
        for number, kind in enumerate(kinds.tolist())
    ]


def _creatives(item: int, many: int) -> list[dict[str, Any]]:
    layouts = ["banner", "popup", "feed"]
    return [
        {"id": f"i{item}-{number}", "title": f"创意{number}", "layouts": layouts, "state": "live"}
        for number in range(many)
    ]


def _popular(rng: np.random.Generator, kinds: NDArray[np.uint8]) -> Popular:
    shares = rng.gamma(0.5, size=(1 + SEGMENTS, len(kinds))).astype(np.float32)
    shares /= shares.sum(axis=1, keepdims=True)
    by_kind = KindRows(kinds)
    rows, scores = top_table(shares, by_kind, 200)
    known, nowhere = np.arange(1, 1 + SEGMENTS, dtype=np.uint16), np.zeros(0, np.uint32)
    none = np.zeros((0, *rows.shape[1:]), np.int32), np.zeros((0, *rows.shape[1:]), np.float32)
    return Popular(shares, known, rows, scores, nowhere, *none)


def _neighbours(topic: NDArray[np.int64], rng: np.random.Generator) -> Neighbours:
    """NEIGHBOURS items of its own topic for each."""
    many = len(topic)
    order, starts = np.argsort(topic, kind="stable"), np.searchsorted(np.sort(topic), np.arange(TOPICS + 1))
    sizes = np.maximum(1, np.diff(starts))[topic]
    drawn = starts[topic][:, None] + (rng.random((many, NEIGHBOURS)) * sizes[:, None]).astype(np.int64)
    rows = order[np.minimum(drawn, many - 1)].astype(np.int32)
    weights = np.sort(rng.random((many, NEIGHBOURS)).astype(np.float32), axis=1)[:, ::-1]
    indptr = np.arange(0, NEIGHBOURS * many + 1, NEIGHBOURS, dtype=np.int64)
    return Neighbours(indptr, rows.reshape(-1), np.ascontiguousarray(weights).reshape(-1))


def plan_of(bundle: Bundle, campaigns: int, slots: int, seed: int, year: int = 2026) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 2])
    declared = [
        {
            "name": name if copy == 0 else f"{name}{copy}",
            "layout": layout,
            "size": size,
            "kinds": list(kinds),
            "diminish": 0.9,
        }
        for copy in range(-(-slots // len(CANONICAL)))
        for name, layout, size, kinds in CANONICAL
    ][:slots]
    by_kind = {
        kind: [bundle.compiled.ids[row] for row in np.flatnonzero(bundle.compiled.table["kind"] == code)]
        for code, kind in enumerate(KINDS)
    }
    kinds_of = {name: kinds for name, _, _, kinds in CANONICAL}
    pool = _rules(rng)
    flight = {"from": f"{year}-01-01", "until": f"{year + 1}-01-01"}
    made = [_campaign(number, rng, by_kind, kinds_of, len(pool), flight) for number in range(campaigns)]
    used = {one["audience"] for one in made if "audience" in one}
    return {
        "name": "bench",
        "surfaces": {"home": [slot["name"] for slot in declared]},
        "slots": declared,
        "values": {"version": "v1", "click": 0.1, "convert": 5.0},
        "audiences": {name: rule for name, rule in pool.items() if name in used},
        "contact_rules": [
            {"id": "r1", "most": 3, "window": "1d", "scope": "slot", "of": ["home.popup"]},
        ],
        "campaigns": made,
    }


def _rules(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Audiences of two or three leaves over distinct thresholds, cities and memberships."""
    leaves: list[dict[str, Any]] = [
        {"field": name, "at_least": step * (1 + turn)} for turn in range(40) for name, step in NUMBERS
    ]
    leaves += [{"field": "city", "is": str(310_000 + city)} for city in range(20)]
    leaves += [{"member": number} for number in range(1, 81)]
    leaves = leaves[:DISTINCT]

    def some(count: int) -> Sequence[dict[str, Any]]:
        return [leaves[at] for at in rng.choice(len(leaves), count, replace=False)]

    joined = ("all", "any")
    return {f"a{number}": {joined[number % 2]: some(2 + number % 2)} for number in range(DISTINCT)}


def _campaign(
    number: int,
    rng: np.random.Generator,
    items: dict[str, list[str]],
    kinds_of: dict[str, tuple[str, ...]],
    audiences: int,
    flight: dict[str, str],
) -> dict[str, Any]:
    slot = SLOTS[number % len(SLOTS)]
    kind = kinds_of[slot][int(rng.integers(0, len(kinds_of[slot])))]
    made: dict[str, Any] = {
        "id": f"c{number}",
        "items": sorted({str(rng.choice(items[kind])) for _ in range(int(rng.integers(1, 4)))}),
        "slots": [slot],
        "flight": flight,
    }
    if rng.random() < 0.8:
        made["audience"] = f"a{int(rng.integers(0, audiences))}"
    if rng.random() < 0.4:
        made |= {"tier": "guaranteed", "goals": [{"unit": "displayed", "at_least": 2000}]}
    if rng.random() < 0.3:
        made["caps"] = [{"event": "displayed", "most": 3, "window": "1d"}]
    if rng.random() < 0.05:
        made["lever"] = {
            "factor": 1.5,
            "owner": "b",
            "reason": "bench",
            "until": f"{flight['until']}T00:00:00Z",
        }
    return made
