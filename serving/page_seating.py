"""A page solved and laid out: what its placements are made of, place by place, in one call of compiled code.

What has nothing to be rendered with, or has to be asked about it, is left to `serving.allocation`.
`tests/plain_seats.py` says the same from the solution's columns.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit, unlocked
from features.reservations import RESERVED
from serving.domain import PINNED
from serving.page_solving import solve_each
from serving.page_state import (
    F4,
    F8,
    I4,
    I8,
    I_CAPPED,
    I_MEMBERS,
    I_ORIGIN,
    O_BASE,
    O_CAMPAIGN,
    O_CANDIDATE,
    O_CAPPED,
    O_PIN,
    O_PIN_SLOT,
    O_ROADBLOCK,
    O_SLOTS,
    O_VALUE,
    S_BIT,
    U1,
    Input,
)
from serving.page_tags import MANDATORY_RULE, PIN_RULE
from serving.seats import (
    BASE,
    BY,
    CAMPAIGN,
    CAMPAIGN_KEY,
    CAPPED,
    CLICKS,
    CONVERTS,
    CREATIVE,
    DISPLAYS,
    FLAGS,
    KEY,
    NAMED,
    ORIGIN,
    PARTS,
    PINNED_AT,
    POSITION,
    REASON,
    ROW,
    RULE,
    SCORE,
    SHOWN,
    SLOT,
    TAG,
    VALUE,
    WHOLE,
)
from serving.splitting_kernel import part
from serving.surfaces import BIT

# Rows of `found`, which is what serving.page_solving.solve_each says of each place.
F_SLOT, F_POSITION, F_CANDIDATE, F_OFFER, F_RULE, F_BY, F_SPARE, F_SPARE_OFFER = range(8)
F_TAG = 3  # of the parts beside it
# Columns of `terms`, per slot: its layout, whether all of it is capped, places that it must have, and bits of
# the sources whose best candidate gets a last place when none got one.
T_LAYOUT, T_CAPPED, T_LEAST, T_RESERVED = range(4)
NOTHING, ASK = -2, -3  # instead of a creative: it has none; it has to be asked
CAMPAIGN_BIT: Final = 1 << BIT["campaign"]


@unlocked
def laid(
    slots: I8, slots_f: F8, terms: I8, shown: F8, options: I8, value: F4, offers: I8, worth: F4, room: I4,
    limits: U1, held: I4, tags: bool, table: I8, rows: I4, score: F4, reasons: I8, picks: NDArray[np.int16],
    naming: U1, keys: NDArray[np.uint64], campaign_keys: NDArray[np.uint32], cvr: F4,
    unit: int, salts: NDArray[np.uint64], shares: F8, without: bool,
) -> tuple[I4, I8, F8, bool, int, int, I4, I4, bool]:  # fmt: skip
    """(8, p) by F_SLOT …; (WHOLE, p) and (PARTS, p) by ROW … and SCORE … of serving.seats; whether the page
    needs nothing from behind; at how many places it has to be asked what is rendered; how many have a
    stand-in; (n,) the candidates by about what they are worth; (g, 3) campaign, slot and position of what
    this customer is held out from, where it would have stood; whether this page is the one without.

    `slots` … `held`: one page as `serving.page_state.Input`, with `terms` (s, 3 and more) by T_LAYOUT … and
    `shown` (s, k) P(displayed | slot, position) beside its slots; `table` (m,) the offers' places in the
    offer table; `rows` and `score` (n,) of the candidates; `reasons` (r, 2) by `serving.why.reasons`. Of the
    catalogue: `picks` (layouts, N) creatives by serving.live.Live.pick_table, `keys` and `cvr` P(converted |
    clicked); of the plan: `naming` (O,) whether an offer names its creatives, `campaign_keys`. `unit`: the
    customer's key, signed; `salts` and `shares` (C,) by serving.ghosts, empty where nobody is held out.

    What the customer is held out from stands in nowhere. Where it stands on the page, the page is solved
    again without it: at once if nothing on it has to be asked about (it may turn out to have nothing to
    show, and would not have been shown), else when `without` is said.
    """
    bounds = np.zeros((2, 4), np.int64)
    bounds[1, 0], bounds[1, 1], bounds[1, 2], bounds[1, 3] = len(options), len(offers), len(room), len(held)
    given = Input(slots, slots_f, options, value, offers, worth, room, limits, held)
    never, any_never = _never(offers, unit, salts, shares)
    if any_never and without:
        given = _apart(given, never)
    first = any_never and not without
    _, found, told, _, ranked = solve_each(given, bounds, tags and not first, never)
    ghosts = _ghosts(found, offers, never) if first else np.empty((0, 3), np.int32)
    if len(ghosts) and not _asks(found, terms, rows, picks, naming, table):
        given, without = _apart(given, never), True
    if first and (without or (tags and not len(ghosts))):
        _, found, told, _, ranked = solve_each(given, bounds, tags, never)
    p = found.shape[1]
    whole, parts = np.empty((WHOLE, p), np.int64), np.empty((PARTS, p), np.float64)
    complete, unsure, spares = True, 0, 0
    for at in range(p):
        s, k, i, o = found[F_SLOT, at], found[F_POSITION, at], found[F_CANDIDATE, at], found[F_OFFER, at]
        row, chance, seen = rows[i], np.float64(score[i]), shown[s, k]
        creative, capped, pin = int(picks[terms[s, T_LAYOUT], row]), options[i, I_CAPPED], -1
        parts[SCORE, at], parts[TAG, at], parts[SHOWN, at] = chance, told[F_TAG, at], seen
        if o < 0:
            whole[CAMPAIGN, at] = whole[NAMED, at] = -1
            whole[CAMPAIGN_KEY, at] = 0
            parts[VALUE, at] = parts[BASE, at] = value[i]
            parts[DISPLAYS, at] = parts[CLICKS, at] = parts[CONVERTS, at] = 0.0
        else:
            of = offers[o, O_CAMPAIGN]
            whole[CAMPAIGN, at], whole[NAMED, at], whole[CAMPAIGN_KEY, at] = of, table[o], campaign_keys[of]
            capped |= offers[o, O_CAPPED]
            creative = ASK if naming[table[o]] else creative
            parts[VALUE, at], parts[BASE, at] = worth[o, O_VALUE], worth[o, O_BASE]
            parts[DISPLAYS, at], parts[CLICKS, at] = seen, seen * chance
            parts[CONVERTS, at] = seen * chance * np.float64(cvr[row])
            ruled = found[F_RULE, at] == PIN_RULE or found[F_RULE, at] == MANDATORY_RULE
            pin = int(offers[o, O_PIN]) if ruled and offers[o, O_PIN_SLOT] == s else pin
        flags = RESERVED if capped or terms[s, T_CAPPED] else 0
        flags |= PINNED if pin >= 0 else 0
        whole[ROW, at], whole[ORIGIN, at], whole[KEY, at] = row, options[i, I_ORIGIN], np.int64(keys[row])
        whole[REASON, at] = _reason(reasons, options[i, I_ORIGIN])
        whole[CAPPED, at], whole[FLAGS, at], whole[PINNED_AT, at] = capped, flags, pin
        whole[SLOT, at], whole[POSITION, at], whole[CREATIVE, at] = s, k, creative
        whole[RULE, at], whole[BY, at] = found[F_RULE, at], found[F_BY, at]
        complete = complete and bool(pin < 0 or pin == k)
        unsure += 1 if creative <= NOTHING else 0
        spares += 1 if found[F_SPARE, at] >= 0 else 0
    complete = complete and _filled(terms, given.options, whole)
    return found, whole, parts, complete, unsure, spares, ranked, ghosts, without


@jit
def _never(offers: I8, unit: int, salts: NDArray[np.uint64], shares: F8) -> tuple[U1, bool]:
    """(m,) 1: of a campaign that the unit is held out from; whether there is any. Empty: there is none."""
    never, found = np.zeros(len(offers) if len(shares) else 0, np.uint8), False
    for o in range(len(never)):
        of = offers[o, O_CAMPAIGN]
        if part(np.uint64(unit) ^ salts[of]) < shares[of]:
            never[o], found = 1, True
    return (never if found else never[:0]), found


@jit
def _ghosts(found: I4, offers: I8, never: U1) -> I4:
    """(g, 3) campaign, slot, position of what stands by an offer that is never shown."""
    ghosts, many = np.empty((found.shape[1], 3), np.int32), 0
    for at in range(found.shape[1]):
        o = found[F_OFFER, at]
        if o >= 0 and never[o]:
            ghosts[many, 0] = offers[o, O_CAMPAIGN]
            ghosts[many, 1], ghosts[many, 2] = found[F_SLOT, at], found[F_POSITION, at]
            many += 1
    return ghosts[:many]


@jit
def _asks(found: I4, terms: I8, rows: I4, picks: NDArray[np.int16], naming: U1, table: I8) -> bool:
    """Whether something on the page has to be asked for what is rendered, or has nothing."""
    asks = False
    for at in range(found.shape[1]):
        o = found[F_OFFER, at]
        pick = picks[terms[found[F_SLOT, at], T_LAYOUT], rows[found[F_CANDIDATE, at]]]
        asks = asks or pick <= NOTHING or bool(o >= 0 and naming[table[o]])
    return asks


@jit
def _apart(given: Input, never: U1) -> Input:
    """The columns as if the campaigns of some offers did not run: what they alone proposed goes too."""
    options, offers, worth = given.options.copy(), given.offers.copy(), given.offers_f.copy()
    alone(options, offers, never)
    for o in range(len(offers)):
        if never[o]:
            offers[o, O_SLOTS] = offers[o, O_ROADBLOCK] = 0
            offers[o, O_PIN_SLOT] = offers[o, O_PIN] = -1
            worth[o, O_VALUE] = -np.inf
    return Input(
        given.slots, given.slots_f, options, given.value, offers, worth, given.room, given.limits, given.held
    )


@jit
def alone(options: I8, offers: I8, never: U1) -> None:
    """Bar from every slot what nothing proposed but campaigns all of whose offers are never shown."""
    ours = np.zeros(len(options), np.uint8)
    for o in range(len(offers)):
        ours[offers[o, O_CANDIDATE]] |= 2 if never[o] else 1
    for i in range(len(options)):
        if ours[i] == 2 and options[i, I_ORIGIN] == CAMPAIGN_BIT:
            options[i, I_MEMBERS] = 0


@jit
def _reason(reasons: I8, origin: int) -> int:
    """The first that is true of an origin; the last is of all."""
    at = 0
    while reasons[at, 0] and not origin & reasons[at, 0]:
        at += 1
    return int(reasons[at, 1])


@jit
def _filled(terms: I8, options: I8, whole: I8) -> bool:
    """Whether no slot is short, and no last place may have to go to a reserved source that has none."""
    p, end = whole.shape[1], 0
    for s in range(len(terms)):
        begin, seen = end, np.int64(0)
        while end < p and whole[SLOT, end] == s:
            seen |= whole[ORIGIN, end]
            end += 1
        if end - begin < terms[s, T_LEAST]:
            return False
        for turn in range(terms.shape[1] - T_RESERVED):
            bit, last = terms[s, T_RESERVED + turn], end - 1 - turn
            if not bit or last < begin or seen & bit:
                continue
            free = whole[CAMPAIGN, last] < 0 and not whole[FLAGS, last] & (RESERVED | PINNED)
            if free and _proposed(options, bit):
                return False
    return True


@jit
def _proposed(options: I8, bit: int) -> bool:
    """Whether a source proposed any of the candidates."""
    every = np.int64(0)
    for i in range(len(options)):
        every |= options[i, I_ORIGIN]
    return bool(every & bit)


@jit
def bar(slots: I8, terms: I8, options: I8, offers: I8, rows: I4, picks: NDArray[np.int16]) -> None:
    """Take a slot's bit from candidates, and offers on them, that have nothing to show there."""
    for s in range(len(slots)):
        layout, bit = terms[s, T_LAYOUT], slots[s, S_BIT]
        for i in range(len(options)):
            if picks[layout, rows[i]] == NOTHING:
                options[i, I_MEMBERS] &= ~bit
        for o in range(len(offers)):
            if picks[layout, rows[offers[o, O_CANDIDATE]]] == NOTHING:
                offers[o, O_SLOTS] &= ~bit
