"""New items in a slot that explores: clicks given up until their worth is known.

A slot of six places, forty items whose P(clicked) is known and twenty new ones, of which only what their
attributes tell is known: off by a log-normal error. As in earnest, the model says too much of everything,
lower places are clicked less than it says, and some clicks come too late to be counted. Pages are made by
the product's own loop of lotteries (`serving.exploring_kernel.hold`), counts (`serving.newcomer_pages`) and
posterior (`serving.newcomers`). Three ways: told at night, as by a retraining; by the minute, as the learner
does; and by the minute with draws. Given up: the expected clicks of the six best items, less those of what
was shown, both by the truth.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from serving.bandit import Counts
from serving.exploring_kernel import LISTS, NOW_ROW, PLACE, SCRATCH, SHOWN, TOLD, hold
from serving.live import LOTTERY_ITEM
from serving.newcomer_pages import Watched, counted
from serving.newcomers import KNOWN, Newcomers
from serving.newcomers_kernel import correct
from serving.page_state import I_CAPPED, I_MEMBERS, I_ROOM, O_CANDIDATE
from serving.seats import BASE, CAMPAIGN, ROW, SCORE, VALUE
from serving.splitting import salt_of
from training.bench.tally import Tally

OLD, NEW, PLACES, DAYS, VIEWS = 40, 20, 6, 14, 2_000
ERROR: Final = 0.6  # deviation of the logarithm of what attributes tell
TOO_MUCH: Final = 1.3  # times the truth: what the model says of any item
LOWER: Final = 0.93  # of the clicks of the place above
LATE: Final = 0.2  # of the clicks
FLOOR: Final = 0.02  # `explore` of the slot, in all three
SHARE: Final = 0.2  # `explore_new`
MINUTE: Final = 10  # views between two versions: seven minutes' at VIEWS a day
RIPE: Final = 5  # views that a version does not know of yet
_AT: Final = tuple(f"feed:{place}" for place in range(PLACES))
_SALTS: Final = np.array([salt_of("place", str(place)) for place in range(PLACES)], np.uint64)


def newcomers(tally: Tally, seed: int, worlds: int) -> None:
    """Puts the ratios of what is given up over two weeks."""
    ways = (VIEWS, 0.0), (MINUTE, 0.0), (MINUTE, SHARE)
    lost = np.array([[_given_up(seed + world, *way) for way in ways] for world in range(worlds)])
    rng = np.random.default_rng([seed, 3])
    drawn = rng.integers(0, worlds, (2_000, worlds))
    tally.put("newcomers_lost", float(lost[:, 0].mean()), "clicks", f"given up in {DAYS} days, told at night")
    for at, name, said in (
        (1, "minute", "told by the minute, over told at night"),
        (2, "ratio", f"and drawn on at most {SHARE:.0%} of the displays, over told at night"),
    ):
        low, high = np.quantile(lost[drawn, at].sum(1) / lost[drawn, 0].sum(1), [0.025, 0.975])
        note = f"{said} [{low:.2f}, {high:.2f}], {worlds} worlds"
        ratio = float(lost[:, at].sum() / lost[:, 0].sum())
        tally.put(f"newcomers_{name}", ratio, "", note, ("<=", 1.0) if name == "ratio" else None)


def _given_up(seed: int, every: int, share: float) -> float:
    rng = np.random.default_rng([seed, 1])
    truth = rng.beta(2, 38, OLD + NEW)
    new = np.arange(len(truth)) >= OLD
    word = TOO_MUCH * np.where(new, truth * np.exp(rng.normal(0, ERROR, len(truth))), truth)
    prior = Newcomers.of(np.where(new, 0.0, KNOWN), len(truth))
    drop = LOWER ** np.arange(PLACES)
    best, lost = float(np.sort(truth)[::-1][:PLACES] @ drop), 0.0
    fresh: Counts[int] = {}
    usual: Counts[str] = {}
    waiting: list[tuple[Watched, set[int], set[int]]] = []
    draws = np.random.default_rng([seed, 2])
    page: list[Any] = []
    for view in range(DAYS * VIEWS):
        if view % every == 0:
            ripe = waiting if every == VIEWS else waiting[: max(0, len(waiting) - RIPE)]
            fresh, usual = counted(fresh, usual, ripe)
            del waiting[: len(ripe)]
            page = _page(word, prior.told(fresh, lambda keys: keys.astype(np.int32)), share)
        shown = _shown(page, int(draws.integers(-(2**63), 2**63)))
        lost += best - float(truth[shown] @ drop)
        clicked = shown[draws.random(PLACES) < truth[shown] * drop * (1 - LATE)]
        watched = Watched(shown.astype(np.uint64), _AT, word[shown].astype(np.float32), new[shown])
        waiting.append((watched, set(shown.tolist()), set(clicked.tolist())))
    return lost


def _page(word: np.ndarray, told: Newcomers, share: float) -> list[Any]:
    """The arguments of `hold` but the bits, and what it fills."""
    p = word.astype(np.float32)
    if told.mean is not None:
        correct(np.arange(len(word), dtype=np.int32), p.copy(), told.mean, p)
    order = np.argsort(-p, kind="stable")
    top = order[:PLACES]
    whole, parts = np.zeros((5, PLACES), np.int64), np.empty((3, PLACES))
    whole[ROW], whole[CAMPAIGN] = top, -1
    parts[SCORE] = parts[VALUE] = parts[BASE] = p[top]
    items = np.zeros(len(p), LOTTERY_ITEM)
    items["members"], items["unsure"], items["picks"] = 1, told.unsure, -1
    slots = np.ones((1, SHOWN + PLACES))
    slots[0, :SHOWN] = 0, FLOOR, share, 1, 0, 0
    options = np.zeros((len(p), I_CAPPED + 1), np.int64)
    options[:, I_MEMBERS], options[:, I_ROOM : I_ROOM + 2] = 1, -1
    return [
        np.arange(len(p), dtype=np.int32), p, options, p, np.zeros(len(p), np.uint32), items,
        np.zeros(PLACES, np.int32), top.astype(np.int32), whole, parts, order.astype(np.int32),
        np.zeros(0, np.int32), np.zeros((0, O_CANDIDATE + 1), np.int64), slots, np.empty((0, 0), np.bool_),
    ]  # fmt: skip


def _shown(page: list[Any], bits: int) -> np.ndarray:
    """The rows that one view shows."""
    scratch, told = np.empty((SCRATCH, LISTS), np.int32), np.empty((TOLD, PLACES))
    given: list[Any] = [*page, bits, _SALTS, scratch, told]
    _, turned = hold(*given)
    shown: np.ndarray = page[8][ROW].copy()
    shown[told[PLACE, :turned].astype(int)] = told[NOW_ROW, :turned].astype(int)
    return shown
