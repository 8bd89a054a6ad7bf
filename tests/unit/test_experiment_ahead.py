"""How long an experiment has to run, by the lake's own past."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fenliu import main
from tests.unit.test_experiment_report import DAY, PLAN, START, write
from training.experiment.ahead import Passed, beyond, days_until, enrolled_of, passed, reached
from training.experiment.commands import experiment_of, files_of
from training.experiment.metrics import METRICS
from training.experiment.planning import detectable, units_needed
from training.lake import Lake
from training.usage import UsageError

UNITS, DAYS = 800, 9
SEEN = 4  # days of the past that are planned by; the last date may be half a day and is left out


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each unit comes by on three days in ten, and clicks by its taste whenever it does."""
    root = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(2)
    served, events = [], []
    for unit in range(UNITS):
        taste, subject = rng.gamma(1.5), f"u:c{unit}"
        for day in np.flatnonzero(rng.random(DAYS) < 0.3).tolist():
            at = START + day * DAY + unit
            row = {"id": f"d{unit}-{day}", "subject": subject, "unit": subject, "at": at, "received_at": at}
            served.append({**row, "surface": "home", "effort": "full", "arms": [], "record": b""})
            for number in range(rng.poisson(taste) + 2):
                kind = "clicked" if number >= 2 else "displayed"
                events.append(
                    {"event_id": f"e{unit}-{day}-{number}", "type": kind, "at": at + 1, "occurred_at": at,
                     "received_at": at + 1, "subject": subject, "late": False, "channel": 1}
                )  # fmt: skip
    write(root, served, events)
    (root / "plan.yaml").write_text(PLAN)
    return root


def units_of(home: Path) -> dict[str, tuple[int, list[int], int]]:
    """Of whom was met in the days planned by: first day, clicks by day since, clicks before."""
    lake, first = Lake(home / "lake"), {}
    since, until = START + (DAYS - 1 - SEEN) * DAY, START + (DAYS - 1) * DAY
    for row in lake.served().to_pylist():
        if since <= row["at"] < until:
            first[row["unit"]] = min(row["at"], first.get(row["unit"], row["at"]))
    found = {unit: [int((at - since) // DAY), [0] * SEEN, 0] for unit, at in first.items()}
    for row in lake.events(columns=["subject", "type", "at"]).to_pylist():
        unit = found.get(row["subject"])
        if unit is not None and row["type"] == "clicked" and row["at"] < until:
            if row["at"] >= first[row["subject"]]:
                unit[1][int((row["at"] - since) // DAY)] += 1
            elif row["at"] < since:
                unit[2] += 1
    return found  # type: ignore[return-value]


def test_the_past_is_that_of_its_days(home: Path) -> None:
    """Counted once more in plain Python: units by day, mean, spread, and what is known from before."""
    found = passed(files_of(Lake(home / "lake")), METRICS["clicks"], days=SEEN, memory=0.5)
    units = units_of(home).values()
    assert [one.days for one in found] == list(range(1, SEEN + 1))
    for one in found:
        met = [unit for unit in units if unit[0] < one.days]
        clicks = np.array([sum(unit[1][: one.days]) for unit in met])
        known = np.corrcoef(clicks, [unit[2] for unit in met])[0, 1] ** 2
        assert one.units == len(met) and one.mean == pytest.approx(clicks.mean())
        assert one.deviation == pytest.approx(clicks.std(ddof=1) / clicks.mean(), rel=1e-6)
        assert one.reduction == pytest.approx(known, rel=1e-6) and known > 0.02


def test_a_ratio_and_no_time_before(home: Path) -> None:
    files = files_of(Lake(home / "lake"))
    (*_, last) = passed(files, METRICS["ctr"], days=SEEN, pre_days=0, memory=0.5)
    assert 0.65 < last.mean < 0.85 and last.reduction == 0 and 0.3 < last.deviation < 2
    with pytest.raises(UsageError, match="nobody has any dismissals"):
        passed(files, METRICS["dismissals"], days=SEEN, memory=0.5)


def test_what_is_found_is_what_figures_say() -> None:
    one = Passed(14, 50_000, 0.4, 3.0, 0.36)
    days, change = reached(one, 0.5, 2, 0.8)
    assert days == 14 and change == pytest.approx(detectable(25_000, 1.0, 3.0, reduction=0.36), rel=1e-9)
    assert units_needed(1.0, 3.0, change, reduction=0.36).units == pytest.approx(25_000, rel=0.001)
    assert reached(one, 0.5, 3, 0.8)[1] > change * 1.2 and reached(one, 0.5, 2, 0.9)[1] > change


def test_days_beyond_the_past_go_on_as_it_did() -> None:
    found = [(day, 0.2 * day**-0.3) for day in range(1, 11)]
    assert beyond(10, found) == found[-1][1] and beyond(20, found) == pytest.approx(0.2 * 20**-0.3)
    assert days_until(0.2, found) == 1 and days_until(0.12, found) == 6
    assert days_until(0.09, found) == 15 and days_until(0.01, found) is None
    worse = [(1, 0.1), (2, 0.11), (3, 0.12)]
    assert beyond(9, worse) == 0.12  # what gets no better is not hoped to


def test_the_command_reads_the_lake(home: Path, capsys: Any) -> None:
    plan = ["--plan", str(home / "plan.yaml"), "--past", str(SEEN), "--json"]
    told = ["--home", str(home), "experiment", "plan", "longer", *plan]
    assert main([*told, "--effect", "0.4"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["metric"] == "clicks" and found["arms"] == 2 and found["enrolled"] == 1
    assert 1 <= found["days"] <= SEEN and not found["beyond_the_past"]
    assert found["units"] == found["past"][found["days"] - 1]["units"]
    assert main([*told, "--effect", "0.2", "--enrolled", "0.5"]) == 0
    fewer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert fewer["days"] is None or fewer["days"] > found["days"]
    everybody = ["--home", str(home), "experiment", "plan", "--metric", "ctr", "--effect", "0.2"]
    assert main(everybody) == 0 and "ctr" in capsys.readouterr().out
    for wrong in (["--mean", "1"], ["--power", "1"], ["--enrolled", "2"], ["--metric", "none"]):
        assert main([*everybody, *wrong]) == 2


def test_an_empty_lake_asks_for_figures(tmp_path: Path, capsys: Any) -> None:
    assert main(["--home", str(tmp_path), "experiment", "plan", "--effect", "0.1"]) == 2
    assert "give --mean and --deviation" in capsys.readouterr().err


def test_what_is_enrolled_is_what_is_left_of_all(tmp_path: Path) -> None:
    from serving.plan import load_plan

    text = PLAN.replace("  layers:", "  holdout: 0.1\n  layers:").replace(
        "    - name: feed", "    - name: feed\n      holdout: 0.2"
    )
    text = text.replace("enrolled: 1}]", "enrolled: 0.5}]\n          range: [0.4, 0.8]")
    (tmp_path / "plan.yaml").write_text(text)
    plan = load_plan(tmp_path / "plan.yaml")
    assert enrolled_of(plan, *experiment_of(plan, "longer")) == pytest.approx(0.9 * 0.4 * 0.5)
