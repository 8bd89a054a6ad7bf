"""A plain model of rewards: an action's rate in a context's cell, shrunken to the action's own, and to all.

Fitted on other rounds than it is asked about (two folds), so that the doubly robust estimate does not know
its own noise.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
WEIGHT: Final = 50.0  # rounds that what is shrunken to counts for


def fitted(reward: Floats, action: Codes, cell: Codes, actions: int, cells: int) -> Floats:
    """(cells, actions) means."""
    overall = float(reward.mean()) if len(reward) else 0.0
    n_a = np.bincount(action, minlength=actions)
    own = (np.bincount(action, reward, actions) + WEIGHT * overall) / (n_a + WEIGHT)
    flat = cell * actions + action
    size = cells * actions
    n = np.bincount(flat, minlength=size).reshape(cells, actions)
    total = np.bincount(flat, reward, size).reshape(cells, actions)
    table: Floats = (total + WEIGHT * own) / (n + WEIGHT)
    return table


def cross_fitted(
    reward: Floats,
    action: Codes,
    cell: Codes,
    policy: Floats,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """(n,) q of what was shown, (n,) v of the target. `policy`: (cells, actions) or (n, actions) chances."""
    n, actions = len(reward), policy.shape[1]
    cells = int(cell.max()) + 1
    fold = rng.permutation(n) % 2
    q, v = np.empty(n), np.empty(n)
    for one in (0, 1):
        mine, other = fold == one, fold != one
        table = fitted(reward[other], action[other], cell[other], actions, cells)
        q[mine] = table[cell[mine], action[mine]]
        chances = policy[mine] if len(policy) == n else policy[cell[mine]]
        v[mine] = (chances * table[cell[mine]]).sum(axis=1)
    return q, v
