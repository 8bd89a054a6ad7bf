"""The replay sample: page views of the last four weeks, as the product would see them with today's bundle.

    refresh(lake, live, folder, now=…) -> Sample

Of every `served` record that is taken, the query is made again from its logged inputs and goes through the
stages of the rung `full`: understanding, sources, permission, scoring, value. What those found is kept as
columns (`training.sample_columns`): the best organic candidates of each slot, and for every item that a
campaign may offer its probability and its permission. Done in blocks, each written when it is ready: a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import unpack
from features.ids import key32
from features.views import PROFILE
from serving.audience_columns import Columns, columns_of
from serving.decide import page_of
from serving.domain import Query, Rows
from serving.ghosts import unit_key
from serving.live import Live
from serving.pipeline import Page, Pipeline, Trace
from serving.surfaces import BIT
from training.base_columns import Base
from training.lake import Lake
from training.replay import ReplayError, query_of
from training.sample_columns import Sample, SampleError, Shape, bits_of, joined, load, ordered, save
from training.sample_strata import chosen, earlier

DAYS: Final = 28
DAY_S: Final = 86_400.0
BLOCK: Final = 4096  # pages
LOOK: Final = 1.5  # organic candidates kept for each place of a slot
SPARE: Final = 2
MOST_PAGES: Final = 200_000
_CAMPAIGN: Final = np.uint32(1 << BIT["campaign"])

Progress = Callable[[int, int], None]


class Views(NamedTuple):
    """Page views of the lake, in its order: N columns."""

    at: NDArray[np.float64]
    subject: NDArray[np.uint64]
    surface: NDArray[np.int64]
    org: NDArray[np.int64]


def refresh(
    lake: Lake,
    live: Live,
    folder: Path,
    *,
    now: float,
    pages: int = MOST_PAGES,
    days: int = DAYS,
    items: Collection[str] = (),
    base: Base | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sample:
    """Take a sample of the lake's last `days` and write it to `folder`.

    `items`: ids that are bookable beside those of the plan's campaigns; `base` tells the org of a customer
    before the record is read. Raises SampleError when there is nothing to take.
    """
    since = now - days * DAY_S
    views = _views(lake, since, now, base)
    if not len(views.at):
        raise SampleError(f"no page view was served in the last {days} days: run the service, then ingest")
    taken, weight = chosen(views.surface * (int(views.org.max()) + 1) + views.org, views.at, pages, seed)
    before = earlier(views.subject, views.at)
    keys = _bookable(live, items)
    work = folder.with_name(f".{folder.name}.blocks")
    run = _run_of(live, keys, taken, since, seed)
    if (work / "run").exists() and (work / "run").read_text(encoding="utf-8") != run:
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    (work / "run").write_text(run, encoding="utf-8")
    gather = Gatherer(live, keys, len(views.at), now, since)
    for number in range(-(-len(taken) // BLOCK)):
        block, part = work / f"{number:06d}", slice(number * BLOCK, (number + 1) * BLOCK)
        if not (block / "manifest.json").exists():
            some = taken[part]
            records = _records(lake, since, now, some)
            save(gather.pages(records, views.subject[some], before[some], weight[part]), block)
        if progress is not None:
            progress(min((number + 1) * BLOCK, len(taken)), len(taken))
    found = _same_shapes([load(block) for block in sorted(work.glob("[0-9]*"))])
    sample = joined(found)
    if not len(sample):
        raise SampleError("no sampled page view could be decided again: are its surfaces in the plan still?")
    save(sample, folder)
    shutil.rmtree(work)
    return load(folder)


class Gatherer:
    """Pages of records, decided again up to their market."""

    def __init__(self, live: Live, bookable: Rows, population: float, now: float, since: float) -> None:
        self._live, self._rows = live, np.sort(bookable).astype(np.int32)
        self._population, self._now, self._since = population, now, since

    def pages(
        self,
        records: Sequence[Mapping[str, Any]],
        subjects: NDArray[np.uint64],
        before: NDArray[np.int32],
        weight: NDArray[np.float32],
    ) -> Sample:
        """Records that this plan's surfaces do not serve any more are left out."""
        queries, kept = [], []
        for at, record in enumerate(records):
            try:
                queries.append(query_of(as_of(record, self._live), self._live))
            except (ReplayError, KeyError):
                continue
            kept.append(at)
        index = np.array(kept, np.int64)
        return self.of(queries, subjects[index], before[index], weight[index])

    def of(
        self,
        queries: Sequence[Query],
        subjects: NDArray[np.uint64],
        before: NDArray[np.int32],
        weight: NDArray[np.float32],
    ) -> Sample:
        """The sample of these queries, in order of shape, then time."""
        live, n, many = self._live, len(queries), len(self._rows)
        shapes: dict[Shape, int] = {}
        p, may = np.zeros((n, many), np.float32), np.zeros((n, many), np.bool_)
        options: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = []
        tastes = [np.zeros(0, np.float32)] * n
        shape, segment = np.zeros(n, np.int32), np.zeros(n, np.uint16)
        for j, query in enumerate(queries):
            page, found = page_of(query, live), self._shape(query)
            shape[j] = shapes.setdefault(found, len(shapes))
            options.append(self._options(page))
            p[j], may[j] = self._scored(page)
            segment[j] = page.segment
            if page.taste is not None and page.taste.values.ndim == 1:
                tastes[j] = page.taste.values
        width = live.bundle.model.width if hasattr(live.bundle.model, "width") else 0
        taste = np.zeros((n, width), np.float32)
        for j, one in enumerate(tastes):
            if len(one) == width:
                taste[j] = one
        at = np.array([query.now for query in queries], np.float64)
        people = columns_of([query.customer for query in queries], 0.0)
        org = [int(query.customer.get("org")) for query in queries]
        return ordered(
            Sample(
                bundle=live.bundle.version, made_at=self._now, since=self._since, until=self._now,
                population=float(self._population), shapes=tuple(shapes), items=live.keys,
                bookable=self._rows, at=at, subject=np.asarray(subjects, np.uint64),
                unit=np.array([unit_key(query) for query in queries], np.uint64),
                org=np.array(org, np.uint32), owner=np.array([query.owner for query in queries], np.uint32),
                shape=shape, weight=np.asarray(weight, np.float32), earlier=np.asarray(before, np.int32),
                segment=segment, taste=taste,
                option_at=np.cumsum([0, *(len(rows) for rows, _ in options)]).astype(np.int64),
                option=np.concatenate([np.zeros(0, np.int32), *(rows for rows, _ in options)]),
                option_p=np.concatenate([np.zeros(0, np.float32), *(score for _, score in options)]),
                p=p, permitted=bits_of(may), **_people(people),
            )
        )  # fmt: skip

    def _scored(self, page: Page) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(R,) P(clicked | displayed) and permission of the bookable rows, by the same stages."""
        pipeline, rows = self._live.pipelines["full"], self._rows
        if not len(rows):
            return np.zeros(0, np.float32), np.zeros(0, np.bool_)
        return scores_of(page, pipeline, rows), pipeline.permit(page, rows) == 0

    def _options(self, page: Page) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best rows of every slot by organic value, permitted; of sources other than campaigns."""
        live = self._live
        ranked, _, _ = live.pipelines["full"].run(page, Trace())
        value = live.stalls.of(page, ranked, "full").value
        members = live.plan.placeable.take(ranked.rows)
        own = (ranked.origin & ~_CAMPAIGN) != 0
        kept = np.zeros(len(ranked), np.bool_)
        for asked in page.query.slots:
            fits = np.flatnonzero(((members & np.uint64(asked.spec.bit)) != 0) & own)
            best = fits[np.argsort(-value[fits], kind="stable")]
            kept[best[: int(LOOK * asked.count) + SPARE]] = True
        return ranked.rows[kept], ranked.score[kept]

    def _shape(self, query: Query) -> Shape:
        slots = tuple((asked.spec.name, asked.count) for asked in query.slots)
        surface = self._live.plan.surface(query.surface)
        whole = surface is not None and slots == tuple((spec.name, spec.size) for spec in surface[0])
        return Shape(query.surface, slots, whole)


def scores_of(page: Page, pipeline: Pipeline, rows: Rows) -> NDArray[np.float32]:
    """(n,) what the stages of a rung score `rows` (n,), ascending, on a page that they have understood."""
    some = pipeline.candidates(rows)
    columns: dict[str, Any] = {}
    for one in pipeline.hydrators:
        if one.enabled(page):
            columns |= one.columns(page, some)
    some = some.widened(columns)
    for scorer in pipeline.scorers:
        if scorer.enabled(page):
            some = some.scored(scorer.score(page, some))
    return some.score


def as_of(record: Mapping[str, Any], live: Live) -> dict[str, Any]:
    """The record as if it were to be decided now: the inputs stay, the versions are those of `live`."""
    return dict(record) | {
        "bundle": live.bundle.version,
        "base": live.bundle.version,
        "plan": live.plan.version,
        "overlay": live.overlay_seq,
        "content": live.content,
        "kills": [list(kill) for kill in live.thrown],
        "prices": str(live.prices.version) if live.prices.version else None,
        "learned": live.learned.version or None,
        "spent": [],
        "capped": True,
    }


def _views(lake: Lake, since: float, until: float, base: Base | None) -> Views:
    """Day by day, so that the records themselves are never all in memory."""
    parts: list[Views] = []
    surfaces: dict[str, int] = {}
    for start in np.arange(since, until, DAY_S).tolist():
        table = lake.served(start, min(start + DAY_S, until), columns=["subject", "at", "surface", "effort"])
        names = [str(one) for one in table["surface"].to_pylist()]
        subjects = [str(one) for one in table["subject"].to_pylist()]
        org = np.zeros(len(names), np.int64)
        if base is not None and len(names):
            rows = base.rows([one.partition(":")[2] for one in subjects])
            org = np.where(rows >= 0, np.asarray(base.fields["org"])[rows], 0).astype(np.int64)
        for name in names:
            surfaces.setdefault(name, len(surfaces))
        parts.append(
            Views(
                np.asarray(table["at"].to_numpy(), np.float64),
                np.array([_hash(one) for one in subjects], np.uint64),
                np.array([surfaces[name] for name in names], np.int64),
                org,
            )
        )
    whole = Views(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    _, dense = np.unique(whole.org, return_inverse=True)
    return whole._replace(org=dense.astype(np.int64))


def _records(lake: Lake, since: float, until: float, wanted: NDArray[np.int64]) -> list[Mapping[str, Any]]:
    """Records by their number in the order of `_views`."""
    found: list[Mapping[str, Any]] = []
    first = 0
    for start in np.arange(since, until, DAY_S).tolist():
        end = min(start + DAY_S, until)
        count = lake.served(start, end, columns=["at"]).num_rows
        mine = wanted[(wanted >= first) & (wanted < first + count)] - first
        if len(mine):
            packed = lake.served(start, end, columns=["record"])["record"].take(mine)
            found += [unpack(one.as_py()) for one in packed]
        first += count
    return found


def _bookable(live: Live, items: Collection[str]) -> Rows:
    """Rows of every campaign of the plan, paused ones too, and of `items`."""
    named = [name for campaign in live.plan.plan.campaigns for name in campaign.items]
    rows = {row for row in map(live.row, [*named, *items]) if row is not None}
    return np.array(sorted(rows), np.int32)


def _run_of(live: Live, rows: Rows, taken: NDArray[np.int64], since: float, seed: int) -> str:
    """What blocks were made from: those of another run are not mixed in."""
    state = blake2b(digest_size=16)
    for part in (rows, taken, np.array([since, seed, live.overlay_seq])):
        state.update(np.ascontiguousarray(part).tobytes())
    return f"{live.bundle.version} {live.plan.version} {state.hexdigest()}"


def _same_shapes(parts: list[Sample]) -> list[Sample]:
    """Blocks number their shapes each for itself."""
    every: dict[Shape, int] = {}
    for part in parts:
        for shape in part.shapes:
            every.setdefault(shape, len(every))
    shapes = tuple(every)
    return [
        replace(
            part,
            shapes=shapes,
            shape=np.array([every[one] for one in part.shapes] or [0], np.int32)[part.shape],
        )
        for part in parts
    ]


def _people(people: Columns) -> dict[str, Any]:
    assert people.logs is not None and people.memberships_known is not None
    fields = dict(people.fields)
    names, codes = np.unique(fields["tz"], return_inverse=True)
    zones = [key32(name.decode(errors="replace")) if name else 0 for name in names.tolist()]
    fields["tz"] = np.array(zones or [0], np.uint32)[codes] if len(codes) else np.zeros(0, np.uint32)
    assert set(fields) == set(PROFILE.names)
    return {
        "known": people.known, "listed": people.memberships_known, "profiling": people.profiling,
        "log_at": people.logs.starts, "log": people.logs.entries, "logged": people.logs.known,
        "fields": fields, "memberships": dict(people.memberships),
    }  # fmt: skip


def _hash(subject: str) -> int:
    return int.from_bytes(blake2b(subject.encode(), digest_size=8).digest(), "little")
