"""A plan of which one arm is served from another bundle, and that bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.bundle import Bundle
from serving.live import Live
from serving.plan import Plan
from tests.worlds import item, sold, tiny_bundle, tiny_live, tiny_plan

START = "2026-01-01T00:00:00+08:00"
GONE, NEW = 9, 500  # only the running bundle has i9, only the other one i500
ARM = "experiments.layers.0.experiments.0.arms.1.changes.bundle (e/treatment)"


def other_bundle(version: str = "b2", **fields: Any) -> Bundle:
    """The running bundle's items in another order, with other titles; two less and one that is new."""
    items = [
        item(n, title={"zh": f"另{n}", "en": f"Other {n}"}, **fields)
        for n in reversed(range(120))
        if n not in (GONE, 21)
    ]
    return tiny_bundle(items=[*items, item(NEW, "product")], seed=1, version=version)


BUNDLES = {"b2": other_bundle()}


def experiments(version: str = "b2", **changes: Any) -> dict[str, Any]:
    arms = [{"name": "control"}, {"name": "treatment", "changes": {"bundle": version, **changes}}]
    one = {"name": "e", "arms": arms, "ramp": [{"at": START, "enrolled": 1}]}
    testers = {"u1": {"ranking": "e/treatment"}, "u2": {"ranking": "e/control"}}
    return {"layers": [{"name": "ranking", "experiments": [one]}], "testers": testers}


def armed(
    bundles: Mapping[str, Bundle] = BUNDLES, plan: Mapping[str, Any] | None = None, **options: Any
) -> Live:
    made = tiny_plan(experiments=experiments(), **(plan or {}))
    return tiny_live(plan=made, bundles=bundles.__getitem__, **options)


def plan_of(version: str = "b2", **changes: Any) -> Plan:
    return tiny_plan(experiments=experiments(version), campaigns=[sold(1, "i8")], **changes)
