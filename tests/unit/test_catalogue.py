from __future__ import annotations

import numpy as np
import pytest

from features.ids import KIND_CODE, key32, key64
from features.views import ITEM
from serving.catalogue import (
    ANY_LAYOUT,
    CatalogueError,
    Item,
    compile_items,
    pack_version,
    parse_creative,
    parse_item,
    window_of,
)
from serving.texts import ItemText, Texts
from tests.worlds import item

FULL = {
    "id": "p1",
    "kind": "product",
    "title": {"zh": "稳健理财", "en": "Steady"},
    "org": "branch-7",
    "category": "wealth/fund/equity",
    "risk_class": 3,
    "min_age": 18,
    "max_age": 70,
    "needs": ["a", "b"],
    "excludes": ["c"],
    "repeat": "after_maturity",
    "channels": ["app", "web"],
    "min_app_version": "9.2",
    "regions": ["310000", "320000"],
    "starts": "2026-01-01T00:00:00+08:00",
    "ends": "2026-02-01T00:00:00Z",
    "stock": 5,
    "auth_level": "bound_card",
    "consents": ["marketing", "third_party"],
    "audience": 12,
    "rate": 2.5,
    "published_at": "2025-12-01T00:00:00Z",
    "location": "wtw3s",
    "cooling": True,
    "attributes": {"term": "90d"},
    "action": "app://p/1",
}


def test_every_fact_becomes_its_column():
    compiled = compile_items([parse_item(FULL)])
    row, known = compiled.table[0], int(compiled.known[0])
    assert row["key"] == key64("p1") and row["kind"] == KIND_CODE["product"]
    assert row["category"] == key32("wealth/fund/equity") and row["top_category"] == key32("wealth")
    assert row["org"] == key32("branch-7") and row["risk_class"] == 3
    assert (row["min_age"], row["max_age"], row["repeat"]) == (18, 70, 1)
    assert row["needs"].tolist() == [key64("a"), key64("b"), 0, 0]
    assert row["excludes"].tolist() == [key64("c"), 0, 0, 0]
    assert row["channels"] == 0b1001 and row["min_app"] == 9_002_000
    assert row["regions"].tolist()[:3] == [key32("310000"), key32("320000"), 0]
    assert row["starts"] == 1767196800.0 and row["ends"] == 1769904000.0
    assert (row["sold_out"], row["stock"], row["auth_level"]) == (0, 5, 3)
    assert row["consents"] == 0b101 and row["audience"] == 12 and row["cooling"] == 1
    assert row["location"] == b"wtw3s" and row["rate"] == 2.5
    assert (row["approved"], row["creative_from"], row["creative_until"]) == (1, 0, 0)
    assert known & ITEM.bit("rate") and not known & ITEM.bit("price")
    assert compiled.layouts.tolist() == [ANY_LAYOUT]


def test_what_is_not_said_restricts_nothing():
    row = compile_items([Item(id="x", kind="content", title={"en": "X"})]).table[0]
    plain = ITEM.blank(1)[0]
    for name in ("risk_class", "min_age", "channels", "starts", "ends", "stock", "auth_level", "audience"):
        assert row[name] == plain[name]
    assert row["stock"] == -1 and row["category"] == 0


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        ({"kind": "thing"}, "kind", "correct"),
        ({"id": ""}, "id", "correct"),
        ({"id": "x" * 65}, "id", "correct"),
        ({"title": {}}, "title", "correct"),
        ({"title": None}, "title", "correct"),
        ({"colour": "red"}, "colour", "remove"),
        ({"risk_class": 6}, "risk_class", "correct"),
        ({"risk_class": True, "min_age": -1}, "min_age", "correct"),
        ({"starts": "2026-02-01T00:00:00"}, "starts", "correct"),
        ({"ends": "2025-01-01T00:00:00Z"}, "the whole", "correct"),
        ({"min_app_version": "nine"}, "min_app_version", "correct"),
        ({"regions": [str(n) for n in range(9)]}, "regions", "correct"),
        ({"needs": ["p1"]}, "the whole", "correct"),
        ({"stock": -2}, "stock", "correct"),
        ({"rate": float("nan")}, "rate", "correct"),
        ({"location": "aaa"}, "location", "correct"),
        ({"category": "/wealth"}, "category", "correct"),
        ({"min_age": 71}, "the whole", "correct"),
        ({"creatives": [{"id": "c"}]}, "creatives.0.title", "add"),
        ({"creatives": [{"id": "c", "title": "t"}, {"id": "c", "title": "u"}]}, "the whole", "correct"),
    ],
)
def test_errors_name_item_field_and_remedy(change, field, remedy):
    with pytest.raises(CatalogueError) as caught:
        parse_item(FULL | change)
    error = caught.value
    assert error.item == str((FULL | change)["id"])[:80] and error.field == field
    assert error.remedy.startswith(remedy) and error.field in str(error) and error.remedy in str(error)


def test_missing_fields_say_so():
    with pytest.raises(CatalogueError, match="add the field"):
        parse_item({"id": "a", "kind": "content"})


def test_an_id_twice_is_refused():
    with pytest.raises(CatalogueError, match="twice"):
        compile_items([item(1), item(2), item(1)])


@pytest.mark.parametrize(("text", "packed"), [("9", 9_000_000), ("9.2.1", 9_002_001), ("10.0", 10_000_000)])
def test_versions_compare_as_numbers(text, packed):
    assert pack_version(text) == packed


@pytest.mark.parametrize("text", ["", "9.", "9.2.1.4", "v9", "1000", "９", "-1"])
def test_what_is_not_a_version_is_refused(text):
    with pytest.raises(ValueError, match="version"):
        pack_version(text)


def creative(name, **fields):
    return {"id": name, "title": name.upper(), **fields}


def test_only_a_live_creative_makes_an_item_approved():
    draft = item(1, creatives=[creative("a", state="draft"), creative("b", state="approved")])
    live = item(2, creatives=[creative("a", state="withdrawn"), creative("b", layouts=["banner", "feed"])])
    table, layouts = compile_items([draft, live]).table, compile_items([draft, live]).layouts
    assert table["approved"].tolist() == [0, 1]
    assert layouts.tolist() == [0, 0b10001]


def test_the_window_spans_the_live_creatives():
    made = item(
        1,
        creatives=[
            creative("a", **{"from": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}),
            creative("b", **{"from": "2026-01-03T00:00:00Z", "until": "2026-01-04T00:00:00Z"}),
            creative("c", state="draft"),
        ],
    )
    compiled = compile_items([made])
    assert compiled.table["creative_from"][0] == 1767225600.0
    assert compiled.table["creative_until"][0] == 1767484800.0
    text = compiled.texts[0]
    gap = 1767225600.0 + 1.5 * 86_400
    assert text.pick(0, "zh-CN", 1767225600.0) == 0
    assert text.pick(0, "zh-CN", gap) is None  # between the two nothing may be shown
    assert text.pick(0, "zh-CN", gap + 86_400) == 1
    assert window_of(()) == (0.0, 0.0)


def test_a_creative_is_picked_by_layout_and_locale_and_a_killed_one_never():
    made = item(
        1,
        creatives=[
            creative("zh", locale="zh-CN", image="z.png", disclosure="风险"),
            creative("en", locale="en", action="app://en"),
            creative("pop", layouts=["popup"], locale="zh-CN"),
        ],
    )
    text = compile_items([made]).texts[0]
    assert text.pick(0, "zh-CN", 0.0) == 0 and text.pick(0, "en-GB", 0.0) == 1
    assert text.pick(0, "en", 0.0, frozenset((key32("en"),))) == 0  # the other locale is better than none
    assert text.pick(0, "zh-CN", 0.0, frozenset(map(key32, ("zh", "en", "pop")))) is None
    assert text.creative_key(2) == key32("pop") and text.creative_key(-1) == 0
    shown = text.shown(0, "zh-CN")
    assert shown["creative"]["disclosure"] == "风险" and shown["action"] == "app://i/1"
    assert text.shown(1, "en")["action"] == "app://en"


def test_an_item_without_creatives_shows_its_own_title():
    text = compile_items([item(3)]).texts[0]
    assert text.pick(3, "zh-CN", 0.0) == -1
    assert text.json(-1, "en") == (
        b'"item_id":"i3","kind":"content","creative":{"id":null,"title":"Item 3","text":"",'
        b'"image":"","disclosure":""},"action":"app://i/3"'
    )
    kept = Texts.of([text])
    assert kept.fragments([(0, -1)], False) == [text.json(-1, "zh-CN")]
    assert kept.fragments([(0, -1)], False)[0] is kept.fragments([(0, -1)], False)[0]  # made once


def test_texts_are_decoded_as_they_were_and_can_be_changed_in_a_copy():
    compiled = compile_items([item(1, creatives=[creative("a")]), item(2)])
    again = Texts(compiled.texts.blob, compiled.texts.offsets)
    assert again[0] == compiled.texts[0] and len(again) == 2
    with pytest.raises(IndexError):
        again[2]
    other = ItemText("new", "content", "新", "New", "", "")
    changed = again.changed({2: other, 0: other})
    assert len(changed) == 3 and changed[2].id == "new" and changed[0].id == "new"
    assert changed[1].id == "i2" and again[0].id == "i1"


def test_parse_creative_names_its_item():
    with pytest.raises(CatalogueError, match="item 'p9'"):
        parse_creative({"id": "c"}, "p9")


def test_many_items_compile_to_one_table():
    compiled = compile_items([item(n) for n in range(500)])
    assert compiled.table.dtype == ITEM.dtype and len(compiled.texts) == 500
    assert (np.diff(compiled.texts.offsets) > 0).all()
    assert len(set(compiled.table["key"].tolist())) == 500
