"""What experiments did together: against who is held out from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.customer import NOTHING, decode_customer
from features.ids import keys64
from fenliu import main
from serving.experiment_compiling import compile_experiments
from serving.plan import load_plan
from tests.unit.test_experiment_report import DAY, PLAN, START, write
from training.experiment.holdouts import NEITHER, sides_of

UNITS = [f"u:c{number}" for number in range(3_000)]
TEXT = (
    PLAN.replace("\nexperiments:\n", "\nexperiments:\n  holdout: 0.1\n")
    .replace("    - name: feed\n", "    - name: feed\n      holdout: 0.2\n")
    .replace("enrolled: 1}]", "enrolled: 1}]\n          range: [0, 0.5]")
)
DOMAIN = TEXT.replace("  layers:", "  domains: [{name: left, share: 0.5}]\n  layers:").replace(
    "      holdout: 0.2\n", "      holdout: 0.2\n      domain: left\n"
)


def made_of(path: Path, text: str) -> Any:
    path.write_text(text)
    plan = load_plan(path)
    return compile_experiments(plan, {slot.name: 1 << at for at, slot in enumerate(plan.slots)})


@pytest.mark.parametrize("text", [TEXT, DOMAIN])
def test_sides_are_those_that_serving_gives(tmp_path: Path, text: str) -> None:
    """Unit by unit against the assignment of a page."""
    made, nobody = made_of(tmp_path / "plan.yaml", text), decode_customer(NOTHING, now=START)
    layer, every = (sides_of(made, keys64(UNITS), name) for name in ("feed", None))
    met = set()
    for unit, side, all_of in zip(UNITS, layer.tolist(), every.tolist(), strict=True):
        arms = [(one.layer, one.name) for one in made.assigned(unit, None, nobody, START)]
        assert (all_of == 0) == (arms == [("*", "holdout")])
        assert (side == 0) == (arms == [("feed", "holdout")])
        if any(name.startswith("longer/") for _, name in arms):
            assert side == 1
        met.add(side)
    assert met >= {0, 1, NEITHER} and np.mean(every == 0) == pytest.approx(0.1, abs=0.03)
    assert np.mean(layer == 0) == pytest.approx(0.9 * 0.2 * (0.5 if text is DOMAIN else 1), abs=0.03)


def test_the_command_compares_them(tmp_path: Path, capsys: Any) -> None:
    """Who is in the layer's experiment clicks twice as often: half of those not held out."""
    made, rng = made_of(tmp_path / "plan.yaml", TEXT), np.random.default_rng(1)
    nobody = decode_customer(NOTHING, now=START)
    served, events = [], []
    for unit in UNITS:
        arms = [one.name for one in made.assigned(unit, None, nobody, START)]
        for day in range(2):
            at = START + day * DAY + 60
            row = {"id": f"{unit}-{day}", "subject": unit, "unit": unit, "at": at, "received_at": at}
            served.append({**row, "surface": "home", "effort": "full", "arms": arms, "record": b""})
            rate = 2.0 if any(name.startswith("longer/") for name in arms) else 1.0
            events += [
                {"event_id": f"{unit}-{day}-{n}", "type": "clicked", "at": at + 5, "occurred_at": at + 5,
                 "received_at": at + 5, "subject": unit, "late": False, "channel": 1}
                for n in range(rng.poisson(rate))
            ]  # fmt: skip
    write(tmp_path, served, events)
    told = ["--home", str(tmp_path), "experiment", "holdout"]
    asked = ["--plan", str(tmp_path / "plan.yaml"), "--json", "--metrics", "clicks"]
    for name, folder in (["feed"], "holdout-feed"), ([], "holdout"):
        assert main([*told, *name, *asked]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        side = sides_of(made, keys64(UNITS), name[0] if name else None)
        assert found["units"] == {"held-out": int((side == 0).sum()), "others": int((side == 1).sum())}
        (clicks,) = found["compared"]
        assert clicks["verdict"] == "better" and clicks["reduction"] == 0
        assert clicks["control"] == pytest.approx(2.0, abs=0.3)
        truth = (
            0.5 / 0.8 if name else 0.9 * 0.0 + 0.5
        )  # half of all places in the layer, four fifths are not out
        assert clicks["relative_low"] < truth < clicks["relative_high"]
        assert (tmp_path / "experiments" / folder / "report.md").exists()
        assert any("who had none of them" in line for line in found["question"]["about"])
    assert main([*told, *asked, "--since", "2026-11-23"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["days"] == ["2026-11-23"]


def test_without_a_holdout_there_is_nothing_to_compare(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    told = ["--home", str(tmp_path), "experiment", "holdout", "--plan", str(tmp_path / "plan.yaml")]
    assert main(told) == 2 and "nobody is held out" in capsys.readouterr().err
    assert main([*told, "none"]) == 2 and "it has feed" in capsys.readouterr().err
