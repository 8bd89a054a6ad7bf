"""A page's columns packed into the few arrays that the loops take: each array costs a call a microsecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.page_state import (
    F8,
    I8,
    I_CAPPED,
    I_CATEGORY,
    I_KIND,
    I_MEMBERS,
    I_ORIGIN,
    I_ROOM,
    O_BAND,
    O_BASE,
    O_BOOST,
    O_CAMPAIGN,
    O_CANDIDATE,
    O_CAPPED,
    O_PIN,
    O_PIN_SLOT,
    O_PROMISE,
    O_ROADBLOCK,
    O_ROOM,
    O_SLOTS,
    O_VALUE,
    S_BIT,
    S_CROSS,
    S_DIMINISH,
    S_INTERRUPTION,
    S_KINDS,
    S_ORIGINS,
    S_PER_CATEGORY,
    S_PER_KIND,
    S_PLACES,
    S_RATES,
    S_SWITCHING,
    Input,
)

if TYPE_CHECKING:
    from serving.page import Offers, Options, Slots

_KEPT: Final = 64  # layouts remembered
_slots: dict[int, tuple[Slots, I8, F8]] = {}


def packed(
    slots: Slots,
    options: Options,
    offers: Offers,
    room: NDArray[Any],
    limits: NDArray[Any],
    held: NDArray[Any],
) -> Input:
    """The columns in the types that the loops were compiled for: any other would compile them anew."""
    numbers, worths = packed_slots(slots)
    return Input(
        numbers,
        worths,
        _of_options(options),
        _as(options.value, np.float32),
        *_of_offers(offers),
        _as(room, np.int32),
        _as(limits, np.uint8),
        _as(held, np.int32),
    )


def packed_slots(slots: Slots) -> tuple[I8, F8]:
    """Packed once per Slots: pages that ask for the same places share one, and nobody writes into it."""
    kept = _slots.get(id(slots))
    if kept is not None and kept[0] is slots:
        return kept[1], kept[2]
    kinds = slots.kind_least.shape[1]
    numbers = np.empty((len(slots.bit), S_KINDS + 2 * kinds), np.int64)
    numbers[:, S_BIT], numbers[:, S_PLACES] = slots.bit.view(np.int64), slots.count
    numbers[:, S_ORIGINS] = slots.origins
    numbers[:, S_PER_CATEGORY], numbers[:, S_PER_KIND] = slots.per_category, slots.per_kind
    numbers[:, S_KINDS : S_KINDS + kinds], numbers[:, S_KINDS + kinds :] = slots.kind_least, slots.kind_most
    worths = np.empty((len(slots.bit), S_RATES + slots.rates.shape[1]), np.float64)
    worths[:, S_DIMINISH], worths[:, S_CROSS] = slots.diminish, slots.cross
    worths[:, S_INTERRUPTION], worths[:, S_SWITCHING] = slots.interruption, slots.switching
    worths[:, S_RATES:] = slots.rates
    if len(_slots) >= _KEPT:
        _slots.clear()
    _slots[id(slots)] = slots, numbers, worths
    return numbers, worths


def _of_options(options: Options) -> I8:
    out = np.empty((len(options.value), I_CAPPED + 1), np.int64)
    out[:, I_MEMBERS], out[:, I_ORIGIN] = options.members, options.origin
    out[:, I_CATEGORY], out[:, I_KIND] = options.category, options.kind
    out[:, I_ROOM : I_ROOM + 2], out[:, I_CAPPED] = options.room, options.capped
    return out


def _of_offers(offers: Offers) -> tuple[I8, NDArray[np.float32]]:
    out = np.empty((len(offers.candidate), O_ROOM + 6), np.int64)
    out[:, O_CANDIDATE], out[:, O_CAMPAIGN] = offers.candidate, offers.campaign
    out[:, O_SLOTS], out[:, O_BAND] = offers.slots, offers.band
    out[:, O_PIN_SLOT], out[:, O_PIN] = offers.pin_slot, offers.pin
    out[:, O_CAPPED] = offers.capped
    out[:, O_ROADBLOCK] = offers.roadblock if len(offers.roadblock) else 0
    out[:, O_PROMISE] = offers.promise if len(offers.promise) else 0
    out[:, O_ROOM:] = offers.room
    worth = np.empty((len(out), 3), np.float32)
    worth[:, O_VALUE], worth[:, O_BASE] = offers.value, offers.base
    worth[:, O_BOOST] = offers.boost if len(offers.boost) else 0
    return out, worth


def _as(column: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    fits = column.dtype == dtype and column.flags.c_contiguous and column.flags.writeable
    return column if fits else np.array(column, dtype, order="C")
