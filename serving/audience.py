"""Audiences of a plan, compiled: every distinct predicate once, then the rules' logic.

    audiences = compile_audiences(plan.audiences, lists={"vip2026": 32768}, tags=dictionary)
    audiences.evaluate(customer, now, lookups)             # (A,) bool, in the order of `names`
    audiences.evaluate_columns(["winback"], columns)       # the same predicates over many customers at once

Profile fields, tags and attributes are read from the customer's record per request, fresher than any batch;
what the record does not hold (lists, look-alikes, scores) is a membership; behaviour comes from the live log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.events import ACTIONS
from features.schema import Record
from features.tags import TagDictionary
from features.transforms import attribute_token
from features.views import PROFILE, RECENT
from serving.audience_columns import Columns as Columns
from serving.audience_columns import Logs as Logs
from serving.audience_columns import Selected as Selected
from serving.audience_columns import select
from serving.audience_facts import NO_LOOKUPS
from serving.audience_facts import Lookups as Lookups
from serving.audience_facts import lookups_of as lookups_of
from serving.audience_network import AudienceError as AudienceError
from serving.audience_network import Builder, Dictionary, Network
from serving.audience_rules import Rule as Rule
from serving.audience_rules import parse_rule as parse_rule
from serving.predicates import Attributed, Predicates, arranged

if TYPE_CHECKING:
    from serving.audience_kernel import Evaluator

NO_TAGS: Final = TagDictionary()


@dataclass(frozen=True, slots=True, eq=False)
class CompiledAudiences:
    """`names` in the plan's order. `problems`: names that mean nothing yet (their rules are never known).

    `scores`: (score, threshold, whether its contrary is needed) of every imported score that a rule names.
    """

    names: tuple[str, ...]
    predicates: Predicates
    network: Network
    problems: tuple[AudienceError, ...] = ()
    scores: tuple[tuple[str, float, bool], ...] = ()
    index: Mapping[str, int] = field(default_factory=dict)
    _evaluator: list[Evaluator] = field(default_factory=list, repr=False)  # when first needed

    def __len__(self) -> int:
        return len(self.names)

    def evaluate(self, customer: Customer, now: float, lookups: Lookups = NO_LOOKUPS) -> NDArray[np.bool_]:
        """(A,) whether the customer is known to be in each audience. `now`: POSIX seconds."""
        if not self.names:
            return np.zeros(0, np.bool_)
        if not self._evaluator:
            # Imported late: Numba takes a while to load, and whoever only reads plans does not need it.
            from serving.audience_kernel import Evaluator

            self._evaluator.append(Evaluator(self.predicates, self.network))
        return self._evaluator[0].holds(customer, now, lookups)

    def warm(self) -> None:
        """Compile or load the machine code, so that no request waits for it (seconds, the first time)."""
        record = Record(PROFILE.blank_record, PROFILE.all_known, 0.0)
        once, nobody = np.zeros(1, RECENT), np.zeros(0, np.uint16)
        self.evaluate(Customer(record, nobody, once, None), 0.0)

    def evaluate_columns(
        self, names: Sequence[str], columns: Columns, *, assume_live: bool = False
    ) -> Selected:
        """(len(names), n): who is in each audience, by the same predicates over n customers' columns.

        Live predicates need `columns.logs`. Without it they are unknown, or taken for satisfied with
        `assume_live` (an upper bound); `Selected.not_counted` names them. KeyError for an unknown audience.
        """
        roots = self.network.roots[[self.index[name] for name in names]]
        return select(self.predicates, self.network, roots, columns, assume_live=assume_live)


def compile_audiences(
    rules: Mapping[str, Rule],
    *,
    lists: Mapping[str, int] | None = None,
    tags: TagDictionary = NO_TAGS,
    attributes: Mapping[str, Collection[str]] | None = None,
    actions: Collection[str] = ACTIONS,
    strict: bool = True,
) -> CompiledAudiences:
    """Compile rules by name.

    `lists`: numbers of lists and evaluated scores by name (serving.lists); `attributes`: the values that each
    categorical column has, beyond those that rules name; `actions`: the plan's. Raises AudienceError for
    circles, unknown audiences and actions; also, when `strict`, for unknown lists, tags and scores, which
    otherwise are never known and listed in `problems`.
    """
    builder = Builder(rules, Dictionary(lists or {}, tags, actions))
    roots = [builder.audience(name, True, f"audiences.{name}") for name in rules]
    if strict and builder.problems:
        raise builder.problems[0]
    values: dict[str, set[int]] = defaultdict(set)
    for name, some in (attributes or {}).items():
        values[name] |= {attribute_token(name, one) for one in some}
    for atom in builder.atoms:
        if isinstance(atom, Attributed):
            values[atom.name].add(atom.token)
    predicates = arranged(builder.atoms, values)
    place = {atom: p for p, atom in enumerate(predicates.atoms)}
    return CompiledAudiences(
        names=tuple(rules),
        predicates=predicates,
        network=builder.network(roots, place),
        problems=tuple(builder.problems),
        scores=tuple(builder.scores),
        index={name: i for i, name in enumerate(rules)},
    )


NO_AUDIENCES: Final = compile_audiences({})
