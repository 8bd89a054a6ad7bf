"""The tag dictionary: what each tag says about a customer, who answers for it, and its bit when packed.

Online a customer carries 128 bits, of which the dictionary names those in use. A bit is never given to
another tag while records, bundles or switched-off marks made before may still be read: take a new bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import ArrayLike, NDArray

from features.ids import BadId, check_id
from features.views import TAG_BITS

PURPOSES: Final = ("service", "permission", "contact", "profiling")


class TagError(ValueError):
    """A dictionary that contradicts itself, or a tag that it does not hold."""


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry. `type` is how the tag comes about: rule, model, list or stated; `freshness` and `retention`
    are days: how old it may be when used, and how long it may be kept. A tag is as old as the customers'
    table that says it. What is too old for either is left out when records are written (`training.profiles`);
    what is in the store already runs out with its record."""

    id: str
    type: str
    owner: str
    source: str
    freshness: int
    purpose: str
    retention: int
    bit: int

    def __post_init__(self) -> None:
        try:
            check_id(self.id, "tag id")
        except BadId as error:
            raise TagError(str(error)) from error
        if not isinstance(self.bit, int) or not 0 <= self.bit < TAG_BITS:
            raise TagError(f"tag {self.id}: bit {self.bit!r} is not one of 0 to {TAG_BITS - 1}")
        if self.type not in TYPES:
            raise TagError(f"tag {self.id}: type {self.type!r} is not one of {', '.join(TYPES)}")
        if self.purpose not in PURPOSES:
            raise TagError(f"tag {self.id}: purpose {self.purpose!r} is not one of {', '.join(PURPOSES)}")
        for name in ("freshness", "retention"):
            days = getattr(self, name)
            if not isinstance(days, int) or days < 1:
                raise TagError(f"tag {self.id}: {name} must be a number of days, at least 1, not {days!r}")
        if not self.owner or not self.source:
            raise TagError(f"tag {self.id}: owner and source may not be empty")


TYPES: Final = ("rule", "model", "list", "stated")
_COLUMNS: Final = frozenset(field.name for field in fields(Tag))


class TagDictionary:
    """Tags by id. Raises TagError when an id or a bit occurs twice."""

    def __init__(self, tags: Iterable[Tag] = ()) -> None:
        self._by_id: dict[str, Tag] = {}
        self._by_bit: dict[int, Tag] = {}
        for tag in tags:
            if tag.id in self._by_id:
                raise TagError(f"tag {tag.id} occurs twice")
            if tag.bit in self._by_bit:
                raise TagError(f"tags {self._by_bit[tag.bit].id} and {tag.id} share bit {tag.bit}")
            self._by_id[tag.id] = self._by_bit[tag.bit] = tag

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, tag_id: object) -> bool:
        return tag_id in self._by_id

    def __getitem__(self, tag_id: str) -> Tag:
        """Raises TagError for a tag that the dictionary does not hold."""
        try:
            return self._by_id[tag_id]
        except KeyError:
            raise TagError(f"tag {tag_id!r} is not in the tag dictionary; add it first") from None

    @property
    def tags(self) -> tuple[Tag, ...]:
        """All tags, by bit."""
        return tuple(self._by_bit[bit] for bit in sorted(self._by_bit))

    def pack(self, tag_ids: Iterable[str]) -> NDArray[np.uint8]:
        """The 16 bytes with these tags' bits set. Raises TagError for an unknown tag."""
        bits = np.zeros(TAG_BITS, np.uint8)
        bits[[self[tag_id].bit for tag_id in tag_ids]] = 1
        return np.packbits(bits, bitorder="little")

    def usable(self, age: float) -> NDArray[np.uint8]:
        """The 16 bytes with the bits of the tags that may be `age` days old, by freshness and retention."""
        return self.pack(tag.id for tag in self.tags if age <= min(tag.freshness, tag.retention))

    def unpack(self, packed: ArrayLike) -> tuple[str, ...]:
        """Ids of the tags set in 16 bytes, by bit; bits that no tag has are left out."""
        bits = np.flatnonzero(np.unpackbits(np.asarray(packed, np.uint8), bitorder="little"))
        return tuple(self._by_bit[bit].id for bit in bits.tolist() if bit in self._by_bit)

    def to_json(self) -> bytes:
        return orjson.dumps([asdict(tag) for tag in self.tags], option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, text: str | bytes) -> TagDictionary:
        """Raises TagError naming the entry and what is wrong with it."""
        try:
            entries = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise TagError(f"the tag dictionary is not JSON: {error}") from error
        if not isinstance(entries, list):
            raise TagError("the tag dictionary must be a list of tags")
        return cls(_tag(entry, i) for i, entry in enumerate(entries))

    def save(self, path: Path) -> None:
        path.write_bytes(self.to_json())

    @classmethod
    def load(cls, path: Path) -> TagDictionary:
        """Raises TagError, OSError."""
        return cls.from_json(path.read_bytes())


def _tag(entry: Any, i: int) -> Tag:
    if not isinstance(entry, Mapping):
        raise TagError(f"tag dictionary, entry {i}: not an object")
    if missing := _COLUMNS - set(entry):
        raise TagError(f"tag dictionary, entry {i}: {', '.join(sorted(missing))} missing")
    if unknown := set(entry) - _COLUMNS:
        raise TagError(f"tag dictionary, entry {i}: unknown {', '.join(sorted(unknown))}")
    return Tag(**entry)
