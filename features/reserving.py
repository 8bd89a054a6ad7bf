"""A page's request to the ledger on its way to a script: split between customer and device, packed.

A user's page is held on the user's keys; places with device caps are held on the visitor's as well, in a
second step, for a script reaches one subject only. What the device then refuses is released on the user's
keys.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import ceil
from typing import Any, Final

import msgpack

from features.events import WHAT
from features.ids import decision_mark, key32
from features.ledger import SCOPES, CapCheck, Reserved, Reserving, Wish
from features.reservations import GRACE_S, HELD, ON_DEVICE, RESERVED

DEVICE: Final = "device"
_ENTRY = struct.Struct("<QIIIIIBBBBII")  # views.CONTACT, an entry
_KEY = {8: struct.Struct("<Q"), 4: struct.Struct("<I"), 1: struct.Struct("<B")}
_MARK = struct.Struct("<I")


def decided_for(subject: str, reserving: Reserving, device: str | None) -> Reserving:
    """What the subject's own script is asked: without device caps when a device takes them, and without the
    places that need a device where there is none. A visitor's own page has all its caps on its own keys."""
    if subject.startswith("v:"):
        return reserving
    of_device = frozenset(i for i, check in enumerate(reserving.checks) if check.subject == DEVICE)
    if not of_device:
        return reserving

    def place(wishes: tuple[Wish, ...]) -> tuple[Wish, ...]:
        if device is None:  # an alternative keeps its number: one that cannot be has a check nobody passes
            return tuple(
                wish._replace(caps=(len(reserving.checks),)) if of_device & set(wish.caps) else wish
                for wish in wishes
            )
        return tuple(
            wish._replace(caps=tuple(cap for cap in wish.caps if cap not in of_device)) for wish in wishes
        )

    checks = reserving.checks if device is not None else (*reserving.checks, NEVER)
    return reserving._replace(places=tuple(map(place, reserving.places)), checks=checks)


NEVER: Final = CapCheck(WHAT["displayed"], 0, 0, 0.0, "campaign", (), 0, "customer")


def device_part(subject: str, reserving: Reserving, taken: Reserved) -> tuple[Reserving, tuple[int, ...]]:
    """What the device's script is asked, one wish a place, and the indices of those places.

    Its scope is the user's own: one user's page takes nothing over from another's on the same device.
    """
    of_device = {i for i, check in enumerate(reserving.checks) if check.subject == DEVICE}
    places: list[tuple[Wish, ...]] = []
    at: list[int] = []
    for i, (wishes, choice) in enumerate(zip(reserving.places, taken.taken, strict=True)):
        if choice >= 0 and (caps := tuple(cap for cap in wishes[choice].caps if cap in of_device)):
            places.append((wishes[choice]._replace(caps=caps),))
            at.append(i)
    scope = key32(f"{reserving.scope}|{subject}")
    return reserving._replace(places=tuple(places), scope=scope), tuple(at)


def entry_of(wish: Wish, mark: int) -> bytes:
    """The CONTACT entry that a display of the wish will be, as far as it is known."""
    return _ENTRY.pack(
        wish.item, mark, 0, wish.campaign, wish.category, wish.slot, wish.channel, WHAT["displayed"], 0,
        RESERVED, wish.creative, wish.org,
    )  # fmt: skip


def check_keys(check: CapCheck) -> list[bytes]:
    pack = _KEY[SCOPES[check.field][1]].pack
    return [pack(key) for key in check.keys]


def packed(owner: str, reserving: Reserving, grace_s: int, *, on_device: bool) -> bytes:
    """The script's argument. `owner`: the subject that the decision is known by."""
    mark = decision_mark(owner, reserving.decision_id)
    checks = [
        [c.event, *SCOPES[c.field], c.most, c.window_s, int(c.since), c.min_gap_s, c.subject == DEVICE,
         check_keys(c)]
        for c in reserving.checks
    ]  # fmt: skip
    places = [
        [[entry_of(wish, mark), [cap + 1 for cap in wish.caps]] for wish in place]
        for place in reserving.places
    ]
    ask: list[Any] = [
        reserving.epoch, _MARK.pack(mark), reserving.attempt, _MARK.pack(reserving.scope),
        lasts(reserving.valid_s, grace_s), ON_DEVICE if on_device else HELD, checks, places,
    ]  # fmt: skip
    argument: bytes = msgpack.packb(ask, use_bin_type=False)
    return argument


def lasts(valid_s: float, grace_s: int = GRACE_S) -> int:
    """Whole seconds that a reservation is held, from the second it was made in."""
    return ceil(valid_s) + grace_s


def joined(taken: Reserved, device: Reserved, at: tuple[int, ...]) -> tuple[Reserved, Mapping[int, int]]:
    """The page's answer, and the choices to release on the user's keys: place -> choice."""
    refused = {i: taken.taken[i] for i, choice in zip(at, device.taken, strict=True) if choice < 0}
    whole = tuple(-1 if i in refused else choice for i, choice in enumerate(taken.taken))
    return Reserved(whole, taken.current and device.current, taken.short + device.short), refused
