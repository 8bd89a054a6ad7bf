"""`fenliu plan check --forecast` and `fenliu plan sample`: tables, a plot, JSON, and the sample's refresh.

Functions take the settings and a console and return the exit status: 0, or 1 where something does not fit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from features.store import StoreUnavailable
from serving.arm_bundles import only
from serving.audience_facts import lookups_of
from serving.bundle import load as load_bundle
from serving.lists import ListShelf
from serving.live import Live, build_live
from serving.pace_plan import territory_of
from serving.plan import Plan, default_plan, load_plan
from serving.reasons import CLOSING
from serving.registry import Registry
from serving.settings import Settings
from serving.vector_model import VectorModel
from serving.worth import Worth
from training.base_columns import BaseError, newest
from training.booking import check as checked
from training.booking_delivered import score_due, so_far
from training.booking_most import TRAFFIC_ERROR, Doubt
from training.booking_pages import Stocked
from training.booking_record import Forecasts, Track, document
from training.booking_report import Booking, GoalForecast
from training.booking_time import forecast_of, span_of, spread_of
from training.commands import lake_of, live_plan
from training.progress import counting
from training.sample import MOST_PAGES, refresh
from training.sample_columns import Sample, load
from training.usage import UsageError

SHOWN: Final = 12  # lines of a table
FOLDER: Final = "sample"


def refresh_sample(
    settings: Settings,
    console: Console,
    *,
    pages: int = MOST_PAGES,
    items: tuple[str, ...] = (),
    now: float | None = None,
) -> int:
    """Take the replay sample anew (daily), and score the forecasts whose time is over.

    A stopped run is gone on with. Raises SampleError, UsageError.
    """
    live = _live(settings, live_plan(settings))
    try:
        base = newest(settings.home / "base")
    except BaseError:
        base = None
    with counting(console, "pages decided again") as progress:
        sample = refresh(
            lake_of(settings), live, settings.home / FOLDER, now=time.time() if now is None else now,
            pages=pages, items=items, base=base, progress=progress,
        )  # fmt: skip
    console.print(
        f"replay sample: {len(sample):,} of {sample.population:,.0f} page views, {len(sample.bookable)} items"
        f" that campaigns may offer, bundle {sample.bundle}",
        highlight=False,
    )
    scored = score_due(settings.registry_url, lake_of(settings), time.time() if now is None else now)
    if scored:
        console.print(f"{scored} forecasts whose time is over are scored by what came", highlight=False)
    return 0


def check(
    settings: Settings,
    plan: Plan | Path | str,
    console: Console,
    *,
    as_json: bool = False,
    plot: Path | None = None,
    delivered: Mapping[str, float] | None = None,
    keep: bool = True,
    now: float | None = None,
) -> int:
    """Forecast a plan (a file, or the plan itself) against the live one, and print it. 1: it does not fit.

    `delivered`: units so far by goal id and quota key, None: as the live meters have them. Raises
    SampleError, UsageError, PlanError.
    """
    proposed = plan if isinstance(plan, Plan) else load_plan(Path(plan))
    moment = time.time() if now is None else now
    sample = load(settings.home / FOLDER)
    forecasts = Forecasts(settings.registry_url)
    track = forecasts.track()
    lives = [_live(settings, one) for one in (proposed, live_plan(settings))]
    notes: tuple[str, ...] = ()
    if delivered is None:
        try:
            delivered = {key: n for live in lives for key, n in so_far(settings, live.plan, moment).items()}
        except StoreUnavailable:
            notes = ("the live store is away: goals are forecast as if nothing had been delivered yet",)
    after, before = (stocked(live) for live in lives)
    booking = forecast(after, before, sample, moment, track, delivered)
    booking = replace(booking, notes=booking.notes + notes)
    if keep:
        forecasts.keep(booking, moment)
    if as_json:
        print(json.dumps(document(booking) | {"track": _track_said(track)}, ensure_ascii=False, indent=1))
    else:
        show(booking, track, console)
    if plot is not None:
        draw(booking, plot)
    return 0 if booking.fits else 1


def forecast(
    after: Stocked,
    before: Stocked,
    sample: Sample,
    now: float,
    track: Track,
    delivered: Mapping[str, float] | None = None,
) -> Booking:
    """The span is up to the last flight's end; the traffic carries the sample's weeks on."""
    calendars = [one for plan in (after.plan, before.plan) for one in plan.campaigns.calendars]
    span = span_of(calendars, now)
    territory = territory_of(after.plan)
    spread = spread_of(sample, territory, forecast_of(sample, territory), span)
    traffic = track.error * 1.4826 if track.known else TRAFFIC_ERROR  # of a median, as a deviation
    return checked(
        after, sample, spread, span, before=before, delivered=delivered, doubt=Doubt("past", traffic)
    )


def stocked(live: Live) -> Stocked:
    """A view as booking takes it."""
    plan, table = live.plan, live.table
    kinds, keys = np.ascontiguousarray(table["kind"]), np.ascontiguousarray(table["key"])
    worth = Worth.of(plan.values, live.bundle.stats, kinds, keys, costs=table["cost"])
    columns = {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}

    def estimate(sample: Sample, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return estimated(live, sample, rows)

    return Stocked(
        plan, worth, keys, live.categories, kinds, lambda row: live.texts[row].id,
        lookups_of(live.items.rows_of_keys, columns), (live.rules & np.uint32(CLOSING)) == 0,
        estimate,
    )  # fmt: skip


def estimated(live: Live, sample: Sample, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """(pages, rows) P(clicked | displayed) by the blend: the model where the sample keeps the customer's
    vector and the item has one, else popularity in the segment. No fatigue.
    """
    bundle = live.bundle
    n, model = len(sample), bundle.model
    found = np.empty((n, len(rows)), np.float32)
    kinds = np.ascontiguousarray(live.table["kind"])[rows]
    popularity = {int(one): bundle.popular.log_share(int(one), rows) for one in np.unique(sample.segment)}
    known = isinstance(model, VectorModel) and sample.taste.shape[1] == model.width
    for at, row in enumerate(rows.tolist()):
        score = np.full(n, np.nan, np.float32)
        if known and isinstance(model, VectorModel) and row < model.n_items and model.has_vector[row]:
            score = sample.taste @ model.vectors[row]
        share = np.array([popularity[int(one)][at] for one in np.unique(sample.segment)], np.float32)
        _, which = np.unique(sample.segment, return_inverse=True)
        kind = np.full(n, kinds[at], np.uint8)
        found[:, at] = bundle.blend.score(kind, score, share[which], np.zeros(n, np.float32))
    return found


def show(booking: Booking, track: Track, console: Console) -> None:
    """Tables: goals, remedies, displaced, orgs, caps, prices, pages."""
    since, until = (datetime.fromtimestamp(one, UTC).strftime("%Y-%m-%d %H:%M") for one in booking.span)
    console.print(f"plan {booking.plan}, {since} to {until} UTC ({booking.seconds:.1f} s)", highlight=False)
    changed = [goal for goal in booking.goals if goal.changed or not goal.fits]
    rest = [goal for goal in booking.goals if not (goal.changed or not goal.fits)]
    _table(console, "delivery", _GOALS, [_goal_line(goal) for goal in [*changed, *rest][:SHOWN]])
    _table(console, "what would make it fit", ("goal", "change", "could be", "fits"), [
        (one.goal, one.how, f"{one.most:,.0f}", "yes" if one.fits else "no") for one in booking.relax[:SHOWN]
    ])  # fmt: skip
    _table(console, "displaced, dearest first", ("campaign", "org", "displays", "value CNY", "cost CNY"), [
        (one.campaign, one.org, _pair(one.displays), _pair(one.value), f"{one.cost:,.2f}")
        for one in booking.displaced[:SHOWN]
    ])  # fmt: skip
    _table(console, "by org", ("org", "displays", "value CNY"), [
        (one.org, _pair(one.displays), _pair(one.value)) for one in booking.orgs[:SHOWN]
    ])  # fmt: skip
    _table(console, "caps and permission that bite", ("campaign", "page views", "capped", "not permitted"), [
        (one.campaign, f"{one.running:,.0f}", f"{one.capped:,.0f}", f"{one.denied:,.0f}")
        for one in booking.capped[:SHOWN]
    ])  # fmt: skip
    _table(console, "quotas", ("quota", "used", "at most", "CNY per unit"), [
        (key, f"{one[0]:,.0f}", f"{one[1]:,.0f}", f"{one[2]:.4g}") for key, one in booking.quotas.items()
    ])  # fmt: skip
    for page in booking.pages:
        lines = [
            (slot, ", ".join(page.before.get(slot, ())), ", ".join(items))
            for slot, items in page.after.items()
            if page.before.get(slot, ()) != items
        ]
        _table(console, f"a page of {datetime.fromtimestamp(page.at, UTC):%Y-%m-%d %H:%M}", ("slot", "before",
               "after"), lines)  # fmt: skip
    value = booking.value
    console.print(f"value of all pages: {value[0]:,.0f} -> {value[1]:,.0f} CNY", highlight=False)
    for note in booking.notes[:SHOWN]:
        console.print(f"note: {escape(note)}", highlight=False)
    console.print(_track_line(track), highlight=False)


def draw(booking: Booking, path: Path) -> None:
    """Asked, expected and the interval of goals, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    goals = sorted(booking.goals, key=lambda one: (not one.changed, one.fits))[:30][::-1]
    figure = Figure(figsize=(9, 1.5 + 0.28 * len(goals)), layout="constrained")
    axes = figure.subplots()
    for at, goal in enumerate(goals):
        scale = max(goal.asked, 1e-9)
        colour = "tab:blue" if goal.fits else "tab:red"
        axes.plot([goal.low / scale, goal.high / scale], [at, at], color=colour, lw=3, alpha=0.5)
        axes.plot([goal.expected / scale], [at], "o", color=colour)
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks(range(len(goals)), [one.id for one in goals])
    axes.set_xlabel("expected delivery / asked, 90 % interval")
    figure.savefig(path, dpi=120)


_GOALS: Final = ("goal", "asked", "expected", "90 %", "at most", "CNY per unit", "fits", "because")


def _goal_line(goal: GoalForecast) -> tuple[str, ...]:
    most = "" if np.isnan(goal.most) else f"{goal.most:,.0f}"
    why = "" if goal.cause is None else goal.cause.text("en")
    return (
        f"{goal.id} *" if goal.changed else goal.id, f"{goal.asked:,.0f}", f"{goal.expected:,.0f}",
        f"{goal.low:,.0f} - {goal.high:,.0f}", most, f"{goal.price:.4g} of {goal.ceiling:g}",
        "yes" if goal.fits else "NO", why,
    )  # fmt: skip


def _table(console: Console, title: str, columns: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> None:
    if not lines:
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)


def _pair(both: tuple[float, float]) -> str:
    return f"{both[0]:,.0f} -> {both[1]:,.0f}"


def _track_line(track: Track) -> str:
    if not track.known:
        return f"track record: {track.goals} goals scored so far, too few to say how wrong forecasts are"
    return (
        f"track record over {track.goals} goals: {track.error:.1%} off (median), bias {track.bias:+.1%},"
        f" {track.covered:.0%} within the interval"
    )


def _track_said(track: Track) -> dict[str, float | int | None]:
    known = {"error": track.error, "bias": track.bias, "covered": track.covered}
    return {"goals": track.goals} | {name: value if track.goals else None for name, value in known.items()}


def _live(settings: Settings, plan: Plan | None) -> Live:
    """The live bundle under a plan; a plan that does not quite fit is forecast all the same."""
    registry = Registry(settings.registry_url)
    version = registry.live()
    if version is None:
        raise UsageError("no bundle is live yet: run fenliu train")
    bundle = load_bundle(registry.fetch(version, settings.bundles), verify=False)
    lists = ListShelf(settings.registry_url).numbers()
    plan = plan or default_plan(bundle.kind_counts())
    return build_live(bundle, (), plan, lists=lists, strict=False, bundles=only(bundle))
