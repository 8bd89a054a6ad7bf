"""What the bank's systems change between two bundles: customers' fields, items, creatives.

Everything is checked here, before it is written: a replica that takes it up must never find it wrong. Items
and creatives travel through control's overlay and are in force everywhere within two seconds; the last write
wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Final

from features.customer import LATE_BLOB, Blobs, decode_customer
from features.fields import MAX_AMOUNT
from features.ids import user_subject
from features.patch import patched
from features.schema import SchemaMismatch
from features.store import StoreUnavailable
from features.stores import Stores
from features.views import consents_in
from serving.catalogue import CatalogueError, Creative, Item, compile_items, parse_creative, parse_item
from serving.control import Control, OverlayKind, Payload
from serving.errors import FieldError, Problem
from serving.intake import in_time
from serving.items import CREATIVE_OF
from serving.live import Live
from serving.userfields import check_own, profile_changes
from serving.wire import ItemsAsk, UserAsk, parse

_AMOUNTS: Final = ("min_amount", "rate", "price", "cost")


class Changes:
    """Raises Problem for what may not be changed so, StoreUnavailable when it could not be written."""

    def __init__(
        self, control: Control, stores: Stores, timeout_s: float, clock: Callable[[], float]
    ) -> None:
        self._control, self._stores, self._timeout_s, self._clock = control, stores, timeout_s, clock

    async def put_user(self, user_id: str, raw: Any, live: Live | None, *, trusted: bool) -> dict[str, Any]:
        """Changes the fields that are named; what is not named stays.

        Who is not `trusted` says only what a customer decides. Of the consents they name, those that were
        given stay; the answer tells which these are. Raises Problem `forbidden` for other permission fields.
        """
        changes = profile_changes(parse(UserAsk, raw).profile)
        schemas, now = live.bundle.schemas if live is not None else None, self._clock()
        blobs: Blobs | None = None
        if not trusted:
            check_own(changes)
            if "consents" in changes:
                blobs = await self._known(user_id, live)
        written: dict[str, Any] = changes

        def change(old: bytes | None) -> bytes:
            nonlocal written
            if blobs is not None:
                given = _consents(blobs._replace(patch=old), live, now)
                written = {**changes, "consents": changes["consents"] & given}
            return patched(old, written, now, schemas=schemas)

        try:
            await in_time(self._stores.live.patch(user_subject(user_id), change), self._timeout_s)
        except SchemaMismatch as strange:
            raise Problem(
                "unreadable_record", f"what is stored for this customer cannot be read: {strange}"
            ) from None
        answer = {"user_id": user_id, "changed": sorted(changes)}
        return answer if blobs is None else {**answer, "consents": consents_in(written["consents"])}

    async def _known(self, user_id: str, live: Live | None) -> Blobs:
        """The customer's batch record. Raises StoreUnavailable: what was given is then not known."""
        version = live.features_version if live is not None else None
        found = await self._stores.fetch_customer(
            user_subject(user_id), None, version, timeout_s=self._timeout_s
        )
        if found.blobs.profile == LATE_BLOB:
            raise StoreUnavailable("the features store did not say which consents were given")
        return found.blobs

    async def put_item(self, item_id: str, raw: Any) -> dict[str, Any]:
        item = _item(_whole(raw, item_id, "id"))
        return {"id": item_id, "overlay": await self._put([("item", item.id, _dumped(item))])}

    async def put_items(self, raw: Any) -> dict[str, Any]:
        """All of them, or none when one is wrong."""
        items = await asyncio.to_thread(_items, raw)  # 4 MB take 50 ms, which pages must not wait for
        return {"items": len(items), "overlay": await self._put(items)}

    async def delete_item(self, item_id: str) -> dict[str, Any]:
        """Withdrawn everywhere within two seconds; an id that nobody knows is fine: then it stays unknown."""
        return {"id": item_id, "overlay": await self._put([("item", item_id, None)])}

    async def put_creative(
        self, creative_id: str, raw: Any, has_item: Callable[[str], bool]
    ) -> dict[str, Any]:
        """The body is a creative and the `item_id` it belongs to."""
        whole = dict(_whole(raw, creative_id, "id"))
        item_id = whole.pop(CREATIVE_OF, None)
        if not isinstance(item_id, str):
            wanted = FieldError(CREATIVE_OF, "missing_field", "say whose creative this is")
            raise Problem("missing_field", f"{CREATIVE_OF}: {wanted.detail}", errors=[wanted])
        try:
            creative = parse_creative(whole, item_id, strict=True)
        except CatalogueError as bad:
            raise _problem(bad, "bad_creative") from None
        if not has_item(item_id):
            raise Problem("unknown_item", f"there is no item {item_id[:80]!r}: put the item first")
        payload = {CREATIVE_OF: item_id, **_dumped(creative)}
        return {"id": creative_id, "overlay": await self._put([("creative", creative_id, payload)])}

    async def _put(self, entries: Sequence[tuple[OverlayKind, str, Payload | None]]) -> int:
        return await in_time(self._control.overlay_put(entries), self._timeout_s)


def _consents(blobs: Blobs, live: Live | None, now: float) -> int:
    """The bits that decisions see as given; none where that is not known."""
    schemas = live.bundle.schemas if live is not None else None
    customer = decode_customer(
        blobs, now=now, schemas=schemas, watermark=live.watermark if live is not None else inf
    )
    return int(customer.get("consents"))


def _items(raw: Any) -> list[tuple[OverlayKind, str, Payload | None]]:
    """The overlay's entries of a batch. Raises Problem naming what is wrong."""
    items, errors = [], []
    for index, one in enumerate(parse(ItemsAsk, raw).items):
        try:
            items.append(_parsed(one))
        except CatalogueError as bad:
            errors.append(_field_error(bad, "bad_item", f"items.{index}."))
    if errors:
        raise Problem("bad_item", f"{errors[0].field}: {errors[0].detail}", errors=errors[:50])
    try:
        compile_items(items)
    except CatalogueError as bad:
        raise _problem(bad, "bad_item") from None
    return [("item", item.id, _dumped(item)) for item in items]


def _whole(raw: Any, path_id: str, field: str) -> Mapping[str, Any]:
    """The body as an object with the path's id. Raises Problem when it names another."""
    if not isinstance(raw, dict):
        raise Problem("invalid_field", "the body must be a JSON object")
    if raw.get(field, path_id) != path_id:
        wrong = FieldError(field, "id_mismatch", "the body names another id than the path")
        raise Problem("id_mismatch", f"{field}: {wrong.detail}", errors=[wrong])
    return {**raw, field: path_id}


def _item(raw: Mapping[str, Any]) -> Item:
    try:
        item = _parsed(raw)
        compile_items([item])
    except CatalogueError as bad:
        raise _problem(bad, "bad_item") from None
    return item


def _parsed(raw: Mapping[str, Any]) -> Item:
    """An item whose amounts fit the columns they are kept in. Raises CatalogueError."""
    item = parse_item(raw, strict=True)
    for field in _AMOUNTS:
        if abs(getattr(item, field) or 0.0) > MAX_AMOUNT:
            raise CatalogueError(item.id, field, f"lies beyond {MAX_AMOUNT:g}", "correct the value")
    return item


def _dumped(model: Item | Creative) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _field_error(bad: CatalogueError, code: str, prefix: str = "") -> FieldError:
    return FieldError(prefix + bad.field, code, f"{bad.problem}; {bad.remedy}"[:300])


def _problem(bad: CatalogueError, code: str) -> Problem:
    error = _field_error(bad, code)
    return Problem(code, f"{error.field}: {error.detail}", errors=[error])
