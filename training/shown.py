"""Displays of a window and what became of them: what the blend's probabilities are fitted to.

An answer is a click or a conversion in the app within a day, or an outcome of the bank's own systems that is
credited with the display. Fatigue is counted as in service: a click ends it, a conversion alone does not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from features.attribution import Touches, attribute
from features.events import WHAT
from features.ids import user_subject
from features.transforms import DAY, FATIGUE_HALF_LIFE_DAYS, FATIGUE_WINDOW_DAYS
from training.blend import Shown
from training.dataset import Dataset
from training.evaluate import Cases
from training.lake import Lake
from training.results import OutcomeRules, reported, results_of

pc: Any = pyarrow.compute
_READ = ("type", "subject", "item_key", "at", "channel")
ANSWER_WITHIN_S = DAY  # a click or conversion later than this is not an answer to the display
_LOOK_BACK = 16  # earlier displays of an item that still tire; a seventeenth would add little
_DISPLAYED, _CLICKED = WHAT["displayed"], WHAT["clicked"]


class _Told(NamedTuple):
    """Displays, clicks and conversions of the cases, parallel columns."""

    case: NDArray[np.int32]
    item: NDArray[np.int32]
    at: NDArray[np.float64]
    what: NDArray[np.uint8]
    channel: NDArray[np.uint8]

    def take(self, rows: NDArray[Any]) -> _Told:
        return _Told(*(column[rows] for column in self))


def shown_in(
    lake: Lake,
    dataset: Dataset,
    cases: Cases,
    since: float,
    until: float,
    rules: OutcomeRules | None = None,
) -> Shown | None:
    """Displays to the cases with since <= at < until; None where there are none. `rules`: which outcomes are
    answers (None: none).
    """
    early, late = since - FATIGUE_WINDOW_DAYS * DAY, until + ANSWER_WITHIN_S
    events: Any = lake.events(since=early, until=late, columns=_READ)
    kinds = events["type"].cast(pa.string())
    events = events.filter(pc.is_in(kinds, pa.array(["displayed", "clicked", "converted"])))
    if not events.num_rows:
        return None
    told = _Told(
        _cases(events["subject"], dataset, cases),
        dataset.items.rows_of_keys(events["item_key"].fill_null(0).to_numpy()),
        events["at"].to_numpy(),
        _whats(events["type"]),
        events["channel"].fill_null(0).to_numpy(),
    )
    told = told.take((told.case >= 0) & (told.item >= 0))
    told = told.take(np.lexsort((told.what, told.at, told.item, told.case)))  # a display before its click
    credited = _credited(lake, dataset, cases, told, rules, until) if rules is not None else None
    return _labelled(told, credited, since, until, dataset.n_items)


def _whats(column: Any) -> NDArray[np.uint8]:
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    table = np.array([WHAT[name] for name in coded.dictionary.to_pylist()], np.uint8)
    found: NDArray[np.uint8] = table[np.asarray(coded.indices)]
    return found


def _credited(
    lake: Lake, dataset: Dataset, cases: Cases, told: _Told, rules: OutcomeRules, until: float
) -> NDArray[np.int64]:
    """Rows of `told` that an outcome is credited with."""
    place = {dataset.subjects[user]: case for case, user in enumerate(cases.users.tolist())}
    table = reported(lake, rules, until + rules.attribution.view_window_s)
    mine = [user_subject(user) in place for user in table["user_id"].to_pylist()]
    table = table.filter(pa.array(mine, pa.bool_()))
    items = dataset.compiled.table
    touches = Touches(
        told.case.astype(np.uint64),
        items["key"][told.item],
        items["category"][told.item],
        told.at,
        told.what,
        told.channel,
    )
    return attribute(touches, results_of(table, place), rules.attribution).touch


def _cases(column: Any, dataset: Dataset, cases: Cases) -> NDArray[np.int32]:
    """The case of each event's subject, -1 for the others."""
    of_user = {dataset.subjects[user]: case for case, user in enumerate(cases.users.tolist())}
    coded = column.combine_chunks().dictionary_encode()
    table = np.array([of_user.get(name, -1) for name in coded.dictionary.to_pylist()], np.int32)
    found: NDArray[np.int32] = table[np.asarray(coded.indices)]
    return found


def _labelled(
    told: _Told, credited: NDArray[np.int64] | None, since: float, until: float, n_items: int
) -> Shown | None:
    group = told.case.astype(np.int64) * n_items + told.item
    displayed = told.what == _DISPLAYED
    fatigue = tired(group, told.at, displayed, np.cumsum(told.what == _CLICKED))
    label = answered(group, told.at, ~displayed)
    if credited is not None:
        label[credited] = 1.0
    kept = displayed & (told.at >= since) & (told.at < until)
    if not kept.any():
        return None
    return Shown(told.case[kept], told.item[kept], label[kept], fatigue[kept])


def tired(
    group: NDArray[np.int64],
    at: NDArray[np.float64],
    displayed: NDArray[np.bool_],
    answers: NDArray[np.int64],
) -> NDArray[np.float32]:
    """`features.transforms.fatigue` just before each event: the week's displays since an answer, decayed.

    Events are sorted by group and time; `answers` counts clicks up to and with each event.
    """
    found = np.zeros(len(group))
    for lag in range(1, min(_LOOK_BACK * 2, len(group))):
        age = at[lag:] - at[:-lag]
        counts = (
            (group[lag:] == group[:-lag])
            & displayed[:-lag]
            & (answers[lag:] == answers[:-lag])
            & (age < FATIGUE_WINDOW_DAYS * DAY)
        )
        found[lag:] += np.where(counts, np.exp2(-age / (FATIGUE_HALF_LIFE_DAYS * DAY)), 0.0)
    return found.astype(np.float32)


def answered(
    group: NDArray[np.int64], at: NDArray[np.float64], answer: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """1 for an event whose next of the same group is an answer within a day: of several displays the last."""
    label = np.zeros(len(group))
    follows = (group[1:] == group[:-1]) & answer[1:] & (at[1:] - at[:-1] <= ANSWER_WITHIN_S)
    label[:-1] = follows
    return label
