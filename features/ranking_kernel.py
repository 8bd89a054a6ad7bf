"""The loops of `features.ranking` and of the forest over its matrix: nothing is allocated in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops

DISPLAYED, CLICKED, DISMISSED, CONVERTED, ACTED = 1, 2, 3, 4, 5  # features.events.WHAT
DAY = 86_400.0
LN2 = 0.6931471805599453
CLICK_GAIN = 0.4  # interest that a click tells, where what one looks up oneself tells 1
INTEREST_DAYS = 20.0  # what a customer did counts half after so long
TIRED_DAYS = 3.5  # … and a display without an answer
SATED_DAYS = 1.4  # … and a click in the category
LONG_AGO = 60.0  # days, where something never happened
OLD = 400.0  # days since publication that count as any more
FIRST_RATE, FIRST_WEIGHT = 0.04, 25.0  # clicks per display of a customer whose displays are few
UNKNOWN = -9.0  # below every value: a tree can tell it apart
PUBLISHED = 4  # its place among the facts
HOURS = 48  # of a working day, then of a weekend
MOMENTS = HOURS + 31  # … then the days of a month
DID_WORDS, MET_WORDS = 4, 5  # of 64 bits, of an entry of features.views.RECENT and CONTACT
LOWEST, KNOTS, PART = -8.0, 13, 0.75  # of a calibration's bend: the first knot, how many, how far apart


@loops
def hashed(keys: NDArray[np.uint64], buckets: NDArray[np.int32]) -> None:
    """Fill `buckets` (a power of two, twice as many as keys at least, all -1) with the rows of `keys`."""
    last = np.uint64(len(buckets) - 1)
    for row in range(len(keys)):
        at = keys[row] & last
        while buckets[at] >= 0:
            at = (at + np.uint64(1)) & last
        buckets[at] = row


@loops
def row_of(key: np.uint64, keys: NDArray[np.uint64], buckets: NDArray[np.int32]) -> int:
    """The row of a key, -1 where there is none. Keys are hashes already."""
    last = np.uint64(len(buckets) - 1)
    at = key & last
    while buckets[at] >= 0:
        if keys[buckets[at]] == key:
            return int(buckets[at])
        at = (at + np.uint64(1)) & last
    return -1


@loops
def fill(
    now: float,
    constants: NDArray[np.float32],
    did: NDArray[np.uint64],
    did_times: NDArray[np.float64],
    acted: NDArray[np.float32],
    met: NDArray[np.uint64],
    rows: NDArray[np.int32],
    model: NDArray[np.float32],
    centre: float,
    deviation: float,
    share: NDArray[np.float32],
    keys: NDArray[np.uint64],
    buckets: NDArray[np.int32],
    codes: NDArray[np.int32],
    facts: NDArray[np.float32],
    ties: NDArray[np.float32],
    hours: NDArray[np.float32],
    scratch: NDArray[np.float32],
    which: NDArray[np.int32],
    places: NDArray[np.int16],
    out: NDArray[np.float32],
) -> None:
    """Into `out` (features, n), in the order of `features.ranking.FEATURES`. Nothing is made here.

    `did` (r · DID_WORDS,) behaviour as it is kept, RECENT entries taken for 64-bit words, `did_times` the
    same taken for f8; `acted` (65536,) the weight of each action; `met` (c · MET_WORDS,) CONTACT entries
    likewise: to take a field out of entries costs a microsecond, to find it in the words nothing.
    `rows` (n,) without repeats; `model` (n,) the model's scores, NaN where not known, or none at all, told in
    `deviation`s from `centre`; `share` (items,) what stands for popularity; `keys` (items,) and `buckets` as
    `hashed` makes them; `places` (items,) of -1, as it is again when this returns; `codes` (items, 3) dense
    category, top category, kind; `facts` (items, ITEM_FACTS), the fifth the day of publication; `ties`
    (items, categories); `hours` (tops, MOMENTS): lifts that add up; `scratch` (6, as many as categories,
    tops or kinds at most), `which` (categories,).
    """
    n, fixed = len(rows), len(constants)
    scratch[:, :] = 0.0
    interest, part, sated, shown = scratch[0], scratch[1], scratch[2], scratch[3]
    tops, kinds = scratch[4, : hours.shape[0]], scratch[5]
    total = np.float32(1e-6)
    for f in range(fixed):
        for j in range(n):
            out[f, j] = constants[f]
    a = fixed
    for j in range(n):
        row = rows[j]
        for f in range(facts.shape[1]):
            out[a + f, j] = facts[row, f]
        out[a + PUBLISHED, j] = min(np.float32(now / DAY - facts[row, PUBLISHED]), np.float32(OLD))
    a += facts.shape[1]
    for j in range(n):
        places[rows[j]] = j
        score = np.float32(np.nan)
        if len(model) > 0:
            score = (model[j] - np.float32(centre)) / np.float32(deviation)
        out[a, j] = score if abs(score) < np.inf else UNKNOWN
        score = share[rows[j]]
        out[a + 1, j] = score if abs(score) < np.inf else UNKNOWN
    b = a + 2
    for f in range(b, out.shape[0]):
        for j in range(n):
            out[f, j] = 0.0
    since = b + 9
    for f in range(since, since + 4):
        for j in range(n):
            out[f, j] = LONG_AGO
    for e in range(0, len(did), DID_WORDS):
        row = row_of(did[e], keys, buckets)
        if row < 0:
            continue
        age = max(now - did_times[e + 2], 0.0) / DAY
        word = did[e + 3]
        what = np.int64(word & np.uint64(0xFF))
        gain = np.float32(0.0)
        if what == ACTED:
            gain = acted[(word >> np.uint64(16)) & np.uint64(0xFFFF)]
        elif what == DISMISSED:
            gain = np.float32(-1.0)
        elif what == CLICKED:
            gain = np.float32(CLICK_GAIN)
        elif what == CONVERTED:
            gain = np.float32(1.0)
        gain *= np.float32(np.exp(age * (-LN2 / INTEREST_DAYS)))
        if gain > 0:
            total += gain
            interest[codes[row, 0]] += gain
            tops[codes[row, 1]] += gain
            kinds[codes[row, 2]] += gain
        j = places[row]
        if j >= 0:
            out[b + 4, j] += gain
            out[since + 3, j] = min(out[since + 3, j], np.float32(age))
    displays = clicks = 0
    for e in range(0, len(met), MET_WORDS):
        what = np.int64((met[e + 3] >> np.uint64(40)) & np.uint64(0xFF))
        if what > CONVERTED:
            continue
        displays += what == DISPLAYED
        clicks += what == CLICKED
        row = row_of(met[e], keys, buckets)
        if row < 0:
            continue
        age = max(now - np.float64(met[e + 1] >> np.uint64(32)), 0.0) / DAY
        category, j = codes[row, 0], places[row]
        if what == DISPLAYED:
            shown[category] += np.float32(np.exp(age * (-LN2 / TIRED_DAYS)))
            if j >= 0:
                out[b + 5, j] += age < 1.0
                out[b + 6, j] += age < 7.0
                out[b + 7, j] += age < 30.0
                out[b + 8, j] += np.float32(np.exp(age * (-LN2 / TIRED_DAYS)))
                out[since, j] = min(out[since, j], np.float32(age))
        elif what == CLICKED:
            sated[category] += np.float32(np.exp(age * (-LN2 / SATED_DAYS)))
            if j >= 0:
                out[b + 8, j] = 0.0
                out[since + 1, j] = min(out[since + 1, j], np.float32(age))
        elif what == DISMISSED and j >= 0:
            out[since + 2, j] = min(out[since + 2, j], np.float32(age))
    many_shown = np.float32(np.log1p(displays))
    rate = np.float32(np.log((clicks + FIRST_RATE * FIRST_WEIGHT) / (displays + FIRST_WEIGHT)))
    many, rest = 0, np.float32(1 / (total + 1))
    for c in range(ties.shape[1]):
        if interest[c] > 0:
            part[many], which[many] = interest[c] * rest, c
            many += 1
    for j in range(n):
        out[b, j] = rest
    for c in range(many):
        share, tie = part[c], which[c]
        for j in range(n):
            out[b, j] += share * ties[rows[j], tie]
    clock = int(constants[0]) + (24 if constants[1] >= 5 else 0)
    day = HOURS - 1 + int(constants[2])
    for j in range(n):
        row = rows[j]
        places[row] = -1
        out[fixed - 2, j], out[fixed - 1, j] = many_shown, rate
        category, top, kind = codes[row, 0], codes[row, 1], codes[row, 2]
        out[b, j] = np.log(out[b, j])
        out[b + 1, j] = interest[category] / total
        out[b + 2, j] = tops[top] / total
        out[b + 3, j] = kinds[kind] / total
        end = since + 4
        out[end, j] = sated[category]
        out[end + 1, j] = shown[category]
        out[end + 2, j] = hours[top, clock] + hours[top, day]
        out[end + 3, j] = constants[3] - facts[row, 1] if constants[3] >= 0 else UNKNOWN


@loops
def trees(
    matrix: NDArray[np.float32],
    feature: NDArray[np.int32],
    threshold: NDArray[np.float32],
    mask: NDArray[np.uint16],
    starts: NDArray[np.int32],
    leaves: NDArray[np.float32],
    reached: NDArray[np.uint16],
    shared: int,
    out: NDArray[np.float32],
) -> None:
    """Adds the leaves that each column of `matrix` (features, n) reaches to `out` (n,).

    After QuickScorer (Lucchese et al. 2015): of a tree of at most 16 leaves, numbered from the left, a node
    whose test `x <= threshold` fails takes those of its left subtree out (`mask`), and the lowest that stays
    is reached. Node by node over all columns, so that the processor does many at once. `starts` (T + 1,) of
    each tree's nodes, `leaves` (T, 16), `reached` (n,) to work in. The first `shared` features are the same
    in all columns: their tests are made once.
    """
    n = len(out)
    if n == 0:
        return
    for t in range(len(starts) - 1):
        left_over = np.uint16(0xFFFF)
        for node in range(starts[t], starts[t + 1]):
            if feature[node] < shared and not matrix[feature[node], 0] <= threshold[node]:
                left_over &= mask[node]
        for j in range(n):
            reached[j] = left_over
        for node in range(starts[t], starts[t + 1]):
            if feature[node] < shared:
                continue
            column, limit, kept = matrix[feature[node]], threshold[node], mask[node]
            for j in range(n):
                reached[j] &= np.uint16(0xFFFF) if column[j] <= limit else kept
        for j in range(n):
            left = np.uint32(reached[j])
            low = left & (~left + np.uint32(1))
            out[j] += leaves[t, _BIT[((low * np.uint32(0x09AF)) & np.uint32(0xFFFF)) >> np.uint32(12)]]


@loops
def summed(matrix: NDArray[np.float32], terms: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Adds the rows `terms` of `matrix` (features, n) to `out` (n,)."""
    for row in terms:
        for j in range(len(out)):
            out[j] += matrix[row, j]


@loops
def answered(
    matrix: NDArray[np.float32],
    rows: NDArray[np.int32],
    kinds: NDArray[np.uint8],
    place: NDArray[np.float32],
    floor: NDArray[np.float32],
    slope: NDArray[np.float32],
    level: NDArray[np.float32],
    bend: NDArray[np.float32],
    terms: NDArray[np.int64],
    feature: NDArray[np.int32],
    threshold: NDArray[np.float32],
    mask: NDArray[np.uint16],
    starts: NDArray[np.int32],
    leaves: NDArray[np.float32],
    reached: NDArray[np.uint16],
    shared: int,
    out: NDArray[np.float32],
) -> None:
    """A page's calibrated log-odds into `out` (n,): what `summed`, `trees`, `floored` and `calibrate` make of
    `matrix` (features, n), bit for bit, in one call. Tables by kind; `kinds` of all `rows`.
    """
    for j in range(len(out)):
        out[j] = place[kinds[rows[j]]]
    summed(matrix, terms, out)
    trees(matrix, feature, threshold, mask, starts, leaves, reached, shared, out)
    for j in range(len(out)):
        kind = kinds[rows[j]]
        odds = _above(out[j], floor[kind])
        out[j] = _calibrated(odds, slope[kind], level[kind], bend, kind)


@loops
def floored(out: NDArray[np.float32], floor: NDArray[np.float32]) -> None:
    """Log-odds of clicks for the item's sake to those of clicks at all, in place: p = f + (1 - f) σ."""
    for j in range(len(out)):
        out[j] = _above(out[j], floor[j])


@loops
def _above(odds: np.float32, floor: np.float32) -> np.float32:
    up = np.exp(min(max(odds, np.float32(-30)), np.float32(30)))
    return np.float32(np.log((floor + up) / (1 - floor)))


@loops
def calibrate(
    out: NDArray[np.float32],
    which: NDArray[np.int64],
    slope: NDArray[np.float32],
    level: NDArray[np.float32],
    bend: NDArray[np.float32],
) -> None:
    """Log-odds (n,) to calibrated ones, in place: a line, then what `bend` (tables, KNOTS) adds to it.

    `which` (n,) says whose line and bend, of `slope` and `level` (tables,). Between knots a bend is straight,
    beyond the outer ones it stays as it is there.
    """
    for j in range(len(out)):
        one = which[j]
        out[j] = _calibrated(out[j], slope[one], level[one], bend, one)


@loops
def _calibrated(
    raw: np.float32, slope: np.float32, level: np.float32, bend: NDArray[np.float32], one: int
) -> np.float32:
    odds = slope * raw + level
    at = (odds - np.float32(LOWEST)) * np.float32(1 / PART)
    at = min(max(at, np.float32(0.0)), np.float32(KNOTS - 1))
    knot = min(int(at), KNOTS - 2)
    right = at - np.float32(knot)
    return np.float32(odds + (1 - right) * bend[one, knot] + right * bend[one, knot + 1])


@loops
def logistic(out: NDArray[np.float32]) -> None:
    """Log-odds to probabilities, in place."""
    for j in range(len(out)):
        out[j] = 1 / (1 + np.exp(-min(max(out[j], -15.0), 15.0)))


def _bits() -> tuple[int, ...]:
    """The number of a lone bit by its de Bruijn product."""
    found = [0] * 16
    for bit in range(16):
        found[((1 << bit) * 0x09AF & 0xFFFF) >> 12] = bit
    return tuple(found)


_BIT = _bits()
