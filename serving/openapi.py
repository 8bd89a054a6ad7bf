"""`/openapi.json`: OpenAPI 3.1, made from the very models that check requests and the very table of error
codes.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from features.ids import CHANNELS
from features.views import (
    AGGREGATED_FIELDS,
    ATTRIBUTES_KEPT,
    CONSENTS,
    HOLDINGS_KEPT,
    OFFERS,
    PROFILE,
    TAG_BITS,
)
from serving.admin_openapi import ADMIN_MODELS, ADMIN_SCHEMAS, admin_paths
from serving.catalogue import Creative, Item
from serving.errors import CODES
from serving.wire import ID_SCHEMA, LOCALE, BatchAsk, EventsAsk, ItemsAsk, OutcomesAsk, RecommendAsk, UserAsk

VERSION: Final = "1"
_REF: Final = "#/components/schemas/{model}"
_MODELS: Final[tuple[type[BaseModel], ...]] = (
    RecommendAsk,
    EventsAsk,
    OutcomesAsk,
    UserAsk,
    ItemsAsk,
    BatchAsk,
    Item,
    Creative,
    *ADMIN_MODELS,
)
_RECOMMEND: Final = (
    "unauthorized",
    "body_too_slow",
    "body_too_large",
    "unsupported_media_type",
    "bad_json",
    "invalid_field",
    "request_id_reused",
    "rate_limited",
    "overloaded",
    "not_ready",
)
_WRITE: Final = (
    "unauthorized",
    "forbidden",
    "body_too_slow",
    "body_too_large",
    "unsupported_media_type",
    "bad_json",
    "invalid_field",
    "rate_limited",
    "store_unavailable",
)
_JSON: Final = "application/json"


@cache
def document() -> bytes:
    """The document's bytes."""
    return orjson.dumps(_document())


def _document() -> dict[str, Any]:
    _, defined = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    schemas: dict[str, Any] = {**defined["$defs"], **_SCHEMAS, **ADMIN_SCHEMAS, "Problem": _problem_schema()}
    _as_sent(schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fenliu",
            "version": VERSION,
            "description": "Decides what each customer sees in every slot of an app.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"app_key": []}, {"api_key": []}, {}],
        "paths": _both(_paths(), admin_paths()),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "app_key": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def _both(pages: dict[str, Any], governed: dict[str, Any]) -> dict[str, Any]:
    """A path may have methods of both: a customer is changed by the one, erased by the other."""
    every = {**governed, **pages}
    return {path: {**governed.get(path, {}), **pages.get(path, {})} for path in every}


def _as_sent(schemas: dict[str, Any]) -> None:
    """Bodies as they are sent: the id stands in the path, a creative says whose it is."""
    for whole, sent, more in (("Item", "ItemPut", {}), ("Creative", "CreativePut", {"item_id": _ID})):
        made = schemas[whole]
        needed = [name for name in made["required"] if name != "id"] + list(more)
        schemas[sent] = {**made, "properties": {**made["properties"], **more}, "required": needed}
    page = schemas["RecommendAsk"]
    own = {name: schema for name, schema in page["properties"].items() if name != "slots"}
    schemas["NamedPageAsk"] = {**page, "properties": own, "description": "A page that names its own slots."}
    schemas["ItemsAsk"]["properties"]["items"]["items"] = _ref("Item")
    schemas["UserAsk"]["properties"]["profile"] |= {
        "properties": {
            name: _PROFILE.get(name, {"type": "number", "minimum": 0})
            for name in PROFILE.names
            if name not in AGGREGATED_FIELDS
        },
        "additionalProperties": False,
    }


def _paths() -> dict[str, Any]:
    item, user, creative = _path_id("item"), _path_id("user"), _path_id("creative")
    return {
        "/v1/recommend": {"post": _page("recommend", "The page: some or all slots of a surface")},
        "/v1/recommend/homepage": {
            "post": _page("recommendHomepage", "All slots of the surface home", "NamedPageAsk")
        },
        "/v1/recommend/banner": {
            "post": _page("recommendBanner", "The banner slots of a surface", "NamedPageAsk")
        },
        "/v1/recommend/product": {
            "post": _page("recommendProduct", "The shelf and feed slots of a surface", "NamedPageAsk")
        },
        "/v1/recommend:batch": {"post": _batch()},
        "/v1/events": {
            "post": _write(
                "sendEvents", "What was displayed, clicked, dismissed, done", "EventsAsk", "Taken", 202
            )
        },
        "/v1/outcomes": {
            "post": _write(
                "sendOutcomes", "What came of it in the bank's own systems", "OutcomesAsk", "Taken", 202
            )
        },
        "/v1/items/{id}/similar": {"get": _similar(item)},
        "/v1/items/{id}": {
            "put": {
                **_write("putItem", "The whole item; the last write wins", "ItemPut", "Written"),
                "parameters": [item],
            },
            "delete": {
                "operationId": "deleteItem",
                "summary": "Withdraw an item everywhere, within seconds",
                "parameters": [item],
                "responses": {"200": _answer("Written"), **_problems(*_WRITE)},
            },
        },
        "/v1/items:batch": {
            "put": _write("putItems", "Many whole items; all or none", "ItemsAsk", "Written")
        },
        "/v1/users/{id}": {
            "put": {
                **_write("putUser", "Named fields of the profile", "UserAsk", "Written"),
                "parameters": [user],
            },
        },
        "/v1/creatives/{id}": {
            "put": {
                **_write("putCreative", "A creative, with its `item_id`", "CreativePut", "Written"),
                "parameters": [creative],
            }
        },
        "/livez": {"get": _probe("livez", "The process answers")},
        "/readyz": {"get": _probe("readyz", "A bundle and a plan are loaded")},
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Prometheus metrics of this replica",
                "responses": {
                    "200": {
                        "description": "metrics",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    }
                },
            }
        },
        "/openapi.json": {"get": _probe("openapi", "This document")},
    }


def _page(name: str, summary: str, ask: str = "RecommendAsk") -> dict[str, Any]:
    header = {
        "name": "x-request-id",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "decision id when the body has none; a retry within 10 minutes gets the same page",
    }
    operation = _write(name, summary, ask, "Page")
    operation["responses"] = {"200": _answer("Page"), **_problems(*_RECOMMEND)}
    return {**operation, "parameters": [header]}


def _batch() -> dict[str, Any]:
    """Pages of many customers, streamed."""
    operation = _page("recommendBatch", "The page of each of many customers, a line each", "BatchAsk")
    line = _object({"user_id": _ID, "page": _ref("Page"), "problem": _ref("Problem")}, ("page", "problem"))
    streamed = {"description": "BatchLine by line", "content": {"application/x-ndjson": {"schema": line}}}
    return {**operation, "responses": {**operation["responses"], "200": streamed}}


def _similar(item: dict[str, Any]) -> dict[str, Any]:
    given = [
        ("k", {"type": "integer", "minimum": 1, "maximum": 50, "default": 10}),
        ("locale", {"type": "string", "pattern": LOCALE, "maxLength": 32, "default": "zh-CN"}),
        ("channel", {"type": "string", "enum": list(CHANNELS)}),
    ]
    query = [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in given]
    return {
        "operationId": "similarItems",
        "summary": "Items like this one that may be shown to everybody in the channel",
        "parameters": [item, *query],
        "responses": {
            "200": _answer("Similar"),
            **_problems("unauthorized", "unknown_item", "bad_query", "not_ready"),
        },
    }


def _write(name: str, summary: str, ask: str, answer: str, status: int = 200) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _ref(ask)}}},
        "responses": {str(status): _answer(answer), **_problems(*_WRITE)},
    }


def _probe(name: str, summary: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": _answer("Anything"), **_problems("not_ready")},
    }


def _path_id(what: str) -> dict[str, Any]:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": _ID,
        "description": f"{what} id, 1 to 64 bytes",
    }


def _answer(schema: str) -> dict[str, Any]:
    return {"description": schema, "content": {_JSON: {"schema": _ref(schema)}}}


def _problems(*codes: str) -> dict[str, Any]:
    """Responses by status; every path may answer with any 4xx that its input earns."""
    body = {"content": {"application/problem+json": {"schema": _ref("Problem")}}}
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(CODES[code].status), []).append(code)
    found: dict[str, Any] = {
        status: {"description": ", ".join(names), **body} for status, names in by_status.items()
    }
    return {**found, "default": {"description": "any other problem", **body}}


def _ref(model: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=model)}


def _problem_schema() -> dict[str, Any]:
    field = {"field": _TEXT, "code": _TEXT, "detail": _TEXT}
    return _object(
        {
            "type": _TEXT,
            "title": _TEXT,
            "titles": _object({"zh-CN": _TEXT, "en": _TEXT}),
            "status": {"type": "integer"},
            "code": {"type": "string", "enum": sorted(CODES)},
            "detail": _TEXT,
            "errors": {"type": "array", "items": _object(field)},
        },
        optional=("errors",),
    )


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_TEXT: Final[dict[str, Any]] = {"type": "string"}
_ID: Final[dict[str, Any]] = {"type": "string", **ID_SCHEMA}
_FLAG: Final[dict[str, Any]] = {"type": "boolean"}
_BITS: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": TAG_BITS - 1},
    "maxItems": TAG_BITS,
}
_PROFILE: Final[dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("profiling", "payroll"), _FLAG),
    "blocked": {
        "anyOf": [_FLAG, {"type": "array", "items": {"enum": list(OFFERS)}, "maxItems": len(OFFERS)}]
    },
    **dict.fromkeys(("tags", "tags_off"), _BITS),
    **dict.fromkeys(("org", "city"), _ID),
    "tz": {"type": "string", "examples": ["Asia/Shanghai"]},
    "consents": {"type": "array", "items": {"enum": list(CONSENTS)}, "maxItems": len(CONSENTS)},
    "holdings": {"type": "array", "items": _ID, "maxItems": HOLDINGS_KEPT},
    "attributes": {"type": "object", "additionalProperties": _ID, "maxProperties": ATTRIBUTES_KEPT},
}
"""Fields of a profile as they are written; the rest are numbers."""
_MAYBE: Final[dict[str, Any]] = {"type": ["string", "null"]}
_NUMBER: Final[dict[str, Any]] = {"type": "number"}
_WHOLE: Final[dict[str, Any]] = {"type": "integer"}
_CREATIVE_SHOWN: Final = _object(
    {"id": _MAYBE, "title": _TEXT, "text": _TEXT, "image": _TEXT, "disclosure": _TEXT}
)
_SHOWN: Final = {"item_id": _TEXT, "kind": _TEXT, "creative": _CREATIVE_SHOWN, "action": _TEXT}
_PLACED: Final = _object(
    {
        "index": _WHOLE,
        **_SHOWN,
        "position": _WHOLE,
        "score": _NUMBER,
        "campaign_id": _MAYBE,
        "reason": _object({"code": _TEXT, "text": _TEXT}),
        "propensity": _NUMBER,
    }
)
_REJECTED: Final = _list(_object({"index": _WHOLE, "code": _TEXT, "detail": _TEXT}))
_TAKEN: Final = _object(
    {
        "accepted": _WHOLE,
        "duplicates": _WHOLE,
        "rejected": _REJECTED,
        "degraded": _list({"type": "string", "enum": ["log", "live"]}),
    },
    optional=("degraded",),
)
_SCHEMAS: Final[dict[str, Any]] = {
    "Page": _object(
        {
            "decision_id": _TEXT,
            "page_token": _MAYBE,
            "valid_until": {"type": "string", "format": "date-time"},
            "bundle": _TEXT,
            "plan": _TEXT,
            "arms": {"type": "object"},
            "degraded": _list(_TEXT),
            "events": _TAKEN,
            "effort": _TEXT,
            "slots": _list(
                _object(
                    {"slot": _TEXT, "items": _list(_PLACED), "explained": {"type": "object"}},
                    optional=("explained",),
                )
            ),
        },
        optional=("events", "effort"),
    ),
    "Similar": _object({"item_id": _TEXT, "items": _list(_object({**_SHOWN, "score": _NUMBER}))}),
    "Taken": _TAKEN,
    "Written": {"type": "object"},
    "Anything": {"type": "object"},
}
