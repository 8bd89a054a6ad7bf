"""The lotteries of a page in plain Python: what `serving.exploring_kernel.hold` has to give."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from serving.exploring_kernel import ASK, LEAST, NOTHING, SHOWN
from serving.live import LOTTERY_ITEM
from serving.seats import BASE, CAMPAIGN, CAPPED, RESERVES, ROW, RULED, VALUE
from serving.splitting import part_of

N, S = 50, 3  # candidates, slots


class Held(NamedTuple):
    """By place: runners-up, chance of each, which was drawn, the chance of what stands there; and what stands
    at the drawn places: place, row, origin, creative, score, value, tag."""

    runners: list[list[int]]
    chances: list[float]
    turns: list[int]
    propensity: list[float]
    drawn: list[tuple[float, ...]]


def random_page(rng: np.random.Generator, rows: int = 80, places: int = 9) -> dict[str, Any]:
    """The arguments of `hold` up to its scratch and output, by name and in order."""
    found = np.sort(rng.choice(rows, N, replace=False)).astype(np.int32)
    value = np.round(rng.uniform(-0.2, 2, N), 1).astype(np.float32)
    most = np.where(rng.random(N) < 0.2, rng.uniform(0, 4, N), value)  # what campaigns make of some
    slots = np.zeros((S, SHOWN + places))
    slots[:, :4] = [[at, rng.choice([0.0, 0.3]), rng.choice([0.05, 1.0]), at] for at in range(S)]
    slots[0, 1], slots[:, 4] = 0.4, rng.random(S) < 0.4
    slots[:, SHOWN:] = rng.random((S, places))
    items = np.zeros(rows, LOTTERY_ITEM)
    items["kind"], items["members"] = rng.integers(1, 3, rows), rng.integers(0, 8, rows)
    items["picks"][:, :S] = np.where(rng.random((rows, S)) < 0.1, NOTHING, -1)
    whole, parts = np.zeros((5, places + 2), np.int64), rng.uniform(0.5, 2, (3, places + 2))
    on_page = rng.choice(rows, places, replace=False)  # some of them from behind: no candidates
    met = np.isin(on_page, found)
    whole[ROW, :places] = on_page
    whole[CAMPAIGN, :places] = np.where(rng.random(places) < 0.1, 1, -1)
    whole[CAPPED, :places] = np.where(rng.random(places) < 0.3, RESERVES, 0)
    whole[CAPPED, :places] |= np.where(rng.random(places) < 0.1, RULED, 0)
    return {
        "rows": found,
        "value": value,
        "capped": (rng.random(N) < 0.1).astype(np.uint8),
        "room": np.where(rng.random((N, 2)) < 0.1, 1, -1).astype(np.int32),
        "score": rng.random(N).astype(np.float32),
        "origin": rng.integers(1, 2**31, N).astype(np.uint32),
        "items": items,
        "slot_of": np.sort(rng.integers(0, S, places)).astype(np.int32),
        "candidate": np.where(met, found.searchsorted(on_page), -1).astype(np.int32),
        "whole": whole,
        "parts": parts,
        "ranked": np.argsort(-np.maximum(value, most), kind="stable").astype(np.int32),
        "spares": rng.choice(rows, 3).astype(np.int32),
        "slots": slots,
        "banned": (rng.random((S, N)) < 0.1) if rng.random() < 0.7 else np.empty((0, 0), np.bool_),
        "bits": int(rng.integers(-(2**63), 2**63)),
        "salts": rng.integers(0, 2**63, places).astype(np.uint64),
    }


def plain_hold(**given: Any) -> Held:
    """Place by place."""
    rows, value, whole, parts = given["rows"].tolist(), given["value"], given["whole"], given["parts"]
    slot_of, items = given["slot_of"].tolist(), given["items"]
    taken = {*whole[ROW, : len(slot_of)].tolist(), *given["spares"].tolist()}
    free = [
        at
        for at, row in enumerate(rows)
        if value[at] > 0 and not given["capped"][at] and (given["room"][at] < 0).all() and row not in taken
    ]
    held = Held([], [], [], [], [])
    for place, slot in enumerate(slot_of):
        bit, explore, budget, layout, reserved, *shown = given["slots"][slot].tolist()
        behind, own = int(whole[CAPPED, place]), float(parts[VALUE, place])
        pair: list[int] = []
        bound = behind & RULED or (behind & RESERVES and not reserved)
        if explore > 0 and whole[CAMPAIGN, place] < 0 and not bound:
            fits = [
                at
                for at in free
                if items["kind"][rows[at]] == items["kind"][whole[ROW, place]]
                and int(items["members"][rows[at]]) >> int(bit) & 1
                and not (len(given["banned"]) and given["banned"][slot, at])
                and items["picks"][rows[at], int(layout)] not in (NOTHING, ASK)
            ]
            pair = sorted(fits, key=lambda at: (-value[at], at))[:2]
            free = [at for at in free if at not in pair]
        part = explore
        if pair:
            loss = own - float(value[pair].sum(dtype=np.float32)) / len(pair)
            part = min(part, max(0.0, budget * own / loss)) if loss > 0 and budget < 1 else part
        each = part / len(pair) if pair else 0.0
        if each < LEAST:
            pair, each = [], 0.0
        left = part_of(given["bits"] % 2**64, int(given["salts"][place])) - (1 - each * len(pair))
        turn = 0 if left < 0 or not pair else 1 if left < each or len(pair) == 1 else 2
        held.runners.append([*pair, *[-1] * (2 - len(pair))])
        held.chances.append(each)
        held.turns.append(turn)
        held.propensity.append(each if turn else 1 - each * len(pair))
        if turn:
            now = pair[turn - 1]
            tag = (parts[BASE, place] - float(value[now])) * shown[place - slot_of.index(slot)]
            picked = int(items["picks"][rows[now], int(layout)])
            told = (float(given["score"][now]), float(value[now]), float(tag))
            held.drawn.append((place, rows[now], int(given["origin"][now]), picked, *told))
    return held
