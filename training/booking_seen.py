"""A handful of sampled pages before and after, for people to look at."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from serving.page import Pages, solve_many
from training.booking_pages import Part
from training.booking_plan import Decided
from training.booking_priced import priced
from training.booking_programme import prices_of

Seen = tuple[float, Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]


def pages_seen(before: Decided, now: Decided, ids: Collection[str], most: int) -> list[Seen]:
    """Pages on which a changed campaign stands, else the first ones, by the product's own page."""
    wanted = [now.joined.campaigns.ids.index(one) for one in ids if one in now.joined.campaigns.ids]
    found: list[tuple[Part, Pages, int]] = []
    for part in now.few:
        pages = _solved(now, part)
        page = np.repeat(np.arange(len(part.pages)), np.diff(pages.at))
        tagged = np.flatnonzero(pages.offer >= 0)
        campaign = part.batch.offers.campaign[part.batch.offer_at[page[tagged]] + pages.offer[tagged]]
        mine = np.unique(page[tagged[np.isin(campaign, wanted)]])
        spread = mine[(np.arange(min(most, len(mine))) * len(mine)) // max(min(most, len(mine)), 1)]
        found += [(part, pages, int(b)) for b in spread]
        if len(found) >= most:
            break
    seen: list[Seen] = []
    for part, pages, b in found[:most]:
        number = int(part.pages[b])
        old = next(iter(before.joined.parts(np.array([number]))))
        seen.append(
            (
                float(now.joined.spread.at[number]),
                _names(before, old, _solved(before, old), 0),
                _names(now, part, pages, b),
            )
        )
    return seen


def _solved(one: Decided, part: Part) -> Pages:
    programme = one.terms.programme
    return solve_many(priced(part, prices_of(programme, one.dual.goals, one.dual.quotas)))


def _names(one: Decided, part: Part, pages: Pages, b: int) -> dict[str, tuple[str, ...]]:
    stocked, ids = one.joined.stocked, one.joined.campaigns.ids
    names = {spec.index: spec.name for spec in stocked.plan.slots.values()}
    found: dict[str, list[str]] = {names[index]: [] for index in part.slots}
    for at in range(int(pages.at[b]), int(pages.at[b + 1])):
        row = int(part.row[part.batch.option_at[b] + pages.candidate[at]])
        offer, text = int(pages.offer[at]), stocked.name(row)
        if offer >= 0:
            text += f" [{ids[int(part.batch.offers.campaign[part.batch.offer_at[b] + offer])]}]"
        found[names[part.slots[int(pages.slot[at])]]].append(text)
    return {name: tuple(items) for name, items in found.items()}
