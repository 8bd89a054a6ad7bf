"""What the gate watches beside quality, and the card that tells it."""

from __future__ import annotations

from typing import Any

import pytest

from training.config import GateRules
from training.model_card import model_card
from training.watch import refusals, stability

GOOD: dict[str, Any] = {
    "slices": {
        "segment 3": {"customers": 900, "candidate": 0.2, "popular": 0.19, "difference": [0.01, 0.0, 0.02]}
    },
    "groups": {"age_band": {"2": {"customers": 400, "ratio": 0.9, "interval": [0.8, 1.0]}}},
    "exposure": {"top_share": 0.3, "gini": 0.8, "coverage": 0.4},
    "drift": {"scores": 0.05},
}


def with_(part: str, *path: str, **more: Any) -> dict[str, Any]:
    one = {**GOOD[part]}
    inner = one
    for name in path:
        inner[name] = {**inner[name]}
        inner = inner[name]
    inner.update(more)
    return {**GOOD, part: one}


WORSE = {"candidate": 0.15, "difference": [-0.04, -0.06, -0.02]}


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (GOOD, None),
        (with_("slices", "segment 3", **WORSE), "slice_worse"),
        (with_("slices", "segment 3", **WORSE, customers=50), None),
        (with_("slices", "segment 3", candidate=0.15, difference=[-0.04, -0.1, 0.01]), None),
        (with_("groups", "age_band", "2", ratio=0.3, interval=[0.2, 0.4]), "group_ratio"),
        (with_("groups", "age_band", "2", ratio=0.4, interval=[0.2, 0.6]), None),
        (with_("exposure", top_share=0.9), "concentration"),
        (with_("drift", history=3.0), "drift"),
        (with_("drift", scores=3.0), None),
        ({}, None),
    ],
)
def test_what_speaks_against_a_bundle(found: dict[str, Any], code: str | None) -> None:
    said = refusals(GateRules(concentration=0.8), found, "ndcg@10")
    assert [one.code for one in said] == ([] if code is None else [code])


def test_stability_is_nothing_for_the_same_and_grows_with_the_shift() -> None:
    half = {"a": 0.5, "b": 0.5}
    assert stability(half, half) == 0
    assert 0 < stability(half, {"a": 0.6, "b": 0.4}) < 0.1
    assert stability(half, {"c": 1.0}) > 2.0


def test_a_card_tells_what_is_known_and_says_what_is_not() -> None:
    card = model_card({"version": "v1"})
    assert card.count("Not recorded.") >= 4
    both = ("ials", "popular")
    metrics = {"metrics": {"ndcg@10": 0.25}, "intervals": {"ndcg@10": [0.2, 0.3]}}
    evaluation = {
        "metric": "ndcg@10", "chosen": "ials", "models": {"ials": metrics}, "items": 30, "customers": 900,
        "learned_from": "train", "already_liked_items": "ranked", "history": "64 events",
        "split": {"cut": "by time"}, "watched": GOOD,
        "groups": {"no history": {"customers": 40, "models": {n: {"ndcg@10": 0.1} for n in both}}},
    }  # fmt: skip
    refused = {"passed": False, "refusals": [{"code": "drift", "text": "much"}]}
    said = model_card({"version": "v1", "evaluation": evaluation, "gate": refused, "data": {"items": 30}})
    for text in ("0.2500 [0.2000, 0.3000]", "segment 3", "| age_band | 2 | 400 |", "Refused:", "Too few"):
        assert text in said
