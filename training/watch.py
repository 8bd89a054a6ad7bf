"""What the gate watches beside quality: slices, groups of customers, exposure, drift against the live bundle.

All of it is measured on the test window by the ranking as it will be served, goes into the manifest, and is
judged by `GateRules`. A slice or a group is held against a bundle only where its 95 % interval says so, too.
Drift of what goes in is judged; of what comes out (scores, kinds shown) it is told only, for another model
moves it without being worse. It is the population stability index Σ (p − q) ln(p / q) of shares in bins:
below 0.1 little, above 0.25 much by custom; the bins of scores are the tenths of the live bundle's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from features.views import PROFILE
from training.config import GateRules
from training.evaluate import Cases, Measures, Ranking, difference
from training.gate import Refusal
from training.learn import Prepared

GROUPS: Final = ("age_band", "gender", "city_tier")
TOLD_ONLY: Final = ("scores", "kinds shown")
TOP: Final = 20
SEGMENTS: Final = 20  # the largest are slices
_HISTORY: Final = (0, 1, 2, 5, 10, 20, 40)  # edges of the lengths of histories
_TENTHS: Final = 10
_LEAST: Final = 1e-4  # share that an empty bin counts as


def watched(
    prepared: Prepared,
    ranking: Ranking,
    scores: NDArray[np.floating],
    served: Measures,
    baseline: Measures,
    live: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """JSON of all of it. `scores` (cases,) the best score of each page; `live`: what the live bundle's
    manifest holds of the same, None where there is none.
    """
    cases, metric = prepared.test.cases, prepared.metric
    shape = _shape(prepared, cases, ranking, scores)
    before = (live or {}).get("shape")
    return {
        "slices": _slices(prepared, cases, served, baseline, metric),
        "groups": _groups(prepared, cases, served, metric),
        "exposure": _exposure(ranking, cases.n_items),
        "shape": shape,
        "drift": _drift(shape, before) if isinstance(before, Mapping) else {},
    }


def refusals(rules: GateRules, found: Mapping[str, Any], metric: str) -> list[Refusal]:
    """What speaks against the bundle."""
    slices, groups = found.get("slices", {}), found.get("groups", {})
    against: list[Refusal | None] = [_slice_worse(rules, name, one, metric) for name, one in slices.items()]
    against += [
        _group_short(rules, f"{field} {name}", one, metric)
        for field, ones in groups.items()
        for name, one in ones.items()
    ]
    share = found.get("exposure", {}).get("top_share", 0.0)
    if share > rules.concentration:
        text = f"a hundredth of the items takes {share:.0%} of the places, above {rules.concentration:.0%}"
        against.append(Refusal("concentration", text))
    for name, index in found.get("drift", {}).items():
        if index > rules.drift and name not in TOLD_ONLY:
            text = (
                f"{name}: stability index {index:.2f} against the live bundle, above {rules.drift:g}: check "
                "the data, or promote it with --force"
            )
            against.append(Refusal("drift", text))
    return [one for one in against if one is not None]


def _slice_worse(rules: GateRules, name: str, one: Mapping[str, Any], metric: str) -> Refusal | None:
    gap, low, high = one["difference"]
    floor = one["popular"] * (1.0 - rules.slice_margin)
    if one["customers"] < rules.fewest_slice or one["candidate"] >= floor or high >= 0:
        return None
    text = (
        f"{name}: {metric} {one['candidate']:.4f} is below popularity's {one['popular']:.4f} by over "
        f"{rules.slice_margin:.0%} ({gap:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, "
        f"{one['customers']} customers)"
    )
    return Refusal("slice_worse", text)


def _group_short(rules: GateRules, name: str, one: Mapping[str, Any], metric: str) -> Refusal | None:
    high = one["interval"][1]
    if one["customers"] < rules.fewest_slice or high >= rules.group_ratio:
        return None
    text = (
        f"{name}: {metric} is {one['ratio']:.2f} of everybody's (95 % interval up to {high:.2f}), below "
        f"{rules.group_ratio:g} ({one['customers']} customers)"
    )
    return Refusal("group_ratio", text)


def _slices(
    prepared: Prepared, cases: Cases, served: Measures, baseline: Measures, metric: str
) -> dict[str, Any]:
    """The largest segments: candidate, popularity, and the paired difference."""
    segment = prepared.customers.segment[cases.users]
    codes, counts = np.unique(segment[segment > 0], return_counts=True)
    found: dict[str, Any] = {}
    for code in codes[np.argsort(-counts, kind="stable")][:SEGMENTS].tolist():
        mine = np.flatnonzero(segment == code)
        one, other = _of(served, mine), _of(baseline, mine)
        gap = difference(one, other, metric, np.random.default_rng(prepared.config.seed))
        found[f"segment {code}"] = {
            "customers": len(mine), "candidate": one.value(metric), "popular": other.value(metric),
            "difference": list(gap),
        }  # fmt: skip
    return found


def _of(measures: Measures, mine: NDArray[np.intp]) -> Measures:
    return Measures(measures.names, measures.per_case[mine], {})


def _groups(prepared: Prepared, cases: Cases, served: Measures, metric: str) -> dict[str, Any]:
    """Of each group of a few profile fields the metric over everybody's, with a bootstrap interval."""
    values, whole = served.of_case(metric), float(served.of_case(metric).mean()) if len(cases) else 0.0
    records, known = prepared.dataset.served
    found: dict[str, Any] = {}
    for field in GROUPS:
        told = (known[cases.users] & np.uint64(PROFILE.bit(field))) != 0
        code = np.where(told, records[field][cases.users].astype(np.int64), -1)
        names = np.unique(code[code >= 0]).tolist()
        if len(names) < 2 or whole <= 0:
            continue
        found[field] = {}
        for name in names:
            mine = _of(served, np.flatnonzero(code == name))
            low, high = mine.intervals(np.random.default_rng(prepared.config.seed))[metric]
            ratio = float(values[code == name].mean()) / whole
            said = {"customers": int((code == name).sum()), "ratio": ratio}
            found[field][str(name)] = said | {"interval": [low / whole, high / whole]}
    return found


def _exposure(ranking: Ranking, n_items: int) -> dict[str, float]:
    """How unevenly the first `TOP` places go to items."""
    shown = ranking.top[:, :TOP]
    places = np.sort(np.bincount(shown[shown >= 0], minlength=n_items))[::-1].astype(np.float64)
    if not places.sum():
        return {"top_share": 0.0, "gini": 0.0, "coverage": 0.0}
    few = max(n_items // 100, 1)
    rising = np.arange(n_items, 0, -1)
    gini = (2.0 * (rising * places).sum() / places.sum() - n_items - 1) / n_items
    return {
        "top_share": float(places[:few].sum() / places.sum()),
        "gini": float(gini),
        "coverage": float((places > 0).mean()),
    }


def _shape(
    prepared: Prepared, cases: Cases, ranking: Ranking, scores: NDArray[np.floating]
) -> dict[str, Any]:
    """Shares by bin of what goes in and what comes out; of scores the edges of their tenths as well."""
    records, known = prepared.dataset.served
    shares: dict[str, Any] = {}
    for field in GROUPS:
        told = (known[cases.users] & np.uint64(PROFILE.bit(field))) != 0
        code = np.where(told, records[field][cases.users].astype(np.int64), -1)
        shares[field] = _shares([str(one) for one in code.tolist()])
    past = prepared.test.behaviour.past(prepared.config.weights.event_weights(30.0))
    lengths = np.searchsorted(_HISTORY, np.diff(past.indptr), side="right")
    shares["history"] = _shares([str(one) for one in lengths.tolist()])
    shown = ranking.top[:, :TOP]
    kinds = prepared.dataset.kinds[shown[shown >= 0]]
    shares["kinds shown"] = _shares([KINDS[code] for code in kinds.tolist()])
    good = np.sort(scores[np.isfinite(scores)].astype(np.float64))
    edges = np.quantile(good, np.arange(1, _TENTHS) / _TENTHS).tolist() if len(good) else []
    return {"shares": shares, "scores": {"edges": edges, "values": _thinned(good)}}


def _shares(names: Sequence[str]) -> dict[str, float]:
    found, counts = np.unique(np.array(names, np.str_), return_counts=True)
    return dict(zip(found.tolist(), (counts / max(counts.sum(), 1)).tolist(), strict=True))


def _thinned(good: NDArray[np.float64]) -> list[float]:
    """At most 200 quantiles, by which another bundle's bins can be filled."""
    at = np.linspace(0, max(len(good) - 1, 0), min(len(good), 200)).astype(np.intp)
    return [float(f"{one:.5g}") for one in good[at].tolist()] if len(good) else []


def _drift(mine: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, float]:
    """The stability index of everything that both hold."""
    found = {}
    for name, shares in mine["shares"].items():
        before = live.get("shares", {}).get(name)
        if isinstance(before, Mapping) and before and shares:
            found[name] = stability({k: float(v) for k, v in before.items()}, shares)
    edges = live.get("scores", {}).get("edges") or []
    if edges and mine["scores"]["values"]:
        counts = np.bincount(np.searchsorted(edges, mine["scores"]["values"]), minlength=len(edges) + 1)
        now = {str(place): float(one) for place, one in enumerate(counts / counts.sum())}
        found["scores"] = stability(dict.fromkeys(now, 1.0 / len(now)), now)
    return found


def stability(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """The population stability index of two sets of shares."""
    names = sorted({*before, *now})
    p = np.maximum([now.get(name, 0.0) for name in names], _LEAST)
    q = np.maximum([before.get(name, 0.0) for name in names], _LEAST)
    return float(((p - q) * np.log(p / q)).sum())
