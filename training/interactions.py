"""Interactions: what customers did with items, as columns in order of time, and the ways of grouping them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT, action_code
from training.source import Mask

_TAKES: Final = ("purchased",)  # actions after which an item is held, as after `converted`


@dataclass(frozen=True, slots=True)
class Interactions:
    """What customers did with items, one entry an event, ordered by time: parallel columns.

    `user`, `item` are rows of the Dataset's; `what`, `action` codes of features.events; `at` POSIX seconds;
    `weight` what the event says about liking, before decay (the event's weight times the source's own,
    negative for dislike, may be 0); `source_split` a position in MARKS: how the source marked the row.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    what: NDArray[np.uint8]
    action: NDArray[np.uint16]
    at: NDArray[np.float64]
    weight: NDArray[np.float32]
    source_split: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[Any] | slice) -> Interactions:
        """These rows; a mask or slice keeps the order of time."""
        return Interactions(
            self.user[rows],
            self.item[rows],
            self.what[rows],
            self.action[rows],
            self.at[rows],
            self.weight[rows],
            self.source_split[rows],
        )

    @property
    def positive(self) -> Mask:
        return self.weight > 0

    def positives(self) -> Interactions:
        """Only what says that somebody likes an item."""
        return self.take(self.positive)

    @property
    def taken(self) -> Mask:
        """Events after which the customer holds the item, if it is one that is held."""
        actions = [action_code(action) for action in _TAKES]
        told = (self.what == WHAT["acted"]) | (self.what == WHAT["outcome"])
        bought = told & np.isin(self.action, actions)
        return np.asarray((self.what == WHAT["converted"]) | bought)

    @classmethod
    def joined(cls, parts: Sequence[Interactions]) -> Interactions:
        """Several together, ordered by time; equal times in the order of the parts."""
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__]
        return cls(*columns).take(np.argsort(np.concatenate([part.at for part in parts]), kind="stable"))


class Grouped(NamedTuple):
    """Interactions by user: user u's are `rows[indptr[u]:indptr[u + 1]]`, positions in the Interactions,
    oldest first.
    """

    indptr: NDArray[np.int64]
    rows: NDArray[np.int64]


class Truth(NamedTuple):
    """Distinct items by user: user u's are `items[indptr[u]:indptr[u + 1]]`, ascending rows."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]

    def of(self, user: int) -> NDArray[np.int32]:
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    @property
    def users(self) -> NDArray[np.int32]:
        """Rows of the users that have any item."""
        return np.flatnonzero(np.diff(self.indptr)).astype(np.int32)


def by_user(interactions: Interactions, n_users: int) -> Grouped:
    """Group by user, keeping the order of time."""
    order = np.argsort(interactions.user, kind="stable")
    counts = np.bincount(interactions.user, minlength=n_users)
    return Grouped(np.concatenate(([0], np.cumsum(counts))), order)


def truth(interactions: Interactions, n_users: int, n_items: int) -> Truth:
    """Each user's distinct positive items: what a ranking ought to find, or what it must leave out."""
    good = interactions.positive
    return distinct(interactions.user[good], interactions.item[good], n_users, n_items)


def distinct(user: NDArray[np.int32], item: NDArray[np.int32], n_users: int, n_items: int) -> Truth:
    """Pairs of rows, each once, by user."""
    cell = np.unique(user.astype(np.int64) * n_items + item)
    user_of, item_of = np.divmod(cell, max(n_items, 1))
    counts = np.bincount(user_of, minlength=n_users)
    return Truth(np.concatenate(([0], np.cumsum(counts))), item_of.astype(np.int32))
