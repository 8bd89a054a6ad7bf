"""All lotteries of a page in one call: those of items, then which of an item's creatives is shown.

What may stand at a place, and how often each, is looked up (serving.creative_choices keeps it): in a table of
names, by multiplicative hashing and linear probing (Knuth, TAOCP 3, 6.4), and then in a row of chances. What
is not there yet is left to whoever calls.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops
from serving.exploring_kernel import (
    BIT,
    DRAW_CHOICE,
    DRAW_SEAT,
    DRAW_TURN,
    EXPLORE,
    NOW_CREATIVE,
    NOW_ROW,
    PLACE,
    RESERVED_WHOLE,
    hold,
)
from serving.seats import CAMPAIGN, CAPPED, CREATIVE, OWN_TITLE, RESERVES, ROW
from serving.splitting_kernel import part as part_of

NAMES: Final = 1 << 16  # of the table
TOLD_APART: Final = 1 << 16  # creatives of an item by their index; those beyond are not looked up
ASKED, BY, CHOICE = range(3)  # of a name: row to cell, campaign, 1 more than the choice's number (0: none)
MANY: Final = 0  # of a choice: how many; then their indices, then their chances
MOST: Final = 12


@loops
def place_of(
    row: int, creative: int, campaign: int, bit: int, cell: int, names: NDArray[np.int64]
) -> tuple[int, int]:
    """Where in `names` (a power of 2, 3) stands, or would stand, what may be shown of a row in place of a
    creative; and that name.

    `campaign`: −1 none; `bit`: the slot's number; `cell`: of the bandit.
    """
    asked = row << 32 | creative << 16 | bit << 8 | cell
    mixed = np.uint64(asked) + np.uint64(campaign) * np.uint64(0xD1B54A32D192ED03)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    at = np.int64(mixed >> np.uint64(48)) & (len(names) - 1)
    while names[at, CHOICE] and (names[at, ASKED] != asked or names[at, BY] != campaign):
        at = (at + 1) & (len(names) - 1)
    return int(at), asked


@loops
def keep(
    row: int, creative: int, campaign: int, bit: int, cell: int, choice: int, names: NDArray[np.int64]
) -> None:
    """Remember a choice's number."""
    at, asked = place_of(row, creative, campaign, bit, cell, names)
    names[at, ASKED], names[at, BY], names[at, CHOICE] = asked, campaign, choice + 1


@loops
def draw(
    slot_of: NDArray[np.int32],
    whole: NDArray[np.int64],
    slots: NDArray[np.float64],
    bits: int,
    salts: NDArray[np.uint64],
    cell: int,
    names: NDArray[np.int64],
    choices: NDArray[np.float64],
    turned: int,
    told: NDArray[np.float64],
) -> tuple[int, int]:
    """How many lotteries of creatives are held, once what the second number counts is known: places of which
    nothing is remembered.

    `slot_of`, `whole`: of serving.seats.Grid; `slots` by serving.exploring_kernel.BIT …; `salts` (p,) of the
    places; `cell`: of the customer; `names` as `place_of` has them, `choices` (m, 1 + 2·MOST) by MANY. On
    `turned` places a runner-up stands, as `told` says by PLACE …; fills it by DRAW_SEAT …
    """
    drawn = unknown = following = 0
    for at in range(len(slot_of)):
        row, creative = whole[ROW, at], whole[CREATIVE, at]
        if following < turned and told[PLACE, following] == at:
            row, creative = np.int64(told[NOW_ROW, following]), np.int64(told[NOW_CREATIVE, following])
            following += 1
        slot = slot_of[at]
        if creative == OWN_TITLE or not slots[slot, EXPLORE] > 0:
            continue
        if whole[CAPPED, at] & RESERVES or slots[slot, RESERVED_WHOLE] > 0:
            continue
        choice, which, now = np.int64(-1), 0, creative
        if 0 <= creative < TOLD_APART:
            name, _ = place_of(row, creative, whole[CAMPAIGN, at], int(slots[slot, BIT]), cell, names)
            choice = names[name, CHOICE] - 1
        if choice >= 0:
            many = np.int64(choices[choice, MANY])
            if many < 2:
                continue
            left = part_of(np.uint64(bits) ^ salts[at])
            for one in range(many):
                left -= choices[choice, 1 + MOST + one]
                if left < 0:
                    which = one
                    break
            now = np.int64(choices[choice, 1 + which])
        else:
            unknown += 1
        told[DRAW_SEAT, drawn] = now * len(slot_of) + at
        told[DRAW_CHOICE, drawn], told[DRAW_TURN, drawn] = choice, which
        drawn += 1
    return drawn, unknown


@loops
def explore(
    rows: NDArray[np.int32],
    value: NDArray[np.float32],
    options: NDArray[np.int64],
    score: NDArray[np.float32],
    origin: NDArray[np.uint32],
    items: NDArray[Any],
    slot_of: NDArray[np.int32],
    candidate: NDArray[np.int32],
    whole: NDArray[np.int64],
    parts: NDArray[np.float64],
    ranked: NDArray[np.int32],
    spares: NDArray[np.int32],
    offered: NDArray[np.int64],
    slots: NDArray[np.float64],
    banned: NDArray[np.bool_],
    bits: int,
    salts: NDArray[np.uint64],
    scratch: NDArray[np.int32],
    told: NDArray[np.float64],
    cell: int,
    names: NDArray[np.int64],
    choices: NDArray[np.float64],
) -> tuple[int, int, int, int]:
    """What `hold` gives, then what `draw` gives. `salts` (2, at least p): for items, for creatives."""
    held, turned = hold(
        rows, value, options, score, origin, items, slot_of, candidate, whole, parts, ranked, spares, offered,
        slots, banned, bits, salts[0], scratch, told,
    )  # fmt: skip
    drawn, unknown = draw(slot_of, whole, slots, bits, salts[1], cell, names, choices, turned, told)
    return held, turned, drawn, unknown
