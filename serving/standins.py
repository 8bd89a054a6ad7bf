"""Stand-ins of capped places that agree with each other: whatever the ledger refuses, the page's rules hold.

Each stand-in is feasible where its own place alone is refused. Two of them may still share an exclusion group
or a kind of which only one more may stand, so they are taken one after another, each on top of the page and
of those before it; one that would be too many is left out, and its place with it. `tests/plain_standins.py`
does the same with sets.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit

I4 = NDArray[np.int32]
U1 = NDArray[np.uint8]
_NO_LIMIT: Final = 255  # serving.page.NO_LIMIT, which the compiler wants as a number of this module
_MOST_USES: Final = 32  # counters of an item and an offer together; checked below


class Rules(NamedTuple):
    """What may not be overdrawn: counters and kinds."""

    room: I4  # (R,) placements that each counter still allows on the page
    option_room: I4  # (n, a) counters of the candidates, −1 none
    offer_room: I4  # (m, b) counters of the offers
    kind: U1  # (n,)
    kind_most: U1  # (S, kinds), 255 no limit


class Stand(NamedTuple):
    """Places, in columns."""

    slot: I4
    candidate: I4
    offer: I4  # −1 none


def agreeing(page: Stand, at: NDArray[np.int64], spares: Stand, rules: Rules) -> NDArray[np.bool_]:
    """(k,) which of the spares may stand in, in order: `spares` for the page's places `at` (k,)."""
    if rules.option_room.shape[1] + rules.offer_room.shape[1] > _MOST_USES:
        raise ValueError(f"a placement draws on {_MOST_USES} counters at most")
    return _agreeing(page, at, spares, rules)


@jit
def _agreeing(page: Stand, at: NDArray[np.int64], spares: Stand, rules: Rules) -> NDArray[np.bool_]:
    left = rules.room.copy()
    have = np.zeros(rules.kind_most.shape, np.int64)
    uses, more = np.empty(_MOST_USES, np.int32), np.empty(_MOST_USES, np.int32)
    for p in range(len(page.slot)):
        have[page.slot[p], rules.kind[page.candidate[p]]] += 1
        for u in range(_uses(rules, page.candidate[p], page.offer[p], uses)):
            left[uses[u]] -= 1
    taken = np.zeros(len(at), np.bool_)
    for j in range(len(at)):
        p, s = at[j], page.slot[at[j]]
        kind, own = rules.kind[spares.candidate[j]], rules.kind[page.candidate[p]]
        most = rules.kind_most[s, kind]
        if kind != own and most != _NO_LIMIT and have[s, kind] >= most:
            continue
        held = _uses(rules, page.candidate[p], page.offer[p], uses)
        wanted = _uses(rules, spares.candidate[j], spares.offer[j], more)
        fits = True
        for u in range(wanted):
            if not _among(more[u], uses, held) and left[more[u]] < 1:
                fits = False
        if not fits:
            continue
        for u in range(wanted):
            if not _among(more[u], uses, held):
                left[more[u]] -= 1
        if kind != own:
            have[s, kind] += 1
        taken[j] = True
    return taken


@jit
def _uses(rules: Rules, candidate: int, offer: int, out: I4) -> int:
    """The distinct counters that a placement draws on, into `out`: how many."""
    n = 0
    for u in range(rules.option_room.shape[1]):
        counter = rules.option_room[candidate, u]
        if counter >= 0 and not _among(counter, out, n):
            out[n] = counter
            n += 1
    if offer >= 0:
        for u in range(rules.offer_room.shape[1]):
            counter = rules.offer_room[offer, u]
            if counter >= 0 and not _among(counter, out, n):
                out[n] = counter
                n += 1
    return n


@jit
def _among(one: int, of: I4, n: int) -> bool:
    found = False
    for u in range(n):
        found = found or of[u] == one
    return found
