"""An import happens once, also of a file that has grown; a killed one is done again whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.event_files import EVENTS, NOW, START, write
from training.adapters import Options, load
from training.lake import Lake
from training.source import import_source


def test_an_import_happens_once(tmp_path: Path) -> None:
    path, lake = write(tmp_path, "e.csv", EVENTS), Lake(tmp_path / "lake")
    first = import_source(load(path, now=NOW), lake)
    again = import_source(load(path, now=NOW + 60), lake)
    assert (first.events, first.repeated, first.already) == (24, 0, False)
    assert (again.events, again.repeated, again.already) == (0, 24, True)
    assert lake.events().num_rows == 24


def test_a_grown_file_adds_only_its_new_rows(tmp_path: Path) -> None:
    path, lake = write(tmp_path, "e.csv", EVENTS), Lake(tmp_path / "lake")
    import_source(load(path, now=NOW), lake)
    path.write_text(EVENTS + f"u9,i9,clicked,{START + 99}\n")
    report = import_source(load(path, now=NOW + 60), lake)
    assert (report.events, report.repeated) == (1, 24)
    assert lake.events().num_rows == 25
    assert [item["id"] for item in lake.read_items()] == ["i0", "i1", "i2", "i9"]


def test_a_grown_file_of_another_name_adds_only_its_new_rows(tmp_path: Path) -> None:
    """Daily exports carry their date in their name: the day before must not count twice."""
    lake = Lake(tmp_path / "lake")
    head = "user_id,item_id,type,timestamp\n"
    rows = [f"u{n % 5},i{n % 3},clicked,{1_750_000_000 + n}\n" for n in range(30)]
    first = load(write(tmp_path, "events-1.csv", head + "".join(rows)), now=NOW)
    grown = "".join([*rows, "u1,i1,clicked,1750009999\n"])
    second = load(write(tmp_path, "events-2.csv", head + grown), now=NOW)
    assert import_source(first, lake).events == 30
    again = import_source(second, lake)
    assert (again.events, again.repeated, again.already) == (1, 30, False)


def test_rows_without_a_time_are_others_in_another_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    text = "user_id,item_id\n" + "".join(f"u{n % 5},i{n % 3}\n" for n in range(15))
    for name, added in (("june", 15), ("july", 15), ("june", 0)):
        assert import_source(load(write(tmp_path, f"{name}.csv", text), now=NOW), lake).events == added


def test_customers_without_any_known_column_are_told(tmp_path: Path) -> None:
    write(tmp_path, "events.csv", "user_id,item_id,type\na,x,clicked\nb,y,clicked\n")
    write(tmp_path, "users.csv", "user_id,shoe\na,41\nb,42\n")
    notes = " ".join(load(tmp_path, now=NOW).notes)
    assert "users.csv: no column is a field of the profile (age, gender" in notes


def test_a_killed_import_is_done_again_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, lake = load(write(tmp_path, "e.csv", EVENTS), now=NOW), Lake(tmp_path / "lake")

    def dies(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lake, "append_events", dies)
        with pytest.raises(KeyboardInterrupt):
            import_source(source, lake)
    assert import_source(source, lake).events == 24
    assert len(lake.read_items()) == 3


def test_the_quarantine_is_written_beside_the_import(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", EVENTS + f"u1,,clicked,{START}\n")
    report = import_source(load(path, now=NOW), Lake(tmp_path / "lake"), quarantine_folder=tmp_path / "bad")
    assert report.quarantined == {"no item id": 1}
    assert report.quarantine_file is not None
    assert report.quarantine_file.read_text(encoding="utf-8").splitlines() == [
        "file,line,column,value,reason",
        f"{path},26,item_id,,no item id",
    ]


def test_the_digest_changes_with_bytes_and_options(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", EVENTS)
    digests = {
        load(path, now=NOW).digest,
        load(path, now=NOW + 5).digest,
        load(path, now=NOW, options=Options(kind="product")).digest,
    }
    path.write_text(EVENTS.replace("u3", "u4"))
    digests.add(load(path, now=NOW).digest)
    assert len(digests) == 3


def test_equal_rows_without_a_time_stay_several_with_ids_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "user,item\na,1\nb,2\na,1\na,1\n")
    source = load(path, now=NOW)
    assert len(set(source.events["event_id"].to_pylist())) == 4
    assert any("2 rows repeat" in note for note in source.notes)


def test_event_ids_do_not_collide(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    body = "".join(f"{u},{i}\n" for u, i in rng.integers(0, 300, (50_000, 2)).tolist())
    source = load(write(tmp_path, "e.csv", "user,item\n" + body), now=NOW)
    assert len(set(source.events["event_id"].to_pylist())) == 50_000
