"""Figures of audiences: µs per request by number of campaigns, and seconds of a count.

The rules mix what operators mix: profile fields, cities, holdings, attributes, tags, memberships, and live
behaviour over a full log; each campaign has an audience of its own over the distinct predicates.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.events import WHAT, action_code
from features.ids import KIND_CODE, KINDS, Vocabulary, key32, key64
from features.keyspace import ViewBatch
from features.schema import Record
from features.tags import Tag, TagDictionary
from features.transforms import DAY, attribute_token
from features.views import MEMBERSHIP, PROFILE, RECENT, RECENT_KEEP
from serving.audience import CompiledAudiences, Lookups, compile_audiences, lookups_of, parse_rule
from training.audiences import count
from training.base_columns import Base, BaseCopy

NOW: Final = 1_790_000_000.0
SEED: Final = 20_260_101
CAMPAIGNS: Final = (20, 200, 2000)
BASE: Final = 1_000_000
ITEMS: Final = 3_000
ROUNDS: Final = 7
VALUES: Final = 7  # of each attribute
NUMBERS: Final = (
    *(("assets", 1e4), ("income", 500.0), ("tenure_days", 60.0), ("age", 1.0)),
    *(("clicks_30d", 0.5), ("active_days_30d", 0.3), ("conversions_90d", 0.1)),
)
DID: Final = ("viewed", "clicked", "login", "searched", "dismissed")
TAGS: Final = TagDictionary(Tag(f"t{bit}", "rule", "o", "s", 1, "profiling", 1, bit) for bit in range(40))


def audience_figures(campaigns: int = 2000, predicates: int = 500, base: int = BASE) -> dict[str, float]:
    """µs of processor per evaluation with 20, 200 and `campaigns` campaigns, the best of ROUNDS; and of a
    base of `base` customers the seconds to map it, and to count an audience of eight predicates (median).
    """
    rng = np.random.default_rng(SEED)
    leaves = distinct_leaves(predicates)
    customer, lookups = _customer(rng), _lookups()
    figures: dict[str, float] = {}
    for n in sorted({min(n, campaigns) for n in (*CAMPAIGNS, campaigns)}):
        audiences = campaign_audiences(leaves, n, rng)
        audiences.warm()
        figures[f"audiences_us_{n}"] = _best_us(partial(audiences.evaluate, customer, NOW, lookups))
        figures[f"audiences_predicates_{n}"] = float(len(audiences.predicates))
    with tempfile.TemporaryDirectory() as folder:
        BaseCopy(Path(folder), None).write("bench", synthetic_base(base, rng))
        figures |= _count_figures(Path(folder) / "bench")
    return figures


def distinct_leaves(n: int) -> list[dict[str, Any]]:
    """About n rules that test distinct things, in fixed shares of the kinds."""
    leaves: list[dict[str, Any]] = []
    shares = (round(n * 0.4), round(n * 0.1), round(n * 0.05), round(n * 0.1), round(n * 0.05))
    for i in range(shares[0]):
        name, step = NUMBERS[i % len(NUMBERS)]
        leaves.append({"field": name, "at_least": step * (1 + i // len(NUMBERS))})
    leaves += [{"field": "city", "is": str(310_000 + i)} for i in range(shares[1])]
    leaves += [{"field": "holdings", "has": f"i{i}"} for i in range(shares[2])]
    leaves += [{"attribute": f"a{i % 8}", "is": f"v{i // 8}"} for i in range(shares[3])]
    leaves += [{"tag": f"t{i % len(TAGS)}"} for i in range(min(shares[4], len(TAGS)))]
    leaves += [{"member": 1 + i} for i in range(round(n * 0.16))]
    for i in range(n - len(leaves)):
        did = {"did": DID[i % len(DID)], "within": f"{1 + i // 30}d", "at_least": 1 + i % 2}
        leaves.append(did | {"kind": KINDS[i % len(KINDS)]})
    return leaves


def campaign_audiences(
    leaves: Sequence[dict[str, Any]], campaigns: int, rng: np.random.Generator
) -> CompiledAudiences:
    """An audience for each campaign: two of the rules, one of two others, and not a fifth or a fourth."""
    rules = {}
    for c in range(campaigns):
        a, b, d, e = (leaves[i] for i in rng.choice(len(leaves), 4, replace=False).tolist())
        rules[f"c{c}"] = parse_rule({"all": [a, {"any": [b, d]}, {"not": e}]})
    return compile_audiences(rules, tags=TAGS)


def synthetic_base(n: int, rng: np.random.Generator) -> list[ViewBatch]:
    """PROFILE and MEMBERSHIP records of n customers; one field in twenty is unknown."""
    records = PROFILE.blank(n)
    records["assets"] = rng.lognormal(10, 1.5, n)
    records["income"] = rng.lognormal(8.5, 0.6, n)
    records["tenure_days"] = rng.integers(0, 4000, n)
    records["clicks_30d"] = rng.poisson(4, n)
    for name, most in (("age", 90), ("star_level", 7), ("risk_level", 6), ("segment", 60), ("city_tier", 5)):
        records[name] = rng.integers(0, most, n)
    for name, some in (
        ("city", [str(310_000 + i) for i in range(50)]),
        ("org", [f"o{i}" for i in range(40)]),
    ):
        records[name] = np.array([key32(one) for one in some], np.uint32)[rng.integers(0, len(some), n)]
    for k in range(8):
        tokens = np.array([attribute_token(f"a{k}", f"v{v}") for v in range(VALUES)], np.uint32)
        records["attributes"][:, k] = tokens[rng.integers(0, VALUES, n)]
    records["holdings"][:, 0] = np.array([key64(f"i{i}") for i in range(200)], np.uint64)[
        rng.integers(0, 200, n)
    ]
    records["tags"] = rng.integers(0, 256, (n, 16), dtype=np.uint8)
    known = np.full(n, PROFILE.all_known, np.uint64)
    known &= ~(np.uint64(1) << rng.integers(0, len(PROFILE.fields), n).astype(np.uint64))
    ids = np.array([b"u%08d" % i for i in range(n)], np.bytes_)
    members = np.flatnonzero(rng.random(n) < 0.3)
    held = MEMBERSHIP.blank(len(members))
    held["audiences"][:, 0] = 1 + rng.integers(0, 80, len(members))
    return [
        ViewBatch(PROFILE, ids, PROFILE.pack(records, as_of=NOW, known=known), NOW),
        ViewBatch(MEMBERSHIP, ids[members], MEMBERSHIP.pack(held, as_of=NOW), NOW),
    ]


def _count_figures(folder: Path) -> dict[str, float]:
    rule = {
        "all": [
            {"field": "assets", "at_least": 20_000},
            {"field": "age", "at_least": 25, "below": 60},
            {"any": [{"member": 3}, {"tag": "t5"}, {"field": "holdings", "has": "i7"}]},
            {"not": {"attribute": "a1", "is": "v3"}},
            {"field": "risk_level", "at_least": 2},
        ]
    }
    started = time.perf_counter()
    base = Base(folder)
    columns = base.columns
    mapping = time.perf_counter() - started
    values = {f"a{k}": [f"v{v}" for v in range(VALUES)] for k in range(8)}
    audiences = compile_audiences({"bench": parse_rule(rule)}, tags=TAGS, attributes=values)
    seconds, processor, members = [], [], 0
    for _ in range(ROUNDS):
        began = time.thread_time()
        found = count(base, audiences, "bench", breakdown=(), sample=0)
        processor.append(time.thread_time() - began)
        seconds.append(found.seconds)
        members = found.members
    started = time.perf_counter()
    count(base, audiences, "bench")
    return {
        "base_customers": float(columns.n),
        "base_mapping_s": mapping,
        "count_s": float(np.median(seconds)),
        "count_processor_s": float(np.median(processor)),
        "count_first_s": seconds[0],
        "count_with_breakdown_s": time.perf_counter() - started,
        "count_members": float(members),
    }


def _customer(rng: np.random.Generator) -> Customer:
    (profiles, _) = synthetic_base(1, rng)
    record = Record(profiles.blobs["values"][0], PROFILE.all_known, NOW)
    log = np.zeros(RECENT_KEEP, RECENT)
    log["item"] = [key64(f"i{i}") for i in rng.integers(0, ITEMS, RECENT_KEEP).tolist()]
    log["at"] = np.sort(NOW - rng.random(RECENT_KEEP) * 20 * DAY)
    for entry, name in zip(log, rng.choice(DID, RECENT_KEEP).tolist(), strict=True):
        entry["what"] = WHAT.get(name, WHAT["acted"])
        entry["action"] = 0 if name in WHAT else action_code(name)
    blob = np.frombuffer(log.tobytes(), RECENT)  # read-only, as a store's answer is
    return Customer(record, np.arange(1, 65, 2, dtype=np.uint16), blob, None)


def _lookups() -> Lookups:
    kinds = np.array([KIND_CODE[KINDS[i % len(KINDS)]] for i in range(ITEMS)], np.uint8)
    categories: NDArray[np.uint32] = np.array([key32(f"c{i % 40}") for i in range(ITEMS)], np.uint32)
    columns: dict[str, NDArray[Any]] = {"kind": kinds, "category": categories, "top_category": categories}
    return lookups_of(Vocabulary([f"i{i}" for i in range(ITEMS)]).rows_of_keys, columns)


def _best_us(call: Callable[[], object], calls: int = 500) -> float:
    found = []
    for _ in range(ROUNDS):
        started = time.thread_time()  # as the page budget: a replica's processor time
        for _ in range(calls):
            call()
        found.append((time.thread_time() - started) / calls * 1e6)
    return min(found)
