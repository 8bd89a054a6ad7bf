"""The replay sample as columns: pages with what they were asked, what stood to choice, and who asked.

    manifest.json               format, bundle, when, the shapes of pages, names of surfaces, the span sampled
    <column>.npy                one file a column, memory-mapped
    field.<name>.npy            PROFILE's columns of the customers, as the decision saw them
    member.<number>.npy         pages whose customer was in an audience, ascending

n pages, I items (rows of the catalogue at the time, by key64), R of them `bookable`: their probability and
permission are kept for every page, because a campaign may offer them. A page's `weight` is how many page
views of the span it stands for. Nobody's id is in it: subjects are 64-bit hashes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.views import RECENT
from serving.audience_columns import Columns, Logs
from serving.audience_facts import NO_LOOKUPS, Lookups

FORMAT: Final = 2
RANKS: Final = ("day", "week", "month")
"""Windows of `earlier`: how many page views the customer had before in 24 hours, 7 days and 28 days."""

Floats = NDArray[np.float32]


class SampleError(ValueError):
    """The sample cannot be used; says what to do."""


class Shape(NamedTuple):
    """What a page asked for. `whole`: the surface as it was, so a slot added since is asked for too."""

    surface: str
    slots: tuple[tuple[str, int], ...]
    whole: bool


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Pages in order of shape, then time. Columns of n unless said."""

    bundle: str  # version
    made_at: float
    since: float
    until: float
    population: float  # page views that the sample stands for
    shapes: tuple[Shape, ...]
    items: NDArray[np.uint64]  # (I,) key64
    bookable: NDArray[np.int32]  # (R,) which of them, ascending
    at: NDArray[np.float64]
    subject: NDArray[np.uint64]
    unit: NDArray[np.uint64]  # by serving.ghosts.unit_key
    org: NDArray[np.uint32]
    owner: NDArray[np.uint32]
    shape: NDArray[np.int32]
    weight: Floats
    earlier: NDArray[np.int32]  # (n, RANKS)
    segment: NDArray[np.uint16]
    taste: Floats  # (n, d) the customer's vector where the model has one; d 0 otherwise
    option_at: NDArray[np.int64]  # (n + 1,) into the options
    option: NDArray[np.int32]  # (…,) items worth a look organically, permitted
    option_p: Floats
    p: Floats  # (n, R) P(clicked | displayed)
    permitted: NDArray[np.uint8]  # (n, R / 8) bits, little
    known: NDArray[np.uint64]
    listed: NDArray[np.bool_]  # whether memberships were read
    profiling: NDArray[np.bool_]
    log_at: NDArray[np.int64]  # (n + 1,) into the log
    log: NDArray[np.void]  # RECENT
    logged: NDArray[np.bool_]
    fields: Mapping[str, NDArray[Any]]
    memberships: Mapping[int, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.at)

    def columns(self, lookups: Lookups = NO_LOOKUPS) -> Columns:
        """The customers for `CompiledAudiences.evaluate_columns`, their logs read at the time of the page."""
        return Columns(
            len(self), self.fields, self.known, self.memberships, self.listed, self.profiling,
            Logs(self.log_at, self.log, self.logged, self.at, lookups),
        )  # fmt: skip

    def take(self, pages: NDArray[np.int64]) -> Sample:
        """Some of the pages, ascending; weights grow so that they stand for as many page views."""
        if len(pages) == len(self):
            return self
        grown = float(self.weight.sum()) / max(float(self.weight[pages].sum()), 1e-12)
        options, option_at = _spans(self.option_at, pages)
        entries, log_at = _spans(self.log_at, pages)
        place = np.full(len(self), -1, np.int64)
        place[pages] = np.arange(len(pages))
        held = {number: place[rows] for number, rows in self.memberships.items()}
        plain = (
            *(
                "at",
                "subject",
                "unit",
                "org",
                "owner",
                "shape",
                "earlier",
                "segment",
                "taste",
                "p",
                "permitted",
            ),
            *("known", "listed", "profiling", "logged"),
        )
        return replace(
            self,
            **{name: getattr(self, name)[pages] for name in plain},
            weight=(self.weight[pages] * grown).astype(np.float32),
            option_at=option_at, option=self.option[options], option_p=self.option_p[options],
            log_at=log_at, log=self.log[entries],
            fields={name: column[pages] for name, column in self.fields.items()},
            memberships={number: rows[rows >= 0] for number, rows in held.items()},
        )  # fmt: skip


_PLAIN: Final = tuple(
    one.name
    for one in fields(Sample)
    if one.name
    not in ("bundle", "made_at", "since", "until", "population", "shapes", "fields", "memberships")
)


def thinned(n: int, keep: int) -> NDArray[np.int64]:
    """`keep` of n pages, evenly spread over their order: shapes and hours keep their shares."""
    if keep >= n:
        return np.arange(n)
    return ((np.arange(keep) + 0.5) * (n / keep)).astype(np.int64)


def save(sample: Sample, folder: Path) -> None:
    """Replaces the folder whole: half a sample is never read."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name in _PLAIN:
        np.save(draft / f"{name}.npy", np.ascontiguousarray(getattr(sample, name)))
    for name, column in sample.fields.items():
        np.save(draft / f"field.{name}.npy", np.ascontiguousarray(column))
    for number, rows in sample.memberships.items():
        np.save(draft / f"member.{number}.npy", rows)
    said = {
        "format": FORMAT, "bundle": sample.bundle, "made_at": sample.made_at, "since": sample.since,
        "until": sample.until, "population": sample.population, "pages": len(sample),
        "shapes": [[one.surface, [list(slot) for slot in one.slots], one.whole] for one in sample.shapes],
    }  # fmt: skip
    (draft / "manifest.json").write_text(json.dumps(said, ensure_ascii=False, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def load(folder: Path) -> Sample:
    """Memory-mapped: only what a check looks at is read. Raises SampleError."""
    try:
        said = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SampleError(f"{folder} holds no replay sample ({error}): run `fenliu plan sample`") from None
    if said.get("format") != FORMAT:
        raise SampleError(f"{folder} is of another format: run `fenliu plan sample` again")
    columns = {path.name[: -len(".npy")]: _column(path) for path in sorted(folder.glob("*.npy"))}
    return Sample(
        bundle=said["bundle"], made_at=said["made_at"], since=said["since"], until=said["until"],
        population=said["population"],
        shapes=tuple(
            Shape(surface, tuple((name, int(count)) for name, count in slots), whole)
            for surface, slots, whole in said["shapes"]
        ),
        fields={name[len("field.") :]: one for name, one in columns.items() if name.startswith("field.")},
        memberships={
            int(name[len("member.") :]): one for name, one in columns.items() if name.startswith("member.")
        },
        **{name: columns[name] for name in _PLAIN},
    )  # fmt: skip


def joined(parts: Sequence[Sample]) -> Sample:
    """Pages of several samples of the same items and shapes, in order of shape, then time."""
    first = parts[0]
    sizes = np.cumsum([0, *(len(part) for part in parts)])
    numbers = sorted({number for part in parts for number in part.memberships})
    nobody = np.zeros(0, np.int64)
    flat = ("items", "bookable", "option_at", "log_at")
    plain: dict[str, Any] = {
        one: np.concatenate([getattr(part, one) for part in parts]) for one in _PLAIN if one not in flat
    }
    whole = replace(
        first,
        **plain,
        option_at=_starts([np.diff(part.option_at) for part in parts]),
        log_at=_starts([np.diff(part.log_at) for part in parts]),
        fields={name: np.concatenate([part.fields[name] for part in parts]) for name in first.fields},
        memberships={
            number: np.concatenate(
                [at + part.memberships.get(number, nobody) for at, part in zip(sizes, parts, strict=False)]
            )
            for number in numbers
        },
    )  # fmt: skip
    return ordered(whole)


def ordered(sample: Sample) -> Sample:
    """By shape, then time: pages that share slots lie together."""
    order = np.lexsort((sample.at, sample.shape))
    if (np.diff(order) == 1).all():
        return sample
    options, option_at = _spans(sample.option_at, order)
    entries, log_at = _spans(sample.log_at, order)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    moved = {
        name: getattr(sample, name)[order]
        for name in _PLAIN
        if name not in ("items", "bookable", "option_at", "option", "option_p", "log_at", "log")
    }
    return replace(
        sample,
        **moved,
        option_at=option_at, option=sample.option[options], option_p=sample.option_p[options],
        log_at=log_at, log=sample.log[entries],
        fields={name: column[order] for name, column in sample.fields.items()},
        memberships={number: np.sort(place[rows]) for number, rows in sample.memberships.items()},
    )  # fmt: skip


def bits_of(permitted: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(n, R) as bytes of eight, the first in the lowest bit."""
    return np.packbits(permitted, axis=1, bitorder="little")


def no_logs(n: int) -> tuple[NDArray[np.int64], NDArray[np.void], NDArray[np.bool_]]:
    """`log_at`, `log` and `logged` of customers who did nothing, as far as is known."""
    return np.zeros(n + 1, np.int64), np.zeros(0, RECENT), np.ones(n, np.bool_)


def _spans(
    starts: NDArray[np.int64], pages: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(where the entries of these pages lie, their new starts)."""
    sizes = starts[pages + 1] - starts[pages]
    new = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return np.arange(new[-1]) - np.repeat(new[:-1] - starts[pages], sizes), new


def _starts(sizes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)


def _column(path: Path) -> Any:
    small = path.stat().st_size < 1 << 16
    return np.load(path, mmap_mode=None if small else "r", allow_pickle=False).view(np.ndarray)
