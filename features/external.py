"""Scores of the bank's own models, packed: what one of them thinks of up to 64 items for one customer.

A record is a header (form, models) and entries of `ENTRY`, highest score first within a model. It belongs to
no key space: re-materialising leaves it alone. What is not readable or has expired proposes nothing.
"""

from __future__ import annotations

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
FORM: Final = b"XS01"  # of the record; another form is not read
KEPT: Final = 64  # entries of one model and customer
MODELS: Final = 8  # models of one customer
NO_SCORES: Final = np.frombuffer(b"", ENTRY)


def external_key(user_id: str) -> bytes:
    """The key of a customer's record; `user_id` without the `u:` of a subject."""
    return f"fs:external:scores:{{u:{user_id}}}".encode()


def pack(entries: NDArray[np.void]) -> bytes:
    """The record of ENTRY rows."""
    return FORM + entries.tobytes()


def unpack(blob: bytes | None) -> NDArray[np.void]:
    """Its entries; none where there is no record, or one that cannot be read. Raises nothing."""
    if blob is None or blob[: len(FORM)] != FORM or (len(blob) - len(FORM)) % ENTRY.itemsize:
        return NO_SCORES
    return np.frombuffer(blob, ENTRY, offset=len(FORM))


def replaced(blob: bytes | None, model: str, entries: NDArray[np.void]) -> bytes | None:
    """The record with a model's entries (n <= KEPT) in place of those it had; None where nothing is left.

    ValueError for more than MODELS models.
    """
    held = unpack(blob)
    others = held[held["model"] != key32(model)]
    if len(entries) and len(np.unique(others["model"])) >= MODELS:
        raise ValueError(f"a customer has scores of {MODELS} models already")
    both = np.concatenate((others, entries[:KEPT]))
    return pack(both) if len(both) else None
