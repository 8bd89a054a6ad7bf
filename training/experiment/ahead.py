"""`fenliu experiment plan`: units and days that an experiment needs, by the lake's own past or by figures.

The past is read as if an experiment of one arm had run over everybody: after each of its days there are so
many units, a mean, a spread, and what the time before says of it. Units that keep coming back make an effect
easier to find only slowly, and no rate of new units says how slowly; their own days do. Beyond the days that
the lake has, what can be found goes on falling as it fell over the later half of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import sqrt
from typing import Any, Final

import numpy as np
from scipy import stats

from serving.experiment import Experiment, Layer
from serving.plan import Plan
from serving.settings import Settings
from training.commands import lake_of
from training.experiment.collect import Day, Files, collect, connect
from training.experiment.commands import experiment_of, files_of, plan_of
from training.experiment.metrics import Metric, named
from training.experiment.planning import DAYS, days_needed, detectable, final_bound, units_needed
from training.experiment.sequential import ALPHA
from training.experiment.statistics import adjusted
from training.experiment.units import Asked
from training.progress import counting, wide_console
from training.usage import UsageError

TOLD: Final = (7, 14, 28, 42)  # days of which it is said what they could find
LEAST_UNITS: Final = 100


@dataclass(frozen=True, slots=True)
class Passed:
    """After so many days of the past: units met, the metric's mean, the deviation of one unit as a part of
    it, without what was known before, and how much of the variance that was.
    """

    days: int
    units: int
    mean: float
    deviation: float
    reduction: float


def plan_ahead(args: argparse.Namespace, settings: Settings) -> int:
    """From a mean and a deviation where they are given, from the lake where they are not."""
    if not 0 < args.effect < 10:
        raise UsageError("--effect is a relative change above 0, such as 0.02 for 2 %")
    if (args.mean is None) != (args.deviation is None):
        raise UsageError("--mean and --deviation go together; without both the lake's own past is read")
    if not (0 < args.power < 1 and args.arms >= 2):
        raise UsageError("--power is between 0 and 1, --arms 2 or more")
    return _from_lake(args, settings) if args.mean is None else _from_figures(args)


def _from_figures(args: argparse.Namespace) -> int:
    saved, looks = args.correlation**2, args.looks or 14
    try:
        need = units_needed(
            args.mean, args.deviation, args.effect,
            power=args.power, arms=args.arms, reduction=saved, looks=looks,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(str(error)) from None
    days = days_needed(need.units, args.daily, args.returning) if args.daily else None
    told = {
        "units": need.units,
        "units_single_look": need.single_look,
        "days": days,
        "detectable_with": {
            f"{n}": round(detectable(n, args.mean, args.deviation, reduction=saved, looks=looks), 5)
            for n in (need.units // 4, need.units, 4 * need.units)
        },
    }
    if args.json:
        print(json.dumps(told))
        return 0
    console = wide_console()
    console.print(
        f"{need.units:,} units in {args.arms} arms find {args.effect:+.1%} with power {args.power:.0%},"
        f" looking {looks} times ({need.single_look:,} with a single look)",
        highlight=False,
    )
    if args.daily:
        reached = (
            f"after {days} days" if days is not None else f"not within {DAYS} days: ask for a larger effect"
        )
        console.print(f"reached {reached}", highlight=False)
    return 0


def _from_lake(args: argparse.Namespace, settings: Settings) -> int:
    """Of an experiment of the plan, or of everybody: how long until the effect would be found."""
    enrolled, arms, metric, by_device = args.enrolled, args.arms, args.metric, False
    if args.name is not None:
        plan = plan_of(args, settings)
        layer, one = experiment_of(plan, args.name)
        enrolled = enrolled or enrolled_of(plan, layer, one)
        arms, metric, by_device = len(one.arms), metric or one.criterion, one.unit == "device"
    enrolled = enrolled or 1.0
    if not 0 < enrolled <= 1:
        raise UsageError("--enrolled is a part of all units, above 0 and at most 1")
    console, asked = wide_console(), named([metric or "clicks"])[0]
    with counting(console, "days of the past") as tick:
        past = passed(
            files_of(lake_of(settings)), asked, days=args.past, pre_days=args.pre_days,
            by_device=by_device, memory=args.memory, progress=tick,
        )  # fmt: skip
    found = [reached(one, enrolled, arms, args.power) for one in past]
    day = days_until(args.effect, found)
    last = past[-1]
    told: dict[str, Any] = {
        "metric": asked.name,
        "past": [asdict(one) for one in past],
        "enrolled": enrolled,
        "arms": arms,
        "days": day,
        "beyond_the_past": day is not None and day > len(past),
        "units": None if day is None else round(_units_by(day, past) * enrolled),
        "detectable_after": {f"{n}": round(beyond(n, found), 5) for n in TOLD if n <= 3 * len(found)},
    }
    if args.json:
        print(json.dumps(told))
        return 0
    console.print(
        f"{asked.name}: {last.mean:.4g} after {last.days} days of the past, deviation {last.deviation:.3g}"
        f" times that; {last.units:,} units met; {last.reduction:.0%} of the variance known from before",
        highlight=False,
    )
    reach = f"not within {DAYS} days: ask for a larger effect, or enrol more"
    if day is not None:
        guess = ", going on as the past did" if told["beyond_the_past"] else ""
        reach = f"{day} days, {told['units']:,} units enrolled{guess}"
    console.print(
        f"{args.effect:+.1%} in {arms} arms over {enrolled:.0%} of the units, power {args.power:.0%}, looking"
        f" daily: {reach}",
        highlight=False,
    )
    for n, change in told["detectable_after"].items():
        console.print(f"  {n} days find {change:.2%}", highlight=False)
    return 0


def passed(
    files: Files,
    metric: Metric,
    *,
    days: int = 14,
    pre_days: int = 14,
    by_device: bool = False,
    memory: float = 2.0,
    progress: Any = None,
) -> list[Passed]:
    """Day by day over the last `days` whole ones of the lake. Raises UsageError where too little is known."""
    dates = sorted(files.served)
    if len(dates) < 2 or days < 1:
        raise UsageError(
            "the lake holds no two days of pages to plan by: run `fenliu events ingest`, or give --mean and"
            " --deviation"
        )
    since, until = (datetime.fromisoformat(one).replace(tzinfo=UTC).timestamp() for one in (
        dates[-1 - min(days, len(dates) - 1)], dates[-1],
    ))  # fmt: skip
    asked = Asked("the past", ("everybody",), by_device=by_device, until=until - 1e-3, since=since)
    seen = collect(
        connect(memory), files, asked, (metric,), criterion=metric.name, pre_days=pre_days, progress=progress
    )
    found = [one for at, day in enumerate(seen.days) if (one := _passed(at + 1, day, metric)) is not None]
    if not found:
        raise UsageError(f"nobody has any {metric.name} in the lake's past: give --mean and --deviation")
    return found


def _passed(days: int, day: Day, metric: Metric) -> Passed | None:
    """None before there is anything to go by. Two halves like the whole differ by twice its variance."""
    (whole,) = day.moments[metric.name]
    if whole.n < LEAST_UNITS:
        return None
    found = adjusted(whole, whole, ratio=metric.bottom is not None)
    mean, of_unit = found.control.value, found.absolute.variance / 2 * whole.n
    if not (mean and of_unit > 0):
        return None
    plain = of_unit / (1 - found.reduction)
    return Passed(days, whole.n, mean, sqrt(plain) / abs(mean), found.reduction)


def reached(one: Passed, enrolled: float, arms: int, power: float) -> tuple[int, float]:
    """(days, the relative change that an experiment planned for so long would find with that power): every
    arm but the control against it, alike large.
    """
    each = one.units * enrolled / arms
    error = one.deviation * sqrt((1 - one.reduction) * 2 / each)
    return one.days, float(final_bound(one.days, ALPHA / (arms - 1)) + stats.norm.isf(1 - power)) * error


def days_until(effect: float, found: Sequence[tuple[int, float]]) -> int | None:
    """The first day by which so small an effect is found; None: not within DAYS."""
    for day, change in found:
        if change <= effect:
            return day
    return next((n for n in range(found[-1][0] + 1, DAYS + 1) if beyond(n, found) <= effect), None)


def beyond(days: int, found: Sequence[tuple[int, float]]) -> float:
    """What is found after so many days: of the past, or as a power of time fitted to its later half."""
    known = dict(found)
    if days in known:
        return known[days]
    some = np.log(np.array(found[len(found) // 2 :]))
    slope = float(np.polyfit(some[:, 0], some[:, 1], 1)[0]) if len(some) > 1 else -0.5
    return float(found[-1][1] * (days / found[-1][0]) ** min(slope, 0.0))


def _units_by(day: int, past: Sequence[Passed]) -> float:
    """Units met by a day; beyond the past by the same power of time."""
    known = {one.days: one.units for one in past}
    if day in known:
        return known[day]
    some = np.log(np.array([(one.days, one.units) for one in past[len(past) // 2 :]]))
    slope = float(np.polyfit(some[:, 0], some[:, 1], 1)[0]) if len(some) > 1 else 0.0
    return float(past[-1].units * (day / past[-1].days) ** max(slope, 0.0))


def enrolled_of(plan: Plan, layer: Layer, one: Experiment) -> float:
    """The part of all units that the experiment has once its ramp is over, its audience aside."""
    text = plan.experiments
    low, high = one.range
    domain = 1.0
    if text is not None and layer.domain is not None:
        domain = next(each.share for each in text.domains if each.name == layer.domain)
    whole = 1.0 - (text.holdout if text is not None else 0.0)
    return (high - low) * one.ramp[-1].enrolled * domain * whole
