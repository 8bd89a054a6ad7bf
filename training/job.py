"""One training run: ingest -> dataset -> models -> index -> evaluate -> materialise -> publish.

Every step leaves its result and a marker in `home/work/{digest of all inputs}`; a run that was killed goes on
behind the last step that ended, and a run over unchanged inputs does nothing again and says so. What depends
on the live bundle (the evaluation, the gate) runs again when another bundle is live.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from features.keyspace import ViewBatch
from features.log import EventLog
from features.tags import TagDictionary
from serving.arm_bundles import only
from serving.blend import Blend
from serving.bundle import Bundle
from serving.control import Control
from serving.live import Live, build_live
from serving.plan import Plan, default_plan
from serving.ranker import FILE as RANKER_FILE
from serving.ranker import Ranker
from serving.registry import Registry
from training.appraise import appraise
from training.base_columns import BaseCopy
from training.config import TrainConfig
from training.dataset import Dataset, build_dataset
from training.dataset_files import save_dataset
from training.gate import Comparison, Refusal, Verdict
from training.ingest import ingest
from training.lake import Lake
from training.learn import fit_all, index_final
from training.materialize import (
    customer_ids,
    in_use,
    point_at,
    pointers,
    swap_to,
    view_batches,
    write_features,
)
from training.model_card import model_card
from training.ope.candidate import candidate
from training.ope.release import Release, released
from training.overlay import take_over_items
from training.progress import StepRecord, Telling
from training.publish import Parts, manifest, put_and_promote, write_and_judge
from training.ranker_fit import RankerVerdict
from training.report import Findings, write_report
from training.run_state import RunState
from training.score_reference import score_reference
from training.source import Source, import_source
from training.workspace import alone, prune

KEPT_RUNS = 5


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did. `promoted`: its bundle is the live one now; `verdict` says why not.

    `seconds` by step; `metrics` of every model; `report` the Markdown; `features` the key space written.
    """

    version: str | None
    promoted: bool
    chosen: str
    verdict: Verdict
    evaluation: Mapping[str, Any]
    steps: tuple[StepRecord, ...]
    report: Path
    folder: Path
    features: str | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        return {step.name: step.seconds for step in self.steps}

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        return {name: dict(one["metrics"]) for name, one in self.evaluation["models"].items()}


def run_training(
    home: Path,
    source: Source | None = None,
    config: TrainConfig | None = None,
    *,
    now: float,
    registry: str | Path | None = None,
    lake: str | Path | None = None,
    features_url: str | None = None,
    control: Control | str | None = None,
    log: EventLog | None = None,
    plan: Plan | None = None,
    tags: TagDictionary | None = None,
    fresh: bool = False,
    force: bool = False,
    by: str = "train",
    console: Console | None = None,
) -> RunReport:
    """Train on the lake in `home` (after importing `source` and ingesting `log`, where given) and publish.

    `registry` and `lake`: folders or fsspec URLs, by default inside `home`. Without `features_url` nothing is
    materialised; `control` (the port, or a store's URL) is told of new features and bundles. `now` names
    the time of the import only: what is learned depends on the data's own times. `fresh`: no step of an
    earlier run is taken over. Call it outside any event loop. Raises DataError, LakeError, StoreUnavailable,
    KeySpaceError, and TrainingBusy where another run is at work in `home`; a bundle that must not serve is
    no error but a verdict.
    """
    run = _Run(
        home=home,
        config=config or TrainConfig(),
        lake=Lake(lake or home / "lake"),
        registry=Registry(registry or home / "registry"),
        telling=Telling(console),
        plan=plan,
        tags=tags,
    )
    with alone(home):
        if fresh:
            prune(home / "work", 0)
        run.ingest(source, log, control, now)
        return run.rest(features_url, control, force=force, by=by)


class _Run(RunState):
    """The steps, in order."""

    def rest(
        self, features_url: str | None, control: Control | str | None, *, force: bool, by: str
    ) -> RunReport:
        """Everything behind the import."""
        self.make_dataset()
        self.learn()
        self.make_index()
        evaluation = self.evaluate()
        ranker = self.make_ranker(evaluation)
        features = self.materialise(features_url, control)
        report = self.publish(evaluation, ranker, control, features, force=force, by=by)
        prune(self.home / "work", KEPT_RUNS)
        return report

    def ingest(
        self, source: Source | None, log: EventLog | None, control: Control | str | None, now: float
    ) -> None:
        with self.telling.step("ingest") as step:
            if source is not None:
                brought = import_source(source, self.lake, quarantine_folder=self.home / "quarantine")
                step.skipped = brought.already and log is None
                counts = f"{brought.events:,} events, {brought.items:,} items, {brought.users:,} customers"
                if brought.repeated and not brought.already:
                    counts += f"; {brought.repeated:,} events were there before"
                step.notes.append(f"{source.name}: {counts}" + (" (was there)" if brought.already else ""))
                step.notes += source.notes
                if brought.quarantined:
                    step.notes.append(f"{source.quarantine.summary()} (see {brought.quarantine_file})")
            if log is not None:
                taken = ingest(log, self.lake, now=now)
                step.notes.append(
                    f"from the log: {taken.accepted:,} new, {taken.duplicates:,} known, "
                    f"{taken.quarantined:,} set aside"
                )
            if control is not None and (put := take_over_items(control, self.lake)):
                step.notes.append(f"{put:,} items new or changed by the API since the last training")

    def make_dataset(self) -> None:
        with self.telling.step("dataset") as step:
            said = self.work.done("dataset", self.inputs)
            if said is None:
                folder = self.work.fresh("dataset")
                window = self.config.window_days
                dataset = build_dataset(
                    self.lake,
                    self.items,
                    now=self.last_event(),
                    weights=self.weights,
                    window=None if window is None else window * 86_400.0,
                    tags=self.tags,
                    outcomes=self.config.outcomes.rules(),
                )
                save_dataset(dataset, folder)
                self.__dict__["dataset"] = dataset
                said = {
                    "customers": dataset.n_users,
                    "items": dataset.n_items,
                    "events": len(dataset.interactions),
                    "positives": int(dataset.interactions.positive.sum()),
                }
                self.work.finish("dataset", self.inputs, said)
            else:
                step.skipped = True
            step.notes.append(", ".join(f"{value:,} {name}" for name, value in said.items()))

    def learn(self) -> None:
        with self.telling.step("models") as step:
            if self.work.done("models", self.inputs) is not None:
                step.skipped = True
                return
            folder = self.work.fresh("models")
            trials = fit_all(self.prepared, folder, step.notes.append)
            best = {name: tried[0].value for name, tried in trials.items()}
            self.work.finish("models", self.inputs, {"best": {k: repr(v) for k, v in best.items()}})

    def make_index(self) -> None:
        with self.telling.step("index") as step:
            said = self.work.done("index", self.inputs)
            step.skipped = said is not None
            if said is None:
                reports = index_final(self.prepared, self.fitted, self.work.fresh("index"))
                said = {"reports": [report.to_json() for report in reports]}
                self.work.finish("index", self.inputs, said)
            for one in self.index_reports:
                text = f"{one.model}, {one.kind}: {one.items:,} vectors, {one.form}, recall {one.recall:.4f}"
                step.notes.append(text)

    def evaluate(self) -> Mapping[str, Any]:
        """The evaluation, as JSON; the blend lies in the step's folder."""
        with self.telling.step("evaluate") as step:
            live = self.live_version()
            said = self.work.done("evaluate", f"{self.inputs}:{live}")
            if said is None and live is not None and self.is_mine(live):
                said = self.work.last("evaluate")  # what is live is this very run's: nothing is new
            step.skipped = said is not None
            if said is None:
                folder = self.work.fresh("evaluate")
                found = appraise(self.prepared, self.fitted, self.live_bundle(step), self.shown())
                found.blend.save(folder)
                said = {"evaluation": dict(found.report), "live": live}
                self.work.finish("evaluate", f"{self.inputs}:{live}", said)
                said = json.loads(json.dumps(said))
            evaluation: Mapping[str, Any] = said["evaluation"]
            metric = evaluation["metric"]
            for name, one in evaluation["models"].items():
                mark = "  <- serves" if name == evaluation["chosen"] else ""
                step.notes.append(f"{name}: {metric} {one['metrics'][metric]:.4f}{mark}")
            return evaluation

    def make_ranker(self, evaluation: Mapping[str, Any]) -> RankerVerdict | None:
        """The second stage, from the pages that were logged; None where the configuration wants none."""
        if not self.config.ranker.enabled:
            return None
        with self.telling.step("ranker") as step:
            folder, key = self.work.folder("ranker"), f"{self.inputs}:{evaluation['chosen']}"
            said = self.work.done("ranker", key)
            if said is not None:
                step.skipped = True
                ranker = Ranker.load(folder) if (folder / RANKER_FILE).exists() else None
                found = RankerVerdict(ranker, dict(said["report"]))
            else:
                folder = self.work.fresh("ranker")
                found = self.learning(evaluation).learn(step.notes.append)
                if found.ranker is not None:
                    found.ranker.save(folder)
                self.work.finish("ranker", key, {"report": found.report})
            if found.ranker is None:
                step.notes.append(f"none: {found.report['why_not']}")
            return found

    def materialise(self, url: str | None, control: Control | str | None) -> str | None:
        """Write the feature key space and point control at it; its version."""
        with self.telling.step("materialise") as step:
            if url is None:
                step.notes.append("no feature store was named: nothing written")
                return None
            version = f"f{self.inputs[:14]}"
            key = f"{self.inputs}:{url}"
            copy = BaseCopy(self.home / "base", self.lake.read_users())
            said = self.work.done("materialise", key)
            if said is not None and control is not None:
                if in_use(url, control, version, customer_ids(self.lake, self.dataset)):
                    step.notes.append(f"{version} is there and in use")
                    step.skipped = (copy.folder / version / "manifest.json").exists()
                    if not step.skipped:
                        copy.write(version, self.batches())
                        step.notes.append("its columnar copy was missing: written again")
                    return version
                step.notes.append(f"{version} is not in the store, or not pointed at: written again")
            batches = self.batches()
            rng = np.random.default_rng(self.config.seed)
            told = self.telling.counted(sum(len(batch.ids) for batch in batches), "records")
            space = write_features(url, version, batches, rng=rng, progress=told, copy=copy)
            if control is not None:
                swap_to(control, space)
            counts = {name: view.count for name, view in space.views.items()}
            self.work.finish("materialise", key, {"counts": counts})
            step.notes.append(f"{version}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))
            return version

    def batches(self) -> list[ViewBatch]:
        """The records of every view."""
        return view_batches(self.lake, self.dataset, self.aggregates, self.tags)

    def publish(
        self,
        evaluation: Mapping[str, Any],
        ranker: RankerVerdict | None,
        control: Control | str | None,
        features: str | None,
        *,
        force: bool,
        by: str,
    ) -> RunReport:
        """Assemble, gate, promote, report."""
        before = self.live_version()
        with self.telling.step("publish") as step:
            parts = Parts(
                prepared=self.prepared,
                fitted=self.fitted,
                index=self.work.folder("index"),
                index_reports=self.index_reports,
                chosen=evaluation["chosen"],
                blend=Blend.load(self.work.folder("evaluate")),
                evaluation=evaluation,
                stats=self.aggregates.stats,
                inputs=self.inputs,
                uplift=self.uplift,
                ranker=ranker,
            )
            folder = self.work.fresh("bundle")
            comparisons = tuple(_comparison(one) for one in evaluation["comparisons"])
            verdict, version = write_and_judge(
                parts, folder, self.plan, comparisons, force=force, release=self._release, scores=self._scores
            )
            promoted = False
            if version is not None and not force and self.registry.taken_back(version):
                said = f"{version} was rolled back; train on newer data, or promote it with --force"
                verdict = replace(verdict, refusals=(*verdict.refusals, Refusal("rolled_back", said)))
            if version is not None:
                hold = self.config.gate.hold
                version, promoted = put_and_promote(self.registry, folder, verdict, by=by, hold=hold)
            live = self.live_version()
            if control is not None and live is not None and pointers(control).bundle != live:
                point_at(control, "bundle", live)  # also where control was lost and nothing new is promoted
            step.notes += _outcome(version, verdict, promoted=promoted, before=before)
        report = self._report(parts, verdict, version, before, promoted=promoted)
        self.telling.line(f"report: {report}")
        return RunReport(
            version=version,
            promoted=promoted,
            chosen=evaluation["chosen"],
            verdict=verdict,
            evaluation=evaluation,
            steps=tuple(self.telling.steps),
            report=report,
            folder=folder,
            features=features,
            numbers=self.work.done("dataset", self.inputs) or {},
        )

    def _release(self, bundle: Bundle) -> Release | None:
        """What logged pages say of the bundle under the plan in force; None: none held a lottery."""
        pages = self.config.gate.off_policy_pages
        if not pages or not self.lake.manifest().files["served"]:
            return None
        until = self.dataset.now + 1.0
        views = candidate(self.lake, only(bundle), self._plan_for(bundle), bundle)
        return released(self.lake, views, until, seed=self.config.seed, most=pages)

    def _scores(self, bundle: Bundle) -> dict[str, Any]:
        """What the bundle gives logged pages under the plan in force: what drift is told from."""
        if not self.lake.manifest().files["served"]:
            return {}
        return score_reference(self.lake, self._candidate(bundle), self.dataset.now + 1.0)

    def _candidate(self, bundle: Bundle) -> Live:
        return build_live(bundle, (), self._plan_for(bundle), strict=False, bundles=only(bundle))

    def _plan_for(self, bundle: Bundle) -> Plan:
        return self.plan or default_plan(bundle.kind_counts())

    def _report(
        self, parts: Parts, verdict: Verdict, version: str | None, before: str | None, *, promoted: bool
    ) -> Path:
        findings = Findings(
            version=version or f"none-{self.inputs[:10]}",
            evaluation=parts.evaluation,
            verdict=verdict,
            promoted=promoted,
            live_before=before,
            data=self.work.done("dataset", self.inputs) or {},
            index=tuple(one for one in parts.index_reports if one.model == parts.chosen),
            model=self.fitted.model("final", parts.chosen),
            kinds=self.dataset.kinds,
            popularity=_positives(self.dataset),
            steps=self.telling.steps,
            seed=self.config.seed,
            threads=self.config.threads,
        )
        folder = self.home / "runs" / findings.version
        path = write_report(findings, folder)
        said = {**manifest(parts), "version": findings.version, "gate": verdict.to_json()}
        (folder / "model-card.md").write_text(model_card(said), encoding="utf-8")
        return path


def _positives(dataset: Dataset) -> NDArray[np.float64]:
    good = dataset.interactions.positives()
    return np.bincount(good.item, minlength=dataset.n_items).astype(np.float64)


def _comparison(said: Mapping[str, Any]) -> Comparison:
    gap = said["difference"]
    return Comparison(**{**said, "difference": (gap[0], gap[1], gap[2])})


def _outcome(version: str | None, verdict: Verdict, *, promoted: bool, before: str | None) -> list[str]:
    if promoted and version == before:
        return [f"bundle {version} was live already"]
    if promoted:
        how = "" if verdict.passed else " by force, against:"
        return [f"bundle {version} is live{how}", *_reasons(verdict.refusals)]
    if verdict.promote and version is not None:
        look = f"fenliu bundle shadow {version} --minutes 30 && fenliu bundle promote {version}"
        return [f"bundle {version} is held: {look}"]
    return [f"bundle {version or '(none)'} is not promoted:", *_reasons(verdict.refusals)]


def _reasons(refusals: tuple[Refusal, ...]) -> list[str]:
    return [f"{one.code}: {one.text}" for one in refusals]
