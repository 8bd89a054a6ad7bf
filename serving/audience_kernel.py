"""All predicates and rules of a plan over one customer, compiled.

Kleene's logic needs no third value here: with negation pushed down to the literals, a rule is TRUE exactly
when a monotone and/or network over "known to hold" and "known not to hold" is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from serving.audience_facts import Catalogue, Facts
from serving.audience_network import Network
from serving.predicates import Tables

Flags = NDArray[np.uint8]
_OF_ITEM, _OF_CATEGORY = 1, 2  # of serving.predicates: constants of the compiled code


@jit
def numbers(
    values: Flags,
    size: int,
    x: NDArray[np.float64],
    known: int,
    shift: NDArray[np.int64],
    zero: Flags,
    starts: NDArray[np.int64],
    column: NDArray[np.int64],
    bound: NDArray[np.float64],
) -> None:
    """AtLeast and Equal."""
    usable = np.zeros(len(x), np.uint8)
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


@jit
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


@jit
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


@jit
def happened(
    values: Flags,
    size: int,
    items: NDArray[np.uint64],
    times: NDArray[np.float64],
    what: Flags,
    action: NDArray[np.uint16],
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
) -> None:
    """Happened: one pass over the log, each entry against the atoms of its code alone."""
    counts = np.zeros(len(within), np.int64)
    oldest = now
    for e in range(len(items)):
        at = times[e]
        oldest = min(oldest, at)
        code = np.int64(what[e]) << 16 | np.int64(action[e])
        group = np.searchsorted(codes, code)
        if group == len(codes) or codes[group] != code:
            continue
        for k in range(code_at[group], code_at[group + 1]):
            if at <= now - within[k]:
                continue
            if about[k] == 0:
                counts[k] += 1
            elif about[k] == _OF_ITEM:
                counts[k] += 1 if items[e] == key[k] else 0
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


def evaluate(
    facts: Facts, tables: Tables, catalogue: Catalogue, network: Network, now: float, computed_from: int
) -> NDArray[np.uint8]:
    """(A,) 1 where the audience's rule is TRUE of the customer."""
    # Several calls with plain arrays: passing one call all of it in named tuples costs 8 µs more.
    size = len_of(tables)
    values = np.zeros(2 * size + len(network.either), np.uint8)
    starts = tables.starts
    if facts.known:
        numbers(
            values, size, facts.numbers, facts.known, tables.shift, tables.zero, starts, tables.column,
            tables.bound,
        )  # fmt: skip
        held(
            values, size, facts.known, tables.sets, facts.raw, facts.spots, starts, tables.holdings,
            tables.tokens, tables.sibling_at, tables.siblings, tables.bits,
        )  # fmt: skip
    if facts.audiences_known and len(tables.audiences):
        listed(
            values, size, facts.audiences, facts.profiling, computed_from, starts, tables.audiences,
            tables.contrary,
        )  # fmt: skip
    if facts.log_known and len(tables.within):
        happened(
            values, size, facts.items, facts.times, facts.what, facts.action, facts.rows, facts.complete, now,
            catalogue.kinds, catalogue.categories, catalogue.tops, starts, tables.codes, tables.code_at,
            tables.within, tables.least, tables.about, tables.key,
        )  # fmt: skip
    return joined(values, 2 * size, network.either, network.child_at, network.children, network.roots)


def len_of(tables: Tables) -> int:
    """P."""
    return (
        len(tables.column)
        + len(tables.holdings)
        + len(tables.tokens)
        + len(tables.bits)
        + (len(tables.audiences) + len(tables.within))
    )


@jit
def joined(
    values: Flags,
    first: int,
    either: Flags,
    child_at: NDArray[np.uint32],
    children: NDArray[np.uint32],
    roots: NDArray[np.uint32],
) -> Flags:
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
    out = np.empty(len(roots), np.uint8)
    for a in range(len(roots)):
        out[a] = values[roots[a]]
    return out
