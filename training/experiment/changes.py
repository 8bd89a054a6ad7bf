"""An experiment in words, and what its end makes of head office's frame: a winner made the plan.

Pure, over the frame as JSON. Whoever proposes the result, somebody else approves and publishes it, as any
change of the plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, Final

from serving.arm_plans import rates_of
from serving.arm_switch import find_arm
from serving.experiment import Arm, Changes, Experiment
from serving.experiment_compiling import campaigns_changed
from serving.plan_text import SlotSpec
from training.usage import UsageError

LEVER_S: Final = 30 * 86_400.0  # a promoted lever is looked at again after so long
Raw = dict[str, Any]


def promoted(frame: Mapping[str, Any], name: str, arm: str, *, owner: str, now: float) -> Raw:
    """The frame with the arm's changes in it, and without the experiment. Raises ArmError, UsageError."""
    made = deepcopy(dict(frame))
    layer, experiment, found = find_arm(made, name, arm)
    changes = Arm.model_validate(found).changes
    if changes.ranker is not None or changes.sources_off:
        raise UsageError(
            f"{name}/{arm} changes the ranker or the sources, which no field of a plan says: let the arm stay"
            " with its whole layer enrolled, or train the next bundle so"
        )
    if changes.bundle is not None:
        raise UsageError(
            f"{name}/{arm} is served from bundle {changes.bundle}, which no field of a plan says: make that"
            f" one live (fenliu bundle promote {changes.bundle}), then take the experiment out of the plan"
        )
    _apply(made, changes, f"promoted from {name}/{arm}", owner, now)
    layer["experiments"] = [one for one in layer["experiments"] if one is not experiment]
    return made


def told_of(one: Experiment) -> tuple[str, ...]:
    """What a reader of its report needs to know: question, owner, dates, ramp, and what each arm changes."""
    found = [f"Question: {one.question}"] if one.question else []
    found += [f"Owner: {one.owner}"] if one.owner else []
    until = "no end" if one.until is None else f"{one.until:%Y-%m-%d}"
    found.append(f"From {one.ramp[0].at:%Y-%m-%d} to {until}; a unit is a {one.unit}")
    steps = ", ".join(f"{step.enrolled:.0%} from {step.at:%Y-%m-%d %H:%M}" for step in one.ramp)
    found.append(f"Enrolled: {steps}, of {one.range[0]:g} … {one.range[1]:g} of the layer")
    if (campaigns := campaigns_changed(one)) is not None:
        found.append(
            f"Counted: from a unit's first page on which {' or '.join(sorted(campaigns))} could have been"
            " shown, in whichever arm; on others the arms are alike"
        )
    if one.audience is not None:
        found.append(f"Audience: {one.audience}")
    for arm in one.arms:
        said = arm.changes.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
        what = json.dumps(said, ensure_ascii=False) if said else "the plan as it stands"
        found.append(f"Arm {arm.name}, weight {arm.weight:g}{', off' if arm.state == 'off' else ''}: {what}")
    return tuple(found)


def _apply(made: Raw, changes: Changes, reason: str, owner: str, now: float) -> None:
    for slot in made["slots"]:
        if slot["name"] in changes.slots:
            change = changes.slots[slot["name"]]
            rates = rates_of(SlotSpec.model_validate(slot), change)
            slot |= change.model_dump(mode="json", exclude_none=True)
            slot.pop("display_rates", None)
            if rates is not None:
                slot["display_rates"] = list(rates)
    if changes.values is not None:
        made["values"] = changes.values.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for campaign in made.get("campaigns", []):
        one = campaign["id"]
        if one in changes.levers:
            until = datetime.fromtimestamp(now + LEVER_S, UTC).isoformat()
            campaign["lever"] = {
                "factor": changes.levers[one], "owner": owner, "reason": reason, "until": until,
            }  # fmt: skip
        if one in changes.creatives:
            held = {item: list(some) for item, some in changes.creatives[one].items()}
            campaign["creatives"] = {**campaign.get("creatives", {}), **held}
        if one in changes.paused:
            campaign["state"] = "paused"
