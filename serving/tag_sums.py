"""Price tags summed live: what each rule cost, by whom, and what each slot's places are worth inside.

A tag is what the page would have been worth more (CNY) without the rule that put an item where it is; it is
summed per rule × campaign × org. A slot's internal price is the value that its tagged places displaced, per
expected display: the balance of swaps between orgs, and the cure for levers that only grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

MOST_KEYS: Final = 20_000  # rule × campaign × org; what comes beyond is summed under "other"
OTHER: Final = "other"


class TagKey(NamedTuple):
    rule: str
    campaign: str  # "" where a rule of no campaign is blamed
    org: str


class TagSum(NamedTuple):
    cny: float = 0.0  # lost to the rule
    displays: float = 0.0  # expected displays of the places it decided
    places: int = 0

    def plus(self, cny: float, displays: float, places: int = 1) -> TagSum:
        return TagSum(self.cny + cny, self.displays + displays, self.places + places)


class Tagged(NamedTuple):
    """One place: the rule that decided it, whose it is, and what was forgone there.

    `cny`: forgone in all; `displays`: P(displayed) of the place; `worth`: CNY per display of the runner-up
    without the rule, NaN where none is known.
    """

    rule: str
    campaign: str
    org: str
    slot: str
    cny: float
    displays: float
    worth: float = float("nan")


class SlotPrice(NamedTuple):
    """Σ P(displayed) · worth of the runner-up, and Σ P(displayed), over a slot's places with one known."""

    cny: float = 0.0
    displays: float = 0.0

    @property
    def per_display(self) -> float:
        """CNY that one display of the slot is worth inside; 0 when nothing was displaced yet."""
        return self.cny / self.displays if self.displays > 0 else 0.0


class DrainedTags(NamedTuple):
    tags: Mapping[TagKey, TagSum]
    slots: Mapping[str, SlotPrice]


class TagSums:
    """Of this process: totals for metrics, and what is new for the meters."""

    def __init__(self) -> None:
        self._tags: dict[TagKey, TagSum] = {}
        self._slots: dict[str, SlotPrice] = {}
        self._fresh_tags: dict[TagKey, TagSum] = {}
        self._fresh_slots: dict[str, SlotPrice] = {}

    def add(self, places: Sequence[Tagged]) -> None:
        """The tagged places of one page; what is not a finite number is left out."""
        for place in places:
            key = TagKey(place.rule, place.campaign, place.org)
            if key not in self._tags and len(self._tags) >= MOST_KEYS:
                key = TagKey(place.rule, OTHER, OTHER)
            if abs(place.cny) < float("inf"):
                for sums in (self._tags, self._fresh_tags):
                    sums[key] = sums.get(key, _NO_SUM).plus(place.cny, place.displays)
            if abs(place.worth) < float("inf"):
                self._price(place.slot, place.worth * place.displays, place.displays)

    def _price(self, slot: str, cny: float, displays: float) -> None:
        for slots in (self._slots, self._fresh_slots):
            old = slots.get(slot, _NO_PRICE)
            slots[slot] = SlotPrice(old.cny + cny, old.displays + displays)

    @property
    def totals(self) -> Mapping[TagKey, TagSum]:
        return self._tags

    @property
    def slot_prices(self) -> Mapping[str, SlotPrice]:
        return self._slots

    def by_rule(self) -> dict[str, float]:
        """CNY lost to each rule since the start."""
        return _summed((key.rule, one.cny) for key, one in self._tags.items())

    def by_org(self) -> dict[str, float]:
        """CNY that each org's rules cost the page: the balance of swaps."""
        return _summed((key.org, one.cny) for key, one in self._tags.items())

    def drain(self) -> DrainedTags:
        """What is new, each amount once. The caller keeps it until the meters have it."""
        drained = DrainedTags(self._fresh_tags, self._fresh_slots)
        self._fresh_tags, self._fresh_slots = {}, {}
        return drained


_NO_SUM: Final = TagSum()
_NO_PRICE: Final = SlotPrice()


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, cny in pairs:
        found[name] = found.get(name, 0.0) + cny
    return found
