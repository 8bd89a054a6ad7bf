"""`/openapi.json` is OpenAPI 3.1, complete, and says what the service does."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from serving.admin import Admin, admin_routes
from serving.control import MemoryControl
from serving.errors import CODES
from serving.governance import Governance
from serving.office import Office
from serving.openapi import document
from tests.shell import CONTEXT, run, running

DOCUMENT: dict[str, Any] = orjson.loads(document())


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    ]


def test_it_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0" and DOCUMENT["info"]["title"] == "Fenliu"


def office_of_nothing() -> Office:
    return Office(Governance("memory://openapi"), MemoryControl())


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [ref for one in value.values() for ref in references(one)]
    return [ref for one in value for ref in references(one)] if isinstance(value, list) else []


def test_every_reference_is_defined() -> None:
    for ref in references(DOCUMENT):
        assert (
            ref.startswith("#/components/schemas/")
            and ref.rsplit("/", 1)[1] in DOCUMENT["components"]["schemas"]
        )


def test_operation_ids_are_unique_and_path_parameters_declared() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for path, _, operation in operations():
        declared = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
        assert declared == (["id"] if "{id}" in path else [])


def test_what_is_documented_is_served_and_the_other_way_round() -> None:
    async def story() -> None:
        async with running() as shell:
            exact = {(path, method) for path, route in shell.app._exact.items() for method in route.methods}
            below = {(b.route.name, method) for b in shell.app._below for method in b.route.methods}
            governed = {
                (path, method)
                for path, methods in admin_routes(Admin(office_of_nothing())).items()
                for method in methods
            }
            assert not governed & (exact | below)
            assert {(path, method.upper()) for path, method, _ in operations()} == exact | below | governed
            answer = await shell.get("/openapi.json")
            assert answer.json() == DOCUMENT

    run(story)


def test_every_code_is_listed() -> None:
    assert DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == sorted(CODES)


def matches(value: Any, schema: dict[str, Any], where: str = "$") -> None:
    """Just enough of JSON Schema for the answers' schemas."""
    if "$ref" in schema:
        return matches(value, DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], where)
    kinds = schema.get("type", [])
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "integer": int,
        "null": type(None),
    }
    allowed = [types[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    assert not allowed or any(isinstance(value, kind) for kind in allowed), f"{where}: {value!r}"  # type: ignore[arg-type]
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) <= set(schema["properties"]), where
        assert set(schema["required"]) <= set(value), where
        for name, one in value.items():
            matches(one, schema["properties"][name], f"{where}.{name}")
    if isinstance(value, list):
        for index, one in enumerate(value):
            matches(one, schema.get("items", {}), f"{where}[{index}]")
    return None


def answer_schema(path: str, method: str, status: int) -> dict[str, Any]:
    responses = DOCUMENT["paths"][path][method]["responses"]
    content = (responses.get(str(status)) or responses["default"])["content"]
    schema: dict[str, Any] = next(iter(content.values()))["schema"]
    return schema


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/recommend",
            {"user_id": "u1", "context": CONTEXT, "options": {"explain": True}, "events": [{}]},
        ),
        ("/v1/recommend", {"user_id": "u1", "options": {"dry_run": True}}),
        ("/v1/recommend/homepage", {"visitor_id": "d1"}),
        ("/v1/recommend/banner", {"user_id": "u1"}),
        ("/v1/recommend/product", {"user_id": "u1"}),
        ("/v1/recommend", {"user_id": ""}),
        ("/v1/events", {"events": [{}]}),
        ("/v1/events", {}),
        ("/v1/outcomes", {"outcomes": [{}]}),
    ],
)
def test_answers_are_as_documented(path: str, body: dict[str, Any]) -> None:
    async def story() -> None:
        async with running() as shell:
            answer = await shell.post(path, body)
            matches(answer.json(), answer_schema(path, "post", answer.status_code))

    run(story)


def test_similar_is_as_documented() -> None:
    async def story() -> None:
        async with running() as shell:
            answer = await shell.get("/v1/items/i1/similar")
            matches(answer.json(), answer_schema("/v1/items/{id}/similar", "get", 200))

    run(story)


def test_bodies_are_documented_as_they_are_sent() -> None:
    """The id stands in the path; a creative says whose it is; a named page names its own slots."""
    schemas = DOCUMENT["components"]["schemas"]

    def body(path: str, method: str) -> dict[str, Any]:
        schema = DOCUMENT["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
        found: dict[str, Any] = schemas[schema["$ref"].rsplit("/", 1)[1]]
        return found

    assert body("/v1/items/{id}", "put")["required"] == ["kind", "title"]
    assert set(body("/v1/creatives/{id}", "put")["required"]) == {"item_id", "title"}
    assert "slots" not in body("/v1/recommend/banner", "post")["properties"]
    assert "slots" in body("/v1/recommend", "post")["properties"]
    batch = body("/v1/items:batch", "put")["properties"]["items"]["items"]
    assert batch == {"$ref": "#/components/schemas/Item"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("consents", ["marketing"]),
        ("profiling", False),
        ("tags", [0, 127]),
        ("holdings", ["p1"]),
        ("attributes", {"job": "teacher"}),
        ("tz", "Asia/Shanghai"),
        ("city", "310000"),
        ("assets", 12.5),
        ("risk_level", 3),
    ],
)
def test_profile_fields_are_documented_as_they_are_taken(name: str, value: Any) -> None:
    profile = DOCUMENT["components"]["schemas"]["UserAsk"]["properties"]["profile"]
    kinds = {"array": list, "boolean": bool, "string": str, "object": dict, "number": (int, float)}
    assert isinstance(value, kinds[profile["properties"][name]["type"]])  # type: ignore[arg-type]
    assert profile["additionalProperties"] is False and "clicks_30d" not in profile["properties"]

    async def story() -> None:
        async with running() as shell:
            assert (await shell.put("/v1/users/u1", {"profile": {name: value}})).status_code == 200

    run(story)
