"""Attribution: which displays and clicks an outcome is credited to. One pure function, online and offline.

A touch can be credited with an outcome when it is of the same customer and of the same item (or, for an
outcome that names only a family, of the same family), lies before it, within the goal's click window (a
click) or view window (a display), and in one of the goal's channels. Clicks come first: where one qualifies,
displays get nothing. `last_touch` gives all to the latest, `linear` equal parts to every one that qualifies.
An outcome's shares add up to 1, or there are none: it would be organic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from features.ids import CHANNEL_CODE

DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Attribution:
    """How a goal counts: windows in seconds (0: never so), channels of the touch (empty: all)."""

    click_window_s: float = 30 * DAY_S
    view_window_s: float = DAY_S
    channels: tuple[str, ...] = ()
    credit: Literal["last_touch", "linear"] = "last_touch"

    def __post_init__(self) -> None:
        if not (0 <= self.click_window_s < np.inf and 0 <= self.view_window_s < np.inf):
            raise ValueError("attribution windows are finite and not negative")
        if strange := set(self.channels) - set(CHANNEL_CODE):
            raise ValueError(f"attribution names unknown channels: {', '.join(sorted(strange))}")


class Touches(NamedTuple):
    """Displays and clicks, parallel columns in any order. `what` as events.WHAT; other codes are ignored."""

    subject: NDArray[np.uint64]
    item: NDArray[np.uint64]
    family: NDArray[np.uint32]
    at: NDArray[np.float64]
    what: NDArray[np.uint8]
    channel: NDArray[np.uint8]


class Results(NamedTuple):
    """Outcomes, parallel columns in any order. `item` 0: only `family` (never 0 then) is known. `value` is
    money, or 1 where it is counted; 0 was taken back."""

    subject: NDArray[np.uint64]
    item: NDArray[np.uint64]
    family: NDArray[np.uint32]
    at: NDArray[np.float64]
    value: NDArray[np.float64]


class Credits(NamedTuple):
    """One row a credited (outcome, touch) pair: rows of the inputs, by outcome and then time of the touch.

    `share` in (0, 1], `value` = share times the outcome's value."""

    outcome: NDArray[np.int64]
    touch: NDArray[np.int64]
    share: NDArray[np.float64]
    value: NDArray[np.float64]


def attribute(touches: Touches, results: Results, goal: Attribution) -> Credits:
    """The credits of `results`. Deterministic; touches of one moment are taken in their order. O(n log n)."""
    allowed = np.ones(len(touches.at), bool)
    if goal.channels:
        allowed = np.isin(touches.channel, [CHANNEL_CODE[channel] for channel in goal.channels])
    clicks = np.flatnonzero(allowed & (touches.what == WHAT["clicked"]))
    displays = np.flatnonzero(allowed & (touches.what == WHAT["displayed"]))
    open_ = np.flatnonzero((results.value != 0) & ((results.item != 0) | (results.family != 0)))
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for rows, window in ((clicks, goal.click_window_s), (displays, goal.view_window_s)):
        for named in (True, False):
            asking = open_[(results.item[open_] != 0) == named]
            pairs = _pairs(
                touches, rows, results, asking, window, by_item=named, linear=goal.credit == "linear"
            )
            found.append(pairs)
            open_ = np.setdiff1d(open_, pairs[0])
    outcome = np.concatenate([pair[0] for pair in found])
    touch = np.concatenate([pair[1] for pair in found])
    order = np.lexsort((touch, touches.at[touch], outcome))
    outcome, touch = outcome[order], touch[order]
    share = 1.0 / np.bincount(outcome, minlength=len(results.at))[outcome]
    return Credits(outcome, touch, share, share * results.value[outcome])


def _pairs(
    touches: Touches,
    rows: NDArray[np.int64],
    results: Results,
    asking: NDArray[np.int64],
    window: float,
    *,
    by_item: bool,
    linear: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(outcome, touch) of touches `rows` that qualify for outcomes `asking`; the latest unless linear."""
    none = np.zeros(0, np.int64)
    if not len(rows) or not len(asking) or window <= 0:
        return none, none
    of_touch = (touches.item if by_item else touches.family)[rows]
    of_result = (results.item if by_item else results.family)[asking]
    groups = _groups(touches.subject[rows], of_touch, results.subject[asking], of_result)
    group, wanted = groups[: len(rows)], groups[len(rows) :]
    at = touches.at[rows]
    order = np.lexsort((at, group))
    until = results.at[asking]
    high = _count_before(group, at, wanted, until, inclusive=True)
    low = _count_before(group, at, wanted, until - window, inclusive=False)
    low = low if linear else np.maximum(low, high - 1)
    n = high - low
    start = np.repeat(low - np.concatenate(([0], np.cumsum(n)[:-1])), n)
    return np.repeat(asking, n), rows[order[start + np.arange(n.sum())]]


def _groups(
    subject: NDArray[np.uint64],
    thing: NDArray[np.unsignedinteger],
    other_subject: NDArray[np.uint64],
    other_thing: NDArray[np.unsignedinteger],
) -> NDArray[np.int64]:
    """One number for each distinct (subject, thing), over both lists."""
    _, first = np.unique(np.concatenate((subject, other_subject)), return_inverse=True)
    things, second = np.unique(np.concatenate((thing, other_thing)), return_inverse=True)
    return first.astype(np.int64) * len(things) + second


def _count_before(
    group: NDArray[np.int64],
    at: NDArray[np.float64],
    wanted: NDArray[np.int64],
    until: NDArray[np.float64],
    *,
    inclusive: bool,
) -> NDArray[np.int64]:
    """For each (wanted, until): how many (group, at) sort before it, equal ones counted when inclusive."""
    asks = np.concatenate((np.zeros(len(at), np.int8), np.ones(len(until), np.int8)))
    order = np.lexsort(
        (asks if inclusive else -asks, np.concatenate((at, until)), np.concatenate((group, wanted)))
    )
    is_ask = asks[order] == 1
    before = np.cumsum(~is_ask)
    counts = np.empty(len(until), np.int64)
    counts[order[is_ask] - len(at)] = before[is_ask]
    return counts
