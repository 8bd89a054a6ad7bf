"""The `served` record: the inputs of a decision and its choice, from the same object as the response.

It holds what replay needs and nothing derived: the customer's bytes as they were read, the context as it
was sent, the versions in force, the places with their propensities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from features.customer import Blobs
from features.events import served_id, served_to_log
from features.log import Entry
from serving.domain import Decision, Lottery
from serving.live import Live
from serving.placed import Columns, packed
from serving.wire import RecommendAsk


def served_entry(
    decision: Decision,
    blobs: Blobs,
    ask: RecommendAsk,
    live: Live,
    again: int,
    columns: Columns | None = None,
    *,
    ms: float = 0.0,
) -> Entry:
    """The log's entry. `again` counts how often a page was decided afresh under its id: 0 the first time.

    `ms`: from the request's arrival until its page was made, for guardrails; no replay depends on it.
    """
    query = decision.query
    identity = served_id(query.subject, query.decision_id) + (f"#{again}" if again else "")
    return Entry(
        identity, query.subject, served_to_log(record(decision, blobs, ask, live, columns) | {"ms": ms})
    )


def record(
    decision: Decision, blobs: Blobs, ask: RecommendAsk, live: Live, columns: Columns | None = None
) -> dict[str, Any]:
    """The record's fields (features.events.SERVED_FIELDS). `sizes` are the places asked for, slot by slot.

    `live`: what the decision was made by; `bundle` says what the page is of, `base` what runs, which is
    another where an arm has a bundle of its own. `cached` holds the item keys of the page that its rung
    repeated.
    `columns`: the decision's, where they are made already.
    """
    query = decision.query
    columns = Columns.of(decision.placements) if columns is None else columns
    rows = live.of(decision)
    return {
        "id": query.decision_id,
        "subject": query.subject,
        "at": query.now,
        "surface": query.surface,
        "bundle": decision.bundle,
        "base": live.bundle.version,
        "plan": decision.plan,
        "overlay": decision.overlay_seq,
        "content": live.content,
        "prices": decision.prices,
        "reserved": query.reserved,
        "spent": sorted(query.spent),
        "capped": query.capped,
        "device": query.device,
        "owner": query.owner,
        "tagged": query.tagged,
        "refused": [list(one) for one in decision.refused],
        "lotteries": lotteries_of(decision.lotteries),
        "draws": lotteries_of(decision.draws),
        "arm_draws": [list(one) for one in decision.arm_draws],
        "learned": decision.learned,
        "cell": int(query.customer.get("segment")) if decision.draws or decision.arm_draws else 0,
        "stats": decision.bundle,  # item statistics travel with the bundle
        "features": live.features_version or "",
        "views": sorted(live.materialised),
        "watermark": live.watermark,
        "consented": True,  # single fields and models were used under their consents
        "kills": [list(kill) for kill in live.thrown],
        "cached": _keys(decision, rows),
        "context": _context(ask),
        "blobs": list(blobs),
        "slots": [slot.spec.name for slot in query.slots],
        "sizes": [slot.count for slot in query.slots],
        "item_ids": rows.texts.ids(columns.row),
        "effort": decision.effort,
        "degraded": list(decision.degraded),
        "arms": {one.layer: one.name for one in decision.arms},
        "forced": [one.layer for one in decision.arms if one.forced],
        "idle": list(decision.idle),
        "decided": _decided(decision, live, columns),
        "ghosts": [one[1:] for one in decision.ghosts],  # campaign key, slot, position
        "lifts": live.ghosts.any and query.profiling and query.customer.unit is not None,  # could be a ghost
        "unit": query.customer.unit or query.subject,
        "profiling": query.profiling,
        **placed_columns(columns),
    }


_PACKED: Final = (
    ("place_slot", "B", "slot"), ("items", "Q", "key"), ("campaigns", "I", "campaign_key"),
    ("creatives", "I", "creative_key"), ("scores", "f", "score"), ("propensity", "f", "propensity"),
    ("origins", "I", "origin"), ("reasons", "B", "reason"), ("shown", "f", "shown"), ("values", "f", "value"),
    ("bases", "f", "base"), ("tags", "f", "tag"), ("rules", "B", "rule"),
)  # fmt: skip


def placed_columns(columns: Columns) -> dict[str, bytes]:
    """The choice, column by column, little-endian: what a replay must make again byte for byte."""
    return {name: packed(code, getattr(columns, field)) for name, code, field in _PACKED}


def lotteries_of(some: Sequence[Lottery]) -> list[list[Any]]:
    return [list(one) for one in map(_lottery, some)]


def _decided(decision: Decision, live: Live, columns: Columns) -> list[int]:
    """Keys of the campaigns that the page was decided with, also where the ledger then refused: whom a
    campaign would have been shown to is known before anybody asks the ledger."""
    keys = live.plan.campaigns.keys
    refused = {int(keys[one.campaign]) for one in decision.refused if one.campaign >= 0}
    return sorted((set(columns.campaign_key) - {0}) | refused)


def _lottery(one: Lottery) -> tuple[int, list[int], list[float], int]:
    return one.place, list(one.keys), list(one.probabilities), one.drawn


def _keys(decision: Decision, rows: Live) -> bytes | None:
    if decision.cached is None:
        return None
    return rows.keys[decision.cached[decision.cached >= 0]].tobytes()


def _context(ask: RecommendAsk) -> dict[str, Any]:
    """What was sent about the page, without what was not said."""
    context: dict[str, Any] = ask.context.model_dump(exclude_defaults=True)
    if ask.session_id is not None:
        context["session_id"] = ask.session_id
    excluded: Mapping[str, list[str]] = {slot.slot: slot.exclude for slot in ask.slots or () if slot.exclude}
    if excluded:
        context["exclude"] = dict(excluded)
    return context
