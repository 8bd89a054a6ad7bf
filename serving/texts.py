"""What is rendered of each item: decoded when first shown, and its JSON written once.

A bundle keeps the texts as one block of JSON lines with offsets (memory-mapped), so that loading 100,000
items costs nothing until one of them is placed on a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray


class CreativeText(NamedTuple):
    """A creative as it is shown. `layouts` is a bit mask; `until` None means without end."""

    id: str
    key: int
    layouts: int
    locale: str
    title: str
    text: str
    image: str
    disclosure: str
    action: str | None
    live: bool
    starts: float
    until: float | None

    def shows(self, layout: int, now: float) -> bool:
        inside = self.starts <= now and (self.until is None or now < self.until)
        return self.live and inside and bool(self.layouts >> layout & 1)


@dataclass(frozen=True, slots=True)
class ItemText:
    id: str
    kind: str
    zh: str
    en: str
    category: str
    action: str
    creatives: tuple[CreativeText, ...] = ()

    def title(self, locale: str) -> str:
        return self.en if locale.startswith("en") else self.zh

    @property
    def timeless(self) -> bool:
        """Whether `pick` gives the same at any time."""
        return all(creative.starts == 0 and creative.until is None for creative in self.creatives)

    @property
    def by_seconds(self) -> bool:
        """Whether `pick` gives the same throughout each second."""
        times = (at for creative in self.creatives for at in (creative.starts, creative.until or 0.0))
        return all(at % 1.0 == 0 for at in times)

    def pick(self, layout: int, locale: str, now: float, killed: frozenset[int] = frozenset()) -> int | None:
        """The creative for a layout code: of the locale when there is one, else any.

        -1: the item has no creatives and shows its own title. None: nothing may be shown here now.
        """
        if not self.creatives:
            return -1
        english, second = locale.startswith("en"), None
        for index, creative in enumerate(self.creatives):
            if creative.shows(layout, now) and creative.key not in killed:
                if (creative.locale == "en") == english:
                    return index
                second = index if second is None else second
        return second

    def json(self, creative: int, locale: str) -> bytes:
        """`"item_id":…,"kind":…,"creative":{…},"action":…` without braces, to be joined into a response."""
        return orjson.dumps(self.shown(creative, locale))[1:-1]

    def shown(self, creative: int, locale: str) -> dict[str, Any]:
        """The same, as data."""
        if creative < 0:
            body = {"id": None, "title": self.title(locale), "text": "", "image": "", "disclosure": ""}
            return {"item_id": self.id, "kind": self.kind, "creative": body, "action": self.action}
        c = self.creatives[creative]
        body = {"id": c.id, "title": c.title, "text": c.text, "image": c.image, "disclosure": c.disclosure}
        return {"item_id": self.id, "kind": self.kind, "creative": body, "action": c.action or self.action}

    def creative_key(self, creative: int) -> int:
        """The 32-bit key for page tokens; 0 when the item shows its own title."""
        return self.creatives[creative].key if creative >= 0 else 0

    def encode(self) -> bytes:
        creatives = [list(creative) for creative in self.creatives]
        return orjson.dumps([self.id, self.kind, self.zh, self.en, self.category, self.action, creatives])

    @classmethod
    def decode(cls, blob: bytes | memoryview) -> ItemText:
        name, kind, zh, en, category, action, creatives = orjson.loads(blob)
        made = tuple(CreativeText(*creative) for creative in creatives)
        return cls(name, kind, zh, en, category, action, made)


class Texts:
    """`texts[row]`: the ItemText of a row. Rows are decoded when first asked for and then kept."""

    __slots__ = ("_blob", "_made", "_offsets", "_shown")

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self._blob, self._offsets = blob, offsets
        self._made: dict[int, ItemText] = {}
        self._shown: tuple[dict[tuple[int, int], bytes], ...] = ({}, {})  # in Chinese, in English

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> ItemText:
        made = self._made.get(row)
        if made is None:
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)} texts")
            made = self._made[row] = ItemText.decode(self._encoded(row))
        return made

    def __iter__(self) -> Iterator[ItemText]:
        return (self[row] for row in range(len(self)))

    def ids(self, rows: Iterable[int]) -> list[str]:
        """The items' ids."""
        made = self._made.get
        return [(made(row) or self[row]).id for row in rows]

    def fragments(self, shown: Iterable[tuple[int, int]], english: bool) -> list[bytes]:
        """`ItemText.json` of (row, creative) each; made when first shown and kept."""
        kept = self._shown[english]
        return [kept.get(one) or self._fragment(one, english) for one in shown]

    def _fragment(self, shown: tuple[int, int], english: bool) -> bytes:
        row, creative = shown
        made = self._shown[english][shown] = self[row].json(creative, "en" if english else "zh")
        return made

    @property
    def blob(self) -> NDArray[np.uint8]:
        return self._blob

    @property
    def offsets(self) -> NDArray[np.int64]:
        return self._offsets

    @classmethod
    def of(cls, texts: Iterable[ItemText]) -> Texts:
        return cls._packed([text.encode() for text in texts])

    def changed(self, changes: Mapping[int, ItemText]) -> Texts:
        """A copy with rows replaced; rows at and beyond the end, which must be contiguous, are added."""
        n = max(len(self), 1 + max(changes, default=-1))
        if not changes:
            return self
        copy = _Changed(self._blob, self._offsets, n, changes)
        made = self._made.copy()  # in one step: while this runs in a thread, pages decode more of them
        copy._made.update({row: text for row, text in made.items() if row not in changes})
        return copy

    def _encoded(self, row: int) -> bytes:
        return self._blob[self._offsets[row] : self._offsets[row + 1]].tobytes()

    @classmethod
    def _packed(cls, blobs: list[bytes]) -> Texts:
        offsets = np.zeros(len(blobs) + 1, np.int64)
        np.cumsum([len(blob) for blob in blobs], out=offsets[1:])
        return cls(np.frombuffer(b"".join(blobs), np.uint8), offsets)


class _Changed(Texts):
    """The bundle's texts under the overlay's."""

    __slots__ = ("_n",)

    def __init__(
        self, blob: NDArray[np.uint8], offsets: NDArray[np.int64], n: int, changes: Mapping[int, ItemText]
    ) -> None:
        super().__init__(blob, offsets)
        self._n = n
        self._made.update(changes)

    def __len__(self) -> int:
        return self._n
