"""The rule form: what is taken, and what is refused with the place of the mistake."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving.audience_rules import parse_rule, seconds_of

WINBACK = {
    "all": [
        {"days_since": "login", "at_least": 30},
        {"field": "assets", "at_least": 50_000},
        {"did": "viewed", "kind": "product", "within": "7d"},
        {"any": [{"tag": "vip"}, {"not": {"member": "staff"}}, {"audience": "other"}]},
    ]
}


def test_a_rule_survives_its_own_text() -> None:
    rule = parse_rule(WINBACK)
    assert parse_rule(rule.model_dump()) == rule
    assert parse_rule(rule.model_dump(by_alias=False)) == rule
    assert parse_rule(rule) == rule


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        ({"field": "assetz", "is": 1}, "no field 'assetz'"),
        ({"field": "assets", "has": "p1"}, "assets takes at_least, below, is, in, not has"),
        ({"field": "holdings", "at_least": 1}, "holdings takes has"),
        ({"field": "org", "is": 310000}, "put it in quotes"),
        ({"field": "payroll", "is": "yes"}, "true or false"),
        ({"field": "age", "is": "old"}, "is a number"),
        ({"field": "gender", "is": "f"}, "not_said, female"),
        ({"field": "consents", "has": "everything"}, "marketing"),
        ({"field": "age"}, "give at_least, below"),
        ({"field": "age", "at_least": 5, "below": 5}, "less than below"),
        ({"field": "age", "at_least": float("nan")}, "finite"),
        ({"field": "age", "is": 3, "below": 9}, "give at_least, below"),
        ({"did": "displayed", "within": "7d"}, "not what a customer does"),
        ({"did": "viewed", "within": "a week"}, "pattern"),
        ({"did": "viewed", "within": "7d", "kind": "product", "item": "p1"}, "at most one"),
        ({"did": "viewed", "within": "7d", "at_least": 65}, "64"),
        ({"days_since": "login"}, "give at_least, below"),
        ({"attribute": "job"}, "give one of"),
        ({"member": 0}, "greater than or equal to 1"),
        ({"all": []}, "at least 1"),
        ({"all": [{"tag": "x"}], "any": []}, "Extra inputs"),
        ({"tag": "x", "is": True}, "Extra inputs"),
        ({"nothing": 1}, "a rule is an object with one of all, any"),
        ("everybody", "a rule is an object with one of"),
    ],
)
def test_a_bad_rule_is_refused_and_says_why(raw: object, part: str) -> None:
    with pytest.raises(ValidationError) as bad:
        parse_rule(raw)
    assert part in str(bad.value)


def test_a_mistake_deep_inside_is_placed() -> None:
    with pytest.raises(ValidationError) as bad:
        parse_rule({"all": [{"tag": "x"}, {"not": {"field": "assetz", "is": 1}}]})
    where = [error["loc"] for error in bad.value.errors()]
    assert where == [("all", "all", 1, "not", "not", "field")]


def test_windows() -> None:
    assert [seconds_of(text) for text in ("30m", "12h", "7d")] == [1800.0, 43_200.0, 604_800.0]
    with pytest.raises(ValueError, match="a window"):
        seconds_of("7")
