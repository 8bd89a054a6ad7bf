"""Outcomes of the bank's own systems become positives: which, how often, and what they are credited to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.attribution import Attribution
from features.events import WHAT
from features.ids import key32, key64
from features.transforms import EventWeights
from features.views import PROFILE
from serving.catalogue import CompiledItems, compile_items, parse_item
from training.config import ConfigError, parse_config
from training.dataset import Dataset, build_dataset, split
from training.evaluate import Cases, Lists
from training.lake import Lake
from training.results import OutcomeRules
from training.shown import shown_in
from training.tables import OUTCOME_COLUMNS
from training.windows import behaviour_of

DAY = 86_400.0
NOW = 1_780_000_000.0
FUND, CARD = "wealth/fund", "card"


def items() -> CompiledItems:
    made = [
        {"id": f"p{n}", "kind": "product", "title": {"en": f"P{n}"}, "category": FUND if n < 3 else CARD}
        for n in range(6)
    ]
    return compile_items([parse_item(one) for one in made])


Event = tuple[str, str, str, float]  # subject, item, type, days before NOW


def lake_of(folder: Path, events: list[Event], outcomes: list[dict[str, Any]]) -> Lake:
    lake = Lake(folder / "lake")
    lake.append_events(
        pa.table(
            {
                "event_id": [f"e{n}" for n in range(len(events))],
                "type": [event[2] for event in events],
                "received_at": [NOW] * len(events),
                "at": [NOW - event[3] * DAY for event in events],
                "subject": [event[0] for event in events],
                "user_id": [event[0][2:] if event[0][0] == "u" else None for event in events],
                "item_id": [event[1] for event in events],
                "item_key": pa.array([key64(event[1]) for event in events], pa.uint64()),
                "channel": pa.array([1] * len(events), pa.uint8()),
            }
        ),
        "past",
    )
    rows = [
        {
            "outcome_id": f"o{n}",
            "kind": "purchase",
            "recorded_at": NOW,
            "received_at": NOW,
            "item_key": key64(one["item_id"]) if "item_id" in one else None,
            **one,
            "occurred_at": NOW - one["occurred_at"] * DAY,
        }
        for n, one in enumerate(outcomes)
    ]
    with lake.writing():
        manifest = lake.manifest()
        table = pa.Table.from_pylist(rows, schema=OUTCOME_COLUMNS)
        manifest.files["outcomes"] += lake.write_parts("outcomes", table, "bank")
        lake.commit(manifest)
    return lake


def build(lake: Lake, rules: OutcomeRules | None = None) -> Dataset:
    return build_dataset(lake, items(), now=NOW, weights=EventWeights(), outcomes=rules)


def told(dataset: Dataset) -> list[tuple[str, str, float, float]]:
    """(subject, item, weight, days before NOW) of the interactions that were outcomes."""
    events = dataset.interactions.take(dataset.interactions.what == WHAT["outcome"])
    return [
        (dataset.subjects[user], dataset.items.ids[item], float(weight), round((NOW - at) / DAY, 6))
        for user, item, weight, at in zip(events.user, events.item, events.weight, events.at, strict=True)
    ]


CLICKS: list[Event] = [
    ("u:a", "p0", "clicked", 20),
    ("u:b", "p1", "clicked", 10),
    ("u:b", "p4", "displayed", 3),
]


def test_a_purchase_in_a_branch_weighs_what_a_conversion_does(tmp_path: Path) -> None:
    dataset = build(lake_of(tmp_path, CLICKS, [{"user_id": "c", "item_id": "p3", "occurred_at": 2}]))
    assert told(dataset) == [("u:c", "p3", 4.0, 2.0)]  # of a customer whom the app has never seen
    assert dataset.interactions.positive.all() and (np.diff(dataset.interactions.at) >= 0).all()
    holdings = dataset.profiles.records["holdings"][dataset.subjects.index("u:c")]
    assert int(dataset.profiles.known[dataset.subjects.index("u:c")]) & PROFILE.bit("holdings")
    assert not holdings.any()  # p3 may be had again, and is not held


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ({"user_id": "a", "item_id": "p0", "occurred_at": 19, "kind": "complaint"}, None),
        ({"user_id": "a", "item_id": "p0", "occurred_at": 19, "amount": 0.0}, None),
        ({"user_id": "a", "item_id": "p0", "occurred_at": 19, "amount": -500.0}, None),
        ({"user_id": "a", "item_id": "p0", "occurred_at": -1}, None),
        (
            {"user_id": "a", "item_id": "gone", "occurred_at": 19},
            "outcomes about items that the catalogue does not have",
        ),
        (
            {"user_id": "a", "family": CARD, "occurred_at": 19},
            "outcomes of a family that no display or click explains",
        ),
    ],
)
def test_what_is_no_positive(tmp_path: Path, outcome: dict[str, Any], reason: str | None) -> None:
    dataset = build(lake_of(tmp_path, CLICKS, [outcome]))
    assert told(dataset) == []
    assert {name: n for name, n in dataset.dropped.items() if name.startswith("outcomes")} == (
        {reason: 1} if reason else {}
    )


def test_what_the_app_reported_as_well_counts_once(tmp_path: Path) -> None:
    events = [*CLICKS, ("u:a", "p0", "converted", 5)]
    outcomes = [
        {"user_id": "a", "item_id": "p0", "occurred_at": 4.6},
        {"user_id": "a", "item_id": "p0", "occurred_at": 1},
        {"user_id": "b", "item_id": "p0", "occurred_at": 5},
    ]
    dataset = build(lake_of(tmp_path, events, outcomes))
    assert told(dataset) == [("u:b", "p0", 4.0, 5.0), ("u:a", "p0", 4.0, 1.0)]
    assert dataset.dropped["outcomes that the app reported as well"] == 1


def test_a_family_counts_for_what_it_is_credited_to(tmp_path: Path) -> None:
    events = [("u:a", "p0", "clicked", 12), ("u:a", "p1", "clicked", 10), ("u:b", "p2", "clicked", 9)]
    lake = lake_of(tmp_path, events, [{"user_id": "a", "family": FUND, "occurred_at": 8}])
    assert told(build(lake)) == [("u:a", "p1", 4.0, 8.0)]
    linear = OutcomeRules(attribution=Attribution(credit="linear"))
    assert told(build(lake, linear)) == [("u:a", "p0", 2.0, 8.0), ("u:a", "p1", 2.0, 8.0)]
    short = OutcomeRules(attribution=Attribution(click_window_s=DAY))
    assert told(build(lake, short)) == []


def test_only_credited_ones_where_the_rules_say_so(tmp_path: Path) -> None:
    outcomes = [
        {"user_id": "a", "item_id": "p0", "occurred_at": 1},
        {"user_id": "a", "item_id": "p3", "occurred_at": 1},
    ]
    lake = lake_of(tmp_path, CLICKS, outcomes)
    assert {item for _, item, _, _ in told(build(lake))} == {"p0", "p3"}
    assert {item for _, item, _, _ in told(build(lake, OutcomeRules(organic=False)))} == {"p0"}


def test_a_linked_visitor_s_click_is_the_customer_s(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [*CLICKS, ("v:d", "p2", "clicked", 4)], [])
    link = {
        "event_id": ["l"], "type": ["linked"], "received_at": [NOW], "at": [NOW - 2 * DAY],
        "subject": ["u:a"], "user_id": ["a"], "visitor_id": ["d"],
    }  # fmt: skip
    lake.append_events(pa.table(link), "link")
    with lake.writing():
        manifest = lake.manifest()
        row = {"outcome_id": "o", "user_id": "a", "kind": "purchase", "family": FUND}
        times = {"occurred_at": NOW - DAY, "recorded_at": NOW, "received_at": NOW}
        table = pa.Table.from_pylist([row | times], schema=OUTCOME_COLUMNS)
        manifest.files["outcomes"] += lake.write_parts("outcomes", table, "bank")
        lake.commit(manifest)
    assert told(build(lake)) == [("u:a", "p2", 4.0, 1.0)]


def test_histories_have_no_outcomes_as_the_live_log_has_none(tmp_path: Path) -> None:
    dataset = build(lake_of(tmp_path, CLICKS, [{"user_id": "a", "item_id": "p3", "occurred_at": 15}]))
    cases = Cases(np.array([0], np.int32), *[Lists.group(np.array([0]), np.array([1], np.int32), 1)] * 2, 6)
    past = behaviour_of(cases, dataset.interactions, NOW).past(EventWeights())
    assert past.rows.tolist() == [0]


def test_they_are_split_by_when_they_happened(tmp_path: Path) -> None:
    events = [(f"u:{name}", f"p{n % 6}", "clicked", 40 - n) for n in range(20) for name in "abc"]
    outcomes = [{"user_id": "a", "item_id": "p5", "occurred_at": 22.5}]
    parts = split(build(lake_of(tmp_path, events, outcomes)))
    assert WHAT["outcome"] in parts.test.what and WHAT["outcome"] not in parts.train.what


def test_a_display_credited_with_an_outcome_was_answered(tmp_path: Path) -> None:
    events: list[Event] = [
        ("u:a", "p0", "displayed", 2.0),
        ("u:a", "p3", "displayed", 2.0),
        ("u:a", "p4", "displayed", 5.0),
        ("u:b", "p0", "clicked", 9.0),
    ]
    outcomes = [
        {"user_id": "a", "item_id": "p0", "occurred_at": 1.5},
        {"user_id": "a", "item_id": "p4", "occurred_at": 1.5},  # the view window is a day
        {"user_id": "z", "item_id": "p3", "occurred_at": 1.5},  # not a case
    ]
    lake = lake_of(tmp_path, events, outcomes)
    dataset = build(lake)
    user = dataset.subjects.index("u:a")
    cases = Cases(
        np.array([user], np.int32), *[Lists.group(np.array([0]), np.array([1], np.int32), 1)] * 2, 6
    )
    window = (lake, dataset, cases, NOW - 10 * DAY, NOW)
    plain, credited = shown_in(*window), shown_in(*window, OutcomeRules())
    assert plain is not None and credited is not None
    names = [dataset.items.ids[item] for item in credited.item.tolist()]
    assert dict(zip(names, credited.label.tolist(), strict=True)) == {"p0": 1.0, "p3": 0.0, "p4": 0.0}
    assert not plain.label.any()


def test_the_rules_are_part_of_the_configuration() -> None:
    config = parse_config({"outcomes": {"kinds": ["inflow"], "view_window_days": 0, "channels": ["app"]}})
    rules = config.outcomes.rules()
    assert rules.kinds == ("inflow",) and rules.organic
    assert rules.attribution == Attribution(30 * DAY, 0.0, ("app",), "last_touch")
    assert parse_config({}).outcomes.rules() == OutcomeRules()
    with pytest.raises(ConfigError, match=r"outcomes\.channels"):
        parse_config({"outcomes": {"channels": ["branch"]}})
    assert key32(FUND) != key32(CARD)
