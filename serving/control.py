"""The control port: what every replica is to run by, read by one poll, and its memory twin.

One hash, `control`, holds the pointers and versions; a replica polls it every half second, and that is how
a new bundle, plan or key space, an overlay entry or a kill arrives. The overlay holds items and creatives
put, changed or deleted since the bundle was made: the poll brings its sequence number, `overlay_since` the
entries behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

import orjson

from features.keyspace import KeySpace, parse_keyspace

Scope = Literal["item", "creative", "campaign", "slot", "everything"]
OverlayKind = Literal["item", "creative"]
Payload = Mapping[str, Any]

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
OVERLAY_KINDS: Final[tuple[OverlayKind, ...]] = get_args(OverlayKind)
POINTERS: Final = ("bundle", "plan", "features", "prices", "epoch")  # what `set` may change
POLLED: Final = (*POINTERS, "overlay_seq", "kills")


class ControlError(ValueError):
    """A control value that cannot be what it claims to be."""


class Kill(NamedTuple):
    """The kill switch: nothing within it is shown. `id` is empty for `everything`."""

    scope: Scope
    id: str = ""


class OverlayEntry(NamedTuple):
    """One item or creative since the bundle; `payload` None means deleted."""

    seq: int
    kind: OverlayKind
    id: str
    payload: Payload | None


@dataclass(frozen=True, slots=True)
class ControlState:
    """One poll. `features` is the JSON of the key space in use (`keyspace` parses it); None: never set."""

    bundle: str | None = None
    plan: str | None = None
    features: str | None = None
    prices: str | None = None
    epoch: str | None = None
    overlay_seq: int = 0
    kills: tuple[Kill, ...] = ()

    @property
    def keyspace(self) -> KeySpace | None:
        """Raises KeySpaceError when the pointer is not one."""
        return None if self.features is None else parse_keyspace(self.features)


class Control(Protocol):
    """Raises StoreUnavailable; ControlError for bad fields and values."""

    async def poll(self) -> ControlState:
        """One read of everything that a replica follows."""
        ...

    async def set(self, field: str, value: str | None) -> None:
        """Point `bundle`, `plan`, `features`, `prices` or `epoch` at a value; None removes it."""
        ...

    async def kill(self, kill: Kill) -> None:
        """Throw a switch; idempotent."""
        ...

    async def revive(self, kill: Kill) -> None:
        """Take a switch back; idempotent."""
        ...

    async def overlay_put(self, entries: Sequence[tuple[OverlayKind, str, Payload | None]]) -> int:
        """Write entries in order, atomically, one sequence number each; the last of them (0: none given)."""
        ...

    async def overlay_since(self, seq: int) -> list[OverlayEntry]:
        """The latest entry of every id put after `seq`, by sequence number."""
        ...

    async def overlay_trim(self, upto: int) -> int:
        """Drop entries up to `upto`: a bundle that every replica runs has them. Returns how many."""
        ...

    async def close(self) -> None: ...


def check_pointer(field: str) -> str:
    if field not in POINTERS:
        raise ControlError(f"control has no pointer {field!r}; it has {', '.join(POINTERS)}")
    return field


def check_kill(kill: Kill) -> Kill:
    if kill.scope not in SCOPES:
        raise ControlError(f"a kill's scope is one of {', '.join(SCOPES)}, not {kill.scope!r}")
    if (kill.scope == "everything") != (kill.id == ""):
        raise ControlError("a kill names an id, unless it is of everything")
    return kill


def check_overlay(entries: Iterable[tuple[OverlayKind, str, Payload | None]]) -> None:
    for kind, entry_id, _ in entries:
        if kind not in OVERLAY_KINDS or not entry_id:
            raise ControlError(
                f"an overlay entry is an item or a creative with an id, not {kind!r} {entry_id!r}"
            )


class MemoryControl(Control):
    """Everything in this process: tests, and runs without a server."""

    def __init__(self) -> None:
        self._pointers: dict[str, str] = {}
        self._kills: dict[Kill, None] = {}
        self._seq = 0
        self._overlay: dict[tuple[OverlayKind, str], tuple[int, bytes]] = {}

    async def poll(self) -> ControlState:
        return ControlState(**self._pointers, overlay_seq=self._seq, kills=tuple(self._kills))

    async def set(self, field: str, value: str | None) -> None:
        check_pointer(field)
        if value is None:
            self._pointers.pop(field, None)
        else:
            self._pointers[field] = value

    async def kill(self, kill: Kill) -> None:
        self._kills[check_kill(kill)] = None

    async def revive(self, kill: Kill) -> None:
        self._kills.pop(check_kill(kill), None)

    async def overlay_put(self, entries: Sequence[tuple[OverlayKind, str, Payload | None]]) -> int:
        check_overlay(entries)
        bodies = [(kind, entry_id, orjson.dumps(payload)) for kind, entry_id, payload in entries]
        for kind, entry_id, body in bodies:
            self._seq += 1
            self._overlay[kind, entry_id] = (self._seq, body)
        return self._seq if bodies else 0

    async def overlay_since(self, seq: int) -> list[OverlayEntry]:
        return sorted(
            OverlayEntry(at, kind, entry_id, orjson.loads(body))
            for (kind, entry_id), (at, body) in self._overlay.items()
            if at > seq
        )

    async def overlay_trim(self, upto: int) -> int:
        old = [key for key, (at, _) in self._overlay.items() if at <= upto]
        for key in old:
            del self._overlay[key]
        return len(old)

    async def close(self) -> None:
        return None
