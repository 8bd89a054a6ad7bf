"""Train, validation and test: three ways to divide interactions, by time wherever there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from training.interactions import Interactions
from training.source import MARKS, DataError, Mask, Protocol

if TYPE_CHECKING:  # dataset.py offers split() beside build_dataset()
    from training.dataset import Dataset

_TRAIN, _VALID, _TEST, _UNDATED = (MARKS.index(mark) for mark in ("train", "valid", "test", "undated"))
FRACTIONS: Final = (0.8, 0.1, 0.1)


@dataclass(frozen=True, slots=True)
class Split:
    """`train` holds all behaviour of its time; `valid` and `test` only positives that a ranking can be
    asked for.

    `now_valid` and `now_test` are the moments at which the predictions are made: the model that is tested
    may know of nothing later. `notes` says how it was divided, and how many positives were dropped and why.
    """

    train: Interactions
    valid: Interactions
    test: Interactions
    now_valid: float
    now_test: float
    protocol: Protocol
    notes: dict[str, Any]
    lived: Interactions  # all behaviour before the test, also what no ranking can be asked for

    def train_and_valid(self) -> Interactions:
        """What a model that goes into service, or a final test, may learn from."""
        return Interactions.joined([self.train, self.valid])


def split(
    dataset: Dataset, protocol: Protocol = "auto", *, fractions: tuple[float, float, float] = FRACTIONS
) -> Split:
    """Divide a dataset. `auto`: as the source marks its rows where it does, leave_last_out where rows have
    no time, else by time.

    temporal: the earliest 80 % of positives, the next and the last 10 %. given: the source's marks;
    unmarked rows are left out. leave_last_out: each customer's last basket (events of one time) is the test
    and, of those with three or more, the one before the validation. From `valid` and `test` are dropped
    items without a positive in `train`, and items that the customer holds and that are never sold twice.
    Raises DataError when a part comes out empty.
    """
    chosen = _automatic(dataset.interactions) if protocol == "auto" else protocol
    part = {"temporal": _temporal, "given": _given, "leave_last_out": _leave_last_out}[chosen](
        dataset, fractions
    )
    events = dataset.interactions
    parts = [events.take(part == which) for which in (_TRAIN, _VALID, _TEST)]
    notes: dict[str, Any] = {"protocol": chosen, "rows left out": int((part == 0).sum())}
    train = parts[0]
    valid = _askable(dataset, train, train, parts[1].positives(), notes, "valid")
    test = _askable(dataset, train, Interactions.joined(parts[:2]), parts[2].positives(), notes, "test")
    for name, one in (("train", train.positives()), ("test", test)):
        if not len(one):
            remedy = "Import more events, or choose another protocol"
            raise DataError(
                "the dataset", None, None, f"the {chosen} split leaves no positive to {name}", remedy
            )
    now_valid, now_test = _moments(parts)
    notes |= {
        f"{name} positives": len(one)
        for name, one in (("train", train.positives()), ("valid", valid), ("test", test))
    }
    lived = Interactions.joined(parts[:2])
    return Split(train, valid, test, now_valid, now_test, chosen, notes, lived)


def _automatic(events: Interactions) -> Protocol:
    marked = int(np.isin(events.source_split, (_TRAIN, _VALID, _TEST)).sum())
    undated = int((events.source_split == _UNDATED).sum())
    if marked * 2 > len(events) and bool((events.source_split == _TEST).any()):
        return "given"
    return "leave_last_out" if undated * 2 > len(events) else "temporal"


def _moments(parts: list[Interactions]) -> tuple[float, float]:
    """The start of validation and of test; where customers end at different times, the end of what came
    before.
    """
    train, valid, test = parts
    last = float(train.at.max())
    now_valid = max(float(valid.at.min()), last) if len(valid) else last
    before = max(last, float(valid.at.max())) if len(valid) else last
    return now_valid, max(float(test.at.min()), before) if len(test) else before


def _temporal(dataset: Dataset, fractions: tuple[float, float, float]) -> NDArray[np.uint8]:
    events = dataset.interactions
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"the fractions of a split are three positive numbers that sum to 1, not {fractions}"
        )
    at = events.at[events.positive]
    first, second = (
        at[min(int(len(at) * share), len(at) - 1)] for share in (fractions[0], fractions[0] + fractions[1])
    )
    return np.where(events.at < first, _TRAIN, np.where(events.at < second, _VALID, _TEST)).astype(np.uint8)


def _given(dataset: Dataset, fractions: object) -> NDArray[np.uint8]:  # noqa: ARG001  # one shape for all three
    marks = dataset.interactions.source_split
    if not bool((marks == _TEST).any() and (marks == _TRAIN).any()):
        remedy = "Map a split column with train and test, or choose the temporal protocol"
        raise DataError("the dataset", None, None, "the source does not mark rows as train and test", remedy)
    return np.where(np.isin(marks, (_TRAIN, _VALID, _TEST)), marks, 0).astype(np.uint8)


def _leave_last_out(dataset: Dataset, fractions: object) -> NDArray[np.uint8]:  # noqa: ARG001  # one shape for all three
    events = dataset.interactions
    positive = np.flatnonzero(events.positive)
    order = positive[np.lexsort((events.at[positive], events.user[positive]))]
    user, at = events.user[order], events.at[order]
    new_user = np.append(True, user[1:] != user[:-1])
    basket = np.cumsum(new_user | np.append(True, at[1:] != at[:-1]))
    last = np.zeros(dataset.n_users, np.int64)
    first = np.zeros(dataset.n_users, np.int64)
    last[user], first[user[new_user]] = basket, basket[new_user]  # the last assignment of a user wins
    from_end, baskets = last[user] - basket, (last - first + 1)[user]
    part = np.full(len(events), _TRAIN, np.uint8)
    part[order[(from_end == 0) & (baskets >= 2)]] = _TEST
    part[order[(from_end == 1) & (baskets >= 3)]] = _VALID
    end = np.full(dataset.n_users, np.inf)  # of what the customer may be learnt from
    asked = part != _TRAIN
    np.minimum.at(end, events.user[asked], events.at[asked])
    part[~asked & (events.at >= end[events.user])] = 0  # dismissals and the like that came later
    return part


def _askable(
    dataset: Dataset,
    train: Interactions,
    before: Interactions,
    part: Interactions,
    notes: dict[str, Any],
    name: str,
) -> Interactions:
    """Without what no ranking could find: items that training never saw, and products that the customer
    held before.
    """
    seen = np.zeros(dataset.n_items, np.bool_)
    seen[train.item[train.positive]] = True
    fresh = seen[part.item]
    owned = fresh & _holds(dataset, before, part)
    notes[f"{name} dropped: item unseen in training"] = int((~fresh).sum())
    notes[f"{name} dropped: item already held"] = int(owned.sum())
    return part.take(fresh & ~owned)


def _holds(dataset: Dataset, before: Interactions, part: Interactions) -> Mask:
    """Which entries of `part` are about an item that the customer had taken before and that is never sold
    twice.
    """
    held = dataset.held(before)
    cells = np.repeat(np.arange(dataset.n_users), np.diff(held.indptr)) * dataset.n_items + held.items
    return np.isin(part.user.astype(np.int64) * dataset.n_items + part.item, cells)
