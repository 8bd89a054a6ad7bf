"""What the steps of a training run share, each part made when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import implicit
import numpy as np
from threadpoolctl import threadpool_limits

from features.tags import TagDictionary
from features.transforms import EventWeights
from serving.blend import Blend
from serving.bundle import Bundle, BundleError, load
from serving.catalogue import CompiledItems, Item, compile_items, parse_item
from serving.plan import Plan
from serving.registry import Registry, RegistryError
from training.blend import Shown
from training.config import TrainConfig
from training.dataset import Dataset
from training.dataset_files import load_dataset
from training.index import IndexReport
from training.item_traits import Traits
from training.lake import Lake
from training.learn import Fitted, Prepared, prepare
from training.materialize import Aggregates, aggregate
from training.profiles import tag_age
from training.progress import StepRecord, Telling
from training.ranker_step import Learning
from training.shown import shown_in
from training.uplift import Learned, fit_uplift
from training.uplift_study import study_of
from training.workspace import Workspace, digest_of

LEARNING = 6  # raise when the same inputs shall give another bundle


@dataclass
class RunState:
    """A run over one lake and registry. Nothing here changes either."""

    home: Path
    config: TrainConfig
    lake: Lake
    registry: Registry
    telling: Telling
    plan: Plan | None
    tags: TagDictionary | None

    @cached_property
    def parsed(self) -> list[Item]:
        return [parse_item(raw) for raw in self.lake.read_items()]

    @cached_property
    def items(self) -> CompiledItems:
        return compile_items(self.parsed)

    @cached_property
    def inputs(self) -> str:
        """Names everything that the result follows from."""
        return digest_of(
            LEARNING,
            package_version("fenliu"),
            implicit.__version__,
            np.__version__,
            {name: self.lake.manifest().files[name] for name in ("events", "outcomes", "served")},
            self._catalogue("items.jsonl.zst"),
            self._catalogue("users.parquet"),
            self._said_of_tags(),
            self.config.model_dump(mode="json"),
            self.plan.version if self.plan is not None else "default",
        )

    def _said_of_tags(self) -> bytes:
        """The dictionary, and which of it are young enough to be used."""
        if self.tags is None:
            return b""
        age = tag_age(self.lake.users_written_at(), self.last_event())
        return self.tags.to_json() + self.tags.usable(age).tobytes()

    def _catalogue(self, name: str) -> bytes:
        try:
            held: bytes = self.lake.fs.cat_file(self.lake.path(f"catalogue/{name}"))
        except FileNotFoundError:
            return b""
        return held

    @cached_property
    def work(self) -> Workspace:
        return Workspace(self.home / "work" / self.inputs)

    @cached_property
    def weights(self) -> EventWeights:
        """Without a setting's half-life: a dataset's weights are not decayed yet."""
        return self.config.weights.event_weights(half_life_days=30.0)

    @cached_property
    def dataset(self) -> Dataset:
        return load_dataset(self.work.folder("dataset"), self.items, self.weights)

    @cached_property
    def prepared(self) -> Prepared:
        return prepare(self.dataset, self.config, Traits.of(self.parsed))

    @cached_property
    def fitted(self) -> Fitted:
        return Fitted.read(self.work.folder("models"))

    @cached_property
    def aggregates(self) -> Aggregates:
        return aggregate(self.lake, self.dataset)

    @cached_property
    def uplift(self) -> Learned | None:
        """What benefits add; None where the lake tells too little of it."""
        study = study_of(self.lake, self.dataset, self.config.outcomes.rules(), seed=self.config.seed)
        if study is None:
            return None
        with threadpool_limits(1):  # the same bits on any number of cores
            return fit_uplift(study, seed=self.config.seed)

    def learning(self, evaluation: Mapping[str, Any]) -> Learning:
        """What the ranker is learnt from."""
        return Learning(
            lake=self.lake,
            prepared=self.prepared,
            fitted=self.fitted,
            chosen=evaluation["chosen"],
            blend=Blend.load(self.work.folder("evaluate")),
            stats=self.aggregates.stats,
            plan=self.plan,
            setting=self.config.ranker,
        )

    def last_event(self) -> float:
        """The data's own present: two runs over the same lake see the same one."""
        files = self.lake.manifest().files["events"]
        return max((float(file["high"]) for file in files), default=0.0)

    @property
    def index_reports(self) -> tuple[IndexReport, ...]:
        said = self.work.done("index", self.inputs) or {"reports": []}
        return tuple(IndexReport(**one) for one in said["reports"])

    def shown(self) -> Shown | None:
        parts, window = self.prepared.split, self.prepared.valid
        if not len(window.cases):
            return None
        rules = self.config.outcomes.rules()
        return shown_in(self.lake, self.dataset, window.cases, parts.now_valid, parts.now_test, rules)

    def live_version(self) -> str | None:
        return self.registry.live()

    def live_bundle(self, step: StepRecord) -> Bundle | None:
        """None where there is none, or it cannot be read; that is said, and popularity is the only bar."""
        version = self.live_version()
        if version is None:
            return None
        try:
            return load(self.registry.fetch(version, self.home / "bundles"))
        except (BundleError, RegistryError) as error:
            step.notes.append(f"the live bundle cannot be compared with: {error}")
            return None

    def is_mine(self, version: str) -> bool:
        """Whether a published bundle was made from these very inputs."""
        try:
            return self.registry.show(version).get("inputs") == self.inputs
        except RegistryError:
            return False
