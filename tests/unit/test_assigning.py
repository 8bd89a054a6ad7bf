"""Assignment in compiled code is the plain one: random plans, units, devices, testers and pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import serving.experiments as experiments
from features.ids import key64, signed64
from serving.experiment_compiling import compile_experiments
from tests.plain_assignment import plain_assigned
from tests.worlds import NOW, customer, tiny_plan

DAY = 86_400.0
RULES = {"old": {"field": "age", "at_least": 50}, "young": {"not": {"audience": "old"}}}
CHANGES: tuple[dict[str, Any], ...] = (
    {}, {"slots": {"home.feed": {"explore": 0.2}}}, {"slots": {"home.shelf": {"explore": 0.1}}},
)  # fmt: skip


def plan_of(rng: np.random.Generator) -> Any:
    made = []
    for layer in range(3):
        cuts = np.sort(0.9 * rng.random(3)).round(3).tolist()
        some = []
        for number, (low, high) in enumerate(zip([0.0, *cuts], [*cuts, 0.9], strict=True)):
            if rng.random() < 0.25 or high - low < 0.01:
                continue
            one: dict[str, Any] = {
                "name": f"e{layer}{number}",
                "range": [low, high],
                "ramp": [
                    {"at": "2026-01-01T00:00:00Z", "enrolled": float(rng.choice([0.0, 0.3, 1.0]))},
                    {"at": "2026-12-01T00:00:00Z", "enrolled": 1.0},
                ],
                "arms": [
                    {
                        "name": f"a{at}",
                        "weight": float(rng.uniform(0.5, 2)),
                        "state": "off" if at and rng.random() < 0.2 else "live",
                        "changes": CHANGES[layer] if at == 1 and number < 2 else {},
                    }
                    for at in range(int(rng.integers(2, 5)))
                ],
                "unit": "device" if rng.random() < 0.3 else "customer",
            }
            if rng.random() < 0.4:
                one["audience"] = str(rng.choice(["old", "young"]))
            some.append(one)
        made.append({"name": f"l{layer}", "holdout": float(rng.choice([0.0, 0.1])), "experiments": some})
    made[0]["domain"] = "left"
    named = [(one["name"], some["name"]) for one in made for some in one["experiments"]][:2]
    testers = {"u3": {layer: f"{name}/a1" for layer, name in named}}
    text = {
        "holdout": float(rng.choice([0.0, 0.05])), "layers": made, "testers": testers,
        "domains": [{"name": "left", "share": 0.5}],
    }  # fmt: skip
    return tiny_plan(experiments=text, audiences=RULES)


@pytest.mark.parametrize("seed", range(8))
def test_the_loop_is_the_plain_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = plan_of(rng)
    bits = {slot.name: 1 << (63 if slot.name == "home.feed" else at) for at, slot in enumerate(plan.slots)}
    made, met = compile_experiments(plan, bits), set()
    for number in range(300):
        subject = str(rng.choice([f"u:u{number % 40}", f"v:d{number % 40}"]))
        device = f"v:d{rng.integers(0, 40)}" if rng.random() < 0.5 else None
        who = customer(age=int(rng.choice([30, 60])))
        who = replace(who, unit=rng.choice(["", "v:d7", None], p=[0.7, 0.2, 0.1]))
        now = NOW + float(rng.choice([-400, 0, 120])) * DAY
        slots = int(sum(bit for bit in bits.values() if rng.random() < 0.7))
        asked = subject, device, who, now, slots
        found = made.assigned(*asked)
        assert found == plain_assigned(made, *asked)
        met.update(one.name for one in found)
    assert len(met) > 5


def test_a_unit_is_told_apart_by_the_same_bits() -> None:
    for text in ("u:u1", "v:d1", ""):
        assert signed64(text) % 2**64 == key64(text)


def test_answers_that_are_forgotten_are_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "MOST_TOLD", 2)
    plan = plan_of(np.random.default_rng(1))
    made = compile_experiments(plan, {slot.name: 1 << at for at, slot in enumerate(plan.slots)})
    for number in range(60):
        asked = f"u:u{number}", None, customer(), NOW, 63
        assert made.assigned(*asked) == plain_assigned(made, *asked)
    assert all(len(moment.told) <= 2 for moment in made._moments)
