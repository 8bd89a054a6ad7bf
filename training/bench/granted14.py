"""Placements of a minute's pages, and the pages without what the ledger refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.page import Pages
from training.bench.counted14 import Placed
from training.bench.pages14 import Drawn
from training.bench.traffic14 import Market

Ints = NDArray[np.int64]


def placed_of(market: Market, views: Ints, minute: int, one: Drawn, pages: Pages) -> tuple[Placed, Ints]:
    """The campaigns' placements, page by page, and where they lie among the pages' places."""
    page = np.repeat(np.arange(len(views)), np.diff(pages.at))
    tagged = np.flatnonzero(pages.offer >= 0)
    of = page[tagged]
    candidate = one.batch.option_at[of] + pages.candidate[tagged]
    campaign = one.batch.offers.campaign[one.batch.offer_at[of] + pages.offer[tagged]]
    placed = Placed(
        views[of],
        campaign.astype(np.int64),
        market.views.customer[views[of]].astype(np.int64),
        one.item[candidate].astype(np.int64),
        one.p[candidate].astype(np.float64),
        minute,
    )
    return placed, tagged


def without(one: Drawn, pages: Pages, refused: Ints) -> Pages:
    """The pages with a stand-in for each of these places: the most valuable item that nobody counts.

    Where a slot has none left, the place stays and is worth nothing.
    """
    if not len(refused):
        return pages
    page = np.searchsorted(pages.at, refused, side="right") - 1
    candidate, offer, base = pages.candidate.copy(), pages.offer.copy(), pages.base.copy()
    for place, of in zip(refused.tolist(), page.tolist(), strict=True):
        first, last = one.batch.option_at[of : of + 2]
        fits = (one.batch.options.members[first:last] & one.batch.slots.bit[pages.slot[place]]) != 0
        fits[candidate[pages.at[of] : pages.at[of + 1]]] = False
        worth = np.where(fits, one.batch.options.value[first:last], -1.0)
        best = int(worth.argmax())
        offer[place] = -1
        base[place] = max(float(worth[best]), 0.0)
        if worth[best] >= 0:
            candidate[place] = best
    return pages._replace(candidate=candidate, offer=offer, base=base)
