"""What an evaluation says: JSON, and tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from training.evaluate import Lists, Ranking, difference, measure
from training.study import Study
from training.study_fit import Outcome
from training.windows import had_share

DENOMINATORS: Final = {
    "recall@k": "|top k and held out| / |held out|",
    "recall_capped@k": "|top k and held out| / min(k, |held out|)",
    "map@k": "sum of precision at hits / min(k, |held out|)",
}
_AT_K: Final = ("recall", "recall_capped", "ndcg", "hr", "mrr", "map", "coverage", "novelty", "gini")
_BRIEF: Final = {"recall_capped": "capped", "coverage": "cover", "novelty": "novel"}  # as wide as figures
_COARSE: Final = {"coverage": 3, "novelty": 2, "gini": 3}  # digits; else four
LENGTHS: Final = (
    ("no history", 0, 0),
    ("1 to 4 items", 1, 4),
    ("5 to 19 items", 5, 19),
    ("20 items or more", 20, None),
)
NEW_ITEM: Final = 5  # customers below which an item is new
TAIL_SHARE: Final = 0.5  # of the training rows: the items below, from the rarest, are the tail
MOST_GROUPS: Final = 12


def to_json(
    study: Study,
    outcomes: Sequence[Outcome],
    metric: str,
    ks: Sequence[int],
    seed: int,
    not_run: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything that was found; repeatable but for the costs. `not_run`: why, by model."""
    cases = study.test.cases
    return {
        "metric": metric,
        "ks": list(ks),
        "protocol": {
            "customers": len(cases),
            "items": cases.n_items,
            "training_rows": len(study.test.data.positives),
            "held_out": len(cases.held.items),
            "candidates": "sampled, as given: figures compare only with figures on the same candidates"
            if cases.candidates is not None
            else "all items",
            "already_had": "not ranked" if study.test.masked else "ranked",
            "history": f"the latest {study.test.keep} items" if study.test.keep else "all of training",
            "times": "decay is tried" if study.timed else "none: nothing decays",
            "denominators": DENOMINATORS,
            "notes": list(study.notes),
        },
        "models": {one.name: _model(one, seed) for one in outcomes},
        "paired": paired(outcomes, metric, seed),
        "slices": slices(study, outcomes, ks),
        "not_run": dict(not_run or {}),
    }


def _model(one: Outcome, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    said: dict[str, Any] = {
        "params": {name: _finite(value) for name, value in one.params.items()},
        "metrics": one.measures.values(),
        "intervals": {name: list(pair) for name, pair in one.measures.intervals(rng).items()},
        "cost": {name: _number(float(getattr(one.cost, name))) for name in type(one.cost).__slots__},
        "cached": one.cached,
    }
    if len(one.by_seed) > 1:
        columns = {name: [values[name] for values in one.by_seed] for name in one.by_seed[0]}
        said["seeds"] = {
            name: {"mean": float(np.mean(v)), "sd": float(np.std(v, ddof=1)), "values": v}
            for name, v in columns.items()
        }
    return said


def _number(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None


def _finite(value: float) -> float | str:
    return value if np.isfinite(value) else "inf"


def paired(outcomes: Sequence[Outcome], metric: str, seed: int) -> list[dict[str, Any]]:
    """The best model by the metric against each other one, on the same customers."""
    best = max(outcomes, key=lambda one: one.measures.value(metric))
    found = []
    for other in outcomes:
        if other is best:
            continue
        gaps = {}
        for name in dict.fromkeys(
            (
                metric,
                *(n for n in ("hr@10", "ndcg@10", "recall@20", "ndcg@20", "mrr") if n in best.measures.names),
            )
        ):
            mean, low, high = difference(best.measures, other.measures, name, np.random.default_rng(seed))
            gaps[name] = {
                "difference": mean,
                "low": low,
                "high": high,
                "significant": bool(low > 0 or high < 0),
            }
        found.append({"best": best.name, "other": other.name, "gaps": gaps})
    return found


def slices(study: Study, outcomes: Sequence[Outcome], ks: Sequence[int]) -> dict[str, Any]:
    """The metrics of some customers, or on some of the held-out items (those alone are then to be found)."""
    stage = study.test
    cases, lengths = stage.cases, stage.lengths()
    found: dict[str, Any] = {}
    for label, low, high in LENGTHS:
        mine = (lengths >= low) & (lengths <= (np.inf if high is None else high))
        _add(found, f"customers with {label}", mine, outcomes)
    segment = stage.data.customers.segment[cases.users]
    codes, counts = np.unique(segment[segment > 0], return_counts=True)
    for code in codes[np.argsort(-counts, kind="stable")][:MOST_GROUPS].tolist():
        _add(found, f"segment {study.segments[code]}", segment == code, outcomes)
    users = np.rint(had_share(stage.data) * len(np.unique(stage.data.positives.user)))
    groups: dict[str, NDArray[np.bool_]] = {f"new items (fewer than {NEW_ITEM} customers)": users < NEW_ITEM}
    order = np.argsort(users, kind="stable")
    below = np.cumsum(users[order]) <= TAIL_SHARE * users.sum()
    tail = np.zeros(len(users), np.bool_)
    tail[order[below]] = True
    groups |= {
        f"tail ({int(tail.sum()):,} items with half of the rows)": tail,
        f"head ({int((~tail).sum()):,} items)": ~tail,
    }
    if study.shelves is not None:
        names, code_of = study.shelves
        sizes = np.bincount(code_of[cases.held.items], minlength=len(names))
        sizes[0] = 0
        for code in np.argsort(-sizes, kind="stable")[:MOST_GROUPS].tolist():
            if sizes[code]:
                groups[f"items: {names[code]}"] = code_of == code
    for label, chosen in groups.items():
        _add_items(found, label, chosen, study, outcomes, ks)
    return found


def _add(found: dict[str, Any], label: str, mine: NDArray[np.bool_], outcomes: Sequence[Outcome]) -> None:
    if mine.any() and not (mine.all() and label.startswith("customers")):
        models = {
            one.name: {
                n: float(v)
                for n, v in zip(one.measures.names, one.measures.per_case[mine].mean(axis=0), strict=True)
            }
            for one in outcomes
        }
        found[label] = {"customers": int(mine.sum()), "models": models}


def _add_items(
    found: dict[str, Any],
    label: str,
    chosen: NDArray[np.bool_],
    study: Study,
    outcomes: Sequence[Outcome],
    ks: Sequence[int],
) -> None:
    cases = study.test.cases
    kept = chosen[cases.held.items]
    if not kept.any():
        return
    owner = np.repeat(np.arange(len(cases)), cases.held.lengths)[kept]
    some, place = np.unique(owner, return_inverse=True)
    held = Lists.group(place, cases.held.items[kept], len(some))
    few = cases.take(some)
    few = type(few)(few.users, held, few.seen, few.n_items, few.candidates)
    models = {}
    for one in outcomes:
        part = measure(
            Ranking(one.ranking.ranks[kept], np.zeros((len(some), 0), np.int32)),
            few,
            np.zeros(cases.n_items),
            ks,
        )
        models[one.name] = part.values()
    found[label] = {"customers": len(some), "models": models}


def show(console: Console, said: Mapping[str, Any]) -> None:
    """The tables, for people."""
    p = said["protocol"]
    console.print(
        f"{p['training_rows']:,} training rows, {p['items']:,} items; {p['customers']:,} customers asked for "
        f"{p['held_out']:,} held-out items; candidates: {p['candidates']}; had before: {p['already_had']}; "
        f"history: {p['history']}; times: {p['times']}",
        highlight=False,
    )
    for note in p["notes"]:
        console.print(f"  {note}", highlight=False, markup=False)
    metric = said["metric"]
    console.print(_headline(said, metric))
    for name, why in said["not_run"].items():
        console.print(f"{name}: not run: {why}", highlight=False, markup=False)
    for k in said["ks"]:
        console.print(_table_at(said, k))
    console.print(
        "recall = found / held out; capped = found / min(k, held out); cover: share of the items shown; "
        "novel: bits of surprise, -log2 of an item's share of customers; gini: 0 = all items shown equally"
    )
    if any("seeds" in one for one in said["models"].values()):
        console.print(_seeds(said))
    console.print(_paired(said, metric))
    console.print(_slices(said, metric))


def _headline(said: Mapping[str, Any], metric: str) -> Table:
    table = Table(title=f"{metric} and others, with 95 % intervals (bootstrap over customers)")
    names = [
        n for n in dict.fromkeys((metric, "hr@10", "ndcg@10", "recall@20", "map", "mrr")) if has(said, n)
    ]
    for column in ("model", *names, "fit s", "peak MiB", "setting"):
        table.add_column(
            column, justify="left" if column in ("model", "setting") else "right", overflow="fold"
        )
    best = {name: max(one["metrics"][name] for one in said["models"].values()) for name in names}
    for name, one in said["models"].items():
        cells = []
        for column in names:
            value, (low, high) = one["metrics"][column], one["intervals"][column]
            text = f"{value:.4f} [{low:.4f}, {high:.4f}]"
            cells.append(
                f"[bold]{text.replace('[', chr(92) + '[')}[/]"
                if value == best[column]
                else text.replace("[", "\\[")
            )
        params = ", ".join(
            f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in one["params"].items()
        )
        table.add_row(name, *cells, f"{one['cost']['fit_s']:.1f}", _mib(one["cost"]["peak_mib"]), params)
    return table


def _mib(peak: float | None) -> str:
    return "-" if peak is None else f"{peak:.0f}"


def has(said: Mapping[str, Any], name: str) -> bool:
    return all(name in one["metrics"] and name in one["intervals"] for one in said["models"].values())


def _table_at(said: Mapping[str, Any], k: int) -> Table:
    table = Table(title=f"lists of {k}", box=SIMPLE_HEAD, pad_edge=False)
    names = [
        name for name in _AT_K if all(f"{name}@{k}" in one["metrics"] for one in said["models"].values())
    ]
    for column in ("model", *names):
        table.add_column(
            _BRIEF.get(column, column), justify="left" if column == "model" else "right", no_wrap=True
        )
    for name, one in said["models"].items():
        table.add_row(
            name, *(f"{one['metrics'][f'{column}@{k}']:.{_COARSE.get(column, 4)}f}" for column in names)
        )
    return table


def _seeds(said: Mapping[str, Any]) -> Table:
    table = Table(title="over seeds: mean and standard deviation")
    names = [n for n in ("hr@10", "ndcg@10", "recall@20", "ndcg@20", "mrr") if has(said, n)]
    for column in ("model", *names):
        table.add_column(column)
    for name, one in said["models"].items():
        spread = one.get("seeds", {})
        table.add_row(
            name, *(f"{spread[n]['mean']:.4f} sd {spread[n]['sd']:.4f}" if n in spread else "" for n in names)
        )
    return table


def _paired(said: Mapping[str, Any], metric: str) -> Table:
    table = Table(title="paired on the same customers: best - other, 95 % interval")
    rows = said["paired"]
    names = list(rows[0]["gaps"]) if rows else [metric]
    for column in ("best", "other", *names):
        table.add_column(column)
    for row in rows:
        cells = [
            f"{g['difference']:+.4f} ({g['low']:+.4f} to {g['high']:+.4f})"
            + ("" if g["significant"] else " n.s.")
            for g in row["gaps"].values()
        ]
        table.add_row(row["best"], row["other"], *cells)
    return table


def _slices(said: Mapping[str, Any], metric: str) -> Table:
    table = Table(title=f"slices: {metric}")
    for column in ("slice", "customers", *said["models"]):
        table.add_column(column, justify="left" if column == "slice" else "right")
    for label, one in said["slices"].items():
        table.add_row(
            label, f"{one['customers']:,}", *(f"{one['models'][name][metric]:.4f}" for name in said["models"])
        )
    return table


def curve_table(said: Mapping[str, Any]) -> Table:
    """The metric by how much is known of a customer."""
    table = Table(title=f"{said['metric']} of all customers, as if known by their latest items only")
    lengths = list(next(iter(said["curve"].values())))
    for column in ("model", *lengths):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, values in said["curve"].items():
        table.add_row(name, *(f"{values[n]:.4f}" for n in lengths))
    return table


def one_line(outcomes: Sequence[Outcome], metric: str) -> str:
    """The result in a sentence."""
    best = max(outcomes, key=lambda one: one.measures.value(metric))
    return f"best by {metric}: {best.name} {best.measures.value(metric):.4f}"
