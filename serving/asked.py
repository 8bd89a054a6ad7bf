"""Who asks for which slots under which id: a request resolved against the plan, before anything is read."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from features.ids import key64, user_subject, visitor_subject
from serving.domain import SlotRequest
from serving.errors import FieldError, Problem
from serving.plan import CompiledPlan, CompiledSlot
from serving.remembered import asked_for
from serving.stage_times import UNTIMED, Marks
from serving.wire import RecommendAsk, SlotAsk, check_path_id

if TYPE_CHECKING:
    from serving.live import Live

PageKind = Literal["page", "homepage", "banner", "product"]
HOME: Final = "home"
_LAYOUTS: Final[dict[PageKind, frozenset[str]]] = {
    "banner": frozenset({"banner"}),
    "product": frozenset({"shelf", "feed"}),
}


class Identity(NamedTuple):
    """Whose page, and under which id. `retried`: the client gave the id, so it may send the request again."""

    decision_id: str
    retried: bool
    subject: str
    visitor: str | None  # the visitor's subject, to be linked, when the subject is a user

    @property
    def key(self) -> tuple[str, str]:
        return self.subject, self.decision_id


def identity_of(ask: RecommendAsk, request_id: str | None) -> Identity:
    """The decision id is the body's request_id, else the header's, else a new UUIDv7. Raises Problem."""
    given = ask.request_id
    if given is None and request_id is not None:
        given = check_path_id(request_id, "x-request-id")
    if ask.user_id is None and ask.visitor_id is None:
        wanted = FieldError("user_id", "missing_subject", "user_id or visitor_id is needed")
        raise Problem("missing_subject", wanted.detail, errors=[wanted])
    if ask.user_id is None:
        subject, visitor = visitor_subject(ask.visitor_id or ""), None
    else:
        subject = user_subject(ask.user_id)
        visitor = visitor_subject(ask.visitor_id) if ask.visitor_id is not None else None
    return Identity(given or uuid7(), given is not None, subject, visitor)


class Surface(NamedTuple):
    """Which page: its name, its slots to fill, and the org whose instance of a template it is."""

    name: str
    slots: tuple[SlotRequest, ...]
    owner: str | None = None


def surface_of(plan: CompiledPlan, ask: RecommendAsk, kind: PageKind) -> Surface:
    """The surface and its slots to fill. Raises Problem for unknown surfaces and slots."""
    if kind != "page" and ask.slots is not None:
        raise _refused("slots", "invalid_field", f"/{kind} fills its own slots; name slots at /v1/recommend")
    if kind == "homepage" and ask.surface not in (None, HOME):
        raise _refused(
            "surface", "invalid_field", "/homepage is the surface home; name another at /v1/recommend"
        )
    surface = ask.surface or HOME
    found = plan.surface(surface)
    if found is None:
        names = ", ".join(sorted((*plan.surfaces, *plan.templates)))
        raise _refused("surface", "unknown_surface", f"the plan has {names}")
    known, owner = found
    if layouts := _LAYOUTS.get(kind):
        known = tuple(slot for slot in known if slot.layout in layouts)
        if not known:
            raise _refused(
                "surface", "no_such_layout", f"{surface} has no slot of layout {' or '.join(sorted(layouts))}"
            )
    if ask.slots is None:
        return Surface(surface, _whole(known), owner)
    return Surface(surface, _chosen(surface, known, ask.slots), owner)


@lru_cache(256)  # most requests want the same whole page
def _whole(slots: tuple[CompiledSlot, ...]) -> tuple[SlotRequest, ...]:
    return tuple(SlotRequest(slot, slot.size) for slot in slots)


def _chosen(surface: str, known: Sequence[CompiledSlot], asked: Sequence[SlotAsk]) -> tuple[SlotRequest, ...]:
    by_name = {slot.name: slot for slot in known}
    chosen: dict[str, SlotRequest] = {}
    for index, one in enumerate(asked):
        slot = by_name.get(one.slot)
        if slot is None:
            raise _refused(f"slots.{index}.slot", "unknown_slot", f"{surface} has {', '.join(by_name)}")
        if one.slot in chosen:
            raise _refused(f"slots.{index}.slot", "duplicate_slot", "a slot may be asked for once")
        count = slot.size if one.count is None else one.count
        if count > slot.size:
            raise _refused(f"slots.{index}.count", "invalid_field", f"{slot.name} has {slot.size} places")
        chosen[one.slot] = SlotRequest(slot, count, frozenset(key64(item) for item in one.exclude))
    return tuple(chosen.values())


def _refused(field: str, code: str, detail: str) -> Problem:
    return Problem(code, f"{field}: {detail}", errors=[FieldError(field, code, detail)])


_BYTES: Final = 10  # of randomness in an id
_BLOCK: Final = 400
_POOL: Final[deque[bytes]] = deque()
os.register_at_fork(after_in_child=_POOL.clear)  # or both processes would make the same ids


def _random() -> bytes:
    """Random bytes of the operating system, fetched by the block: a call for each id is dear.

    Taking one is atomic, so that no two threads make one id.
    """
    try:
        return _POOL.pop()
    except IndexError:
        block = secrets.token_bytes(_BYTES * _BLOCK)
        _POOL.extend(block[at : at + _BYTES] for at in range(_BYTES, len(block), _BYTES))
        return block[:_BYTES]


def uuid7() -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then 74 random bits."""
    bits = time.time_ns() // 1_000_000 << 80 | int.from_bytes(_random())
    bits = bits & ~(0xF << 76) | 7 << 76
    bits = bits & ~(0x3 << 62) | 2 << 62
    text = f"{bits & (1 << 128) - 1:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class Asked:
    """One page request with what was resolved for it."""

    live: Live
    ask: RecommendAsk
    who: Identity
    surface: str
    slots: tuple[SlotRequest, ...]
    owner: str | None
    now: float
    due: float  # monotonic
    marks: Marks = UNTIMED

    @property
    def dry(self) -> bool:
        return self.ask.options.dry_run

    @property
    def digest(self) -> bytes:
        return asked_for(self.surface, self.slots)

    def same_as(self, other: Asked) -> bool:
        return self.ask == other.ask and self.digest == other.digest
