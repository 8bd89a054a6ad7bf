"""What each path does: check the request, call the service, write the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import orjson

from features.fields import Rejected
from serving import openapi, wire
from serving.asked import PageKind
from serving.errors import Problem
from serving.observe import CONTENT_TYPE
from serving.principals import Identity
from serving.security import NOBODY, check_creative_state, needs
from serving.service import Service
from serving.wire import check_path_id, parse_json

JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
BODY_LIMIT: Final = 256 * 1024
CATALOGUE_LIMIT: Final = 4 * 1024 * 1024
EXPLAINED_TO: Final = ("engineer", "admin", "approver", "operator")
ASKING: Final = ("app", "engineer", "admin")  # who may ask for pages and send events
TELLING: Final = ("core", "engineer", "admin")  # whose word counts on what permission rests on


class Request(NamedTuple):
    """What a handler may read: the id in the path, the query, the whole body, the client's request id, who is
    asking, whether there are principals, and whether creatives go live by approvals only (`required`, `off`).
    """

    id: str
    query: Mapping[str, str]
    body: bytes
    request_id: str | None
    arrived: float  # monotonic
    who: Identity = NOBODY
    governed: bool = True
    approvals: str = "required"


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: bytes = JSON


class Parts(Protocol):
    """What is sent part by part, each when it is made; closed by whoever sends it, come what may."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class Streamed(NamedTuple):
    parts: Parts
    content_type: bytes
    status: int = 200


Handler = Callable[[Request], Awaitable[Answer | Streamed]]


class Route(NamedTuple):
    """`name` stands in metrics for all paths of one shape; `roles`: one of them is needed."""

    name: str
    methods: Mapping[str, Handler]
    limit: int = BODY_LIMIT
    roles: tuple[str, ...] = ASKING


class Below(NamedTuple):
    """Paths with an id in them: segments before it, segments after it."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    route: Route


def routes(service: Service) -> tuple[dict[str, Route], tuple[Below, ...]]:
    """All paths there are: exact ones, and those with an id."""

    def on(handler: Callable[[Service, Request], Awaitable[Answer | Streamed]]) -> Handler:
        return partial(handler, service)

    def page(kind: PageKind) -> Mapping[str, Handler]:
        return {"POST": partial(_recommend, service, kind)}

    exact = (
        Route("/v1/recommend", page("page")),
        Route("/v1/recommend/homepage", page("homepage")),
        Route("/v1/recommend/banner", page("banner")),
        Route("/v1/recommend/product", page("product")),
        Route("/v1/recommend:batch", {"POST": on(_batch)}, CATALOGUE_LIMIT),
        Route("/v1/events", {"POST": on(_events)}),
        Route("/v1/outcomes", {"POST": on(_outcomes)}, roles=("app", *TELLING)),
        Route("/v1/items:batch", {"PUT": on(_items)}, CATALOGUE_LIMIT, TELLING),
        Route("/livez", {"GET": on(_livez)}),
        Route("/readyz", {"GET": on(_readyz)}),
        Route("/metrics", {"GET": on(_metrics)}),
        Route("/openapi.json", {"GET": on(_openapi)}),
    )
    below = (
        Below(("", "v1", "items"), ("similar",), Route("/v1/items/{id}/similar", {"GET": on(_similar)})),
        Below(
            ("", "v1", "items"),
            (),
            Route("/v1/items/{id}", {"PUT": on(_put_item), "DELETE": on(_delete_item)}, roles=TELLING),
        ),
        Below(
            ("", "v1", "users"),
            (),
            Route("/v1/users/{id}", {"PUT": on(_put_user)}, roles=("app", *TELLING)),
        ),
        Below(
            ("", "v1", "creatives"),
            (),
            Route("/v1/creatives/{id}", {"PUT": on(_put_creative)}, roles=TELLING),
        ),
    )
    return {route.name: route for route in exact}, below


async def _recommend(service: Service, kind: PageKind, request: Request) -> Answer:
    ask = wire.parse_page(request.body)
    if ask.options.explain and request.governed:
        needs(request.who, *EXPLAINED_TO)
    return Answer(200, await service.recommender.page(ask, kind, request.request_id, request.arrived))


async def _batch(service: Service, request: Request) -> Streamed:
    ask = wire.parse(wire.BatchAsk, parse_json(request.body))
    if ask.options.explain and request.governed:
        needs(request.who, *EXPLAINED_TO)
    return Streamed(service.batching.lines(ask, request.request_id), NDJSON)


async def _events(service: Service, request: Request) -> Answer:
    ask = wire.parse(wire.EventsAsk, parse_json(request.body))
    return _json(await service.events(ask.events), 202)


async def _outcomes(service: Service, request: Request) -> Answer:
    raw = parse_json(request.body)
    if isinstance(raw, dict) and "outcomes" in raw:
        return _json(await service.outcomes(wire.parse(wire.OutcomesAsk, raw).outcomes), 202)
    try:
        return _json(await service.outcome(raw), 202)
    except Rejected as bad:
        code = bad.code if bad.code in ("missing_field", "unknown_field", "bad_id") else "invalid_field"
        raise Problem(code, bad.detail) from None


async def _similar(service: Service, request: Request) -> Answer:
    item = check_path_id(request.id, "item id")
    return Answer(200, await service.similar(item, wire.parse_similar(request.query)))


async def _put_item(service: Service, request: Request) -> Answer:
    item, raw = check_path_id(request.id, "item id"), parse_json(request.body)
    _check_creatives(request, [raw])
    return _json(await service.changes.put_item(item, raw))


async def _delete_item(service: Service, request: Request) -> Answer:
    return _json(await service.changes.delete_item(check_path_id(request.id, "item id")))


async def _items(service: Service, request: Request) -> Answer:
    raw = parse_json(request.body)
    items = raw.get("items") if isinstance(raw, dict) else None
    _check_creatives(request, items if isinstance(items, list) else [])
    return _json(await service.changes.put_items(raw))


async def _put_creative(service: Service, request: Request) -> Answer:
    creative, raw = check_path_id(request.id, "creative id"), parse_json(request.body)
    if isinstance(raw, dict):
        check_creative_state(request.who, request.approvals, raw.get("state"))
    return _json(await service.put_creative(creative, raw))


def _check_creatives(request: Request, items: list[Any]) -> None:
    """Those inside items go live no other way. What is not of that shape is refused when it is read."""
    if request.approvals != "required":
        return
    for item in items:
        creatives = item.get("creatives") if isinstance(item, dict) else None
        for creative in creatives if isinstance(creatives, list) else ():
            if isinstance(creative, dict):
                check_creative_state(request.who, request.approvals, creative.get("state"))


async def _put_user(service: Service, request: Request) -> Answer:
    """The app passes on what a customer decides; what permission rests on only the bank's core may say."""
    user, trusted = check_path_id(request.id, "user id"), request.who.has(*TELLING)
    return _json(await service.put_user(user, parse_json(request.body), trusted=trusted))


async def _livez(service: Service, request: Request) -> Answer:  # noqa: ARG001 - handlers have one shape
    return _json({"status": "alive"})


async def _readyz(service: Service, request: Request) -> Answer:  # noqa: ARG001
    return _json({"status": "ready", **service.running()})


async def _metrics(service: Service, request: Request) -> Answer:  # noqa: ARG001
    return Answer(200, service.metrics.exposition(), CONTENT_TYPE)


async def _openapi(service: Service, request: Request) -> Answer:  # noqa: ARG001
    return Answer(200, openapi.document())


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(value))
