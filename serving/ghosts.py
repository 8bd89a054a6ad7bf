"""Ghost placements: customers who are never shown a campaign, and where it would have been shown to them.

(Johnson, Lewis and Nubbemeyer 2017.) A permanent, small part of the customers by hash, of each campaign its
own; nothing in a plan draws them anew, for what a campaign does shows days later. For them the page is
decided with the campaign in, what it would have got is logged, and the page is decided again without.
Whoever was shown a campaign and whoever would have been are alike in everything else, so the difference in
what they do later is what the campaign made them do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import key64
from serving.domain import Mask, Query
from serving.experiment import Experiments
from serving.splitting import parts_of, salt_of

if TYPE_CHECKING:
    from serving.campaign import Campaign
    from serving.pipeline import Page
    from serving.plan_text import Plan


_KEY: Final = (1 << 64) - 1
_NOBODY: Final = 0, np.zeros(0, np.uint64), np.zeros(0, np.float64)
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

    @classmethod
    def of(cls, plan: Plan, ids: Sequence[str]) -> Ghosts:
        """`ids`: the compiled campaigns, in order."""
        named = {one.id: one for one in plan.campaigns}
        shares = [share_of(plan, named[name]) for name in ids]
        salts = [salt_of(_SALT, "ghost", name) for name in ids]
        return cls(np.array(salts, np.uint64), np.array(shares, np.float64), any(shares))

    def held(self, unit: str) -> Mask:
        """(C,) the campaigns that a unit is never shown."""
        return self.held_out_of(key64(unit))

    def held_out_of(self, key: int) -> Mask:
        """The same of the unit's key, signed or not."""
        return held_out(np.full(len(self.salt), key & _KEY, np.uint64), self.salt, self.share)

    def of_page(self, page: Page) -> tuple[int, NDArray[np.uint64], NDArray[np.float64]]:
        """For `serving.page_seating.laid`: the key of the page's unit, signed; salts and shares, none where
        this customer is held out from nothing.
        """
        key = unit_key(page.query) if self.any else 0
        return (key - (key >> 63 << 64), self.salt, self.share) if key else _NOBODY


def share_of(plan: Plan, one: Campaign) -> float:
    """The part of a campaign's customers who are never shown it: nobody, where it must be shown."""
    if one.tier == "mandatory":
        return 0.0
    usual = _USUAL if plan.experiments is None else plan.experiments
    return usual.ghosts if one.ghost is None else one.ghost


def unit_key(query: Query) -> int:
    """The key that says what a query's customer is held out from; 0 is nothing, whatever a plan says."""
    unit = query.customer.unit
    return 0 if unit is None or not query.profiling else key64(unit or query.subject)


def held_out(keys: NDArray[np.uint64], salt: NDArray[np.uint64], share: NDArray[np.float64]) -> Mask:
    """(n,) whether a unit's key falls into a campaign's share, pair by pair."""
    inside: Mask = parts_of(keys ^ salt, 0) < share
    return inside


NO_GHOSTS: Final = Ghosts(np.zeros(0, np.uint64), np.zeros(0, np.float64))
