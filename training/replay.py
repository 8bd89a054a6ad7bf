"""A decision made again from its `served` record: the same inputs through the same `decide`, the same page.

What the record names by version (bundle, plan, overlay), and the kills it lists, stand in the Live that is
handed in: that of the bundle which ran, also where the page's arm had another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from features.customer import Blobs, decode_customer
from features.events import unpack
from features.ids import key64
from serving.decide import decide
from serving.domain import EFFORTS, Decision, Query, Rows, SlotRequest
from serving.live import Live
from serving.placed import Columns
from serving.reserving import settle
from serving.served import lotteries_of, placed_columns
from serving.wire import ContextAsk, context_of
from training.lake import Lake

Record = Mapping[str, Any]
BY_SHELL = ("anchor_item", "control", "prices", "ledger")  # what the shell may add to `degraded`


class ReplayError(ValueError):
    """A record that cannot be decided again here; says what is missing."""


class Placed(NamedTuple):
    """What a record and a decision both say of a placement. `score` as the record keeps it, in 32 bits."""

    slot: int
    item: int
    campaign: int
    creative: int
    score: bytes
    propensity: bytes
    origin: int
    reason: int


def records(lake: Lake, since: float | None = None, until: float | None = None) -> Iterator[Record]:
    """The served records of the lake, in the order of writing."""
    for packed in lake.served(since, until, columns=["record"])["record"]:
        yield unpack(packed.as_py())


def base_of(record: Record) -> str:
    """The bundle that ran; records from before arms could have another name one only."""
    return str(record.get("base", record["bundle"]))


def query_of(record: Record, live: Live) -> Query:
    """The query that was decided. Raises ReplayError when `live` is not what the record was decided by."""
    _same(record, live)
    context: dict[str, Any] = record["context"]
    asked = ContextAsk(**{name: context[name] for name in ContextAsk.model_fields if name in context})
    anchor = asked.anchor_item
    customer = decode_customer(
        Blobs(*record["blobs"]),
        now=record["at"],
        profiling=record["profiling"],
        schemas=live.bundle.schemas,
        materialised=frozenset(record["views"]),
        watermark=record["watermark"],
        consented=record.get("consented", False),
    )
    return Query(
        record["id"],
        record["subject"],
        record["surface"],
        _slots(record, live),
        context_of(asked),
        customer,
        record["at"],
        live.row(anchor) if anchor is not None else None,
        customer.profiling,
        device=record["device"],
        reserved=record["reserved"],
        spent=frozenset(record["spent"]),
        capped=record["capped"],
        owner=record["owner"],
        tagged=record["tagged"],
    )


def cached_of(record: Record, live: Live) -> Rows | None:
    """The rows that the rung `cached` was given; None for the other rungs."""
    if record["cached"] is None:
        return None
    return live.items.rows_of_keys(np.frombuffer(record["cached"], np.uint64))


def decided_first(record: Record, live: Live) -> Decision:
    """`decide` on what the record holds, before the ledger is asked. Raises ReplayError."""
    return decide(query_of(record, live), live, record["effort"], cached_of(record, live))


def settled(decision: Decision, record: Record) -> Decision:
    """The page by what the ledger and the leases refused then."""
    return settle(decision, {place: why for place, _, why in record["refused"]})


def decided_again(record: Record, live: Live) -> Decision:
    """The decision as it was answered. Raises ReplayError."""
    return settled(decided_first(record, live), record)


def placed_by(decision: Decision) -> list[Placed]:
    """The placements of a decision, to be compared with `placed_in` its record."""
    return [
        Placed(
            place.slot,
            place.key,
            place.campaign_key,
            place.creative_key,
            np.float32(place.score).tobytes(),
            np.float32(place.propensity).tobytes(),
            place.origin,
            place.reason,
        )
        for place in decision.placements
    ]


def placed_in(record: Record) -> list[Placed]:
    """The placements that a record says were served."""
    floats = [[one.tobytes() for one in np.frombuffer(record[name], "<f4")] for name in _FLOATS]
    whole = [np.frombuffer(record[name], kind).tolist() for name, kind in _WHOLE]
    slots, items, campaigns, creatives, origins, reasons = whole
    columns = zip(slots, items, campaigns, creatives, *floats, origins, reasons, strict=True)
    return [Placed(*one) for one in columns]


_FLOATS = ("scores", "propensity")
_WHOLE = (
    *(("place_slot", "u1"), ("items", "<u8"), ("campaigns", "<u4"), ("creatives", "<u4")),
    *(("origins", "<u4"), ("reasons", "u1")),
)


def differing(record: Record, decision: Decision, live: Live) -> list[str]:
    """What a record and the decision made from it do not have in common, bit for bit; empty: nothing.

    What the shell adds to `degraded` (rungs that failed, a ledger or control that was away) is not decided.
    """
    texts = live.of(decision).texts
    made: dict[str, Any] = {
        "bundle": decision.bundle,
        **placed_columns(Columns.of(decision.placements)),
        "item_ids": [texts[place.row].id for place in decision.placements],
        "lotteries": lotteries_of(decision.lotteries),
        "refused": [list(one) for one in decision.refused],
    }
    if "draws" in record:  # records from before there was a bandit drew nothing
        made["draws"] = lotteries_of(decision.draws)
        made["arm_draws"] = [list(one) for one in decision.arm_draws]
    if "idle" in record:
        made["idle"] = list(decision.idle)
    wrong = [name for name, value in made.items() if _plain(record[name]) != _plain(value)]
    shell = {*EFFORTS, *BY_SHELL}
    said = [name for name in record["degraded"] if name in decision.degraded or name not in shell]
    return wrong + (["degraded"] if said != list(decision.degraded) else [])


def _plain(value: Any) -> Any:
    """As MessagePack gives it back: without tuples."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _same(record: Record, live: Live) -> None:
    wanted = {
        "base": live.bundle.version,
        "plan": live.plan.version,
        "overlay": live.overlay_seq,
        "kills": [list(kill) for kill in live.thrown],
        "prices": str(live.prices.version) if live.prices.version else None,
        "content": live.content,
        "learned": live.learned.version or None,
    }
    said = {**record, "base": base_of(record)}
    for name, here in wanted.items():
        if said.get(name, here) != here:
            what = "bundle" if name == "base" else name
            raise ReplayError(
                f"decision {record['id']} was made by {what} {said[name]}, not {here}: build that one first"
            )


def _slots(record: Record, live: Live) -> tuple[SlotRequest, ...]:
    found = live.plan.surface(record["surface"])
    if found is None:
        raise ReplayError(f"decision {record['id']}: the plan has no surface {record['surface']}")
    known = {slot.name: slot for slot in found[0]}
    excluded: dict[str, list[str]] = record["context"].get("exclude", {})
    return tuple(
        SlotRequest(
            known[name],
            min(count, known[name].size),
            frozenset(key64(item) for item in excluded.get(name, ())),
        )
        for name, count in zip(record["slots"], record["sizes"], strict=True)
    )
