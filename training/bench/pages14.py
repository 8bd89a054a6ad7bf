"""Page problems of the generated traffic, many at a time, under given prices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import unlocked
from serving.curves import Floats
from serving.page import Batch, Offers, Options
from training.bench.traffic14 import TABLE, Market

F4 = NDArray[np.float32]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
U1 = NDArray[np.uint8]
U8 = NDArray[np.uint64]


class Drawn(NamedTuple):
    """A batch and what the bench needs to book its placements."""

    batch: Batch
    p: F4  # (candidates,) P(click | displayed) in this page's context
    item: I4  # (candidates,)


def drawn(
    market: Market,
    customers: I4,
    salts: I8,
    display: Floats,
    click: Floats,
    closed: NDArray[np.bool_],
    used: U1,
    cap: I4,
) -> Drawn:
    """Of the views: prices per display and click (C,), or (views, C) where each page has its own.

    `closed` likewise; `used` (customers, capped campaigns) counts today; `cap` (C, 2): its column, the most.
    """
    sizes = market.at[customers + 1] - market.at[customers]
    offers = market.offer_at[customers + 1] - market.offer_at[customers]
    at = np.zeros(len(customers) + 1, np.int64)
    np.cumsum(sizes, out=at[1:])
    many, most = int(at[-1]), int(offers.sum())
    p, value = np.empty(many, np.float32), np.empty(many, np.float32)
    item, members, kind = np.empty(many, np.int32), np.empty(many, np.uint64), np.empty(many, np.uint8)
    to, campaign = np.empty(most, np.int32), np.empty(most, np.int32)
    slots, priced, base = np.empty(most, np.uint64), np.empty(most, np.float32), np.empty(most, np.float32)
    offer_at = np.zeros(len(customers) + 1, np.int64)
    _fill(
        customers, salts, market.at, market.candidate, market.p, market.offer_at, market.offer_candidate,
        market.offer_campaign, market.context, market.gain, market.members, market.kind,
        market.campaigns.slots, np.atleast_2d(display), np.atleast_2d(click), np.atleast_2d(closed),
        used, cap, p, value, item, members, kind, to, campaign, slots, priced, base, offer_at,
    )  # fmt: skip
    m = int(offer_at[-1])
    none = np.full((m, 6), -1, np.int32)
    flags, unpinned = np.zeros(m, np.uint8), np.full(m, -1, np.int32)
    options = Options(
        members, np.ones(many, np.uint32), value, np.zeros(many, np.int32), kind,
        np.full((many, 2), -1, np.int32), np.zeros(many, np.uint8),
    )  # fmt: skip
    offering = Offers(
        to[:m],
        campaign[:m],
        slots[:m],
        priced[:m],
        base[:m],
        np.ones(m, np.uint8),
        unpinned,
        unpinned,
        none,
        flags,
    )
    nothing = np.zeros(len(customers) + 1, np.int64)
    batch = Batch(
        market.slots, options, at, offering, offer_at, np.zeros(0, np.int32), nothing,
        np.zeros((0, 3), np.int32), nothing,
    )  # fmt: skip
    return Drawn(batch, p, item)


@unlocked
def _fill(
    customers: I4, salts: I8, starts: I8, candidates: I4, probability: F4, offer_starts: I8, offer_to: I4,
    offer_of: I4, context: F4, gain: F4, member: U8, kinds: U1, campaign_slots: U8, display: Floats,
    click: Floats, closed: NDArray[np.bool_], used: U1, cap: I4, p: F4, value: F4, item: I4, members: U8,
    kind: U1, to: I4, campaign: I4, slots: U8, priced: F4, base: F4, offer_at: I8,
) -> None:  # fmt: skip
    own, own_closed = display.shape[0] > 1, closed.shape[0] > 1
    at, m = 0, 0
    for b in range(len(customers)):
        who = customers[b]
        row, shut = (b if own else 0), (b if own_closed else 0)
        first = at
        for j in range(starts[who], starts[who + 1]):
            i = candidates[j]
            mix = (salts[b] + np.int64(i) * np.int64(2654435761)) & np.int64(0x7FFFFFFFFFFF)
            factor = context[(mix ^ (mix >> 13)) % TABLE]
            p[at] = min(probability[j] * factor, np.float32(0.9))
            value[at] = p[at] * gain[i]
            item[at] = i
            members[at] = member[i]
            kind[at] = kinds[i]
            at += 1
        for j in range(offer_starts[who], offer_starts[who + 1]):
            c = offer_of[j]
            if closed[shut, c] or (cap[c, 1] > 0 and used[who, cap[c, 0]] >= cap[c, 1]):
                continue
            k = first + offer_to[j]
            to[m] = offer_to[j]
            campaign[m] = c
            slots[m] = campaign_slots[c]
            base[m] = value[k]
            priced[m] = np.float32(value[k] + display[row, c] + p[k] * click[row, c])
            m += 1
        offer_at[b + 1] = m
