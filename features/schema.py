"""Feature views: one declaration that offline jobs write by and the service reads by.

A stored record is a packed little-endian blob: the fingerprint of the declaration it was written by (u4),
the watermark it describes (`as_of`, POSIX seconds, f8), a bit per field that is known (u8), and the fields.
Readers know today's declaration and, through `Schemas`, older ones: an older record is projected by field
name, and what it did not have is marked unknown. Nothing is guessed: a record of a foreign declaration raises
`SchemaMismatch`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as kept
from datetime import timedelta
from functools import cached_property
from hashlib import blake2b
from math import isfinite
from struct import Struct
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Purpose = Literal["service", "permission", "contact", "profiling"]
Entity = Literal["user", "item"]
Records = NDArray[np.void]

MAX_FIELDS: Final = 64
HEADER: Final = Struct("<IdQ")  # fingerprint, as_of, known: without padding, 20 bytes

# Unsigned, signed, float, bytes. No booleans: a flag is u1, so that any byte is a valid value.
_KINDS_ALLOWED: Final = "uifS"
_LETTERS: Final = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f4": "f", "f8": "d"}  # of `struct`


class SchemaMismatch(ValueError):
    """A stored record was written by a declaration that this reader does not know, or is damaged."""


@dataclass(frozen=True, slots=True)
class Field:
    """One column: a NumPy scalar type, an optional shape, the value when nothing is known, and its purpose.

    `consent`: the customer's that it is used under; "" none. Like the purpose it is how today's reader treats
    the field and not what a record holds: it is neither stored nor compared.

    Raises ValueError for types that have no fixed little-endian form and for defaults that do not fit.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    default: float = 0
    purpose: Purpose = "profiling"
    consent: str = kept(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"field name {self.name!r} is not an identifier")
        if self.purpose not in get_args(Purpose):
            raise ValueError(f"field {self.name}: unknown purpose {self.purpose!r}")
        kind = np.dtype(self.dtype)
        if kind.kind not in _KINDS_ALLOWED or kind.itemsize == 0:
            raise ValueError(f"field {self.name}: type {self.dtype!r} has no fixed packed form")
        if any(size < 1 for size in self.shape):
            raise ValueError(f"field {self.name}: shape {self.shape} has an empty side")
        if not _fits(self.default, kind):
            raise ValueError(f"field {self.name}: default {self.default} does not fit {self.dtype}")

    @property
    def packed(self) -> np.dtype[Any]:
        """The scalar type, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")


class Record(NamedTuple):
    """One entity: its values (unknown fields hold defaults, fit for relevance only), known bits, time."""

    values: np.void
    known: int
    as_of: float


class Part(NamedTuple):
    """Some fields of a record, read in one step: numbers alone, an array's one after the other."""

    packed: Struct
    at: Mapping[str, int]  # place of each field's first number

    def read(self, values: np.void) -> tuple[Any, ...]:
        return self.packed.unpack(values.tobytes())


class Read(NamedTuple):
    """What a store knew about n entities; row i is fit for use where `present[i]`, else it holds defaults."""

    records: Records
    known: NDArray[np.uint64]
    present: NDArray[np.bool_]
    as_of: NDArray[np.float64]
    problems: tuple[str, ...]  # per row: "" when present, else "absent", "expired" or "schema"


@dataclass(frozen=True)
class View:
    """A group of fields about one kind of entity, written together and read together.

    `sparse`: once the view has been materialised, an entity without a record is known to have none of it.
    """

    name: str
    entity: Entity
    ttl: timedelta
    fields: tuple[Field, ...]
    sparse: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.fields) <= MAX_FIELDS:
            raise ValueError(f"view {self.name}: {len(self.fields)} fields, must be 1 to {MAX_FIELDS}")
        if len(set(self.names)) != len(self.fields):
            raise ValueError(f"view {self.name}: a field name occurs twice")
        if self.entity not in get_args(Entity):
            raise ValueError(f"view {self.name}: unknown entity {self.entity!r}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The fields alone, packed."""
        return np.dtype([(field.name, field.packed, field.shape) for field in self.fields])

    @cached_property
    def wire_dtype(self) -> np.dtype[np.void]:
        """The whole blob: `fp`, `as_of`, `known`, then the fields as one nested column `values`."""
        return np.dtype([("fp", "<u4"), ("as_of", "<f8"), ("known", "<u8"), ("values", self.dtype)])

    @cached_property
    def fingerprint(self) -> int:
        """32 bits that change with the name, the entity, and any field's name, order, type, shape or default.

        Not with purpose, TTL or `sparse`: those are how today's reader treats a record, not what it holds.
        """
        layout = [[f.name, f.packed.str, list(f.shape), float(f.default)] for f in self.fields]
        spec = json.dumps([self.name, self.entity, layout]).encode()
        return int.from_bytes(blake2b(spec, digest_size=4).digest(), "little")

    @cached_property
    def all_known(self) -> int:
        return (1 << len(self.fields)) - 1

    @cached_property
    def size(self) -> int:
        """Bytes of one blob."""
        return self.wire_dtype.itemsize

    @cached_property
    def blank_record(self) -> np.void:
        """One read-only record of defaults."""
        records = self.blank(1)
        records.flags.writeable = False
        record: np.void = records[0]
        return record

    def field(self, name: str) -> Field:
        """Raises KeyError for a name that the view does not declare."""
        return self.fields[self._position[name]]

    def bit(self, name: str) -> int:
        """The known-bit of a field. Raises KeyError for a name that the view does not declare."""
        return 1 << self._position[name]

    def mask(self, names: Iterable[str]) -> int:
        """The known-bits of several fields."""
        return sum({self.bit(name) for name in names})

    def purpose_mask(self, purpose: Purpose) -> int:
        """The known-bits of every field of a purpose."""
        return self.mask(field.name for field in self.fields if field.purpose == purpose)

    def consent_mask(self, consent: str) -> int:
        """The known-bits of every field that is used under a consent."""
        return self.mask(field.name for field in self.fields if field.consent == consent)

    def part(self, *names: str) -> Part:
        """Raises KeyError for a name that the view does not declare."""
        wanted = {self.field(name).name for name in names}
        text, at, numbers = "<", {}, 0
        for field in self.fields:
            size = int(np.prod(field.shape))
            if field.name not in wanted:
                text += f"{size * field.packed.itemsize}x"
                continue
            text += f"{size}{_LETTERS[field.packed.str[1:]]}"
            at[field.name], numbers = numbers, numbers + size
        return Part(Struct(text), at)

    def blank(self, n: int) -> Records:
        """`n` records of defaults."""
        records = np.zeros(n, self.dtype)
        for field in self.fields:
            if field.default and field.packed.kind != "S":
                records[field.name] = field.default
        return records

    def pack(self, records: Records, *, as_of: ArrayLike, known: ArrayLike | None = None) -> NDArray[np.void]:
        """Blobs of `records` (n of `dtype`) as one array of `wire_dtype`; `row.tobytes()` is a blob.

        `as_of` and `known` are one value or n. Unknown fields are written as their defaults, so that equal
        knowledge gives equal bytes. Raises ValueError when a watermark or a known float is not finite.
        """
        wire = np.empty(len(records), self.wire_dtype)
        wire["fp"], wire["as_of"] = self.fingerprint, as_of
        wire["known"] = self.all_known if known is None else np.asarray(known, np.uint64)
        wire["known"] &= np.uint64(self.all_known)
        wire["values"] = records
        if not np.isfinite(wire["as_of"]).all():
            raise ValueError(f"{self.name}: a watermark is not finite")
        self._reset_unknown(wire)
        self._check_finite(wire["values"])
        return wire

    def encode(self, record: np.void, *, as_of: float, known: int | None = None) -> bytes:
        """One blob; as `pack`."""
        return self.pack(np.asarray(record, self.dtype).reshape(1), as_of=as_of, known=known).tobytes()

    def decode(self, blob: bytes, schemas: Schemas | None = None) -> Record:
        """The record in a blob; its values are a read-only window on the bytes when the blob is current.

        Raises SchemaMismatch when the blob was written by a declaration that neither this view nor `schemas`
        knows, or has the wrong size, or a watermark that is not finite.
        """
        if len(blob) < HEADER.size:
            raise SchemaMismatch(f"{self.name}: {len(blob)} bytes are too few for a record")
        fingerprint, as_of, known = HEADER.unpack_from(blob)
        if fingerprint != self.fingerprint:
            older = schemas.find(self.name, fingerprint) if schemas else None
            if older is None or older.fingerprint == self.fingerprint:
                raise SchemaMismatch(f"{self.name}: stored {fingerprint:#010x}, not {self.fingerprint:#010x}")
            return self.project(older.decode(blob), older)
        if len(blob) != self.size:
            raise SchemaMismatch(f"{self.name}: {len(blob)} bytes, a record has {self.size}")
        if not isfinite(as_of):
            raise SchemaMismatch(f"{self.name}: the stored watermark is not finite")
        values = np.frombuffer(blob, self.dtype, 1, HEADER.size)[0]
        return Record(values, known & self.all_known, as_of)

    def project(self, record: Record, older: View) -> Record:
        """A record of another declaration as one of this, by name; new or unsafely retyped: unknown."""
        values = np.asarray(record.values, older.dtype).reshape(1)
        records, known = self.project_all(values, np.array([record.known], np.uint64), older)
        return Record(records[0], int(known[0]), record.as_of)

    def project_all(
        self, records: Records, known: NDArray[np.uint64], older: View
    ) -> tuple[Records, NDArray[np.uint64]]:
        """As `project`, n records at once."""
        projected, bits = self.blank(len(records)), np.zeros(len(records), np.uint64)
        for field in self.carried_from(older):
            held = (known & np.uint64(older.bit(field.name))) != 0
            projected[field.name][held] = records[field.name][held]
            bits[held] |= np.uint64(self.bit(field.name))
        return projected, bits

    def carried_from(self, older: View) -> tuple[Field, ...]:
        """The fields whose values an older declaration's records can give without loss."""
        return tuple(field for field in self.fields if _carries(older, field))

    def unpack(self, blobs: Sequence[bytes | None], *, now: float, schemas: Schemas | None = None) -> Read:
        """Records of n blobs (None: no record); older than the TTL at `now` is "expired". Raises nothing."""
        n = len(blobs)
        read = Read(self.blank(n), np.zeros(n, np.uint64), np.zeros(n, np.bool_), np.zeros(n), ())
        for writer in {self.fingerprint: self, **(schemas.declared(self.name) if schemas else {})}.values():
            self._unpack_written_by(writer, blobs, read)
        problems = ["absent" if blob is None else "schema" for blob in blobs]
        expired = read.present & ~(now - read.as_of <= self._ttl_s)
        for i in np.flatnonzero(read.present).tolist():
            problems[i] = "expired" if expired[i] else ""
        read.records[expired], read.known[expired], read.present[expired] = self.blank_record, 0, False
        return read._replace(problems=tuple(problems))

    def expired(self, as_of: float, now: float) -> bool:
        return not now - as_of <= self._ttl_s

    def spec(self) -> dict[str, Any]:
        """JSON-able; `from_spec` reads it back."""
        fields = [
            {
                "name": f.name,
                "dtype": f.dtype,
                "shape": list(f.shape),
                "default": f.default,
                "purpose": f.purpose,
            }
            for f in self.fields
        ]
        ttl = self.ttl.total_seconds()
        return {
            "name": self.name,
            "entity": self.entity,
            "ttl_s": ttl,
            "sparse": self.sparse,
            "fields": fields,
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> View:
        """Raises SchemaMismatch when the mapping is not a view's."""
        try:
            fields = tuple(Field(**{**f, "shape": tuple(f["shape"])}) for f in spec["fields"])
            ttl = timedelta(seconds=spec["ttl_s"])
            return cls(spec["name"], spec["entity"], ttl, fields, bool(spec["sparse"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SchemaMismatch(f"not the declaration of a view: {error}") from error

    @cached_property
    def _ttl_s(self) -> float:
        return self.ttl.total_seconds()

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def _reset_unknown(self, wire: NDArray[np.void]) -> None:
        if bool((wire["known"] == self.all_known).all()):
            return
        blank, values = self.blank_record, wire["values"]
        for name in self.names:
            unknown = (wire["known"] & np.uint64(self.bit(name))) == 0
            if unknown.any():
                values[name][unknown] = blank[name]

    def _check_finite(self, values: Records) -> None:
        for field in self.fields:
            if field.packed.kind == "f" and not np.isfinite(values[field.name]).all():
                column = np.isfinite(values[field.name]).reshape(len(values), -1).all(axis=1)
                row = int(np.flatnonzero(~column)[0])
                raise ValueError(
                    f"{self.name}.{field.name}: row {row} is not finite; mark it unknown instead"
                )

    def _unpack_written_by(self, writer: View, blobs: Sequence[bytes | None], read: Read) -> None:
        """Fill in the rows whose blobs are of one declaration, all at once."""
        mark, size = writer.fingerprint.to_bytes(4, "little"), writer.size
        chosen = [
            (i, blob)
            for i, blob in enumerate(blobs)
            if blob is not None and len(blob) == size and blob.startswith(mark)
        ]
        wire = np.frombuffer(b"".join(blob for _, blob in chosen), writer.wire_dtype)
        finite = np.isfinite(wire["as_of"])
        at, wire = np.array([i for i, _ in chosen], np.intp)[finite], wire[finite]
        known: NDArray[np.uint64] = wire["known"] & np.uint64(writer.all_known)
        records: Records = wire["values"]
        if writer.fingerprint != self.fingerprint:
            records, known = self.project_all(records, known, writer)
        read.records[at], read.known[at] = records, known
        read.as_of[at], read.present[at] = wire["as_of"], True


class Schemas:
    """Every declaration of the views that a reader may meet; travels with the bundle."""

    def __init__(self, views: Iterable[View] = ()) -> None:
        self._views: dict[tuple[str, int], View] = {}
        for view in views:
            self.add(view)

    def __iter__(self) -> Iterator[View]:
        return iter(self._views.values())

    def __len__(self) -> int:
        return len(self._views)

    def add(self, view: View) -> None:
        """Raises ValueError when two different declarations share a fingerprint."""
        old = self._views.setdefault((view.name, view.fingerprint), view)
        if old.dtype != view.dtype:
            raise ValueError(f"two declarations of {view.name} share a fingerprint: rename a field")

    def find(self, name: str, fingerprint: int) -> View | None:
        return self._views.get((name, fingerprint))

    def declared(self, name: str) -> dict[int, View]:
        """Every declaration of one view, by fingerprint."""
        return {fingerprint: view for (of, fingerprint), view in self._views.items() if of == name}

    def to_json(self) -> str:
        return json.dumps([view.spec() for view in self], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Schemas:
        """Raises SchemaMismatch when the text is not a list of declarations."""
        try:
            specs = json.loads(text)
        except ValueError as error:
            raise SchemaMismatch(f"not JSON: {error}") from error
        if not isinstance(specs, list):
            raise SchemaMismatch("not a list of declarations")
        return cls(View.from_spec(spec) for spec in specs)


def _fits(default: float, kind: np.dtype[Any]) -> bool:
    if kind.kind == "S":
        return default == 0  # the empty text
    if kind.kind == "f":
        return isfinite(default)
    limits = np.iinfo(kind)
    return float(default).is_integer() and int(limits.min) <= default <= int(limits.max)


def _carries(older: View, field: Field) -> bool:
    if field.name not in older.names:
        return False
    was = older.field(field.name)
    return was.shape == field.shape and np.can_cast(was.packed, field.packed, "safe")
