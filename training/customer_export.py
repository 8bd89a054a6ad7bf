"""What is kept about one customer, as one JSON document: for the customer's right to a copy.

What is kept and not what is used: whoever refuses personalisation is told of what lies there all the same.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final

from features.customer import Blobs
from features.events import unpack
from features.external import external_key
from features.ids import key64, user_subject
from features.keyspace import KeySpace, parse_keyspace
from features.live_store import live_keys
from features.redis_plain import opened
from features.schema import SchemaMismatch, Schemas
from features.spool_look import inspected
from features.store import feature_key
from features.views import MEMBERSHIP, PROFILE, SCHEMAS
from serving.bundle import BundleError
from serving.lists import ListShelf
from serving.registry import Registry, RegistryError
from serving.settings import Settings
from training.customer_stored import plain, stored, told_time
from training.erasure import NAMED_BY, Places
from training.materialize import pointers
from training.tables import LakeError, pc

_MOST_RECORDS: Final = 100_000


def exported(places: Places, user_id: str, *, now: float) -> dict[str, Any]:
    """Every place of `training.erasure` that holds something, in words where there are."""
    said = pointers(places.settings.control_url or "").features
    space = None if said is None else parse_keyspace(said)
    blobs, names_of = _blobs(places, user_id, space), _item_names(places)
    lists = {number: name for name, number in ListShelf(places.settings.registry_url).numbers().items()}
    document: dict[str, Any] = {
        "user_id": user_id,
        "made_at": told_time(now),
        **stored(
            blobs,
            now=now,
            schemas=_schemas(places.settings),
            watermark=_watermark(space),
            items=names_of,
            lists=lists,
        ),
    }
    subject = user_subject(user_id)
    for table in NAMED_BY:
        document[table] = _rows(places, table, user_id, subject)
    document["spool"] = _spooled(places, subject)
    users = places.lake.read_users()
    if users is not None:
        rows = users.filter(_equal(users["user_id"], user_id)).to_pylist()
        document["customer_table"] = [{k: plain(v) for k, v in row.items()} for row in rows]
    return document


def devices_of(places: Places, user_id: str) -> list[str]:
    """Visitor ids that events link to the customer: whoever erases may want them gone as well."""
    rows = places.lake.events(columns=["user_id", "visitor_id"])
    mine = rows.filter(_equal(rows["user_id"], user_id))["visitor_id"].to_pylist()
    return sorted({one for one in mine if one})


def _blobs(places: Places, user_id: str, space: KeySpace | None) -> Blobs:
    keys = live_keys(user_subject(user_id))
    with opened(places.settings.live_url or "") as live:
        wanted = (keys.recent, keys.contact, keys.patch, keys.unit)
        recent, contact, patch, unit = (_bytes(live.get(key)) for key in wanted)
    batch: list[bytes | None] = [None, None]
    with opened(places.settings.features_url or "") as features:
        external = _bytes(features.get(external_key(user_id)))
        if space is not None:
            names = (PROFILE.name, MEMBERSHIP.name)
            batch = [_bytes(features.get(feature_key(space.version, name, user_id))) for name in names]
    return Blobs(batch[0], batch[1], recent, contact, patch, unit, external)


def _schemas(settings: Settings) -> Schemas:
    """Every form that records may have, as the bundle in service knows them; today's where there is none."""
    registry = Registry(settings.registry_url)
    try:
        version = registry.live()
        if version is not None:
            told = registry.fetch(version, settings.bundles) / "schemas.json"
            return Schemas([*SCHEMAS, *Schemas.from_json(told.read_bytes())])
    except (RegistryError, BundleError, OSError, SchemaMismatch):
        pass  # what cannot be read is told in bytes
    return SCHEMAS


def _watermark(space: KeySpace | None) -> float:
    found = space.views.get(PROFILE.name) if space is not None else None
    return inf if found is None else found.as_of


def _item_names(places: Places) -> dict[int, str]:
    try:
        return {key64(item["id"]): item["id"] for item in places.lake.read_items()}
    except LakeError:
        return {}


def _rows(places: Places, table: str, user_id: str, subject: str) -> list[dict[str, Any]]:
    if table == "outcomes":
        rows = places.lake.outcomes()
        rows = rows.filter(_equal(rows["user_id"], user_id))
    elif table == "served":
        rows = places.lake.served()
        rows = rows.filter(_equal(rows["subject"], subject))
    else:
        rows = places.lake.events()
        rows = rows.filter(_equal(rows["subject"], subject))
    told = []
    for row in rows.slice(0, _MOST_RECORDS).to_pylist():
        record = row.pop("record", None)
        if record is not None:
            row["items"] = unpack(record)["item_ids"]
        told.append({name: plain(value) for name, value in row.items() if value is not None})
    return told


def _spooled(places: Places, subject: str) -> list[dict[str, Any]]:
    """Events that wait on this machine until the log is back."""
    told: list[dict[str, Any]] = []
    for segment in inspected(places.settings.spool_folder):
        for at, entry in segment.records:
            if entry is not None and entry.subject == subject:
                told.append(
                    {"spooled_at": told_time(at), "event_id": entry.event_id, **_event(entry.payload)}
                )
    return told[:_MOST_RECORDS]


def _event(payload: bytes) -> dict[str, Any]:
    try:
        return {"event": {name: plain(value) for name, value in unpack(payload).items()}}
    except ValueError as bad:
        return {"unreadable": str(bad), "bytes": payload.hex()}


def _equal(column: Any, value: str) -> Any:
    return pc.fill_null(pc.equal(column, value), False)


def _bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) else None
