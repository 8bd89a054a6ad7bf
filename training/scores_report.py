"""What became of the items that imported scores proposed: displays, clicks, and lift within the same pages.

A placement is of the origin `external(M)` where the decision's own copy of the customer's scores, as logged,
holds an entry of M for the item that had not expired. Lift compares its click rate with that of the other
displayed places of the same slots and pages; intervals are by bootstrap over pages. It is no experiment: only
a holdout or ghost placements say what the scores add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.external import unpack
from serving.surfaces import BIT
from training.lake import Lake
from training.replay import Record, placed_in, records

_EXTERNAL: Final = 1 << BIT["external"]
RESAMPLES: Final = 500


@dataclass(frozen=True, slots=True)
class Told:
    """Of one model; `alone`: displays that no other source proposed. `lift` is a ratio, NaN without data."""

    displays: int
    alone: int
    clicks: int
    rate: float
    others: float
    lift: float
    interval: tuple[float, float]


def origins(
    lake: Lake,
    names: Mapping[int, str],
    since: float | None = None,
    until: float | None = None,
    seed: int = 7,
) -> dict[str, Told]:
    """By model name; `names` by key32 of it. Models without a display are left out."""
    displayed, clicked = _events(lake, since, until)
    return told(records(lake, since, until), displayed, clicked, names, seed)


def told(
    served: Iterable[Record],
    displayed: set[tuple[str, int]],
    clicked: set[tuple[str, int]],
    names: Mapping[int, str],
    seed: int = 7,
) -> dict[str, Told]:
    """`displayed` and `clicked`: (decision id, item key)."""
    pages: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names.values()}
    alone = dict.fromkeys(pages, 0)
    for record in served:
        places = [one for one in placed_in(record) if (record["id"], one.item) in displayed]
        if not any(one.origin & _EXTERNAL for one in places):
            continue
        held = unpack(record["blobs"][5] if len(record["blobs"]) > 5 else None)
        held = held[held["expires"] > record["at"]]
        for model, name in names.items():
            named = set(held["item"][held["model"] == model].tolist())
            mine = [one for one in places if one.origin & _EXTERNAL and one.item in named]
            if not mine:
                continue
            slots = {one.slot for one in mine}
            rest = [one for one in places if one.slot in slots and one not in mine]
            hits = [sum((record["id"], one.item) in clicked for one in part) for part in (mine, rest)]
            pages[name].append(np.array([len(mine), hits[0], len(rest), hits[1]], np.float64))
            alone[name] += sum(one.origin == _EXTERNAL for one in mine)
    rng = np.random.default_rng(seed)
    return {name: _told(np.stack(one), alone[name], rng) for name, one in pages.items() if one}


def _told(pages: NDArray[np.float64], alone: int, rng: np.random.Generator) -> Told:
    """`pages` (n, 4): displays and clicks of the model's places, and of the others."""
    total = pages.sum(axis=0)
    times = rng.poisson(1.0, (RESAMPLES, len(pages))).astype(np.float64)
    drawn = _lift(times @ pages)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
    rate, others = total[1] / total[0], total[3] / total[2] if total[2] else np.nan
    return Told(
        int(total[0]), alone, int(total[1]), float(rate), float(others),
        float(_lift(total[None])[0]), (float(low), float(high)),
    )  # fmt: skip


def _lift(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((sums[:, 1] / sums[:, 0]) / (sums[:, 3] / sums[:, 2]))


def _events(
    lake: Lake, since: float | None, until: float | None
) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    table: Any = lake.events(since, until, columns=["type", "decision_id", "item_key"])
    found: dict[str, set[tuple[str, int]]] = {"displayed": set(), "clicked": set()}
    columns = (table[name].to_pylist() for name in ("type", "decision_id", "item_key"))
    for kind, decision, item in zip(*columns, strict=True):
        if kind in found and decision:
            found[kind].add((decision, item))
    return found["displayed"], found["clicked"]
