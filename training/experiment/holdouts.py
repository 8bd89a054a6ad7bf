"""`fenliu experiment holdout`: what a layer's experiments, or all of them, did together.

Who is held out hangs on the unit's hash and the plan's salts alone, so every page in the lake knows its side,
whatever ran on it. Against those held out stand all others that experiments could have had, enrolled or not,
in whichever arm: the difference is what was tried, not what was best of it. What a unit did before says
nothing here, for it was held out then too.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.ids import keys64
from serving.experiment_compiling import compile_experiments
from serving.experiments import CompiledExperiments
from serving.plan import Plan
from serving.settings import Settings
from serving.splitting import parts_of
from training.commands import lake_of
from training.experiment.analysis import Question, answer
from training.experiment.collect import Files, collect, connect
from training.experiment.commands import files_of, plan_of, reported
from training.experiment.metrics import named
from training.experiment.planning import OF_LIFT, planned_days
from training.experiment.units import Asked, rows_of
from training.progress import counting, wide_console
from training.tables import arrow
from training.usage import UsageError

if TYPE_CHECKING:
    import duckdb

SIDES = ("held-out", "others")
METRICS = ("value", "clicks", "conversions", "ctr", "dismissals")
NEITHER = -1


def holdout(args: argparse.Namespace, settings: Settings) -> int:
    """Of one layer, or of all experiments."""
    plan, console = plan_of(args, settings), wide_console()
    share, since = _question(plan, args.layer)
    if args.since is not None:
        since = (args.since if args.since.tzinfo else args.since.replace(tzinfo=UTC)).timestamp()
    made = compile_experiments(plan, {slot.name: 1 << at for at, slot in enumerate(plan.slots)})
    base, files = connect(args.memory), files_of(lake_of(settings))
    divide(base, files, made, args.layer, since)
    metrics = named(args.metrics or METRICS)
    name = args.layer or "all experiments"
    with counting(console, f"days of {name}") as tick:
        seen = collect(
            base, files, Asked(name, SIDES, since=since, sided=True), metrics,
            criterion=metrics[0].name, pre_days=0, progress=tick,
        )  # fmt: skip
    begun = datetime.fromtimestamp(since, UTC)
    about = (
        f"Held out: {share:.1%} of the units of {name}, who had none of them; the others had whatever ran",
        f"Counted: pages since {begun:%Y-%m-%d %H:%M} UTC; nothing adjusts, for the time before was no other",
    )
    weights = {SIDES[0]: share, SIDES[1]: 1 - share}
    planned = planned_days(None, None, args.days, usual=OF_LIFT)
    found = answer(Question(name, weights, metrics[0], metrics, {}, planned, about=about), seen)
    folder = settings.home / "experiments" / (f"holdout-{args.layer}" if args.layer else "holdout")
    return reported(args, folder, [found], console)


def _question(plan: Plan, layer: str | None) -> tuple[float, float]:
    """The part that is held out, and since when anything ran. Raises UsageError where nobody is."""
    text = plan.experiments
    layers = [one for one in (text.layers if text else ()) if layer in (None, one.name)]
    if text is None or not layers:
        known = ", ".join(one.name for one in text.layers) if text else ""
        raise UsageError(f"the plan has no layer {layer!r}: it has {known or 'none'}")
    share = text.holdout if layer is None else layers[0].holdout
    starts = [one.ramp[0].at.timestamp() for each in layers for one in each.experiments]
    if not share or not starts:
        which = "`experiments.holdout`" if layer is None else f"`holdout` of {layer}"
        raise UsageError(f"nobody is held out, or nothing ran: set {which}, above 0, before it does")
    return share, min(starts)


def divide(
    base: duckdb.DuckDBPyConnection, files: Files, made: CompiledExperiments, layer: str | None, since: float
) -> None:
    """Table `sides` (unit, side) of all units with a page since then."""
    if not files.pages:
        raise UsageError("the lake holds no pages: run `fenliu events ingest`")
    query = f"""SELECT DISTINCT unit FROM {rows_of(base, files.pages)}
        WHERE unit IS NOT NULL AND arms IS NOT NULL AND "at" >= $since"""  # noqa: S608
    found = base.execute(query, {"files": files.pages, "since": since}).fetchall()
    units = [str(row[0]) for row in found]
    side = sides_of(made, keys64(units), layer)
    table = arrow.table({"unit": arrow.array(units, arrow.string()), "side": arrow.array(side)})
    base.register("sides_told", table)
    base.execute(
        f"CREATE OR REPLACE TEMP TABLE sides AS SELECT unit, side FROM sides_told WHERE side <> {NEITHER}"  # noqa: S608
    )
    base.unregister("sides_told")


def sides_of(made: CompiledExperiments, keys: NDArray[np.uint64], layer: str | None) -> NDArray[np.int64]:
    """(n,) of unit keys: 0 held out, 1 not, NEITHER where the question is not about them: of a layer, those
    outside its domain or held out from everything.
    """
    everywhere = parts_of(keys, made.global_salt) < made.global_holdout
    if layer is None:
        return np.where(everywhere, 0, 1)
    chosen = next(one for one in made.layers if one.name == layer)
    side = np.where(parts_of(keys, chosen.salt) >= chosen.holdout, 0, 1)
    if chosen.domain is not None:
        stands = parts_of(keys, made.domain_salt)
        side[(stands < chosen.domain[0]) | (stands >= chosen.domain[1])] = NEITHER
    side[everywhere] = NEITHER
    return side
