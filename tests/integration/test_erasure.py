"""A customer erased from stores, log, lake, lists, base and sample, and nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry

import fenliu
from features.external import ENTRY, external_key, pack
from features.file_spool import FileSpool
from features.ids import key64
from features.keyspace import KeySpace, ViewBatch, ViewSpace
from features.log import Entry
from features.redis_erase import Whose
from features.redis_log import RedisLog
from features.redis_plain import opened
from features.store import feature_key
from features.stores import Stores, StoreUrls
from features.views import MEMBERSHIP, PROFILE
from serving.durable import Durable
from serving.lists import ListShelf
from serving.redis_control import RedisControl
from serving.settings import Settings
from serving.spool_metrics import SpoolMetrics
from tests.shell import run, running
from tests.worlds import NOW, tiny_bundle, tiny_live
from training.base_columns import BaseCopy
from training.customer_export import devices_of, exported
from training.erasure import Places, Who, erase, remains
from training.ingest import ingest
from training.lake import Lake
from training.lists import Lists
from training.plain_words import told
from training.retention import dropped
from training.sample import refresh
from training.tables import EVENT_COLUMNS, parquet

GONE, KEPT = "u4", "u42"  # one id begins with the other
SPACE = KeySpace("k1", {PROFILE.name: ViewSpace(NOW - 60, 2, PROFILE.fingerprint)})


async def _lived(url: str) -> float:
    stores = Stores.open(StoreUrls.one(url))
    control = RedisControl.at(url)
    async with running(tiny_bundle(), stores=stores, control=control) as shell:
        for n in range(6):
            user = (GONE, KEPT)[n % 2]
            page = await shell.page(user, visitor_id=f"d{n % 2}", request_id=f"r{n}")
            click = shell.event("clicked", f"e{n}", page_token=page["page_token"], index=0)
            assert (await shell.post("/v1/events", {"events": [click]})).json()["accepted"] == 1
            bought = {"outcome_id": f"o{n}", "user_id": user, "kind": "purchase", "item_id": "i1"}
            bought |= {
                "occurred_at": shell.clock.rfc3339(),
                "recorded_at": shell.clock.rfc3339(),
                "value": {"amount": 1, "currency": "CNY"},
            }
            await shell.post("/v1/outcomes", bought)
            await shell.put(f"/v1/users/{user}", {"profile": {"age": 40}})
        now = shell.clock.now
    await control.close()
    await stores.close()
    return now


@pytest.fixture
def places(valkey_url: str, tmp_path: Path) -> Places:
    now = run(lambda: _lived(valkey_url))
    lake = Lake(tmp_path / "lake")
    with RedisLog(valkey_url) as log:
        ingest(log, lake, now=now)
    with opened(valkey_url) as store:
        for user in (GONE, KEPT):
            for space in ("k0", "k1"):  # the key space in use, and the one before
                blob = PROFILE.encode(PROFILE.blank(1)[0], as_of=NOW - 60)
                store.set(feature_key(space, PROFILE.name, user), blob)
    lake.write_users(pa.table({"user_id": [GONE, KEPT], "age": [30, 40]}))
    dead = FileSpool(tmp_path / "spool", 1 << 20)
    dead.put(
        [Entry(f"w{user}", f"u:{user}", msgpack.packb({"t": "x", "u": user})) for user in (GONE, KEPT)], NOW
    )
    dead.put([Entry(f"x{GONE}", f"u:{GONE}", b"\xc1")], NOW)
    dead.close()
    Lists(ListShelf(str(tmp_path / "registry")), lake).write(
        "vip", np.array([GONE.encode(), KEPT.encode()]), kind="upload", owner="x", at=NOW
    )
    for version in (1, 2):  # scores of the bank's own model, and what a roll-back would bring back
        rows = {"user_id": [GONE, KEPT], "count": [1, 1], "entries": [b"x", b"x"]}
        lake.put(f"scores/loans/{version}.parquet", parquet(pa.table(rows)))
    with opened(valkey_url) as store:
        for user in (GONE, KEPT):
            entry = np.zeros(1, ENTRY)
            entry["item"], entry["score"], entry["expires"] = key64("i1"), 0.5, NOW + 3600
            store.set(external_key(user), pack(entry))
    ids = np.array([GONE.encode(), KEPT.encode()])
    records, member = PROFILE.blank(2), MEMBERSHIP.blank(2)
    records["age"], member["audiences"][:, 0] = (30, 40), 7
    made = [
        ViewBatch(PROFILE, ids, PROFILE.pack(records, as_of=NOW), NOW),
        ViewBatch(MEMBERSHIP, ids, MEMBERSHIP.pack(member, as_of=NOW), NOW),
    ]
    BaseCopy(tmp_path / "base", None).write("k1", made)
    refresh(lake, tiny_live(), tmp_path / "sample", now=now + 60)
    (tmp_path / "work" / "run").mkdir(parents=True)
    (tmp_path / "work" / "run" / "users.json").write_text(json.dumps([GONE]))
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "rows.jsonl").write_text(f'{{"user": "{GONE}"}}\n{{"user": "{KEPT}"}}\n')
    urls = {f"{role}_url": valkey_url for role in ("features", "live", "log", "control")}
    return Places(Settings(home=tmp_path, **urls), lake)


def test_a_customer_is_erased_everywhere_and_nobody_else(places: Places) -> None:
    who, other = Who((GONE,)), Who((KEPT,))
    before, others = remains(places, who), remains(places, other)
    home = places.settings.home
    os.utime(places.lake.path("catalogue/users.parquet"), (NOW - 9.0, NOW - 9.0))
    for place in (
        "store:features+live+log",
        "lake:catalogue/users.parquet",
        "lake:lists/32768.parquet",
        "lake:scores/loans/1.parquet",
        str(home / "sample"),
    ):
        assert any(one.startswith(place[:14]) for one in before), (place, before)
    done = {(one.place, one.what): one.many for one in erase(places, who)}
    assert done["lake:events", "rows"] == 4 and done["lake:served", "rows"] == 3
    assert done["lake:outcomes", "rows"] == 3 and done["lake:customers", "rows"] == 1
    assert done["lake:scores", "records"] == 2
    assert done["spool", "records"] == 2
    assert done["lake:lists", "memberships"] == 1 and done["home:base", "customers"] == 1
    assert done["home:sample", "pages"] == 3 and done["home:quarantine", "lines"] == 1
    keys = done["store:features+live+log", "keys"]
    assert keys >= 6  # two records, patch, two logs, remembered pages, marks
    assert remains(places, who) == []
    assert places.lake.users_written_at() == NOW - 9.0  # what others changed since still wins over the table
    assert {one for one in others if "work" not in one and "part-" not in one} <= set(remains(places, other))
    assert len(places.lake.served()) == 3 and set(places.lake.events()["subject"].to_pylist()) == {
        f"u:{KEPT}"
    }
    assert all(
        one.many == 0 for one in erase(places, who) if "anew" not in one.what
    )  # again: nothing is left


def test_what_another_machine_s_spool_holds_does_not_come_back(places: Places, valkey_url: str) -> None:
    """Its replica asks the log who was erased since."""
    erase(places, Who((GONE,)))

    async def story() -> None:
        log, spool = RedisLog(valkey_url), FileSpool(places.settings.home / "far", 1 << 20)
        now = time.time()
        spool.put([Entry(f"f{user}", f"u:{user}", b"%s" % user.encode()) for user in (GONE, KEPT)], now - 60)
        spool.put([Entry("later", f"u:{GONE}", b"again")], now + 60)  # who comes back is a customer again
        durable = Durable(log, spool, "stream", SpoolMetrics(CollectorRegistry(), spool, 1, time.time))
        await durable.start(nothing, lambda: True)
        for _ in range(200):
            if not spool.entries:
                break
            await asyncio.sleep(0.01)
        found = {payload for shard in range(log.shards) for _, payload in log.read(shard, "0-0", 1000)}
        assert not spool.entries and {KEPT.encode(), b"again"} <= found and GONE.encode() not in found
        await durable.stop()
        await log.close()

    run(story)


async def nothing(_: object) -> None: ...


def test_erased_events_leave_the_lake_as_if_they_had_never_been(places: Places) -> None:
    """So the next bundle, which is made from the lake alone, is the same."""
    erase(places, Who((GONE,)))
    before = places.lake.events()
    row: dict[str, Any] = {
        "event_id": "z",
        "type": "acted",
        "at": NOW,
        "received_at": NOW,
        "subject": f"u:{GONE}",
    }
    columns = {name: [value] for name, value in (row | {"user_id": GONE}).items()}
    assert places.lake.append_events(pa.table(columns), "again") == 1
    assert len(places.lake.events()) == len(before) + 1
    erase(places, Who((GONE,)))
    assert places.lake.events().equals(before) and before.schema == EVENT_COLUMNS


def test_a_copy_of_what_is_kept(places: Places) -> None:
    document = exported(places, GONE, now=NOW)
    assert len(document["served"]) == 3 and len(document["events"]) == 4 and len(document["outcomes"]) == 3
    assert document["customer_table"] == [{"user_id": GONE, "age": 30}]
    assert {one["what"] for one in document["behaviour"]} >= {"clicked"}
    (age,) = [one for one in document["changes"] if one["field"] == "age"]
    assert age["purpose"] == "permission" and age["value"] == 40 and age["used"]
    assert KEPT not in json.dumps(document, default=str)
    assert [(one["item"], one["score"]) for one in document["scores"]] == [(key64("i1"), 0.5)]
    assert devices_of(places, GONE) == ["d0"]


def test_old_partitions_are_dropped_whole(places: Places) -> None:
    assert dropped(places.lake, NOW)["events"] == (0, 0)  # the day itself stays
    gone = dropped(places.lake, NOW + 2 * 86_400, dry_run=True)
    assert gone["events"][1] == len(places.lake.events()) > 0
    dropped(places.lake, NOW + 2 * 86_400)
    assert len(places.lake.events()) == len(places.lake.served()) == 0
    assert not [one for one in places.lake.fs.find(places.lake.path("served")) if one.endswith(".parquet")]


def test_names_are_met_whole() -> None:
    whose = Whose(("u:u4",))
    assert (
        whose.key(b"fs:k1:profile:{u:u4}")
        and whose.key(b"{u:u4}:recent")
        and whose.key(b"log:{1}:m:s:u:u4:r1")
    )
    assert not whose.key(b"fs:k1:profile:{u:u42}") and not whose.key(b"fs:k1:profile:{v:u4}")
    assert whose.text(b'{"user": "u4"}') and not whose.text(b'{"user": "u42"}') and not whose.text(b"mu4")
    assert whose.payload(b"\xa2u4") and not whose.payload(b"\xa3u42")


def test_plain_words_say_what_was_used() -> None:
    place = {"reason": "near_viewed", "campaign": "c1", "rule": None}
    said = told(place, profiling=True)
    assert "recently viewed" in said["en"] and "promotion" in said["en"] and "switch" in said["en"]
    assert "推广" in said["zh"] and "关闭" in said["zh"]
    off = told({"reason": "popular", "campaign": None, "rule": "mandatory"}, profiling=False)
    assert "nothing about you" in off["en"] and "by rule" in off["en"] and "is switched off" in off["en"]


def test_the_command_line_erases_reports_and_records(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in places.settings.as_env().items():
        monkeypatch.setenv(name, value)
    home = ["--home", str(places.settings.home), "customer"]
    assert fenliu.main([*home, "find", GONE]) == 1 and "lake:" in capsys.readouterr().out
    assert fenliu.main([*home, "export", GONE]) == 0
    copy = json.loads(capsys.readouterr().out)
    assert copy["user_id"] == GONE
    assert [(one["event_id"], one.get("event", {}).get("u")) for one in copy["spool"]] == [
        (f"w{GONE}", GONE),
        (f"x{GONE}", None),  # a record that no version of ours can read is the customer's all the same
    ]
    assert fenliu.main([*home, "erase", GONE, "--devices", "--reason", "request 4711", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["left"] == [] and said["devices"] == 1
    assert {one["place"] for one in said["deleted"]} >= {
        "lake:events",
        "lake:served",
        "home:base",
        "lake:lists",
    }
    assert fenliu.main([*home, "find", GONE]) == 0
    assert fenliu.main([*home, "retain", "--days", "1"]) == 0
    capsys.readouterr()
    assert fenliu.main(["--home", str(places.settings.home), "audit", "show", "--json"]) == 0
    log = capsys.readouterr().out
    assert "customer_erased" in log and "request 4711" in log and f'"{GONE}"' not in log
