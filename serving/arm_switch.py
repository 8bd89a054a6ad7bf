"""An arm switched off in head office's frame: its units see the plan as it stands, nobody else moves."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from serving.experiment import Arm

Raw = dict[str, Any]


class ArmError(ValueError):
    """There is no such arm to be changed; says which there are."""


def switched_off(frame: Mapping[str, Any], name: str, arm: str) -> Raw:
    """The frame, as JSON, with the arm off. Raises ArmError: unknown, the control, off already."""
    made = deepcopy(dict(frame))
    _, experiment, found = find_arm(made, name, arm)
    if found is experiment["arms"][0]:
        raise ArmError(f"{arm!r} is the control of {name!r}: pause the experiment instead (state: paused)")
    if Arm.model_validate(found).state == "off":
        raise ArmError(f"{name}/{arm} is off already")
    found["state"] = "off"
    return made


def find_arm(frame: Raw, name: str, arm: str) -> tuple[Raw, Raw, Raw]:
    """The layer, the experiment and the arm in the frame. Raises ArmError."""
    layers = (frame.get("experiments") or {}).get("layers", [])
    every = [(layer, one) for layer in layers for one in layer.get("experiments", [])]
    for layer, one in every:
        if one["name"] == name:
            for each in one["arms"]:
                if each["name"] == arm:
                    return layer, one, each
            known = ", ".join(each["name"] for each in one["arms"])
            raise ArmError(f"{name!r} has no arm {arm!r}: it has {known}")
    known = ", ".join(one["name"] for _, one in every) or "none"
    raise ArmError(f"head office's frame has no experiment {name!r}: it has {known}")
