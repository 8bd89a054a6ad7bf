"""The body of a page written place by place: the twin of serving.writing."""

from __future__ import annotations

from math import isfinite

import orjson

from serving.reasons import REASON_TEXTS
from serving.wire import rfc3339

_REASON = {
    (reason.value, english): b',"reason":' + orjson.dumps({"code": reason.code, "text": texts[english]})
    for reason, texts in REASON_TEXTS.items()
    for english in (False, True)
}
_SURE = b',"propensity":1.0}'
_ORGANIC = b"null"


def plain_page_bytes(decision, texts, *, page_token, valid_until, campaigns=(), extra=None, explained=None):
    """The body of a page. `texts[row]` is a serving.texts.ItemText; `campaigns` are the ids of the plan's, in
    its order; `explained` adds one object to each slot.
    """
    query = decision.query
    english = query.context.locale.startswith("en")
    head = {
        "decision_id": query.decision_id,
        "page_token": page_token,
        "valid_until": rfc3339(valid_until),
        "bundle": decision.bundle,
        "plan": decision.plan,
        "arms": {},
        "degraded": decision.degraded,
        **(extra or {}),
    }
    groups: list[list[bytes]] = [[] for _ in query.slots]
    locale = query.context.locale
    for index, place in enumerate(decision.placements):
        slot, position, row, _, score, _, reason, creative, _, _, propensity, campaign, *_ = place
        sure = _SURE if propensity == 1.0 else b',"propensity":%.6f}' % propensity
        of = _ORGANIC if campaign < 0 else orjson.dumps(campaigns[campaign])
        groups[slot].append(
            b'{"index":%d,%b,"position":%d,"score":%.4f,"campaign_id":%b%b%b'
            % (
                index,
                texts[row].json(creative, locale),
                position,
                score if isfinite(score) else 0.0,
                of,
                _REASON[reason, english],
                sure,
            )
        )
    slots = []
    for number, (asked, items) in enumerate(zip(query.slots, groups, strict=True)):
        told = b'{"slot":%b,"items":[%b]' % (orjson.dumps(asked.spec.name), b",".join(items))
        if explained is not None:
            told += b',"explained":' + orjson.dumps(explained[number], option=orjson.OPT_SERIALIZE_NUMPY)
        slots.append(told + b"}")
    return b'%b,"slots":[%b]}' % (orjson.dumps(head)[:-1], b",".join(slots))
