"""A page's worth from above: what no arrangement of its items can exceed, for the dual bound.

Without interactions a page is an assignment of items to places. Whatever prices ν ≥ 0 its items have,

    Σ over places of max(0, max over items of rates·value − ν)  +  Σ ν

is at least the worth of every page (weak duality), so the bound holds even where the auction below, or the
product's own page solver, is not exact. The auction (Bertsekas 1988: places bid for items, prices from 0)
makes it tight to places · ε. Counters, per-category limits and interactions are left out: they only make
pages worth less (factors are ≤ 1 and shrink gains only; switching and interruption are costs).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import unlocked
from serving.page import Batch

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
U8 = NDArray[np.uint64]
STEP: Final = 2e-4  # ε over the page's best place
MOST_BIDS: Final = 20_000


def page_bounds(batch: Batch) -> F8:
    """(B,) of every page of a batch, at the offers' values as they are."""
    out = np.empty(len(batch.option_at) - 1)
    _bounds(
        batch.slots.bit, batch.slots.count, batch.slots.rates, batch.options.members, batch.options.value,
        batch.option_at, batch.offers.candidate, batch.offers.slots, batch.offers.value, batch.offer_at, out,
    )  # fmt: skip
    return out


@unlocked
def _bounds(
    bit: U8, count: I4, rates: F4, members: U8, value: F4, option_at: I8, candidate: I4, offer_slots: U8,
    offer_value: F4, offer_at: I8, out: F8,
) -> None:  # fmt: skip
    """Fills `out` page by page."""
    slots, depth = rates.shape
    widest = 1
    for b in range(len(out)):
        widest = max(widest, option_at[b + 1] - option_at[b])
    worth = np.empty((slots, widest))
    lists = np.empty((slots, widest), np.int32)
    many = np.empty(slots, np.int32)
    price, holder = np.empty(widest), np.empty(widest, np.int32)
    queue = np.empty(slots * depth * 2, np.int32)
    for b in range(len(out)):
        first, n = option_at[b], option_at[b + 1] - option_at[b]
        for s in range(slots):
            for i in range(n):
                open_here = (members[first + i] & bit[s]) != 0
                worth[s, i] = value[first + i] if open_here else 0.0
        for o in range(offer_at[b], offer_at[b + 1]):
            i = candidate[o]
            for s in range(slots):
                if (offer_slots[o] & bit[s]) != 0 and offer_value[o] > worth[s, i]:
                    worth[s, i] = offer_value[o]
        for i in range(n):
            price[i] = 0.0
            holder[i] = -1
        for s in range(slots):
            order = np.argsort(-worth[s, :n])
            many[s] = 0
            for i in order:
                if worth[s, i] <= 0.0:
                    break
                lists[s, many[s]] = i
                many[s] += 1
        _auction(count, rates, worth, lists, many, price, holder, queue)
        out[b] = _dual(count, rates, worth, lists, many, price, n)


@unlocked
def _auction(count: I4, rates: F4, worth: F8, lists: I4, many: I4, price: F8, holder: I4, queue: I4) -> None:
    """Moves `price` until every place holds what it likes best, or nothing is worth its price."""
    slots, depth = rates.shape
    waiting, top = 0, 0.0
    for k in range(depth - 1, -1, -1):  # the last in the queue bids first: the best places
        for s in range(slots):
            if k < count[s]:
                queue[waiting] = s * depth + k
                waiting += 1
    for s in range(slots):
        for j in range(many[s]):
            top = max(top, rates[s, 0] * worth[s, lists[s, j]])
    step = STEP * top
    for _ in range(MOST_BIDS):
        if waiting == 0:
            return
        waiting -= 1
        place = queue[waiting]
        s = place // depth
        rate = rates[s, place - s * depth]
        best, second, won = 0.0, 0.0, -1
        for j in range(many[s]):
            i = lists[s, j]
            if rate * worth[s, i] <= second:  # best first, and no price is below 0
                break
            gain = rate * worth[s, i] - price[i]
            if gain > best:
                second, best, won = best, gain, i
            elif gain > second:
                second = gain
        if won < 0:
            continue
        price[won] += best - second + step
        if holder[won] >= 0:
            queue[waiting] = holder[won]
            waiting += 1
        holder[won] = place


@unlocked
def _dual(count: I4, rates: F4, worth: F8, lists: I4, many: I4, price: F8, n: int) -> float:
    total = 0.0
    for i in range(n):
        total += price[i]
    for s in range(rates.shape[0]):
        for k in range(count[s]):
            best = 0.0
            for j in range(many[s]):
                i = lists[s, j]
                if rates[s, k] * worth[s, i] <= best:
                    break
                best = max(best, rates[s, k] * worth[s, i] - price[i])
            total += best
    return total
