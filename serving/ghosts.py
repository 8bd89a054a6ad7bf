"""Ghost placements: customers who are never shown a campaign, and where it would have been shown to them.

(Johnson, Lewis and Nubbemeyer 2017.) A permanent, small part of the customers by hash, of each campaign its
own; nothing in a plan draws them anew, for what a campaign does shows days later. For them the page is
decided with the campaign in, what it would have got is logged, and the page is decided again without.
Whoever was shown a campaign and whoever would have been are alike in everything else, so the difference in
what they do later is what the campaign made them do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import key64
from serving.domain import Candidates, Mask
from serving.experiment import Experiments
from serving.seats import StandIns
from serving.splitting import part_of, parts_of, salt_of

if TYPE_CHECKING:
    from serving.campaign import Campaign
    from serving.filling import Chosen
    from serving.live import Live
    from serving.pipeline import Page
    from serving.plan_text import Plan
    from serving.seats import Seats


_SALT: Final = ""  # not the plan's: experiments divided anew leave the same customers held out
_USUAL: Final = Experiments()


class Ghost(NamedTuple):
    """A placement that a held-out customer was not shown."""

    campaign: int  # index in the plan's campaigns
    key: int  # key32
    slot: int  # index in the query's slots
    position: int


@dataclass(frozen=True, slots=True, eq=False)
class Ghosts:
    """By campaign (C,): the salt, and the part of its customers who are held out."""

    salt: NDArray[np.uint64]
    share: NDArray[np.float64]
    any: bool = False  # whether anybody is held out from anything
    each: tuple[tuple[int, float], ...] = ()  # the same as plain numbers

    @classmethod
    def of(cls, plan: Plan, ids: Sequence[str]) -> Ghosts:
        """`ids`: the compiled campaigns, in order."""
        named = {one.id: one for one in plan.campaigns}
        shares = [share_of(plan, named[name]) for name in ids]
        salts = [salt_of(_SALT, "ghost", name) for name in ids]
        each = tuple(zip(salts, shares, strict=True))
        return cls(np.array(salts, np.uint64), np.array(shares, np.float64), any(shares), each)

    def holds_out(self, key: int, campaign: int) -> bool:
        """Whether the unit of this key is never shown a campaign."""
        salt, share = self.each[campaign]
        return part_of(key, salt) < share

    def held(self, unit: str) -> Mask:
        """(C,) the campaigns that a unit is never shown."""
        key = np.full(len(self.salt), key64(unit), np.uint64)
        return held_out(key, self.salt, self.share)


def share_of(plan: Plan, one: Campaign) -> float:
    """The part of a campaign's customers who are never shown it: nobody, where it must be shown."""
    if one.tier == "mandatory":
        return 0.0
    usual = _USUAL if plan.experiments is None else plan.experiments
    return usual.ghosts if one.ghost is None else one.ghost


def held_out(keys: NDArray[np.uint64], salt: NDArray[np.uint64], share: NDArray[np.float64]) -> Mask:
    """(n,) whether a unit's key falls into a campaign's share, pair by pair."""
    inside: Mask = parts_of(keys ^ salt, 0) < share
    return inside


NO_GHOSTS: Final = Ghosts(np.zeros(0, np.uint64), np.zeros(0, np.float64))


def unseen(page: Page, live: Live, seats: Seats) -> tuple[Mask | None, tuple[Ghost, ...]]:
    """Who is held out from this customer (None: the page may stand), and what the page has of theirs."""
    query = page.query
    unit = query.customer.unit
    if not live.ghosts.any or not query.profiling or unit is None:
        return None, ()
    shown = [
        (campaign, seats.slot[index], seats.position[index])
        for index, campaign in enumerate(seats.campaign)
        if campaign >= 0
    ]
    ghosts, key, keys = live.ghosts, key64(unit or query.subject), live.plan.campaigns.keys
    found = tuple(
        [
            Ghost(campaign, int(keys[campaign]), slot, position)
            for campaign, slot, position in shown
            if ghosts.holds_out(key, campaign)
        ]
    )
    if not found and not _stands_by(ghosts, key, seats.spares):
        return None, ()
    return ghosts.held(unit or query.subject), found


def _stands_by(ghosts: Ghosts, key: int, spares: Mapping[int, Chosen]) -> bool:
    """Whether something of a campaign that is held out stands in. Stand-ins are made only if that may be."""
    if isinstance(spares, StandIns) and not any(ghosts.holds_out(key, one) for one in spares.campaigns):
        return False
    return any(one.campaign >= 0 and ghosts.holds_out(key, one.campaign) for one in spares.values())


def without(page: Page, live: Live, ranked: Candidates, held: Mask, campaign_bit: int) -> Candidates:
    """The candidates as if these campaigns did not run; the page's offers are taken from it."""
    table = live.offers
    left = ~held.take(table.campaign.take(page.offers))
    gone = table.row.take(page.offers[~left])
    page.offers = page.offers[left]
    if page.running is not None:
        page.running = page.running & ~held
    theirs = np.isin(ranked.rows, gone) & ~np.isin(ranked.rows, table.row.take(page.offers))
    return ranked.take(~(theirs & (ranked.origin == np.uint32(campaign_bit))))
