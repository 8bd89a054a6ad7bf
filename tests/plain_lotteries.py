"""The lotteries of a page in plain Python: what `serving.exploring_kernel.hold` has to give."""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.exploring_kernel import ASK, LEAST, NOTHING
from serving.splitting import part_of


def random_page(rng: np.random.Generator, rows: int = 80, places: int = 9) -> dict[str, Any]:
    """The arguments of `hold` up to its outputs, by name and in order."""
    found = np.sort(rng.choice(rows, 50, replace=False)).astype(np.int32)
    slots = np.array([[at, rng.choice([0.0, 0.3]), rng.choice([0.05, 1.0]), at] for at in range(3)])
    slots[0, 1], kinds = 0.4, rng.integers(1, 3, rows).astype(np.uint8)
    page = np.zeros((places, 6))
    page[:, 0], page[:, 1] = np.sort(rng.integers(0, 3, places)), rng.choice(found, places, replace=False)
    page[:, 2], page[:, 3] = rng.uniform(0.5, 2, places), np.where(rng.random(places) < 0.1, 1, -1)
    page[:, 4] = rng.random(places) < 0.3
    page[:, 5] = np.where(page[:, 4] > 0, 16, 0)
    return {
        "rows": found,
        "value": np.round(rng.uniform(-0.2, 2, 50), 1).astype(np.float32),
        "capped": (rng.random(50) < 0.1).astype(np.uint8),
        "room": np.where(rng.random((50, 2)) < 0.1, 1, -1).astype(np.int32),
        "kinds": kinds,
        "members": rng.integers(0, 8, rows).astype(np.uint64),
        "picks": np.where(rng.random((3, rows)) < 0.1, NOTHING, -1).astype(np.int16),
        "places": page,
        "spares": rng.choice(rows, 3).astype(np.int32),
        "slots": slots,
        "reserved": rng.random(3) < 0.4,
        "banned": rng.random((3, 50)) < 0.1,
        "bits": np.uint64(rng.integers(0, 2**63)),
        "salts": rng.integers(0, 2**63, places).astype(np.uint64),
    }


def plain_hold(**given: Any) -> tuple[list[list[int]], list[float], list[int]]:
    """Runners-up, chance of each and what was drawn, place by place."""
    rows, value = given["rows"].tolist(), given["value"].tolist()
    taken = {*given["places"][:, 1].astype(int).tolist(), *given["spares"].tolist()}
    free = [
        at
        for at, row in enumerate(rows)
        if value[at] > 0 and not given["capped"][at] and (given["room"][at] < 0).all() and row not in taken
    ]
    runners, chances, drawn = [], [], []
    for place, (number, row, worth, campaign, capped, flags) in enumerate(given["places"].tolist()):
        slot = int(number)
        bit, explore, budget, layout = given["slots"][slot].tolist()
        reserved = bool(given["reserved"][slot])
        flags = int(flags) & ~16 if reserved else int(flags)
        pair: list[int] = []
        if explore > 0 and campaign < 0 and not flags and (not capped or reserved):
            fits = [
                at
                for at in free
                if given["kinds"][rows[at]] == given["kinds"][int(row)]
                and int(given["members"][rows[at]]) >> int(bit) & 1
                and not given["banned"][slot, at]
                and given["picks"][int(layout), rows[at]] not in (NOTHING, ASK)
            ]
            pair = sorted(fits, key=lambda at: (-value[at], at))[:2]
            free = [at for at in free if at not in pair]
        part = explore
        if pair:
            loss = worth - sum(value[at] for at in pair) / len(pair)
            part = min(part, max(0.0, budget * worth / loss)) if loss > 0 and budget < 1 else part
        each = part / len(pair) if pair else 0.0
        if each < LEAST:
            pair, each = [], 0.0
        left = part_of(int(given["bits"]), int(given["salts"][place])) - (1 - each * len(pair))
        drawn.append(0 if left < 0 or not pair else 1 if left < each or len(pair) == 1 else 2)
        runners.append([*pair, *[-1] * (2 - len(pair))])
        chances.append(each)
    return runners, chances, drawn
