"""The loop of `serving.experiments`: which arm a unit is in, layer by layer, by three hashes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import loops
from serving.splitting_kernel import part

GLOBAL, DOMAIN = 0, 1  # places of these salts among those of the plan
# Of a layer: its salt, its domain (all units: from 0 to 2), where its holdout begins, its experiments.
L_SALT, L_FROM, L_UNTIL, L_HOLDOUT, L_BEGIN, L_END = range(6)
# Of an experiment: its range, the part of it that is enrolled, the salt of that (the arms' is the next one),
# its audience (−1 everybody), its arms, whether it divides devices.
E_FROM, E_UNTIL, E_SHARE, E_SALT, E_AUDIENCE, E_BEGIN, E_END, E_DEVICES = range(8)
BELOW, LIVE = range(2)  # of an arm: its hash is below that and not below the one before; whether it is on
NONE, HELD_OUT, ARMS = range(3)  # of what is found; from ARMS on the arm's number
# What is answered: all is found; held out from everything; first it must be known who is in the audiences.
FOUND: Final = 0
NOBODY: Final = 1
ASK: Final = 2


@loops
def assign(
    key: int,
    device: int,
    owned: bool,
    slots: int,
    holdout: float,
    forced: int,
    stands: float,
    holds: NDArray[np.bool_],
    found: NDArray[np.int64],
    salts: NDArray[np.uint64],
    layers: NDArray[np.float64],
    experiments: NDArray[np.float64],
    touched: NDArray[np.int64],
    arms: NDArray[np.float64],
) -> int:
    """Fills `found` (L,) by NONE …; what is answered is by FOUND ….

    `key`, `device`: of the unit and of its device, where it is `owned`, both 64 bits, signed; `salts` of the
    plan; `layers` (L, 6), `experiments` (E, 8) and `arms` (A, 2) by L_SALT …, E_FROM … and BELOW …; `touched`
    (E,) and `slots`: bits. `holdout`: the global one; `forced`: bits of layers that are left out; `stands`:
    where in the domains the unit is taken to be, less than 0 where its hash says. `holds` by audience; (0,):
    not known.
    """
    if holdout > 0 and part(np.uint64(key) ^ salts[GLOBAL]) < holdout:
        return NOBODY
    if stands < 0:
        stands = part(np.uint64(key) ^ salts[DOMAIN])
    for layer in range(len(layers)):
        found[layer] = NONE
        if (forced >> layer) & 1 or not layers[layer, L_FROM] <= stands < layers[layer, L_UNTIL]:
            continue
        salt = salts[int(layers[layer, L_SALT])]
        own = part(np.uint64(key) ^ salt)
        if own >= layers[layer, L_HOLDOUT]:
            found[layer] = HELD_OUT
            continue
        for one in range(int(layers[layer, L_BEGIN]), int(layers[layer, L_END])):
            by_device = experiments[one, E_DEVICES] > 0
            if not touched[one] & slots or (by_device and not owned):
                continue
            mine = np.uint64(device) if by_device else np.uint64(key)
            place = part(mine ^ salt) if by_device else own
            if not experiments[one, E_FROM] <= place < experiments[one, E_UNTIL]:
                continue
            at = int(experiments[one, E_SALT])
            if part(mine ^ salts[at]) >= experiments[one, E_SHARE]:
                continue
            audience = int(experiments[one, E_AUDIENCE])
            if audience >= 0:
                if not len(holds):
                    return ASK
                if not holds[audience]:
                    continue
            falls, arm = part(mine ^ salts[at + 1]), int(experiments[one, E_BEGIN])
            while arm + 1 < int(experiments[one, E_END]) and falls >= arms[arm, BELOW]:
                arm += 1
            if arms[arm, LIVE] > 0:
                found[layer] = ARMS + arm
            break
    return FOUND
