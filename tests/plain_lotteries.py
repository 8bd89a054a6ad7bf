"""The lotteries of a page in plain Python: what `serving.exploring_kernel.hold` has to give."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from serving.exploring_kernel import ASK, HOPE, LEAST, NOTHING, SHOWN
from serving.live import LOTTERY_ITEM
from serving.page_state import I_CAPPED, I_KIND, I_MEMBERS, I_ROOM, O_CANDIDATE
from serving.seats import BASE, CAMPAIGN, CAPPED, RESERVES, ROW, RULED, VALUE
from serving.splitting import part_of

N, S = 50, 3  # candidates, slots


class Held(NamedTuple):
    """By place: runners-up, chances of the first and the second, which was drawn, the chance of what stands
    there; and what stands at the drawn places: place, row, origin, creative, score, value, tag."""

    runners: list[list[int]]
    chances: list[float]
    others: list[float]
    turns: list[int]
    propensity: list[float]
    drawn: list[tuple[float, ...]]


def random_page(rng: np.random.Generator, rows: int = 80, places: int = 9) -> dict[str, Any]:
    """The arguments of `hold` up to its scratch and output, by name and in order."""
    found = np.sort(rng.choice(rows, N, replace=False)).astype(np.int32)
    value = np.round(rng.uniform(-0.2, 2, N), 1).astype(np.float32)
    most = np.where(rng.random(N) < 0.2, rng.uniform(0, 4, N), value)  # what campaigns make of some
    slots = np.zeros((S, SHOWN + places))
    for at in range(S):
        news = rng.choice([0.0, 0.0, 0.5])
        slots[at, :SHOWN] = at, rng.choice([0.0, 0.3]), news, rng.choice([0.05, 1.0]), at, rng.random() < 0.4
    slots[0, 1] = 0.4
    slots[:, SHOWN:] = rng.random((S, places))
    items = np.zeros(rows, LOTTERY_ITEM)
    items["kind"], items["members"] = rng.integers(1, 3, rows), rng.integers(0, 8, rows)
    items["unsure"] = np.where(rng.random(rows) < 0.5, rng.uniform(0.1, 0.5, rows), 0)
    items["picks"][:, :S] = np.where(rng.random((rows, S)) < 0.1, NOTHING, -1)
    options = np.zeros((N, I_CAPPED + 1), np.int64)
    options[:, I_CAPPED], options[:, I_KIND] = rng.random(N) < 0.1, items["kind"][found]
    options[:, I_MEMBERS] = rng.random(N) < 0.95  # 0: only what the customer is held out from proposed it
    options[:, I_ROOM : I_ROOM + 2] = np.where(rng.random((N, 2)) < 0.1, 1, -1)
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
        "options": options,
        "score": rng.random(N).astype(np.float32),
        "origin": rng.integers(1, 2**31, N).astype(np.uint32),
        "items": items,
        "slot_of": np.sort(rng.integers(0, S, places)).astype(np.int32),
        "candidate": np.where(met, found.searchsorted(on_page), -1).astype(np.int32),
        "whole": whole,
        "parts": parts,
        "ranked": np.argsort(-np.maximum(value, most), kind="stable").astype(np.int32),
        "spares": rng.choice(rows, 3).astype(np.int32),
        "offered": offered_of(value, most),
        "slots": slots,
        "banned": (rng.random((S, N)) < 0.1) if rng.random() < 0.7 else np.empty((0, 0), np.bool_),
        "bits": int(rng.integers(-(2**63), 2**63)),
        "salts": rng.integers(0, 2**63, places).astype(np.uint64),
    }


def offered_of(value: np.ndarray, most: np.ndarray) -> np.ndarray:
    """The market's offers: of what campaigns make worth more than its value."""
    offered = np.zeros((int((most > value).sum()), O_CANDIDATE + 1), np.int64)
    offered[:, O_CANDIDATE] = np.flatnonzero(most > value)
    return offered


def plain_hold(**given: Any) -> Held:
    """Place by place."""
    rows, value, whole, parts = given["rows"].tolist(), given["value"], given["whole"], given["parts"]
    slot_of, items, options = given["slot_of"].tolist(), given["items"], given["options"]
    taken = {*whole[ROW, : len(slot_of)].tolist(), *given["spares"].tolist()}
    free = [
        at
        for at, row in enumerate(rows)
        if value[at] > 0
        and not options[at, I_CAPPED]
        and options[at, I_MEMBERS]
        and (options[at, I_ROOM : I_ROOM + 2] < 0).all()
        and row not in taken
    ]
    held = Held([], [], [], [], [], [])
    for place, slot in enumerate(slot_of):
        bit, explore, new, budget, layout, reserved, *shown = given["slots"][slot].tolist()
        behind, own = int(whole[CAPPED, place]), float(parts[VALUE, place])
        pair: list[int] = []
        bound = behind & RULED or (behind & RESERVES and not reserved)
        if (explore > 0 or new > 0) and whole[CAMPAIGN, place] < 0 and not bound:
            fits = [
                at
                for at in free
                if items["kind"][rows[at]] == items["kind"][whole[ROW, place]]
                and int(items["members"][rows[at]]) >> int(bit) & 1
                and not (len(given["banned"]) and given["banned"][slot, at])
                and items["picks"][rows[at], int(layout)] not in (NOTHING, ASK)
            ]
            fits = sorted(fits, key=lambda at: (-value[at], at))
            if new > 0 and len(fits) > 2:  # the second: what may be best after all
                hope = [float(value[at]) * (1 + HOPE * float(items["unsure"][rows[at]])) for at in fits]
                fits[1] = fits[max(range(1, len(fits)), key=lambda which: hope[which])]
            pair = fits[:2]
        part = explore
        if pair:
            loss = own - float(value[pair].sum(dtype=np.float32)) / len(pair)
            part = min(part, max(0.0, budget * own / loss)) if loss > 0 and budget < 1 else part
        chances = [part / max(len(pair), 1)] * len(pair)
        if new > 0 and pair:
            doubt = [float(items["unsure"][row]) for row in (whole[ROW, place], *(rows[at] for at in pair))]
            worth = [float(value[at]) for at in pair]
            chances = _thompson(own, doubt, worth, chances[0], new / len(pair), budget)
            pair = [at for at, chance in zip(pair, chances, strict=True) if chance >= LEAST]
        chances = [chance for chance in chances if chance >= LEAST]
        pair = pair[: len(chances)]
        free = [at for at in free if at not in pair]
        each, other = (*chances, 0.0, 0.0)[:2]
        every = each * len(pair) if each == other else sum(chances)
        left = part_of(given["bits"] % 2**64, int(given["salts"][place])) - (1 - every)
        turn = 0 if left < 0 or not pair else 1 if left < each or len(pair) == 1 else 2
        held.runners.append([*pair, *[-1] * (2 - len(pair))])
        held.chances.append(each)
        held.others.append(other)
        held.turns.append(turn)
        held.propensity.append((1 - every, each, other)[turn])
        if turn:
            now = pair[turn - 1]
            tag = (parts[BASE, place] - float(value[now])) * shown[place - slot_of.index(slot)]
            picked = int(items["picks"][rows[now], int(layout)])
            told = (float(given["score"][now]), float(value[now]), float(tag))
            held.drawn.append((place, rows[now], int(given["origin"][now]), picked, *told))
    return held


def _thompson(
    own: float, doubt: list[float], worth: list[float], least: float, most: float, budget: float
) -> list[float]:
    """As often as a draw from two normal posteriors would put the runner-up first."""
    chances = []
    for value, unsure in zip(worth, doubt[1:], strict=True):
        spread = math.hypot(own * doubt[0], value * unsure)
        better = NormalDist().cdf((value - own) / spread) if spread else 0.0
        chances.append(max(least, min(better, most)))
    loss = sum(chance * (own - value) for chance, value in zip(chances, worth, strict=True))
    less = max(0.0, budget * own / loss) if budget < 1 and loss > budget * own else 1.0
    return [chance * less for chance in chances]
