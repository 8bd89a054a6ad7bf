"""Slots of a page and how customers look at them: what is on screen, what is examined, what a position lends.

For the place at position k of a slot: `shown` = P(on screen), `examined` = P(looked at | on screen), and
the trust bias of Agarwal et al. (2019): a click on an examined place has probability theta·p + eta·(1 − p),
where p is what the item itself would earn. The curves belong to the slot's layout and are drawn from the
seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import key32

MAX_POSITIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Slot:
    name: str
    layout: str
    size: int
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The slots of one surface; place j of a page is column j of every (pages, places) array."""

    slots: tuple[Slot, ...]

    @property
    def places(self) -> int:
        return sum(slot.size for slot in self.slots)

    @cached_property
    def slot_of(self) -> NDArray[np.int64]:
        """Index of each place's slot."""
        return np.repeat(np.arange(len(self.slots)), [slot.size for slot in self.slots])

    @cached_property
    def position_of(self) -> NDArray[np.int64]:
        """Position of each place within its slot, from 0."""
        return np.concatenate([np.arange(slot.size) for slot in self.slots])

    @cached_property
    def slot_keys(self) -> NDArray[np.uint32]:
        return np.array([key32(slot.name) for slot in self.slots], np.uint32)

    def columns(self, index: int) -> slice:
        """The columns of slot `index`."""
        first = sum(slot.size for slot in self.slots[:index])
        return slice(first, first + self.slots[index].size)


HOME: Final = Layout(
    (
        Slot("home.banner", "banner", 5, ("activity", "content", "benefit")),
        Slot("home.grid", "icon_grid", 10, ("function",)),
        Slot("home.shelf", "shelf", 8, ("product",)),
        Slot("home.popup", "popup", 1, ("activity", "benefit", "content")),
        Slot("home.benefits", "shelf", 4, ("benefit",)),
        Slot("home.feed", "feed", 12, ("content", "product", "activity", "service")),
    )
)
"""The canonical homepage: 6 slots, 40 places."""

_LOOKS: Final = {  # layout: on screen at 0, decay; examined at 0, exponent; trust; noise; dismissed
    "banner": (1.0, 0.55, 0.80, 0.30, 0.95, 0.020, 0.002),
    "icon_grid": (1.0, 0.82, 0.95, 0.22, 0.98, 0.004, 0.000),
    "shelf": (0.50, 0.72, 0.70, 0.45, 0.92, 0.012, 0.002),
    "popup": (1.0, 0.50, 0.97, 0.10, 0.90, 0.030, 0.450),
    "feed": (0.40, 0.80, 0.75, 0.25, 0.94, 0.010, 0.012),
    "push": (0.90, 0.50, 0.50, 0.50, 0.90, 0.010, 0.050),
    "search_hint": (0.60, 0.70, 0.40, 0.50, 0.90, 0.005, 0.000),
}


class Curves(NamedTuple):
    """One value a place (L): see the module's text. `dismiss` = P(waved away | examined, not clicked)."""

    shown: NDArray[np.float32]
    examined: NDArray[np.float32]
    theta: NDArray[np.float32]
    eta: NDArray[np.float32]
    dismiss: NDArray[np.float32]
    popup: NDArray[np.bool_]  # places whose presence interrupts the rest of the page


class Looks:
    """The curves of every layout for one world."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._curves = {layout: _drawn(rng, *_LOOKS[layout]) for layout in sorted(_LOOKS)}

    def of(self, slots: Sequence[Slot]) -> Curves:
        """Curves over the places of `slots`. KeyError names a layout that the world does not know."""
        parts = [self._curves[slot.layout][:, : slot.size] for slot in slots]
        popup = np.repeat([slot.layout == "popup" for slot in slots], [slot.size for slot in slots])
        shown, examined, theta, eta, dismiss = np.concatenate(parts, axis=1)
        return Curves(shown, examined, theta, eta, dismiss, popup)


def _drawn(
    rng: np.random.Generator,
    top: float,
    keep: float,
    look: float,
    fall: float,
    trust: float,
    noise: float,
    wave: float,
) -> NDArray[np.float32]:
    """(5, MAX_POSITIONS): shown, examined, theta, eta, dismiss; the first two fall with the position."""
    k = np.arange(MAX_POSITIONS)
    shown = top * np.clip(keep * rng.uniform(0.96, 1.04), 0.05, 0.985) ** k
    examined = look / (1 + k) ** (fall * rng.uniform(0.85, 1.15))
    theta = trust - 0.10 * (1 - 1 / (1 + k) ** 0.5)
    eta = noise * rng.uniform(0.8, 1.2) / (1 + k)
    dismiss = np.full(MAX_POSITIONS, wave * rng.uniform(0.8, 1.2))
    return np.stack([shown, examined, theta, eta, dismiss]).astype(np.float32)
