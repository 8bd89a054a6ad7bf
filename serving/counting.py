"""What pages did to every campaign, and what their rules cost; made off the request's path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.domain import Decision, Scores
from serving.live import Live
from serving.page import RULES
from serving.placed import Columns
from serving.tag_sums import Tagged
from serving.tallies import PageCounts


def counts_of(decision: Decision, live: Live) -> PageCounts:
    """Of one page. Raises nothing: a page on which no campaign ran counts nothing."""
    return counts_of_pages([decision], live)


def counts_of_pages(decisions: Sequence[Decision], live: Live) -> PageCounts:
    """Of some pages of one plan together: each column holds one page's after another's.

    What a campaign met is marked by bits in one byte each, a row a page, and its fate looked up by them:
    arithmetic of sets, eleven of them a page, cost fifty times as much.
    """
    pages = [one for one in decisions if one.met is not None]
    if not pages:
        return PageCounts()
    mets: list[Any] = [one.met for one in pages]
    best = np.array([_best(one, live) for one in pages], np.float32)
    marks = np.zeros(best.shape, np.uint8)
    flat, wide = marks.ravel(), best.shape[1]
    flat[_at(wide, [met.running for met in mets])[0]] = _HERE
    flat[_at(wide, [met.spent for met in mets])[0]] = _HERE | _SPENT
    marks[best <= 0] = 0  # no slot of this page is one of its own
    looked_at, _ = _at(wide, [met.looked_at for met in mets])
    flat[looked_at] |= _LOOKED_AT
    flat[_at(wide, [met.permitted for met in mets])[0]] |= _PERMITTED
    flat[_at(wide, [met.full for met in mets])[0]] |= _FULL
    for row, one in enumerate(pages):
        for campaign, why in {no.campaign: no.why for no in one.refused if no.campaign >= 0}.items():
            marks[row, campaign] |= _BY.get(why, 0)
    columns = [Columns.of(one.placements) for one in pages]
    tagged = [[at for at, campaign in enumerate(one.campaign) if campaign >= 0] for one in columns]
    on = zip(columns, tagged, strict=True)
    where, placed = _at(wide, [np.array([one.campaign[at] for at in some], np.int32) for one, some in on])
    flat[where] |= _PLACED
    units = [one.units[at] for one, some in zip(columns, tagged, strict=True) for at in some]
    fates = _FATES[flat]
    here, dropped = _these(fates, _ELIGIBLE), _these(fates, _DROPPED)
    return PageCounts(
        eligible=_campaigns(here, wide),
        potential=best.ravel().take(here),
        dropped=_campaigns(dropped, wide),
        masks=_masks(dropped, looked_at, np.concatenate([met.drops for met in mets])),
        refused_cap=_campaigns(_these(fates, _REFUSED_CAP), wide),
        refused_quota=_campaigns(_these(fates, _REFUSED_QUOTA), wide),
        offered=_campaigns(_these(fates, _OFFERED), wide),
        lost_price=_campaigns(_these(fates, _LOST_PRICE), wide),
        placed=placed,
        units=np.array(units, np.float32).reshape(-1, 3),
    )


def _best(decision: Decision, live: Live) -> Scores:
    return live.stalls.best_places(tuple([(one.spec.index, one.count) for one in decision.query.slots]))


def _at(wide: int, columns: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Places of campaigns in a table of a row a page, `wide` campaigns each; and the campaigns."""
    rows = np.repeat(np.arange(len(columns)) * wide, [len(column) for column in columns])
    campaigns = np.concatenate(columns)
    return rows + campaigns, campaigns


_HERE, _SPENT, _LOOKED_AT, _PERMITTED, _FULL, _CAP, _QUOTA, _PLACED = (1 << bit for bit in range(8))
_ELIGIBLE, _DROPPED, _REFUSED_CAP, _REFUSED_QUOTA, _OFFERED, _LOST_PRICE = (1 << bit for bit in range(6))
_BY: Final = {"cap": _CAP, "quota": _QUOTA}


def _fate(marks: int) -> int:
    """What became of a campaign that met this."""
    here, placed = bool(marks & _HERE), bool(marks & _PLACED)
    dropped = bool(marks & _LOOKED_AT) and not marks & _PERMITTED
    capped = bool(marks & (_FULL | _CAP)) and not placed
    spent = bool(marks & _SPENT) or (bool(marks & _QUOTA) and not placed)
    offered = here and not dropped and not capped and not spent
    fates = (here, dropped, capped and not dropped, spent and not dropped, offered, offered and not placed)
    return sum(1 << bit for bit, true in enumerate(fates) if true)


_FATES: Final = np.array([_fate(marks) for marks in range(256)], np.uint8)


def _these(fates: NDArray[np.uint8], fate: int) -> NDArray[np.intp]:
    return (fates & np.uint8(fate)).nonzero()[0]


def _campaigns(at: NDArray[np.intp], wide: int) -> NDArray[np.int32]:
    return (at % wide).astype(np.int32)


def tagged_of(decision: Decision, live: Live) -> list[Tagged]:
    """One for each place that a rule decided."""
    campaigns, query = live.plan.campaigns, decision.query
    found = []
    for index in [at for at, rule in enumerate(Columns.of(decision.placements).rule) if rule]:
        place = decision.placements[index]
        of = place.by if place.by >= 0 else place.campaign
        campaign = campaigns.ids[of] if of >= 0 else ""
        org = campaigns.specs[of].org if of >= 0 else ""
        worth = place.base + place.tag / place.shown if place.shown > 0 else float("nan")
        slot = query.slots[place.slot].spec.name
        found.append(Tagged(RULES[place.rule], campaign, org, slot, place.tag, place.shown, worth))
    return found


def _masks(dropped: NDArray[np.intp], at: NDArray[np.intp], drops: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The rules that dropped the items of each, together. `at`: where each item's campaign stands."""
    masks = np.zeros(len(dropped), np.uint32)
    if len(dropped):
        found = np.minimum(dropped.searchsorted(at), len(dropped) - 1)
        mine = dropped[found] == at
        np.bitwise_or.at(masks, found[mine], drops[mine])
    return masks
