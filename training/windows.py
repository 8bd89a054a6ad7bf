"""From a dataset and its split to what models are fitted on and asked: windows, cases, histories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from features.transforms import EventWeights, histories
from features.views import HISTORY_KEEP
from training.dataset import NO_OTHERS, Dataset, Interactions, Others
from training.evaluate import Cases, Lists, Past
from training.item_traits import Traits
from training.model import Customers, Positives, TrainData

Repeats = Literal["auto", "mask", "keep"]
REPEATED_SHARE = 0.2  # of held-out positives: from here on a customer may well want the same item again


def customers_of(dataset: Dataset) -> Customers:
    indptr, tokens = dataset.tokens
    return Customers(np.asarray(indptr, np.int64), tokens, dataset.segments, dataset.cities)


def train_data(
    dataset: Dataset, customers: Customers, events: Interactions, now: float, traits: Traits | None = None
) -> TrainData:
    """The positives among `events`, as one window that ends at `now`."""
    good = events.positives()
    positives = Positives(good.user, good.item, good.at, good.weight)
    return TrainData(positives, customers, dataset.kinds, now, traits)


def cases_of(
    dataset: Dataset,
    before: Interactions,
    later: Interactions,
    *,
    repeats: Repeats,
    most: int,
    rng: np.random.Generator,
) -> Cases:
    """Customers with later positives (a sample of at most `most`), what those are, and what is not ranked.

    Not ranked is what the customer holds and cannot take again; with `mask`, all that they liked before, and
    who then wants nothing else is no case; nor is who refused profiling, for whom no such page is made.
    """
    users = np.unique(later.user)
    users = users[~dataset.refused[users]]
    out = dataset.held(before)
    owner = np.repeat(np.arange(dataset.n_users, dtype=np.int32), np.diff(out.indptr))
    pairs = [(owner, out.items)]
    if masks(before, later, dataset.n_items, repeats):
        good = before.positives()
        pairs.append((good.user, good.item))
    user = np.concatenate([pair[0] for pair in pairs])
    item = np.concatenate([pair[1] for pair in pairs])
    seen = _grouped(users, user, item)
    # What is not ranked is not asked for either. The reverse, ranking again just what is asked for, would
    # give the answers away: a model scores highest what the customer had.
    held = _without(_grouped(users, later.user, later.item), seen, dataset.n_items)
    every = Cases(users.astype(np.int32), held, seen, dataset.n_items)
    asked = np.flatnonzero(held.lengths)
    if len(asked) > most:
        asked = np.sort(rng.choice(asked, most, replace=False))
    return every.take(asked)


def masks(before: Interactions, later: Interactions, n_items: int, repeats: Repeats) -> bool:
    """Whether items liked before are left out of the ranking."""
    if repeats != "auto":
        return repeats == "mask"
    good = before.positives()
    had = np.unique(good.user.astype(np.int64) * n_items + good.item)
    wanted = later.user.astype(np.int64) * n_items + later.item
    return bool(np.isin(wanted, had).mean() < REPEATED_SHARE) if len(wanted) else True


def _grouped(users: NDArray[np.int32], user: NDArray[np.int32], item: NDArray[np.int32]) -> Lists:
    """Items by case; users that are no case are left out."""
    case, known = _case_of(users, user)
    return Lists.group(case[known], item[known], len(users))


def _case_of(users: NDArray[np.int32], user: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    at = np.minimum(np.searchsorted(users, user), max(len(users) - 1, 0))
    known = users[at] == user if len(users) else np.zeros(len(user), np.bool_)
    return at, known


def _without(lists: Lists, other: Lists, n_items: int) -> Lists:
    """`lists` less the items of `other`, case by case."""
    owner = np.repeat(np.arange(len(lists)), lists.lengths)
    theirs = np.repeat(np.arange(len(other)), other.lengths)
    kept = ~np.isin(owner * n_items + lists.items, theirs * n_items + other.items)
    return Lists.group(owner[kept], lists.items[kept], len(lists))


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The latest events of each case before the cut: at most as many as the service keeps, oldest first."""

    case: NDArray[np.int32]
    events: Interactions
    now: float
    n_cases: int

    def past(self, weights: EventWeights, rows: NDArray[np.int32] | None = None) -> Past:
        """Histories at the cut. `rows` translates item rows into another bundle's (-1: not in it)."""
        events = self.events
        item = events.item if rows is None else rows[events.item]
        found = histories(self.case, item, events.what, events.action, events.at, self.now, weights)
        indptr = np.searchsorted(found.users, np.arange(self.n_cases + 1)).astype(np.int64)
        return Past(indptr, found.rows, found.weights)


def behaviour_of(
    cases: Cases,
    before: Interactions,
    now: float,
    others: Others = NO_OTHERS,
    keep: int = HISTORY_KEEP,
) -> Behaviour:
    """The last `keep` entries of each case before `now`, as models are asked by them: not the outcomes of the
    bank's own systems; and `others` push older ones out, though nothing is learnt from them.

    Entries are in order of time; among those of one moment `others` come last.
    """
    case, known = _case_of(cases.users, before.user)
    rows = np.flatnonzero(known & (before.what != WHAT["outcome"]))
    idle, theirs = _case_of(cases.users, others.user)
    theirs = theirs & (others.at < now)
    whose = np.concatenate((case[rows], idle[theirs]))
    at = np.concatenate((before.at[rows], others.at[theirs]))
    order = np.lexsort((np.arange(len(at)), at, whose))
    ends = np.searchsorted(whose[order], np.arange(len(cases)), side="right")
    chosen = order[ends[whose[order]] - np.arange(len(order)) <= keep]
    chosen = chosen[chosen < len(rows)]
    return Behaviour(whose[chosen].astype(np.int32), before.take(rows[chosen]), now, len(cases))


def had_share(data: TrainData) -> NDArray[np.float64]:
    """(n_items,) the share of users with a positive who had each item."""
    p = data.positives
    cell = np.unique(p.user.astype(np.int64) * data.n_items + p.item)
    counts = np.bincount(cell % data.n_items, minlength=data.n_items)
    return counts / max(len(np.unique(p.user)), 1)
