"""From the lake to interactions, and the three ways of dividing them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.customer import Blobs, decode_customer
from features.events import WHAT, action_code
from features.ids import key64
from features.tags import Tag, TagDictionary
from features.transforms import EventWeights, tokens
from features.views import PROFILE
from serving.catalogue import CompiledItems, compile_items, parse_item
from training.dataset import Dataset, build_dataset, by_user, split, truth
from training.interactions import Interactions
from training.lake import OUTCOME_COLUMNS, Lake
from training.materialize import aggregate, view_batches
from training.source import MARKS, DataError

NOW = 1_760_000_000.0
DAY = 86_400.0


def catalogue(n: int = 6, repeat: str = "always") -> CompiledItems:
    return compile_items(
        [
            parse_item({"id": f"i{i}", "kind": "product", "title": {"en": f"I{i}"}, "repeat": repeat})
            for i in range(n)
        ]
    )


Event = tuple[str, str | None, str, str | None, float]  # subject, item, type, action, at


def lake_of(folder: Path, events: list[Event], *, sources: list[str] | None = None, **columns: list) -> Lake:
    lake = Lake(folder / "lake")
    n = len(events)
    subjects = [event[0] for event in events]
    table = {
        "event_id": [f"e{i}" for i in range(n)],
        "type": [event[2] for event in events],
        "received_at": [NOW] * n,
        "at": [event[4] for event in events],
        "subject": subjects,
        "user_id": [s[2:] if s.startswith("u:") else None for s in subjects],
        "visitor_id": [s[2:] if s.startswith("v:") else None for s in subjects],
        "item_id": pa.array([event[1] for event in events], pa.string()),
        "item_key": pa.array([key64(event[1]) if event[1] else None for event in events], pa.uint64()),
        "action": pa.array([event[3] for event in events], pa.string()),
        "source": sources or ["app"] * n,
        **columns,
    }
    lake.append_events(pa.table(table), "batch")
    return lake


def build(lake: Lake, items: CompiledItems | None = None, **options: object) -> Dataset:
    return build_dataset(lake, items or catalogue(), now=NOW, weights=EventWeights(), **options)


SOME: list[Event] = [
    ("u:b", "i1", "clicked", None, NOW - 50),
    ("u:a", "i0", "acted", "viewed", NOW - 90),
    ("u:a", "i2", "converted", None, NOW - 10),
    ("v:x", "i3", "clicked", None, NOW - 30),
    ("u:b", "i2", "dismissed", None, NOW - 20),
]


def test_interactions_are_in_order_of_time_and_weighed(tmp_path: Path) -> None:
    data = build(lake_of(tmp_path, SOME, weight=[2.0, None, 0.5, None, None]))
    assert data.subjects == ("u:a", "u:b", "v:x")
    assert data.users == ("a", "b", "x")
    events = data.interactions
    assert events.at.tolist() == sorted(event[4] for event in SOME)
    assert [data.users[u] for u in events.user] == ["a", "b", "x", "b", "a"]
    assert [data.items.ids[i] for i in events.item] == ["i0", "i1", "i3", "i2", "i2"]
    names = ["acted", "clicked", "clicked", "dismissed", "converted"]
    assert events.what.tolist() == [WHAT[name] for name in names]
    assert events.action.tolist() == [action_code("viewed"), 0, 0, 0, 0]
    assert events.weight.tolist() == [0.5, 2.0, 1.0, -1.0, 2.0]
    assert events.positive.tolist() == [True, True, True, False, True]
    assert events.source_split.tolist() == [0] * 5
    dtypes = [getattr(events, name).dtype.str for name in Interactions.__slots__]
    assert dtypes == ["<i4", "<i4", "|u1", "<u2", "<f8", "<f4", "|u1"]
    assert (data.n_users, data.n_items, data.kinds.tolist()) == (3, 6, [1] * 6)


def test_a_linked_visitor_is_the_user(tmp_path: Path) -> None:
    link: Event = ("u:b", None, "linked", None, NOW - 1)
    lake = lake_of(tmp_path, [*SOME, link], visitor_id=[None, None, None, "x", None, "x"])
    data = build(lake)
    assert data.subjects == ("u:a", "u:b")
    assert len(data.interactions) == 5
    assert data.dropped == {"displays and links (not behaviour)": 1}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    extra: list[Event] = [
        ("u:a", "i1", "displayed", None, NOW - 5),
        ("u:a", None, "acted", "login", NOW - 5),
        ("u:a", "elsewhere", "clicked", None, NOW - 5),
        ("u:a", "i1", "clicked", None, NOW + 5),
    ]
    data = build(lake_of(tmp_path, SOME + extra))
    assert len(data.interactions) == 5
    assert data.dropped == {
        "displays and links (not behaviour)": 1,
        "behaviour without an item": 1,
        "items that the catalogue does not have": 1,
    }


def test_the_window_and_now_bound_what_is_read(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [*SOME, ("u:a", "i5", "clicked", None, NOW)])
    assert len(build(lake).interactions) == 6
    assert build(lake, window=35.0).interactions.at.tolist() == [NOW - 30, NOW - 20, NOW - 10, NOW]


def test_profiles_tokens_and_segments(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, SOME)
    lake.write_users(
        pa.table({"user_id": ["b", "x"], "gender": ["F", "M"], "job": ["clerk", "cook"], "city": ["1", "2"]})
    )
    data = build(lake)
    assert data.profiles.records["gender"].tolist() == [0, 1, 0]  # x is a visitor, not user x
    assert data.segments.tolist() == [0, 17, 0]
    assert data.cities[0] == 0 and data.cities[1] != 0
    indptr, found = data.tokens
    assert np.diff(indptr).tolist() == [0, 3, 0]
    assert found.tolist() == tokens(data.profiles.records[1], int(data.profiles.known[1])).tolist()


def test_tags_that_are_too_old_reach_neither_training_nor_the_store(tmp_path: Path) -> None:
    """By the age of the table that says them, for who has behaviour (a) and who has none (z)."""
    tags = TagDictionary(
        Tag(name, "rule", "crm", "core", fresh, "profiling", 365, bit)
        for name, fresh, bit in (("young", 30, 0), ("daily", 1, 1))
    )
    lake = lake_of(tmp_path, SOME)
    table = pa.table({"user_id": ["a", "z"], "tags": ["young|daily"] * 2})
    for days, left in ((0.5, ("young", "daily")), (2.0, ("young",))):
        lake.write_users(table, at=NOW - days * DAY)
        data = build(lake, tags=tags)
        assert tags.unpack(data.profiles.records["tags"][0]) == left
        written = view_batches(lake, data, aggregate(lake, data), tags)[0]
        for place in (written.ids.index("a"), written.ids.index("z")):
            customer = decode_customer(Blobs(written.blobs[place].tobytes(), None, None, None, None), now=NOW)
            assert customer.profile is not None and tags.unpack(customer.profile.values["tags"]) == left


def test_holdings_follow_from_purchases(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [*SOME, ("u:b", "i4", "acted", "purchased", NOW - 3)])
    held = build(lake, catalogue(repeat="never")).profiles
    assert held.records["holdings"][:, 0].tolist() == [key64("i2"), key64("i4"), 0]
    bit = np.uint64(PROFILE.bit("holdings"))
    assert ((held.known & bit) != 0).tolist() == [True, True, False]
    assert not build(lake).profiles.records["holdings"].any()  # what may be had again is not held


def test_the_tables_own_holdings_win(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, SOME)
    lake.write_users(pa.table({"user_id": ["a", "b"], "holdings": ["i5", None]}))
    held = build(lake, catalogue(repeat="never")).profiles
    assert held.records["holdings"][:, 0].tolist() == [key64("i5"), 0, 0]
    assert ((held.known & np.uint64(PROFILE.bit("holdings"))) != 0).tolist() == [True, False, False]


def test_old_purchases_and_the_banks_own_are_held_too(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [*SOME, ("u:b", "i4", "converted", None, NOW - 900 * DAY)])
    outcomes = {
        "outcome_id": ["o1", "o2", "o3", "o4"],
        "user_id": ["a", "a", "b", "nobody"],
        "kind": ["purchase", "complaint", "purchase", "purchase"],
        "item_id": ["i5", "i3", "i1", "i1"],
        "amount": [5.0, None, 0.0, 1.0],  # 0: taken back
    }
    n = len(outcomes["user_id"])
    given = outcomes | {
        "item_key": pa.array([key64(one) for one in outcomes["item_id"]], pa.uint64()),
        **dict.fromkeys(("occurred_at", "recorded_at", "received_at"), [NOW - 60] * n),
    }
    columns = {name: given.get(name, pa.nulls(n)) for name in OUTCOME_COLUMNS.names}
    table = pa.table(columns).cast(OUTCOME_COLUMNS)
    with lake.writing():
        manifest = lake.manifest()
        manifest.files["outcomes"] += lake.write_parts("outcomes", table, "outcomes")
        lake.commit(manifest)
    data = build(lake, catalogue(repeat="never"), window=100.0)
    assert data.dropped == {"behaviour before the window": 1}
    held = dict(zip(data.subjects, data.profiles.records["holdings"].tolist(), strict=True))
    assert held["u:a"][:3] == [key64("i2"), key64("i5"), 0]
    assert held["u:b"][:2] == [key64("i4"), 0]


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no event is about an item"):
        build(Lake(tmp_path / "none"))
    cold: list[Event] = [("u:a", "i0", "dismissed", None, NOW), ("u:b", "i0", "dismissed", None, NOW)]
    with pytest.raises(DataError, match="somebody likes"):
        build(lake_of(tmp_path / "cold", cold))
    one: list[Event] = [("u:a", "i0", "clicked", None, NOW), ("u:a", "i1", "clicked", None, NOW)]
    with pytest.raises(DataError, match="of one user"):
        build(lake_of(tmp_path / "one", one))


def test_grouping_and_truth(tmp_path: Path) -> None:
    events: list[Event] = [
        ("u:a", "i3", "clicked", None, NOW - 9),
        ("u:b", "i1", "clicked", None, NOW - 8),
        ("u:a", "i0", "clicked", None, NOW - 7),
        ("u:a", "i3", "clicked", None, NOW - 6),
        ("u:a", "i4", "dismissed", None, NOW - 5),
    ]
    data = build(lake_of(tmp_path, events))
    grouped = by_user(data.interactions, data.n_users)
    assert grouped.indptr.tolist() == [0, 4, 5]
    assert grouped.rows.tolist() == [0, 2, 3, 4, 1]
    found = truth(data.interactions, data.n_users, data.n_items)
    assert [found.of(0).tolist(), found.of(1).tolist()] == [[0, 3], [1]]
    assert found.users.tolist() == [0, 1]


def random_events(n: int = 400, seed: int = 5) -> list[Event]:
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["clicked", "converted", "dismissed"], n, p=[0.6, 0.2, 0.2])
    at = np.round(NOW - rng.uniform(0, 50 * DAY, n))
    pairs = zip(rng.integers(0, 30, n), rng.integers(0, 6, n), kinds, at, strict=True)
    return [(f"u:{u}", f"i{i}", str(kind), None, float(t)) for u, i, kind, t in pairs]


def test_the_temporal_split_keeps_the_future_out_of_the_past(tmp_path: Path) -> None:
    data = build(lake_of(tmp_path, random_events()))
    parts = split(data)
    assert parts.protocol == "temporal"
    assert parts.train.at.max() < parts.now_valid <= parts.valid.at.min()
    assert parts.valid.at.max() < parts.now_test <= parts.test.at.min()
    positives = int(data.interactions.positive.sum())
    dropped = sum(count for name, count in parts.notes.items() if "dropped" in name)
    kept = int(parts.train.positive.sum()) + len(parts.valid) + len(parts.test)
    assert kept + dropped == positives
    assert int(parts.train.positive.sum()) == pytest.approx(0.8 * positives, abs=1)
    assert not parts.train.positive.all()
    assert parts.valid.positive.all() and parts.test.positive.all()
    both = parts.train_and_valid()
    assert len(both) == len(parts.train) + len(parts.valid)
    assert (np.diff(both.at) >= 0).all()


def test_events_of_one_moment_are_not_torn_apart(tmp_path: Path) -> None:
    events: list[Event] = [
        (f"u:{i % 7}", f"i{i % 6}", "clicked", None, NOW - DAY * (9 - i // 10)) for i in range(100)
    ]
    parts = split(build(lake_of(tmp_path, events)), "temporal", fractions=(0.75, 0.1, 0.15))
    assert [len(part) for part in (parts.train, parts.valid, parts.test)] == [70, 10, 20]


def test_fractions_must_be_fractions(tmp_path: Path) -> None:
    data = build(lake_of(tmp_path, random_events()))
    for bad in ((0.8, 0.2, 0.0), (0.8, 0.1, 0.2)):
        with pytest.raises(ValueError, match="sum to 1"):
            split(data, "temporal", fractions=bad)


def test_items_that_training_never_saw_are_dropped_and_counted(tmp_path: Path) -> None:
    events: list[Event] = [(f"u:{i % 4}", f"i{i % 3}", "clicked", None, NOW - 100 + i) for i in range(90)]
    events += [(f"u:{i % 4}", "i5" if i % 2 else "i0", "clicked", None, NOW - 10 + i) for i in range(10)]
    parts = split(build(lake_of(tmp_path, events)), "temporal")
    assert parts.notes["test dropped: item unseen in training"] == 5
    assert set(parts.test.item.tolist()) == {0}


def test_a_given_split_is_followed(tmp_path: Path) -> None:
    marks = ["a:train", "a:train", "a:train", "a:valid", "a:test", "a"]
    events: list[Event] = [(f"u:{i % 2}", f"i{i % 2}", "clicked", None, NOW - 50 + i) for i in range(6)]
    data = build(lake_of(tmp_path, events, sources=marks))
    assert [MARKS[mark] for mark in data.interactions.source_split] == [*["train"] * 3, "valid", "test", ""]
    parts = split(data)
    assert parts.protocol == "given"
    assert [len(part) for part in (parts.train, parts.valid, parts.test)] == [3, 1, 1]
    assert parts.notes["rows left out"] == 1
    with pytest.raises(DataError, match="does not mark"):
        split(build(lake_of(tmp_path / "other", SOME)), "given")


def test_the_last_basket_is_left_out(tmp_path: Path) -> None:
    events: list[Event] = [
        ("u:one", "i0", "converted", None, NOW - 90),  # a single basket: only trains
        ("u:one", "i1", "converted", None, NOW - 90),
        ("u:two", "i0", "converted", None, NOW - 80),
        ("u:two", "i1", "converted", None, NOW - 70),  # test
        ("u:three", "i1", "converted", None, NOW - 60),
        ("u:three", "i0", "converted", None, NOW - 50),  # validation
        ("u:three", "i2", "converted", None, NOW - 40),  # test, both
        ("u:three", "i3", "converted", None, NOW - 40),
        ("u:three", "i5", "dismissed", None, NOW - 30),  # after the test: not to be learnt from
        ("u:two", "i5", "dismissed", None, NOW - 75),
        ("u:four", "i2", "converted", None, NOW - 20),
        ("u:four", "i3", "converted", None, NOW - 20),
    ]
    data = build(lake_of(tmp_path, events, sources=["shop:undated"] * len(events)))
    parts = split(data)
    assert parts.protocol == "leave_last_out"

    def told(part: Interactions) -> set[tuple[str, str]]:
        return {(data.users[u], data.items.ids[i]) for u, i in zip(part.user, part.item, strict=True)}

    assert told(parts.test) == {("two", "i1"), ("three", "i2"), ("three", "i3")}
    assert told(parts.valid) == {("three", "i0")}
    assert ("two", "i5") in told(parts.train)
    assert ("three", "i5") not in told(parts.train)
    assert parts.notes["rows left out"] == 1


def test_what_is_held_is_not_asked_for(tmp_path: Path) -> None:
    events: list[Event] = [
        ("u:a", "i0", "acted", "purchased", NOW - 90),
        ("u:a", "i1", "acted", "purchased", NOW - 80),  # validation
        ("u:a", "i1", "acted", "purchased", NOW - 70),  # test: held since the validation
        ("u:a", "i2", "acted", "purchased", NOW - 70),
        ("u:b", "i0", "acted", "purchased", NOW - 60),
        ("u:b", "i0", "acted", "purchased", NOW - 50),  # test: held
        ("u:c", "i1", "acted", "purchased", NOW - 40),
        ("u:d", "i2", "acted", "purchased", NOW - 40),
    ]
    lake = lake_of(tmp_path, events, sources=["shop:undated"] * len(events))
    once = split(build(lake, catalogue(repeat="never")))
    assert once.notes["test dropped: item already held"] == 2
    assert once.test.item.tolist() == [2]
    again = split(build(lake))
    assert again.notes["test dropped: item already held"] == 0
    assert len(again.test) == 3


def test_a_split_with_nothing_to_test_is_an_error(tmp_path: Path) -> None:
    events: list[Event] = [(f"u:{i}", f"i{i}", "clicked", None, NOW - 50 + i) for i in range(4)]
    with pytest.raises(DataError, match="leaves no positive to test"):
        split(build(lake_of(tmp_path, events)), "leave_last_out")


def test_building_is_repeatable(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, random_events())
    first, second = build(lake), build(lake)
    for name in Interactions.__slots__:
        assert getattr(first.interactions, name).tobytes() == getattr(second.interactions, name).tobytes()
    assert first.subjects == second.subjects


def test_types_may_be_encoded_over_a_wider_dictionary(tmp_path: Path) -> None:
    names = ["", "served", "clicked", "acted", "converted", "dismissed"]
    codes = pa.array([names.index(event[2]) for event in SOME], pa.int32())
    lake = lake_of(tmp_path, SOME, type=pa.DictionaryArray.from_arrays(codes, pa.array(names)))
    assert build(lake).interactions.what.tolist() == [
        WHAT[n] for n in ("acted", "clicked", "clicked", "dismissed", "converted")
    ]
