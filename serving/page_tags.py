"""What the rules on a page cost it: the page is made again without each rule, from where it stands.

Removing a rule frees its places, fills them by value and improves the page; what the page would then be worth
more, in base value (no lever, no prices) under the same interactions, is the rule's tag, spread over its
places by P(displayed). So the tags of a rule add up to what the page forgoes for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from features.compiled import jit
from serving.page_fill import (
    factor,
    fits,
    lift,
    only_spent,
    put,
    shrunk,
)
from serving.page_moves import (
    scratch,
)
from serving.page_search import (
    improve,
)
from serving.page_state import (
    AWAY,
    BAND,
    BASE,
    BOOST,
    CAMPAIGN,
    CAND,
    CATEGORY,
    DEALS,
    EACH,
    F4,
    F8,
    FILLED,
    FIRST,
    FIXED,
    FOLLOWING,
    FREE,
    GAIN,
    HOUSE,
    I4,
    I8,
    INSIDE,
    INTERRUPTION,
    ITEM_ROOM,
    LENGTH,
    LIMIT,
    NUM,
    OFF,
    OFFER,
    ONLY,
    ORGANIC,
    ORGANICALLY,
    PRICE,
    PRICED,
    PROMISE,
    RATE,
    ROADBLOCK,
    ROOM,
    SUITS,
    TOP,
    TOTAL,
    U1,
    USES,
    WHERE,
    WORTH,
    suits,
)
from serving.page_whole import (
    copy_of,
    finish,
)

PIN_RULE, GUARANTEE, LEVER, CAP, EXCLUSION = 1, 2, 3, 5, 6
MANDATORY_RULE, HOUSE_RULE, BLOCK_RULE = 7, 8, 9
TAG_TRIES: Final = 8
NOTABLE: Final = 1e-7  # CNY; less is no price


@jit
def base_worth(pi: I4, pf: F8, mix: I4, ti: I8, tf: F8) -> float:
    """The page in base value: no lever, no prices, no cost of switching."""
    worth = 0.0
    for s in range(len(pi)):
        for k in range(pi[s, NUM, FILLED]):
            worth += pf[s, RATE, k] * base_at(pi, pf, mix, ti, tf, s, k)
        if pi[s, NUM, FILLED] > 0:
            worth -= pf[s, PRICE, INTERRUPTION]
    return worth


@jit
def base_at(pi: I4, pf: F8, mix: I4, ti: I8, tf: F8, s: int, k: int) -> float:
    """What stands at a place is worth per display in base value, after factors."""
    o = pi[s, OFFER, k]
    return shrunk(
        tf[BASE, o] if o >= 0 else tf[ORGANIC, pi[s, CAND, k]],
        factor_at(pi, pf, mix, ti, s, k),
    )


@jit
def factor_at(pi: I4, pf: F8, mix: I4, ti: I8, s: int, k: int) -> float:
    """How the interactions shrink what stands at a place."""
    c = ti[CATEGORY, pi[s, CAND, k]]
    if c == 0:
        return 1.0
    earlier = 0
    for q in range(k):
        earlier += 1 if ti[CATEGORY, pi[s, CAND, q]] == c else 0
    return float(pf[s, INSIDE, earlier] * pf[s, AWAY, mix[TOTAL, c] - mix[s, c]])


@jit
def rule_of(pi: I4, ti: I8, tf: F8, s: int, k: int) -> int:
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
def price(pi: I4, pf: F8, order: I4, mix: I4, ti: I8, tf: F8, tag: F4, rule: I4, by: I4) -> None:
    """Fill in tag, rule and by of every place, slot after slot."""
    now = base_worth(pi, pf, mix, ti, tf)
    slots, most = len(pi), pi.shape[2]
    code = np.zeros((slots, most), np.uint8)
    cost = np.zeros((slots, most), np.float64)
    who = np.full((slots, most), -1, np.int32)
    done = np.zeros((slots, most), np.uint8)
    for s in range(slots):
        for k in range(pi[s, NUM, FILLED]):
            code[s, k] = rule_of(pi, ti, tf, s, k)
            if code[s, k]:
                who[s, k] = ti[CAMPAIGN, pi[s, OFFER, k]]
    for s in range(slots):
        for k in range(pi[s, NUM, FILLED]):
            if code[s, k] and code[s, k] != HOUSE_RULE and not done[s, k]:
                _without(pi, pf, order, mix, ti, tf, code, who, done, cost, s, k, now)
    for s in range(slots):
        _refusal(pi, pf, order, mix, ti, tf, s, code, who, cost, now)
    at = 0
    for s in range(slots):
        for k in range(pi[s, NUM, FILLED]):
            tag[at], rule[at], by[at] = cost[s, k], code[s, k], who[s, k]
            at += 1


@jit
def _without(
    pi: I4,
    pf: F8,
    order: I4,
    mix: I4,
    ti: I8,
    tf: F8,
    code: U1,
    who: I4,
    done: U1,
    cost: F8,
    s: int,
    k: int,
    now: float,
) -> None:
    """The page without one rule of one campaign: what it gains, spread over the rule's places."""
    campaign, rule = who[s, k], code[s, k]
    trial = copy_of(pi, pf, order, mix, ti, tf)
    for o in range(pi[0, NUM, DEALS]):
        if ti[CAMPAIGN, o] != campaign:
            continue
        if rule in (MANDATORY_RULE, BLOCK_RULE):
            trial.mix[OFF, o] = 1
        elif rule == LEVER:
            trial.tf[WORTH, o] -= max(0.0, float(tf[BOOST, o]))
        elif rule != PIN_RULE:
            boost = tf[BOOST, o]
            trial.tf[WORTH, o] -= max(0.0, float(tf[PRICED, o]) - float(tf[BASE, o]) - boost)
    seen = 0.0
    for t in range(len(pi)):
        for q in range(pi[t, NUM, FILLED]):
            if who[t, q] == campaign and code[t, q] == rule:
                seen += pf[t, RATE, q]
                lift(trial.pi, trial.mix, trial.ti, t, q)
    if rule == BLOCK_RULE:
        for t in range(len(pi)):
            if trial.pi[t, NUM, ONLY] == campaign:
                trial.pi[t, NUM, ONLY] = -1
    args = scratch(trial.pi, trial.mix)
    finish(trial.pi, trial.pf, trial.order, trial.mix, trial.ti, trial.tf, *args, TAG_TRIES)
    lost = base_worth(trial.pi, trial.pf, trial.mix, trial.ti, trial.tf) - now
    for t in range(len(pi)):
        for q in range(pi[t, NUM, FILLED]):
            if who[t, q] == campaign and code[t, q] == rule:
                done[t, q] = 1
                cost[t, q] = lost * pf[t, RATE, q] / seen if seen > 0 else 0.0


@jit
def _refusal(
    pi: I4, pf: F8, order: I4, mix: I4, ti: I8, tf: F8, s: int, code: U1, who: I4, cost: F8, now: float
) -> None:
    """Note at a slot's weakest place what was refused only because a counter was spent."""
    weak = -1
    for k in range(pi[s, NUM, FILLED]):
        free = code[s, k] == 0 and pi[s, FIXED, k] == FREE
        if free and (weak < 0 or pf[s, GAIN, k] <= pf[s, GAIN, weak]):
            weak = k
    if weak < 0:
        return
    least = pf[s, GAIN, weak]
    i, o, each = pi[s, CAND, weak], pi[s, OFFER, weak], pf[s, EACH, weak]
    lift(pi, mix, ti, s, weak)
    counter = _refused(pi, pf, order, mix, ti, tf, s, i, least)
    put(pi, pf, mix, ti, s, weak, i, o, each, FREE)
    if counter < 0 or _told(pi, code, who, counter):
        return
    trial = copy_of(pi, pf, order, mix, ti, tf)
    trial.mix[ROOM, counter] += 1
    args = scratch(trial.pi, trial.mix)
    improve(trial.pi, trial.pf, trial.order, trial.mix, trial.ti, trial.tf, *args, TAG_TRIES)
    lost = base_worth(trial.pi, trial.pf, trial.mix, trial.ti, trial.tf) - now
    if lost > NOTABLE:
        code[s, weak] = ti[LIMIT, counter]
        who[s, weak], cost[s, weak] = counter, lost


@jit
def _told(pi: I4, code: U1, who: I4, counter: int) -> bool:
    """Whether a counter is blamed already: what it refuses is counted once."""
    told = False
    for s in range(len(pi)):
        for k in range(pi[s, NUM, FILLED]):
            told = told or (who[s, k] == counter and code[s, k] in (CAP, EXCLUSION))
    return told


@jit
def _refused(pi: I4, pf: F8, order: I4, mix: I4, ti: I8, tf: F8, s: int, own: int, least: float) -> int:
    """The counter that keeps the best refused item from a free place of a slot; -1 none is refused."""
    for at in range(pi[s, NUM, LENGTH]):
        i = order[s, at]
        if tf[TOP, i] <= least:
            break
        if i != own and mix[WHERE, i] < 0 and fits(pi, mix, ti, s, i, True):
            counter = _spent(pf, mix, ti, tf, i, s, least)
            if counter >= 0:
                return counter
    return -1


@jit
def _spent(pf: F8, mix: I4, ti: I8, tf: F8, i: int, s: int, least: float) -> int:
    """The one counter that keeps an item from a slot where it would be worth more than `least`; -1 none."""
    by = factor(pf, mix, s, ti[CATEGORY, i])
    o = ti[FIRST, i]
    while o >= 0:
        may = ti[BAND, o] == 1 and not mix[OFF, o] and suits(ti[SUITS, o], s)
        if may and shrunk(tf[WORTH, o], by) > least:
            counter = only_spent(mix, ti, USES, 8, o)
            if counter >= 0:
                return counter
        o = ti[FOLLOWING, o]
    if shrunk(tf[ORGANIC, i], by) > least and suits(ti[ORGANICALLY, i], s):
        return only_spent(mix, ti, ITEM_ROOM, 2, i)
    return -1
