"""An experiment's report from a lake: units, metrics, segments, and the pages that are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.events import SERVED_FIELDS, served_to_log
from features.ids import key32
from features.log import Entry
from fenliu import main
from training.experiment.analysis import Question, answer
from training.experiment.collect import collect, connect
from training.experiment.commands import files_of
from training.experiment.metrics import METRICS, named
from training.experiment.units import Asked
from training.lake import Lake
from training.log_rows import decode
from training.tables import EVENT_COLUMNS, OUTCOME_COLUMNS, SERVED_COLUMNS, arrow
from training.usage import UsageError

DAY = 86_400.0
START = 1_795_305_600.0  # a midnight UTC
UNITS = 600
DAYS = 6
PRE = 2
PLAN = """
name: p
surfaces: {home: [home.feed]}
slots: [{name: home.feed, layout: feed, size: 2, kinds: [content]}]
experiments:
  layers:
    - name: feed
      experiments:
        - name: longer
          ramp: [{at: "2026-01-01T00:00:00Z", enrolled: 1}]
          owner: feed team
          question: Do longer feeds help?
          arms: [{name: control}, {name: more}]
          criterion: clicks
          guardrails: [{metric: dismissals, tolerance: 0.1}]
"""


def table(schema: Any, rows: list[dict[str, Any]]) -> Any:
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    return arrow.table({name: arrow.array(columns[name], schema.field(name).type) for name in schema.names})


def write(
    root: Path,
    served: list[dict[str, Any]],
    events: list[dict[str, Any]],
    outcomes: list[dict[str, Any]] | None = None,
) -> None:
    """A lake of these rows."""
    lake = Lake(root / "lake")
    lake.append_events(table(EVENT_COLUMNS, events), "batch")
    with lake.writing():
        manifest = lake.manifest()
        manifest.files["served"] += lake.write_parts("served", table(SERVED_COLUMNS, served), "pages")
        if outcomes:
            told = table(OUTCOME_COLUMNS, outcomes)
            manifest.files["outcomes"] += lake.write_parts("outcomes", told, "told")
        lake.commit(manifest)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Units 0 … 599, odd ones in `more`, which clicks half as much again; unit 7 was in both."""
    root = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(1)
    served, events = [], []
    for unit in range(UNITS):
        subject, arm = f"u:c{unit}", ("control", "more")[unit % 2]
        taste = rng.gamma(3)
        for day in range(DAYS):
            at = START + day * DAY + rng.random() * 80_000
            inside = day >= PRE and (unit % 5 or day > PRE)  # a fifth come a day later
            if inside:
                names = [f"longer/{arm}"] + (["longer/control"] if unit == 7 and day == 4 else [])
                served += [
                    {"id": f"d{unit}-{day}", "subject": subject, "unit": subject, "at": at, "received_at": at,
                     "surface": "home", "effort": "full", "arms": [name], "record": b""}
                    for name in names
                ]  # fmt: skip
            rate = taste * (1.5 if inside and arm == "more" else 1.0)
            for number in range(rng.poisson(rate) + 3):
                kind = "clicked" if number >= 3 else "displayed"
                events.append(
                    {"event_id": f"e{unit}-{day}-{number}", "type": kind, "at": at + 1, "occurred_at": at + 1,
                     "received_at": at + 2, "subject": subject, "late": False, "channel": 1}
                )  # fmt: skip
    write(root, served, events)
    (root / "plan.yaml").write_text(PLAN)
    return root


@pytest.fixture(scope="module")
def seen(home: Path) -> Any:
    metrics = named(["clicks", "ctr", "dismissals"])
    lake = files_of(Lake(home / "lake"))
    return collect(connect(0.5, 1), lake, Asked("longer", ("control", "more")), metrics, criterion="clicks")


def test_units_of_two_arms_are_left_out(seen: Any) -> None:
    assert seen.crossed == 1 and seen.starts == (0, 300, 599)
    assert len(seen.days) == DAYS - PRE and seen.days[0].units == (240, 240 - 1)
    assert seen.days[-1].units == (300, 299) and sorted(set(seen.first_day)) == [0, 1]


def test_moments_are_those_of_the_events(home: Path, seen: Any) -> None:
    """Clicks after a unit's first page, counted once more in plain Python."""
    lake = Lake(home / "lake")
    first: dict[str, float] = {}
    arms: dict[str, set[str]] = {}
    for row in lake.served().to_pylist():
        first[row["unit"]] = min(row["at"], first.get(row["unit"], row["at"]))
        arms.setdefault(row["unit"], set()).update(row["arms"])
    clicks = dict.fromkeys(first, 0)
    for row in lake.events(columns=["subject", "type", "at"]).to_pylist():
        clicks[row["subject"]] += row["type"] == "clicked" and row["at"] >= first[row["subject"]]
    for at, arm in enumerate(("control", "more")):
        mine = [clicks[unit] for unit in first if arms[unit] == {f"longer/{arm}"}]
        found = seen.days[-1].moments["clicks"][at]
        assert found.n == len(mine) and found.mean[0] == pytest.approx(np.mean(mine))
        assert found.covariance[0, 0] == pytest.approx(np.var(mine, ddof=1))


def test_the_answer_finds_what_was_put_in(seen: Any) -> None:
    metrics = named(["clicks", "ctr", "dismissals"])
    asked = Question("longer", {"control": 1.0, "more": 1.0}, METRICS["clicks"], metrics, {}, 4)
    found = answer(asked, seen)
    clicks = found.of("more", "clicks")
    assert clicks.relative_low < 0.5 < clicks.relative_high and clicks.verdict == "better"
    assert clicks.reduction > 0.1 and len(clicks.by_day) == 4 and clicks.p < 0.01
    assert found.of("more", "ctr").verdict == "better"
    assert found.of("more", "dismissals").verdict == "not decided"
    assert not found.mismatch.found and "more is better" in found.summary
    assert set(found.segments) == {"subject", "first day", "known before"}
    assert [age for age, *_ in found.novelty["more"]] == [0, 1, 2, 3]
    loaded = Question("longer", {"control": 3.0, "more": 1.0}, METRICS["clicks"], metrics, {}, 4)
    assert "Do not decide" in answer(loaded, seen).summary


def test_the_command_writes_a_report(home: Path, capsys: Any) -> None:
    plan = str(home / "plan.yaml")
    told_apart = PLAN.replace("{name: more}", "{name: more, changes: {slots: {home.feed: {size: 3}}}}")
    Path(plan).write_text(told_apart)
    assert main(["--home", str(home), "experiment", "report", "longer", "--plan", plan, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["question"]["planned_days"] == 14
    assert told["units"] == {"control": 300, "more": 299} and not told["mismatch"]["found"]
    folder = home / "experiments" / "longer"
    assert {path.name for path in folder.iterdir()} == {
        "report.md", "report.html", "answer.json", "by_day.png", "novelty.png",
    }  # fmt: skip
    page = (folder / "report.md").read_text()
    assert (
        "more is better" in page
        and "- Question: Do longer feeds help?" in page
        and "- Owner: feed team" in page
    )
    assert "Enrolled: 100% from 2026-01-01 00:00" in page and "2026-01-01 to no end" in page
    assert '- Arm more, weight 1: {"slots": {"home.feed": {"size": 3}}}' in page
    assert "- Arm control, weight 1: the plan as it stands" in page
    assert "data:image/png" in (folder / "report.html").read_text()


def test_other_commands(home: Path, capsys: Any) -> None:
    plan = ["--plan", str(home / "plan.yaml")]
    assert main(["experiment", "list", *plan]) == 0 and "longer" in capsys.readouterr().out
    assert main(["experiment", "who", "c1", "c2", *plan]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["arms"]["feed"].startswith("longer/")
    asked = ["--mean", "1", "--deviation", "3", "--effect", "0.05", "--daily", "20000", "--json"]
    assert main(["experiment", "plan", *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["units"] > told["units_single_look"] and told["days"] == 7
    assert main(["--home", str(home), "experiment", "report", "none", *plan]) == 2
    assert "it has longer" in capsys.readouterr().err


def test_a_campaigns_lift_is_of_shown_against_would_have_been(tmp_path: Path, capsys: Any) -> None:
    """Every fifth customer is a ghost; who was shown it buys twice as often. Others are in neither."""
    rng = np.random.default_rng(3)
    served, events, key = [], [], key32("c1")
    for unit in range(900):
        subject, ghost = f"u:c{unit}", unit % 5 == 0
        met = unit % 3 > 0
        at = START + unit
        row = {"id": f"d{unit}", "subject": subject, "unit": subject, "at": at, "received_at": at,
               "surface": "home", "effort": "full", "arms": [], "lifts": True, "record": b""}  # fmt: skip
        mine = [key] if met else []
        served.append(row | {"campaigns": [] if ghost else mine, "ghosts": mine if ghost else []})
        bought = rng.poisson(1.0 * (2 if met and not ghost else 1))
        events += [
            {"event_id": f"e{unit}-{n}", "type": "converted", "at": at + 9, "occurred_at": at + 9,
             "received_at": at + 9, "subject": subject, "amount": 10.0, "late": False, "channel": 1}
            for n in range(bought)
        ]  # fmt: skip
    write(tmp_path, served, events)
    campaign = "{id: c1, items: [i1], slots: [home.feed], ghost: 0.05}"
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN + f"campaigns: [{campaign}]\n")
    told = ["--home", str(tmp_path), "experiment", "lift", "c1", "--plan", str(plan), "--json"]
    assert (
        main([*told, "--metrics", "conversions,value"]) == 1
    )  # a fifth were held out, of which 5 % were asked
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["units"] == {"ghosts": 120, "shown": 480} and found["mismatch"]["found"]
    assert found["question"]["planned_days"] == 28
    lift = found["compared"][0]
    assert lift["low"] < 1.0 < lift["high"] and lift["verdict"] == "better"
    for nobody, said in (("ghost: 0", "holds nobody out: set"), ("tier: mandatory", "shown to all")):
        plan.write_text(PLAN + f"campaigns: [{{id: c1, items: [i1], slots: [home.feed], {nobody}}}]\n")
        assert main(told) == 2 and said in capsys.readouterr().err


def test_who_cannot_be_held_out_is_in_neither_arm_of_a_lift(tmp_path: Path, capsys: Any) -> None:
    """Of 1,000 customers 5 % are ghosts; 1,500 who refuse profiling are shown the campaign all the same."""
    served, key = [], key32("c1")
    for unit in range(2_500):
        subject, at, refuses, ghost = f"u:c{unit}", START + unit, unit >= 1_000, unit % 20 == 0
        held = ghost and not refuses
        served.append(
            {"id": f"d{unit}", "subject": subject, "unit": subject, "at": at, "received_at": at,
             "surface": "home", "effort": "full", "arms": [], "campaigns": [] if held else [key],
             "ghosts": [key] if held else [], "lifts": not refuses, "record": b""}
        )  # fmt: skip
    bought = {"event_id": "e", "type": "converted", "at": START + 3_000, "occurred_at": START, "amount": 5.0,
              "received_at": START + 3_001, "subject": "u:c1", "late": False, "channel": 1}  # fmt: skip
    write(tmp_path, served, [bought])
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN + "campaigns: [{id: c1, items: [i1], slots: [home.feed], ghost: 0.05}]\n")
    told = ["--home", str(tmp_path), "experiment", "lift", "c1", "--plan", str(plan), "--json"]
    assert main(told) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["units"] == {"ghosts": 50, "shown": 950} and not found["mismatch"]["found"]


def test_outcomes_and_pages_are_metrics_too(tmp_path: Path, capsys: Any) -> None:
    """Purchases that app and core system both tell have a value once; the rest counts by its kind."""
    names = ("control", "more")
    pages: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []

    def event(kind: str, unit: int, at: float, **more: Any) -> None:
        events.append(
            {"event_id": f"e{len(events)}", "type": kind, "at": at, "occurred_at": at, "received_at": at,
             "subject": f"u:c{unit}", "late": False, "channel": 1, **more}
        )  # fmt: skip

    def outcome(kind: str, unit: int, at: float, amount: float | None, **more: Any) -> None:
        row = {"outcome_id": f"o{len(outcomes)}", "user_id": f"c{unit}", "kind": kind, "occurred_at": at}
        outcomes.append({"amount": amount, "recorded_at": at + 10, "received_at": at + 20, **row, **more})

    for unit in range(400):
        subject, at = f"u:c{unit}", START + unit
        slow = 100.0 if unit % 2 else 10.0 + unit % 4
        pages.append(
            {"id": f"d{unit}", "subject": subject, "unit": subject, "at": at, "received_at": at,
             "surface": "home", "effort": "full", "arms": [f"longer/{names[unit % 2]}"], "record": b"",
             "channel": "app" if unit < 300 else "web", "ms": 1e9 if unit == 1 else slow, "asked": 4,
             "filled": 4 if unit % 2 else 3, "failed": unit % 4 == 1}
        )  # fmt: skip
        event("converted", unit, at + 100, amount=10.0, item_key=5)
        outcome("purchase", unit, at + 5_000, 10.0, item_key=5)  # the app's, told again
        outcome("purchased", unit, at + 5_000, 10.0)  # the same by its amount, the item not named
        outcome("purchase", unit, at + 5_000, 7.0, item_key=6)
        outcome("purchase", unit, at + 2.5 * DAY, 3.0, item_key=5)  # another one, days later
        outcome("purchase", unit, at + 5_000, -50.0, item_key=7)
        outcome("loan_paid", unit, at + 5_000, 900.0)
        outcome("complaint", unit, at + 5_000, None)
        outcome("nps", unit, at + 5_000, 8.0)
        outcome("purchase", unit, at + 9_000, 100.0, item_key=8)
        taken_back = {"outcome_id": outcomes[-1]["outcome_id"], "recorded_at": at + 9_999}
        outcome("purchase", unit, at + 9_000, 0.0, item_key=8, **taken_back)
        event("acted", unit, at + 200, action="complained")
    event("acted", 0, START + 3.4 * DAY, action="browsed")
    write(tmp_path, pages, events, outcomes)
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.replace("metric: dismissals, tolerance: 0.1", "metric: latency, tolerance: 0.5"))
    told = ["--home", str(tmp_path), "experiment", "report", "longer", "--plan", str(plan), "--json"]
    assert main([*told, "--metrics", "complaints,nps,cvr"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    of = {one["metric"]: one for one in found["compared"]}
    assert of["value"]["control"] == of["value"]["treatment"] == pytest.approx(20.0)
    assert of["complaints"]["control"] == 2 and of["nps"]["control"] == 8
    assert of["latency"]["control"] == pytest.approx(11.0)  # 10 and 12
    assert of["latency"]["treatment"] == pytest.approx((199 * 100 + 2_000) / 200)  # one stalled, as 2 s
    assert of["fill"]["control"] == 0.75 and of["fill"]["treatment"] == 1 and of["errors"]["treatment"] == 0.5
    assert any("more makes latency worse by" in one for one in found["breached"])
    assert "more makes errors worse: 0.5 where the control has none" in found["breached"]
    assert of["cvr"]["control"] is None and {"channel", "subject"} <= set(found["segments"])
    page = (tmp_path / "experiments" / "longer" / "report.md").read_text()
    assert "nan" not in page and "| none | none | none | none |" in page


def test_an_arm_that_is_off_is_told_until_it_went_off(home: Path, tmp_path: Path, capsys: Any) -> None:
    """`more` loses its pages after two days; the control and `third` go on, and meet new units."""
    served, events = [], []
    for unit in range(900):
        arm, subject = ("control", "more", "third")[unit % 3], f"u:c{unit}"
        for day in range(unit % 4, 6):
            at = START + day * DAY + unit * 20
            on = arm != "more" or at <= START + 2 * DAY
            served.append(
                {"id": f"d{unit}-{day}", "subject": subject, "unit": subject, "at": at, "received_at": at,
                 "surface": "home", "effort": "full", "arms": [f"longer/{arm}"] if on else [], "record": b"",
                 "failed": arm == "more" and on and unit % 2 == 0, "ms": 5.0 + unit % 5, "asked": 2,
                 "filled": 2}
            )  # fmt: skip
            events.append(
                {"event_id": f"e{unit}-{day}", "type": "clicked", "at": at + 5, "occurred_at": at + 5,
                 "received_at": at + 5, "subject": subject, "late": False, "channel": 1}
            )  # fmt: skip
    write(tmp_path, served, events)
    plan = tmp_path / "plan.yaml"
    told = ["--home", str(tmp_path), "experiment", "report", "longer", "--plan", str(plan), "--json"]
    two = PLAN.replace("{name: more}", '{name: more, state: "off"}')
    for text, off in ((two, None), (two.replace('"off"}', '"off"}, {name: third}'), "more")):
        plan.write_text(text)
        assert main(told) == 1  # two thirds of its pages failed
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        gone = found["off"][off] if off else found
        assert gone["days"] == ["2026-11-22", "2026-11-23"] and not gone["mismatch"]["found"]
        assert gone["units"] == {"control": 149, "more": 150} and gone["question"]["off_at"].startswith(
            "2026-11-23"
        )
        assert gone["breached"] == ["more makes errors worse: 0.667 where the control has none"]
        assert gone["summary"].startswith("more was switched off at 2026-11-23 ")
        clicks = next(one for one in gone["compared"] if one["metric"] == "clicks")
        assert [clicks["control"], clicks["treatment"]] == pytest.approx([1.5, 1.5], abs=0.01)
    assert found["units"] == {"control": 300, "third": 300} and found["breached"] == []
    page = (tmp_path / "experiments" / "longer" / "report.md").read_text()
    assert "## Switched off: more" in page and "where the control has none" in page
    assert (tmp_path / "experiments" / "longer" / "off-more" / "report.md").exists()
    plan.write_text(two.replace("name: more", "name: never"))
    assert main(told) == 2 and "nobody was met" in capsys.readouterr().err


def test_after_the_end_nobody_is_met_and_only_what_comes_of_it_counts(tmp_path: Path, capsys: Any) -> None:
    """Two days, ended at noon of the second. Everybody clicks on, and buys a day and five days later."""
    served, events, until = [], [], START + 1.5 * DAY

    def event(kind: str, unit: int, at: float, **more: Any) -> None:
        events.append(
            {"event_id": f"e{len(events)}", "type": kind, "at": at, "occurred_at": at, "received_at": at,
             "subject": f"u:c{unit}", "late": False, "channel": 1, **more}
        )  # fmt: skip

    for unit in range(400):
        arm, subject = ("control", "more")[unit % 2], f"u:c{unit}"
        for day in range(8):
            at = START + day * DAY + unit
            late = unit >= 390  # met after the end alone, by a replica whose clock is behind
            on = day == 2 if late else day < 2
            served.append(
                {"id": f"d{unit}-{day}", "subject": subject, "unit": subject, "at": at, "received_at": at,
                 "surface": "home", "effort": "full", "arms": [f"longer/{arm}"] if on else [], "record": b"",
                 "asked": 2, "filled": 1 if day < 2 else 2}
            )  # fmt: skip
            event("clicked", unit, at + 5)
        event("converted", unit, until + DAY + unit, amount=3.0 + unit % 4)
        event("converted", unit, until + 5 * DAY + unit, amount=100.0)
    told = {"outcome_id": "o", "user_id": "c1", "kind": "purchase", "amount": 9.0, "occurred_at": until + DAY}
    outcomes = [{**told, "recorded_at": until + 2 * DAY, "received_at": until + 2 * DAY}]
    outcomes.append({**outcomes[0], "outcome_id": "p", "occurred_at": until + 4 * DAY})
    write(tmp_path, served, events, outcomes)
    plan = tmp_path / "plan.yaml"
    dates = '{at: "2026-11-22T00:00:00Z", enrolled: 1}]\n          until: "2026-11-23T12:00:00Z"'
    plan.write_text(PLAN.replace('{at: "2026-01-01T00:00:00Z", enrolled: 1}]', dates))
    asked = ["--home", str(tmp_path), "experiment", "report", "longer", "--plan", str(plan), "--json"]
    assert main([*asked, "--metrics", "value,fill", "--mature", "3"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    of = {one["metric"]: one for one in found["compared"]}
    assert found["units"] == {"control": 195, "more": 195}
    assert (found["question"]["planned_days"], found["question"]["matures_days"]) == (2, 3)
    assert found["days"][0] == "2026-11-22" and found["days"][-1] == "2026-11-26"
    assert of["clicks"]["control"] == of["clicks"]["treatment"] == 2.0 and of["fill"]["control"] == 0.5
    control, more = (np.mean([3.0 + unit % 4 for unit in range(first, 390, 2)]) for first in (0, 1))
    assert of["value"]["control"] == pytest.approx(control)
    assert of["value"]["treatment"] == pytest.approx(more + 9.0 / 195)
    assert len(of["value"]["by_day"]) == 3  # those on which somebody had bought
    assert [age for age, *_ in found["novelty"]["more"]] == [0, 1]
    assert any("until 2026-11-26 12:00, 3 days later" in line for line in found["question"]["about"])
    assert main([*asked, "--metrics", "value", "--mature", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["days"] == ["2026-11-22", "2026-11-23"] and found["compared"][-1]["control"] == 0
    assert main([*asked, "--mature", "-1"]) == 2


def test_units_of_an_experiment_by_device_are_devices(tmp_path: Path) -> None:
    """One customer with two devices, one in each arm; another uses the first device as well."""
    rows = [
        ("u:a", "v:1", "control"),
        ("u:a", "v:2", "more"),
        ("u:b", "v:1", "control"),
        ("v:3", None, "more"),
    ]
    clicked = [("u:a", "v:2"), ("u:a", "v:2"), ("u:b", "v:1"), ("v:3", None)]
    served = [
        {"id": f"d{at}", "subject": subject, "unit": subject, "device": device, "at": START + at,
         "received_at": START + at, "surface": "home", "effort": "full", "arms": [f"longer/{arm}"],
         "record": b"", "asked": 1 + at, "filled": 1}
        for at, (subject, device, arm) in enumerate(rows)
    ]  # fmt: skip
    events = [
        {"event_id": f"e{at}", "type": "clicked", "at": START + 60 + at, "occurred_at": START, "channel": 1,
         "received_at": START + 60, "subject": subject, "device": device, "late": False}
        for at, (subject, device) in enumerate(clicked)
    ]  # fmt: skip
    write(tmp_path, served, events)
    files, metrics = files_of(Lake(tmp_path / "lake")), named(["clicks", "fill"])
    asked = Asked("longer", ("control", "more"), by_device=True)
    seen = collect(connect(0.5, 1), files, asked, metrics, criterion="clicks")
    assert seen.crossed == 0 and seen.starts == (0, 1, 3)
    assert seen.totals["clicks"].tolist() == [1, 2, 1] and seen.totals["asked"].tolist() == [4, 2, 4]
    whole = collect(connect(0.5, 1), files, Asked("longer", ("control", "more")), metrics, criterion="clicks")
    assert whole.crossed == 1  # a customer of two devices would be in both


def test_an_empty_lake_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="events ingest"):
        collect(
            connect(0.5, 1),
            files_of(Lake(tmp_path)),
            Asked("e", ("a", "b")),
            named(["clicks"]),
            criterion="clicks",
        )


def test_arms_of_testers_do_not_reach_the_lake() -> None:
    from training.log_rows import served_table

    record: dict[str, Any] = dict.fromkeys(SERVED_FIELDS, "x")
    record |= {"at": START, "context": {"channel": "app"}, "sizes": [4, 2], "place_slot": bytes(5), "ms": 3.5}
    record |= {"degraded": ["profile", "model"], "device": "v:d1", "lifts": True, "profiling": True}
    record |= {"arms": {"a": "e/one", "b": "f/two"}, "forced": ["b"], "unit": "u:1"}
    record |= {"decided": [3], "ghosts": [[7, 0, 1], [7, 1, 0]]}
    entry = Entry("s", "u:1", served_to_log(record))
    made = served_table(decode([(0, "0", entry.payload)]).rows)
    assert made["arms"].to_pylist() == [["e/one"]] and made["unit"].to_pylist() == ["u:1"]
    assert made["campaigns"].to_pylist() == [[3]] and made["ghosts"].to_pylist() == [[7]]
    row = made.drop_columns(["record"]).to_pylist()[0]
    assert (row["asked"], row["filled"], row["ms"], row["failed"]) == (6, 5, 3.5, True)
    assert (row["channel"], row["device"], row["lifts"]) == ("app", "v:d1", True)
