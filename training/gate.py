"""May this bundle serve? Every reason against is found and said; none is a matter of taste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.ids import keys64
from serving.bundle import Bundle
from training.config import GateRules


@dataclass(frozen=True, slots=True)
class Comparison:
    """The gate's metric for the candidate and for another, on the same customers and later events.

    `how` says what the other is and how it was made comparable. `difference` is candidate - other with its
    paired 95 % interval.
    """

    other: str
    how: str
    candidate: float
    value: float
    difference: tuple[float, float, float]
    customers: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason not to promote: a stable code and a sentence."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`promote`: nothing speaks against, or a person forced it (the refusals stay on record)."""

    refusals: tuple[Refusal, ...]
    forced: bool = False
    off_policy: Mapping[str, Any] | None = None  # what logged traffic says of it, where it was asked

    @property
    def passed(self) -> bool:
        return not self.refusals

    @property
    def promote(self) -> bool:
        return self.passed or self.forced

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "forced": self.forced and not self.passed,
            "refusals": [{"code": one.code, "text": one.text} for one in self.refusals],
            **({} if self.off_policy is None else {"off_policy": dict(self.off_policy)}),
        }


def judge(
    rules: GateRules,
    *,
    comparisons: Sequence[Comparison],
    problems: Sequence[Refusal] = (),
    golden: Sequence[str] = (),
    index_recall: Mapping[str, float] | None = None,
    force: bool = False,
) -> Verdict:
    """All refusals: worse than another, non-finite or colliding parts, golden queries, index recall."""
    refusals = [*problems]
    for comparison in comparisons:
        refusals += _worse(rules, comparison)
    refusals += [Refusal("golden_failed", text) for text in golden]
    for kind, recall in (index_recall or {}).items():
        if not recall >= rules.index_recall:
            text = (
                f"the index of {kind} finds {recall:.4f} of the exact nearest, less than {rules.index_recall}"
            )
            refusals.append(Refusal("index_recall", text))
    return Verdict(tuple(refusals), force)


def _worse(rules: GateRules, comparison: Comparison) -> list[Refusal]:
    mine, other = comparison.candidate, comparison.value
    if not (np.isfinite(mine) and np.isfinite(other)):
        return [Refusal("not_finite", f"{rules.metric} against {comparison.other} is not a number")]
    if comparison.customers < rules.fewest_customers:
        text = (
            f"only {comparison.customers} customers have later events to compare with {comparison.other} on; "
            f"at least {rules.fewest_customers} are needed"
        )
        return [Refusal("too_few_customers", text)]
    floor = other * (1.0 - rules.margin)
    if mine >= floor:
        return []
    gap, low, high = comparison.difference
    text = (
        f"{rules.metric} {mine:.4f} is below {comparison.other}'s {other:.4f} by over {rules.margin:.0%} "
        f"(difference {gap:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, {comparison.customers} customers; "
        f"{comparison.how})"
    )
    return [Refusal(f"worse_than_{comparison.other}", text)]


def inspect(bundle: Bundle) -> list[Refusal]:
    """What must never be published: values that are not finite, two items with one key."""
    found = [*_colliding(bundle.items.ids)]
    for name, values in _arrays(bundle).items():
        if not np.isfinite(values).all():
            bad = int(np.count_nonzero(~np.isfinite(values)))
            found.append(Refusal("not_finite", f"{name} holds {bad} values that are not finite"))
    return found


def _colliding(ids: Sequence[str]) -> list[Refusal]:
    keys = keys64(ids)
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    return [
        Refusal(
            "key_collision",
            f"items {ids[order[at]]!r} and {ids[order[at + 1]]!r} share a 64-bit key: rename one of them",
        )
        for at in same
    ]


def _arrays(bundle: Bundle) -> dict[str, Any]:
    """Every array of floats that takes part in a score."""
    arrays: dict[str, Any] = {
        "popular.shares": bundle.popular.shares,
        "popular.top_scores": bundle.popular.top_scores,
        "popular.city_scores": bundle.popular.city_scores,
        "neighbours.weights": bundle.neighbours.weights,
        "blend": bundle.blend.coefficients,
    }
    model: Any = bundle.model
    for place, part in enumerate(getattr(model, "parts", (model,))):
        arrays |= _of_model(part, f"model.{place}" if part is not model else "model")
    for name in bundle.stats.dtype.names or ():
        arrays[f"stats.{name}"] = bundle.stats[name]
    return arrays


def _of_model(model: Any, where: str) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for name in ("vectors", "solved", "gram", "spectrum", "prior", "neighbours", "whole"):
        value = getattr(model, name, None)
        if isinstance(value, np.ndarray):
            arrays[f"{where}.{name}"] = value
        elif value is not None:
            parts = {part: getattr(value, part, None) for part in ("mean", "weights")}
            arrays |= {f"{where}.{name}.{part}": one for part, one in parts.items() if one is not None}
    return arrays
