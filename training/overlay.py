"""Items that the API put since the last training, into the lake's catalogue: what is new is then learnt too.

Control keeps every entry of the overlay, and replicas go on applying it over the new bundle, so an item that
was deleted stays withdrawn; here its history stays as well.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from serving.catalogue import CatalogueError, parse_item
from serving.control import Control, OverlayEntry
from serving.redis_control import RedisControl
from training.lake import Lake
from training.source import DataError
from training.tables import LakeError


def take_over_items(control: Control | str, lake: Lake) -> int:
    """Write what was put by the API into the catalogue; how many items are new or changed. `control`: the
    port, or a store's URL. Call it outside any event loop.
    """
    put = {one.id: one for one in _entries(control) if one.kind == "item" and one.payload is not None}
    if not put:
        return 0
    try:
        held = {item["id"]: item for item in lake.read_items()}
    except LakeError:  # a bank that brings everything by the API has no file of items
        held = {}
    changed = {name: item for name, entry in put.items() if (item := _item(entry)) != held.get(name)}
    if changed:
        lake.write_items((held | changed).values())
    return len(changed)


def _entries(control: Control | str) -> list[OverlayEntry]:
    async def ask() -> list[OverlayEntry]:
        port = RedisControl.at(control) if isinstance(control, str) else control
        try:
            return await port.overlay_since(0)
        finally:
            if isinstance(control, str):
                await port.close()

    return asyncio.run(ask())


def _item(entry: OverlayEntry) -> dict[str, Any]:
    """As the catalogue keeps items. Raises DataError: the API checks what it takes; this came another way."""
    try:
        item = parse_item({**(entry.payload or {}), "id": entry.id})
    except CatalogueError as error:
        remedy = f"Put the item again, or take it back: DELETE /v1/items/{entry.id}"
        raise DataError("control's overlay", None, None, str(error), remedy) from None
    dumped: dict[str, Any] = item.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    whole: dict[str, Any] = json.loads(json.dumps(dumped))
    return whole
