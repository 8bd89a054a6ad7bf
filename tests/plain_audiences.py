"""The twin of audience evaluation: a rule and a customer, recursively, in three values. Slow and obvious."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.customer import Customer
from features.events import WHAT, action_code
from features.ids import KINDS, key32, key64
from features.transforms import attribute_token
from features.views import CONSENTS, RECENT_WHOLE
from serving.audience_rules import (
    GENDERS,
    AllOf,
    AnyOf,
    Attribute,
    DaysSince,
    Did,
    Member,
    Named,
    Not,
    Profile,
    Score,
    Tagged,
    seconds_of,
)

Truth = bool | None
MISSING_ZERO = ("org", "city", "tz", "risk_level", "last_active")


class Plain:
    """`items`: id -> (kind, category); `values`: attribute name -> values; `tags`: tag -> bit."""

    def __init__(
        self,
        rules: Mapping[str, Any],
        now: float,
        *,
        lists: Mapping[str, int],
        tags: Mapping[str, int],
        values: Mapping[str, Sequence[str]],
        items: Mapping[str, tuple[str, str]],
    ) -> None:
        self.rules, self.now, self.lists, self.tags, self.values = rules, now, lists, tags, values
        self.items = {key64(name): facts for name, facts in items.items()}

    def holds(self, name: str, who: Customer) -> bool:
        return self.truth(self.rules[name], who) is True

    def truth(self, rule: Any, who: Customer) -> Truth:
        if isinstance(rule, AllOf):
            found = [self.truth(one, who) for one in rule.all]
            return False if False in found else None if None in found else True
        if isinstance(rule, AnyOf):
            found = [self.truth(one, who) for one in rule.any]
            return True if True in found else None if None in found else False
        if isinstance(rule, Not):
            inner = self.truth(rule.not_, who)
            return None if inner is None else not inner
        if isinstance(rule, Named):
            return self.truth(self.rules[rule.audience], who)
        if isinstance(rule, Profile):
            return self._profile(rule, who)
        if isinstance(rule, Attribute):
            return self._attribute(rule, who)
        if isinstance(rule, Tagged):
            return self._tag(rule, who)
        if isinstance(rule, Member):
            number = rule.member if isinstance(rule.member, int) else self.lists[rule.member]
            return self._member(number, who)
        if isinstance(rule, Score):
            return self._score(rule, who)
        if isinstance(rule, Did):
            return self._did(rule.did, seconds_of(rule.within), rule.at_least, rule, who)
        assert isinstance(rule, DaysSince)
        parts = []
        if rule.at_least is not None:
            happened = self._did(rule.days_since, rule.at_least * 86_400, 1, None, who)
            parts.append(None if happened is None else not happened)
        if rule.below is not None:
            parts.append(self._did(rule.days_since, rule.below * 86_400, 1, None, who))
        return False if False in parts else None if None in parts else True

    def _profile(self, rule: Profile, who: Customer) -> Truth:
        field, _, part = rule.field.partition(".")
        if not who.knows(field):
            return None
        value = who.get(field)
        if rule.has is not None:
            if field == "holdings":
                return key64(rule.has) in value.tolist()
            return bool(int(value) >> CONSENTS.index(rule.has) & 1)
        if part:
            value = value[KINDS.index(part)]
        if field == "tz":
            value = value.decode()
        if field in MISSING_ZERO and not value:
            return None
        if field in ("org", "city"):
            return int(value) in [key32(one) for one in rule.values]
        if field == "tz":
            return value in rule.values
        if rule.field == "blocked":
            return bool(int(value) & 1) in [bool(one) for one in rule.values]
        if rule.values:
            wanted = [GENDERS[one] if isinstance(one, str) else float(one) for one in rule.values]
            return float(value) in wanted
        return (rule.at_least is None or float(value) >= rule.at_least) and (
            rule.below is None or float(value) < rule.below
        )

    def _attribute(self, rule: Attribute, who: Customer) -> Truth:
        if not who.knows("attributes"):
            return None
        held = set(who.get("attributes").tolist())
        of_name = [v for v in self.values[rule.attribute] if attribute_token(rule.attribute, v) in held]
        if set(of_name) & set(rule.values):
            return True
        # Each value must be proved absent, by some other value of the same name.
        return False if all(set(of_name) - {value} for value in rule.values) else None

    def _tag(self, rule: Tagged, who: Customer) -> Truth:
        bit = self.tags[rule.tag]
        off = who.profile.values["tags_off"] if who.profile is not None else ()  # as decoding masks tags
        if not who.knows("tags") or off[bit // 8] >> (bit % 8) & 1:
            return None
        return bool(who.get("tags")[bit // 8] >> (bit % 8) & 1)

    def _member(self, number: int, who: Customer) -> Truth:
        if who.audiences is None or (number >= 49_152 and not who.profiling):
            return None
        return number in who.audiences.tolist()

    def _score(self, rule: Score, who: Customer) -> Truth:
        above = self._member(self.lists[f"score:{rule.score}>={rule.at_least:g}"], who)
        under = self._member(self.lists[f"score:{rule.score}<{rule.at_least:g}"], who)
        return True if above else False if under else None

    def _did(self, name: str, within: float, least: int, about: Did | None, who: Customer) -> Truth:
        if who.recent is None or not who.profiling:
            return None
        since = self.now - within
        what = WHAT[name] if name in ("clicked", "converted", "dismissed") else WHAT["acted"]
        action = 0 if what != WHAT["acted"] else action_code(name)
        count = 0
        for entry in who.recent:
            if (entry["what"], entry["action"]) == (what, action) and entry["at"] > since:
                count += about is None or self._is_about(int(entry["item"]), about)
        if count >= least:
            return True
        whole = len(who.recent) < RECENT_WHOLE or float(np.min(who.recent["at"])) <= since
        return False if whole else None

    def _is_about(self, item: int, about: Did) -> bool:
        if about.item is not None:
            return item == key64(about.item)
        kind, category = self.items.get(item, ("", ""))
        if about.kind is not None:
            return kind == about.kind
        return about.category is None or about.category in (category, category.partition("/")[0])
