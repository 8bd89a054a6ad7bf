"""The rivals' gains, each the best of its grid on a short flight of a seed that no figure is taken from."""

from __future__ import annotations

from itertools import product
from typing import Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.bench import offline14
from training.bench.campaigns14 import Size
from training.bench.flight14 import Flight
from training.bench.measured14 import measured
from training.bench.policies import policy
from training.bench.rivals14 import GRIDS
from training.bench.traffic14 import market

SHORT: Final = Size(
    views=12_000, days=3, customers=3_000, guaranteed=40, clicked=3, shares=4, quotas=12, standard=12,
    least_goal=500.0, least_clicks=200.0,
)  # fmt: skip
SEED: Final = 0


def tuned(console: Console, names: tuple[str, ...]) -> dict[str, float]:
    """The best value over the bound by rival; prints which gains reached it."""
    made = offline14.with_quotas(market(SHORT, SEED), SEED)
    offline = offline14.plan_offline(made, SEED)
    behind = offline14.hindsight(made, offline)
    programme = offline14.programme_of(made, made.views, 1.0)
    tried = [
        (name, dict(zip(grid, values, strict=True)))
        for name, grid in GRIDS.items()
        if name in names
        for values in product(*grid.values())
    ]
    table = Table(title=f"rivals' gains: {len(made.views):,} page views, {SHORT.days} days, seed {SEED}")
    for column in ("policy", "gains", "value/bound", "on target", "worst"):
        table.add_column(column, justify="left" if column == "gains" else "right")
    best: dict[str, float] = {}
    for name, gains in track([("ours", {}), *tried], "flights", console=console):
        flown = Flight(made, programme, SEED).fly(policy(name, made, offline, **gains))
        found = measured(made, offline, behind, flown)
        value = found["value_to_bound"]
        best[name] = max(best.get(name, value), value)
        said = ", ".join(f"{key} {gain:g}" for key, gain in gains.items())
        rest = (found[one] for one in ("value_to_bound", "on_target", "worst_guarantee"))
        table.add_row(name, said, *(f"{one:.4f}" for one in rest))
    console.print(table)
    return {f"{name}_value": value for name, value in best.items()}
