"""Offers of a plan as columns that pages look through."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.worth import OfferWorth

if TYPE_CHECKING:
    from serving.campaigns import Campaigns
    from serving.running import OfferTable

I4 = NDArray[np.int32]
F4 = NDArray[np.float32]
F8 = NDArray[np.float64]
U1 = NDArray[np.uint8]
U8 = NDArray[np.uint64]


class Table(NamedTuple):
    """Offers of a plan as pages take them (O), and what of their campaigns is the same on every page."""

    offer: I4  # row of the terms
    campaign: I4
    row: I4  # of the catalogue
    slots: U8
    pin_slot: I4  # index of the plan's slot, −1 none
    pin: I4
    band: U1


class Terms(NamedTuple):
    """`serving.worth.OfferWorth`, by rows of the plan's offers."""

    terms: F4  # (o, 7)
    until: F8
    campaign: I4
    measured: I4  # (o,) place among the measured rows, −1


def table_of(campaigns: Campaigns, offers: OfferTable) -> Table:
    band = campaigns.band.take(offers.campaign)
    return Table(offers.offer, offers.campaign, offers.row, offers.slots, offers.pin_slot, offers.pin, band)


def terms_of(worth: OfferWorth) -> Terms:
    return Terms(worth.terms, worth.until, worth.campaign, worth.measured)
