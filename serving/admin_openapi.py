"""The admin application's part of `/openapi.json`: its paths, and the models that check what it is asked."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from serving.admin_asks import (
    ApproveAsk,
    CheckAsk,
    KillAsk,
    PreviewAsk,
    ProposeAsk,
    PublishAsk,
    RejectAsk,
    RollbackAsk,
    WithdrawAsk,
)
from serving.errors import CODES

ADMIN_MODELS: Final[tuple[type[BaseModel], ...]] = (
    CheckAsk,
    ProposeAsk,
    ApproveAsk,
    RejectAsk,
    PublishAsk,
    RollbackAsk,
    WithdrawAsk,
    PreviewAsk,
    KillAsk,
)
ADMIN_SCHEMAS: Final[dict[str, Any]] = {"Governed": {"type": "object"}}
_POSTS: Final[tuple[tuple[str, str, str, type[BaseModel], bool], ...]] = (
    ("/v1/plan:check", "checkPlan", "What would come of a change; keeps nothing", CheckAsk, False),
    ("/v1/plan:propose", "proposePlan", "Propose a change of a part", ProposeAsk, True),
    ("/v1/plan:approve", "approvePlan", "Approve or review what another proposed", ApproveAsk, False),
    ("/v1/plan:reject", "rejectPlan", "Reject a proposal, or take one's own back", RejectAsk, False),
    ("/v1/plan:publish", "publishPlan", "Put an approved proposal in force", PublishAsk, True),
    ("/v1/plan:rollback", "rollbackPlan", "A part, or the whole plan, as it was before", RollbackAsk, False),
    ("/v1/plan:withdraw", "withdrawCreative", "Take a creative off at once", WithdrawAsk, False),
    ("/v1/plan:preview", "previewPlan", "What a customer would see", PreviewAsk, False),
    ("/v1/kill", "kill", "Switch something off everywhere within 2 s, or on again", KillAsk, False),
)
_CODES: Final = (
    *("unauthorized", "forbidden", "same_person", "unknown_proposal", "wrong_state", "not_approved"),
    *("stale_revision", "bad_plan", "invalid_field", "precondition_needed", "audit_broken"),
    *("store_unavailable", "registry_unavailable"),
)
_JSON: Final = "application/json"
_WHOLE: Final = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
_TEXT: Final = {"type": "string"}
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": _TEXT}


def admin_paths() -> dict[str, Any]:
    """The path dictionary. References point at `#/components/schemas/`."""
    made = {
        path: {"post": _post(name, summary, ask, conditional)}
        for path, name, summary, ask, conditional in _POSTS
    }
    status = (("part", _TEXT), ("revision", _WHOLE))
    between = (("proposal", _TEXT), ("part", _TEXT), ("from", _WHOLE), ("to", _WHOLE))
    gone = (("reason", _TEXT), ("devices", {"type": "boolean"}))
    trace = (("item", _TEXT), ("subject", _TEXT))
    log = (
        ("since", _WHOLE),
        ("most", {**_WHOLE, "maximum": 1000}),
        ("action", _TEXT),
        ("principal", _TEXT),
        ("verify", {"type": "boolean"}),
        ("head", _TEXT),
    )
    return made | {
        "/v1/plan": {"get": _get("planStatus", "What is in force, what waits for whom; a part", status)},
        "/v1/plan:diff": {"get": _get("diffPlan", "What a proposal, or a revision, changes", between)},
        "/v1/decisions/{id}": {"get": _get("trace", "How a page was decided; why not `item`", trace, _ID)},
        "/v1/users/{id}": {
            "delete": _get("eraseUser", "Erase a customer everywhere; what was deleted", gone, _ID)
        },
        "/v1/audit": {"get": _get("audit", "The audit log; with `verify`, whether it holds", log)},
    }


def _post(name: str, summary: str, ask: type[BaseModel], conditional: bool) -> dict[str, Any]:
    made = "201" if name == "proposePlan" else "200"
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _ref(ask.__name__)}}},
        "responses": {made: _answer(), **_problems()},
    }
    if conditional:
        said = "the revision that the change was made from"
        header = {"name": "If-Match", "in": "header", "required": False, "schema": _TEXT, "description": said}
        operation["parameters"] = [header]
    return operation


def _get(
    name: str, summary: str, query: tuple[tuple[str, Any], ...], *path: dict[str, Any]
) -> dict[str, Any]:
    given = [{"name": one, "in": "query", "required": False, "schema": schema} for one, schema in query]
    given += path
    return {
        "operationId": name,
        "summary": summary,
        "parameters": given,
        "responses": {"200": _answer(), **_problems()},
    }


def _answer() -> dict[str, Any]:
    etag = {"description": "the part's revision", "schema": _TEXT}
    content = {_JSON: {"schema": _ref("Governed")}}
    return {"description": "Governed", "headers": {"ETag": etag}, "content": content}


def _problems() -> dict[str, Any]:
    body = {"content": {"application/problem+json": {"schema": _ref("Problem")}}}
    by_status: dict[str, list[str]] = {}
    for code in _CODES:
        by_status.setdefault(str(CODES[code].status), []).append(code)
    found: dict[str, Any] = {
        status: {"description": ", ".join(names), **body} for status, names in by_status.items()
    }
    return {**found, "default": {"description": "any other problem", **body}}


def _ref(model: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model}"}
