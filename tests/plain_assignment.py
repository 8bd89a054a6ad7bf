"""Which arms a unit is in, in plain Python: what `CompiledExperiments.assigned` has to give."""

from __future__ import annotations

from bisect import bisect_right

from features.customer import Customer
from features.ids import key64
from serving.experiment_checks import GLOBAL, HOLDOUT
from serving.experiments import Assigned, CompiledExperiments
from serving.splitting import part_of


def plain_assigned(
    made: CompiledExperiments, subject: str, device: str | None, customer: Customer, now: float, slots: int
) -> tuple[Assigned, ...]:
    """Layer by layer, hash by hash."""
    if customer.unit is None:
        return ()
    unit = customer.unit or subject
    forced = made.testers.get(subject) or made.testers.get(device or "")
    if forced is None and part_of(key64(unit), made.global_salt) < made.global_holdout:
        return (Assigned(GLOBAL, HOLDOUT),)
    theirs = [one.domain[0] for one in made.layers if forced and one.name in forced and one.domain]
    stands = theirs[0] if theirs else part_of(key64(unit), made.domain_salt)
    found: list[Assigned] = []
    for layer in made.layers:
        if forced and layer.name in forced:
            found.append(forced[layer.name])
        elif layer.domain is None or layer.domain[0] <= stands < layer.domain[1]:
            if part_of(key64(unit), layer.salt) >= layer.holdout:
                found.append(Assigned(layer.name, HOLDOUT))
                continue
            for one in layer.experiments:
                owner = (device or (unit if unit.startswith("v:") else None)) if one.by_device else unit
                if not one.slots & slots or owner is None:
                    continue
                key = key64(owner)
                if not one.low <= part_of(key, layer.salt) < one.high:
                    continue
                if part_of(key, one.enrol_salt) >= one.share(now):
                    continue
                if (
                    one.audience >= 0
                    and not made.audiences.evaluate(customer, now, made.lookups)[one.audience]
                ):
                    continue
                arm = one.arms[bisect_right([arm.below for arm in one.arms[:-1]], part_of(key, one.arm_salt))]
                if arm.live:
                    found.append(arm.assigned)
                break
    return tuple(found)
