"""Estimates of a policy's value side by side, with what says whether to believe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from training.ope.diagnostics import Chained, Diagnosis, diagnose, diagnose_chain
from training.ope.estimators import ESTIMATORS, Logged, Parts, Slates, cascade, independent, summed
from training.ope.intervals import bootstraps, empirical_bernstein

matplotlib.use("Agg")


@dataclass(frozen=True, slots=True)
class Valued:
    estimator: str
    value: float
    low: float  # bootstrap
    high: float
    bound_low: float | None  # empirical Bernstein; None of a ratio
    bound_high: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`logged`: what the logging policy earned."""

    logged: float
    units: int  # customers; rounds where the log does not tell whose they are
    estimates: tuple[Valued, ...]
    diagnosis: Diagnosis
    chains: tuple[Chained, ...] = ()  # of slots, for the cascade form alone

    def refused(self, estimator: str) -> bool:
        """Whether its number means nothing."""
        broken = estimator.startswith("cascade") and any(one.warnings for one in self.chains)
        return self.diagnosis.refused or broken

    def of(self, estimator: str) -> Valued:
        return next(one for one in self.estimates if one.estimator == estimator)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    seen: Logged,
    rng: np.random.Generator,
    *,
    slates: Sequence[Slates] = (),
    most: float | None = 1.0,
    rounds: int = 1_000,
) -> Verdict:
    """Every estimator that the log has columns for; `slates`: the same pages by slot.

    `most`: rewards lie between 0 and so much for certain (1: clicks); None: no bound is known, so none is
    given. What is drawn anew, and what the bound is over, are customers where the log tells them.
    """
    parts: dict[str, Parts] = {
        name: of(seen)
        for name, of in ESTIMATORS.items()
        if name in ("ips", "snips") or seen.model is not None
    }
    bounds = {name: _bound(parts[name], seen, width) for name, width in _widths(seen, most).items()}
    clustered = {name: one.by(seen.unit) for name, one in parts.items()}
    if slates:
        for name, form in (("independent", independent), ("cascade", cascade)):
            whole = summed([form(slot) for slot in slates])
            clustered[f"{name}, a page"] = whole.by(slates[0].unit)
    drawn = bootstraps(clustered, rng, rounds=rounds)
    estimates = [
        Valued(name, one.value, *drawn[name], *bounds.get(name, (None, None)))
        for name, one in clustered.items()
    ]
    chains = tuple(map(diagnose_chain, slates))
    units = len(seen) if seen.unit is None else int(seen.unit.max()) + 1
    return Verdict(float(seen.reward.mean()), units, tuple(estimates), diagnose(seen), chains)


def _widths(seen: Logged, most: float | None) -> dict[str, float]:
    """Of the range of each plain mean's numbers, w and r being the largest possible: w·r; r; and of
    v + w·(r − q), with v and q among the rewards, 2·w·r + r. Not the largest weight that was drawn."""
    if most is None or seen.bound is None:
        return {}
    width = float(seen.bound.max()) * most
    return {"ips": width} | ({} if seen.model is None else {"dm": most, "dr": 2 * width + most})


def _bound(parts: Parts, seen: Logged, width: float) -> tuple[float, float]:
    return empirical_bernstein(parts, width, unit=seen.unit)


def show(console: Console, title: str, verdict: Verdict) -> None:
    table = Table(title=title)
    for column in ("estimator", "value", "95 % by bootstrap", "empirical Bernstein"):
        table.add_column(column)
    table.add_row("logged policy", f"{verdict.logged:.5f}", "", "")
    for one in verdict.estimates:
        bound = "" if one.bound_low is None else f"{one.bound_low:.4f} … {one.bound_high:.4f}"
        shown = "refused" if verdict.refused(one.estimator) else f"{one.value:.5f}"
        table.add_row(one.estimator, shown, f"{one.low:.5f} … {one.high:.5f}", bound)
    console.print(table)
    found = verdict.diagnosis
    console.print(
        f"{found.rounds:,} rounds, {verdict.units:,} independent; effective {found.effective:,.0f};"
        f" mean weight {found.mean_weight:.3f} ± {found.mean_error:.3f}, largest {found.largest:.1f};"
        f" support {found.support:.1%}" + (f"; {found.nothing:.1%} left empty" if found.nothing else ""),
        highlight=False,
    )
    for warning in (*found.warnings, *(warning for one in verdict.chains for warning in one.warnings)):
        console.print(f"warning: {warning}", highlight=False)


def write(verdict: Verdict, seen: Logged, folder: Path) -> Path:
    """verdict.json and a plot of weights and estimates; the JSON's path."""
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.hist(seen.weight, bins=50, log=True)
    left.set_title("weights")
    rows = [one for one in verdict.estimates if "page" not in one.estimator]
    for at, one in enumerate(rows):
        right.plot([one.low, one.high], [at, at], linewidth=3)
        right.plot(one.value, at, "ko")
    right.axvline(verdict.logged, color="grey", linestyle="--", label="logged policy")
    right.set_yticks(range(len(rows)), [one.estimator for one in rows])
    right.legend()
    figure.tight_layout()
    figure.savefig(folder / "verdict.png", dpi=110)
    plt.close(figure)
    path = folder / "verdict.json"
    path.write_bytes(orjson.dumps(verdict.document(), option=orjson.OPT_INDENT_2))
    return path
