"""The public data sets: where they lie, and a reader for each form."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.event_files import NOW, write
from training.adapters import data_folder, load
from training.source import DataError


def test_where_the_public_data_sets_lie() -> None:
    assert data_folder({"FENLIU_DATA": "/x"}, Path("/project")) == Path("/x")
    assert data_folder({}, Path("/project")) == Path("/project/../shared/data")


def test_the_film_ratings_reader(tmp_path: Path) -> None:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    write(
        folder,
        "ratings.csv.gz",
        "user,movie,rating,timestamp,split\n"
        "1,10,5,950000000,train\n1,11,2,,train\n2,10,4,950000500,val\n2,12,5,,train\n1,12,4,950000900,test\n2,10,9,1,train\n",
    )
    write(folder, "users.dat.gz", "1::F::18::0::1\n2::M::56::20::2\n")
    movies = gzip.compress(
        '10::Café "X" (1999)::Comedy|Drama\n11::Rain::War\n12::Sun (2000)::Film-Noir\n'.encode("latin-1")
    )
    (folder / "movies.dat.gz").write_bytes(movies)
    source = load("ml-1m", now=NOW, data=tmp_path)
    assert source.events["item_id"].to_pylist() == ["10", "10", "12"]
    assert source.events["source"].to_pylist() == ["ml-1m:train", "ml-1m:valid", "ml-1m:test"]
    assert set(source.events["action"].to_pylist()) == {"rated"}
    assert source.quarantined == {"the rating is not one of 1 to 5": 1, "no readable time": 1}
    assert source.notes[0] == "1 ratings below 4 are not positive: left out (1 of them without time)"
    assert source.items[0].title == {"en": "Café 'X' (1999)"}
    assert source.items[0].attributes == {"genres": "Comedy|Drama", "year": "1999"}
    assert [item.category for item in source.items] == ["film/comedy", "film/war", "film/film-noir"]
    assert source.users is not None
    assert source.users.to_pylist()[1] == {
        "user_id": "2",
        "gender": "M",
        "age_band": 7,
        "occupation": "writer",
    }


def test_the_insurance_reader(tmp_path: Path) -> None:
    folder = tmp_path / "insurance"
    folder.mkdir()
    write(folder, "purchase_events.csv.gz", "purchase_event_id,item_id\n9,4\n7,2\n7,10\n8,2\n99,3\n")
    write(
        folder,
        "users.csv.gz",
        "user_id,purchase_event_id,event_number,conversation_id,session_id\n"
        "1,9,1,3.0,\n1,7,2,,5.0\n1,7,1,,6.0\n2,8,1,,\n",
    )
    source = load(folder, now=NOW)
    events = source.events.select(["user_id", "item_id", "at", "action", "source"]).to_pylist()
    assert [(e["user_id"], e["item_id"]) for e in events] == [("1", "2"), ("1", "10"), ("2", "2"), ("1", "4")]
    assert events[0]["at"] == events[1]["at"] < events[2]["at"] < events[3]["at"]
    assert {(e["action"], e["source"]) for e in events} == {("purchased", "insurance:undated")}
    assert source.quarantined == {"no customer made this purchase": 1}
    assert [item.id for item in source.items] == ["2", "4", "10"]
    assert {(item.kind, item.repeat) for item in source.items} == {("product", "after_maturity")}
    assert source.protocol == "leave_last_out"


@pytest.mark.parametrize("header", ["user,movie,rating,split", "user,movie,timestamp,split"])
def test_a_public_set_of_another_form_is_refused(header: str, tmp_path: Path) -> None:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    write(folder, "ratings.csv.gz", header + "\n1,2,3,4\n")
    with pytest.raises(
        DataError, match=r"ratings\.csv\.gz, column '(timestamp|rating)': there is no such column"
    ):
        load("ml-1m", now=NOW, data=tmp_path)


def test_the_music_reader(tmp_path: Path) -> None:
    folder = tmp_path / "lastfm"
    folder.mkdir()
    write(folder, "train.txt.gz", "0 5 6 7\n1 5 5\n")
    write(folder, "valid.txt.gz", "0 8\n")
    write(folder, "test.txt.gz", "1 6 9\n")
    source = load("lastfm", now=NOW, data=tmp_path)
    assert [e.rpartition(":")[2] for e in source.events["source"].to_pylist()] == [
        *["train"] * 4,
        "valid",
        *["test"] * 2,
    ]
    assert source.events["item_id"].to_pylist() == ["5", "6", "7", "5", "8", "6", "9"]
    assert [item.id for item in source.items] == ["5", "6", "7", "8", "9"]
    assert source.quarantined == {"the user has this artist twice": 1}
    (folder / "test.txt.gz").write_bytes(gzip.compress(b"1\n2\n"))
    with pytest.raises(DataError, match="no line names an artist"):
        load("lastfm", now=NOW, data=tmp_path)


def test_the_retail_reader(tmp_path: Path) -> None:
    folder = tmp_path / "complete-journey"
    folder.mkdir()
    write(
        folder,
        "transactions_sample.csv.gz",
        "household_id,store_id,basket_id,product_id,quantity,sales_value,transaction_timestamp\n"
        "1,9,9,100,1,3.5,2017-01-28 19:06:53\n2,9,9,101,1,1.5,2017-01-29 19:06:53\n",
    )
    write(
        folder,
        "coupon_redemptions.csv.gz",
        "household_id,coupon_upc,campaign_id,redemption_date\n1,500,7,2017-03-05\n",
    )
    write(
        folder,
        "products.csv.gz",
        "product_id,manufacturer_id,department,brand,product_category,product_type,package_size\n"
        "100,2,GROCERY,National,FRZN ICE,ICE - CRUSHED/CUBED,22 LB\n"
        "101,2,DELI,Private,,,\n102,2,DELI,Private,,,\n",
    )
    write(folder, "coupons.csv.gz", "coupon_upc,product_id,campaign_id\n500,100,7\n501,100,7\n501,100,8\n")
    write(
        folder,
        "campaign_descriptions.csv.gz",
        "campaign_id,campaign_type,start_date,end_date\n7,Type A,2017-03-01,2017-04-01\n"
        "8,Type B,2017-02-01,2017-03-15\n",
    )
    write(folder, "campaigns.csv.gz", "campaign_id,household_id\n7,1\n8,1\n7,3\n")
    write(
        folder,
        "demographics.csv.gz",
        "household_id,age,income,home_ownership,marital_status,household_size,household_comp,kids_count\n"
        "1,65+,35-49K,Homeowner,Married,2,2 Adults No Kids,0\n",
    )
    source = load("complete-journey", now=NOW, data=tmp_path)
    events = source.events.select(["user_id", "item_id", "type", "amount"]).to_pylist()
    assert [tuple(event.values()) for event in events] == [
        ("1", "100", "acted", 3.5),
        ("2", "101", "acted", 1.5),
        ("1", "c500", "converted", None),
    ]
    by_id = {item.id: item for item in source.items}
    assert sorted(by_id) == ["100", "101", "c500", "c501"]
    assert by_id["100"].category == "grocery/frzn ice"
    assert (by_id["c500"].kind, by_id["c500"].audience, by_id["c501"].audience) == ("benefit", 7, 0)
    assert by_id["c501"].starts == datetime(2017, 2, 1, tzinfo=UTC)
    assert by_id["c501"].ends == datetime(2017, 4, 1, 23, 59, 59, tzinfo=UTC)
    assert source.users is not None
    users = {row["user_id"]: row for row in source.users.to_pylist()}
    assert (users["1"]["audiences"], users["1"]["age_group"]) == ("7|8", "65+")
    assert (users["3"]["audiences"], users["3"]["age_group"]) == ("7", None)
