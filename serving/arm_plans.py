"""What an arm makes of the plan: the same plan with the arm's changes in it, for the same compiler.

A plan of arms keeps the version of the plan that it is part of: a decision names that version and its arms.
It has every campaign of its plan in the same place, so prices, quotas and counters are shared by all arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from serving.campaign import Campaign, Lever
from serving.experiment import Arm, Changes, Experiment, Experiments, Ranker, SlotChange
from serving.experiment_checks import combinations_in, variants_in
from serving.plan_error import PlanError

if TYPE_CHECKING:
    from serving.plan_text import Plan, SlotSpec

_ALWAYS: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What arms change that no field of a plan says."""

    paused: frozenset[str] = frozenset()  # campaigns
    sources_off: frozenset[str] = frozenset()
    ranker: Ranker = "blend"
    bundle: str | None = None  # version; None: the one that runs


AS_PLANNED: Final = Tuning()


def arm_plans(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Of each arm with changes: its path, and the plan under that arm alone. Raises PlanError."""
    if plan.experiments is None:
        return
    for layer in plan.experiments.layers:
        for one, arm in variants_in(layer):
            path = f"experiments ({one.name}/{arm.name})"
            yield path, varied(plan, [(one, arm)])[0]


def combined(plan: Plan) -> Iterator[tuple[tuple[str, ...], Plan, Tuning]]:
    """Every set of arms that a unit can be in: their names, the plan under them, and the rest."""
    if plan.experiments is None:
        return
    for some in combinations_in(plan.experiments):
        yield (tuple(f"{one.name}/{arm.name}" for one, arm in some), *varied(plan, some))


def varied(plan: Plan, arms: Iterable[tuple[Experiment, Arm]]) -> tuple[Plan, Tuning]:
    """The plan under some arms of different layers. Raises PlanError where a slot cannot be so."""
    slots = {slot.name: slot for slot in plan.slots}
    campaigns = {one.id: one for one in plan.campaigns}
    values, tuning, version = plan.values, AS_PLANNED, plan.version
    for experiment, arm in arms:
        changes, name = arm.changes, f"{experiment.name}/{arm.name}"
        for slot in changes.slots:
            slots[slot] = _slot(slots[slot], changes, name)
        for campaign in {**changes.levers, **changes.creatives}:
            campaigns[campaign] = _campaign(campaigns[campaign], changes, name)
        values = changes.values or values
        tuning = Tuning(
            tuning.paused | frozenset(changes.paused),
            tuning.sources_off | frozenset(changes.sources_off),
            changes.ranker or tuning.ranker,
            (changes.bundle if arm.state == "live" else None) or tuning.bundle,
        )
    made = plan.model_copy(
        update={
            "slots": tuple(slots.values()),
            "campaigns": tuple(campaigns.values()),
            "values": values,
            "experiments": Experiments(salt=plan.experiments.salt, ghosts=plan.experiments.ghosts)
            if plan.experiments is not None
            else None,
        }
    )
    made.__dict__["version"] = version
    return made, tuning


def _slot(slot: SlotSpec, changes: Changes, name: str) -> SlotSpec:
    fields: dict[str, Any] = {field: getattr(slot, field) for field in type(slot).model_fields}
    change = changes.slots[slot.name]
    fields |= change.said
    fields["display_rates"] = rates_of(slot, change)
    try:
        return type(slot).model_validate(fields)
    except ValidationError as bad:
        said = bad.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in said["loc"])
        raise PlanError(
            f"experiments ({name}), slots.{slot.name}.{where}", said["msg"], "correct the value"
        ) from None


def rates_of(slot: SlotSpec, change: SlotChange) -> tuple[float, ...] | None:
    """P(displayed) by position of the changed slot: measured ones go on for another size, the last one being
    repeated, and say nothing of another layout."""
    if change.display_rates is not None or slot.display_rates is None:
        return change.display_rates
    if change.layout not in (None, slot.layout):
        return None
    size, rates = change.size or slot.size, slot.display_rates
    return (*rates[:size], *([rates[-1]] * (size - len(rates))))


def _campaign(one: Campaign, changes: Changes, name: str) -> Campaign:
    update: dict[str, Any] = {}
    if one.id in changes.levers:
        update["lever"] = Lever(
            factor=changes.levers[one.id], owner="experiment", reason=f"arm {name}"[:500], until=_ALWAYS
        )
    if one.id in changes.creatives:
        update["creatives"] = {**one.creatives, **changes.creatives[one.id]}
    return one.model_copy(update=update)
