"""Which campaigns run for this page, and which of their items are worth looking at.

Running is three-valued permission: the flight is open, the audience holds, the customer is of the campaign's
org, nothing stopped it. What is not known denies. A campaign that is not running is nowhere on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ledger import CapSpec
from serving.audience import CompiledAudiences
from serving.audience_facts import Lookups
from serving.campaigns import Campaigns
from serving.domain import NOTHING, Mask, Proposal, Rows, Scores
from serving.offering import table_of, terms_of
from serving.pipeline import Page, Source, Understanding
from serving.scorers import Blended
from serving.shortlist import promising, quoted, shelf_of, side_by_side
from serving.worth import OfferWorth

if TYPE_CHECKING:
    from serving.prices import PriceColumns

PER_SLOT: Final = 24  # offers of a slot that are looked at closely
EVERYBODY: Final = -1
_MASKS_KEPT: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class OfferTable:
    """Offers as a page takes them: campaign × item, and one more for every pinned place."""

    offer: NDArray[np.int32]  # (O,) index among the campaigns' offers
    campaign: NDArray[np.int32]
    row: Rows
    slots: NDArray[np.uint64]
    pin_slot: NDArray[np.int32]  # index of the plan's slot, −1 none
    pin: NDArray[np.int32]

    @classmethod
    def of(cls, campaigns: Campaigns) -> OfferTable:
        """Pinned offers hold the pinned slot alone; the campaign's other slots stay with the plain offer."""
        columns: list[tuple[int, int, int, int, int, int]] = []
        pins: dict[int, list[tuple[int, int]]] = {}
        for campaign, slot, position in campaigns.pins:
            pins.setdefault(campaign, []).append((slot, position))
        found = zip(
            campaigns.offer_campaign.tolist(),
            campaigns.offer_row.tolist(),
            campaigns.offer_slots.tolist(),
            strict=True,
        )
        for offer, (campaign, row, slots) in enumerate(found):
            for slot, position in pins.get(campaign, ()):
                bit = 1 << slot
                if slots & bit:
                    columns.append((offer, campaign, row, bit, slot, position))
                    slots &= ~bit
            if slots:
                columns.append((offer, campaign, row, slots, -1, -1))
        made = list(zip(*columns, strict=True)) or [()] * 6
        kinds = (np.int32, np.int32, np.int32, np.uint64, np.int32, np.int32)
        return cls(*(np.array(column, kind) for column, kind in zip(made, kinds, strict=True)))

    def __len__(self) -> int:
        return len(self.row)


def bounds_of(campaigns: Campaigns, c: int) -> list[CapSpec]:
    """The caps on contacts of campaigns that bind campaign c: its own, and the plan's contact rules."""
    key = int(campaigns.keys[c])
    own = [campaigns.caps[i] for i in campaigns.caps_of[c]]
    rules = (campaigns.caps[i] for i in campaigns.contact_rules)
    own += [rule for rule in rules if not rule.keys or key in rule.keys]
    return [cap for cap in own if cap.scope == "campaign"]


class _Place(NamedTuple):
    """What is the same for all pages of a surface and org: what is of there, and with what is open now (as
    these calendars and prices say) what might run.
    """

    here: Mask
    opened: Mask
    price: PriceColumns | None
    might: Mask


class Running(Understanding):
    """Sets `page.running` and `page.eligible`, (C,) bool. When it fails, no campaign runs on the page."""

    def __init__(
        self,
        campaigns: Campaigns,
        audiences: CompiledAudiences,
        lookups: Lookups,
        lineages: Mapping[int, tuple[int, ...]],
        called: Callable[[str], tuple[str, ...]],
        stopped: Mask,
        paused: Mask,
    ) -> None:
        """`lineages`: key32 of an org -> of it and all above it; `called`: a surface's names in campaigns;
        `stopped` (C,): killed campaigns; `paused` (C,): those that an experiment's arm does not show.
        """
        self._campaigns, self._audiences, self._lookups = campaigns, audiences, lookups
        self._lineages, self._called, self._going = lineages, called, ~stopped
        self._shown = ~paused if paused.any() else None
        self._audience = campaigns.audience
        self._everybody = campaigns.audience == EVERYBODY
        self._asks = bool((~self._everybody).any())
        self._places: dict[tuple[str, int, int], _Place] = {}
        self._quotas = [[campaigns.quotas[q].key for q in of] for of in campaigns.quota_of]
        self._with_quota = [c for c, keys in enumerate(self._quotas) if keys]
        capped = [bool(campaigns.caps_of[c] or bounds_of(campaigns, c)) for c in range(len(campaigns.ids))]
        self._with_caps = np.array(capped, np.bool_)
        self._quota = np.array([bool(keys) for keys in self._quotas], np.bool_)

    def enabled(self, page: Page) -> bool:  # noqa: ARG002
        return len(self._campaigns.ids) > 0

    def understand(self, page: Page) -> None:
        query = page.query
        might = self._might(page)
        if self._asks:
            running = self._audiences.evaluate(query.customer, query.now, self._lookups).take(self._audience)
            running |= self._everybody
            running &= might
        else:
            running = might.copy()
        if not query.capped:
            running &= ~(self._with_caps | self._quota)
        elif query.spent:
            for c in self._with_quota:
                if running[c] and not query.spent.isdisjoint(self._quotas[c]):
                    running[c] = False
                    if self._shown is None or self._shown[c]:
                        page.spent.append(c)
        page.eligible = running
        page.running = running if self._shown is None else running & self._shown

    def _might(self, page: Page) -> Mask:
        """Those that run for whoever is in their audience: the same for all pages of a surface and org, until
        a calendar or the prices change.
        """
        org = int(page.query.customer.get("org"))
        key = (page.query.surface, org, page.owner)
        opened, price = self._campaigns.open_at(page.query.now), page.price
        found = self._places.get(key)
        if found is None or found.opened is not opened or found.price is not price:
            if len(self._places) >= _MASKS_KEPT:
                self._places.clear()
            here = self._mask(*key) if found is None else found.here
            might = opened & here if price is None else opened & here & ~price.closed
            found = self._places[key] = _Place(here, opened, price, might)
        return found.might

    def _mask(self, surface: str, org: int, owner: int) -> Mask:
        known = (org, owner)
        above = [key for one in known if one for key in self._lineages.get(one, (one,))]
        mine: Mask = np.isin(self._campaigns.customers_of, np.array([0, *above], np.uint32))
        names = self._called(surface)
        on = [not own or not own.isdisjoint(names) for own in self._campaigns.surfaces]
        return mine & np.array(on, np.bool_) & self._going


class CampaignItems(Source):
    """The items of running campaigns; of many, those that promise most in each slot.

    Sets `page.offers`: indices in the offer table, to be priced exactly once they are permitted and scored.
    """

    def __init__(
        self, campaigns: Campaigns, table: OfferTable, blended: Blended, worth: OfferWorth, mandatory: bool
    ) -> None:
        """`mandatory`: only what must be shown (the rungs that look at nobody)."""
        self._blended = blended
        self._shelf = shelf_of(table_of(campaigns, table), terms_of(worth), mandatory)
        self._offered = len(table) > 0
        self._looks: dict[int, Scores] = {}  # by the number of the popularity table
        self._asked: dict[int, NDArray[np.int64]] = {}  # a page's slots, by their bits
        self._ends = np.unique(self._shelf.until)
        self._quote: tuple[Scores, int, Scores] | None = None  # of which prices, after how many levers' ends

    def enabled(self, page: Page) -> bool:
        return page.running is not None and self._offered

    def propose(self, page: Page) -> Proposal:
        if page.running is None:
            return NOTHING
        model = NOTHING.score if page.scores is None else page.scores
        page.offers, rows = promising(
            *(self._shelf, page.running, model, self._of(page), self._quoted(page)),
            *(self._slots(page.bits), PER_SLOT),
        )
        return Proposal(rows, np.zeros(len(rows), np.float32))

    def _of(self, page: Page) -> Scores:
        """What is known of the offers' rows without the customer: the same for all of a segment."""
        table = self._blended.table_of(page)
        found = self._looks.get(table)
        if found is None:
            found = self._looks[table] = side_by_side(self._blended.looks(page), self._shelf.row)
        return found

    def _quoted(self, page: Page) -> Scores:
        """The same for all pages until the prices change, or a lever ends."""
        ended = int(self._ends.searchsorted(page.query.now, "right"))
        kept = self._quote
        if kept is None or kept[0] is not page.prices or kept[1] != ended:
            made = quoted(self._shelf, page.prices, page.query.now)
            kept = self._quote = page.prices, ended, made
        return kept[2]

    def _slots(self, bits: int) -> NDArray[np.int64]:
        found = self._asked.get(bits)
        if found is None:
            if len(self._asked) >= _MASKS_KEPT:
                self._asked.clear()
            each = [at for at in range(bits.bit_length()) if bits >> at & 1]
            found = self._asked[bits] = np.array(each, np.int64)
        return found
