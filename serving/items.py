"""The catalogue in effect: the bundle's items under the overlay's changes since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from features.views import ITEM
from serving.bundle import Bundle
from serving.catalogue import (
    CatalogueError,
    compile_items,
    creative_text,
    layouts_of,
    parse_creative,
    parse_item,
    window_of,
)
from serving.domain import Rows
from serving.texts import ItemText, Texts

CREATIVE_OF = "item_id"  # in an overlay creative's payload: the item it is for, beside the creative's fields


class Entry(Protocol):
    """`serving.control.OverlayEntry`; `payload` None: deleted."""

    @property
    def seq(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def payload(self) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The bundle's rows, then those of items put since. Row numbers hold for one Live only."""

    bundle: Bundle
    table: NDArray[np.void]  # ITEM.dtype
    layouts: NDArray[np.uint8]
    texts: Texts
    added: Mapping[str, int]  # rows after the bundle's last
    problems: tuple[str, ...]  # overlay entries that could not be read; what they name is withdrawn

    def __len__(self) -> int:
        return len(self.table)

    def row(self, item_id: str) -> int | None:
        row = self.bundle.items.row(item_id)
        return row if row is not None else self.added.get(item_id)

    def rows_of_keys(self, keys: NDArray[np.uint64]) -> Rows:
        """-1 where not known."""
        rows = self.bundle.items.rows_of_keys(keys)
        if self.added and (rows < 0).any():
            first = len(self.bundle)
            new = self.table["key"][first:]
            hit = keys[:, None] == new
            rows = np.where(hit.any(axis=1), first + hit.argmax(axis=1), rows).astype(np.int32)
        return rows


def items_in_effect(bundle: Bundle, overlay: Sequence[Entry]) -> Items:
    """Apply overlay entries by sequence number; the last write of an item or a creative wins.

    An entry that cannot be read withdraws what it names rather than leaving the former version up.
    """
    change = _Change(bundle)
    for entry in sorted(overlay, key=lambda e: e.seq):
        try:
            change.apply(entry)
        except CatalogueError as error:
            change.problems.append(str(error))
            change.distrust(entry)
    return change.done()


def content_digest(changes: Sequence[Entry], lists: Mapping[str, int]) -> str:
    """Sixteen hex digits; "" where nothing was changed and there are no lists."""
    state = blake2b(digest_size=8)
    some = False
    for change in sorted(changes, key=lambda one: (one.seq, one.kind, one.id)):
        some = True
        state.update(orjson.dumps([change.seq, change.kind, change.id, change.payload]))
    for name, number in sorted(lists.items()):
        some = True
        state.update(f"\0{name}\0{number}".encode())
    return state.hexdigest() if some else ""


class _Change:
    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._records: dict[int, NDArray[np.void]] = {}  # row -> one ITEM record
        self._layouts: dict[int, int] = {}
        self._texts: dict[int, ItemText] = {}
        self._added: dict[str, int] = {}
        self.problems: list[str] = []

    def apply(self, entry: Entry) -> None:
        if entry.kind == "item":
            self._item(entry)
        elif entry.payload is None:
            self._creative_gone(entry.id)
        else:
            self._creative(entry.id, entry.payload)

    def distrust(self, entry: Entry) -> None:
        if entry.kind == "item":
            self._withdraw(entry.id)
        else:
            self._creative_gone(entry.id)

    def _item(self, entry: Entry) -> None:
        if entry.payload is None:
            self._withdraw(entry.id)
            return
        made = compile_items([parse_item({**entry.payload, "id": entry.id})])
        row = self._row(entry.id)
        if row is None:
            row = self._added[entry.id] = len(self._bundle) + len(self._added)
        self._records[row] = made.table.copy()
        self._layouts[row] = int(made.layouts[0])
        self._texts[row] = made.texts[0]

    def _withdraw(self, item_id: str) -> None:
        row = self._row(item_id)
        if row is not None:
            self._record(row)["withdrawn"] = 1

    def _creative(self, creative_id: str, payload: Mapping[str, Any]) -> None:
        item_id = str(payload.get(CREATIVE_OF, "?"))
        body = {name: value for name, value in payload.items() if name != CREATIVE_OF}
        made = creative_text(parse_creative({**body, "id": creative_id}, item_id))
        row = self._row(item_id)
        if row is None:
            problem = f"creative {creative_id!r} is of an unknown item"
            raise CatalogueError(item_id, "creatives", problem, "put the item first")
        self._creative_gone(creative_id)
        text = self._text(row)
        self._creatives(row, text, (*text.creatives, made))

    def _creative_gone(self, creative_id: str) -> None:
        """Its item keeps the others; left with none, it may not show its bare title instead."""
        for row in self._rows_with(creative_id):
            text = self._text(row)
            left = tuple(c._replace(live=False) if c.id == creative_id else c for c in text.creatives)
            self._creatives(row, text, left)

    def _creatives(self, row: int, text: ItemText, creatives: tuple[Any, ...]) -> None:
        last = {creative.id: creative for creative in creatives}  # a creative put again replaces the former
        kept = tuple(last.values())
        self._texts[row] = ItemText(text.id, text.kind, text.zh, text.en, text.category, text.action, kept)
        record, window = self._record(row), window_of(kept)
        record["approved"] = window is not None
        record["creative_from"], record["creative_until"] = window or (0.0, 0.0)
        self._layouts[row] = layouts_of(kept)

    def _rows_with(self, creative_id: str) -> list[int]:
        base = [row for row in _holders(self._bundle.compiled.texts, creative_id) if row not in self._texts]
        return [row for row in (*base, *self._texts) if _holds(self._text(row), creative_id)]

    def _row(self, item_id: str) -> int | None:
        row = self._bundle.items.row(item_id)
        return row if row is not None else self._added.get(item_id)

    def _text(self, row: int) -> ItemText:
        return self._texts.get(row) or self._bundle.compiled.texts[row]

    def _record(self, row: int) -> NDArray[np.void]:
        if row not in self._records:
            self._records[row] = self._bundle.compiled.table[row : row + 1].copy()
            self._layouts[row] = int(self._bundle.compiled.layouts[row])
        return self._records[row]

    def done(self) -> Items:
        base, n = self._bundle.compiled, len(self._bundle)
        table, layouts = base.table, base.layouts
        if self._records:
            table = np.concatenate((table, ITEM.blank(len(self._added))))
            layouts = np.concatenate((layouts, np.zeros(len(self._added), np.uint8)))
            for row, record in self._records.items():
                table[row], layouts[row] = record[0], self._layouts[row]
        texts = base.texts.changed(self._texts)
        if len(texts) != n + len(self._added):
            raise CatalogueError("?", "id", "the overlay's rows and texts disagree", "report this as a bug")
        return Items(self._bundle, table, layouts, texts, dict(self._added), tuple(self.problems))


def _holds(text: ItemText, creative_id: str) -> bool:
    return any(creative.id == creative_id for creative in text.creatives)


def _holders(texts: Texts, creative_id: str) -> list[int]:
    """Rows whose encoded text mentions the id: found as bytes, so that nothing is decoded to look."""
    needle, whole = orjson.dumps(creative_id), texts.blob.tobytes()
    rows, at = [], whole.find(needle)
    while at >= 0:
        row = int(np.searchsorted(texts.offsets, at, "right")) - 1
        rows.append(row)
        at = whole.find(needle, int(texts.offsets[row + 1]))
    return rows
