"""Readers of data sets: what columns are called, how times are read, what is made of what is missing."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.ids import key64
from training.adapters import Options, data_folder, load
from training.adapters.roles import parse_columns
from training.event_rows import Type, event_type
from training.lake import EVENT_COLUMNS, Lake
from training.source import DataError, import_source

NOW = 1_760_000_000.0
START = 1_750_000_000


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


EVENTS = "user_id,item_id,type,timestamp\n" + "".join(
    f"u{i % 4},i{i % 3},{'clicked' if i % 2 else 'view'},{START + i}\n" for i in range(24)
)


def test_a_plain_file_becomes_the_lakes_columns(tmp_path: Path) -> None:
    source = load(write(tmp_path, "shop.csv", EVENTS), now=NOW)
    assert source.events.schema == EVENT_COLUMNS
    assert source.name == "shop"
    first = source.events.slice(0, 1).to_pylist()[0]
    assert first["event_id"].startswith("i-")
    assert (first["type"], first["action"]) == ("acted", "viewed")
    assert (first["subject"], first["user_id"], first["visitor_id"]) == ("u:u0", "u0", None)
    assert (first["item_id"], first["item_key"]) == ("i0", key64("i0"))
    assert (first["at"], first["received_at"]) == (START, NOW)
    assert (first["late"], first["channel"], first["weight"], first["source"]) == (False, 0, None, "shop")
    assert source.events["type"].to_pylist()[1] == "clicked"
    assert source.protocol == "temporal"
    assert not source.quarantined
    assert [item.id for item in source.items] == ["i0", "i1", "i2"]
    assert {item.kind for item in source.items} == {"content"}


def test_the_same_rows_in_every_format_give_the_same_events(tmp_path: Path) -> None:
    rows = [line.split(",") for line in EVENTS.splitlines()]
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}
    columns["timestamp"] = [datetime.fromtimestamp(int(t), UTC) for t in columns["timestamp"]]
    parquet = tmp_path / "e.parquet"
    table = pa.table(columns)
    pq.write_table(table.set_column(2, "type", table["type"].dictionary_encode()), parquet)
    variants = [
        write(tmp_path, "e.csv", EVENTS),
        write(tmp_path, "e.csv.gz", EVENTS),
        write(tmp_path, "e.tsv", EVENTS.replace(",", "\t")),
        write(tmp_path, "semicolons.csv", EVENTS.replace(",", ";")),
        write(tmp_path, "windows.csv", "\ufeff" + EVENTS.replace("\n", "\r\n")),
        write(tmp_path, "quoted.csv", EVENTS.replace("u1,", '"u1",')),
        write(tmp_path, "ms.csv", EVENTS.replace("\n", "000\n").replace("timestamp000", "timestamp")),
        parquet,
    ]
    tables = [load(path, now=NOW, options=Options(name="e")).events for path in variants]
    for path, other in zip(variants, tables, strict=True):
        assert other.equals(tables[0]), path


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("userId,movieId,timestamp", ("user", "item")),
        ("customer_id,product,ts", ("user", "item")),
        ("household_id,product_id,transaction_timestamp", ("user", "item")),
        ("USER ID,Item-ID,Time", ("user", "item")),
        ("客户号,产品id,时间", ("user", "item")),
    ],
)
def test_common_names_are_recognised(header: str, expected: tuple[str, str], tmp_path: Path) -> None:
    body = "".join(f"{expected[0]}{i % 3},{expected[1]}{i % 4},{START + i}\n" for i in range(9))
    source = load(write(tmp_path, "e.csv", f"{header}\n{body}"), now=NOW)
    assert source.events["user_id"].to_pylist()[0] == "user0"
    assert source.events["item_id"].to_pylist()[0] == "item0"
    assert source.events["at"].to_pylist()[0] == START


def test_a_mapping_names_what_is_not_common(tmp_path: Path) -> None:
    body = "".join(f"k{i % 3},p{i % 4},{START + i},{i + 1}.5,x{i}\n" for i in range(9))
    path = write(tmp_path, "e.csv", "kunde,ware,wann,gewicht,item_id\n" + body)
    options = Options(
        columns=parse_columns("user=kunde, item=ware,at=wann,weight=gewicht"), default_type="cart"
    )
    source = load(path, now=NOW, options=options)
    assert source.events["user_id"].to_pylist()[:2] == ["k0", "k1"]
    assert source.events["item_id"].to_pylist()[:2] == ["p0", "p1"]
    assert source.events["weight"].to_pylist()[:2] == [1.5, 2.5]
    assert set(source.events["action"].to_pylist()) == {"added"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1750000000", 1_750_000_000.0),
        ("1750000000.25", 1_750_000_000.25),
        ("1750000000250", 1_750_000_000.25),
        ("1750000000250000", 1_750_000_000.25),
        ("2025-06-15T15:06:40Z", 1_750_000_000.0),
        ("2025-06-15T23:06:40+08:00", 1_750_000_000.0),
        ("2025-06-15 15:06:40", 1_750_000_000.0),
        ("2025/06/15 15:06:40.5", 1_750_000_000.5),
        ("2025-06-15", 1_749_945_600.0),
        ("20250615", 1_749_945_600.0),
    ],
)
def test_times_are_read_in_the_usual_ways(text: str, seconds: float, tmp_path: Path) -> None:
    lines = "".join(f"u{i},i{i % 2},{text}\n" for i in range(4))
    source = load(write(tmp_path, "e.csv", "user,item,ts\n" + lines), now=NOW)
    assert source.events["at"].to_pylist() == pytest.approx([seconds] * 4, abs=1e-6)


def test_rows_without_a_time_keep_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "user,item\n" + "".join(f"u{i % 3},i{i % 4}\n" for i in range(12)))
    source = load(path, now=NOW)
    assert source.events["at"].to_pylist() == [NOW - 11 + i for i in range(12)]
    assert source.protocol == "leave_last_out"
    assert set(source.events["source"].to_pylist()) == {"e:undated"}
    assert set(source.events["type"].to_pylist()) == {"converted"}
    assert any("in order of time" in note for note in source.notes)
    assert any("every row is 'converted'" in note for note in source.notes)


def test_an_order_column_orders_and_ties_share_a_basket(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "user,item,basket\na,1,30\nb,2,10\na,3,20\nb,4,10\n")
    source = load(path, now=NOW, options=Options(columns={"order": "basket"}))
    assert source.events["item_id"].to_pylist() == ["2", "4", "3", "1"]
    assert source.events["at"].to_pylist() == [NOW - 2, NOW - 2, NOW - 1, NOW]


def test_a_split_column_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "user,item,split\na,1,train\nb,2,TRAIN\na,3,val\nb,4,test\nc,4,\n")
    source = load(path, now=NOW)
    assert source.events["source"].to_pylist() == ["e:train", "e:train", "e:valid", "e:test", "e"]
    assert source.protocol == "given"


def test_low_ratings_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "user,item,rating\na,1,5\nb,2,4\na,3,2\nb,4,1\n")
    source = load(path, now=NOW, options=Options(min_rating=4, default_type="rated"))
    assert source.events["item_id"].to_pylist() == ["1", "2"]
    assert any("2 ratings below 4" in note for note in source.notes)
    assert any("not used" in note for note in load(path, now=NOW).notes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("click", Type("clicked")),
        ("Add To Cart", Type("acted", "added")),
        ("pv", Type("acted", "viewed")),
        ("purchase", Type("acted", "purchased")),
        ("impression", Type("displayed")),
        ("dislike", Type("dismissed")),
        ("acted:haggled", Type("acted", "haggled")),
        ("3", Type("acted", "added")),
        ("served", None),
        ("linked", None),
        ("acted:", None),
        ("", None),
    ],
)
def test_event_types_by_their_common_names(text: str, expected: Type | None) -> None:
    assert event_type(text, {"3": "cart"}) == expected


def test_acts_that_need_no_item_may_have_none(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", EVENTS + f"u1,,login,{START + 50}\nu1,,clicked,{START + 51}\n")
    source = load(path, now=NOW)
    assert source.quarantined == {"no item id": 1}
    last = source.events.slice(source.events.num_rows - 1).to_pylist()[0]
    assert (last["action"], last["item_id"], last["item_key"]) == ("login", None, None)


ITEMS = (
    "product_id,kind,title_en,title_zh,category,price,risk_class,needs,sold_out,starts,colour\n"
    "i0,product,Card,信用卡,card/gold,12.5,2,i1|i2,no,2026-01-01,red\n"
    "i1,benefit,Coupon,,,,,,yes,,\n"
    "i2,,Nothing,,,,,,,,\n"
)


def test_items_and_users_beside_the_events(tmp_path: Path) -> None:
    write(tmp_path, "events.csv", EVENTS)
    write(tmp_path, "items.csv", ITEMS.replace("i2,,", "i2,content,"))
    write(tmp_path, "users.csv.gz", "Customer ID,Age,Favourite Colour,clicks_30d\nu0,44,red,9\nu1,,blue,9\n")
    source = load(tmp_path, now=NOW)
    card, coupon, nothing = source.items
    assert (card.kind, card.title, card.category) == ("product", {"en": "Card", "zh": "信用卡"}, "card/gold")
    assert (card.price, card.risk_class, card.needs, card.sold_out) == (12.5, 2, ("i1", "i2"), False)
    assert card.starts == datetime(2026, 1, 1, tzinfo=UTC)
    assert card.attributes == {"colour": "red"}
    assert coupon.sold_out and coupon.price is None
    assert nothing.title == {"en": "Nothing"}
    assert source.name == tmp_path.name[:40]
    assert source.users is not None
    assert source.users.column_names == ["user_id", "age", "favourite_colour", "clicks_30d"]
    assert any("clicks_30d" in note for note in source.notes)


def test_a_title_in_chinese_is_chinese(tmp_path: Path) -> None:
    write(tmp_path, "events.csv", EVENTS)
    write(tmp_path, "items.csv", "id,title\ni0,理财\ni1,Fund\ni2,\n")
    titles = [item.title for item in load(tmp_path, now=NOW, options=Options(kind="product")).items]
    assert titles == [{"zh": "理财"}, {"en": "Fund"}, {"en": "i2"}]


def test_events_on_items_outside_the_catalogue_are_kept_and_told(tmp_path: Path) -> None:
    write(tmp_path, "events.csv", EVENTS)
    write(tmp_path, "items.csv", "id,title\ni0,A\ni1,B\n")
    source = load(tmp_path, now=NOW)
    assert source.events.num_rows == 24
    assert any("8 events name items that items.csv does not have" in note for note in source.notes)


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


def test_where_the_public_data_sets_lie() -> None:
    assert data_folder({"FENLIU_DATA": "/x"}, Path("/project")) == Path("/x")
    assert data_folder({}, Path("/project")) == Path("/project/../shared/data")


# Made-up files in the shape of the public sets: no row of those is here.


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
