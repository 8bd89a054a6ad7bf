"""What is raced for: one quota, one customer's caps, and the sizes of a run."""

from __future__ import annotations

from typing import Final, NamedTuple

from features.events import WHAT
from features.ledger import CapCheck, Wish

QUOTA: Final = "race/q"
ONE: Final = "u:race"  # the customer whom all race for in some volleys
CAMPAIGN: Final = 9
SLOT: Final = 3
OTHERS: Final = 10_000  # customers
DEVICES: Final = 60  # from which pages are refreshed
TALK_S: Final = 2.0  # the longest a store call may take before it is tried again


class Size(NamedTuple):
    """Seconds and counts of one run.

    `limit`: of the quota. `most` displays in any `window_s`: the cap. A page may be shown for `valid_s`, and
    what it held comes back `grace_s` later: in the full run the product's own 60 s. Every `volley_s` all
    `at_once` ask; in each `one_every`-th volley for the one customer.
    """

    seconds: float
    valid_s: float
    grace_s: int
    limit: int
    most: int
    window_s: int
    volley_s: float
    one_every: int
    clients: int
    at_once: int
    seed: int


def sized(*, quick: bool, clients: int, at_once: int, seed: int) -> Size:
    """Long enough that units which lapsed are spent again, and windows long enough for the cap to fill."""
    if quick:
        return Size(22.0, 3.0, 1, 1_500, 40, 12, 1.0, 5, clients, at_once, seed)
    return Size(270.0, 20.0, 60, 20_000, 40, 200, 2.0, 20, clients, at_once, seed)


def check_of(size: Size) -> CapCheck:
    return CapCheck(WHAT["displayed"], size.most, size.window_s, 0.0, "campaign", (), 0, "customer")


def wish_of(item: int, *, capped: bool = True) -> Wish:
    return Wish(item, CAMPAIGN, 0, SLOT, 0, 0, 1, (0,) if capped else ())
