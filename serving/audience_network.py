"""Audience rules -> distinct atoms and one and/or network over their literals.

Negation is pushed down to the literals (De Morgan's laws hold in Kleene's strong logic, 1938), so that "this
rule is TRUE" is a monotone network over "known to hold" and "known not to hold"; equal parts are one node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import ACTIONS, action_code
from features.ids import KIND_CODE, key32, key64
from features.tags import TagDictionary
from features.transforms import DAY, attribute_token
from serving.audience_rules import (
    ANSWERS,
    AllOf,
    AnyOf,
    Attribute,
    DaysSince,
    Did,
    Member,
    Named,
    Not,
    Profile,
    Rule,
    Score,
    Tagged,
    element_of,
    numbers_of,
    seconds_of,
)
from serving.predicates import (
    ANY_ITEM,
    NOTHING_PROVES,
    OF_CATEGORY,
    OF_ITEM,
    OF_KIND,
    AtLeast,
    Atom,
    Attributed,
    Consented,
    Equal,
    Happened,
    HasTag,
    Holds,
    InList,
    event_code,
)

DEEPEST: Final = 32  # rules within rules within rules
LONGEST: Final = 64  # audiences that name audiences that name audiences


class AudienceError(ValueError):
    """An audience that cannot be run; says where, what is wrong, and what to do."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.path, self.problem, self.remedy = path, problem, remedy


class Network(NamedTuple):
    """And/or nodes after the 2 P literals, children before parents; `roots`: the value of each audience."""

    either: NDArray[np.uint8]  # (N,) 1: any of the children, 0: all of them
    child_at: NDArray[np.uint32]  # (N + 1,)
    children: NDArray[np.uint32]  # unsigned: compiled code then looks for no negative index
    roots: NDArray[np.uint32]


def score_list(score: str, at_least: float, *, below: bool = False) -> str:
    """The name of the list that a score's threshold is evaluated into."""
    return f"score:{score}{'<' if below else '>='}{at_least:g}"


class Dictionary(NamedTuple):
    """What names in rules may refer to."""

    lists: Mapping[str, int]
    tags: TagDictionary
    actions: Collection[str] = ACTIONS


Ref = int  # >= 0: literal 2 i of atom i ("holds") or 2 i + 1 ("does not hold"); < 0: node -1 - ref
_Node = tuple[bool, tuple[Ref, ...]]  # any or all, and of what


class Builder:
    """Adds audiences one by one; `problems` collects names that mean nothing yet: those are never known."""

    def __init__(self, rules: Mapping[str, Rule], names: Dictionary) -> None:
        self.atoms: dict[Atom, int] = {}
        self.problems: list[AudienceError] = []
        self.scores: dict[tuple[str, float, bool], None] = {}  # (score, threshold, its contrary matters)
        self._rules, self._names = rules, names
        self._nodes: dict[_Node, Ref] = {}
        self._done: dict[tuple[str, bool], Ref] = {}
        self._open: list[str] = []

    def audience(self, name: str, holds: bool, path: str) -> Ref:
        """The node of an audience, or of its contrary. Raises AudienceError for circles."""
        if (found := self._done.get((name, holds))) is not None:
            return found
        if name not in self._rules:
            raise AudienceError(
                path, f"names the unknown audience {name!r}", "declare it, or correct its name"
            )
        if name in self._open:
            circle = " -> ".join((*self._open[self._open.index(name) :], name))
            raise AudienceError(
                path, f"audiences go in a circle: {circle}", "take one of these references out"
            )
        if len(self._open) >= LONGEST:
            raise AudienceError(
                path, f"more than {LONGEST} audiences within audiences", "flatten some of them"
            )
        self._open.append(name)
        found = self._done[name, holds] = self._rule(self._rules[name], holds, f"audiences.{name}", 0)
        self._open.pop()
        return found

    def network(self, roots: Collection[Ref], place: Mapping[Atom, int]) -> Network:
        """The finished network. `place`: the predicate of each atom, of P."""
        size, of_atom = len(place), [place[atom] for atom in self.atoms]

        def value(ref: Ref) -> int:
            if ref < 0:
                return 2 * size - 1 - ref
            return of_atom[ref >> 1] + size * (ref & 1)

        children = [[value(ref) for ref in refs] for _, refs in self._nodes]
        return Network(
            np.array([either for either, _ in self._nodes], np.uint8),
            np.cumsum([0, *map(len, children)]).astype(np.uint32),
            np.array([one for some in children for one in some], np.uint32),
            np.array([value(ref) for ref in roots], np.uint32),
        )

    def _rule(self, rule: Rule, holds: bool, path: str, depth: int) -> Ref:
        """What is TRUE when the rule is TRUE (`holds`), or when it is FALSE."""
        if depth > DEEPEST:
            raise AudienceError(path, f"more than {DEEPEST} rules within rules", "name a part as an audience")
        if isinstance(rule, AllOf | AnyOf):
            either = isinstance(rule, AnyOf)
            word, parts = ("any", rule.any) if isinstance(rule, AnyOf) else ("all", rule.all)
            refs = [self._rule(r, holds, f"{path}.{word}.{i}", depth + 1) for i, r in enumerate(parts)]
            return self._join(either == holds, refs)
        if isinstance(rule, Not):
            return self._rule(rule.not_, not holds, f"{path}.not", depth + 1)
        if isinstance(rule, Named):
            return self.audience(rule.audience, holds, f"{path}.audience")
        return self._leaf(rule, holds, path)

    def _leaf(self, rule: Rule, holds: bool, path: str) -> Ref:
        if isinstance(rule, Profile):
            return self._profile(rule, holds)
        if isinstance(rule, Attribute):
            tokens = [attribute_token(rule.attribute, value) for value in rule.values]
            return self._any_of([Attributed(rule.attribute, token) for token in tokens], holds)
        if isinstance(rule, Tagged):
            return self._tag(rule, holds, path)
        if isinstance(rule, Member):
            return self._member(rule, holds, path)
        if isinstance(rule, Score):
            return self._score(rule, holds, path)
        if isinstance(rule, DaysSince):
            return self._days_since(rule, holds, path)
        assert isinstance(rule, Did)
        about, key = _about(rule)
        code = self._code(rule.did, f"{path}.did")
        return self._literal(Happened(code, seconds_of(rule.within), rule.at_least, about, key), holds)

    def _profile(self, rule: Profile, holds: bool) -> Ref:
        if rule.has is not None:
            element = element_of(rule.field, rule.has)
            return self._literal(Holds(element) if rule.field == "holdings" else Consented(element), holds)
        if rule.values:
            numbers = (number for value in rule.values for number in numbers_of(rule.field, value))
            return self._any_of([Equal(rule.field, number) for number in numbers], holds)
        bounds = []
        if rule.at_least is not None:
            bounds.append(self._literal(AtLeast(rule.field, rule.at_least), holds))
        if rule.below is not None:
            bounds.append(self._literal(AtLeast(rule.field, rule.below), not holds))
        return self._join(not holds, bounds)

    def _days_since(self, rule: DaysSince, holds: bool, path: str) -> Ref:
        code = self._code(rule.days_since, f"{path}.days_since")
        bounds = []
        if rule.at_least is not None:
            bounds.append(self._literal(Happened(code, rule.at_least * DAY, 1), not holds))
        if rule.below is not None:
            bounds.append(self._literal(Happened(code, rule.below * DAY, 1), holds))
        return self._join(not holds, bounds)

    def _tag(self, rule: Tagged, holds: bool, path: str) -> Ref:
        if rule.tag not in self._names.tags:
            remedy = "add it to the dictionary, or correct its name"
            return self._unknown(f"{path}.tag", f"{rule.tag!r} is not in the tag dictionary", remedy)
        return self._literal(HasTag(self._names.tags[rule.tag].bit), holds)

    def _member(self, rule: Member, holds: bool, path: str) -> Ref:
        number = rule.member if isinstance(rule.member, int) else self._names.lists.get(rule.member)
        if number is None:
            remedy = "upload it, or correct its name"
            return self._unknown(f"{path}.member", f"there is no list {rule.member!r}", remedy)
        return self._literal(InList(number), holds)

    def _score(self, rule: Score, holds: bool, path: str) -> Ref:
        self.scores[rule.score, rule.at_least, not holds] = None
        number = self._names.lists.get(score_list(rule.score, rule.at_least))
        contrary = self._names.lists.get(score_list(rule.score, rule.at_least, below=True), NOTHING_PROVES)
        if number is None or (not holds and contrary == NOTHING_PROVES):
            problem = f"score {rule.score} at {rule.at_least:g} is not evaluated yet"
            return self._unknown(f"{path}.score", problem, "evaluate the plan's scores, then compile again")
        return self._literal(InList(number, contrary), holds)

    def _code(self, name: str, path: str) -> int:
        if name in ANSWERS:
            return event_code(name, 0)
        if name not in self._names.actions:
            remedy = f"name {', '.join(ANSWERS)} or one of the plan's actions"
            raise AudienceError(path, f"the plan knows no action {name!r}", remedy)
        return event_code("acted", action_code(name))

    def _unknown(self, path: str, problem: str, remedy: str) -> Ref:
        """A literal that is never true."""
        self.problems.append(AudienceError(path, problem, remedy))
        return self._literal(InList(0, NOTHING_PROVES), True)

    def _any_of(self, atoms: Collection[Atom], holds: bool) -> Ref:
        return self._join(holds, [self._literal(atom, holds) for atom in atoms])

    def _literal(self, atom: Atom, holds: bool) -> Ref:
        return 2 * self.atoms.setdefault(atom, len(self.atoms)) + (not holds)

    def _join(self, either: bool, refs: Collection[Ref]) -> Ref:
        distinct = tuple(sorted(set(refs)))
        if len(distinct) == 1:
            return distinct[0]
        return self._nodes.setdefault((either, distinct), -1 - len(self._nodes))


def _about(rule: Did) -> tuple[int, int]:
    if rule.item is not None:
        return OF_ITEM, key64(rule.item)
    if rule.category is not None:
        return OF_CATEGORY, key32(rule.category)
    if rule.kind is not None:
        return OF_KIND, KIND_CODE[rule.kind]
    return ANY_ITEM, 0
