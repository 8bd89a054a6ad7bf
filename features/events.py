"""Events: their wire form, what is wrong with a bad one, and the forms they take in the log and live views.

A client reports what was displayed, clicked, dismissed or converted by page token and index, what a customer
did elsewhere (`acted`), and that a visitor and a user are one (`linked`). `served` is written by Fenliu only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from features.fields import Rejected as Rejected
from features.fields import channel_code, identifier, needed, optional_id, parse_time, parse_value, told
from features.ids import decision_mark, key32, key64, user_subject, visitor_subject
from features.reservations import LATE as LATE  # CONTACT flag: shown when page or reservation was over
from features.reservations import RESERVED as RESERVED  # flag of a place that the ledger holds
from features.token import PLACES, PageToken, TokenError

WHAT: Final = {
    "displayed": 1,
    "clicked": 2,
    "dismissed": 3,
    "converted": 4,
    "acted": 5,
    "served": 6,
    "linked": 7,
    "outcome": 8,
}
ACTIONS: Final = (
    "login",
    "viewed",
    "searched",
    "transferred",
    "purchased",
    "complained",
    "added",
    "rated",
    "played",
)

MAX_BATCH: Final = 500
MAX_AGE_S: Final = 7 * 86_400.0
MAX_AHEAD_S: Final = 300.0

_ACTION_CODE = {action: code + 1 for code, action in enumerate(ACTIONS)}
_RECENT = Struct("<QQdBBHf")  # views.RECENT, an entry
_CONTACT = Struct("<QIIIIIBBBBII")  # views.CONTACT, an entry
_NO_PLACES = np.zeros(0, PLACES)

_SHARED = frozenset(("event_id", "type", "occurred_at", "session_id"))
_FIELDS = {
    "displayed": _SHARED | {"page_token", "seen"},
    "clicked": _SHARED | {"page_token", "index", "value"},
    "converted": _SHARED | {"page_token", "index", "value"},
    "dismissed": _SHARED | {"page_token", "index", "value"},
    "acted": _SHARED | {"user_id", "visitor_id", "action", "item_id", "value", "channel"},
    "linked": _SHARED | {"user_id", "visitor_id", "channel"},
}


@dataclass(frozen=True, slots=True)
class Event:
    """One accepted event. Times are POSIX seconds; `at` is occurred_at clamped to [decided_at, received_at].

    `places` (dtype PLACES) are those of the page that it is about: those seen, or the one clicked; none for
    `acted` and `linked`. `item_key` is the item clicked or acted upon, 0 where there is none or many.
    """

    event_id: str
    type: str
    occurred_at: float
    received_at: float
    decided_at: float | None
    at: float
    subject: str
    user_id: str | None
    visitor_id: str | None
    decision_id: str | None
    places: NDArray[np.void]
    action: str | None
    item_key: int
    item_id: str | None
    amount: float | None
    currency: str | None
    channel: int
    late: bool
    session_id: str | None
    device: str | None = None  # the visitor's subject that a user's page was shown on
    org: int = 0  # key32 of the customer's org when the page was decided, 0 not known
    valid_until: float | None = None

    @property
    def what(self) -> int:
        return WHAT[self.type]


def action_code(action: str) -> int:
    """The u2 code of an action: 1.. for ACTIONS, 1000.. for one that only a plan lists."""
    return _ACTION_CODE.get(action) or 1000 + key32(action) % 60_000


def parse_event(
    raw: Any, *, received_at: float, verify: Callable[[str], PageToken], actions: Collection[str] = ACTIONS
) -> Event:
    """An event from its JSON object. Raises Rejected with one of the codes of the README's table."""
    if not isinstance(raw, dict):
        raise Rejected("malformed", "an event is a JSON object")
    kind = needed(raw, "type")
    if not isinstance(kind, str) or (fields := _FIELDS.get(kind)) is None:
        if kind == "served":
            raise Rejected("served_is_ours", "served events are written by the service only")
        raise Rejected("unknown_type", f"type must be one of {', '.join(_FIELDS)}, not {told(kind)}")
    if not raw.keys() <= fields:
        strange = ", ".join(sorted(repr(name)[:80] for name in raw.keys() - fields)[:8])
        raise Rejected("unknown_field", f"{kind} events have no field {strange}")
    event_id = identifier(raw, "event_id")
    occurred_at = parse_time(needed(raw, "occurred_at"), "occurred_at")
    if occurred_at < received_at - MAX_AGE_S:
        raise Rejected("too_late", "occurred_at is more than 7 days ago")
    if occurred_at > received_at + MAX_AHEAD_S:
        raise Rejected("in_future", "occurred_at is more than 5 minutes ahead of the server's clock")
    session_id = optional_id(raw, "session_id")
    amount, currency = parse_value(raw.get("value"))
    if "page_token" in fields:
        token, places = _placed(raw, kind, verify)
        user_id, visitor_id = _owner(token.subject)
        return Event(
            event_id,
            kind,
            occurred_at,
            received_at,
            token.decided_at,
            min(max(occurred_at, token.decided_at), received_at),
            token.subject,
            user_id,
            visitor_id,
            token.decision_id,
            places,
            None,
            int(places["item"][0]) if kind != "displayed" else 0,
            None,
            amount,
            currency,
            token.channel,
            kind == "displayed" and occurred_at > token.valid_until,
            session_id,
            token.device or None,
            token.org,
            token.valid_until,
        )
    user_id, visitor_id = optional_id(raw, "user_id"), optional_id(raw, "visitor_id")
    action, item_id = None, None
    if kind == "linked":
        if user_id is None or visitor_id is None:
            raise Rejected("missing_field", "linked events need both user_id and visitor_id")
    else:
        action, item_id = _action(raw, actions), optional_id(raw, "item_id")
        if user_id is None and visitor_id is None:
            raise Rejected("missing_field", "acted events need user_id or visitor_id")
    return Event(
        event_id,
        kind,
        occurred_at,
        received_at,
        None,
        min(occurred_at, received_at),
        user_subject(user_id) if user_id is not None else visitor_subject(visitor_id or ""),
        user_id,
        visitor_id,
        None,
        _NO_PLACES,
        action,
        key64(item_id) if item_id is not None else 0,
        item_id,
        amount,
        currency,
        channel_code(raw),
        False,
        session_id,
    )


def parse_batch(
    raws: Any, *, received_at: float, verify: Callable[[str], PageToken], actions: Collection[str] = ACTIONS
) -> tuple[list[Event], list[dict[str, Any]]]:
    """The good events of a batch, in order, and {index, code, detail} for each of the others.

    Raises Rejected when the batch itself is not a list of at most 500.
    """
    if not isinstance(raws, list) or len(raws) > MAX_BATCH:
        raise Rejected("malformed", f"events must be a list of at most {MAX_BATCH}")
    events: list[Event] = []
    rejections: list[dict[str, Any]] = []
    for index, raw in enumerate(raws):
        try:
            events.append(parse_event(raw, received_at=received_at, verify=verify, actions=actions))
        except Rejected as problem:
            rejections.append({"index": index, "code": problem.code, "detail": problem.detail})
    return events, rejections


def live_entries(
    event: Event, categories: Callable[[NDArray[np.uint64]], NDArray[np.uint32]] | None = None
) -> tuple[bytes, bytes]:
    """The entries for the customer's RECENT and CONTACT logs (32 and 40 bytes each, either may be empty).

    RECENT takes what the customer did (never a display); CONTACT displays, clicks, dismissals, conversions
    and complaints. `categories`: item keys -> key32 of their category, which a token does not say; else 0.
    A display is known by its decision, whichever event tells of it; an entry's `org` is not known here.
    """
    if event.type == "linked":
        return b"", b""
    what = WHAT[event.type]
    recent = b""
    if event.type != "displayed":
        code = action_code(event.action) if event.action is not None else 0
        amount = min(max(event.amount or 0.0, -3e38), 3e38)
        recent = _RECENT.pack(
            event.item_key, key64(event.event_id), event.at, what, event.channel, code, amount
        )
    if event.type == "acted":
        return recent, _complaint(event, categories) if event.action == "complained" else b""
    places, mark, at = event.places, contact_mark(event), _seconds(event.at)
    kinds = categories(places["item"]).tolist() if categories is not None else [0] * len(places)
    late = LATE if event.late else 0
    contact = [
        _CONTACT.pack(
            item, mark, at, campaign, category, slot, event.channel, what, position, flags | late, creative, 0
        )
        for (item, slot, campaign, creative, _, position, flags), category in zip(
            places.tolist(), kinds, strict=True
        )
    ]
    return recent, b"".join(contact)


def contact_entry(item: int, event_id: str, at: float, *, category: int, channel: int, what: int) -> bytes:
    """One CONTACT entry of something that happened outside a page. `at` in POSIX seconds."""
    return _CONTACT.pack(item, key32(event_id), _seconds(at), 0, category, 0, channel, what, 0, 0, 0, 0)


def contact_mark(event: Event) -> int:
    """What tells the event's CONTACT entries from others of the same items."""
    if event.type == "displayed" and event.decision_id is not None:
        return decision_mark(event.subject, event.decision_id)
    return key32(event.event_id)


def to_log(event: Event) -> bytes:
    """The event as a MessagePack map: its fields by name, None left out, places as packed bytes."""
    row: dict[str, Any] = {
        "t": event.type,
        "id": event.event_id,
        "occurred_at": event.occurred_at,
        "received_at": event.received_at,
        "at": event.at,
        "subject": event.subject,
        "channel": event.channel,
    }
    for name in _WHERE_KNOWN:
        if (value := getattr(event, name)) is not None:
            row[name] = value
    if len(event.places):
        row["places"] = event.places.tobytes()
    if event.item_key:
        row["item_key"] = event.item_key
    if event.org:
        row["org"] = event.org
    if event.late:
        row["late"] = True
    packed: bytes = msgpack.packb(row)
    return packed


_WHERE_KNOWN = ("decided_at", "user_id", "visitor_id", "decision_id", "action", "item_id", "amount",
                "currency", "session_id", "device", "valid_until")  # fmt: skip


def from_log(payload: bytes) -> Event:
    """The event that `to_log` wrote. ValueError when the bytes are something else."""
    row = unpack(payload)
    if row["t"] not in _FIELDS:
        raise ValueError(f"a {row['t']!r} record is not an event")
    known: dict[str, Any] = {name: row.get(name) for name in _WHERE_KNOWN}
    try:
        known |= {name: row[name] for name in ("occurred_at", "received_at", "at", "subject", "channel")}
        return Event(
            event_id=row["id"],
            type=row["t"],
            places=np.frombuffer(row["places"], PLACES) if "places" in row else _NO_PLACES,
            item_key=row.get("item_key", 0),
            late=row.get("late", False),
            org=row.get("org", 0),
            **known,
        )
    except KeyError as missing:
        raise ValueError(f"an event record lacks {missing}") from None


SERVED_FIELDS: Final = (
    "id", "subject", "at", "surface", "bundle", "plan", "overlay", "prices", "stats", "context", "blobs",
    "slots", "sizes", "place_slot", "items", "item_ids", "campaigns", "creatives", "scores", "propensity",
    "origins", "reasons", "effort", "degraded", "arms", "profiling", "kills", "cached", "watermark", "views",
)  # fmt: skip


def served_to_log(served: Mapping[str, Any]) -> bytes:
    """The `served` record: a decision's inputs and its choice, as a MessagePack map.

    `id` is the decision id, `at` its time; arrays (items u8, scores and propensity f4, the rest u1 to u4) go
    as little-endian bytes, `blobs` as the customer's record bytes as they were read. ValueError names what is
    missing.
    """
    missing = [name for name in SERVED_FIELDS if name not in served]
    if missing:
        raise ValueError(f"a served record needs {', '.join(missing)}")
    packed: bytes = msgpack.packb({"t": "served", **served})
    return packed


def input_to_log(kind: str, version: str, at: float, body: bytes) -> bytes:
    """What served records name by version, itself: `body` is compressed JSON, `at` when it was met."""
    packed: bytes = msgpack.packb({"t": "input", "kind": kind, "version": version, "at": at, "body": body})
    return packed


def served_id(subject: str, decision_id: str) -> str:
    """The identity of a decision's served record in the event log, where (subject, decision_id) keys it."""
    return f"s:{subject}:{decision_id}"


def unpack(payload: bytes) -> dict[str, Any]:
    """The map that a log payload holds, `t` among its keys. ValueError when it is none."""
    try:
        row = msgpack.unpackb(payload)
    except Exception as problem:  # what msgpack raises on bad bytes differs by version and by accelerator
        raise ValueError(f"not MessagePack: {problem or type(problem).__name__}") from None
    if not isinstance(row, dict) or not isinstance(row.get("t"), str):
        raise ValueError("not a map that says its type")
    return row


def _placed(
    raw: Mapping[str, Any], kind: str, verify: Callable[[str], PageToken]
) -> tuple[PageToken, NDArray[np.void]]:
    try:
        text = needed(raw, "page_token")
        if not isinstance(text, str):
            raise Rejected("token_malformed", "page_token must be text")
        token = verify(text)
    except TokenError as problem:
        raise Rejected(problem.code, str(problem)) from None
    name = "seen" if kind == "displayed" else "index"
    given = needed(raw, name)
    indexes = given if kind == "displayed" else [given]
    if not isinstance(indexes, list) or not indexes or not all(type(index) is int for index in indexes):
        raise Rejected("bad_index", "seen must be a list of indexes, index a whole number")
    if not (min(indexes) >= 0 and max(indexes) < len(token)):
        raise Rejected("bad_index", f"{name} must lie in 0..{len(token) - 1}, the places of the page")
    if len(indexes) == 1:
        return token, token.table[indexes[0] : indexes[0] + 1]
    return token, token.table[sorted(set(indexes))]


def _owner(subject: str) -> tuple[str | None, str | None]:
    return (subject[2:], None) if subject.startswith("u:") else (None, subject[2:])


def _action(raw: Mapping[str, Any], actions: Collection[str]) -> str:
    action = needed(raw, "action")
    if not isinstance(action, str) or action not in actions:
        raise Rejected("unknown_action", f"the plan knows no action {told(action)}")
    return action


def _complaint(event: Event, categories: Callable[[NDArray[np.uint64]], NDArray[np.uint32]] | None) -> bytes:
    keys = np.array([event.item_key], np.uint64)
    category = int(categories(keys)[0]) if categories is not None and event.item_key else 0
    return contact_entry(
        event.item_key, event.event_id, event.at, category=category, channel=event.channel, what=WHAT["acted"]
    )


def _seconds(at: float) -> int:
    return min(max(int(at), 0), 0xFFFFFFFF)
