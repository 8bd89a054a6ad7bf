"""What the rules on a page cost it: the page is decided again without each rule.

What the page without a rule is worth more, in base value (no lever, no prices) under the same interactions,
is the rule's tag, spread over its places by P(displayed). So tags summed over a day are what re-deciding the
day without the rule would bring.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import jit, loops
from serving.page_fill import factor, only_spent, shrunk
from serving.page_state import (
    AWAY,
    BAND,
    BASE,
    BOOST,
    CAND,
    CANDIDATE,
    CAP,
    CATEGORY,
    DEALS,
    EACH,
    F4,
    F8,
    FILLED,
    FIXED,
    FREE,
    GAIN,
    HOUSE,
    I4,
    I8,
    INSIDE,
    INTERRUPTION,
    ITEM_ROOM,
    ITEMS,
    LEAST,
    LIMIT,
    NUM,
    O_BASE,
    O_BOOST,
    O_CAMPAIGN,
    O_PIN,
    O_PIN_SLOT,
    O_SLOTS,
    O_VALUE,
    OFF,
    OFFER,
    ORGANIC,
    ORGANICALLY,
    PRICE,
    PRICED,
    PROMISE,
    RATE,
    ROADBLOCK,
    SUITS,
    TOTAL,
    USES,
    WHERE,
    WORTH,
    Input,
    number,
    suits,
)

PIN_RULE, GUARANTEE, LEVER, EXCLUSION = 1, 2, 3, 6
MANDATORY_RULE, HOUSE_RULE, BLOCK_RULE = 7, 8, 9
NOTABLE: Final = 1e-7  # CNY; less is no price
UNLIMITED: Final = 1 << 20
# Columns of a list of rules: the rule, whose it is (campaign or counter), where a counter's cost is noted.
CODE, WHO, NOTED = 0, 1, 2


@loops
def base_worth(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8) -> float:
    """The page in base value: no lever, no prices, no cost of switching."""
    worth = 0.0
    for s in range(len(pi)):
        for k in range(pi[s, NUM, FILLED]):
            o, i = pi[s, OFFER, k], pi[s, CAND, k]
            base = tf[BASE, o] if o >= 0 else tf[ORGANIC, i]
            worth += pf[s, RATE, k] * shrunk(base, factor_at(pi, pf, mix, ti, s, k))
        if pi[s, NUM, FILLED] > 0:
            worth -= pf[s, PRICE, INTERRUPTION]
    return worth


@loops
def factor_at(pi: I8, pf: F8, mix: I8, ti: I8, s: int, k: int) -> float:
    """How the interactions shrink what stands at a place."""
    c = ti[CATEGORY, pi[s, CAND, k]]
    if c == 0:
        return 1.0
    earlier = 0
    for q in range(k):
        earlier += 1 if ti[CATEGORY, pi[s, CAND, q]] == c else 0
    return float(pf[s, INSIDE, earlier] * pf[s, AWAY, mix[TOTAL, c] - mix[s, c]])


@loops
def rule_of(pi: I8, ti: I8, tf: F8, s: int, k: int) -> int:
    """The rule that put an offer where it stands; 0 by value alone."""
    o = pi[s, OFFER, k]
    if o < 0:
        return 0
    if ti[ROADBLOCK, o]:
        return BLOCK_RULE
    if ti[BAND, o] == 0:
        return MANDATORY_RULE
    if pi[s, FIXED, k] != FREE:
        return PIN_RULE
    if ti[BAND, o] == HOUSE:
        return HOUSE_RULE
    boost = tf[BOOST, o]
    price = tf[PRICED, o] - tf[BASE, o] - boost
    if price <= 0 and boost <= 0:
        return 0
    if boost > price:
        return LEVER
    return int(ti[PROMISE, o]) if ti[PROMISE, o] else GUARANTEE


@jit
def rules_on(pi: I8, pf: F8, mix: I8, ti: I8, tf: F8, rule: I4, by: I4) -> I8:
    """The rules (r, 3) whose tags the page bears: those that put something where it is, by `rule` and `by` of
    the places, and the spent counters that alone keep something better out of a slot."""
    room = 0
    for s in range(len(pi)):
        room += pi[s, NUM, FILLED]
    found, weak = np.full((2 * room, 3), -1, np.int64), np.full((len(pi), 2), -1, np.int64)
    many = 0
    for at in range(room):
        if rule[at] and rule[at] != HOUSE_RULE and not _listed(found, many, rule[at], by[at]):
            found[many, CODE], found[many, WHO] = rule[at], by[at]
            many += 1
    _weakest(pi, pf, rule, weak)
    for o in range(pi[0, NUM, DEALS]):
        if many < len(found) and ti[BAND, o] == 1 and not mix[OFF, o]:
            i, counter = ti[CANDIDATE, o], only_spent(mix, ti, USES, 8, o)
            if counter >= 0:
                many = _refused(pi, pf, mix, ti, i, ti[SUITS, o], tf[WORTH, o], counter, weak, found, many)
    for i in range(pi[0, NUM, ITEMS]):
        if many < len(found) and mix[WHERE, i] < 0 and ti[ORGANICALLY, i]:
            counter = only_spent(mix, ti, ITEM_ROOM, 2, i)
            if counter >= 0:
                organic = tf[ORGANIC, i]
                many = _refused(pi, pf, mix, ti, i, ti[ORGANICALLY, i], organic, counter, weak, found, many)
    return found[:many]


@loops
def _listed(found: I8, many: int, code: int, who: int) -> bool:
    listed = False
    for at in range(many):
        listed = listed or (found[at, CODE] == code and found[at, WHO] == who)
    return listed


@loops
def _weakest(pi: I8, pf: F8, rule: I4, weak: I8) -> None:
    """Per slot the position of its weakest place that may change, and the number on the page of the weakest
    place that no rule holds, of the slot or else of the page; -1 none."""
    at, any_other = 0, number(-1)
    for s in range(len(pi)):
        free = -1
        for k in range(pi[s, NUM, FILLED]):
            if pi[s, FIXED, k] == FREE and (weak[s, 0] < 0 or pf[s, GAIN, k] <= pf[s, GAIN, weak[s, 0]]):
                weak[s, 0] = k
            if rule[at] == 0 and (free < 0 or pf[s, GAIN, k] <= pf[s, GAIN, free]):
                free, weak[s, 1] = k, at
            at += 1
        any_other = weak[s, 1] if weak[s, 1] >= 0 else any_other
    for s in range(len(pi)):
        weak[s, 1] = weak[s, 1] if weak[s, 1] >= 0 else any_other


@loops
def _refused(
    pi: I8,
    pf: F8,
    mix: I8,
    ti: I8,
    i: int,
    slots: int,
    worth: float,
    counter: int,
    weak: I8,
    found: I8,
    many: int,
) -> int:
    """List the counter that refuses item i where it would be worth more than what is there: how many now."""
    code = ti[LIMIT, counter]
    if _listed(found, many, code, counter):
        return many
    for s in range(len(pi)):
        if weak[s, 0] < 0 or weak[s, 1] < 0 or not suits(slots, s):
            continue
        if mix[WHERE, i] == s:  # it stands there, worth less
            least = LEAST
            for k in range(pi[s, NUM, FILLED]):
                least = pf[s, EACH, k] if pi[s, CAND, k] == i else least
            better = worth > least
        else:
            better = shrunk(worth, factor(pf, mix, s, ti[CATEGORY, i])) > pf[s, GAIN, weak[s, 0]]
        if better:
            found[many, CODE], found[many, WHO], found[many, NOTED] = code, counter, weak[s, 1]
            return many + 1
    return many


@jit
def without(given: Input, code: int, who: int) -> Input:
    """The page's columns as if a rule had not been made: a cap allows one more, an exclusion group all."""
    if code in (CAP, EXCLUSION):
        room = given.room.copy()
        room[who] = room[who] + 1 if code == CAP else UNLIMITED
        return _changed(given, given.offers, given.offers_f, room)
    offers, worth = given.offers.copy(), given.offers_f.copy()
    for o in range(len(offers)):
        if offers[o, O_CAMPAIGN] != who:
            continue
        if code in (MANDATORY_RULE, BLOCK_RULE):
            offers[o, O_SLOTS] = 0
            offers[o, O_PIN_SLOT] = -1
        elif code == PIN_RULE:
            offers[o, O_PIN_SLOT] = offers[o, O_PIN] = -1
        elif code == LEVER:
            boost = max(np.float32(0), worth[o, O_BOOST])
            worth[o, O_VALUE] -= boost
            worth[o, O_BOOST] -= boost
        else:
            price = worth[o, O_VALUE] - worth[o, O_BASE] - worth[o, O_BOOST]
            worth[o, O_VALUE] -= max(np.float32(0), price)
    return _changed(given, offers, worth, given.room)


@jit
def _changed(given: Input, offers: I8, worth: F4, room: I4) -> Input:
    return Input(
        given.slots,
        given.slots_f,
        given.options,
        given.value,
        offers,
        worth,
        room,
        given.limits,
        given.held,
    )


@loops
def note(lost: float, code: int, who: int, noted: int, tag: F4, rule: I4, by: I4, seen: F4) -> None:
    """Spread what a rule costs over its places by P(displayed) (`seen`), or note it where a counter's is."""
    if noted >= 0:
        at, tried = noted, 0
        while tried < len(rule) and rule[at]:  # another counter's cost is noted there
            at, tried = (at + 1) % len(rule), tried + 1
        if abs(lost) > NOTABLE and tried < len(rule):
            tag[at], rule[at], by[at] = lost, code, who
        return
    every = 0.0
    for at in range(len(rule)):
        if rule[at] == code and by[at] == who:
            every += float(seen[at])
    for at in range(len(rule)):
        if rule[at] == code and by[at] == who and every > 0:
            tag[at] = lost * float(seen[at]) / every
