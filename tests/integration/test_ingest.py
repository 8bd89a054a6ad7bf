"""From the log to the lake exactly once: killed at every step, with duplicates, garbage and two logs."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.events import SERVED_FIELDS, parse_event, served_id, served_to_log, to_log
from features.ids import key32, key64
from features.log import MARK_TTL_S, Entry, MemoryLog
from features.outcomes import outcome_to_log, parse_outcome
from features.redis_log import RedisLog
from features.token import TokenSigner
from training.ingest import contains, first_of_each, ingest
from training.lake import EVENT_COLUMNS, Lake, LakeConflict

ROOT = Path(__file__).parents[2]
NOW = 1_760_000_000.0  # 2025-10-09T08:53:20Z
DAY = 86_400.0
SIGNER = TokenSigner([("k1", b"s" * 32)])
ITEMS = [key64(f"item{i}") for i in range(3)]
SLOTS = [key32("home.banner"), key32("home.feed")]


def rfc(at: float) -> str:
    return str(np.datetime64(round(at * 1000), "ms")) + "Z"


def token(subject: str, at: float) -> str:
    return SIGNER.sign(
        "d1", subject, at - 60, at + 600, 1, SLOTS, [0, 1, 1], ITEMS, [7, 0, 0], [1, 2, 3], [0, 0, 0]
    )


def displayed(event_id: str, at: float = NOW, subject: str = "u:ann") -> Entry:
    raw = {
        "event_id": event_id,
        "type": "displayed",
        "occurred_at": rfc(at - 5),
        "page_token": token(subject, at),
        "seen": [0, 2],
    }
    return logged(raw, at)


def clicked(event_id: str, at: float = NOW, subject: str = "u:ann") -> Entry:
    raw = {
        "event_id": event_id,
        "type": "clicked",
        "occurred_at": rfc(at - 4),
        "page_token": token(subject, at),
        "index": 1,
    }
    return logged(raw | {"value": {"amount": 2.5, "currency": "CNY"}}, at)


def acted(event_id: str, at: float = NOW, user: str = "ann") -> Entry:
    raw = {
        "event_id": event_id,
        "type": "acted",
        "occurred_at": rfc(at - 3),
        "user_id": user,
        "action": "viewed",
        "item_id": "p1",
    }
    return logged(raw, at)


def logged(raw: dict, at: float) -> Entry:
    event = parse_event(raw, received_at=at, verify=SIGNER.verify)
    return Entry(event.event_id, event.subject, to_log(event))


def served(decision: str, at: float = NOW, subject: str = "u:ann", **fields) -> Entry:
    record = (
        dict.fromkeys(SERVED_FIELDS)
        | {"id": decision, "subject": subject, "at": at, "plan": "p1", "bundle": 4}
        | fields
    )
    return Entry(served_id(subject, decision), subject, served_to_log(record))


def outcome(outcome_id: str, amount: float = 5.0, at: float = NOW) -> Entry:
    raw = {"outcome_id": outcome_id, "user_id": "ann", "kind": "purchase", "item_id": "p1"}
    times = {"occurred_at": rfc(at - 30 * DAY), "recorded_at": rfc(at - 1)}
    parsed = parse_outcome(raw | times | {"value": {"amount": amount}}, received_at=at)
    return Entry(parsed.entry_id, parsed.subject, outcome_to_log(parsed))


def changed(event_id: str = "bad", **fields) -> bytes:
    """A good payload with some fields spoilt."""
    return msgpack.packb(msgpack.unpackb(acted(event_id).payload) | fields)


def garbage() -> list[Entry]:
    nan, inf = float("nan"), float("inf")
    payloads = [
        *(b"", b"\xc1\xff", b"\x93\x01\x02\x03", msgpack.packb({"t": "acted", "id": "bad"})),
        *(changed(t="seen"), changed(id=6), changed(id=None), changed(received_at=inf)),
        *(changed("b1", channel="app"), changed("b2", places=b"torn"), changed("b3", at=nan)),
        *(changed("b4", user_id=7), changed("b5", item_key=-1), changed("b6", amount="much")),
        *(changed(occurred_at=None), changed(occurred_at=NOW - 8 * DAY)),
        msgpack.packb({"t": "outcome", "received_at": NOW, "outcome_id": "o"}),
        msgpack.packb({"t": "served", "id": "d", "at": "noon"}),
    ]
    return [Entry(f"garbage{i}", f"u:{i}", payload) for i, payload in enumerate(payloads)]


def a_day() -> list[Entry]:
    entries = [displayed("e1"), clicked("e2"), acted("e3"), served("d1"), outcome("o1"), outcome("o1", 6.0)]
    for i in range(12):
        at, subject = NOW + (i - 6) * DAY / 6, f"u:{i}"
        entries += [
            displayed(f"x{i}", at, subject),
            clicked(f"y{i}", at, subject),
            served(f"d{i}", at, subject),
        ]
    return entries


def filled(entries, clock=None) -> MemoryLog:
    log = MemoryLog((lambda: clock[0]) if clock else (lambda: NOW))
    asyncio.run(log.append(entries))
    return log


def contents(lake: Lake) -> dict:
    quarantined = [
        json.loads(line)
        for file in lake.manifest().quarantine
        for line in lake.fs.cat_file(lake.path(file["path"])).splitlines()
    ]
    return {
        "events": sorted(map(repr, lake.events().to_pylist())),
        "served": sorted(map(repr, lake.served().to_pylist())),
        "outcomes": sorted(map(repr, lake.outcomes().to_pylist())),
        "quarantine": sorted(line["payload"] for line in quarantined),
    }


def test_rows_are_what_the_events_said(tmp_path):
    log, lake = filled([displayed("e1"), clicked("e2"), acted("e3")]), Lake(tmp_path)
    report = ingest(log, lake, now=NOW)
    assert (report.accepted, report.duplicates, report.quarantined) == (3, 0, 0)
    events = lake.events()
    assert events.schema == EVENT_COLUMNS
    rows = {(row["event_id"], row["slot"]): row for row in events.to_pylist()}
    assert set(rows) == {("e1", SLOTS[0]), ("e1", SLOTS[1]), ("e2", SLOTS[1]), ("e3", None)}
    seen, click, act = rows["e1", SLOTS[1]], rows["e2", SLOTS[1]], rows["e3", None]
    assert (seen["item_key"], seen["position"], seen["creative"], seen["campaign"]) == (ITEMS[2], 1, 3, None)
    assert rows["e1", SLOTS[0]]["campaign"] == 7 and seen["decision_id"] == "d1" and seen["late"] is False
    assert (click["item_key"], click["amount"], click["currency"], click["position"]) == (
        ITEMS[1],
        2.5,
        "CNY",
        0,
    )
    assert (act["item_key"], act["item_id"], act["action"], act["user_id"]) == (
        key64("p1"),
        "p1",
        "viewed",
        "ann",
    )
    assert (act["occurred_at"], act["received_at"], act["at"], act["source"]) == (
        NOW - 3,
        NOW,
        NOW - 3,
        "online",
    )


def test_served_and_outcomes(tmp_path):
    log, lake = filled([served("d1"), outcome("o1"), outcome("o1", 6.0), outcome("o2", 0.0)]), Lake(tmp_path)
    assert ingest(log, lake, now=NOW).accepted == 4
    (row,) = lake.served().to_pylist()
    assert (row["id"], row["subject"], row["at"], row["bundle"], row["plan"]) == (
        "d1",
        "u:ann",
        NOW,
        "4",
        "p1",
    )
    assert msgpack.unpackb(row["record"])["t"] == "served"
    (row,) = lake.outcomes().to_pylist()
    assert (row["outcome_id"], row["amount"], row["item_key"]) == ("o1", 6.0, key64("p1"))


def test_files_are_by_received_date_and_the_log_is_let_go(tmp_path):
    log, lake = filled([acted("e1", NOW), acted("e2", NOW + DAY)]), Lake(tmp_path)
    seen = []
    ingest(log, lake, now=NOW, progress=lambda done, total: seen.append((done, total)))
    assert [Path(file["path"]).parent.name for file in lake.manifest().files["events"]] == [
        "date=2025-10-09",
        "date=2025-10-10",
    ]
    assert log.length() == 0 and seen[-1] == (2, 2)
    again = ingest(log, lake, now=NOW)
    assert (again.accepted, again.files, again.duplicates) == (0, 0, 0)


def test_a_served_page_decided_afresh_is_another_record(tmp_path):
    first, again = served("d1"), served("d1", NOW + 900)
    log, lake = (
        filled([first, first._replace(event_id="retry"), again._replace(event_id="afresh")]),
        Lake(tmp_path),
    )
    assert ingest(log, lake, now=NOW).duplicates == 1
    assert sorted(lake.served()["at"].to_pylist()) == [NOW, NOW + 900]


def test_duplicates_across_days_and_chunks(tmp_path):
    """The log's marks are gone after two days; the lake remembers as long as the door lets an event in."""
    clock, lake = [NOW], Lake(tmp_path)
    log = filled([acted(f"e{i}", NOW) for i in range(20)], clock)
    first = ingest(log, lake, now=NOW, chunk=3)
    for days in (2.5, 6.9):
        clock[0] = NOW + days * DAY
        raw = {"type": "acted", "occurred_at": rfc(NOW - 3), "user_id": "ann", "action": "viewed"}
        raws = [logged(raw | {"event_id": f"e{i}"}, clock[0]) for i in range(20)]
        assert asyncio.run(log.append(raws)) == [True] * 20
        asyncio.run(log.append([acted(f"new{days}", clock[0])]))
        report = ingest(log, lake, now=clock[0], chunk=3)
        assert (report.accepted, report.duplicates) == (1, 20)
    assert first.accepted == 20 and lake.events().num_rows == 22
    assert max(map(len, lake.manifest().ids.values())) <= 9  # small files of identities are merged


def test_duplicates_within_one_chunk_and_across_shards(tmp_path):
    log = filled([acted("e1"), acted("e1", NOW, "bob"), acted("e1", NOW, "eve"), acted("e1", NOW, "dan")])
    before, lake = log.length(), Lake(tmp_path)
    report = ingest(log, lake, now=NOW)
    assert before > 1 and (report.accepted, report.duplicates) == (1, before - 1)
    assert lake.events().num_rows == 1


def test_what_cannot_be_taken_is_set_aside_with_its_reason(tmp_path):
    bad, good = garbage(), a_day()
    log, lake = filled([*bad, *good]), Lake(tmp_path)
    report = ingest(log, lake, now=NOW)
    assert (report.accepted, report.quarantined) == (len(good), len(bad))
    (file,) = lake.manifest().quarantine
    lines = [json.loads(line) for line in (tmp_path / file["path"]).read_text().splitlines()]
    assert sorted(base64.b64decode(line["payload"]) for line in lines) == sorted(
        entry.payload for entry in bad
    )
    assert all(line["reason"] and line["offset"] and 0 <= line["shard"] < 8 for line in lines)
    assert sum("too_late" in line["reason"] for line in lines) == 2  # a NULL time is no young one either
    assert log.length() == 0


def test_a_spoilt_entry_does_not_hide_a_sound_one_of_its_id(tmp_path):
    spoilt = Entry("first", "u:ann", changed("e1", channel="app"))
    log, lake = filled([spoilt, acted("e1"), acted("e2")]), Lake(tmp_path)
    report = ingest(log, lake, now=NOW)
    assert (report.accepted, report.duplicates, report.quarantined) == (2, 0, 1)
    assert sorted(lake.events()["event_id"].to_pylist()) == ["e1", "e2"]


def test_ingest_beside_imports(tmp_path):
    lake = Lake(tmp_path)
    imported = Lake(tmp_path / "other")
    ingest(filled([acted("e1")]), imported, now=NOW)
    assert lake.append_events(imported.events(), "import") == 1
    ingest(filled([acted("e2")]), lake, now=NOW)
    assert lake.append_events(imported.events(), "import") == 0
    assert lake.events()["event_id"].to_pylist() == ["e1", "e2"]


def test_another_log_starts_from_its_own_start(tmp_path):
    """A store that was wiped counts its offsets anew; those of the old one must not skip what it holds."""
    lake = Lake(tmp_path)
    ingest(filled([acted(f"e{i}") for i in range(9)]), lake, now=NOW)
    report = ingest(filled([acted("e1"), acted("other")]), lake, now=NOW)
    assert (report.accepted, report.duplicates) == (1, 1)


def test_two_ingests_at_once_refuse(tmp_path):
    lake = Lake(tmp_path)
    with lake.writing(), pytest.raises(LakeConflict):
        ingest(filled([acted("e1")]), lake, now=NOW)


class Killed(BaseException):
    """The process died here."""


class Bomb:
    """Goes off at the n-th step, for good: nothing runs behind it."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


class FragileLake(Lake):
    """Dies before a file is there, with half of it written, and after it."""

    bomb: Bomb

    def put(self, path: str, blob: bytes) -> None:
        self.bomb.step()
        try:
            self.bomb.step()
        except Killed:
            torn = Path(self.path(path) + ".tmp")
            torn.parent.mkdir(parents=True, exist_ok=True)
            torn.write_bytes(blob[: len(blob) // 2])
            raise
        super().put(path, blob)
        self.bomb.step()


class FragileLog:
    def __init__(self, log: MemoryLog, bomb: Bomb) -> None:
        self._log, self._bomb = log, bomb

    def __getattr__(self, name: str):
        return getattr(self._log, name)

    def commit(self, offsets) -> None:
        self._bomb.step()
        self._log.commit(offsets)
        self._bomb.step()

    def trim(self, shard: int, upto: str) -> int:
        self._bomb.step()
        gone = self._log.trim(shard, upto)
        self._bomb.step()
        return gone


@pytest.mark.parametrize("chunk", [30, 10_000])
def test_killed_at_every_step_nothing_is_lost_and_nothing_doubled(tmp_path, chunk, monkeypatch):
    monkeypatch.setattr("training.lake.os.fsync", lambda handle: None)  # a process dies here, not the machine
    entries = [*a_day(), *garbage()]
    whole = Lake(tmp_path / "whole")
    ingest(filled(entries), whole, now=NOW)
    expected, at = contents(whole), 0
    while True:
        log, lake, bomb = filled(entries), FragileLake(tmp_path / f"lake{at}"), Bomb(at)
        lake.bomb = bomb
        try:
            ingest(FragileLog(log, bomb), lake, now=NOW, chunk=chunk)
        except Killed:
            asyncio.run(log.append([acted("meanwhile")]))
            ingest(log, again := Lake(lake.url), now=NOW, chunk=chunk)
        else:
            break
        assert not any("meanwhile" in row for row in expected["events"])
        found = contents(again)
        found["events"] = [row for row in found["events"] if "meanwhile" not in row]
        assert found == expected, f"killed at step {at}"
        assert again.events().num_rows == len(expected["events"]) + 1 and log.length() == 0
        left = {str(path.relative_to(again.root)) for path in Path(again.root).rglob("*") if path.is_file()}
        assert left == again.manifest().paths() | {"manifest.json", "manifest.lock"}
        at += 1
    assert at > 40


def test_marks_and_offsets_do_not_hide_a_repeated_append(tmp_path):
    """A service whose append was cut off sends the same again after the marks ran out."""
    clock = [NOW]
    log, lake = filled(a_day(), clock), Lake(tmp_path)
    ingest(log, lake, now=NOW)
    before = contents(lake)
    clock[0] += MARK_TTL_S + 1
    asyncio.run(log.append(a_day()))
    report = ingest(log, lake, now=NOW)
    assert report.accepted == 0 and report.duplicates == len(a_day())
    assert contents(lake) == before


@pytest.mark.integration
def test_a_real_kill_at_every_write(tmp_path, valkey_url):
    entries = [*a_day(), *garbage()]
    whole = Lake(tmp_path / "whole")
    ingest(filled(entries), whole, now=NOW)

    async def fill() -> None:
        log = RedisLog(valkey_url)
        assert all(await log.append(entries))
        await log.close()

    asyncio.run(fill())
    script = (
        "import os, signal, sys\n"
        "from features.redis_log import RedisLog\n"
        "from training.ingest import ingest\n"
        "from training.lake import Lake\n"
        "left = int(sys.argv[3])\n"
        "class Dying(Lake):\n"
        "    def put(self, path, blob):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left == 0:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super().put(path, blob)\n"
        "with RedisLog(sys.argv[1]) as log:\n"
        f"    ingest(log, Dying(sys.argv[2]), now={NOW}, chunk=20)\n"
    )
    target, killed = tmp_path / "lake", 0
    for at in (1, 2, 5, 9, 14, 20, 10_000):
        done = subprocess.run(
            [sys.executable, "-c", script, valkey_url, str(target), str(at)], cwd=ROOT, check=False
        )
        assert done.returncode in (0, -signal.SIGKILL)
        killed += done.returncode != 0
    assert killed >= 3 and done.returncode == 0
    assert contents(Lake(target)) == contents(whole)
    with RedisLog(valkey_url) as log:
        assert log.length() == 0


IDENTITY = st.tuples(st.integers(0, 2), st.integers(0, 2))


@given(st.lists(IDENTITY, max_size=30), st.lists(IDENTITY, max_size=30))
def test_membership_agrees_with_sets_even_where_first_halves_meet(known, ids):
    held = np.array(sorted(set(known)), np.uint64).reshape(-1, 2)
    asked = np.array(ids, np.uint64).reshape(-1, 2)
    assert contains(held, asked).tolist() == [one in set(known) for one in ids]
    assert first_of_each(asked).tolist() == [one not in ids[:i] for i, one in enumerate(ids)]
