"""The audit log: one order for all writers, and nothing in it changes unseen."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import fsspec
import pytest

from serving.audit import HEAD, NOTHING, Audit, AuditError, Entry, Head, Moved, canonical, digest, parse_head
from tests.governed import Ticking


def written(path: Path, count: int = 5, block: int = 500) -> Audit:
    audit = Audit(str(path), Ticking(), block)
    for number in range(count):
        audit.write(Entry("alice", "noted", f"thing:{number}", "because", {"number": number, "字": "中"}))
    return audit


def files(path: Path) -> list[Path]:
    return sorted((path / "governance" / "audit").rglob("*.json"))


def test_records_are_chained_and_come_back(tmp_path):
    audit = written(tmp_path)
    again = Audit(str(tmp_path), Ticking())
    assert again.refresh() == audit.records and again.verify().ok
    assert [one.seq for one in again.records] == [1, 2, 3, 4, 5]
    assert again.records[0].prev == NOTHING
    assert all(b.prev == a.hash for a, b in zip(again.records, again.records[1:], strict=False))
    assert [one.at for one in again.records] == sorted(one.at for one in again.records)


def test_anybody_can_check_a_hash_without_us(tmp_path):
    import hashlib

    written(tmp_path, 1)
    body = json.loads(files(tmp_path)[0].read_text())
    claimed = body.pop("hash")
    line = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    assert hashlib.sha256(line).hexdigest() == claimed


def test_of_two_writers_one_looks_again(tmp_path):
    one, other = written(tmp_path, 1), Audit(str(tmp_path), Ticking())
    other.refresh()
    one.append(Entry("alice", "noted"), one.head)
    with pytest.raises(Moved):
        other.append(Entry("bob", "noted"), other.head)
    other.write(Entry("bob", "noted"))
    assert [record.principal for record in other.records] == ["alice", "alice", "bob"]


@pytest.mark.parametrize("url", ["folder", "memory"])
def test_many_writers_leave_one_chain(tmp_path, url):
    where = str(tmp_path) if url == "folder" else "memory://audit-race"
    logs = [Audit(where, Ticking(), block=7) for _ in range(4)]
    each = 10 if url == "folder" else 3

    def write(number: int) -> None:
        for _ in range(each):
            logs[number].write(Entry(f"p{number}", "noted"))

    if url == "memory":  # fsspec's memory has no create that two threads could race for
        for number in range(4):
            write(number)
    else:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    found = Audit(where, Ticking(), block=7).verify()
    assert found.ok and found.records == 4 * each
    reader = Audit(where, Ticking(), block=7)
    reader.refresh()
    assert sorted({record.principal for record in reader.records}) == ["p0", "p1", "p2", "p3"]
    if url == "memory":
        fsspec.filesystem("memory").rm("/audit-race", recursive=True)


def test_a_record_taken_out_is_found(tmp_path):
    written(tmp_path)
    files(tmp_path)[2].unlink()
    found = Audit(str(tmp_path)).verify()
    assert (found.ok, found.broken) == (False, 3) and "missing" in found.problem


def test_two_records_swapped_are_found(tmp_path):
    written(tmp_path)
    second, third = files(tmp_path)[1:3]
    a, b = second.read_bytes(), third.read_bytes()
    second.write_bytes(b)
    third.write_bytes(a)
    assert Audit(str(tmp_path)).verify().broken == 2


def test_a_record_put_in_is_found(tmp_path):
    audit = written(tmp_path)
    _, last = files(tmp_path)[-2:]
    forged = json.loads(last.read_text()) | {"seq": 6, "prev": audit.head.hash, "principal": "mallory"}
    forged["hash"] = digest({name: value for name, value in forged.items() if name != "hash"})
    last.with_name("0000000006.json").write_bytes(canonical(forged) + b"\n")
    # By itself it is a whole chain; the head that was kept elsewhere, and the one who writes next, differ.
    with pytest.raises(Moved):
        audit.append(Entry("alice", "noted"), audit.head)
    other = written(tmp_path / "copy", 6)
    assert Audit(str(tmp_path)).verify(other.head).broken == 6


def test_a_tail_cut_off_is_found_and_nothing_is_written_over_it(tmp_path):
    audit = written(tmp_path)
    for path in files(tmp_path)[-2:]:
        path.unlink()
    fresh = Audit(str(tmp_path), Ticking())
    found = fresh.verify()
    assert not found.ok and found.broken == 4 and "cut" in found.problem
    with pytest.raises(AuditError, match="tail was cut"):
        fresh.write(Entry("mallory", "noted"))
    (tmp_path / "governance" / "HEAD.json").unlink()  # so that nothing beside the log remembers
    assert not Audit(str(tmp_path)).verify().ok
    assert not Audit(str(tmp_path)).verify(audit.head).ok
    with pytest.raises(AuditError, match="missing"):
        Audit(str(tmp_path)).refresh()


def test_a_log_rewritten_whole_is_found_by_a_head_kept_elsewhere(tmp_path):
    head = written(tmp_path / "a", 3).head
    forged = Audit(str(tmp_path / "b"), Ticking())
    for number in range(3):
        forged.write(Entry("mallory", "noted", f"thing:{number}"))
    assert forged.verify().ok
    assert forged.verify(head).broken == 3


def test_a_writer_that_dies_before_the_head_is_made_good(tmp_path):
    audit = written(tmp_path, 3)
    head = tmp_path / "governance" / "HEAD.json"
    head.write_bytes(canonical({"seq": 2, "hash": audit.records[1].hash}) + b"\n")
    fresh = Audit(str(tmp_path), Ticking())
    assert fresh.verify().ok
    fresh.write(Entry("bob", "noted"))
    assert json.loads(head.read_text())["seq"] == 4


def test_full_blocks_are_joined_and_must_agree(tmp_path):
    audit = written(tmp_path, 7, block=3)
    joined = sorted((tmp_path / "governance" / "audit").glob("*.jsonl"))
    assert [path.name for path in joined] == ["000000.jsonl", "000001.jsonl"]
    reader = Audit(str(tmp_path), Ticking(), block=3)
    reader.refresh()
    assert reader.records == audit.records
    joined[0].write_bytes(joined[0].read_bytes().replace(b"alice", b"aliCe"))
    assert Audit(str(tmp_path), block=3).verify().broken == 1
    with pytest.raises(AuditError):
        Audit(str(tmp_path), block=3).refresh()
    joined[0].unlink()
    assert Audit(str(tmp_path), block=3).verify().ok


def test_the_clock_going_back_does_not_turn_the_order(tmp_path):
    clock = Ticking()
    audit = Audit(str(tmp_path), clock)
    audit.write(Entry("alice", "noted"))
    clock.now -= 3600
    audit.write(Entry("alice", "noted"))
    assert audit.records[0].at == audit.records[1].at


def test_reasons_are_one_line_of_bounded_length(tmp_path):
    audit = Audit(str(tmp_path), Ticking())
    record = audit.write(Entry("alice", "noted", reason="a\nb\t" + "x" * 1000))
    assert record.reason.startswith("a b x") and len(record.reason) == 500


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_is_not_json_is_not_recorded(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        Audit(str(tmp_path), Ticking()).write(Entry("alice", "noted", detail={"x": value}))


def test_heads_are_written_and_read():
    head = Head(3, "a" * 64)
    assert parse_head(head.text) == head
    for bad in ("", "3", "3:x", f"x:{'a' * 64}"):
        with pytest.raises(AuditError, match="SEQ:HASH"):
            parse_head(bad)


def test_a_head_that_the_first_writers_have_not_kept_yet_is_waited_for(tmp_path):
    one, other = Audit(str(tmp_path), Ticking()), Audit(str(tmp_path), Ticking())
    one.write(Entry("p", "noted"))
    one.write(Entry("p", "noted"))
    head = tmp_path / "governance" / HEAD
    kept = head.read_bytes()
    head.unlink()
    later = threading.Timer(0.1, head.write_bytes, (kept,))
    later.start()
    assert len(other.refresh()) == 2
    later.join()
