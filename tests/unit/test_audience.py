"""Compiled audiences: three-valued truth, names, circles, lists and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.customer import Customer
from features.events import WHAT, action_code
from features.ids import key64
from features.schema import Record
from features.tags import Tag, TagDictionary
from features.transforms import attribute_token
from features.views import PROFILE, RECENT, RECENT_KEEP
from serving.audience import AudienceError, compile_audiences, parse_rule
from serving.audience_columns import columns_of
from serving.predicates import AtLeast, Consented, Equal, HasTag, Holds

NOW, DAY = 1_790_000_000.0, 86_400.0
TAGS = TagDictionary([Tag("gold", "rule", "o", "s", 1, "profiling", 1, 3)])


def someone(
    known: tuple[str, ...] | None = None,
    audiences: tuple[int, ...] | None = (),
    recent: np.ndarray | None = None,
    profiling: bool = True,
    **fields: Any,
) -> Customer:
    record = PROFILE.blank(1)
    for name, value in fields.items():
        if np.ndim(value):
            record[name][0, : len(value)] = value
        else:
            record[name] = value
    bits = PROFILE.mask(fields if known is None else known)
    log = np.zeros(0, RECENT) if recent is None else recent
    members = None if audiences is None else np.array(audiences, np.uint16)
    return Customer(Record(record[0], bits, NOW), members, log, None, (), profiling)


def did(*events: tuple[str, float]) -> np.ndarray:
    """(action, days ago), oldest first."""
    log = np.zeros(len(events), RECENT)
    for entry, (name, days) in zip(log, events, strict=True):
        entry["at"], entry["what"], entry["action"] = NOW - days * DAY, WHAT["acted"], action_code(name)
    return log


def holds(rule: Any, who: Customer, **names: Any) -> bool:
    """Per request and over columns, which must agree."""
    compiled = compile_audiences({"a": parse_rule(rule)}, tags=TAGS, **names)
    found = bool(compiled.evaluate(who, NOW)[0])
    assert found == compiled.evaluate_columns(["a"], columns_of([who], NOW)).members[0, 0]
    return found


TRUE, FALSE, UNKNOWN = ({"field": name, "is": True} for name in ("payroll", "blocked", "profiling"))
VALUES = {"T": TRUE, "F": FALSE, "U": UNKNOWN}
# Kleene's strong tables: conjunction, disjunction.
TABLES = {
    ("T", "T"): "TT", ("T", "F"): "FT", ("T", "U"): "UT", ("F", "T"): "FT", ("F", "F"): "FF",
    ("F", "U"): "FU", ("U", "T"): "UT", ("U", "F"): "FU", ("U", "U"): "UU",
}  # fmt: skip


@pytest.mark.parametrize(("left", "right"), TABLES)
def test_truth_tables(left: str, right: str) -> None:
    who = someone(known=("payroll", "blocked"), payroll=1)
    both, either = TABLES[left, right]
    for form, truth in (("all", both), ("any", either)):
        rule = {form: [VALUES[left], VALUES[right]]}
        assert holds(rule, who) == (truth == "T")
        assert holds({"not": rule}, who) == (truth == "F")
        assert holds({"not": {"not": rule}}, who) == (truth == "T")


@pytest.mark.parametrize(
    ("rule", "fields", "truth"),
    [
        ({"field": "assets", "at_least": 50_000}, {"assets": 50_000.0}, True),
        ({"field": "assets", "at_least": 50_000}, {"assets": 49_999.0}, False),
        ({"field": "assets", "at_least": 50_000}, {}, None),
        ({"field": "assets", "at_least": 1}, {"assets": float("nan")}, None),
        ({"field": "age", "at_least": 18, "below": 60}, {"age": 60}, False),
        ({"field": "age", "at_least": 18, "below": 60}, {"age": 59}, True),
        ({"field": "risk_level", "below": 3}, {"risk_level": 0}, None),  # not assessed
        ({"field": "gender", "in": ["female", "male"]}, {"gender": 3}, False),
        ({"field": "blocked", "is": True}, {"blocked": 1}, True),
        ({"field": "blocked", "is": True}, {"blocked": 37}, True),
        ({"field": "blocked", "is": True}, {"blocked": 36}, False),  # kinds of offers are withheld, no more
        ({"field": "blocked", "is": False}, {"blocked": 8}, True),
        ({"field": "blocked", "is": False}, {"blocked": 9}, False),
        ({"field": "blocked", "in": [True, False]}, {"blocked": 45}, True),
        ({"field": "blocked", "is": False}, {}, None),
        ({"field": "tz", "is": "Asia/Shanghai"}, {"tz": b"Asia/Shanghai"}, True),
        ({"field": "tz", "is": "UTC"}, {"tz": b""}, None),
        ({"field": "kind_affinity.product", "at_least": 0.5}, {"kind_affinity": [0, 0.5]}, True),
        ({"field": "holdings", "has": "p1"}, {"holdings": [key64("p0"), key64("p1")]}, True),
        ({"field": "holdings", "has": "p1"}, {"holdings": [key64("p0")]}, False),
        ({"field": "consents", "has": "third_party"}, {"consents": 4}, True),
        ({"field": "consents", "has": "marketing"}, {"consents": 4}, False),
        ({"tag": "gold"}, {"tags": [8]}, True),
        ({"tag": "gold"}, {"tags": [0]}, False),
        ({"tag": "gold"}, {"tags": [0], "tags_off": [8]}, None),  # they switched it off
        ({"attribute": "job", "is": "x"}, {"attributes": [attribute_token("job", "x")]}, True),
        ({"attribute": "job", "is": "x"}, {"attributes": [attribute_token("job", "y")]}, False),
        ({"attribute": "job", "is": "x"}, {"attributes": [attribute_token("city", "y")]}, None),
    ],
)
def test_fields(rule: Any, fields: dict[str, Any], truth: bool | None) -> None:
    who = someone(**fields)
    names = {"attributes": {"job": ("x", "y")}}
    assert holds(rule, who, **names) == (truth is True)
    assert holds({"not": rule}, who, **names) == (truth is False)


@pytest.mark.parametrize(
    ("rule", "who", "truth"),
    [
        ({"member": "vip"}, someone(audiences=(7, 32_768)), True),
        ({"member": 8}, someone(audiences=(7, 32_768)), False),
        ({"member": 7}, someone(audiences=None), None),
        ({"member": "like"}, someone(audiences=(49_152,)), True),
        ({"member": "like"}, someone(audiences=(49_152,), profiling=False), None),
        ({"member": "vip"}, someone(audiences=(32_768,), profiling=False), True),
        ({"score": "churn", "at_least": 0.5}, someone(audiences=(49_153,)), True),
        ({"score": "churn", "at_least": 0.5}, someone(audiences=(49_154,)), False),
        ({"score": "churn", "at_least": 0.5}, someone(), None),  # they have no score
    ],
)
def test_memberships_and_scores(rule: Any, who: Customer, truth: bool | None) -> None:
    lists = {"vip": 32_768, "like": 49_152, "score:churn>=0.5": 49_153, "score:churn<0.5": 49_154}
    assert holds(rule, who, lists=lists) == (truth is True)
    assert holds({"not": rule}, who, lists=lists) == (truth is False)


FULL = did(*[("viewed", 3.0)] * RECENT_KEEP)


@pytest.mark.parametrize(
    ("rule", "who", "truth"),
    [
        ({"days_since": "login", "at_least": 30}, someone(recent=did(("login", 31), ("viewed", 1))), True),
        ({"days_since": "login", "at_least": 30}, someone(recent=did(("login", 29))), False),
        ({"days_since": "login", "at_least": 30}, someone(), True),  # a whole log without any
        ({"days_since": "login", "at_least": 30}, someone(recent=FULL), None),  # it may have been cut off
        ({"days_since": "login", "at_least": 2}, someone(recent=FULL), True),  # but reaches back that far
        ({"days_since": "login", "below": 7}, someone(recent=did(("login", 6))), True),
        ({"did": "viewed", "within": "7d", "at_least": 2}, someone(recent=did(("viewed", 6))), False),
        ({"did": "viewed", "within": "7d"}, someone(recent=did(("viewed", 6)), profiling=False), None),
    ],
)
def test_live_behaviour(rule: Any, who: Customer, truth: bool | None) -> None:
    assert holds(rule, who) == (truth is True)
    assert holds({"not": rule}, who) == (truth is False)


def test_nobody_who_is_unknown_is_in_anything() -> None:
    stranger = Customer(None, None, None, None)
    for leaf in (TRUE, {"member": 1}, {"tag": "gold"}, {"did": "login", "within": "1d"}):
        assert not holds(leaf, stranger)
        assert not holds({"not": leaf}, stranger)


def compiled_error(rules: dict[str, Any], **names: Any) -> AudienceError:
    with pytest.raises(AudienceError) as bad:
        compile_audiences({name: parse_rule(rule) for name, rule in rules.items()}, **names)
    return bad.value


def test_circles_are_refused_with_their_path() -> None:
    rules = {"a": {"not": {"audience": "b"}}, "b": {"any": [TRUE, {"audience": "c"}]}, "c": {"audience": "a"}}
    bad = compiled_error(rules)
    assert bad.path == "audiences.c.audience"
    assert "a -> b -> c -> a" in bad.problem


@pytest.mark.parametrize(
    ("rule", "path", "problem"),
    [
        ({"all": [TRUE, {"audience": "x"}]}, "audiences.a.all.1.audience", "unknown audience 'x'"),
        ({"not": {"tag": "silver"}}, "audiences.a.not.tag", "not in the tag dictionary"),
        ({"member": "vip"}, "audiences.a.member", "no list 'vip'"),
        ({"score": "churn", "at_least": 0.5}, "audiences.a.score", "not evaluated yet"),
        ({"did": "danced", "within": "7d"}, "audiences.a.did", "no action 'danced'"),
    ],
)
def test_unknown_names_are_refused_with_their_path(rule: Any, path: str, problem: str) -> None:
    bad = compiled_error({"a": rule}, tags=TAGS)
    assert bad.path == path
    assert problem in bad.problem


def test_names_that_mean_nothing_yet_deny_when_not_strict() -> None:
    rules = {"a": parse_rule({"member": "vip"}), "b": parse_rule({"not": {"score": "churn", "at_least": 1}})}
    compiled = compile_audiences(rules, strict=False)
    assert [bad.path for bad in compiled.problems] == ["audiences.a.member", "audiences.b.not.score"]
    assert compiled.scores == (("churn", 1.0, True),)
    assert not compiled.evaluate(someone(), NOW).any()


def test_equal_predicates_are_one() -> None:
    rules = {f"a{i}": parse_rule({"all": [TRUE, {"field": "age", "below": 30}]}) for i in range(5)}
    rules["b"] = parse_rule({"field": "age", "at_least": 30})
    compiled = compile_audiences(rules)
    assert len(compiled.predicates) == 2
    assert len(compiled.network.either) == 1


def test_live_predicates_without_logs_are_told_and_may_be_assumed() -> None:
    rule = {"all": [TRUE, {"not": {"did": "login", "within": "7d"}}]}
    compiled = compile_audiences({"a": parse_rule(rule)})
    columns = columns_of([someone(payroll=1), someone(payroll=0)], NOW)._replace(logs=None)
    without = compiled.evaluate_columns(["a"], columns)
    assumed = compiled.evaluate_columns(["a"], columns, assume_live=True)
    assert without.members.tolist() == [[False, False]]
    assert assumed.members.tolist() == [[True, False]]
    assert [atom.within for atom in assumed.not_counted] == [7 * DAY]


def test_no_audiences_at_all() -> None:
    nothing = compile_audiences({})
    nothing.warm()
    assert nothing.evaluate(someone(), NOW).shape == (0,)


def test_atoms_of_two_types_are_two_predicates_whatever_their_fields() -> None:
    assert len({HasTag(0), Consented(0), Holds(0)}) == 3
    assert AtLeast("age", 3.0) != Equal("age", 3.0)
