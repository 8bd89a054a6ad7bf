"""The spool's contract, which both implementations inherit; and what only files have to survive."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.file_spool import DAMAGED, FileSpool
from features.log import Entry
from features.spool import MemorySpool, Spool, SpoolFull
from features.spool_look import erased, inspected
from features.spool_records import HEADER, Found, Gap, name_parts, packed, scanned

Make = Callable[..., Spool]
SALT = b"12345678"


def entry(number: int, subject: str = "u:ann", size: int = 20) -> Entry:
    return Entry(f"e{number}", subject, bytes([number % 256]) * size)


def drained(spool: Spool, count: int = 3) -> list[Entry]:
    found: list[Entry] = []
    while page := spool.head(count):
        found += [one.entry for one in page if one.entry is not None]
        spool.drop(len(page))
    return found


class SpoolContract:
    """Fixture: `make(most)` opens an empty one that holds about `most` entries of 20 bytes."""

    def test_what_is_put_comes_out_once_in_order(self, make: Make) -> None:
        spool = make(100)
        entries = [entry(n, f"u:{n % 3}") for n in range(10)]
        assert spool.put(entries[:6], 1.0) == [True] * 6 and spool.put(entries[6:], 2.0) == [True] * 4
        spool.syncing()()
        assert spool.entries == 10 and spool.size > 0 and spool.oldest == 1.0
        assert spool.holds("u:0") and not spool.holds("u:9")
        assert spool.head(4) == spool.head(4) and [one.entry for one in spool.head(4)] == entries[:4]
        assert drained(spool) == entries
        assert spool.entries == spool.size == 0 and spool.oldest is None and not spool.holds("u:0")
        assert spool.head(5) == [] and spool.put([], 3.0) == []
        spool.close()

    def test_an_id_waits_once(self, make: Make) -> None:
        spool = make(100)
        assert spool.put([entry(1), entry(2), entry(1)], 1.0) == [True, True, False]
        assert spool.put([entry(2), entry(3)], 1.0) == [False, True]
        assert [one.event_id for one in drained(spool)] == ["e1", "e2", "e3"]
        assert spool.put([entry(1)], 2.0) == [True]  # what waits no more is for the log to know
        spool.close()

    def test_a_full_one_refuses_all_and_keeps_what_it_has(self, make: Make) -> None:
        spool = make(3)
        spool.put([entry(1), entry(2)], 1.0)
        with pytest.raises(SpoolFull):
            spool.put([entry(n) for n in range(3, 30)], 1.0)
        assert spool.entries == 2 and spool.put([entry(3)], 1.0) == [True]
        assert [one.event_id for one in drained(spool)] == ["e1", "e2", "e3"]
        assert spool.put([entry(4)], 1.0) == [True]
        spool.close()

    def test_what_is_put_while_it_drains_comes_behind(self, make: Make) -> None:
        spool = make(100)
        spool.put([entry(n) for n in range(4)], 1.0)
        page = spool.head(3)
        spool.put([entry(4)], 2.0)
        spool.drop(len(page))
        assert spool.holds("u:ann") and [one.event_id for one in drained(spool)] == ["e3", "e4"]
        spool.close()


class TestMemorySpool(SpoolContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda most: MemorySpool(most)


class TestFileSpool(SpoolContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return lambda most, segment=200: FileSpool(tmp_path / "s", 64 + 60 * most, segment=segment)

    def test_a_killed_process_is_drained_by_the_next_before_what_is_new(
        self, make: Make, tmp_path: Path
    ) -> None:
        dead = make(100)
        dead.put([entry(n) for n in range(10)], 5.0)
        left = dead.head(3)
        dead.drop(len(left))
        living = make(100)
        living.put([entry(50, "u:bob")], 9.0)
        assert living.adopt(living.orphans()) == 0  # its process lives, as far as its lock says
        dead.close()
        count = living.adopt(living.orphans())
        assert 7 <= count <= 10 and living.adopted and living.holds("u:ann") and living.oldest == 5.0
        names = [one.event_id for one in drained(living)]
        assert names == [f"e{n}" for n in range(10 - count, 10)] + ["e50"]
        assert not living.adopted and living.size == 0
        living.close()
        assert [path for path in (tmp_path / "s").rglob("*") if path.is_file()] == []

    def test_nothing_is_left_of_one_that_was_drained(self, make: Make, tmp_path: Path) -> None:
        spool = make(100)
        spool.put([entry(1)], 1.0)
        assert [path.stat().st_mode & 0o077 for path in (tmp_path / "s").rglob("*.seg")] == [0]
        drained(spool)
        spool.close()
        assert list((tmp_path / "s").iterdir()) == []

    def test_a_torn_tail_is_left_out_and_damage_is_set_aside(self, make: Make, tmp_path: Path) -> None:
        dead = make(100, segment=10_000)
        dead.put([entry(n) for n in range(5)], 1.0)
        dead.close()
        (path,) = (tmp_path / "s").rglob("*.seg")
        raw = bytearray(path.read_bytes())
        third = list(scanned(bytes(raw), name_parts(path)[1]))[2]  # type: ignore[index]
        raw[third.end - 1] ^= 1
        path.write_bytes(bytes(raw[:-3]))
        (seen,) = inspected(tmp_path / "s")
        assert not seen.held and len(seen.records) == 3 and seen.damaged == third.end - third.start
        assert seen.torn == third.end - third.start - 3
        spool = make(100)
        spool.adopt(spool.orphans())
        assert spool.head(9) == spool.head(9)  # as while the log is away: damage is counted once
        assert [one.event_id for one in drained(spool)] == ["e0", "e1", "e3"]
        assert spool.damaged == seen.damaged and spool.entries == 0
        assert (tmp_path / "s" / DAMAGED / path.name).exists()
        spool.close()

    def test_a_disk_that_takes_no_more(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        spool = make(100, segment=10_000)
        spool.put([entry(1)], 1.0)
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, raw: write(file, raw[:7]) if len(raw) > 30 else _full())
        with pytest.raises(SpoolFull, match="No space"):
            spool.put([entry(2)], 1.0)
        monkeypatch.undo()
        assert spool.put([entry(3)], 1.0) == [True]
        assert [one.event_id for one in drained(spool)] == ["e1", "e3"] and spool.damaged == 0
        spool.close()

    def test_a_disk_that_does_not_sync_acknowledges_nothing(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spool = make(100)
        spool.put([entry(1)], 1.0)
        monkeypatch.setattr(os, "fsync", lambda _: _full())
        with pytest.raises(SpoolFull, match="synced"):
            spool.syncing()()
        spool.close()

    def test_a_customer_is_erased_where_it_stands(self, make: Make, tmp_path: Path) -> None:
        spool = make(100)
        spool.put([entry(n, ("u:gone", "u:kept")[n % 2]) for n in range(8)], 1.0)
        assert erased(tmp_path / "s", lambda one: one.subject == "u:gone", lambda _: False) == 4
        assert b"u:gone" not in b"".join(path.read_bytes() for path in (tmp_path / "s").rglob("*.seg"))
        assert [one.event_id for one in drained(spool, 2)] == ["e1", "e3", "e5", "e7"]
        assert spool.entries == 0 and not spool.holds("u:gone")
        spool.close()


def _full() -> int:
    raise OSError(28, "No space left on device")


# --- the records


ENTRIES = st.lists(
    st.builds(
        Entry, st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8), st.binary(max_size=40)
    ),
    min_size=1,
    max_size=8,
)


@given(ENTRIES, st.data())
@settings(max_examples=60, deadline=None)
def test_damage_costs_the_records_that_it_meets_and_no_other(
    entries: list[Entry], data: st.DataObject
) -> None:
    """Whatever is cut off or flipped: what comes out was put in, in order, and each untouched record does."""
    parts = [packed(SALT, float(n), one) for n, one in enumerate(entries)]
    whole = HEADER + b"".join(parts)
    raw = bytearray(whole[: data.draw(st.integers(len(HEADER), len(whole)))])
    places = st.lists(st.integers(len(HEADER), len(whole) - 1), max_size=4)
    for at in data.draw(places):
        if at < len(raw):
            raw[at] ^= data.draw(st.integers(1, 255))
    found = list(scanned(bytes(raw), SALT))
    assert [one.start for one in found[1:]] == [one.end for one in found[:-1]]
    records = [one.record for one in found if isinstance(one, Found)]
    start, untouched = len(HEADER), []
    for n, part in enumerate(parts):
        if bytes(raw[start : start + len(part)]) == part:
            untouched.append((float(n), entries[n]))
        start += len(part)
    assert [tuple(one) for one in records] == untouched
    assert all(not one.torn for one in found[:-1] if isinstance(one, Gap))


def test_a_client_cannot_forge_a_record_inside_damage() -> None:
    inner = packed(b"87654321", 1.0, entry(66))  # by another salt: the client does not know ours
    raw = bytearray(HEADER + packed(SALT, 1.0, Entry("e1", "u:ann", inner)) + packed(SALT, 1.0, entry(2)))
    raw[len(HEADER) + 1] ^= 1
    found = list(scanned(bytes(raw), SALT))
    assert [type(one) for one in found] == [Gap, Found]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 4)),
        st.tuples(st.just("drain"), st.integers(1, 5)),
        st.tuples(st.just("killed"), st.booleans()),
    ),
    max_size=14,
)


@given(OPERATIONS)
@settings(max_examples=40, deadline=None)
def test_whatever_happens_each_subject_s_order_holds_and_nothing_is_lost(
    operations: list[tuple[str, int]],
) -> None:
    """Puts, drains and kills (with a torn record, or without) against a list. A kill replays at most what its
    segment had drained: those come again, in order, before anything new.
    """
    with tempfile.TemporaryDirectory() as folder:
        spool, number, waiting, seen = FileSpool(folder, 1 << 20, segment=150), 0, list[str](), list[str]()
        for what, size in operations:
            if what == "put":
                new = [entry(number + n, f"u:{(number + n) % 2}", 9) for n in range(size)]
                number += size
                spool.put(new, 1.0)
                waiting += [one.event_id for one in new]
            elif what == "drain":
                page = [one.entry.event_id for one in spool.head(size) if one.entry is not None]
                spool.drop(len(page))
                assert page == waiting[: len(page)]
                waiting, seen = waiting[len(page) :], seen + page
            else:
                spool.close()
                if size and (left := sorted(Path(folder).rglob("*.seg"))):
                    with left[-1].open("ab") as file:
                        file.write(b"\xf5FLs\x07")
                spool = FileSpool(folder, 1 << 20, segment=150)
                spool.adopt(spool.orphans())
                again = spool.entries - len(waiting)
                assert 0 <= again <= len(seen)
                waiting = seen[len(seen) - again :] + waiting
            assert spool.entries == len(waiting) and bool(spool.size) == bool(waiting)
            assert all(spool.holds(f"u:{int(one[1:]) % 2}") for one in waiting)
        assert [one.event_id for one in drained(spool)] == waiting and spool.damaged == 0
        spool.close()
