"""Readers of data sets: what columns are called, how times are read, what is made of what is missing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.ids import key64
from tests.event_files import EVENTS, NOW, START, write
from training.adapters import Options, load
from training.adapters.roles import parse_columns
from training.event_rows import Type, event_type
from training.lake import EVENT_COLUMNS


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
