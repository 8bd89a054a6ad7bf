"""The body of a page, joined from bytes made before: the JSON of an item is made when it is first shown.

All places of a page are written column by column, most of it in C; `tests/plain_bytes.py` writes the same
place by place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, Final

import orjson

from serving.domain import Decision
from serving.placed import Columns
from serving.reasons import REASON_TEXTS
from serving.texts import Texts
from serving.wire import MAX_COUNT, rfc3339

_INDEX: Final = [b'{"index":%d,' % index for index in range(4096)]
_POSITION: Final = [b',"position":%d,"score":' % position for position in range(MAX_COUNT)]
_REASON: Final = {
    (reason.value, english): b',"reason":' + orjson.dumps({"code": reason.code, "text": texts[english]})
    for reason, texts in REASON_TEXTS.items()
    for english in (False, True)
}
_SURE: Final = b',"propensity":1.0}'
_ORGANIC: Final = tuple(
    {reason: b',"campaign_id":null' + text + _SURE for (reason, of), text in _REASON.items() if of == english}
    for english in (False, True)
)


def page_bytes(
    decision: Decision,
    texts: Texts,
    *,
    page_token: str | None,
    valid_until: float,
    campaigns: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    explained: Sequence[Mapping[str, Any]] | None = None,
    columns: Columns | None = None,
) -> bytes:
    """The body of a page. `texts[row]` is a serving.texts.ItemText; `campaigns` are the ids of the plan's, in
    its order; `explained` adds one object to each slot; `columns`: the decision's, where they are made.
    """
    query = decision.query
    head = {
        "decision_id": query.decision_id,
        "page_token": page_token,
        "valid_until": rfc3339(valid_until),
        "bundle": decision.bundle,
        "plan": decision.plan,
        "arms": {one.layer: one.name for one in decision.arms},
        "degraded": decision.degraded,
        **(extra or {}),
    }
    columns = Columns.of(decision.placements) if columns is None else columns
    groups: list[list[bytes]] = [[] for _ in query.slots]
    for slot, place in zip(
        columns.slot, _places(columns, texts, query.context.locale, campaigns), strict=True
    ):
        groups[slot].append(place)
    slots = []
    for number, (asked, items) in enumerate(zip(query.slots, groups, strict=True)):
        told = b'{"slot":%b,"items":[%b]' % (orjson.dumps(asked.spec.name), b",".join(items))
        if explained is not None:
            told += b',"explained":' + orjson.dumps(explained[number], option=orjson.OPT_SERIALIZE_NUMPY)
        slots.append(told + b"}")
    return b'%b,"slots":[%b]}' % (orjson.dumps(head)[:-1], b",".join(slots))


def _places(columns: Columns, texts: Texts, locale: str, campaigns: Sequence[str]) -> list[bytes]:
    many = len(columns.slot)
    if not many:
        return []
    english = locale.startswith("en")
    scores = columns.score if all(map(isfinite, columns.score)) else [_finite(one) for one in columns.score]
    parts = (
        _INDEX[:many],
        texts.fragments(zip(columns.row, columns.creative, strict=True), english),
        [_POSITION[position] for position in columns.position],
        (b"%.4f " * many % tuple(scores)).split(),
        _tails(columns, english, campaigns),
    )
    return list(map(b"".join, zip(*parts, strict=True)))


def _finite(score: float) -> float:
    return score if isfinite(score) else 0.0


def _tails(columns: Columns, english: bool, campaigns: Sequence[str]) -> list[bytes]:
    """Of each place what comes behind its score; most are organic and drawn by no lottery."""
    tails = list(map(_ORGANIC[english].__getitem__, columns.reason))
    for index, campaign in enumerate(columns.campaign):
        if campaign >= 0:
            reason, propensity = columns.reason[index], columns.propensity[index]
            tails[index] = _tail(campaign, reason, propensity, english, campaigns)
    if columns.propensity.count(1.0) != len(tails):
        for index, propensity in enumerate(columns.propensity):
            if propensity != 1.0:
                reason = columns.reason[index]
                tails[index] = _tail(columns.campaign[index], reason, propensity, english, campaigns)
    return tails


def _tail(campaign: int, reason: int, propensity: float, english: bool, campaigns: Sequence[str]) -> bytes:
    head = _of_campaign("" if campaign < 0 else campaigns[campaign], reason, english)
    return head + (_SURE if propensity == 1.0 else b',"propensity":%.6f}' % propensity)


@lru_cache(8192)
def _of_campaign(name: str, reason: int, english: bool) -> bytes:
    """`name`: the campaign's id, "" of none."""
    return b',"campaign_id":%b%b' % (orjson.dumps(name or None), _REASON[reason, english])
