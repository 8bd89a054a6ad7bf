"""Profile fields that were changed between two batches: `PUT /v1/users/{id}` and nothing else writes them.

A patch is a PROFILE blob in which only the changed fields are known, followed by a time per field (f8, POSIX
seconds, in the declaration's order). It lies in the live store beside the customer's logs and wins, field by
field, until a batch with a later watermark knows the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.schema import HEADER, Record, SchemaMismatch, Schemas, View
from features.views import PROFILE


class Patch(NamedTuple):
    """Changed fields (the known ones of `record`) and when each was changed, by position in PROFILE."""

    record: Record
    times: NDArray[np.float64]

    def since(self, at: float) -> Patch | None:
        """Only what was changed after `at` (POSIX seconds); None when nothing was."""
        later = sum(1 << i for i in _positions(self.record.known) if self.times[i] > at)
        return self._replace(record=self.record._replace(known=later)) if later else None


def decode_patch(blob: bytes, schemas: Schemas | None = None) -> Patch:
    """Raises SchemaMismatch as View.decode does; a patch of an older declaration is projected."""
    if len(blob) < HEADER.size:
        raise SchemaMismatch(f"patch: {len(blob)} bytes are too few")
    view = _written_by(HEADER.unpack_from(blob)[0], schemas)
    if len(blob) != view.size + 8 * len(view.fields):
        raise SchemaMismatch(f"patch: {len(blob)} bytes do not match its declaration")
    record = view.decode(blob[: view.size])
    times = np.frombuffer(blob, "<f8", offset=view.size)
    if not all(isfinite(times[i]) for i in _positions(record.known)):
        raise SchemaMismatch("patch: the time of a changed field is not finite")
    if view is PROFILE:
        return Patch(record, times)
    at = {name: float(times[i]) for i, name in enumerate(view.names)}
    return Patch(PROFILE.project(record, view), np.array([at.get(name, 0.0) for name in PROFILE.names]))


def merge(record: Record | None, patch: Patch) -> Record:
    """The batch record with the patch's newer fields.

    A changed field wins when it was changed after the batch's watermark, or when the batch does not know it.
    Over no batch record, the changed fields are all that is known.
    """
    if record is None:
        values, known, as_of = PROFILE.blank(1)[0], 0, patch.record.as_of
    else:
        values, known, as_of = record.values.copy(), record.known, record.as_of
    for i in _positions(patch.record.known):
        if record is None or not known & (1 << i) or patch.times[i] > as_of:
            name = PROFILE.names[i]
            values[name] = patch.record.values[name]
            known |= 1 << i
    return Record(values, known, as_of)


def patched(
    old: bytes | None, changes: Mapping[str, Any], at: float, *, schemas: Schemas | None = None
) -> bytes:
    """The stored patch with `changes` made at `at` (POSIX seconds).

    `changes` gives values as PROFILE holds them; shorter lists are padded with 0. A field that was changed
    later than `at` keeps its value, so that changes may arrive in any order. Raises KeyError for a field that
    PROFILE does not declare, ValueError for a value that does not fit it, and
    SchemaMismatch, changing nothing, when the stored patch cannot be read.
    """
    if not isfinite(at):
        raise ValueError("the time of a change is not finite")
    before = decode_patch(old, schemas) if old is not None else None
    values = before.record.values.copy() if before else PROFILE.blank(1)[0]
    times = before.times.copy() if before else np.zeros(len(PROFILE.fields), "<f8")
    known = before.record.known if before else 0
    for name, value in changes.items():
        bit = PROFILE.bit(name)
        if known & bit and times[PROFILE.names.index(name)] > at:
            continue
        values[name] = fitted(name, value)
        times[PROFILE.names.index(name)] = at
        known |= bit
    latest = max(at, before.record.as_of) if before else at
    return PROFILE.encode(values, as_of=latest, known=known) + times.tobytes()


def fitted(name: str, value: Any) -> NDArray[Any]:
    """`value` in the type and shape of a PROFILE field, without loss; lists are padded with 0.

    Raises KeyError for an unknown field, ValueError for what does not fit.
    """
    field = PROFILE.field(name)
    try:
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
            cast = np.array(value, field.packed)
        if field.packed.kind == "S":
            lost = not isinstance(value, str | bytes) or len(value) > field.packed.itemsize
        elif field.packed.kind == "f":
            lost = not bool(np.isfinite(cast).all())
        else:  # compared as Python integers: 64-bit keys and negative numbers have no common NumPy type
            lost = cast.tolist() != np.array(value, object).tolist()
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {value!r} does not fit {field.dtype}") from error
    if lost or cast.ndim != len(field.shape) or any(np.greater(cast.shape, field.shape)):
        raise ValueError(f"{name}: {value!r} does not fit {field.dtype}{list(field.shape) or ''}")
    padded = np.zeros(field.shape, field.packed)
    padded[tuple(slice(size) for size in cast.shape)] = cast
    return padded


def _written_by(fingerprint: int, schemas: Schemas | None) -> View:
    if fingerprint == PROFILE.fingerprint:
        return PROFILE
    view = schemas.find(PROFILE.name, fingerprint) if schemas else None
    if view is None:
        raise SchemaMismatch(f"patch: stored {fingerprint:#010x}, not {PROFILE.fingerprint:#010x}")
    return view


@lru_cache(4096)
def _positions(known: int) -> tuple[int, ...]:
    return tuple(i for i in range(known.bit_length()) if known >> i & 1)
