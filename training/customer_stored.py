"""What the stores hold of one customer, raw, and whether a decision made now would use it.

What is refused, switched off, expired or of an older form is kept as well, so a copy names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import inf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.customer import Blobs, Customer, decode_customer
from features.events import WHAT
from features.external import needs_of
from features.external import pack as pack_scores
from features.external import unpack as unpack_scores
from features.patch import Patch, decode_patch
from features.schema import Record, SchemaMismatch, Schemas
from features.views import CONTACT, MEMBERSHIP, PROFILE, PROFILE_COLUMNS, RECENT, consents_in

_CODES: Final = {code: name for name, code in WHAT.items()}
REFUSED: Final = "personalisation is refused: profiling fields, behaviour and scores are kept, not used"
EXPIRED: Final = "the record is too old to be used"
TAGS_OFF: Final = "tags that were switched off are kept, not used"
UNREAD: Final = "it was written by a version that this one does not know, so it is not used"


def stored(
    blobs: Blobs,
    *,
    now: float,
    schemas: Schemas,
    watermark: float = inf,
    items: Mapping[int, str] | None = None,
    lists: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """JSON-able. `items` and `lists`: names by key64 and number, where they are known; `watermark`: of the
    key space's profiles, POSIX seconds.
    """
    used = decode_customer(blobs, now=now, schemas=schemas, watermark=watermark)
    named, notes = items or {}, []
    profile = _record(PROFILE, blobs.profile, schemas)
    if isinstance(profile, Record) and PROFILE.expired(profile.as_of, now):
        notes.append(f"profile: {EXPIRED}")
    member = _record(MEMBERSHIP, blobs.membership, schemas)
    if isinstance(member, Record) and MEMBERSHIP.expired(member.as_of, now):
        notes.append(f"audiences: {EXPIRED}")
    patch = _patch(blobs.patch, schemas)
    for part, found in (("profile", profile), ("audiences", member), ("changes", patch)):
        if isinstance(found, dict):
            notes.append(f"{part}: {UNREAD}")
    if not used.profiling:
        notes.append(REFUSED)
    changed = patch.record if isinstance(patch, Patch) else None
    if any(isinstance(one, Record) and one.values["tags_off"].any() for one in (profile, changed)):
        notes.append(TAGS_OFF)
    return {
        "profile": _fields(profile, used) if isinstance(profile, Record) else _unread(profile),
        "changes": _changes(patch, used) if isinstance(patch, Patch) else _unread(patch),
        "audiences": _audiences(member, lists or {}) if isinstance(member, Record) else _unread(member),
        "behaviour": _entries(blobs.recent, RECENT, named),
        "contacts": _entries(blobs.contact, CONTACT, named),
        "scores": _scores(blobs.external, named),
        "experiments_know_them_as": (blobs.unit or b"").decode(errors="replace"),
        "not_used": notes,
    }


def _record(view: Any, blob: bytes | None, schemas: Schemas) -> Record | dict[str, Any] | None:
    if blob is None:
        return None
    try:
        made: Record = view.decode(blob, schemas)
    except SchemaMismatch as strange:
        return {"unreadable": str(strange), "bytes": blob.hex()}
    return made


def _patch(blob: bytes | None, schemas: Schemas) -> Patch | dict[str, Any] | None:
    if blob is None:
        return None
    try:
        return decode_patch(blob, schemas)
    except SchemaMismatch as strange:
        return {"unreadable": str(strange), "bytes": blob.hex()}


def _unread(found: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [] if found is None else [found]


def _fields(record: Record, used: Customer) -> list[dict[str, Any]]:
    """Known fields with their purpose, meaning, and whether decisions see this very value."""
    return [
        {
            "field": column.name,
            "purpose": column.purpose,
            "meaning": column.meaning,
            "consent": PROFILE.field(column.name).consent or None,
            "value": plain(record.values[column.name]),
            "used": _seen(used, column.name, record.values[column.name]),
        }
        for column in PROFILE_COLUMNS
        if record.known & PROFILE.bit(column.name)
    ]


def _changes(patch: Patch, used: Customer) -> list[dict[str, Any]]:
    """What was changed one by one, with its time; it stands above the batch record's value."""
    at = dict(zip(PROFILE.names, patch.times.tolist(), strict=True))
    return [{**one, "changed_at": told_time(at[one["field"]])} for one in _fields(patch.record, used)]


def _seen(used: Customer, name: str, value: Any) -> bool:
    return used.knows(name) and np.asarray(used.get(name)).tobytes() == np.asarray(value).tobytes()


def _audiences(member: Record, lists: Mapping[int, str]) -> list[dict[str, Any]]:
    numbers: NDArray[np.uint16] = member.values["audiences"]
    return [{"number": one, "list": lists.get(one)} for one in numbers[numbers != 0].tolist()]


def _entries(blob: bytes | None, form: np.dtype[np.void], items: Mapping[int, str]) -> list[dict[str, Any]]:
    if blob is None:
        return []
    if len(blob) % form.itemsize:
        return [{"unreadable": f"{len(blob)} bytes are no entries", "bytes": blob.hex()}]
    return [
        {
            "at": told_time(float(one["at"])),
            "what": _CODES.get(int(one["what"]), int(one["what"])),
            "item": items.get(int(one["item"]), int(one["item"])),
        }
        for one in np.frombuffer(blob, form)
    ]


def _scores(blob: bytes | None, items: Mapping[int, str]) -> list[dict[str, Any]]:
    found = unpack_scores(blob)
    needs = needs_of(blob)
    if blob is not None and not len(found) and blob != pack_scores(found):
        return [{"unreadable": f"{len(blob)} bytes are no scores", "bytes": blob.hex()}]
    return [
        {
            "item": items.get(int(one["item"]), int(one["item"])),
            "model": f"{int(one['model']):08x}",
            "score": float(one["score"]),
            "expires": told_time(float(one["expires"])),
            "consents": consents_in(needs.get(int(one["model"]), 0)),
        }
        for one in found
    ]


def plain(value: Any) -> Any:
    """A stored value as JSON has it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode(errors="replace")
    if isinstance(value, np.generic):
        return plain(value.item())
    return value


def told_time(at: float) -> str:
    """POSIX seconds as RFC 3339."""
    return datetime.fromtimestamp(at, UTC).isoformat()
