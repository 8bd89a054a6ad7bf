"""The lake: what was appended is read back, once, and only what the manifest names counts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from training.lake import EVENT_COLUMNS, Lake, LakeConflict, LakeError
from training.tables import DAY_S, OUTCOME_COLUMNS

START = 1_760_054_400.0  # 2025-10-10T00:00:00Z


def table(times, **columns) -> pa.Table:
    n = len(times)
    said = {
        "event_id": [f"e{i}" for i in range(n)],
        "type": ["clicked"] * n,
        "received_at": list(map(float, times)),
        "at": [float(time) - 1 for time in times],
        "subject": [f"u:{i}" for i in range(n)],
    } | columns
    return pa.table({name: values for name, values in said.items() if values is not None})


@pytest.fixture(params=["folder", "memory"])
def lake(request, tmp_path) -> Lake:
    return Lake(tmp_path / "lake" if request.param == "folder" else f"memory://{tmp_path.name}")


def names(lake: Lake) -> list[str]:
    return [file["path"].rpartition("/")[0] for file in lake.manifest().files["events"]]


def test_an_empty_lake(lake):
    assert lake.events().num_rows == 0 and lake.events().schema == EVENT_COLUMNS
    assert lake.outcomes().num_rows == 0 and lake.served().num_rows == 0 and lake.read_users() is None
    with pytest.raises(LakeError, match="import"):
        lake.read_items()


def test_events_are_filed_by_the_date_they_were_received(lake):
    times = [START + DAY_S + 5, START - 1, START, START + DAY_S - 1]
    assert lake.append_events(table(times), "b1") == 4
    assert names(lake) == ["events/date=2025-10-09", "events/date=2025-10-10", "events/date=2025-10-11"]
    events = lake.events()
    assert events.schema == EVENT_COLUMNS
    assert events["event_id"].to_pylist() == ["e1", "e2", "e3", "e0"]
    row = events.slice(0, 1).to_pylist()[0]
    assert row["occurred_at"] == row["at"] == START - 2 and row["received_at"] == START - 1
    assert (row["late"], row["channel"], row["slot"], row["weight"]) == (False, 0, None, None)


def test_a_batch_counts_once(lake):
    assert [lake.append_events(table([START]), "b1") for _ in range(3)] == [1, 0, 0]
    assert lake.append_events(table([START]), "b2") == 1
    assert lake.events().num_rows == 2


def test_long_histories_are_filed_by_month(lake):
    lake.append_events(table([START + day * DAY_S for day in range(100)]), "b1")
    assert names(lake) == [f"events/month={month}" for month in ("2025-10", "2025-11", "2025-12", "2026-01")]
    assert lake.events().num_rows == 100


def test_a_window_reads_only_the_files_it_needs(lake):
    lake.append_events(table([START + day * DAY_S + 10 for day in range(4)]), "b1")
    first = lake.manifest().files["events"][0]["path"]
    lake.fs.rm_file(lake.path(first))
    found = lake.events(START + DAY_S, START + 3 * DAY_S, ["event_id", "type"])
    assert found.column_names == ["event_id", "type"] and found["event_id"].to_pylist() == ["e1", "e2"]
    with pytest.raises(LakeError, match="lost"):
        lake.events()


def test_the_window_is_of_the_event_not_of_the_file(lake):
    lake.append_events(table([START + 10, START + 20, START + 30]), "b1")
    assert lake.events(START + 19, START + 29)["event_id"].to_pylist() == ["e1"]
    assert lake.events(until=START + 19)["event_id"].to_pylist() == ["e0"]


def test_sources_can_be_chosen(lake):
    lake.append_events(table([START, START + 1], source=["a", None]), "b1")
    assert lake.events(sources=["a"])["event_id"].to_pylist() == ["e0"]


def test_values_keep_their_type_and_nulls(lake):
    rows = table(
        [START, START],
        item_key=pa.array([2**64 - 1, None], pa.uint64()),
        item_id=["中文", None],
        type=pa.array(["displayed", "acted"]).dictionary_encode(),
        position=[3, None],
        weight=[0.5, None],
        late=[True, False],
    )
    lake.append_events(rows, "b1")
    found = lake.events(columns=["item_key", "item_id", "type", "position", "weight", "late"]).to_pylist()
    assert list(found[0].values()) == [2**64 - 1, "中文", "displayed", 3, 0.5, True]
    assert list(found[1].values()) == [None, None, "acted", None, None, False]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (table([START], surprise=[1]), "surprise"),
        (table([START], subject=None), "subject"),
        (table([START], subject=[None]), "1 of 1 rows have no subject"),
        (table([START], type=["seen"]), "seen"),
        (table([float("nan")]), "received_at"),
        (table([START], at=[float("inf")]), "at is not"),
        (table([START], channel=[700]), "channel"),
        (table([START], at=["noon"]), "at"),
        (table([START], item_key=[["x"]]), "item_key"),
    ],
)
def test_a_table_that_does_not_fit_changes_nothing(lake, rows, said):
    with pytest.raises(LakeError, match=said):
        lake.append_events(rows, "b1")
    assert lake.manifest().version == 0 and lake.events().num_rows == 0


def test_columns_must_exist(lake):
    with pytest.raises(LakeError, match="no column"):
        lake.events(columns=["surprise"])


def test_what_no_manifest_names_is_ignored_and_swept(tmp_path):
    lake = Lake(tmp_path)
    lake.append_events(table([START]), "b1")
    orphan = tmp_path / "events" / "date=2025-10-10" / "part-orphan.parquet"
    torn = tmp_path / "ids" / "date=2025-10-10" / "x.npy.tmp"
    torn.parent.mkdir(parents=True)
    for path in (orphan, torn):
        path.write_bytes(b"torn")
    assert lake.events().num_rows == 1
    assert lake.sweep(now=START) == 2 and not orphan.exists() and not torn.exists()
    assert lake.events().num_rows == 1 and lake.sweep(now=START) == 0


def test_elsewhere_a_young_orphan_may_belong_to_somebody(tmp_path):
    lake = Lake(f"memory://{tmp_path.name}")
    lake.put("events/date=2025-10-10/part-x.parquet", b"new")
    written = lake.fs.modified(lake.path("events/date=2025-10-10/part-x.parquet")).timestamp()
    assert lake.sweep(now=written + 60) == 0
    assert lake.sweep(now=written + 2 * DAY_S) == 1


def test_one_writer_at_a_time(tmp_path):
    lake = Lake(tmp_path)
    with lake.writing(), pytest.raises(LakeConflict, match="another process"):
        Lake(tmp_path).append_events(table([START]), "b1")
    assert lake.append_events(table([START]), "b1") == 1


def test_a_manifest_that_moved_refuses_the_commit(lake):
    before = lake.manifest()
    lake.append_events(table([START]), "b1")
    with pytest.raises(LakeConflict, match="meanwhile"):
        lake.commit(before)
    assert lake.events().num_rows == 1


def test_a_manifest_of_another_format_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(LakeError, match="format"):
        Lake(tmp_path).events()


def test_the_catalogue(lake):
    items = [{"id": "a", "title": {"zh": "转账", "en": "Transfer"}}, {"id": "b"}]
    lake.write_items(items)
    assert lake.read_items() == items
    lake.write_items(items[:1])
    assert lake.read_items() == items[:1]
    lake.write_users(pa.table({"user_id": ["ann"], "age": [30]}))
    assert lake.read_users().to_pylist() == [{"user_id": "ann", "age": 30}]
    with pytest.raises(LakeError, match="user_id"):
        lake.write_users(pa.table({"name": ["ann"]}))


def test_outcomes_stand_as_last_corrected(lake):
    def row(one, amount, recorded, received=START):
        return {"outcome_id": one, "user_id": "ann", "kind": "purchase", "item_id": "p", "amount": amount,
                "occurred_at": START - 5, "recorded_at": recorded, "received_at": received}  # fmt: skip

    rows = [
        *(row("o1", 5.0, START), row("o1", 7.0, START + 2), row("o1", 6.0, START + 1)),
        *(row("o2", 1.0, START), row("o2", 0.0, START + 1), row("o3", None, START)),
        *(row("o4", 1.0, START), row("o4", 2.0, START, START + 1)),
    ]
    manifest = lake.manifest()
    manifest.files["outcomes"] += lake.write_parts(
        "outcomes", pa.Table.from_pylist(rows, OUTCOME_COLUMNS), "b"
    )
    lake.commit(manifest)
    found = {one["outcome_id"]: one["amount"] for one in lake.outcomes().to_pylist()}
    assert found == {"o1": 7.0, "o3": None, "o4": 2.0}
    assert lake.outcomes(since=START).num_rows == 0


def test_a_folder_is_made_by_the_first_write(tmp_path):
    lake = Lake(str(tmp_path / "deep" / "lake"))
    assert lake.events().num_rows == 0 and not Path(tmp_path / "deep").exists()
    lake.append_events(table([START]), "b1")
    assert lake.events().num_rows == 1


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("manifest.json", "restore it"),
        ("catalogue/items.jsonl.zst", "import the items again"),
        ("catalogue/users.parquet", "import the customers again"),
        ("events", "restore it from a copy"),
    ],
)
@pytest.mark.parametrize("junk", [b"", b"junk", b"[1]", b"\x28\xb5\x2f\xfd"])
def test_a_damaged_file_is_named_with_a_remedy(tmp_path, path, remedy, junk):
    lake = Lake(tmp_path)
    lake.append_events(table([START]), "b1")
    lake.write_items([{"id": "i1"}])
    lake.write_users(pa.table({"user_id": ["u1"]}))
    name = lake.manifest().files["events"][0]["path"] if path == "events" else path
    (tmp_path / name).write_bytes(junk)
    read = {"manifest.json": lake.manifest, "events": lake.events}
    read |= {"catalogue/items.jsonl.zst": lake.read_items, "catalogue/users.parquet": lake.read_users}
    with pytest.raises(LakeError, match=remedy) as caught:
        read[path]()
    assert name in str(caught.value) and "damaged" in str(caught.value)
