"""The control port: what every replica is to run by, read by one poll, and its memory twin.

One hash, `control`, holds the pointers and versions; a replica polls it every half second, and that is how
a new bundle, plan or key space, an overlay entry or a kill arrives. The overlay holds items and creatives
put, changed or deleted since the bundle was made: the poll brings its sequence number, `overlay_since` the
entries behind it.

Prices are a value with compare: only the pacer that leads may write them. `lead` elects one candidate at a
time, with a fencing number that grows from leader to leader, also over a control that was emptied; what a
deposed leader writes late is refused by the store itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

import orjson

from features.keyspace import KeySpace, parse_keyspace
from serving.prices import Prices

Scope = Literal["item", "creative", "campaign", "slot", "everything"]
OverlayKind = Literal["item", "creative"]
Payload = Mapping[str, Any]

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
OVERLAY_KINDS: Final[tuple[OverlayKind, ...]] = get_args(OverlayKind)
POINTERS: Final = ("bundle", "plan", "features", "epoch", "bandit")  # what `set` may change
POLLED: Final = (*POINTERS, "overlay_seq", "kills", "prices")
PACER: Final = "pacer"  # whose leader may write prices


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
    """One poll. `features` is the JSON of the key space in use (`keyspace` parses it); None: never set.

    `prices` is the version of the prices; `blob` their text, when the poll named another version.
    """

    bundle: str | None = None
    plan: str | None = None
    features: str | None = None
    prices: str | None = None
    epoch: str | None = None
    bandit: str | None = None
    overlay_seq: int = 0
    kills: tuple[Kill, ...] = ()
    blob: bytes | None = None

    @property
    def keyspace(self) -> KeySpace | None:
        """Raises KeySpaceError when the pointer is not one."""
        return None if self.features is None else parse_keyspace(self.features)


class Control(Protocol):
    """Raises StoreUnavailable; ControlError for bad fields and values."""

    async def poll(self, prices: str | None = None) -> ControlState:
        """One read of everything that a replica follows.

        `prices` is the version held ("" for none): when control has another, it comes along in `blob`.
        """
        ...

    async def set(self, field: str, value: str | None) -> None:
        """Point `bundle`, `plan`, `features`, `epoch` or `bandit` at a value; None removes it."""
        ...

    async def lead(self, name: str, candidate: str, ttl_s: float) -> int | None:
        """Lead, or go on leading, for `ttl_s` from now: the fencing number; None while another leads.

        The number stays the same while one leads without a gap and is greater for every later leader.
        """
        ...

    async def resign(self, name: str, candidate: str) -> None:
        """Let somebody else lead at once. Nothing happens when another leads."""
        ...

    async def put_prices(self, prices: Prices, state: bytes = b"") -> bool:
        """Put prices and the controller's state, both or neither; False when another pacer leads by now.

        Compared is the fence of the prices with the leader's. Raises PricesError for what may not be sent.
        """
        ...

    async def pacer_state(self) -> bytes:
        """What the last prices came with, for the leader that follows; empty when there is nothing."""
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


def check_candidate(name: str, candidate: str, ttl_s: float) -> str:
    if not name or not candidate or " " in candidate or ttl_s <= 0:
        raise ControlError(f"{candidate!r} cannot lead {name!r} for {ttl_s} s: name both, without spaces")
    return candidate


class MemoryControl(Control):
    """Everything in this process: tests, and runs without a server."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._pointers: dict[str, str] = {}
        self._kills: dict[Kill, None] = {}
        self._seq = 0
        self._overlay: dict[tuple[OverlayKind, str], tuple[int, bytes]] = {}
        self._fences: dict[str, int] = {}
        self._leaders: dict[str, tuple[str, float]] = {}  # the candidate, and when its lead ends
        self._prices: tuple[str, bytes, bytes] | None = None  # version, blob, the pacer's state

    async def poll(self, prices: str | None = None) -> ControlState:
        version, blob, _ = self._prices or (None, None, b"")
        return ControlState(
            **self._pointers,
            prices=version,
            overlay_seq=self._seq,
            kills=tuple(self._kills),
            blob=blob if prices is not None and prices != version else None,
        )

    async def lead(self, name: str, candidate: str, ttl_s: float) -> int | None:
        check_candidate(name, candidate, ttl_s)
        now = self._clock()
        leader, until = self._leaders.get(name, ("", 0.0))
        if now >= until:
            self._fences[name] = max(self._fences.get(name, 0) + 1, int(now))
        elif leader != candidate:
            return None
        self._leaders[name] = (candidate, now + ttl_s)
        return self._fences[name]

    async def resign(self, name: str, candidate: str) -> None:
        if self._leaders.get(name, ("", 0.0))[0] == candidate:
            del self._leaders[name]

    async def put_prices(self, prices: Prices, state: bytes = b"") -> bool:
        blob = prices.encode()
        leads = self._clock() < self._leaders.get(PACER, ("", 0.0))[1]
        if not leads or prices.fence != self._fences[PACER]:
            return False
        self._prices = (str(prices.version), blob, state)
        return True

    async def pacer_state(self) -> bytes:
        return b"" if self._prices is None else self._prices[2]

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
