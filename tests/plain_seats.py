"""What places are made of, one by one from the solution's columns: the twin of serving.page_seating."""

from __future__ import annotations

from typing import Any

import numpy as np

from features.reservations import RESERVED
from serving.domain import PINNED
from serving.page import RULE, Problem, Slots, Solution, solve
from serving.page_seating import ASK, NOTHING

BY_RULE = (RULE["pin"], RULE["mandatory"])


def plain_laid(
    problem: Problem, layouts: list[int], capped: list[bool], least: list[int], reserved: list[list[int]],
    shown: Any, tags: bool, table: Any, rows: Any, score: Any, reasons: list[tuple[int, int]], picks: Any,
    naming: Any, keys: Any, campaign_keys: Any, cvr: Any,
) -> tuple[Solution, list[list[Any]], list[list[float]], bool, int, int]:  # fmt: skip
    """The solution; whole numbers and parts of each place; and the rest as `serving.page_seating.laid`."""
    solution, options, offers = solve(problem, tags=tags), problem.options, problem.offers
    whole, parts = [], []
    for s, k, i, o, tag, rule, by in zip(
        *(column.tolist() for column in solution[:4]), solution.tag.tolist(), solution.rule.tolist(),
        solution.by.tolist(), strict=True,
    ):  # fmt: skip
        row, chance, seen = int(rows[i]), float(score[i]), float(shown[s, k])
        own, origin = bool(options.capped[i]), int(options.origin[i])
        of, named, creative, pin = -1, -1, int(picks[layouts[s], row]), -1
        value = base = float(options.value[i])
        expected = [0.0, 0.0, 0.0]
        if o >= 0:
            of, named, own = int(offers.campaign[o]), int(table[o]), own or bool(offers.capped[o])
            creative = ASK if naming[named] else creative
            value, base = float(offers.value[o]), float(offers.base[o])
            expected = [seen, seen * chance, seen * chance * float(cvr[row])]
            if rule in BY_RULE and int(offers.pin_slot[o]) == s:
                pin = int(offers.pin[o])
        flags = (RESERVED if own or capped[s] else 0) | (PINNED if pin >= 0 else 0)
        why = next(reason for bit, reason in reasons if bit == 0 or origin & bit)
        key = int(np.uint64(keys[row]).astype(np.int64))
        campaign_key = int(campaign_keys[of]) if o >= 0 else 0
        whole.append(
            [row, origin, of, named, int(own), s, k, creative, flags, rule, by, pin, why, key, campaign_key]
        )
        parts.append([chance, value, base, tag, seen, *expected])
    complete = all(one[11] in (-1, one[6]) for one in whole)
    for s in range(len(layouts)):
        mine = [one for one in whole if one[5] == s]
        complete = complete and len(mine) >= least[s]
        for turn, bit in enumerate(reserved[s]):
            if turn >= len(mine) or any(one[1] & bit for one in mine):
                continue
            last = mine[-1 - turn]
            met = any(int(origin) & bit for origin in options.origin)
            complete = complete and not (met and last[2] < 0 and not last[8] & (RESERVED | PINNED))
    unsure = sum(one[7] <= NOTHING for one in whole)
    return solution, whole, parts, complete, unsure, int((solution.spare_candidate >= 0).sum())


def barred(slots: Slots, layouts: list[int], rows: Any, picks: Any) -> list[list[bool]]:
    """By slot and candidate whether it has nothing to show there."""
    return [
        [bool(picks[layout, row] == NOTHING) for row in rows]
        for layout, _ in zip(layouts, slots.bit, strict=True)
    ]
