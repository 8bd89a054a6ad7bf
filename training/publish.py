"""The step `publish`: assemble the bundle, load it as a replica does, ask its golden queries, gate it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import implicit
import numpy as np
from numpy.typing import NDArray

from features.views import SCHEMAS
from serving.blend import Blend
from serving.bundle import MANIFEST, Bundle, BundleError, load, read_manifest, save
from serving.models import Neighbours, ServedModel, load_model
from serving.plan import Plan, PlanError, default_plan
from serving.registry import Registry
from serving.score_drift import KEY
from training.dataset import Dataset
from training.gate import Comparison, Refusal, Verdict, inspect, judge
from training.golden import check_golden, make_golden
from training.index import IndexReport
from training.learn import Fitted, Prepared
from training.neighbours import build_neighbours, cooccurrence, owned
from training.ope.release import Release, told
from training.ranker_fit import RankerVerdict
from training.uplift import Learned
from training.watch import refusals
from training.workspace import digest_of

RELATED_DAMPING = 0.6  # on ml-1m, 0.3 puts Star Wars beside Toy Story, 1.0 what hardly anybody has seen


@dataclass(frozen=True, slots=True)
class Parts:
    """What a bundle is made of, and what its manifest says about it."""

    prepared: Prepared
    fitted: Fitted
    index: Path
    index_reports: tuple[IndexReport, ...]
    chosen: str
    blend: Blend
    evaluation: Mapping[str, Any]
    stats: NDArray[np.void]
    inputs: str
    uplift: Learned | None = None  # None: too little is known of benefits
    ranker: RankerVerdict | None = None  # None: the configuration wants none


def assemble(parts: Parts, plan: Plan | None) -> Bundle:
    """The bundle in memory, its golden queries answered. Raises PlanError where the plan cannot be filled."""
    dataset = parts.prepared.dataset
    bundle = Bundle(
        version="draft",
        manifest=manifest(parts),
        items=dataset.items,
        compiled=dataset.compiled,
        stats=parts.stats,
        model=_served(parts),
        popular=parts.fitted.popular("final").popular,
        neighbours=neighbours_of(parts.prepared),
        blend=parts.blend,
        schemas=SCHEMAS,
        uplift=None if parts.uplift is None else parts.uplift.uplift,
        ranker=None if parts.ranker is None else parts.ranker.ranker,
    )
    plan = plan or default_plan(bundle.kind_counts())
    return replace(bundle, golden=make_golden(bundle, plan, dataset.now))


def _served(parts: Parts) -> ServedModel:
    """The chosen model fitted on everything; the vectors with their index."""
    indexed = parts.index / parts.chosen
    return load_model(indexed) if indexed.exists() else parts.fitted.model("final", parts.chosen)


def neighbours_of(prepared: Prepared) -> Neighbours:
    """What goes with an item, damped more than in prediction: what is popular goes with everything."""
    had = owned(prepared.final)
    return build_neighbours(had, cooccurrence(had), damping=RELATED_DAMPING, shrink=10.0)


def manifest(parts: Parts) -> dict[str, Any]:
    """Where the bundle comes from and how good it is. Nothing in it differs between two equal runs."""
    config, dataset = parts.prepared.config, parts.prepared.dataset
    chosen = parts.fitted.params[parts.chosen]
    weights = config.weights.event_weights(chosen["half_life_days"])
    return {
        "trained_until": dataset.now,
        "trained_until_utc": datetime.fromtimestamp(dataset.now, UTC).isoformat(),
        "inputs": parts.inputs,
        "seed": config.seed,
        "threads": config.threads,
        "config": config.model_dump(mode="json"),
        "libraries": {"implicit": implicit.__version__, "numpy": np.__version__},
        "event_weights": asdict(weights),
        "model": {"name": parts.chosen, "params": dict(chosen)},
        "index": [_untimed(report) for report in parts.index_reports if report.model == parts.chosen],
        "evaluation": dict(parts.evaluation),
        "data": _data(dataset),
        "uplift": None if parts.uplift is None else parts.uplift.to_json(),
        "ranker": None if parts.ranker is None else parts.ranker.report,
    }


def _untimed(report: IndexReport) -> dict[str, Any]:
    return {name: value for name, value in report.to_json().items() if not name.endswith("_us")}


def _data(dataset: Dataset) -> dict[str, Any]:
    return {
        "items": dataset.n_items,
        "customers": dataset.n_users,
        "events": len(dataset.interactions),
        "positives": int(dataset.interactions.positive.sum()),
        "left_out": dataset.dropped,
    }


def write_and_judge(
    parts: Parts,
    folder: Path,
    plan: Plan | None,
    comparisons: tuple[Comparison, ...],
    *,
    force: bool,
    release: Callable[[Bundle], Release | None] | None = None,
    scores: Callable[[Bundle], Mapping[str, Any]] | None = None,
) -> tuple[Verdict, str | None]:
    """`release`: what logged traffic says of the bundle; None: it is not asked. `scores`: what it gives
    logged pages, by surface, for the manifest; nothing is written where there is none.

    Save the bundle into a new folder, load it back with every digest checked, and gate it.

    Returns the verdict and the version: the day the data ends and a digest of every file, so that equal
    content has an equal version. None where no bundle could be made at all, which cannot be forced. The
    verdict is written into the manifest. A bundle that the gate refused and a person forced has a version of
    its own, so that the record of it cannot be mistaken for that of the refused one.
    """
    try:
        save(assemble(parts, plan), folder)
        loaded = load(folder, verify=True)
    except (PlanError, BundleError) as error:
        return Verdict((Refusal("cannot_be_served", str(error)),)), None
    golden = check_golden(loaded, plan or default_plan(loaded.kind_counts()))
    rules = parts.prepared.config.gate
    found = None if release is None else release(loaded)
    stopped = [] if found is None else found.stopped(rules.off_policy_margin)
    worse = [Refusal("worse_on_logged_traffic", text) for text in stopped]
    verdict = judge(
        rules,
        comparisons=comparisons,
        problems=[*inspect(loaded), *_watched(parts), *worse],
        golden=golden,
        index_recall=_recalls(parts),
        force=force,
    )
    if found is not None:
        verdict = replace(verdict, off_policy=told(found, rules.off_policy_margin))
    said = {**read_manifest(folder), "gate": verdict.to_json()}
    if scores is not None and (given := scores(loaded)):
        said[KEY] = dict(given)
    version = f"{_day(parts):%Y%m%d}-{digest_of(said['files'])[:10]}"
    if verdict.forced and not verdict.passed:
        version += "-forced"
    said["version"] = version
    text = json.dumps(said, indent=1, ensure_ascii=False, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return verdict, version


def _watched(parts: Parts) -> list[Refusal]:
    found = parts.evaluation.get("watched", {})
    return refusals(parts.prepared.config.gate, found, parts.evaluation["metric"])


def _day(parts: Parts) -> datetime:
    return datetime.fromtimestamp(parts.prepared.dataset.now, UTC)


def _recalls(parts: Parts) -> dict[str, float]:
    """Of the index that would serve; none where the chosen model has none."""
    if not (parts.index / parts.chosen).exists():
        return {}
    return {report.kind: report.recall for report in parts.index_reports if report.model == parts.chosen}


def put_and_promote(
    registry: Registry, folder: Path, verdict: Verdict, *, by: str, hold: bool = False
) -> tuple[str, bool]:
    """Put the bundle in the registry, promote it where the gate lets it: version, and whether it is live.

    `hold`: it waits for somebody to promote it, unless it is live already.
    """
    version = registry.put(folder)
    if not verdict.promote or (hold and registry.live() != version):
        return version, False
    if registry.live() != version:
        reason = "passed the gate" if verdict.passed else "; ".join(one.text for one in verdict.refusals)
        registry.promote(version, by=by, forced=not verdict.passed, reason=reason)
    return version, True
