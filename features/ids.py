"""External identifiers, their 64- and 32-bit keys, and the small closed vocabularies of PRODUCT's words.

Ids are UTF-8, 1 to 64 bytes, and kept whole in store keys. Inside packed records an item is its 64-bit key,
and a slot, campaign, creative, category, org or place its 32-bit key: BLAKE2b (RFC 7693) truncated,
little-endian, never 0, so that 0 can mean "none". Publishing refuses a catalogue whose keys collide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from features.past import Directory

MAX_ID_BYTES: Final = 64
_OF_8: Final = blake2b(digest_size=8)  # copied: to make one takes twice as long

KINDS: Final = ("function", "product", "activity", "content", "benefit", "service")
KIND_CODE: Final = {kind: code for code, kind in enumerate(KINDS)}

LAYOUTS: Final = ("banner", "icon_grid", "shelf", "popup", "feed", "push", "search_hint")

CHANNELS: Final = ("app", "h5", "mini_program", "web", "push")
CHANNEL_CODE: Final = {channel: code + 1 for code, channel in enumerate(CHANNELS)}  # 0: not known


class BadId(ValueError):
    """An identifier that is empty, too long, or not text."""


def check_id(text: object, what: str = "id") -> str:
    """`text` itself when it is a valid id: UTF-8 text of 1 to 64 bytes without control characters."""
    if not isinstance(text, str):
        raise BadId(f"{what} must be text, not {type(text).__name__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadId(f"{what} is not valid UTF-8 text") from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise BadId(f"{what} must have 1 to {MAX_ID_BYTES} bytes of UTF-8, this has {size}")
    if not text.isprintable():
        raise BadId(f"{what} holds control characters")
    return text


def bytes64(text: str) -> bytes:
    """Eight bytes of a hash."""
    state = _OF_8.copy()
    state.update(text.encode())
    return state.digest()


def key64(text: str) -> int:
    """The 64-bit key of an id; never 0."""
    return int.from_bytes(bytes64(text), "little") or 1


def signed64(text: str) -> int:
    """The same 64 bits as compiled loops take them."""
    return int.from_bytes(bytes64(text), "little", signed=True) or 1


def key32(text: str) -> int:
    """The 32-bit key of a name; never 0."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little") or 1


def decision_key64(subject: str, decision_id: str) -> int:
    """One key of a decision, which its id is only beside its subject."""
    return key64(f"{len(subject)}:{subject}{decision_id}")


def decision_mark(subject: str, decision_id: str) -> int:
    """The lower half of `decision_key64`: told apart within one customer's logs."""
    return decision_key64(subject, decision_id) & 0xFFFFFFFF


def keys64(texts: Iterable[str]) -> NDArray[np.uint64]:
    return np.fromiter((key64(text) for text in texts), np.uint64)


def user_subject(user_id: str) -> str:
    return "u:" + user_id


def visitor_subject(visitor_id: str) -> str:
    return "v:" + visitor_id


FEW: Final = 4096  # keys that a page asks about


class Vocabulary:
    """External ids and their dense rows, in a fixed order; rows are valid within one bundle only."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids: tuple[str, ...] = tuple(ids)
        self._row = {text: row for row, text in enumerate(self.ids)}
        if len(self._row) != len(self.ids):
            raise ValueError("a vocabulary may not hold an id twice")
        self.keys = keys64(self.ids)
        self._order = np.argsort(self.keys, kind="stable").astype(np.int32)
        self._sorted = self.keys[self._order]
        if len(self._sorted) > 1 and bool((self._sorted[1:] == self._sorted[:-1]).any()):
            raise ValueError("two ids share a 64-bit key: rename one of them")

    @cached_property
    def _directory(self) -> Directory:
        from features.past import Directory  # what has no vocabulary to ask needs no compiler

        return Directory(self._sorted, self._order)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, text: object) -> bool:
        return text in self._row

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when an id, or the order of ids, does."""
        return blake2b("\0".join(self.ids).encode(), digest_size=6).hexdigest()

    def row(self, text: str) -> int | None:
        return self._row.get(text)

    def rows(self, texts: Iterable[str]) -> NDArray[np.int32]:
        """Rows of ids, -1 where not known."""
        return np.fromiter((self._row.get(text, -1) for text in texts), np.int32)

    def rows_of_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Rows of 64-bit keys, -1 where not known."""
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int32)
        if len(keys) <= FEW:
            return self._directory.of(keys)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], np.int32(-1)).astype(np.int32)
