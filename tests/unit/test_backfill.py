"""Imported history, packed offline, is byte for byte what the service writes when the same events come in."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
import redis

from features.events import live_entries, parse_event, to_log
from features.ids import key32, key64
from features.live_store import live_keys
from features.token import TokenSigner
from features.views import CONTACT, CONTACT_KEEP, RECENT, RECENT_KEEP
from training.backfill import backfill, live_logs
from training.lake import Lake
from training.log_rows import build, decode

NOW = 1_790_000_000.0
SIGNER = TokenSigner([("k1", b"k" * 32)])
CATEGORY = key32("wealth/fund")


def categories(keys):
    return np.where(keys == 0, 0, CATEGORY).astype(np.uint32)


def token(user: str, decided_at: float) -> str:
    return SIGNER.sign(
        f"d-{user}-{decided_at}", f"u:{user}", decided_at, decided_at + 600, 1,
        [key32("home.shelf")], np.zeros(3, np.uint8),
        np.array([key64("p1"), key64("p2"), key64("p3")], np.uint64),
        np.zeros(3, np.uint32), np.zeros(3, np.uint32), np.zeros(3, np.uint8),
    )  # fmt: skip


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def happenings(user: str, n: int) -> list[dict]:
    """`n` pages: displayed, a tap, a dismissal, something done outside a page; and one complaint."""
    raws = []
    for i in range(n):
        at = NOW - 86_400 + 60 * i
        page = {"page_token": token(user, at)}
        own = {"type": "acted", "action": "viewed", "user_id": user, "item_id": "p9", "channel": "app"}
        spent = {"value": {"amount": 12.5, "currency": "CNY"}}
        raws += [
            {"event_id": f"{user}-{i}-s", "type": "displayed", "occurred_at": when(at + 1), "seen": [0, 1, 2]}
            | page,
            {"event_id": f"{user}-{i}-c", "type": "clicked", "occurred_at": when(at + 2), "index": 1}
            | page
            | spent,
            {"event_id": f"{user}-{i}-d", "type": "dismissed", "occurred_at": when(at + 3), "index": 2}
            | page,
            {"event_id": f"{user}-{i}-v", "occurred_at": when(at + 4), **own},
        ]
    complaint = {"type": "acted", "action": "complained", "user_id": user, "item_id": "p2", "channel": "app"}
    return [*raws, {"event_id": f"{user}-x", "occurred_at": when(NOW - 20), **complaint}]


def events_of(user: str, n: int):
    return [parse_event(raw, received_at=NOW, verify=SIGNER.verify) for raw in happenings(user, n)]


def table_of(events):
    decoded = decode([(0, str(i), to_log(event)) for i, event in enumerate(events)])
    tables, _good, bad = build(decoded, np.arange(len(decoded.rows)))
    assert not bad
    return tables["events"]


@pytest.mark.parametrize("pages", [1, 3, 120])
def test_packed_offline_as_the_service_writes_it(pages):
    people = {user: events_of(user, pages) for user in ("ann", "bo")}
    logs = {
        one.subject: one for one in live_logs(table_of([e for es in people.values() for e in es]), categories)
    }
    assert set(logs) == {"u:ann", "u:bo"}
    for user, events in people.items():
        pairs = [live_entries(event, categories) for event in sorted(events, key=lambda event: event.at)]
        recent = b"".join(pair[0] for pair in pairs)[-RECENT_KEEP * RECENT.itemsize :]
        contact = b"".join(pair[1] for pair in pairs)[-CONTACT_KEEP * CONTACT.itemsize :]
        assert logs[f"u:{user}"].recent == recent
        assert logs[f"u:{user}"].contact == contact


@pytest.mark.integration
def test_only_what_is_missing_is_written_and_once(tmp_path, valkey_url):
    lake = Lake(tmp_path / "lake")
    lake.write_items([{"id": f"p{i}", "kind": "product", "category": "wealth/fund"} for i in range(10)])
    imported = table_of(events_of("ann", 2) + events_of("bo", 2))
    at = imported.schema.get_field_index("source")
    lake.append_events(imported.set_column(at, "source", [["past"] * imported.num_rows]), "past-1")
    with redis.Redis.from_url(valkey_url) as client:
        client.set(live_keys("u:ann").recent, b"what she did since")
        assert backfill(valkey_url, lake) == 2
        assert client.get(live_keys("u:ann").recent) == b"what she did since"
        filled = client.get(live_keys("u:bo").recent)
        assert len(filled) == 7 * RECENT.itemsize and 0 < client.ttl(live_keys("u:bo").recent) <= 180 * 86_400
        client.delete(live_keys("u:bo").recent)
        assert backfill(valkey_url, lake) == 0
        assert client.get(live_keys("u:bo").recent) is None


@pytest.mark.integration
def test_a_store_that_was_lost_gets_back_what_the_service_took_in(tmp_path, valkey_url):
    lake = Lake(tmp_path / "lake")
    lake.write_items([{"id": "p1", "kind": "product"}])
    assert backfill(valkey_url, lake) == 0  # nothing has happened yet
    with lake.writing():  # as ingest does: no import is recorded
        manifest = lake.manifest()
        manifest.files["events"] += lake.write_parts("events", table_of(events_of("ann", 1)), "from-the-log")
        lake.commit(manifest)
    assert backfill(valkey_url, lake) == 1
    assert backfill(valkey_url, lake) == 0
    with redis.Redis.from_url(valkey_url) as client:
        held = client.get(live_keys("u:ann").recent)
        assert len(held) == 4 * RECENT.itemsize
        client.flushall()
        assert backfill(valkey_url, lake) == 1
        assert client.get(live_keys("u:ann").recent) == held
