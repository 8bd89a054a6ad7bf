"""Scores of the bank's own models, packed: what one of them thinks of up to 64 items for one customer.

A record is a header (its form; where a model needs consents, how many do and which) and entries of `ENTRY`,
highest score first within a model. It belongs to no key space: re-materialising leaves it alone. What is not
readable or has expired proposes nothing, nor does a model whose consents the customer has not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ids import key32

ENTRY: Final = np.dtype(
    [
        ("item", "<u8"),  # key64
        ("model", "<u4"),  # key32 of the model's name
        ("score", "<f4"),  # calibrated by nobody: compare within a model only
        ("expires", "<u4"),  # POSIX seconds
    ]
)
FORM: Final = b"XS01"  # of the record; a form that is none of these two is not read
UNDER: Final = b"XS02"  # with consents: FORM, then a count (u1) and as many of NEED, then the entries
NEED: Final = np.dtype([("model", "<u4"), ("consents", "<u2")])  # bits that the customer must have given
KEPT: Final = 64  # entries of one model and customer
MODELS: Final = 8  # models of one customer
NO_SCORES: Final = np.frombuffer(b"", ENTRY)


def external_key(user_id: str) -> bytes:
    """The key of a customer's record; `user_id` without the `u:` of a subject."""
    return f"fs:external:scores:{{u:{user_id}}}".encode()


def pack(entries: NDArray[np.void], needs: Mapping[int, int] | None = None) -> bytes:
    """The record of ENTRY rows. `needs`: consent bits by key32 of the models that ask for any."""
    if not needs:
        return FORM + entries.tobytes()
    return UNDER + bytes([len(needs)]) + np.array(sorted(needs.items()), NEED).tobytes() + entries.tobytes()


def unpack(blob: bytes | None) -> NDArray[np.void]:
    """Its entries; none where there is no record, or one that cannot be read. Raises nothing."""
    if blob is None:
        return NO_SCORES
    start = _start(blob)
    if not start or start > len(blob) or (len(blob) - start) % ENTRY.itemsize:
        return NO_SCORES
    return np.frombuffer(blob, ENTRY, offset=start)


def needs_of(blob: bytes | None) -> dict[int, int]:
    """Consent bits by key32 of the models that ask for any. Raises nothing."""
    if blob is None or blob[: len(UNDER)] != UNDER or len(blob) < (start := _start(blob)):
        return {}
    return {int(model): int(bits) for model, bits in np.frombuffer(blob[len(UNDER) + 1 : start], NEED)}


def permitted(blob: bytes | None, given: int) -> NDArray[np.void]:
    """The entries of the models that may be used under the consents `given` (bits)."""
    held = unpack(blob)
    refused = [model for model, bits in needs_of(blob).items() if bits & ~given]
    return held[~np.isin(held["model"], refused)] if refused else held


def _start(blob: bytes) -> int:
    """Where the entries begin; 0 in a form that is not read."""
    form = blob[: len(FORM)]
    if form == FORM:
        return len(FORM)
    return (
        len(UNDER) + 1 + blob[len(UNDER)] * NEED.itemsize if form == UNDER and len(blob) > len(UNDER) else 0
    )


def replaced(blob: bytes | None, model: str, entries: NDArray[np.void], consents: int = 0) -> bytes | None:
    """The record with a model's entries (n <= KEPT) in place of those it had; None where nothing is left.

    `consents`: bits without which they are not used. ValueError for more than MODELS models.
    """
    held = unpack(blob)
    others = held[held["model"] != key32(model)]
    if len(entries) and len(np.unique(others["model"])) >= MODELS:
        raise ValueError(f"a customer has scores of {MODELS} models already")
    both = np.concatenate((others, entries[:KEPT]))
    if not len(both):
        return None
    there = set(both["model"].tolist())
    needs = {**needs_of(blob), key32(model): consents}
    return pack(both, {one: bits for one, bits in needs.items() if bits and one in there})
