"""Placing and lifting, what a page is worth, and the joint greedy that fills it.

Everything is a jitted function over the arrays of one `State`; nothing is random, ties go to what comes
first. Sums are in float64 and in a fixed order, so the interpreted twin gives the same bits.
"""

from __future__ import annotations

from features.compiled import loops
from serving.page_state import (
    AWAY,
    BAND,
    BEFORE,
    CAMPAIGN,
    CAND,
    CATEGORY,
    CROSS,
    CROSSING,
    EACH,
    F8,
    FILLED,
    FIRST,
    FIXED,
    FOLLOWING,
    FREE,
    GAIN,
    HAVE,
    HEAD,
    HOUSE,
    I8,
    INSIDE,
    INTERRUPTION,
    ITEM_ROOM,
    KIND,
    KINDS,
    LEAST,
    LEAST_KIND,
    LENGTH,
    MINIMA,
    MOST,
    NEXT,
    NEXT_EACH,
    NEXT_GAIN,
    NEXT_OFFER,
    NONE,
    NUM,
    OFF,
    OFFER,
    ONLY,
    OPEN,
    ORGANIC,
    ORGANICALLY,
    PER_CATEGORY,
    PER_KIND,
    PRICE,
    RATE,
    ROOM,
    STABLE,
    STALE,
    SUITS,
    SWITCHING,
    TALLY,
    TOP,
    TOTAL,
    USES,
    WHERE,
    WORTH,
    number,
    suits,
)


@loops
def allowed(mix: I8, ti: I8, o: int) -> bool:
    """Whether an offer's counters have room for one more; the first -1 ends them."""
    room = True
    for j in range(USES, USES + 8):
        if ti[j, o] < 0:
            break
        room = room and mix[ROOM, ti[j, o]] > 0
    return room


@loops
def allowed_alone(mix: I8, ti: I8, i: int) -> bool:
    """Whether an item's own counters have room for one more."""
    a, b = ti[ITEM_ROOM, i], ti[ITEM_ROOM + 1, i]
    return bool((a < 0 or mix[ROOM, a] > 0) and (b < 0 or mix[ROOM, b] > 0))


@loops
def only_spent(mix: I8, ti: I8, uses: int, many: int, at: int) -> int:
    """The one counter that has no room; -1 where there is none, or more than one."""
    found = -1
    for j in range(uses, uses + many):
        if ti[j, at] >= 0 and mix[ROOM, ti[j, at]] <= 0:
            if found >= 0:
                return -1
            found = ti[j, at]
    return found


@loops
def variant(pi: I8, mix: I8, ti: I8, tf: F8, i: int, s: int, house: bool) -> tuple[int, float]:
    """How item i is worth most in slot s: by which offer, or -1 organically, or NONE; and its worth."""
    best, worth = NONE, LEAST
    o = ti[FIRST, i]
    only = pi[s, NUM, ONLY]
    while o >= 0:
        may = ti[BAND, o] == 1 or (house and ti[BAND, o] == HOUSE)
        if only >= 0:
            may = ti[CAMPAIGN, o] == only
        may = may and not mix[OFF, o] and suits(ti[SUITS, o], s)
        if may and tf[WORTH, o] > worth and allowed(mix, ti, o):
            best, worth = o, tf[WORTH, o]
        o = ti[FOLLOWING, o]
    if only < 0 and tf[ORGANIC, i] > worth and suits(ti[ORGANICALLY, i], s) and allowed_alone(mix, ti, i):
        best, worth = -1, tf[ORGANIC, i]
    return best, worth


@loops
def fits(pi: I8, mix: I8, ti: I8, s: int, i: int, strict: bool) -> bool:
    """Whether one more of the item's kind and category may stand in the slot."""
    kind, c = ti[KIND, i], ti[CATEGORY, i]
    have = pi[s, HAVE, kind]
    if have >= pi[s, MOST, kind]:  # NO_LIMIT is more than any slot holds
        return False
    if not strict or pi[s, NUM, ONLY] >= 0:
        return True
    if have >= pi[s, NUM, PER_KIND] or (c > 0 and mix[s, c] >= pi[s, NUM, PER_CATEGORY]):
        return False
    if have < pi[s, LEAST_KIND, kind] or not pi[s, NUM, MINIMA]:
        return True
    lacking = 0
    for other in range(pi[0, NUM, KINDS]):
        lacking += max(0, int(pi[s, LEAST_KIND, other] - pi[s, HAVE, other]))
    return bool(pi[s, NUM, OPEN] - pi[s, NUM, FILLED] > lacking)


@loops
def put(pi: I8, pf: F8, mix: I8, ti: I8, s: int, k: int, i: int, o: int, each: float) -> None:
    """Place item i by offer o at a free place, from where it may move."""
    pi[s, CAND, k], pi[s, OFFER, k], pi[s, FIXED, k] = i, o, FREE
    pf[s, EACH, k] = each
    pi[s, NUM, FILLED] += 1
    mix[WHERE, i] = s
    _count(pi, mix, ti, s, i, o, 1)


@loops
def lift(pi: I8, mix: I8, ti: I8, s: int, k: int) -> None:
    """Free a place."""
    i, o = pi[s, CAND, k], pi[s, OFFER, k]
    pi[s, CAND, k], pi[s, OFFER, k], pi[s, FIXED, k] = -1, -1, FREE
    pi[s, NUM, FILLED] -= 1
    mix[WHERE, i] = -1
    _count(pi, mix, ti, s, i, o, -1)


@loops
def _count(pi: I8, mix: I8, ti: I8, s: int, i: int, o: int, by: int) -> None:
    c = ti[CATEGORY, i]
    pi[s, HAVE, ti[KIND, i]] += by
    if c > 0:
        mix[s, c] += by
        mix[TOTAL, c] += by
    lend(mix, ti, i, o, -by)


@loops
def lend(mix: I8, ti: I8, i: int, o: int, by: int) -> None:
    """Give the counters of item i by offer o so much more room."""
    if o >= 0:
        for j in range(USES, USES + 8):
            if ti[j, o] < 0:
                break
            mix[ROOM, ti[j, o]] += by
    else:
        for j in range(2):
            if ti[ITEM_ROOM + j, i] >= 0:
                mix[ROOM, ti[ITEM_ROOM + j, i]] += by


@loops
def factor(pf: F8, mix: I8, s: int, c: int) -> float:
    """What one more item of a category would keep of its worth in a slot."""
    if c == 0:
        return 1.0
    inside = mix[s, c]
    away = mix[TOTAL, c] - inside
    return float(pf[s, INSIDE, inside] * pf[s, AWAY, away])


@loops
def shrunk(each: float, by: float) -> float:
    """A factor shrinks gains only."""
    return each * by if each > 0 else each


@loops
def slot_worth(pi: I8, pf: F8, mix: I8, ti: I8, s: int) -> float:
    """A slot's part of the objective; notes what each place adds in `gain`."""
    worth = 0.0
    changed = 0
    for k in range(pi[s, NUM, OPEN]):
        i = pi[s, CAND, k]
        if i < 0:
            continue
        c = ti[CATEGORY, i]
        by = 1.0
        if c > 0:
            away = mix[TOTAL, c] - mix[s, c]
            by = pf[s, INSIDE, mix[TALLY, c]] * pf[s, AWAY, away]
            mix[TALLY, c] += 1
        pf[s, GAIN, k] = shrunk(pf[s, EACH, k], by)
        worth += pf[s, RATE, k] * pf[s, GAIN, k]
    for k in range(pi[s, NUM, OPEN]):
        if pi[s, CAND, k] >= 0:
            mix[TALLY, ti[CATEGORY, pi[s, CAND, k]]] = 0
    if pi[s, NUM, FILLED] > 0:
        worth -= pf[s, PRICE, INTERRUPTION]
    if pi[s, NUM, STABLE]:
        for k in range(pi.shape[2]):  # a place that is closed now has changed too
            changed += 1 if pi[s, BEFORE, k] >= 0 and pi[s, CAND, k] != pi[s, BEFORE, k] else 0
    return float(worth - changed * pf[s, PRICE, SWITCHING])


@loops
def page_worth(pi: I8, pf: F8, mix: I8, ti: I8) -> float:
    worth = 0.0
    for s in range(len(pi)):
        worth += slot_worth(pi, pf, mix, ti, s)
    return worth


@loops
def tidy(pi: I8, pf: F8, mix: I8, ti: I8, s: int) -> None:
    """No gap; fixed places stay as far as they can; others by worth, but in a stable slot as they were."""
    most = pi[s, NUM, OPEN]
    cand, offer, fixed = pi[s, CAND], pi[s, OFFER], pi[s, FIXED]
    each = pf[s, EACH]
    end = pi[s, NUM, FILLED]
    for k in range(most - 1, end - 1, -1):  # beyond the end: into the last free place before it
        if cand[k] >= 0:
            free = end - 1
            while cand[free] >= 0:
                free -= 1
            _swap(pi, pf, s, k, free)
    if pi[s, NUM, STABLE]:
        return
    for k in range(end):
        if fixed[k] != FREE:
            c = ti[CATEGORY, cand[k]]
            mix[TALLY, c] += 1 if c > 0 else 0
            continue
        best, most_worth, is_last = k, LEAST, True
        for q in range(k, end):
            if fixed[q] != FREE:
                continue
            c = ti[CATEGORY, cand[q]]
            by = pf[s, INSIDE, mix[TALLY, c]] if c > 0 else 1.0
            if c > 0:
                by *= pf[s, AWAY, mix[TOTAL, c] - mix[s, c]]
            worth = shrunk(each[q], by)
            last = offer[q] >= 0 and ti[BAND, offer[q]] == HOUSE
            better = worth > most_worth or (worth == most_worth and cand[q] < cand[best])
            if (is_last and not last) or (last == is_last and better):
                best, most_worth, is_last = q, worth, last
        if best != k:
            _swap(pi, pf, s, k, best)
        c = ti[CATEGORY, cand[k]]
        mix[TALLY, c] += 1 if c > 0 else 0
    for k in range(end):
        mix[TALLY, ti[CATEGORY, cand[k]]] = 0


@loops
def _swap(pi: I8, pf: F8, s: int, a: int, b: int) -> None:
    cand, offer, fixed = pi[s, CAND], pi[s, OFFER], pi[s, FIXED]
    each = pf[s, EACH]
    cand[a], cand[b] = cand[b], cand[a]
    offer[a], offer[b] = offer[b], offer[a]
    each[a], each[b] = each[b], each[a]
    fixed[a], fixed[b] = fixed[b], fixed[a]


@loops
def free_place(pi: I8, s: int) -> int:
    """The first free place, or -1."""
    if pi[s, NUM, FILLED] < pi[s, NUM, OPEN]:
        for k in range(pi[s, NUM, OPEN]):
            if pi[s, CAND, k] < 0:
                return k
    return -1


@loops
def loss_elsewhere(pi: I8, pf: F8, mix: I8, ti: I8, s: int, c: int) -> float:
    """What one more item of a category here takes from those in other slots."""
    lost = 0.0
    if c == 0 or not pi[0, NUM, CROSSING] or mix[TOTAL, c] == mix[s, c]:
        return lost
    for t in range(len(pi)):
        if t == s or pf[t, PRICE, CROSS] >= 1 or mix[t, c] == 0:
            continue
        seen = 0
        away = pf[t, AWAY, mix[TOTAL, c] - mix[t, c]]
        for k in range(pi[t, NUM, OPEN]):
            if pi[t, CAND, k] >= 0 and ti[CATEGORY, pi[t, CAND, k]] == c:
                if pf[t, EACH, k] > 0:
                    kept = pf[t, RATE, k] * pf[t, EACH, k] * pf[t, INSIDE, seen] * away
                    lost += kept * (1.0 - pf[t, PRICE, CROSS])
                seen += 1
    return lost


@loops
def find(
    pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, s: int, k: int, strict: bool, house: bool, head: int
) -> tuple[int, int, float, float]:
    """The item that adds most at place k: item or -1, offer, worth per display, what the page gains."""
    best, by, worth, most = -1, NONE, LEAST, LEAST
    rate = pf[s, RATE, k]
    for at in range(head, pi[s, NUM, LENGTH]):
        i = order[s, at]
        if best >= 0 and rate * tf[TOP, i] <= most:
            break
        if mix[WHERE, i] >= 0 or not fits(pi, mix, ti, s, i, strict):
            continue
        o, each = variant(pi, mix, ti, tf, i, s, house)
        if o == NONE:
            continue
        c = ti[CATEGORY, i]
        gain = rate * shrunk(each, factor(pf, mix, s, c)) - loss_elsewhere(pi, pf, mix, ti, s, c)
        if gain > most:
            best, by, worth, most = i, o, each, gain
    return best, by, worth, most


@loops
def fill(pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, strict: bool, house: bool) -> None:
    """The joint greedy: of all slots' next places, the one whose best item adds most. Lazy."""
    slots = len(pi)
    for s in range(slots):
        pi[s, NUM, NEXT], pi[s, NUM, HEAD], pi[s, NUM, STALE] = -1, 0, 1
    while True:
        best = number(-1)
        for s in range(slots):
            if pi[s, NUM, STALE]:
                _next(pi, pf, order, mix, ti, tf, s, strict, house)
            if pi[s, NUM, NEXT] >= 0 and (best < 0 or pf[s, PRICE, NEXT_GAIN] > pf[best, PRICE, NEXT_GAIN]):
                best = s
        if best < 0:
            return
        i, o = pi[best, NUM, NEXT], pi[best, NUM, NEXT_OFFER]
        put(pi, pf, mix, ti, best, free_place(pi, best), i, o, pf[best, PRICE, NEXT_EACH])
        counted = o >= 0 or ti[ITEM_ROOM, i] >= 0 or ti[ITEM_ROOM + 1, i] >= 0
        c = ti[CATEGORY, i]
        for s in range(slots):
            j = pi[s, NUM, NEXT]
            met = j >= 0 and (j == i or (c > 0 and ti[CATEGORY, j] == c))
            if s == best or met or (counted and not _still(mix, ti, j, pi[s, NUM, NEXT_OFFER])):
                pi[s, NUM, STALE] = 1


@loops
def _next(pi: I8, pf: F8, order: I8, mix: I8, ti: I8, tf: F8, s: int, strict: bool, house: bool) -> None:
    """Note what a slot's next place would take, -1 nothing."""
    k = free_place(pi, s)
    pi[s, NUM, STALE], pi[s, NUM, NEXT] = 0, -1
    if k < 0:
        return
    head = pi[s, NUM, HEAD]
    while head < pi[s, NUM, LENGTH] and mix[WHERE, order[s, head]] >= 0:
        head += 1
    i, o, each, gain = find(pi, pf, order, mix, ti, tf, s, k, strict, house, head)
    pi[s, NUM, NEXT], pi[s, NUM, NEXT_OFFER], pi[s, NUM, HEAD] = i, o, head
    pf[s, PRICE, NEXT_EACH], pf[s, PRICE, NEXT_GAIN] = each, gain
    price = pf[s, PRICE, INTERRUPTION] / pi[s, NUM, OPEN]
    if price > 0 and pi[s, NUM, FILLED] == 0 and gain <= price:
        pi[s, NUM, NEXT] = -1


@loops
def _still(mix: I8, ti: I8, i: int, o: int) -> bool:
    """Whether a placement found before may still be made."""
    if i < 0:
        return True
    return allowed(mix, ti, o) if o >= 0 else allowed_alone(mix, ti, i)
