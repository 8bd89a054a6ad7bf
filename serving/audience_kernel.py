"""All predicates and rules of a plan over one customer, compiled.

Kleene's logic needs no third value here: with negation pushed down to the literals, a rule is TRUE exactly
when a monotone and/or network over "known to hold" and "known not to hold" is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops
from features.customer import Customer
from features.past import own
from features.views import PROFILE, RECENT, RECENT_WHOLE
from serving.audience_facts import Layout, Lookups, zone_number
from serving.audience_network import Network
from serving.predicates import COMPUTED_FROM, Predicates

Flags = NDArray[np.uint8]
_NO_LOG: Final = np.zeros(0, RECENT)
_NO_AUDIENCES: Final = np.zeros(0, np.uint16)
_NO_ROWS: Final = np.zeros(0, np.int32)
_OF_ITEM, _OF_CATEGORY = 1, 2  # of serving.predicates: constants of the compiled code


@loops
def numbers(
    values: Flags,
    size: int,
    x: NDArray[np.float64],
    usable: Flags,
    known: int,
    shift: NDArray[np.int64],
    zero: Flags,
    starts: NDArray[np.int64],
    column: NDArray[np.int64],
    bound: NDArray[np.float64],
) -> None:
    """AtLeast and Equal. `usable`: scratch, as `x`."""
    for k in range(len(x)):
        there = (known >> shift[k]) & 1 == 1 and x[k] == x[k] and not (zero[k] == 1 and x[k] == 0.0)
        usable[k] = 1 if there else 0
    for p in range(starts[1]):
        k = column[p]
        holds = 1 if x[k] >= bound[p] else 0
        values[p] = holds & usable[k]
        values[size + p] = (1 - holds) & usable[k]
    for p in range(starts[1], starts[2]):
        k = column[p]
        holds = 1 if x[k] == bound[p] else 0
        values[p] = holds & usable[k]
        values[size + p] = (1 - holds) & usable[k]


@loops
def held(
    values: Flags,
    size: int,
    known: int,
    sets: NDArray[np.int64],
    raw: Flags,
    spots: NDArray[np.int64],
    starts: NDArray[np.int64],
    items: NDArray[np.uint64],
    tokens: NDArray[np.uint32],
    sibling_at: NDArray[np.int64],
    siblings: NDArray[np.uint32],
    bits: NDArray[np.int64],
) -> None:
    """Holds, Attributed, HasTag and Consented. `spots`: where each set begins and ends in `raw`."""
    holdings = raw[spots[0] : spots[1]].view(np.uint64)
    attributes = raw[spots[2] : spots[3]].view(np.uint32)
    tags, tags_off = raw[spots[4] : spots[5]], raw[spots[6] : spots[7]]
    consents = np.int64(raw[spots[8]]) | np.int64(raw[spots[8] + 1]) << 8
    if (known >> sets[0]) & 1 == 1:
        for p in range(starts[2], starts[3]):
            item, has = items[p - starts[2]], 0
            for h in range(len(holdings)):
                if holdings[h] == item:
                    has = 1
            values[p], values[size + p] = has, 1 - has
    if (known >> sets[1]) & 1 == 1:
        for p in range(starts[3], starts[4]):
            a = p - starts[3]
            has, other = 0, 0
            for h in range(len(attributes)):
                if attributes[h] == tokens[a]:
                    has = 1
            if has == 0:
                for s in range(sibling_at[a], sibling_at[a + 1]):
                    for h in range(len(attributes)):
                        if attributes[h] == siblings[s]:
                            other = 1
            values[p], values[size + p] = has, other
    if (known >> sets[2]) & 1 == 1:
        for p in range(starts[4], starts[5]):
            bit = bits[p - starts[4]]
            has = (tags[bit >> 3] >> (bit & 7)) & 1
            off = (tags_off[bit >> 3] >> (bit & 7)) & 1
            values[p], values[size + p] = has & (1 - off), (1 - has) & (1 - off)
    if (known >> sets[3]) & 1 == 1:
        for p in range(starts[5], starts[6]):
            has = (consents >> bits[p - starts[4]]) & 1
            values[p], values[size + p] = has, 1 - has


@loops
def listed(
    values: Flags,
    size: int,
    held_ids: NDArray[np.uint16],
    profiling: bool,
    computed_from: int,
    starts: NDArray[np.int64],
    audiences: NDArray[np.int64],
    contrary: NDArray[np.int64],
) -> None:
    """InList."""
    for p in range(starts[6], starts[7]):
        wanted, against = audiences[p - starts[6]], contrary[p - starts[6]]
        if wanted >= computed_from and not profiling:
            continue
        has, proved = 0, 0
        for h in range(len(held_ids)):
            if held_ids[h] == wanted:
                has = 1
            if against > 0 and held_ids[h] == against:
                proved = 1
        if against == 0:
            proved = 1 - has
        values[p], values[size + p] = has, proved & (1 - has)


@loops
def happened(
    values: Flags,
    size: int,
    log: NDArray[np.void],
    rows: NDArray[np.int32],
    complete: bool,
    now: float,
    kinds: Flags,
    categories: NDArray[np.uint32],
    tops: NDArray[np.uint32],
    starts: NDArray[np.int64],
    codes: NDArray[np.int64],
    code_at: NDArray[np.int64],
    within: NDArray[np.float64],
    least: NDArray[np.int64],
    about: Flags,
    key: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> None:
    """Happened: one pass over the log, each entry against the atoms of its code alone. `counts`: zeros."""
    oldest = now
    for e in range(len(log)):
        at = log[e]["at"]
        oldest = min(oldest, at)
        code = np.int64(log[e]["what"]) << 16 | np.int64(log[e]["action"])
        group = np.searchsorted(codes, code)
        if group == len(codes) or codes[group] != code:
            continue
        for k in range(code_at[group], code_at[group + 1]):
            if at <= now - within[k]:
                continue
            if about[k] == 0:
                counts[k] += 1
            elif about[k] == _OF_ITEM:
                counts[k] += 1 if log[e]["item"] == key[k] else 0
            elif rows[e] >= 0:
                row = rows[e]
                if about[k] == _OF_CATEGORY:
                    same = np.uint64(categories[row]) == key[k] or np.uint64(tops[row]) == key[k]
                else:
                    same = np.uint64(kinds[row]) == key[k]
                counts[k] += 1 if same else 0
    for k in range(len(within)):
        p = starts[7] + k
        enough = 1 if counts[k] >= least[k] else 0
        covered = 1 if complete or oldest <= now - within[k] else 0
        values[p], values[size + p] = enough, (1 - enough) & covered


class Evaluator:
    """The rules of a plan, over one customer after the other: one call of all loops."""

    def __init__(self, predicates: Predicates, network: Network) -> None:
        self._layout = layout = Layout(predicates)
        self._size, self._nodes = len(predicates), len(network.either)
        self._audiences, self._live = len(network.roots), len(predicates.tables.within)
        self._constant = (layout.gathered, layout.spots, layout.runs, *predicates.tables, *network)

    def holds(self, customer: Customer, now: float, lookups: Lookups) -> NDArray[np.bool_]:
        """(A,) True where the audience's rule is TRUE of the customer."""
        record, recent, audiences = customer.profile, customer.recent, customer.audiences
        values, layout = PROFILE.blank_record if record is None else record.values, self._layout
        raw = np.frombuffer(values.tobytes(), np.uint8)
        log = own(_NO_LOG if recent is None else recent)
        said = (
            0 if record is None else int(record.known),
            zone_number(bytes(values["tz"])) if layout.zone >= 0 else 0.0,
            layout.zone,
            audiences is not None,
            customer.profiling,
            recent is not None and customer.profiling,
            len(log) < RECENT_WHOLE,  # never cut: it holds everything since the customer was first seen
            float(now),
        )
        # A copy: aligned and writable, one type for the compiled code.
        ids = _NO_AUDIENCES if audiences is None else audiences.copy()
        rows = lookups.rows(log["item"]) if layout.asks_items else _NO_ROWS
        mine, numbers = np.empty(len(layout.gathered), np.uint8), np.empty(layout.columns)
        usable, counts = np.empty(layout.columns, np.uint8), np.zeros(self._live, np.int64)
        known = np.zeros(2 * self._size + self._nodes, np.uint8)
        out = np.empty(self._audiences, np.bool_)
        _evaluate(
            *(*self._constant, raw, *said, ids, log, rows, *lookups.catalogue),
            *(mine, numbers, usable, counts, known, out),
        )
        return out


@loops
def _evaluate(
    gathered: NDArray[np.int64], spots: NDArray[np.int64], runs: NDArray[np.int64],
    # serving.predicates.Tables
    shift: NDArray[np.int64], zero: Flags, starts: NDArray[np.int64], column: NDArray[np.int64],
    bound: NDArray[np.float64], holdings: NDArray[np.uint64], tokens: NDArray[np.uint32],
    sibling_at: NDArray[np.int64], siblings: NDArray[np.uint32], bits: NDArray[np.int64],
    audiences: NDArray[np.int64], contrary: NDArray[np.int64], codes: NDArray[np.int64],
    code_at: NDArray[np.int64], within: NDArray[np.float64], least: NDArray[np.int64], about: Flags,
    key: NDArray[np.uint64], sets: NDArray[np.int64],
    # serving.audience_network.Network
    either: Flags, child_at: NDArray[np.uint32], children: NDArray[np.uint32], roots: NDArray[np.uint32],
    # the customer: the record's bytes, its known bits, the time zone and its column, what is known
    raw: Flags, known: int, zone: float, zone_at: int, lists_known: bool, profiling: bool, log_known: bool,
    complete: bool, now: float, ids: NDArray[np.uint16], log: NDArray[np.void], rows: NDArray[np.int32],
    kinds: Flags, categories: NDArray[np.uint32], tops: NDArray[np.uint32],
    # scratch, then what is found
    mine: Flags, x: NDArray[np.float64], usable: Flags, counts: NDArray[np.int64], values: Flags,
    out: NDArray[np.bool_],
) -> None:  # fmt: skip
    size = starts[len(starts) - 1]
    if known:
        for k in range(len(gathered)):
            mine[k] = raw[gathered[k]]
        for run in runs:
            _read(mine[run[1] :], run[0], x[run[2] : run[2] + run[3]])
        if zone_at >= 0:
            x[zone_at] = zone
        numbers(values, size, x, usable, known, shift, zero, starts, column, bound)
        held(
            values, size, known, sets, mine, spots, starts, holdings, tokens, sibling_at, siblings, bits
        )  # fmt: skip
    if lists_known:
        listed(values, size, ids, profiling, COMPUTED_FROM, starts, audiences, contrary)
    if log_known and len(within):
        happened(
            values, size, log, rows, complete, now, kinds, categories, tops, starts, codes, code_at, within,
            least, about, key, counts,
        )  # fmt: skip
    joined(values, 2 * size, either, child_at, children, roots, out)


@loops
def _read(raw: Flags, code: int, x: NDArray[np.float64]) -> None:
    """`x` from the packed numbers that `raw` begins with, of the type of this code in TYPES."""
    if code == 0:
        for k in range(len(x)):
            x[k] = raw[k]
    elif code == 1:
        for k in range(len(x)):
            x[k] = raw[2 * k : 2 * k + 2].view(np.uint16)[0]
    elif code == 2:
        for k in range(len(x)):
            x[k] = raw[4 * k : 4 * k + 4].view(np.uint32)[0]
    elif code == 3:
        for k in range(len(x)):
            x[k] = raw[8 * k : 8 * k + 8].view(np.uint64)[0]
    elif code == 4:
        for k in range(len(x)):
            x[k] = raw[4 * k : 4 * k + 4].view(np.float32)[0]
    else:
        for k in range(len(x)):
            x[k] = raw[8 * k : 8 * k + 8].view(np.float64)[0]


@loops
def joined(
    values: Flags,
    first: int,
    either: Flags,
    child_at: NDArray[np.uint32],
    children: NDArray[np.uint32],
    roots: NDArray[np.uint32],
    out: NDArray[np.bool_],
) -> None:
    """The network over its literals: any = not all not, so that both are one straight line of code.

    A node has two children or more, so two need no loop.
    """
    c = np.uint32(0)
    for n in range(len(either)):
        flip, end = either[n], child_at[n + 1]
        all_of = (values[children[c]] ^ flip) & (values[children[c + np.uint32(1)]] ^ flip)
        c += np.uint32(2)
        while c < end:
            all_of &= values[children[c]] ^ flip
            c += np.uint32(1)
        values[first + n] = all_of ^ flip
    for a in range(len(roots)):
        out[a] = values[roots[a]]
