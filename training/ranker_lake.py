"""Displays of the lake with what became of them, and the logged pages they stood on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from features.attribution import Touches, attribute
from features.events import WHAT, unpack
from features.ids import key32, user_subject
from features.transforms import DAY
from serving.live import Live
from serving.ranker import POSITIONS
from serving.ranking import Signals
from training.dataset import Dataset
from training.lake import Lake
from training.ranker_fit import Rows
from training.ranker_rows import page_matrix
from training.replay import ReplayError, query_of
from training.results import OutcomeRules, reported, results_of
from training.sample import as_of
from training.trust import Heard, heard_of, heard_together

pc: Any = pyarrow.compute
_PAGE: Final = ("subject", "decision_id", "item_key")
_READ: Final = ("type", *_PAGE, "slot", "position", "at", "received_at", "channel")


class Displays(NamedTuple):
    """Reported displays (m) in the order of time. `page`: a number for (subject, decision), the same through
    the table; `slot` codes of the names asked for; `converted`: when that was known, inf: never.
    """

    page: NDArray[np.int64]
    subject: NDArray[np.int64]  # row of the dataset's customers, -1: another
    item: NDArray[np.int32]
    slot: NDArray[np.int64]
    position: NDArray[np.int64]
    at: NDArray[np.float64]
    clicked: NDArray[np.bool_]
    converted: NDArray[np.float64]

    def take(self, chosen: NDArray[Any]) -> Displays:
        return Displays(*(column[chosen] for column in self))

    @property
    def place(self) -> NDArray[np.int64]:
        place: NDArray[np.int64] = self.slot * POSITIONS + np.minimum(self.position, POSITIONS - 1)
        return place


def displays_of(
    lake: Lake, dataset: Dataset, slots: tuple[str, ...], until: float, rules: OutcomeRules
) -> tuple[Displays, dict[tuple[str, str], int]]:
    """Displays in these slots until then, of items of the dataset; and the number of each page."""
    events: Any = lake.events(until=until, columns=_READ)
    events = events.filter(pc.is_valid(events["decision_id"]))
    kinds = events["type"].cast(pa.string())
    wanted = pa.array(["displayed", "clicked", "converted"])
    events, kinds = (one.filter(pc.is_in(kinds, wanted)) for one in (events, kinds))
    what = np.array([WHAT[name] for name in kinds.to_pylist()], np.uint8)
    subjects, decisions = events["subject"].to_pylist(), events["decision_id"].to_pylist()
    numbers: dict[tuple[str, str], int] = {}
    pairs = zip(subjects, decisions, strict=True)
    page = np.fromiter((numbers.setdefault(pair, len(numbers)) for pair in pairs), np.int64, len(what))
    item = dataset.items.rows_of_keys(events["item_key"].fill_null(0).to_numpy())
    slot_of = {key32(name): code for code, name in enumerate(slots)}
    slot = np.array([slot_of.get(key, -1) for key in events["slot"].fill_null(0).to_pylist()], np.int64)
    position = np.asarray(events["position"].fill_null(0).to_numpy(), np.int64)
    at, heard = (np.asarray(events[name].to_numpy(), np.float64) for name in ("at", "received_at"))
    row_of = {name: row for row, name in enumerate(dataset.subjects)}
    subject = np.array([row_of.get(name, -1) for name in subjects], np.int64)
    cell = page * dataset.n_items + item
    shown = np.flatnonzero((what == WHAT["displayed"]) & (item >= 0) & (slot >= 0))
    _, first = np.unique(cell[shown], return_index=True)
    shown = shown[first]  # ascending by cell
    clicked, converted = np.zeros(len(shown), np.bool_), np.full(len(shown), np.inf)
    for mark in ("clicked", "converted"):
        rows = np.flatnonzero((what == WHAT[mark]) & (item >= 0))
        place, known = _found(cell[shown], cell[rows])
        if mark == "clicked":
            clicked[place[known]] = True
        else:
            np.minimum.at(converted, place[known], heard[rows[known]])
    _credited(lake, dataset, rules, until, (subjects, item, at, what), (cell, cell[shown]), converted)
    order = np.argsort(at[shown], kind="stable")
    made = Displays(
        page[shown], subject[shown], item[shown], slot[shown], position[shown], at[shown], clicked, converted
    )
    return made.take(order), numbers


def _credited(
    lake: Lake,
    dataset: Dataset,
    rules: OutcomeRules,
    until: float,
    told: tuple[list[str], NDArray[np.int32], NDArray[np.float64], NDArray[np.uint8]],
    cells: tuple[NDArray[np.int64], NDArray[np.int64]],
    converted: NDArray[np.float64],
) -> None:
    """Outcomes of the bank's own systems, each to the display that it is credited to."""
    subjects, item, at, what = told
    table = reported(lake, rules, until)
    if not table.num_rows:
        return
    number: dict[str, int] = {}
    who = np.fromiter((number.setdefault(name, len(number)) for name in subjects), np.uint64, len(subjects))
    table = table.filter(
        pa.array([user_subject(user) in number for user in table["user_id"].to_pylist()], pa.bool_())
    )
    items, known = dataset.compiled.table, item >= 0
    touches = Touches(
        who[known], items["key"][item[known]], items["category"][item[known]], at[known], what[known],
        np.zeros(int(known.sum()), np.uint8),
    )  # fmt: skip
    credits = attribute(touches, results_of(table, number), rules.attribution)
    heard = np.asarray(table["received_at"].to_numpy(), np.float64)
    place, there = _found(cells[1], cells[0][known][credits.touch])
    np.minimum.at(converted, place[there], heard[credits.outcome[there]])


def _found(
    sorted_cells: NDArray[np.int64], cells: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    if not len(sorted_cells):
        return np.zeros(len(cells), np.intp), np.zeros(len(cells), np.bool_)
    at = np.minimum(np.searchsorted(sorted_cells, cells), len(sorted_cells) - 1)
    return at, sorted_cells[at] == cells


def rows_of(
    lake: Lake,
    live: Live,
    signals: Signals,
    displays: Displays,
    numbers: dict[tuple[str, str], int],
    since: float,
    until: float,
    pages: int,
    rng: np.random.Generator,
) -> tuple[Rows, Heard] | None:
    """Displays on at most `pages` of the pages served then, their features from what was logged, and what the
    bank's own models had said of them.

    A page of a surface that the plan has no more is left out; None where nothing is left.
    """
    parts: list[Rows] = []
    heard: list[Heard] = []
    total = 0
    order = np.argsort(displays.page, kind="stable")
    sorted_pages = displays.page[order]
    for record in _records(lake, numbers, since, until, pages, rng):
        number = numbers[record["subject"], record["id"]]
        mine = order[np.searchsorted(sorted_pages, number) : np.searchsorted(sorted_pages, number + 1)]
        if not len(mine) or not record["profiling"]:
            continue
        try:
            query = query_of(as_of(record, live), live)
        except (ReplayError, KeyError):
            continue
        mine = mine[np.argsort(displays.item[mine], kind="stable")]
        matrix = page_matrix(query, live, displays.item[mine], signals)
        some = displays.take(mine)
        at, said = np.full(len(mine), query.now), query.customer.external
        if len(said):
            heard.append(heard_of(said, query.now, live.keys[some.item], total))
        total += len(mine)
        parts.append(Rows(matrix, some.slot, some.position, some.item, at, some.clicked, some.converted))
    if not parts:
        return None
    columns = list(zip(*(part[1:] for part in parts), strict=True))
    made = Rows(np.concatenate([one.matrix for one in parts], axis=1), *map(np.concatenate, columns))
    return made, heard_together(heard)


def _records(
    lake: Lake,
    numbers: dict[tuple[str, str], int],
    since: float,
    until: float,
    pages: int,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Served records of pages of which something was displayed, a day in memory at a time."""
    days = np.arange(since, until, DAY)
    known: list[NDArray[np.bool_]] = []
    for day in days.tolist():
        table = lake.served(day, min(day + DAY, until), columns=["subject", "id"])
        pairs = zip(table["subject"].to_pylist(), table["id"].to_pylist(), strict=True)
        known.append(np.fromiter((pair in numbers for pair in pairs), np.bool_, table.num_rows))
    total = sum(int(one.sum()) for one in known)
    drawn = np.ones(total, np.bool_)
    if total > pages:
        drawn[:] = False
        drawn[rng.choice(total, pages, replace=False)] = True
    first = 0
    for day, there in zip(days.tolist(), known, strict=True):
        here = np.flatnonzero(there)
        mine = here[drawn[first : first + len(here)]]
        first += len(here)
        if len(mine):
            table = lake.served(day, min(day + DAY, until), columns=["record"])
            for packed in table["record"].take(mine):
                yield unpack(packed.as_py())
