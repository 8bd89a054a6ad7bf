"""A page as it is remembered for ten minutes, so that a retry gets it byte for byte.

zstd (level 1) of MessagePack: what was asked (a digest of surface and slots), whether the page was
personal, its bundle, the keys of what is shown, the body. With them a replica sees that something on the
page may not be shown any more: then the page is decided afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgpack
import numpy as np
import zstandard
from numpy.typing import NDArray

from serving.domain import Decision, SlotRequest
from serving.placed import Columns

VERSION: Final = 3
_MOST_BYTES: Final = 4 * 1024 * 1024
_PACK = zstandard.ZstdCompressor(level=1)
_UNPACK = zstandard.ZstdDecompressor()


@dataclass(frozen=True, slots=True)
class Remembered:
    """`items` key64, `creatives` and `slots` key32 of every place, in page order."""

    asked: bytes
    profiling: bool
    bundle: str
    items: NDArray[np.uint64]
    creatives: NDArray[np.uint32]
    slots: NDArray[np.uint32]
    body: bytes

    def encode(self) -> bytes:
        columns = [column.tobytes() for column in (self.items, self.creatives, self.slots)]
        head = [VERSION, self.asked, self.profiling, self.bundle]
        return _PACK.compress(msgpack.packb([*head, *columns, self.body]))

    @classmethod
    def of(cls, decision: Decision, body: bytes, columns: Columns | None = None) -> Remembered:
        columns = Columns.of(decision.placements) if columns is None else columns
        slots = [decision.query.slots[slot].spec.key for slot in columns.slot]
        return cls(
            asked_for(decision.query.surface, decision.query.slots),
            decision.query.profiling,
            decision.bundle,
            np.array(columns.key, np.uint64),
            np.array(columns.creative_key, np.uint32),
            np.array(slots, np.uint32),
            body,
        )


def decode(blob: bytes) -> Remembered | None:
    """None when the bytes are not a page of this version: it is then decided afresh."""
    try:
        if zstandard.frame_content_size(blob) > _MOST_BYTES:  # it is allocated before anything is read
            return None
        version, asked, profiling, bundle, items, creatives, slots, body = msgpack.unpackb(
            _UNPACK.decompress(blob, max_output_size=_MOST_BYTES)
        )
        if version != VERSION:
            return None
        keys = (
            np.frombuffer(items, np.uint64),
            np.frombuffer(creatives, np.uint32),
            np.frombuffer(slots, np.uint32),
        )
        return Remembered(asked, bool(profiling), bundle, *keys, body)
    except (zstandard.ZstdError, ValueError, TypeError, msgpack.UnpackException):
        return None


def asked_for(surface: str, slots: Sequence[SlotRequest]) -> bytes:
    """A digest of what a page was asked for; exclusions and counts are not part of it."""
    text = "\0".join((surface, *(slot.spec.name for slot in slots)))
    return blake2b(text.encode(), digest_size=8).digest()
