"""A file of items -> catalogue items: columns named like an item's fields fill them, the others become
attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from features.ids import KIND_CODE, KINDS
from serving.catalogue import CatalogueError, Item, parse_item
from training.adapters.roles import ITEM_ROLES, assign, require
from training.cells import MISSING, text_of
from training.columns import Rows, ids, repeated
from training.reading import RawTable
from training.source import Quarantine

_LISTS: Final = frozenset({"needs", "excludes", "channels", "regions", "consents"})
_NUMBERS: Final = frozenset(
    {"risk_class", "min_age", "max_age", "stock", "audience", "min_amount", "rate", "price", "cost"}
)
_FLAGS: Final = frozenset({"sold_out", "cooling"})
_TIMES: Final = frozenset({"starts", "ends", "published_at"})
_TEXTS: Final = frozenset(
    {"org", "category", "repeat", "min_app_version", "auth_level", "location", "action"}
)
_FIELDS: Final = _LISTS | _NUMBERS | _FLAGS | _TIMES | _TEXTS
_TITLES: Final = ("title", "name", "item_name", "product_name", "movie_name", "标题", "名称")
_REMEDY: Final = "Correct the value, or rename the column so that it becomes an attribute"


def made_items(ids_seen: Sequence[str], kind: str) -> tuple[Item, ...]:
    """Items that are nothing but an id: for events without a catalogue."""
    return tuple(parse_item({"id": one, "kind": kind, "title": {"en": one}}) for one in ids_seen)


def read_items(
    table: RawTable, quarantine: Quarantine, *, kind: str, mapping: Mapping[str, str]
) -> tuple[Item, ...]:
    """One item a row, in the file's order. `kind` is for files that have no such column."""
    found = assign(table, ITEM_ROLES, mapping)
    key = require(table, found, "id")
    rows = Rows(table, quarantine)
    coded = ids(rows, key, "item")
    rows.reject(repeated(rows, {"id": coded.codes}), key, "the item id occurs twice", "Keep one row an item")
    kinds = _kinds(rows, table, kind)
    texts = {
        name: text_of(column).to_pylist()
        for name, column in table.columns.items()
        if name not in (key, "kind")
    }
    items: list[Item] = []
    for row in np.flatnonzero(rows.good).tolist():
        cells = {name: values[row].strip() for name, values in texts.items() if values[row] is not None}
        try:
            cells = {name: text for name, text in cells.items() if text not in MISSING}
            items.append(parse_item(_raw(coded.values[coded.codes[row]], kinds[row], cells)))
        except CatalogueError as error:
            reason = f"{error.field} of an item: {error.problem}"
            column = error.field if error.field in table.columns else None
            _reject_one(rows, row, column, reason)
    rows.finish()
    return tuple(items)


def _reject_one(rows: Rows, row: int, column: str | None, reason: str) -> None:
    bad = np.zeros(len(rows.good), np.bool_)
    bad[row] = True
    rows.reject(bad, column, reason, _REMEDY)


def _kinds(rows: Rows, table: RawTable, kind: str) -> list[str]:
    if kind not in KIND_CODE:
        raise table.error(None, None, f"'{kind}' is not a kind of item", f"Kinds are {', '.join(KINDS)}")
    if "kind" not in table.columns:
        return [kind] * len(table)
    texts = [(text or "").strip().casefold() for text in text_of(table.columns["kind"]).to_pylist()]
    unknown = np.array([text not in KIND_CODE for text in texts], np.bool_)
    remedy = f"Kinds are {', '.join(KINDS)}; rename the column if it means something else"
    rows.reject(unknown, "kind", "the kind of item is unknown", remedy)
    return texts


def _raw(item_id: str, kind: str, cells: Mapping[str, str]) -> dict[str, Any]:
    """An item's JSON form from a row's cells; what cannot be read stays text, and the catalogue's check
    says so.
    """
    raw: dict[str, Any] = {"id": item_id, "kind": kind, "title": _title(item_id, cells), "attributes": {}}
    for name, text in cells.items():
        if name in _FIELDS:
            raw[name] = _value(name, text)
        elif name not in (*_TITLES, "title_zh", "title_en") and len(name) <= 64:
            raw["attributes"][name] = text[:200]
    return raw


def _title(item_id: str, cells: Mapping[str, str]) -> dict[str, str]:
    given = {lang: cells[f"title_{lang}"][:200] for lang in ("zh", "en") if f"title_{lang}" in cells}
    if given:
        return given
    title = next((cells[name] for name in _TITLES if name in cells), item_id)[:200]
    return {"zh" if any("一" <= mark <= "鿿" for mark in title) else "en": title}


def _value(name: str, text: str) -> Any:
    if name in _LISTS:
        return [part.strip() for part in text.split("|") if part.strip()]
    if name in _FLAGS:
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(
            text.casefold(), text
        )
    if name in _TIMES:
        return _moment(text)
    if name in _NUMBERS and text.endswith(".0"):
        return text.removesuffix(".0")
    return text


def _moment(text: str) -> datetime | str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
