"""What evaluation knows of a customer at a moment is what a decision knows at that moment, bit for bit.

A small bank's events, most of them about items: some customers with more behind them than a live log keeps,
logins that take places in it, items that the catalogue does not have, refusals, tags switched off. The same
lake is taken both ways: cut by the split into histories (training.windows), and packed into live logs and
records (training.backfill, training.materialize) from which `decide` makes a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from features.customer import Blobs, decode_customer
from features.ids import keys64
from features.tags import Tag, TagDictionary
from features.transforms import DAY, EventWeights, History
from features.views import HISTORY_KEEP
from serving.catalogue import compile_items
from serving.decide import decide
from serving.live import Live
from tests.worlds import query, tiny_bundle, tiny_items, tiny_live
from training.backfill import COLUMNS, live_logs
from training.config import parse_config
from training.dataset import Dataset, build_dataset
from training.lake import Lake
from training.learn import Prepared, prepare
from training.materialize import aggregate, view_batches
from training.tables import pc

START = 1_780_000_000.0
CUSTOMERS, ITEMS, EVENTS = 400, 120, 24_000
TAGS = TagDictionary(Tag(f"t{n}", "rule", "crm", "core", 1, "profiling", 30, n) for n in range(12))


class Asked(NamedTuple):
    history: History
    tokens: np.ndarray
    segment: int


class Listening:
    """A model that remembers what it was asked about."""

    def __init__(self, model: Any) -> None:
        self._model, self.asked = model, list[Asked]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def represent(self, history: History, tokens: np.ndarray, segment: int) -> Any:
        self.asked.append(Asked(history, tokens, segment))
        return self._model.represent(history, tokens, segment)


def behaviour(rng: np.random.Generator) -> pa.Table:
    user = (CUSTOMERS * rng.random(EVENTS) ** 2).astype(int)  # the first have hundreds of events
    item = rng.integers(0, ITEMS + 8, EVENTS)  # the last eight are in no catalogue
    kind = rng.choice(
        ["displayed", "clicked", "converted", "dismissed", "viewed", "login", "purchased"],
        EVENTS,
        p=[0.15, 0.3, 0.1, 0.1, 0.15, 0.15, 0.05],
    )
    at = np.sort(START + np.round(rng.random(EVENTS) * 90 * DAY, 3))
    acted = ~np.isin(kind, ["displayed", "clicked", "converted", "dismissed"])
    nowhere = kind == "login"
    ids = np.array([f"i{one}" for one in item], object)
    keys = keys64(ids.tolist())
    visitor = rng.random(EVENTS) < 0.02
    return pa.table(
        {
            "event_id": [f"e{n}" for n in range(EVENTS)],
            "type": np.where(acted, "acted", kind),
            "action": pa.array(np.where(acted, kind, None), pa.string(), from_pandas=True),
            "received_at": at,
            "at": at,
            "subject": [
                f"v:d{one}" if alone else f"u:c{one}"
                for one, alone in zip(user.tolist(), visitor.tolist(), strict=True)
            ],
            "user_id": pa.array([f"c{one}" for one in user], pa.string(), mask=visitor),
            "visitor_id": pa.array([f"d{one}" for one in user], pa.string(), mask=~visitor),
            "item_id": pa.array(ids, pa.string(), mask=nowhere),
            "item_key": pa.array(keys, pa.uint64(), mask=nowhere),
            "source": ["past"] * EVENTS,
        }
    )


def people(rng: np.random.Generator) -> pa.Table:
    n = CUSTOMERS - 40  # some are in no table
    names = [f"t{one}" for one in range(12)]

    def some(most: int) -> list[str | None]:
        counts = rng.integers(0, most + 1, n).tolist()
        return ["|".join(rng.choice(names, count, replace=False)) or None for count in counts]

    def gaps(values: list[Any]) -> list[Any]:
        return [None if rng.random() < 0.1 else value for value in values]

    return pa.table(
        {
            "user_id": [f"c{one}" for one in range(n)],
            "age": gaps(rng.integers(18, 90, n).tolist()),
            "gender": gaps(rng.choice(["F", "M"], n).tolist()),
            "star_level": gaps(rng.integers(1, 8, n).tolist()),
            "assets": gaps(rng.lognormal(10, 2, n).round(2).tolist()),
            "tenure_days": gaps(rng.integers(0, 5000, n).tolist()),
            "city": gaps(rng.choice(["310000", "110000"], n).tolist()),
            "occupation": gaps(rng.choice(["clerk", "farmer", "nurse"], n).tolist()),
            "profiling": gaps(rng.choice([1, 1, 1, 1, 0], n).tolist()),
            "tags": some(5),
            "tags_off": some(2),
        }
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    rng = np.random.default_rng(11)
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.append_events(behaviour(rng), "past")
    lake.write_users(people(rng))
    return lake


@pytest.fixture(scope="module")
def prepared(lake: Lake) -> Prepared:
    weights = EventWeights(half_life_days=30.0)
    items = compile_items(tiny_items(ITEMS))
    dataset = build_dataset(lake, items, now=START + 91 * DAY, weights=weights, tags=TAGS)
    return prepare(dataset, parse_config({"evaluation": {"tuning_customers": 1000}}))


def served_blobs(lake: Lake, dataset: Dataset, now: float) -> dict[str, Blobs]:
    """What the stores hold of every subject at `now`: records, and live logs of what was before it."""
    profiles = view_batches(lake, dataset, aggregate(lake, dataset), TAGS)[0]
    records = {
        f"u:{one}": blob.tobytes()
        for one, blob in zip(profiles.ids, replace_as_of(profiles, now), strict=True)
    }
    events = lake.events(until=now, columns=COLUMNS)
    logs = {one.subject: one for one in live_logs(events, lambda keys: np.zeros(len(keys), np.uint32))}
    return {
        subject: Blobs(
            records.get(subject),
            None,
            logs[subject].recent or None if subject in logs else None,
            logs[subject].contact or None if subject in logs else None,
            None,
        )
        for subject in records.keys() | logs.keys()
    }


def replace_as_of(profiles: Any, now: float) -> np.ndarray:
    """The records as if they had been materialised just now: a data set may lie years back."""
    wire = profiles.blobs.copy()
    wire["as_of"] = now
    return wire


def live_with(model: Listening, weights: EventWeights) -> Live:
    made = tiny_bundle(items=tiny_items(ITEMS), event_weights=asdict(weights))
    return tiny_live(replace(made, model=model))


@pytest.mark.parametrize("which", ["valid", "test"])
@pytest.mark.parametrize("half_life", [7.0, 365.0])
def test_a_page_is_made_of_what_evaluation_was_judged_by(
    lake: Lake, prepared: Prepared, which: str, half_life: float
) -> None:
    window = {"valid": prepared.valid, "test": prepared.test}[which]
    now = {"valid": prepared.split.now_valid, "test": prepared.split.now_test}[which]
    weights = EventWeights(half_life_days=half_life)
    past = window.behaviour.past(weights)
    held = served_blobs(lake, prepared.dataset, now)
    listening = Listening(tiny_bundle(ITEMS).model)
    live = live_with(listening, weights)
    full = 0
    for case, user in enumerate(window.cases.users.tolist()):
        subject = prepared.dataset.subjects[user]
        blobs = held.get(subject, Blobs(None, None, None, None, None))
        who = decode_customer(blobs, now=now, schemas=live.bundle.schemas)
        decide(query(live, who, now=now, subject=subject), live)
        asked, wanted = listening.asked[-1], past.of(case)
        assert asked.history.rows.tolist() == wanted.rows.tolist(), subject
        assert asked.history.weights.tobytes() == wanted.weights.tobytes(), subject
        assert asked.tokens.tolist() == prepared.customers.tokens_of(user).tolist(), subject
        assert asked.segment == int(prepared.customers.segment[user]), subject
        full += who.recent is not None and len(who.recent) >= HISTORY_KEEP
    assert len(window.cases) > 200
    assert full > 30  # of many, the oldest entries have been pushed out


def test_who_refused_profiling_is_nobody_s_example(prepared: Prepared) -> None:
    dataset = prepared.dataset
    refused = np.flatnonzero(dataset.refused)
    assert len(refused) > 30
    assert not set(refused.tolist()) & set(prepared.test.cases.users.tolist())
    assert not prepared.customers.segment[refused].any()
    assert not any(len(prepared.customers.tokens_of(int(user))) for user in refused)
    off = dataset.profiles.records["tags_off"].any(axis=1) & dataset.profiles.records["tags"].any(axis=1)
    assert off.any()


def test_logins_take_their_places_in_the_history(lake: Lake, prepared: Prepared) -> None:
    """Without them the history would reach further back than a page's does."""
    events: Mapping[str, Any] = lake.events(columns=["action"])
    assert pc.sum(pc.equal(pc.fill_null(events["action"], ""), "login")).as_py() > 1000
    assert len(prepared.dataset.others.user) > 1000
    kept = np.bincount(prepared.test.behaviour.case, minlength=len(prepared.test.cases))
    assert kept.max() < HISTORY_KEEP
