"""The HTTP contract as data: requests read and checked once. Pages are written in serving/writing.py.

Requests are Pydantic models without leniency: unknown fields are refused, and "5" is not 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite, modf
from typing import Annotated, Any, Final, Literal, TypeVar

import numpy as np
import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from features.ids import CHANNEL_CODE, BadId, check_id, key32
from serving.catalogue import AUTH_LEVELS, pack_version
from serving.domain import Context, Decision
from serving.errors import FieldError, Problem
from serving.reasons import Drop, lifted
from serving.texts import Texts

MAX_SLOTS: Final = 40
MAX_COUNT: Final = 100
MAX_EXCLUDED: Final = 200
MAX_INLINE_EVENTS: Final = 50
MAX_OUTCOMES: Final = 500
MAX_ITEMS: Final = 500
MAX_SIMILAR: Final = 50
MAX_BATCH: Final = 5_000

M = TypeVar("M", bound=BaseModel)


def _id(text: str) -> str:
    try:
        return check_id(text)
    except BadId as bad:
        raise PydanticCustomError("bad_id", "{problem}", {"problem": str(bad)}) from None


def _version(text: str) -> str:
    pack_version(text)
    return text


ID_SCHEMA: Final[dict[str, Any]] = {
    "minLength": 1,
    "maxLength": 64,
    "pattern": r"^[^\x00-\x1f\x7f]+$",
    "description": "UTF-8, 1 to 64 bytes, no control characters",
}
Id = Annotated[str, AfterValidator(_id), Field(json_schema_extra=ID_SCHEMA)]
LOCALE: Final = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$"
Locale = Annotated[str, Field(pattern=LOCALE, max_length=32)]
Geohash = Annotated[str, Field(pattern=r"^[0-9b-hjkmnp-z]{1,12}$")]
Version = Annotated[str, AfterValidator(_version), Field(max_length=11)]
Channel = Literal["app", "h5", "mini_program", "web", "push"]
AuthLevel = Literal["none", "device", "password", "bound_card", "face"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SlotAsk(_Model):
    """A slot of the surface: `count` places (its size when not said), never with the items in `exclude`."""

    slot: Annotated[Id, Field(examples=["home.banner"])]
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDED)] = []


class ContextAsk(_Model):
    """Where and how the page is asked for. What is not said is not known, and what is restricted by it is
    not shown.
    """

    channel: Channel | None = None
    app_version: Version | None = None
    edition: Id = "standard"
    locale: Locale = "zh-CN"
    city: Id | None = None
    location: Geohash | None = None
    auth_level: AuthLevel = "none"
    entry: Id | None = None
    anchor_item: Id | None = None


class OptionsAsk(_Model):
    profiling: bool = True
    explain: bool = False
    dry_run: bool = False
    deadline_ms: Annotated[int, Field(ge=5, le=2000)] | None = None


class RecommendAsk(_Model):
    """`POST /v1/recommend`. One of `user_id` and `visitor_id` is needed; both link them."""

    request_id: Id | None = None
    user_id: Id | None = None
    visitor_id: Id | None = None
    session_id: Id | None = None
    surface: Annotated[Id | None, Field(examples=["home"])] = None
    slots: Annotated[list[SlotAsk], Field(min_length=1, max_length=MAX_SLOTS)] | None = None
    context: ContextAsk = ContextAsk()
    events: Annotated[list[dict[str, Any]], Field(max_length=MAX_INLINE_EVENTS)] = []
    options: OptionsAsk = OptionsAsk()


class BatchAsk(_Model):
    """`POST /v1/recommend:batch`: the same page for many customers. `request_id` makes each one's a retry."""

    request_id: Id | None = None
    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_BATCH)]
    surface: Annotated[Id | None, Field(examples=["home"])] = None
    slots: Annotated[list[SlotAsk], Field(min_length=1, max_length=MAX_SLOTS)] | None = None
    context: ContextAsk = ContextAsk()
    options: OptionsAsk = OptionsAsk()


class EventsAsk(_Model):
    """`POST /v1/events`. Each event is judged by itself: see `rejected` in the answer."""

    events: Annotated[list[Any], Field(min_length=1, max_length=500)]


class OutcomesAsk(_Model):
    """`POST /v1/outcomes`, several at once; a single outcome may also be the whole body."""

    outcomes: Annotated[list[Any], Field(min_length=1, max_length=MAX_OUTCOMES)]


class UserAsk(_Model):
    """`PUT /v1/users/{id}`: named fields of declared views; what is not named stays."""

    profile: Annotated[dict[str, Any], Field(min_length=1, max_length=64)]


class ItemsAsk(_Model):
    """`PUT /v1/items:batch`: whole items; all are taken, or none."""

    items: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_ITEMS)]


def parse_json(body: bytes) -> Any:
    """The JSON document. Raises Problem `bad_json`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as bad:
        where = f"line {bad.lineno}, column {bad.colno}" if body else "it is empty"
        raise Problem(
            "bad_json", f"the body is not JSON: {bad.msg if body else 'nothing was sent'} ({where})"
        ) from None


def parse(model: type[M], raw: Any) -> M:
    """A request model from a JSON document. Raises Problem naming every bad field."""
    try:
        return model.model_validate(raw)
    except ValidationError as bad:
        raise _problem(bad) from None


def parse_page(body: bytes) -> RecommendAsk:
    """As `parse(RecommendAsk, parse_json(body))`. A context seen before (and good) is not checked again."""
    raw = parse_json(body)
    if isinstance(raw, dict) and type(context := raw.get("context")) is dict:
        with suppress(TypeError, ValidationError):  # what is wrong is said by the whole check below
            raw["context"] = _known_context(tuple(context.items()))
    return parse(RecommendAsk, raw)


@lru_cache(4096)
def _known_context(items: tuple[tuple[str, Any], ...]) -> ContextAsk:
    return ContextAsk.model_validate(dict(items))


_CODE_OF: Final = {
    "extra_forbidden": "unknown_field",
    "missing": "missing_field",
    "bad_id": "bad_id",
    "too_long": "too_many",
}


def _problem(bad: ValidationError) -> Problem:
    found = bad.errors(include_url=False, include_context=False, include_input=False)[:20]
    errors = [
        FieldError(
            ".".join(str(part)[:80] for part in one["loc"]) or "body",
            _CODE_OF.get(one["type"], "invalid_field"),
            one["msg"],
        )
        for one in found
    ]
    first = errors[0]
    return Problem(first.code, f"{first.field}: {first.detail}", errors=errors)


def check_path_id(text: str, what: str) -> str:
    """An id from the path. Raises Problem `bad_id`."""
    try:
        return check_id(text, what)
    except BadId as bad:
        raise Problem("bad_id", str(bad)) from None


@lru_cache(4096)  # customers of one city with one version of the app send the same
def context_of(ask: ContextAsk) -> Context:
    """The context as decisions read it."""
    return Context(
        CHANNEL_CODE[ask.channel] if ask.channel else 0,
        pack_version(ask.app_version) if ask.app_version else 0,
        ask.edition,
        ask.locale,
        key32(ask.city) if ask.city else 0,
        ask.location,
        AUTH_LEVELS.index(ask.auth_level),
        ask.entry,
    )


def rfc3339(at: float) -> str:
    """POSIX seconds as "2026-03-01T08:00:00.123Z": milliseconds are cut off, not rounded."""
    part, whole = modf(at)
    more, micros = divmod(round(part * 1_000_000), 1_000_000)
    minute, second = divmod(int(whole) + more, 60)
    return f"{_minute(minute)}:{second:02d}.{micros // 1_000:03d}Z"


@lru_cache(64)
def _minute(since: int) -> str:
    """Minutes since 1970 as "2026-03-01T08:00": a page writes the same few again and again."""
    return datetime.fromtimestamp(since * 60, UTC).isoformat(timespec="minutes")[:16]


def drop_texts(drops: Mapping[int, int] | Mapping[str, int]) -> list[dict[str, Any]]:
    """What dropped candidates, most first, with texts for people."""
    counted = [
        (drop if isinstance(drop, Drop) else Drop[str(drop).upper()], count) for drop, count in drops.items()
    ]
    counted.sort(key=lambda pair: (-pair[1], pair[0]))
    return [
        {"code": drop.code, "count": int(count), "zh": drop.text("zh"), "en": drop.text("en")}
        for drop, count in counted
    ]


def explained_slots(decision: Decision, texts: Texts) -> list[dict[str, Any]]:
    """For each slot what dropped its candidates, and the terms of the score of each item placed in it."""
    told = decision.explained
    if told is None:
        return [{} for _ in decision.query.slots]
    slots: list[dict[str, Any]] = [{"dropped": drop_texts(drops), "terms": {}} for drops in told.slots]
    for place in decision.placements:
        at = int(np.searchsorted(told.rows, place.row))
        if at < len(told.rows) and told.rows[at] == place.row:
            terms = {name: _finite(column[at]) for name, column in told.terms.items()}
            slots[place.slot]["terms"][texts[place.row].id] = terms
            if lifts := lifted(terms):
                slots[place.slot].setdefault("lifted", {})[texts[place.row].id] = lifts
    return slots


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if isfinite(number) else None


class SimilarAsk(_Model):
    """The query of `GET /v1/items/{id}/similar`."""

    k: Annotated[int, Field(ge=1, le=MAX_SIMILAR)] = 10
    locale: Locale = "zh-CN"
    channel: Channel | None = None


def parse_similar(query: Mapping[str, str]) -> SimilarAsk:
    """Raises Problem `bad_query`."""
    raw: dict[str, Any] = dict(query)
    if "k" in raw and raw["k"].isascii() and raw["k"].isdigit() and len(raw["k"]) <= 3:
        raw["k"] = int(raw["k"])
    try:
        return SimilarAsk.model_validate(raw)
    except ValidationError as bad:
        problem = _problem(bad)
        raise Problem("bad_query", problem.detail, errors=problem.errors) from None
