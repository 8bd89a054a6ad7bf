"""Train, validation and test for `fenliu evaluate`: by time, the last left out, at random, or as marked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.model import Positives
from training.source import DataError

TRAIN, VALID, TEST, OUT = 1, 2, 3, 0
HELP: Final = "Write time:0.8, time:0.8,0.9, date:2020-01-31, last, random:0.2 or marked"
_MARKS: Final = {
    "train": TRAIN,
    "valid": VALID,
    "val": VALID,
    "validation": VALID,
    "dev": VALID,
    "test": TEST,
}
VALID_SHARE: Final = 0.1


class Parts(NamedTuple):
    """What each row is for (`part`, u1), and how it was divided, in words."""

    part: NDArray[np.uint8]
    said: str


def divide(events: Positives, how: str, marks: Sequence[str] | None, *, timed: bool, seed: int) -> Parts:
    """By `how`: see HELP. Raises DataError where that cannot be done."""
    kind, _, said = how.partition(":")
    if kind == "marked":
        return _marked(marks)
    if kind == "time" and timed:
        shares = _numbers(said, how)
        at = np.sort(events.at)
        cuts = [at[min(int(len(at) * share), len(at) - 1)] for share in shares]
        return _by_cuts(events, cuts, f"by time at {', '.join(f'{share:g}' for share in shares)} of the rows")
    if kind == "date" and timed:
        try:
            cuts = [datetime.fromisoformat(one).replace(tzinfo=UTC).timestamp() for one in said.split(",")]
        except ValueError:
            raise _wrong(how, "is no date") from None
        return _by_cuts(events, cuts, f"by date at {said} (UTC)")
    if kind in ("time", "date") and said:
        raise _wrong(how, "needs a time for every row, which the file has not")
    if kind == "last":
        return _last(events, timed=timed)
    if kind == "random":
        (share,) = _numbers(said, how)
        return Parts(*_random(events, share, seed))
    raise _wrong(how, "is no split")


def _wrong(how: str, problem: str) -> DataError:
    return DataError("the split", None, None, f"'{how}' {problem}", HELP)


def _numbers(said: str, how: str) -> list[float]:
    try:
        shares = [float(one) for one in said.split(",")]
    except ValueError:
        shares = []
    if (
        not shares
        or len(shares) > 2
        or not all(0 < share < 1 for share in shares)
        or shares != sorted(shares)
    ):
        raise _wrong(how, "does not name one or two rising shares between 0 and 1")
    return shares


def _by_cuts(events: Positives, cuts: Sequence[float], said: str) -> Parts:
    part = np.where(events.at < cuts[0], TRAIN, TEST).astype(np.uint8)
    if len(cuts) == 2:
        part[(events.at >= cuts[0]) & (events.at < cuts[1])] = VALID
    return Parts(part, said)


def _marked(marks: Sequence[str] | None) -> Parts:
    if marks is None:
        raise _wrong("marked", "needs a column that says train, valid or test (--columns split=…)")
    part = np.array([_MARKS.get(mark.strip().lower(), OUT) for mark in marks], np.uint8)
    return Parts(part, "as the file marks it")


def _last(events: Positives, *, timed: bool) -> Parts:
    """Each user's last row is the test; of users with one row only, that row is training."""
    order = np.lexsort((np.arange(len(events)), events.at if timed else np.zeros(len(events)), events.user))
    user = events.user[order]
    ends = np.append(user[1:] != user[:-1], True)
    alone = ends & np.append(True, user[1:] != user[:-1])
    part = np.full(len(events), TRAIN, np.uint8)
    part[order[ends & ~alone]] = TEST
    return Parts(part, f"each user's last row{'' if timed else ' in the order of the file'}")


def _random(events: Positives, share: float, seed: int) -> tuple[NDArray[np.uint8], str]:
    """A share of each user's rows, at least one left to train on."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(events)), events.user))
    counts = np.bincount(events.user)
    starts = np.cumsum(counts) - counts
    place = np.arange(len(order)) - starts[events.user[order]]
    wanted = np.minimum(np.floor(counts * share + rng.random(len(counts))), counts - 1)
    part = np.full(len(events), TRAIN, np.uint8)
    part[order[place < wanted[events.user[order]]]] = TEST
    return part, f"{share:.0%} of each user's rows at random (seed {seed}): flatters, compared with time"


def core(events: Positives, least: int) -> NDArray[np.bool_]:
    """Rows of the k-core: users and items with `least` distinct partners, again until none falls out."""
    kept = np.ones(len(events), np.bool_)
    if least <= 1 or not len(events):
        return kept
    width = int(events.item.max()) + 1
    cell, place = np.unique(events.user.astype(np.int64) * width + events.item, return_inverse=True)
    user, item = np.divmod(cell, width)
    alive = np.ones(len(cell), np.bool_)
    while True:
        of_user = np.bincount(user[alive], minlength=int(user.max()) + 1)
        of_item = np.bincount(item[alive], minlength=width)
        now = alive & (of_user[user] >= least) & (of_item[item] >= least)
        if now.sum() == alive.sum():
            return np.asarray(alive[place])
        alive = now


def validation(train: Positives, test: Positives, *, timed: bool, seed: int) -> Parts:
    """A validation part of `train`, cut as the test was cut from all: by time, the last, or at random."""
    if timed and len(test) and np.isfinite(test.at).all() and test.at.min() >= np.quantile(train.at, 0.9):
        cut = float(np.quantile(train.at, 1.0 - VALID_SHARE))
        return Parts(np.where(train.at < cut, TRAIN, VALID).astype(np.uint8), "the latest tenth of training")
    per_user = np.bincount(test.user)
    one_each = len(per_user) and float(np.median(per_user[per_user > 0])) <= 1
    if one_each and timed:
        part, _ = _last(train, timed=True)
        return Parts(
            np.where(part == TEST, VALID, TRAIN).astype(np.uint8), "each user's last row of training"
        )
    if one_each:
        rng = np.random.default_rng(seed)
        order = np.lexsort((rng.random(len(train)), train.user))
        user = train.user[order]
        first = np.append(True, user[1:] != user[:-1]) & ~np.append(user[1:] != user[:-1], True)
        found = np.full(len(train), TRAIN, np.uint8)
        found[order[first]] = VALID
        return Parts(found, f"one row of each user's training at random (seed {seed})")
    share = min(0.3, max(VALID_SHARE, len(test) / max(len(train) + len(test), 1)))
    part, _ = _random(train, share, seed)
    said = f"{share:.0%} of each user's training at random (seed {seed})"
    return Parts(np.where(part == TEST, VALID, TRAIN).astype(np.uint8), said)
