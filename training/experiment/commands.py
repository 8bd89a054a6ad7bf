"""`fenliu experiment`: what runs, who is in it, what it says, and how long one has to run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from features.customer import NOTHING, decode_customer
from features.ids import key32, user_subject, visitor_subject
from serving.arm_switch import switched_off
from serving.backing import backed
from serving.experiment import Arm, Experiment, Layer
from serving.experiment_compiling import compile_experiments
from serving.ghosts import share_of
from serving.guard_statistics import guards_of
from serving.plan import Plan, load_plan
from serving.proposals import FRAME
from serving.settings import Settings
from training.commands import lake_of, live_plan
from training.desk import desk_of
from training.experiment.analysis import Answer, Question, answer
from training.experiment.changes import promoted, told_of
from training.experiment.collect import DAY_S, Files, collect, connect
from training.experiment.drawn import answer_drawn
from training.experiment.metrics import named
from training.experiment.pages import document, write
from training.experiment.planning import OF_LIFT, planned_days
from training.experiment.units import Asked, last_met
from training.experiment.wording import between, shown
from training.lake import Lake
from training.progress import counting, wide_console
from training.usage import UsageError

if TYPE_CHECKING:
    import duckdb

DEFAULT_METRICS = ("clicks", "conversions", "ctr", "dismissals", "lower_rungs")
DRAWN = (
    "Adaptive: arms are drawn anew each hour of a customer; these hours are weighted by the logged chances,"
    " and what was done on their pages counts (conversions in the app, no outcomes of other systems)"
)


def listed(args: argparse.Namespace, settings: Settings) -> int:
    plan = plan_of(args, settings)
    table = Table(title=f"experiments of plan {plan.version}")
    for column in ("layer", "experiment", "range", "enrolled now", "arms", "criterion", "state"):
        table.add_column(column)
    now = datetime.now(UTC)
    for layer in plan.experiments.layers if plan.experiments else ():
        for one in layer.experiments:
            share = max((step.enrolled for step in one.ramp if step.at <= now), default=0.0)
            over = one.until is not None and one.until <= now
            arms = ", ".join(arm.name + (" (off)" if arm.state == "off" else "") for arm in one.arms)
            span = f"{one.range[0]:g} … {one.range[1]:g}"
            table.add_row(
                layer.name, one.name, span, f"{0 if over else share:.0%}", arms, one.criterion,
                "over" if over else one.state,
            )  # fmt: skip
    wide_console().print(table)
    return 0


def who(args: argparse.Namespace, settings: Settings) -> int:
    """The arms of ids, by their own hash, without a profile."""
    plan = plan_of(args, settings)
    made = compile_experiments(plan, {slot.name: 1 << at for at, slot in enumerate(plan.slots)})
    subject = visitor_subject if args.visitor else user_subject
    now = time.time()
    for name in args.ids:
        arms = made.assigned(subject(name), None, decode_customer(NOTHING, now=now), now)
        print(json.dumps({"id": name, "arms": {one.layer: one.name for one in arms}}, ensure_ascii=False))
    return 0


def report(args: argparse.Namespace, settings: Settings) -> int:
    plan, console = plan_of(args, settings), wide_console()
    _, one = experiment_of(plan, args.name)
    guardrails = {each.metric: each.tolerance for each in guards_of(one.guardrails)}
    criterion = named([one.criterion])[0]
    metrics = named([one.criterion, *guardrails, *(args.metrics or DEFAULT_METRICS)])
    planned = planned_days(one.ramp[0].at, one.until, args.days)
    if args.mature < 0:
        raise UsageError("--mature is a number of days, 0 or more")
    ends = 0 if one.until is None else args.mature
    base, files = connect(args.memory), files_of(lake_of(settings))
    if one.adaptive:
        if args.segments:
            raise UsageError(f"{one.name} adapts to segments: its report has none")
        live = [arm for arm in one.arms if arm.state == "live"]
        if len(live) < 2 or one.control.state == "off":
            raise UsageError(
                f"{one.name!r} has nothing left to compare: it needs its control and one live arm"
            )
        question = Question(
            one.name, {arm.name: arm.weight for arm in live}, criterion, metrics, guardrails, planned,
            matures=ends, units="customers' hours", about=(*told_of(one), *_closing(one, ends), DRAWN),
        )  # fmt: skip
        asked = Asked(one.name, tuple(question.weights), until=_end(one), matures=ends * DAY_S)
        with counting(console, f"days of {args.name}") as tick:
            told = answer_drawn(base, files, asked, question, tick)
        return reported(args, settings.home / "experiments" / one.name, [told], console)
    found = []
    for arms, until in _looks(base, files, one):
        weights = {arm.name: arm.weight for arm in arms}
        matures = 0 if isfinite(until) else ends  # an arm that goes off is told until then
        with counting(console, f"days of {args.name}") as tick:
            asked = Asked(
                one.name, tuple(weights), by_device=one.unit == "device",
                until=min(until, _end(one)), matures=matures * DAY_S,
            )  # fmt: skip
            seen = collect(
                base, files, asked, metrics,
                criterion=criterion.name, pre_days=args.pre_days, segments=args.segments or (), progress=tick,
            )  # fmt: skip
        off_at = datetime.fromtimestamp(until, UTC) if isfinite(until) else None
        question = Question(
            one.name, weights, criterion, metrics, guardrails, planned, matures=matures,
            among=len(one.arms) - 1, off_at=off_at, about=(*told_of(one), *_closing(one, ends)),
        )  # fmt: skip
        found.append(answer(question, seen))
    return reported(args, settings.home / "experiments" / one.name, found, console)


def reported(args: argparse.Namespace, folder: Path, found: Sequence[Answer], console: Console) -> int:
    """Written and told. Exit status 1 where nothing can be decided by it, or a guardrail is broken."""
    page = write(found[0], args.out or folder, found[1:])
    if args.json:
        print(json.dumps(document(found[0], found[1:]), ensure_ascii=False))
    else:
        for each in found:
            _told(console, each)
        console.print(f"report: {page}", highlight=False, soft_wrap=True)
    return 1 if any(each.mismatch.found or each.breached for each in found) else 0


def _end(one: Experiment) -> float:
    return inf if one.until is None else one.until.timestamp()


def _closing(one: Experiment, matures: int) -> tuple[str, ...]:
    """What a report counts of an experiment that has an end."""
    if one.until is None:
        return ()
    later = one.until + timedelta(days=matures)
    said = "Counted: pages, displays, clicks and dismissals until the end; conversions, value, complaints and"
    return (f"{said} NPS until {later:%Y-%m-%d %H:%M}, {matures} days later, of whom it had met by the end",)


def _looks(
    base: duckdb.DuckDBPyConnection, files: Files, one: Experiment
) -> list[tuple[Sequence[Arm], float]]:
    """Arms to be compared, and until when: those that are live; each that is off with the control, until its
    last page, for the control met others since and the arm's units see the plan as it stands.
    """
    live = [arm for arm in one.arms if arm.state == "live"]
    found: list[tuple[Sequence[Arm], float]] = [(live, inf)] if len(live) > 1 else []
    off = [arm for arm in one.arms[1:] if arm.state == "off"]
    found += [
        ((one.control, arm), last)
        for arm in off
        if (last := last_met(base, files.pages, one.name, arm.name)) is not None
    ]
    if not found:
        raise UsageError(f"{one.name!r} has one live arm left, and nobody was met in the others")
    return found


def lift(args: argparse.Namespace, settings: Settings) -> int:
    """Of a campaign: those that it was shown to against those that it would have been."""
    plan, console = plan_of(args, settings), wide_console()
    one = next((each for each in plan.campaigns if each.id == args.campaign), None)
    if one is None:
        raise UsageError(f"the plan has no campaign {args.campaign!r}")
    share = share_of(plan, one)
    if not share:
        raise UsageError(
            f"{args.campaign!r} holds nobody out: "
            + (
                "a mandatory campaign is shown to all"
                if one.tier == "mandatory"
                else "set `experiments.ghosts: 0.01`, or `ghost` of the campaign"
            )
        )
    metrics = named(args.metrics or ("value", "conversions", "clicks"))
    with counting(console, f"days of {args.campaign}") as tick:
        seen = collect(
            connect(args.memory), files_of(lake_of(settings)),
            Asked(one.id, ("ghosts", "shown"), campaign=key32(one.id)), metrics,
            criterion=metrics[0].name, pre_days=args.pre_days, progress=tick,
        )  # fmt: skip
    weights = {"ghosts": share, "shown": 1 - share}
    planned = planned_days(None, None, args.days, usual=OF_LIFT)
    asked = Question(one.id, weights, metrics[0], metrics, {}, planned)
    found = answer(asked, seen)
    return reported(args, settings.home / "lift" / one.id, [found], console)


def off(args: argparse.Namespace, settings: Settings) -> int:
    return _proposed(args, settings, lambda frame, _who: switched_off(frame, args.name, args.arm))


def promote(args: argparse.Namespace, settings: Settings) -> int:
    return _proposed(
        args, settings, lambda frame, who: promoted(frame, args.name, args.arm, owner=who, now=time.time())
    )


def _proposed(
    args: argparse.Namespace, settings: Settings, change: Callable[[dict[str, Any], str], dict[str, Any]]
) -> int:
    """A changed frame, proposed by whoever calls; somebody else approves it."""
    desk = desk_of(settings)
    desk.governance.refresh()
    frame = desk.governance.books.newest(FRAME)
    if frame is None:
        raise UsageError("no plan was published yet: fenliu plan propose FILE")
    made = change(frame, desk.who.principal)
    base = desk.governance.state.number(FRAME)
    one = desk.governance.propose(desk.who, FRAME, made, base=base, reason=args.reason)
    print(f"proposed {one.id}: `fenliu plan diff {one.id}` shows it; then fenliu plan approve, publish")
    return 0


def files_of(lake: Lake) -> Files:
    """The lake's Parquet by date. UsageError for a lake that is not on this machine's disk."""
    if not lake.local:
        raise UsageError(f"reports read the lake's files by DuckDB: copy {lake.url} to a local folder first")
    manifest = lake.manifest()
    by_date: dict[str, dict[str, list[str]]] = {"served": {}, "events": {}}
    for table, dates in by_date.items():
        for file in manifest.files[table]:
            dates.setdefault(file["date"].partition("=")[2], []).append(lake.path(file["path"]))
    served = {date: _with_arms(paths) for date, paths in by_date["served"].items()}
    users = lake.path("catalogue/users.parquet")
    return Files(
        {date: paths for date, paths in served.items() if paths},
        by_date["events"],
        [lake.path(file["path"]) for file in manifest.files["outcomes"]],
        users if Path(users).exists() else None,
    )


def _with_arms(paths: list[str]) -> list[str]:
    """Without files from before there were experiments."""
    return [path for path in paths if "arms" in pq.read_schema(path).names]


def plan_of(args: argparse.Namespace, settings: Settings) -> Plan:
    if args.plan:
        return load_plan(args.plan)
    with backed(settings) as complete:
        plan = live_plan(complete)
    if plan is None:
        raise UsageError("no plan is live: publish one, or name a file with --plan")
    return plan


def experiment_of(plan: Plan, name: str) -> tuple[Layer, Experiment]:
    layers = plan.experiments.layers if plan.experiments else ()
    every = [(layer, one) for layer in layers for one in layer.experiments]
    for layer, one in every:
        if one.name == name:
            return layer, one
    known = ", ".join(one.name for _, one in every) or "none"
    raise UsageError(f"the plan has no experiment {name!r}: it has {known}")


def _told(console: Console, found: Answer) -> None:
    table = Table(title=f"{found.question.experiment}: {found.summary}")
    for column in ("arm", "metric", "control", "arm's", "difference", "at every look", "p"):
        table.add_column(column)
    for one in found.compared:
        table.add_row(
            one.arm, one.metric, shown(one.control, ".5g"), shown(one.treatment, ".5g"),
            shown(one.relative, "+.2%"), between(one.relative_low, one.relative_high),
            f"{one.adjusted_p:.3g}",
        )  # fmt: skip
    console.print(table)
    for cause in found.mismatch.causes:
        console.print(f"mismatch: {cause}", highlight=False)
