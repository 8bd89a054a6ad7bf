"""The Woodbury solve of `serving.vector_model`, as loops: a customer's vector from a prior and a history."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops

F4 = NDArray[np.float32]
F8 = NDArray[np.float64]
LINE: Final = 8  # numbers in a cache line


class Room(NamedTuple):
    """Where histories of up to `h` items are folded in, one after the other: a call of the loop has it to
    itself, for it keeps Python's lock. Rows begin with a cache line, else reading takes twice as long.
    """

    x: F8  # (d,)
    used: F8  # (3, h + 1)
    both: F8  # (2, h + 1, d + 1), as the next two at least
    across: F8  # (d + 1, h + 1)
    system: F8  # (h + 1, h + 1)

    @classmethod
    def of(cls, h: int, d: int) -> Room:
        high, wide = -(-(h + 1) // LINE) * LINE, -(-(d + 1) // LINE) * LINE
        shapes = ((d,), (3, high), (2, high, wide), (wide, high), (high, high))
        return cls(*(_aligned(shape) for shape in shapes))


def _aligned(shape: tuple[int, ...]) -> F8:
    size = int(np.prod(shape))
    room = np.zeros(size + LINE)
    first = -room.ctypes.data % (8 * LINE) // 8
    return room[first : first + size].reshape(shape)


class Solved(NamedTuple):
    """A model, solved as far as it goes without a customer: A is the system without history."""

    vectors: F4  # (n, d)
    solved: F4  # vectors · A⁻¹
    usable: NDArray[np.bool_]  # (n,) items that have a vector
    mean: F8  # (d,) of the prior, τ · A⁻¹
    weights: F4  # (t, d) of its tokens, τ · A⁻¹
    alpha: float  # confidence c = 1 + alpha · evidence
    room: Room


def folded(of: Solved, rows: NDArray[np.int32], said: F4, tokens: NDArray[np.intp]) -> tuple[F4, int]:
    """(d,) the prior of the tokens (rows of `weights`) updated by a history, and how many of its items count.

    `rows` (h,), as many as there is room for, with their evidence `said`; those beyond the table, and those
    without a vector, say nothing.
    """
    found = np.empty(of.vectors.shape[1], np.float32)
    n = _folded(*of[:-1], rows, said, tokens, *of.room, found)
    return found, n


@loops
def _folded(
    vectors: F4, solved: F4, usable: NDArray[np.bool_], mean: F8, weights: F4, alpha: float,
    rows: NDArray[np.int32], said: F4, tokens: NDArray[np.intp],
    x: F8, used: F8, both: F8, across: F8, system: F8, found: F4,
) -> int:  # fmt: skip
    """How many of the rows count; `found` is written, what comes before it is scratch.

    With D = diag(extra) and G = Y A⁻¹ Yᵀ, (I + D G) z = D y is solved as (I + √D G √D) u = √D y, z = √D u:
    symmetric and positive definite, so by Cholesky. Inner loops run along rows and never sum into one number
    where they need not: so they are vectorised, and give the same bits on every run.
    """
    d, h = len(x), 0
    y, s = both
    root, u, extra = used
    for c in range(d):  # what tokens say is summed by itself first, as float32
        found[c] = 0.0
    for token in tokens:
        of = weights[token]
        for c in range(d):
            found[c] += of[c]
    for c in range(d):
        x[c] = mean[c] + np.float64(found[c])
    for j in range(len(rows)):
        row = rows[j]
        if row >= len(vectors) or not usable[row]:
            continue
        extra[h] = alpha * np.float64(said[j])
        root[h], c_of = np.sqrt(extra[h]), 1.0 + extra[h]
        one, other, own_y, own_s = vectors[row], solved[row], y[h], s[h]
        for c in range(d):
            own_y[c], own_s[c] = one[c], other[c]
        for c in range(d):
            x[c] += c_of * own_s[c]
        for c in range(d):
            across[c, h] = own_s[c]  # s, transposed
        h += 1
    root[h] = 0.0
    for c in range(d + 1):  # a row and a column of nothing: all go by twos below
        y[h, c] = 0.0
    for i in range(h + 1):
        y[i, d], across[d, i] = 0.0, 0.0
    _within(y, across, root, h, d, system)
    for i in range(h):
        told = 0.0
        for c in range(d):
            told += y[i, c] * x[c]
        u[i] = root[i] * told
        for j in range(i + 1):
            system[i, j] *= root[j]
        system[i, i] += 1.0
    _solve(system, u, h)
    for i in range(h):
        gone, own_s = root[i] * u[i], s[i]
        for c in range(d):
            x[c] -= gone * own_s[c]
    for c in range(d):
        found[c] = x[c]
    return h


@loops
def _within(y: F8, across: F8, root: F8, h: int, d: int, system: F8) -> None:
    """√D Y · across, its lower half. Two rows and two columns of Y at a time: a loop of 32 steps that does
    four times the work costs little more. Each sum is taken in the order of the columns.
    """
    for i in range(h + 1):
        for j in range(h + 1):
            system[i, j] = 0.0
    for i in range(0, h, 2):
        for c in range(0, d, 2):
            a0, a1 = root[i] * y[i, c], root[i] * y[i, c + 1]
            b0, b1 = root[i + 1] * y[i + 1, c], root[i + 1] * y[i + 1, c + 1]
            for j in range(i + 2):
                one, other = across[c, j], across[c + 1, j]
                system[i, j] = (system[i, j] + a0 * one) + a1 * other
                system[i + 1, j] = (system[i + 1, j] + b0 * one) + b1 * other


@loops
def _solve(system: F8, u: F8, h: int) -> None:
    """`u` (h,) is solved for in place, by the lower half of a positive definite system, which is overwritten.

    Cholesky by rows of the factor's transpose: its inner loops then run along rows, for two rows at a time.
    """
    for i in range(h):
        for j in range(i):
            system[j, i] = system[i, j]
    for j in range(h):
        root = np.sqrt(system[j, j])
        system[j, j] = root
        u[j] /= root
        for k in range(j + 1, h):
            system[j, k] /= root
        told = u[j]
        for i in range(j + 1, h):  # L v = u on the way
            u[i] -= system[j, i] * told
        for i in range(j + 1, h, 2):  # what lies left of a row's diagonal is not read any more
            times, more = system[j, i], system[j, i + 1]
            for k in range(i, h):
                system[i, k] -= times * system[j, k]
                system[i + 1, k] -= more * system[j, k]
    for i in range(h - 1, -1, -1):  # Lᵀ w = v
        u[i] /= system[i, i]
        told = u[i]
        for j in range(i):
            u[j] -= system[j, i] * told
