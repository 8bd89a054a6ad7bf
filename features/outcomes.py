"""Outcomes: what the bank's own systems report hours or days later, without a token.

`{outcome_id, user_id, kind, item_id | family, value, occurred_at, recorded_at, channel}`. The same
`outcome_id` again corrects: the one with the latest `recorded_at` stands. A value of amount 0 takes the
outcome back. `kind` is the bank's word (purchase, inflow, complaint …), `family` a category path when the
item itself is not known, `channel` where it happened, also outside the app (branch, phone …).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from features.events import MAX_AHEAD_S, MAX_BATCH, WHAT, contact_entry, unpack
from features.fields import Rejected, identifier, needed, optional_id, parse_time, parse_value
from features.ids import CHANNEL_CODE, key64, user_subject

_FIELDS: Final = frozenset(
    (
        "outcome_id",
        "user_id",
        "kind",
        "item_id",
        "family",
        "value",
        "occurred_at",
        "recorded_at",
        "channel",
    )
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One accepted outcome; times are POSIX seconds, exactly one of `item_id` and `family` is given."""

    outcome_id: str
    user_id: str
    kind: str
    item_id: str | None
    family: str | None
    amount: float | None
    currency: str | None
    occurred_at: float
    recorded_at: float
    received_at: float
    channel: str | None

    @property
    def subject(self) -> str:
        return user_subject(self.user_id)

    @property
    def taken_back(self) -> bool:
        return self.amount == 0

    @property
    def entry_id(self) -> str:
        """Its identity in the event log: the same report twice is one, a correction is another."""
        said = (
            self.kind,
            self.item_id,
            self.family,
            self.amount,
            self.currency,
            self.occurred_at,
            self.recorded_at,
        )
        return f"o:{self.outcome_id}:{blake2b(repr(said).encode(), digest_size=8).hexdigest()}"


def parse_outcome(raw: Any, *, received_at: float) -> Outcome:
    """An outcome from its JSON object. Raises Rejected: malformed, unknown_field, missing_field, bad_id,
    bad_time, in_future (more than 5 minutes ahead) or bad_value. There is no oldest age."""
    if not isinstance(raw, dict):
        raise Rejected("malformed", "an outcome is a JSON object")
    if not raw.keys() <= _FIELDS:
        strange = ", ".join(sorted(repr(name)[:80] for name in raw.keys() - _FIELDS)[:8])
        raise Rejected("unknown_field", f"outcomes have no field {strange}")
    outcome_id, user_id, kind = (identifier(raw, name) for name in ("outcome_id", "user_id", "kind"))
    item_id, family = optional_id(raw, "item_id"), optional_id(raw, "family")
    if (item_id is None) == (family is None):
        code = "missing_field" if item_id is None else "bad_value"
        raise Rejected(code, "an outcome names its item_id or its family, one of the two")
    amount, currency = parse_value(raw.get("value"))
    occurred_at, recorded_at = (
        parse_time(needed(raw, name), name) for name in ("occurred_at", "recorded_at")
    )
    if max(occurred_at, recorded_at) > received_at + MAX_AHEAD_S:
        raise Rejected("in_future", "an outcome's times lie more than 5 minutes ahead of the server's clock")
    if occurred_at > recorded_at + MAX_AHEAD_S:
        raise Rejected("bad_time", "recorded_at lies before occurred_at")
    return Outcome(
        outcome_id,
        user_id,
        kind,
        item_id,
        family,
        amount,
        currency,
        occurred_at,
        recorded_at,
        received_at,
        optional_id(raw, "channel"),
    )


def parse_outcomes(raws: Any, *, received_at: float) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """The good outcomes of a batch, in order, and {index, code, detail} for each of the others.

    Raises Rejected when the batch itself is not a list of at most 500.
    """
    if not isinstance(raws, list) or len(raws) > MAX_BATCH:
        raise Rejected("malformed", f"outcomes must be a list of at most {MAX_BATCH}")
    outcomes: list[Outcome] = []
    rejections: list[dict[str, Any]] = []
    for index, raw in enumerate(raws):
        try:
            outcomes.append(parse_outcome(raw, received_at=received_at))
        except Rejected as problem:
            rejections.append({"index": index, "code": problem.code, "detail": problem.detail})
    return outcomes, rejections


def live_entries(
    outcome: Outcome, categories: Callable[[NDArray[np.uint64]], NDArray[np.uint32]] | None = None
) -> tuple[bytes, bytes]:
    """The entries for RECENT and CONTACT: a complaint about an item cools it, as one made in the app does."""
    if outcome.kind not in ("complaint", "complained") or outcome.item_id is None or outcome.taken_back:
        return b"", b""
    item = key64(outcome.item_id)
    category = int(categories(np.array([item], np.uint64))[0]) if categories is not None else 0
    channel = CHANNEL_CODE.get(outcome.channel or "", 0)
    contact = contact_entry(
        item,
        outcome.outcome_id,
        outcome.occurred_at,
        category=category,
        channel=channel,
        what=WHAT["acted"],
    )
    return b"", contact


def outcome_to_log(outcome: Outcome) -> bytes:
    """The outcome as a MessagePack map: its fields by name, None left out."""
    row = {name: value for name, value in asdict(outcome).items() if value is not None}
    packed: bytes = msgpack.packb({"t": "outcome", **row})
    return packed


def outcome_from_log(payload: bytes) -> Outcome:
    """The outcome that `outcome_to_log` wrote. ValueError when the bytes are something else."""
    row = unpack(payload)
    if row.pop("t") != "outcome":
        raise ValueError("not an outcome")
    try:
        return Outcome(
            **{"item_id": None, "family": None, "amount": None, "currency": None, "channel": None} | row
        )
    except TypeError as problem:
        raise ValueError(f"not an outcome: {problem}") from None
