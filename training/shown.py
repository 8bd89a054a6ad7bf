"""Displays of a window and what became of them: what the blend's probabilities are fitted to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from features.transforms import DAY, FATIGUE_HALF_LIFE_DAYS, FATIGUE_WINDOW_DAYS
from training.blend import Shown
from training.dataset import Dataset
from training.evaluate import Cases
from training.lake import Lake

pc: Any = pyarrow.compute
_READ = ("type", "subject", "item_key", "at")
ANSWER_WITHIN_S = DAY  # a click or conversion later than this is not an answer to the display
_LOOK_BACK = 16  # earlier displays of an item that still tire; a seventeenth would add little
_DISPLAYED, _ANSWERED = 1, 2


def shown_in(lake: Lake, dataset: Dataset, cases: Cases, since: float, until: float) -> Shown | None:
    """Displays to the cases with since <= at < until; None where there are none."""
    early, late = since - FATIGUE_WINDOW_DAYS * DAY, until + ANSWER_WITHIN_S
    events: Any = lake.events(since=early, until=late, columns=_READ)
    kinds = events["type"].cast(pa.string())
    events = events.filter(pc.is_in(kinds, pa.array(["displayed", "clicked", "converted"])))
    if not events.num_rows:
        return None
    kind = np.asarray(pc.equal(events["type"].cast(pa.string()), "displayed"))
    case = _cases(events["subject"], dataset, cases)
    item = dataset.items.rows_of_keys(events["item_key"].fill_null(0).to_numpy())
    at = events["at"].to_numpy()
    good = (case >= 0) & (item >= 0)
    what = np.where(kind[good], _DISPLAYED, _ANSWERED)
    return _labelled(case[good], item[good], at[good], what, since, until, dataset.n_items)


def _cases(column: Any, dataset: Dataset, cases: Cases) -> NDArray[np.int32]:
    """The case of each event's subject, -1 for the others."""
    of_user = {dataset.subjects[user]: case for case, user in enumerate(cases.users.tolist())}
    coded = column.combine_chunks().dictionary_encode()
    table = np.array([of_user.get(name, -1) for name in coded.dictionary.to_pylist()], np.int32)
    found: NDArray[np.int32] = table[np.asarray(coded.indices)]
    return found


def _labelled(
    case: NDArray[np.int32],
    item: NDArray[np.int32],
    at: NDArray[np.float64],
    what: NDArray[np.int64],
    since: float,
    until: float,
    n_items: int,
) -> Shown | None:
    order = np.lexsort((what, at, item, case))  # a display comes before the click of the same moment
    case, item, at, what = case[order], item[order], at[order], what[order]
    group = case.astype(np.int64) * n_items + item
    answers = np.cumsum(what == _ANSWERED)
    fatigue = tired(group, at, what == _DISPLAYED, answers)
    label = answered(group, at, what == _ANSWERED)
    kept = (what == _DISPLAYED) & (at >= since) & (at < until)
    if not kept.any():
        return None
    return Shown(case[kept], item[kept], label[kept], fatigue[kept])


def tired(
    group: NDArray[np.int64],
    at: NDArray[np.float64],
    displayed: NDArray[np.bool_],
    answers: NDArray[np.int64],
) -> NDArray[np.float32]:
    """`features.transforms.fatigue` just before each event: the week's displays since an answer, decayed.

    Events are sorted by group and time; `answers` counts answers up to and with each event.
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
