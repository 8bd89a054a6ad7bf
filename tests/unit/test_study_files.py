"""`fenliu evaluate` reads anybody's files: headers, columns, forms, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.study_files import NOW, START, reading, write
from training.source import DataError
from training.study_files import read_attributes, read_candidates, read_log


def pairs(path: Path, **given: object) -> list[tuple[str, str]]:
    log = read_log(path, reading(**given), now=NOW)
    return [
        (log.user.values[u], log.item.values[i]) for u, i in zip(log.user.codes, log.item.codes, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user,item\n7,x\n8,y\n"),
        ("a.csv.gz", "user,item\n7,x\n8,y\n"),
        ("a.tsv", "userId\titemId\trating\n7\tx\t3\n8\ty\t4\n"),
        ("a.csv", '"user_id","item_id"\n"7","x"\n"8","y"\n'),
        ("a.csv", "\ufeffuser;item\n7;x\n8;y\n"),
    ],
)
def test_headers_in_many_forms(tmp_path: Path, name: str, text: str) -> None:
    assert pairs(write(tmp_path / name, text)) == [("7", "x"), ("8", "y")]


def test_attributes_without_a_header_are_named_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "users.dat", "1::F::18\n2::M::35\n2::M::50\n")
    found = read_attributes(path, reading(), "user")
    assert found.ids == ("1", "2")
    assert found.columns["3"].tolist() == ["18", "35"]


@pytest.mark.parametrize(
    "text",
    ["7,1,5\n8,2,4\n", "7\t1\t5\n8\t2\t4\n", "7::1::5\n8::2::4\n", "7 1 5\n8 2 4\n", "7,1\n8,2\n"],
)
def test_files_without_a_header(tmp_path: Path, text: str) -> None:
    assert pairs(write(tmp_path / "a.dat", text)) == [("7", "1"), ("8", "2")]


def test_text_ids_without_a_header_need_a_word(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "u1,i1\nu2,i2\n")
    with pytest.raises(DataError, match="--no-header"):
        pairs(path)
    assert pairs(path, header=False) == [("u1", "i1"), ("u2", "i2")]


def test_columns_by_name_and_by_number(tmp_path: Path) -> None:
    named = write(tmp_path / "a.csv", "who,what,stars\n7,x,2\n8,y,5\n")
    columns = {"user": "who", "item": "what", "weight": "stars"}
    assert pairs(named, columns=columns, least=3.0) == [("8", "y")]
    bare = write(tmp_path / "b.csv", "2,7,x\n5,8,y\n")
    assert pairs(bare, columns={"user": "2", "item": "3", "weight": "1"}, header=False, least=3.0) == [
        ("8", "y")
    ]
    with pytest.raises(DataError, match="there is no such column"):
        pairs(named, columns={"user": "nobody"})


def test_a_line_a_user(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "0 5 6 7\n1 5\n2\n3 8 9\n")
    assert pairs(path) == [("0", "5"), ("0", "6"), ("0", "7"), ("1", "5"), ("3", "8"), ("3", "9")]


def test_parquet_of_numbers_and_times(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    at = pa.array([START, START + 60], pa.timestamp("s"))
    pq.write_table(pa.table({"user_id": [7, 8], "item_id": ["x", "y"], "timestamp": at}), path)
    log = read_log(path, reading(), now=NOW)
    assert log.user.values == ("7", "8")
    assert log.at.tolist() == [START, START + 60]


def test_a_third_column_that_looks_like_a_time_is_one(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "a.txt", f"7\t1\t5\t{START}\n8\t2\t3\t{START + 9}\n"), reading(), now=NOW)
    assert log.at.tolist() == [START, START + 9]
    assert log.weight.tolist() == [1, 1]
    assert "no header" in log.notes[0]


def test_weights_of_zero_and_less_are_left_out_and_counted(tmp_path: Path) -> None:
    log = read_log(
        write(tmp_path / "a.csv", "user,item,weight\n1,1,2\n1,2,0\n2,1,-1\n2,2,1\n3,1,1\n"),
        reading(),
        now=NOW,
    )
    assert log.weight.tolist() == [2, 1, 1]
    assert any("2 rows left out" in note for note in log.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("user,item\n", "no row"),
        ("user,item,weight\n1,1,0\n", "no row is left"),
        ("user,thing\n1,2\n", "--columns item=COLUMN"),
    ],
)
def test_files_that_cannot_be_used_say_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        pairs(write(tmp_path / "a.csv", text))


def test_candidates_in_three_forms(tmp_path: Path) -> None:
    forms = {
        "ncf.txt": "(7,99)\t1\t2\t3\t4\n(8,98)\t5\t6\t7\t8\n",
        "lists.txt": "7 1 2 3 4\n8 5 6 7 8\n",
        "pairs.csv": "user,item\n7,1\n7,2\n7,3\n7,4\n8,5\n8,6\n8,7\n8,8\n",
    }
    for name, text in forms.items():
        user, item = read_candidates(write(tmp_path / name, text), reading())
        found = [(user.values[u], item.values[i]) for u, i in zip(user.codes, item.codes, strict=True)]
        assert found == [*(("7", str(n)) for n in (1, 2, 3, 4)), *(("8", str(n)) for n in (5, 6, 7, 8))], name


def test_rows_with_one_value_only(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "customerID,ISIN,what\na,x,Buy\na,y,Sell\nb,y, Buy\n")
    log = read_log(path, reading(only=("what", ("Buy",))), now=NOW)
    assert [log.item.values[code] for code in log.item.codes] == ["x", "y"]
    assert "2 of 3 rows have what Buy" in " ".join(log.notes)
    assert len(read_log(path, reading(only=("kind", ("Buy",))), now=NOW)) == 3
    with pytest.raises(DataError, match="no row is left"):
        read_log(path, reading(only=("what", ("Hold",))), now=NOW)


def test_columns_that_say_their_type(tmp_path: Path) -> None:
    text = "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1600000000\n"
    log = read_log(write(tmp_path / "a.inter", text), reading(), now=NOW)
    assert (log.user.values, log.at.tolist()) == (("u",), [1.6e9])
