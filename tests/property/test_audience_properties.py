"""Whatever the rules and whatever is known: per request, over columns, and the plain twin say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.customer import Customer
from features.events import WHAT, action_code
from features.ids import KIND_CODE, Vocabulary, key32, key64
from features.schema import Record
from features.tags import Tag, TagDictionary
from features.transforms import attribute_token
from features.views import PROFILE, RECENT, RECENT_KEEP
from serving.audience import compile_audiences, lookups_of, parse_rule
from serving.audience_columns import columns_of
from tests.plain_audiences import Plain

NOW, DAY = 1_790_000_000.0, 86_400.0
ITEMS = {"p1": ("product", "fund/equity"), "p2": ("product", "fund/bond"), "f1": ("function", "pay")}
LISTS = {"vip": 32_768, "like": 49_152, "score:churn>=0.5": 49_153, "score:churn<0.5": 49_154}
TAGS = {"gold": 0, "new": 9, "risky": 127}
VALUES = {"job": ("teacher", "doctor", "nurse"), "plan": ("a", "b")}
ACTIONS = ("login", "viewed", "clicked", "dismissed")

DICTIONARY = TagDictionary(Tag(name, "rule", "o", "s", 1, "profiling", 1, bit) for name, bit in TAGS.items())
VOCABULARY = Vocabulary(list(ITEMS))
LOOKUPS = lookups_of(
    VOCABULARY.rows_of_keys,
    {
        "kind": np.array([KIND_CODE[kind] for kind, _ in ITEMS.values()], np.uint8),
        "category": np.array([key32(category) for _, category in ITEMS.values()], np.uint32),
        "top_category": np.array([key32(c.partition("/")[0]) for _, c in ITEMS.values()], np.uint32),
    },
)

numbers = st.sampled_from([0.0, 1.0, 2.0, 3.0, 50_000.0])
leaves = st.one_of(
    st.builds(
        lambda f, v: {"field": f, "at_least": v}, st.sampled_from(["assets", "age", "risk_level"]), numbers
    ),
    st.builds(
        lambda f, v: {"field": f, "below": v + 1},
        st.sampled_from(["assets", "kind_affinity.product"]),
        numbers,
    ),
    st.builds(lambda v: {"field": "age", "at_least": v, "below": v + 2}, numbers),
    st.builds(
        lambda v: {"field": "star_level", "in": v}, st.lists(st.integers(0, 3), min_size=1, max_size=3)
    ),
    st.builds(lambda v: {"field": "gender", "is": v}, st.sampled_from(["female", "not_said"])),
    st.builds(lambda v: {"field": "payroll", "is": v}, st.booleans()),
    st.builds(lambda v: {"field": "org", "in": v}, st.lists(st.sampled_from(["bj", "sh"]), min_size=1)),
    st.builds(lambda v: {"field": "tz", "is": v}, st.sampled_from(["Asia/Shanghai", "UTC"])),
    st.builds(lambda v: {"field": "holdings", "has": v}, st.sampled_from(list(ITEMS))),
    st.builds(lambda v: {"field": "consents", "has": v}, st.sampled_from(["marketing", "third_party"])),
    st.builds(lambda v: {"tag": v}, st.sampled_from(list(TAGS))),
    st.builds(lambda v: {"attribute": "job", "is": v}, st.sampled_from(VALUES["job"])),
    st.builds(lambda v: {"attribute": "plan", "in": v}, st.lists(st.sampled_from("ab"), min_size=1)),
    st.builds(lambda v: {"member": v}, st.sampled_from(["vip", "like", 7])),
    st.just({"score": "churn", "at_least": 0.5}),
    st.builds(
        lambda did, within, least, about: {"did": did, "within": within, "at_least": least, **about},
        st.sampled_from(ACTIONS),
        st.sampled_from(["12h", "3d", "30d"]),
        st.integers(1, 3),
        st.sampled_from([{}, {"item": "p1"}, {"kind": "product"}, {"category": "fund"}, {"category": "pay"}]),
    ),
    st.builds(
        lambda d, v: {"days_since": d, "at_least": v}, st.sampled_from(ACTIONS), st.sampled_from([2, 20])
    ),
    st.builds(lambda d: {"days_since": d, "at_least": 1, "below": 9}, st.sampled_from(ACTIONS)),
)
rules = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"all": parts}, st.lists(inner, min_size=1, max_size=4)),
        st.builds(lambda parts: {"any": parts}, st.lists(inner, min_size=1, max_size=4)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=8,
)
audiences = st.lists(rules, min_size=1, max_size=5)


@st.composite
def customers(draw: Any) -> Customer:
    record = PROFILE.blank(1)
    some = {
        "assets": draw(numbers),
        "age": int(draw(numbers)) % 100,
        "risk_level": draw(st.integers(0, 3)),
        "star_level": draw(st.integers(0, 3)),
        "gender": draw(st.integers(0, 2)),
        "payroll": draw(st.integers(0, 1)),
        "org": draw(st.sampled_from([0, key32("bj"), key32("sh"), 5])),
        "tz": draw(st.sampled_from([b"", b"Asia/Shanghai", b"UTC"])),
        "consents": draw(st.integers(0, 7)),
    }
    for name, value in some.items():
        record[name] = value
    record["kind_affinity"][0, 1] = draw(st.sampled_from([0.5, 1.0, 2.0]))
    held = draw(st.lists(st.sampled_from(list(ITEMS)), max_size=3, unique=True))
    record["holdings"][0, : len(held)] = [key64(name) for name in held]
    tokens = [attribute_token(n, v) for n, some in VALUES.items() for v in some if draw(st.booleans())]
    record["attributes"][0, : len(tokens)] = tokens
    on, off = (np.zeros(128, np.uint8) for _ in range(2))
    for bit in TAGS.values():
        on[bit], off[bit] = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    record["tags_off"] = np.packbits(off, bitorder="little")
    record["tags"] = np.packbits(on & (1 - off), bitorder="little")
    known = draw(st.one_of(st.just(PROFILE.all_known), st.integers(0, PROFILE.all_known)))
    number_ids = [7, 9, *LISTS.values()]
    inside = sorted(draw(st.lists(st.sampled_from(number_ids), unique=True)))
    return Customer(
        None if draw(st.integers(0, 9)) == 0 else Record(record[0], known, NOW - DAY),
        None if draw(st.integers(0, 5)) == 0 else np.array(inside, np.uint16),
        None if draw(st.integers(0, 9)) == 0 else draw(logs()),
        None,
        (),
        draw(st.integers(0, 5)) > 0,
    )


@st.composite
def logs(draw: Any) -> np.ndarray:
    n = draw(st.sampled_from([0, 1, 5, RECENT_KEEP]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    log = np.zeros(n, RECENT)
    log["item"] = rng.choice([0, 99, *(key64(name) for name in ITEMS)], n)
    log["at"] = np.sort(NOW - rng.choice([0.0, 0.5, 1, 3, 10, 40], n) * DAY - rng.choice([-60, 0, 60], n))
    log["event"] = np.arange(n)
    names = rng.choice(ACTIONS, n)
    for entry, name in zip(log, names, strict=True):
        acted = name in ("login", "viewed")
        entry["what"] = WHAT["acted" if acted else name]
        entry["action"] = action_code(str(name)) if acted else 0
    return log


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(audiences, st.lists(customers(), min_size=1, max_size=4))
def test_one_by_one_by_columns_and_plainly(raws: list[dict[str, Any]], some: list[Customer]) -> None:
    parsed = {f"a{i}": parse_rule(raw) for i, raw in enumerate(raws)}
    parsed["some"] = parse_rule({"any": [{"audience": name} for name in parsed]})
    parsed["none"] = parse_rule({"not": {"audience": "some"}})
    compiled = compile_audiences(parsed, lists=LISTS, tags=DICTIONARY, attributes=VALUES)
    plain = Plain(parsed, NOW, lists=LISTS, tags=TAGS, values=VALUES, items=ITEMS)
    expected = np.array([[plain.holds(name, who) for who in some] for name in parsed])
    one_by_one = np.array([compiled.evaluate(who, NOW, LOOKUPS) for who in some]).T
    by_columns = compiled.evaluate_columns(compiled.names, columns_of(some, NOW, LOOKUPS))
    np.testing.assert_array_equal(one_by_one, expected)
    np.testing.assert_array_equal(by_columns.members, expected)
    assert by_columns.not_counted == ()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules, customers())
def test_nobody_is_in_an_audience_and_in_its_contrary(raw: dict[str, Any], who: Customer) -> None:
    both = {"a": parse_rule(raw), "b": parse_rule({"not": raw})}
    compiled = compile_audiences(both, lists=LISTS, tags=DICTIONARY, attributes=VALUES)
    assert not compiled.evaluate(who, NOW, LOOKUPS).all()
