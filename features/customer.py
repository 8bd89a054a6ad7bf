"""What is known about one customer at the moment of a decision: seven stored blobs, decoded once.

Unknown is not a value here: a view that was absent, expired, of another schema or late is named in `missing`,
and its part is None. What the customer refused is blanked here, so that no later stage can see it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from features.external import NO_SCORES, permitted
from features.patch import Patch, decode_patch, merge
from features.schema import Purpose, Record, SchemaMismatch, Schemas, View
from features.views import CONSENTS, CONTACT, MEMBERSHIP, PROFILE, RECENT, TAG_BITS


class Blobs(NamedTuple):
    """What the stores returned for a customer; None: answered, and there is no such record."""

    profile: bytes | None
    membership: bytes | None
    recent: bytes | None
    contact: bytes | None
    patch: bytes | None
    unit: bytes | None = None
    external: bytes | None = None  # last and optional: decisions logged before it was read replay


# Told apart by value, not identity, so that a logged decision replays: no record or log is 5 bytes long.
LATE_BLOB: Final = b"\0late"
"""Stands in Blobs for what a store did not answer in time (one role may be late and the other not)."""

LATE: Final = Blobs(*[LATE_BLOB] * len(Blobs._fields))
NOTHING: Final = Blobs(None, None, None, None, None)

_BITS: Final = {name: PROFILE.bit(name) for name in PROFILE.names}
_NO_TAGS_OFF: Final = bytes(TAG_BITS // 8)
_NO_RECENT: Final = np.frombuffer(b"", RECENT)
_NO_CONTACT: Final = np.frombuffer(b"", CONTACT)
_NO_AUDIENCES: Final = np.frombuffer(b"", "<u2")


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer as the pipeline sees them; None is unknown, an empty array is known to be empty.

    `recent` and `contact` hold entries of views.RECENT and CONTACT, oldest first; `audiences` sorted ids.
    `profiling` is false when personalisation is off: then `recent` is empty and no profiling field is known.
    `unit`: the subject that experiments know the customer by; "" their own, None not known.
    """

    profile: Record | None
    audiences: NDArray[np.uint16] | None
    recent: NDArray[np.void] | None
    contact: NDArray[np.void] | None
    missing: tuple[str, ...] = ()
    profiling: bool = True
    unit: str | None = ""
    external: NDArray[np.void] = field(
        default_factory=lambda: NO_SCORES
    )  # of the bank's own models; never missing, only absent

    def knows(self, field: str) -> bool:
        """Whether a PROFILE field has a value that permission may rely on. KeyError for an unknown name."""
        bit = _BITS[field]
        return self.profile is not None and bool(self.profile.known & bit)

    def get(self, field: str) -> Any:
        """A PROFILE field's value, its default when unknown (fit for relevance only)."""
        if self.profile is None or not self.profile.known & _BITS[field]:
            return PROFILE.blank_record[field]
        return self.profile.values[field]


def decode_customer(
    blobs: Blobs,
    *,
    now: float,
    profiling: bool = True,
    schemas: Schemas | None = None,
    materialised: frozenset[str] = frozenset(),
    watermark: float = inf,
    consented: bool = True,
) -> Customer:
    """Decode what the stores returned. `materialised` names the views that the live key space holds;
    `watermark` (POSIX seconds) is that of its profiles. `consented` False: decided before consents of single
    fields counted, so that it is decided the same again.

    While a profile lies there that cannot be read, only fields of the patch newer than the watermark are
    known: the profile may say otherwise of the others.

    Raises nothing: what cannot be read is missing. When the patch cannot be read, a consent may have been
    withdrawn in it, so every permission field is unknown, and personalisation is off; so it is when a profile
    lies there that cannot be read, unless the patch says whether profiling is allowed.
    """
    patch, patch_readable = _patch(blobs.patch, schemas)
    record, problem = _record(PROFILE, blobs.profile, now, schemas)
    if patch is not None and problem not in _READABLE:
        patch = patch.since(watermark)
    if patch is not None:
        record = merge(record, patch)
    asked = patch_readable and (problem in _READABLE or _says(patch, "profiling"))
    allowed = profiling and asked and (record is None or bool(record.values["profiling"]))
    given = 0
    if record is not None:
        record = _permitted(record, profiling=allowed, permission=patch_readable)
        given = int(record.values["consents"]) if record.known & _BITS["consents"] else 0
        record = _consented(record, given) if consented else record
    audiences, no_membership = _audiences(blobs.membership, now, schemas, materialised)
    recent, contact = _log(blobs.recent, _NO_RECENT), _log(blobs.contact, _NO_CONTACT)
    if not allowed and recent is not None:
        recent = _NO_RECENT
    missing: tuple[str, ...] = ("profile",) if problem else ()
    if no_membership:
        missing += ("membership",)
    if recent is None or contact is None or not patch_readable:
        missing += ("live",)
    unit = None if blobs.unit == LATE_BLOB else (blobs.unit or b"").decode(errors="replace")
    scores = permitted(blobs.external, given) if allowed else NO_SCORES
    return Customer(record, audiences, recent, contact, missing, allowed, unit, scores)


_READABLE: Final = ("", "absent")


def _record(view: View, blob: bytes | None, now: float, schemas: Schemas | None) -> tuple[Record | None, str]:
    """The record, or why there is none: absent, late, schema, expired."""
    if blob is None:
        return None, "absent"
    if blob == LATE_BLOB:
        return None, "late"
    try:
        record = view.decode(blob, schemas)
    except SchemaMismatch:
        return None, "schema"
    if view.expired(record.as_of, now):
        return None, "expired"
    return record, ""


def _patch(blob: bytes | None, schemas: Schemas | None) -> tuple[Patch | None, bool]:
    """The patch, and whether it is known what it says."""
    if blob is None:
        return None, True
    try:
        return decode_patch(blob, schemas), True
    except SchemaMismatch:  # LATE_BLOB among them: it is shorter than a header
        return None, False


def _says(patch: Patch | None, field: str) -> bool:
    return patch is not None and bool(patch.record.known & _BITS[field])


def _permitted(record: Record, *, profiling: bool, permission: bool) -> Record:
    """The record without switched-off tags, and without the purposes that are not permitted or not known."""
    off = record.values["tags_off"]
    if off.tobytes() != _NO_TAGS_OFF:
        values = record.values.copy()
        values["tags"] &= ~off
        record = record._replace(values=values)
    if not profiling:
        record = _without(record, "profiling")
    if not permission:
        record = _without(record, "permission")
    return record


def _consented(record: Record, given: int) -> Record:
    """The record without the fields whose own consent is not among those given, or not known to be."""
    for bit, mask, where in _UNDER:
        if record.known & mask and not given & bit:
            record = _blanked(record, where, mask)
    return record


def _without(record: Record, purpose: Purpose) -> Record:
    return _blanked(record, _BYTES_OF[purpose], _MASK_OF[purpose])


def _blanked(record: Record, where: NDArray[np.bool_], mask: int) -> Record:
    raw = np.where(where, _BLANK, np.frombuffer(record.values.tobytes(), np.uint8))
    return Record(raw.view(PROFILE.dtype)[0], record.known & ~mask, record.as_of)


def _bytes_of(mask: int) -> NDArray[np.bool_]:
    """Which bytes of a packed profile belong to the fields with those known-bits."""
    marks = np.zeros(1, PROFILE.dtype)
    for one in PROFILE.fields:
        if PROFILE.bit(one.name) & mask:
            size = one.packed.itemsize * int(np.prod(one.shape))
            marks[one.name] = np.frombuffer(b"\1" * size, one.packed).reshape(one.shape)
    return np.frombuffer(marks.tobytes(), np.bool_)


# A profile is blanked as bytes: one operation instead of one per field.
_BLANK: Final = np.frombuffer(PROFILE.blank_record.tobytes(), np.uint8)
_MASK_OF: Final = {purpose: PROFILE.purpose_mask(purpose) for purpose in get_args(Purpose)}
_BYTES_OF: Final = {purpose: _bytes_of(mask) for purpose, mask in _MASK_OF.items()}
UNDER_CONSENT: Final = tuple(
    (1 << bit, mask) for bit, name in enumerate(CONSENTS) if (mask := PROFILE.consent_mask(name))
)
"""Of each consent that fields are used under: its bit, and their known-bits."""
_UNDER: Final = tuple((bit, mask, _bytes_of(mask)) for bit, mask in UNDER_CONSENT)


def _audiences(
    blob: bytes | None, now: float, schemas: Schemas | None, materialised: frozenset[str]
) -> tuple[NDArray[np.uint16] | None, bool]:
    """Sorted audience ids, and whether the view is missing."""
    if blob is None and MEMBERSHIP.sparse and MEMBERSHIP.name in materialised:
        return _NO_AUDIENCES, False
    record, problem = _record(MEMBERSHIP, blob, now, schemas)
    if record is None or not record.known:
        return None, True
    ids: NDArray[np.uint16] = record.values["audiences"]
    return ids[: np.count_nonzero(ids)], bool(problem)


def _log(blob: bytes | None, empty: NDArray[np.void]) -> NDArray[np.void] | None:
    if blob is None:
        return empty
    if len(blob) % empty.itemsize:
        return None
    return np.frombuffer(blob, empty.dtype)
