"""The report of an adaptive experiment: weighted by the chances that its arms were drawn with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.events import SERVED_FIELDS, served_to_log
from features.log import Entry
from fenliu import main
from serving.bandit import HOUR_S
from serving.bandit_draws import SETTLE_S
from tests.unit.test_experiment_report import DAY, PLAN, START, write
from training.experiment.drawn import Pair, Turns, mismatch_of
from training.experiment.drawn import _pair as pair_of
from training.experiment.metrics import METRICS
from training.lake import Lake
from training.log_rows import decode, served_table

ARMS = ("control", "more")


def turns(rng: np.random.Generator, customers: int, hours: int, lift: float = 0.0) -> tuple[Turns, Any]:
    """Half of the customers click three times as often, and the bandit sends most of them to `more`, ever
    more of them by the hour. Clicks a turn are `lift` more there, of everybody.
    """
    who = np.repeat(np.arange(customers), hours)
    hour = np.tile(np.arange(hours), customers)
    eager = who % 2 == 0
    more = np.where(eager, 0.5 + 0.45 * hour / hours, 0.5 - 0.45 * hour / hours)
    arm = (rng.random(len(who)) < more).astype(np.int64)
    taste = rng.gamma(1.0, size=customers)[who]
    clicks = rng.poisson(taste * np.where(eager, 3.0, 1.0) * (1 + lift * arm)).astype(np.float64)
    chance = np.stack([1 - more, more], axis=1)
    return Turns(ARMS, who, arm, chance, np.zeros(len(who), np.int64)), {"clicks": clicks}


def test_nothing_is_found_where_nothing_differs_and_means_would_find_it() -> None:
    rng, z, naive = np.random.default_rng(4), [], []
    for _ in range(400):
        made, totals = turns(rng, 200, 12)
        found = pair_of(made, 1, METRICS["clicks"], totals, 0).difference
        assert found is not None
        z.append(found.z)
        parts = [totals["clicks"][made.arm == at] for at in (0, 1)]
        naive.append((parts[1].mean() - parts[0].mean()) / np.sqrt(sum(p.var() / len(p) for p in parts)))
    assert np.std(z) == pytest.approx(1.0, abs=0.1) and abs(np.mean(z)) < 0.2
    assert np.mean(np.abs(z) > 1.96) < 0.08 and np.mean(naive) > 5


def test_what_all_turns_would_have_done_is_covered() -> None:
    rng, held, values = np.random.default_rng(5), 0, []
    for _ in range(300):
        made, totals = turns(rng, 300, 8, lift=0.3)
        found = pair_of(made, 1, METRICS["clicks"], totals, 0).difference
        assert found is not None
        low, high = found.relative_interval(1.96)
        held += low <= 0.3 <= high
        for z in (2.0, 4.0, 8.0):  # a customer is in both arms, and yet both intervals say the same
            (least, most), (lower, upper) = found.absolute.interval(z), found.relative_interval(z)
            assert (least > 0, most < 0) == (lower > 0, upper < 0)
        values.append((found.control.value, found.treatment.value))
    assert held / 300 > 0.91
    assert np.mean(values, axis=0) == pytest.approx([2.0, 2.6], rel=0.03)  # over eager and other customers


def test_a_pair_is_of_turns_that_could_have_been_either() -> None:
    chance = np.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0], [0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    made = Turns(
        ("a", "b", "c"),
        np.array([0, 0, 1, 1, 2]),
        np.array([0, 1, 2, 1, 1]),
        chance,
        np.array([0, 0, 0, 0, 1]),
    )
    totals = {"clicks": np.array([3.0, 4.0, 9.0, 7.0, 5.0]), "displays": np.array([6.0, 9.0, 9.0, 9.0, 9.0])}
    found = pair_of(made, 1, METRICS["ctr"], totals, 0)
    assert found.top.tolist() == [[6.0, 4.0 / 0.75], [0.0, 0.0]] and found.bottom.tolist() == [
        [12, 12],
        [0, 0],
    ]
    assert found.worth == (1.0, 1.0)
    later = pair_of(made, 1, METRICS["clicks"], totals, 1)
    assert later.bottom.tolist() == [[2.0, 1 / 0.75], [0.0, 0.0], [0.0, 2.0]]
    assert pair_of(made, 2, METRICS["clicks"], totals, 1).difference is None
    assert Pair(np.ones((3, 2)), np.zeros((3, 2)), (0.0, 0.0)).difference is None


def test_an_independent_computation_of_the_error_agrees() -> None:
    """A bootstrap over customers, for a ratio."""
    rng = np.random.default_rng(6)
    made, totals = turns(rng, 400, 10, lift=0.1)
    totals["displays"] = totals["clicks"] + rng.poisson(4.0, len(made.arm))
    pair = pair_of(made, 1, METRICS["ctr"], totals, 0)
    gaps = []
    for _ in range(600):
        some = rng.integers(0, len(pair.top), len(pair.top))
        (a, b), (c, d) = pair.top[some].sum(axis=0), pair.bottom[some].sum(axis=0)
        gaps.append(b / d - a / c)
    assert pair.difference is not None
    assert pair.difference.absolute.error == pytest.approx(np.std(gaps), rel=0.1)


def test_counts_that_are_not_what_was_drawn_are_a_mismatch() -> None:
    """A tenth of one arm's turns is lost."""
    made, _ = turns(np.random.default_rng(7), 4_000, 12)
    assert not mismatch_of(made).found
    kept = np.flatnonzero((made.arm == 0) | (np.random.default_rng(8).random(len(made.arm)) < 0.9))
    left = Turns(ARMS, made.customer[kept], made.arm[kept], made.chance[kept], made.day[kept])
    found = mismatch_of(left)
    assert found.found and "logged chances" in found.causes[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of two pages an hour each; half of the customers are eager, and mostly in `more`."""
    root = tmp_path_factory.mktemp("home")
    rng, served, events = np.random.default_rng(3), [], []
    for unit in range(300):
        subject = f"u:c{unit}"
        for hour in (2, 9, 30):
            more = 0.8 if unit % 2 else 0.3
            arm = ARMS[int(rng.random() < more)]
            for page in range(2):
                at = START + hour * HOUR_S + SETTLE_S + 60 * page + unit
                name = f"d{unit}-{hour}-{page}"
                served.append(
                    {"id": name, "subject": subject, "unit": subject, "at": at, "received_at": at,
                     "surface": "home", "effort": "full", "arms": [f"longer/{arm}"], "record": b"",
                     "drawn": ["longer/control", "longer/more"], "chances": [1 - more, more]}
                )  # fmt: skip
                late = DAY if page and hour == 2 else 0.0  # told a day later
                row = {"at": at + 9, "occurred_at": at + 9, "received_at": at + 9 + late, "subject": subject,
                       "late": False, "channel": 1, "decision_id": name}  # fmt: skip
                for number in range(rng.poisson(2.0 if unit % 2 else 0.5) + 2):
                    kind = "clicked" if number >= 2 else "displayed"
                    events.append({"event_id": f"e{name}-{number}", "type": kind, **row})
                events.append({"event_id": f"x{name}", "type": "clicked", **row, "decision_id": "another"})
    write(root, served, events)
    text = PLAN.replace("criterion: clicks", "criterion: clicks\n          adaptive: true")
    (root / "plan.yaml").write_text(text)
    return root


def test_the_command_weights_turns(home: Path, capsys: Any) -> None:
    told = [
        "--home",
        str(home),
        "experiment",
        "report",
        "longer",
        "--plan",
        str(home / "plan.yaml"),
        "--json",
    ]
    assert main([*told, "--metrics", "clicks,ctr,lower_rungs"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    of = {one["metric"]: one for one in found["compared"]}
    pages, clicks, turns = {}, {}, {}
    lake = Lake(home / "lake")
    for row in lake.served().to_pylist():
        hour = (row["unit"], (row["at"] - SETTLE_S) // HOUR_S)
        pages[row["id"]] = hour
        turns[hour] = (row["arms"][0], row["chances"][row["drawn"].index(row["arms"][0])])
    for row in lake.events(columns=["decision_id", "type"]).to_pylist():
        if row["type"] == "clicked" and row["decision_id"] in pages:
            hour = pages[row["decision_id"]]
            clicks[hour] = clicks.get(hour, 0) + 1
    for arm, name in (("control", "control"), ("more", "treatment")):
        mine = {hour: chance for hour, (which, chance) in turns.items() if which == f"longer/{arm}"}
        assert found["units"][arm] == len(mine)
        weighted = sum(clicks.get(hour, 0) / chance for hour, chance in mine.items())
        assert of["clicks"][name] == pytest.approx(weighted / sum(1 / p for p in mine.values()), rel=1e-5)
    assert (
        len(turns) == 900 and not found["mismatch"]["found"] and found["days"] == ["2026-11-22", "2026-11-23"]
    )
    assert found["mismatch"]["expected"]["more"] == pytest.approx(495)
    assert of["clicks"]["verdict"] == of["ctr"]["verdict"] == "not decided"
    assert of["lower_rungs"]["control"] == of["lower_rungs"]["treatment"] == 0
    page = (home / "experiments" / "longer" / "report.md").read_text()
    assert "900 customers' hours over 2 days" in page and "weighted by the logged chances" in page
    assert main([*told, "--metrics", "nps"]) == 2 and "not of a page" in capsys.readouterr().err
    assert main([*told, "--segments", "city"]) == 2


def test_pages_that_do_not_say_their_chances_are_left_out(home: Path, tmp_path: Path, capsys: Any) -> None:
    row = {"id": "d", "subject": "u:c", "unit": "u:c", "at": START, "received_at": START, "surface": "home",
           "effort": "full", "arms": ["longer/more"], "record": b""}  # fmt: skip
    write(tmp_path, [row], [])
    told = ["--home", str(tmp_path), "experiment", "report", "longer", "--plan", str(home / "plan.yaml")]
    assert main(told) == 2 and "by what chances" in capsys.readouterr().err


def test_chances_reach_the_lake() -> None:
    record: dict[str, Any] = dict.fromkeys(SERVED_FIELDS, "x")
    record |= {"at": START, "context": {}, "sizes": [1], "place_slot": b"", "ms": 1.0, "degraded": [],
               "device": "v:d1", "lifts": True, "arms": {"a": "e/one", "b": "f/two"}, "forced": [],
               "unit": "u:1", "decided": [], "ghosts": []}  # fmt: skip
    record["arm_draws"] = [["e", ["one", "two"], [0.25, 0.75], 0]]
    plain = record | {"arm_draws": []}
    packed = [(0, str(at), served_to_log(one)) for at, one in enumerate((record, plain))]
    entries = [Entry("s", "u:1", payload) for _, _, payload in packed]
    made = served_table(decode([(0, str(at), one.payload) for at, one in enumerate(entries)]).rows)
    assert made["drawn"].to_pylist() == [["e/one", "e/two"], None]
    assert made["chances"].to_pylist() == [[0.25, 0.75], None]
