"""Items and creatives: their text form, checked where it enters, and their columns, which decisions read.

`Item` is what `PUT /v1/items/{id}` takes, what adapters make and what the lake keeps; `compile_items` turns
many of them into the `ITEM` columns of `features.views`, one row an item, plus the texts to render.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from features.ids import CHANNELS, KIND_CODE, LAYOUTS, BadId, check_id, key32, key64, keys64
from features.views import CONSENTS, ITEM
from serving.texts import CreativeText, ItemText, Texts

AUTH_LEVELS: Final = ("none", "device", "password", "bound_card", "face")
REPEATS: Final = ("always", "after_maturity", "never")
ANY_LAYOUT: Final = (1 << len(LAYOUTS)) - 1

T = TypeVar("T", bound=BaseModel)


class CatalogueError(ValueError):
    """An item or creative that cannot be taken; says which one, which field, and what to do."""

    def __init__(self, item: str, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"item {item!r}, field {field!r}: {problem}; {remedy}")
        self.item, self.field, self.problem, self.remedy = item, field, problem, remedy


def _id(text: str) -> str:
    try:
        return check_id(text)
    except BadId as bad:
        raise ValueError(str(bad)) from None


def _version(text: str) -> str:
    pack_version(text)
    return text


Id = Annotated[str, AfterValidator(_id), Field(json_schema_extra={"minLength": 1, "maxLength": 64})]
Code = Annotated[str, Field(min_length=1, max_length=64)]
Version = Annotated[str, AfterValidator(_version)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Age = Annotated[int, Field(ge=0, le=150)]
Title = Annotated[str, Field(min_length=1, max_length=200)]
Kind = Literal["function", "product", "activity", "content", "benefit", "service"]
Layout = Literal["banner", "icon_grid", "shelf", "popup", "feed", "push", "search_hint"]
Channel = Literal["app", "h5", "mini_program", "web", "push"]
Category = Annotated[str, Field(max_length=200, pattern=r"^$|^[^/\s][^/]*(/[^/]+)*$")]
Geohash = Annotated[str, Field(pattern=r"^[0-9b-hjkmnp-z]{1,8}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Creative(_Model):
    """What is rendered for an item in some layouts. Only one whose state is `live` is ever shown."""

    id: Id
    layouts: tuple[Layout, ...] = ()
    locale: Literal["zh-CN", "en"] = "zh-CN"
    title: Title
    text: Annotated[str, Field(max_length=2000)] = ""
    image: Annotated[str, Field(max_length=500)] = ""
    disclosure: Annotated[str, Field(max_length=2000)] = ""
    action: Annotated[str, Field(max_length=500)] | None = None
    state: Literal["draft", "reviewed", "approved", "live", "withdrawn"] = "live"
    from_: AwareDatetime | None = Field(default=None, alias="from")
    until: AwareDatetime | None = None
    approver: Code | None = None
    approval_number: Code | None = None

    @model_validator(mode="after")
    def _runs_forward(self) -> Self:
        if self.from_ and self.until and self.until <= self.from_:
            raise ValueError("`until` must be later than `from`")
        return self


class Item(_Model):
    """Anything that can be shown. What is not said restricts nothing."""

    id: Id
    kind: Kind
    title: Annotated[dict[Literal["zh", "en"], Title], Field(min_length=1)]
    org: Id = "head"
    category: Category = ""
    risk_class: Annotated[int, Field(ge=0, le=5)] = 0
    min_age: Age = 0
    max_age: Age = 0
    needs: Annotated[tuple[Id, ...], Field(max_length=4)] = ()
    excludes: Annotated[tuple[Id, ...], Field(max_length=4)] = ()
    repeat: Literal["always", "after_maturity", "never"] = "always"
    channels: tuple[Channel, ...] = ()
    min_app_version: Version | None = None
    regions: Annotated[tuple[Code, ...], Field(max_length=8)] = ()
    starts: AwareDatetime | None = None
    ends: AwareDatetime | None = None
    sold_out: bool = False
    stock: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    auth_level: Literal["none", "device", "password", "bound_card", "face"] = "none"
    consents: tuple[Literal["marketing", "data_sharing", "third_party"], ...] = ()
    audience: Annotated[int, Field(ge=0, le=65535)] = 0
    min_amount: Finite | None = None
    rate: Finite | None = None
    price: Finite | None = None
    cost: Finite | None = None
    published_at: AwareDatetime | None = None
    location: Geohash | None = None
    cooling: bool = False
    attributes: dict[Code, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict)
    action: Annotated[str, Field(max_length=500)] = ""
    creatives: Annotated[tuple[Creative, ...], Field(max_length=32)] = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.starts and self.ends and self.ends <= self.starts:
            raise ValueError("`ends` must be later than `starts`")
        if self.max_age and self.max_age < self.min_age:
            raise ValueError("`max_age` must not be below `min_age`")
        if len({creative.id for creative in self.creatives}) < len(self.creatives):
            raise ValueError("`creatives` may not name an id twice")
        if self.id in self.needs or self.id in self.excludes:
            raise ValueError("an item may not need or exclude itself; say `repeat: never`")
        return self


class CompiledItems(NamedTuple):
    """Items as columns: row i of everything is item `ids[i]`."""

    ids: tuple[str, ...]
    table: NDArray[np.void]  # ITEM.dtype
    known: NDArray[np.uint64]  # ITEM's known bits: a fact that was not given is not known
    layouts: NDArray[np.uint8]  # bit per layout that some live creative can render
    texts: Texts

    def __len__(self) -> int:
        return len(self.ids)


def pack_version(text: str) -> int:
    """ "9.2.1" as 9002001, so that versions compare as numbers. ValueError when it is not a version."""
    parts = text.split(".")
    if not 1 <= len(parts) <= 3 or not all(p.isascii() and p.isdigit() and len(p) <= 3 for p in parts):
        raise ValueError(f"{text[:40]!r} is not a version like 9.2.0 (each part 0 to 999)")
    major, minor, patch = (int(p) for p in (*parts, "0", "0")[:3])
    return major * 1_000_000 + minor * 1_000 + patch


def parse_item(raw: Mapping[str, Any], *, strict: bool = False) -> Item:
    """An `Item` from JSON-like data. Raises CatalogueError.

    `strict`: as it must come from a client, where "5" is not 5 and a time is RFC 3339 text.
    """
    name = raw.get("id", "?")
    return _parse(Item, raw, name[:80] if isinstance(name, str) else "?", strict=strict)


def parse_creative(raw: Mapping[str, Any], item: str = "?", *, strict: bool = False) -> Creative:
    """A `Creative` from JSON-like data, as `parse_item`. Raises CatalogueError."""
    return _parse(Creative, raw, item, strict=strict)


def _parse(model: type[T], raw: Mapping[str, Any], item: str, *, strict: bool) -> T:
    try:
        return (
            model.model_validate_json(_json(raw, item), strict=True) if strict else model.model_validate(raw)
        )
    except ValidationError as bad:
        first = bad.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise CatalogueError(item, field, first["msg"], _remedy(first["type"])) from None


def _json(raw: Mapping[str, Any], item: str) -> bytes:
    try:
        return orjson.dumps(raw)
    except orjson.JSONEncodeError:  # from JSON it came, so this is orjson's limit on nesting
        raise CatalogueError(item, "the whole", "is nested too deeply", "correct the value") from None


def _remedy(problem: str) -> str:
    if problem == "extra_forbidden":
        return "remove the field or correct its name"
    return "add the field" if problem == "missing" else "correct the value"


def compile_items(items: Sequence[Item]) -> CompiledItems:
    """Columns and texts of a catalogue, in its order. Raises CatalogueError on repeated or colliding ids."""
    ids = tuple(item.id for item in items)
    keys = keys64(ids)
    _refuse_collisions(ids, keys)
    table = ITEM.blank(len(items))
    table["key"] = keys
    for name, column in _columns(items).items():
        table[name] = column
    for name, width, of in _KEY_LISTS:
        _fill_lists(table[name], items, of, width)
    _fill_live(table, items)
    layouts = np.array([layouts_of(item.creatives) for item in items], np.uint8)
    return CompiledItems(ids, table, _known(items), layouts, Texts.of(item_text(item) for item in items))


def _refuse_collisions(ids: Sequence[str], keys: NDArray[np.uint64]) -> None:
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if len(twice):
        first, second = ids[order[twice[0]]], ids[order[twice[0] + 1]]
        problem = "appears twice" if first == second else f"has the same 64-bit key as {second!r}"
        raise CatalogueError(first, "id", problem, "keep one of them, or rename it")


def _columns(items: Sequence[Item]) -> dict[str, list[Any]]:
    keys: dict[str, int] = {"": 0}
    return {
        "kind": [KIND_CODE[i.kind] for i in items],
        "org": [_cached(keys, i.org) for i in items],
        "category": [_cached(keys, i.category) for i in items],
        "top_category": [_cached(keys, i.category.partition("/")[0]) for i in items],
        "risk_class": [i.risk_class for i in items],
        "min_age": [i.min_age for i in items],
        "max_age": [i.max_age for i in items],
        "repeat": [REPEATS.index(i.repeat) for i in items],
        "channels": [sum(1 << CHANNELS.index(c) for c in set(i.channels)) for i in items],
        "min_app": [pack_version(i.min_app_version) if i.min_app_version else 0 for i in items],
        "starts": [seconds(i.starts) for i in items],
        "ends": [seconds(i.ends) for i in items],
        "sold_out": [i.sold_out for i in items],
        "stock": [-1 if i.stock is None else i.stock for i in items],
        "auth_level": [AUTH_LEVELS.index(i.auth_level) for i in items],
        "consents": [sum(1 << CONSENTS.index(c) for c in set(i.consents)) for i in items],
        "audience": [i.audience for i in items],
        "min_amount": [i.min_amount or 0.0 for i in items],
        "rate": [i.rate or 0.0 for i in items],
        "price": [i.price or 0.0 for i in items],
        "cost": [i.cost or 0.0 for i in items],
        "published_at": [seconds(i.published_at) for i in items],
        "location": [(i.location or "").encode() for i in items],
        "cooling": [i.cooling for i in items],
    }


_KEY_LISTS: tuple[tuple[str, int, Callable[[Item], list[int]]], ...] = (
    ("needs", 4, lambda item: [key64(other) for other in item.needs]),
    ("excludes", 4, lambda item: [key64(other) for other in item.excludes]),
    ("regions", 8, lambda item: [key32(code) for code in item.regions]),
)


def _fill_lists(
    column: NDArray[Any], items: Sequence[Item], of: Callable[[Item], list[int]], width: int
) -> None:
    for row, item in enumerate(items):
        if values := of(item):
            column[row, : min(len(values), width)] = values


def _fill_live(table: NDArray[np.void], items: Sequence[Item]) -> None:
    windows = [window_of(item_creatives(item)) for item in items]
    table["approved"] = [window is not None for window in windows]
    table["creative_from"] = [window[0] if window else 0.0 for window in windows]
    table["creative_until"] = [window[1] if window else 0.0 for window in windows]


_OPTIONAL: Final = ("min_amount", "rate", "price", "cost", "published_at", "location")


def _known(items: Sequence[Item]) -> NDArray[np.uint64]:
    known = np.full(len(items), ITEM.all_known, np.uint64)
    for name in _OPTIONAL:
        absent = np.array([getattr(item, name) is None for item in items], np.bool_)
        known[absent] &= np.uint64(ITEM.all_known & ~ITEM.bit(name))
    return known


def _cached(keys: dict[str, int], text: str) -> int:
    key = keys.get(text)
    if key is None:
        key = keys[text] = key32(text)
    return key


def seconds(at: datetime | None) -> float:
    """POSIX seconds; 0 for none."""
    return at.timestamp() if at else 0.0


def creative_text(creative: Creative) -> CreativeText:
    layouts = sum(1 << LAYOUTS.index(layout) for layout in set(creative.layouts))
    until = seconds(creative.until)
    return CreativeText(
        id=creative.id,
        key=key32(creative.id),
        layouts=layouts or ANY_LAYOUT,
        locale=creative.locale,
        title=creative.title,
        text=creative.text,
        image=creative.image,
        disclosure=creative.disclosure,
        action=creative.action,
        live=creative.state == "live",
        starts=seconds(creative.from_),
        until=until or None,
    )


def item_creatives(item: Item) -> tuple[CreativeText, ...]:
    return tuple(creative_text(creative) for creative in item.creatives)


def item_text(item: Item) -> ItemText:
    zh, en = item.title.get("zh", ""), item.title.get("en", "")
    return ItemText(item.id, item.kind, zh or en, en or zh, item.category, item.action, item_creatives(item))


def layouts_of(creatives: Sequence[Creative] | Sequence[CreativeText]) -> int:
    """Layouts that can be rendered: every one where an item has no creative at all (its title is shown)."""
    if not creatives:
        return ANY_LAYOUT
    texts = [creative_text(c) if isinstance(c, Creative) else c for c in creatives]
    mask = 0
    for text in texts:
        mask |= text.layouts if text.live else 0
    return mask


def window_of(creatives: Iterable[CreativeText]) -> tuple[float, float] | None:
    """The span (from, until; 0 = no end) of the live creatives; None when there are some but none is live."""
    creatives = tuple(creatives)
    if not creatives:
        return 0.0, 0.0
    live = [creative for creative in creatives if creative.live]
    if not live:
        return None
    ends = [creative.until for creative in live]
    return min(c.starts for c in live), 0.0 if None in ends else max(e for e in ends if e is not None)
