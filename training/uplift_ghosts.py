"""Ghost placements as a trial of benefits: at a customer's first page with a campaign, a hash decided whether
they were shown it, and of whom it held out the log says that they would have been. Customers are those that
training knew of before that page: who is known by a click on the campaign alone is never a ghost.

Of each customer and campaign the first such page counts, and what follows within the horizon: whether a later
page has the campaign depends on what the first one did. Campaigns of one benefit are read, for of several the
log does not say which a ghost would have got. Who was shown it is twenty times as many as are needed, so only
so many for each ghost are kept, by chance, and the chance of having been shown is that among those kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from features.ids import key32, key64
from serving.ghosts import share_of
from serving.kept import PLAN, plan_of
from serving.plan import Plan, PlanError
from training.lake import Lake

pc: Any = pyarrow.compute
SHOWN_PER_GHOST: Final = 20.0
MOST: Final = 100_000  # pages of a trial
_READ: Final = ("subject", "at", "plan", "campaigns", "ghosts", "lifts")


class Draws(NamedTuple):
    """What the hash decided, parallel columns. `chance`: of being shown, among those that are here."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]  # index among the benefits
    shown: NDArray[np.bool_]
    chance: NDArray[np.float64]
    at: NDArray[np.float64]  # POSIX seconds, of the customer's first page with the campaign

    def take(self, rows: NDArray[Any]) -> Draws:
        return Draws(*(column[rows] for column in self))


def draws_of(
    lake: Lake,
    users: Mapping[str, int],
    known_from: NDArray[np.float64],
    benefits: NDArray[np.uint64],
    *,
    since: float,
    until: float,
    seed: int = 0,
) -> Draws | None:
    """With since <= at < until. None: nobody was held out.

    `users`: subject -> row; `known_from` (rows,): when each was first heard of; `benefits`: key64.
    """
    plans = _plans(lake, benefits)
    if not any(plans.values()):
        return None
    table: Any = lake.served(until=until, columns=_READ)
    table = table.filter(table["lifts"])  # who is shown everything whatever the hash says is in no trial
    user = _coded(table["subject"], users)
    plan, names = _numbered(table["plan"])
    at = table["at"].to_numpy()
    page, campaign, shown = _met(table)
    keep = user[page] >= 0
    page, campaign, shown = page[keep], campaign[keep], shown[keep]
    item, share = _of_plans([plans.get(name, {}) for name in names], plan[page], campaign)
    found = Draws(user[page], item, shown, 1.0 - share, at[page])
    found = found.take(_first(found.user, campaign, found.at))
    fair = (found.item >= 0) & (found.chance > 0) & (found.chance < 1) & (found.at >= since)
    fair &= known_from[found.user] < found.at
    found = _thinned(found.take(fair), np.random.default_rng(seed))
    return None if found.shown.all() or not found.shown.any() else found


def _plans(lake: Lake, benefits: NDArray[np.uint64]) -> dict[str, dict[int, tuple[int, float]]]:
    """Plan version -> campaign's key32 -> (its one benefit, the part held out)."""
    row = {key: at for at, key in enumerate(benefits.tolist())}
    found: dict[str, dict[int, tuple[int, float]]] = {}
    table: Any = lake.inputs(PLAN, -inf, inf)
    for version, body in zip(table["version"].to_pylist(), table["body"].to_pylist(), strict=True):
        if version not in found:
            found[version] = _trials_in(version, body, row)
    return found


def _trials_in(version: str, body: bytes, row: Mapping[int, int]) -> dict[int, tuple[int, float]]:
    try:
        plan: Plan = plan_of(version, body)
    except PlanError:  # of a version of the product whose plans are no more
        return {}
    single = [(one, row.get(key64(one.items[0]), -1)) for one in plan.campaigns if len(one.items) == 1]
    return {
        key32(one.id): (item, share)
        for one, item in single
        if item >= 0 and (share := share_of(plan, one)) > 0
    }


def _met(table: Any) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.bool_]]:
    """(page, campaign, whether it was shown) for every campaign that a page was decided with."""
    parts = []
    for name, shown in (("campaigns", True), ("ghosts", False)):
        column = table[name].combine_chunks()
        campaign = column.flatten().to_numpy(zero_copy_only=False).astype(np.uint32)
        page = pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64)
        parts.append((page, campaign, np.full(len(page), shown)))
    page, campaign, was = (np.concatenate(column) for column in zip(*parts, strict=True))
    return page, campaign, was


def _of_plans(
    known: list[dict[int, tuple[int, float]]], plan: NDArray[np.int64], campaign: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each (plan, campaign): the benefit, −1 for none, and the part held out."""
    each = plan * (1 << 32) + campaign
    some, back = np.unique(each, return_inverse=True)
    told = [known[one >> 32].get(one & 0xFFFF_FFFF, (-1, 0.0)) for one in some.tolist()]
    item = np.array([one for one, _ in told], np.int64)
    share = np.array([one for _, one in told], np.float64)
    return item[back], share[back]


def _first(
    user: NDArray[np.int64], campaign: NDArray[np.uint32], at: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Rows of the first page of every customer with every campaign."""
    order = np.lexsort((at, campaign, user))
    new = np.ones(len(order), np.bool_)
    new[1:] = (user[order][1:] != user[order][:-1]) | (campaign[order][1:] != campaign[order][:-1])
    return order[new]


def _thinned(draws: Draws, rng: np.random.Generator) -> Draws:
    """At most SHOWN_PER_GHOST to each ghost, in expectation, and at most MOST."""
    held = 1.0 - draws.chance
    kept = np.minimum(1.0, SHOWN_PER_GHOST * held / draws.chance)  # of those who were shown it
    among = draws.chance * kept / (draws.chance * kept + held)
    rows = np.flatnonzero(~draws.shown | (rng.random(len(held)) < kept))
    if len(rows) > MOST:
        rows = np.sort(rng.choice(rows, MOST, replace=False))
    return draws._replace(chance=among).take(rows)


def _numbered(column: Any) -> tuple[NDArray[np.int64], list[str]]:
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    indices: NDArray[np.int64] = (
        pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    return indices, coded.dictionary.to_pylist()


def _coded(column: Any, numbers: Mapping[str, int]) -> NDArray[np.int64]:
    """The number of each name, −1 for others."""
    at, names = _numbered(column)
    return np.array([numbers.get(name, -1) for name in names] + [-1], np.int64)[at]
