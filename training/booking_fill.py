"""The loops of `training.booking_pages`: which campaigns run on a page, and its candidates and offers.

Plain arrays in and out, in fixed order; each is tested against its interpreted self.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import unlocked
from serving.page import RULE
from serving.splitting_kernel import part

F8 = NDArray[np.float64]
F4 = NDArray[np.float32]
I8 = NDArray[np.int64]
I4 = NDArray[np.int32]
U8 = NDArray[np.uint64]
U1 = NDArray[np.uint8]
B1 = NDArray[np.bool_]
_CAP: Final = RULE["cap"]
_EXCLUSION: Final = RULE["exclusion"]


class Runs(NamedTuple):
    """Which campaigns run on which pages, in parts; see `training.booking_pages`."""

    hour: I4  # (n,) row of `opened`
    opened: B1  # (hours, C)
    place: I4  # (n,) row of `here`
    here: B1  # (places, C)
    audience: I4  # (C,) row of `member`; -1 everybody
    member: B1  # (audiences, n)
    earlier: I4  # (n, RANKS)
    limits: F8  # (C, RANKS)
    unit: U8  # (n,) keys, 0: held out from nothing
    salts: U8  # (C,) by serving.ghosts
    shares: F8  # (C,) of customers who are held out


class Columns(NamedTuple):
    """Of the catalogue's rows."""

    gain: F4  # CNY per click
    loss: F4  # CNY per display
    category: I4  # dense, 0 none
    group: I4  # an exclusion group that names the item; -1


class Filled(NamedTuple):
    """Candidates and offers of some pages one after another; see `serving.page.Batch`."""

    option_at: I8
    row: I4
    members: U8
    value: F4
    category: I4
    option_room: I4
    offer_at: I8
    candidate: I4
    offer: I4  # in the offer table
    p: F4
    room: I4
    left_at: I8
    left: I4
    limits: U1


def filled(
    pages: I8, running: Runs, starts: I8, column: I4, permitted: U1, p: F4, spare_ok: B1,
    spare_p: F4, offer_row: I4, offer_slots: U8, bits: np.uint64, units: bool, option_at: I8, option: I4,
    option_p: F4, row_of: I4, members: U8, catalogue: Columns, most: I4, group_of: I4, group_most: I4,
) -> Filled:  # fmt: skip
    """`starts` (C + 1,) offers of a campaign; `column` (O,) in the sample, or -1 - place among the spares."""
    count = np.zeros((len(pages), 2), np.int64)
    _bounded(pages, *running, starts, count)
    offers, campaigns = count[:, 0], count[:, 1]
    options = (option_at[pages + 1] - option_at[pages]) * (not units) + offers
    groups = len(group_most)
    n, m, rooms = int(options.sum()), int(offers.sum()), int(campaigns.sum()) + groups * len(pages)
    out = Filled(
        np.zeros(len(pages) + 1, np.int64), np.empty(n, np.int32), np.empty(n, np.uint64),
        np.empty(n, np.float32), np.empty(n, np.int32), np.full((n, 2), -1, np.int32),
        np.zeros(len(pages) + 1, np.int64), np.empty(m, np.int32), np.empty(m, np.int32),
        np.empty(m, np.float32), np.full((m, 6), -1, np.int32), np.zeros(len(pages) + 1, np.int64),
        np.empty(rooms, np.int32), np.full(rooms, _CAP, np.uint8),
    )  # fmt: skip
    _filled(
        pages, *running, starts, column, permitted, p, spare_ok, spare_p, offer_row, offer_slots, bits, units,
        option_at, option, option_p, row_of, members, catalogue.gain, catalogue.loss, catalogue.category,
        catalogue.group, most, group_of, group_most, out.option_at, out.row, out.members,
        out.value, out.category, out.option_room, out.offer_at, out.candidate, out.offer, out.p, out.room,
        out.left_at, out.left, out.limits,
    )  # fmt: skip
    n, m, rooms = int(out.option_at[-1]), int(out.offer_at[-1]), int(out.left_at[-1])
    return out._replace(
        row=out.row[:n], members=out.members[:n], value=out.value[:n], category=out.category[:n],
        option_room=out.option_room[:n], candidate=out.candidate[:m], offer=out.offer[:m], p=out.p[:m],
        room=out.room[:m], left=out.left[:rooms], limits=out.limits[:rooms],
    )  # fmt: skip


def counted(
    pages: I8,
    running: Runs,
    starts: I8,
    column: I4,
    permitted: U1,
    spare_ok: B1,
    weight: F8,
    out: F8,
) -> None:
    """Fills `out` (3, C): weighted pages where a campaign runs, is capped, has no permitted item."""
    _counted(pages, *running, starts, column, permitted, spare_ok, weight, out)


@unlocked
def _runs(
    j: int,
    c: int,
    hour: I4,
    opened: B1,
    place: I4,
    here: B1,
    audience: I4,
    member: B1,
    earlier: I4,
    limits: F8,
    unit: U8,
    salts: U8,
    shares: F8,
) -> int:
    """0 no, 1 yes, 2 yes but for its caps. For who is held out it does not run."""
    if not opened[hour[j], c] or not here[place[j], c]:
        return 0
    if audience[c] >= 0 and not member[audience[c], j]:
        return 0
    if unit[j] and part(unit[j] ^ salts[c]) < shares[c]:
        return 0
    for w in range(limits.shape[1]):
        if earlier[j, w] >= limits[c, w]:
            return 2
    return 1


@unlocked
def _may(j: int, at: int, permitted: U1, spare_ok: B1) -> bool:
    if at < 0:
        return bool(spare_ok[-1 - at])
    return bool((permitted[j, at >> 3] >> (at & 7)) & 1)


@unlocked
def _bounded(
    pages: I8, hour: I4, opened: B1, place: I4, here: B1, audience: I4, member: B1, earlier: I4, limits: F8,
    unit: U8, salts: U8, shares: F8, starts: I8, out: I8,
) -> None:  # fmt: skip
    for b in range(len(pages)):
        for c in range(len(starts) - 1):
            j = pages[b]
            runs = _runs(
                j, c, hour, opened, place, here, audience, member, earlier, limits, unit, salts, shares
            )
            if runs == 1:
                out[b, 0] += starts[c + 1] - starts[c]
                out[b, 1] += 1


@unlocked
def _counted(
    pages: I8, hour: I4, opened: B1, place: I4, here: B1, audience: I4, member: B1, earlier: I4, limits: F8,
    unit: U8, salts: U8, shares: F8, starts: I8, column: I4, permitted: U1, spare_ok: B1, weight: F8, out: F8,
) -> None:  # fmt: skip
    for b in range(len(pages)):
        j = pages[b]
        for c in range(len(starts) - 1):
            runs = _runs(
                j, c, hour, opened, place, here, audience, member, earlier, limits, unit, salts, shares
            )
            if runs == 0:
                continue
            out[0, c] += weight[j]
            may = False
            for o in range(starts[c], starts[c + 1]):
                may = may or _may(j, column[o], permitted, spare_ok)
            if not may:
                out[2, c] += weight[j]
            elif runs == 2:
                out[1, c] += weight[j]


@unlocked
def _filled(
    pages: I8, hour: I4, opened: B1, place: I4, here: B1, audience: I4, member: B1, earlier: I4, limits: F8,
    unit: U8, salts: U8, shares: F8, starts: I8, column: I4, permitted: U1, p: F4, spare_ok: B1,
    spare_p: F4, offer_row: I4, offer_slots: U8,
    bits: Any, units: bool, option_at: I8, option: I4, option_p: F4, row_of: I4, member_of: U8, gain: F4,
    loss: F4, category_of: I4, group_of_row: I4, most: I4, group_of: I4, group_most: I4, to_option: I8,
    row: I4, members: U8, value: F4, category: I4, option_room: I4, to_offer: I8, candidate: I4, offer: I4,
    chance: F4, room: I4, to_left: I8, left: I4, limit: U1,
) -> None:  # fmt: skip
    seen = np.full(len(member_of), -1, np.int64)  # the candidate of a row on this page, by its place overall
    widest = 0
    for r in range(len(category_of)):
        widest = max(widest, category_of[r])
    dense, met = np.zeros(widest + 1, np.int32), np.full(widest + 1, -1, np.int64)
    n, m, k, groups = 0, 0, 0, len(group_most)
    for b in range(len(pages)):
        j, first, categories = pages[b], n, 0
        group_at = k - to_left[b]  # counters count from 0 within the page
        for g in range(groups):
            left[k], limit[k] = group_most[g], _EXCLUSION
            k += 1
        first_option, last_option = (0, 0) if units else (option_at[j], option_at[j + 1])
        last = last_option - first_option
        for at in range(last):
            r = row_of[option[first_option + at]]
            if r < 0 or (member_of[r] & bits) == 0 or seen[r] >= first:
                continue
            n = _option(n, r, option_p[first_option + at], member_of[r], row, members, value, gain, loss)
            seen[r] = n - 1
        for c in range(len(starts) - 1):
            runs = _runs(
                j, c, hour, opened, place, here, audience, member, earlier, limits, unit, salts, shares
            )
            if runs != 1:
                continue
            counter = -1
            for o in range(starts[c], starts[c + 1]):
                at = column[o]
                if (offer_slots[o] & bits) == 0 or not _may(j, at, permitted, spare_ok):
                    continue
                r = offer_row[o]
                share = p[j, at] if at >= 0 else spare_p[j, -1 - at]
                if seen[r] < first:
                    organic = np.uint64(0) if units else member_of[r]
                    n = _option(n, r, share, organic, row, members, value, gain, loss)
                    seen[r] = n - 1
                if counter < 0:
                    left[k] = most[c]
                    counter = k - to_left[b]
                    k += 1
                candidate[m], offer[m], chance[m], room[m, 0] = seen[r] - first, o, share, counter
                for g in range(2):
                    if group_of[c, g] >= 0:
                        room[m, 1 + g] = group_at + group_of[c, g]
                m += 1
        for i in range(first, n):  # categories dense within the page
            own = category_of[row[i]]
            if own > 0 and met[own] != b:
                categories += 1
                met[own], dense[own] = b, categories
            category[i] = dense[own] if own > 0 else 0
            if group_of_row[row[i]] >= 0:
                option_room[i, 0] = group_at + group_of_row[row[i]]
        to_option[b + 1], to_offer[b + 1], to_left[b + 1] = n, m, k


@unlocked
def _option(
    n: int, r: int, p: float, organic: Any, row: I4, members: U8, value: F4, gain: F4, loss: F4
) -> int:
    row[n], members[n] = r, organic
    value[n] = gain[r] * p - loss[r]
    return n + 1
