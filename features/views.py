"""The views themselves: what is kept about a customer and an item, and in which form.

PROFILE and MEMBERSHIP are batch records of a customer; ITEM_STATS of an item; ITEM is the columns of the
catalogue that every replica holds. RECENT and CONTACT are not views but live logs: packed entries of 32 and
40 bytes, oldest first, appended as things happen; RESERVATION is what may still become a CONTACT entry. A key
is never 0, so that 0 can mean "none".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import numpy as np

from features.ids import KIND_CODE, KINDS
from features.schema import Field, Purpose, Schemas, View

CONSENTS: Final = ("marketing", "data_sharing", "third_party")  # bit i of `consents`
OFFERS: Final = ("product", "activity", "benefit")  # kinds that `blocked` may withhold one by one
BLOCKED: Final = 1  # bit of `blocked`: nothing that asks about the customer, and no benefit
TAG_BITS: Final = 128
HOLDINGS_KEPT: Final = 16
ATTRIBUTES_KEPT: Final = 16
AUDIENCES_KEPT: Final = 64


CONSENT_OF: Final = {"income": "data_sharing"}
"""Fields that are used under a consent of their own: `income` is told by employers and credit bureaus."""


class Column(NamedTuple):
    """A PROFILE field as documentation and readers of customer tables need it."""

    name: str
    dtype: str
    purpose: Purpose
    meaning: str
    aggregated: bool  # computed from events: not accepted from outside


def _fields(purpose: Purpose, *declared: tuple[Any, ...]) -> tuple[Field, ...]:
    """Fields of one purpose from (name, dtype[, shape[, default]])."""

    def field(name: str, dtype: str, shape: tuple[int, ...] = (), default: float = 0) -> Field:
        return Field(name, dtype, shape, default, purpose, CONSENT_OF.get(name, ""))

    return tuple(field(*one) for one in declared)


def consents_in(bits: int) -> list[str]:
    """The names of consents that are given, or needed."""
    return [name for bit, name in enumerate(CONSENTS) if bits >> bit & 1]


def withheld(kind: str) -> int:
    """The bit of `blocked` by which a kind of OFFERS is withheld from a customer."""
    return 2 << KIND_CODE[kind]


_SERVICE = (
    ("tz", "S32", (), 0, "IANA time zone, such as Asia/Shanghai"),
    ("org", "u4", (), 0, "key32 of the home branch; 0 unknown"),
    ("city", "u4", (), 0, "key32 of the city code; 0 unknown"),
)
_PERMISSION = (
    ("consents", "u2", (), 0, "bits: 0 marketing, 1 data_sharing, 2 third_party"),
    ("profiling", "u1", (), 1, "1 personalisation allowed, 0 refused"),
    ("risk_level", "u1", (), 0, "assessed risk level 1 to 5; 0 not assessed"),
    ("age", "u1", (), 0, "years"),
    ("blocked", "u1", (), 0, "1: only open items, no benefits; 4, 8, 32: no product, activity, benefit"),
    ("holdings", "u8", (HOLDINGS_KEPT,), 0, "key64 of items held, 0 padded"),
    ("tags_off", "u1", (TAG_BITS // 8,), 0, "tags the customer switched off, packed as `tags`"),
)
_PROFILING = (
    ("age_band", "u1", (), 0, "band code of the source"),
    ("gender", "u1", (), 0, "0 not said, 1 female, 2 male, 3 other"),
    ("star_level", "u1", (), 0, "the bank's customer grade"),
    ("payroll", "u1", (), 0, "1: salary is paid in here"),
    ("lifecycle", "u1", (), 0, "lifecycle stage code"),
    ("assets", "f4", (), 0, "assets under management, CNY"),
    ("income", "f4", (), 0, "monthly income, CNY; used under the consent data_sharing"),
    ("tenure_days", "f4", (), 0, "days since the first account"),
    ("segment", "u2", (), 0, "segment code, for popularity"),
    ("city_tier", "u1", (), 0, "1 largest cities"),
    ("attributes", "u4", (ATTRIBUTES_KEPT,), 0, "key32 of name=value of other categorical facts, 0 padded"),
    ("tags", "u1", (TAG_BITS // 8,), 0, "128 boolean tags of the tag dictionary, bit order little"),
)
_AGGREGATED = (
    ("kind_affinity", "f4", (len(KINDS),), 0, "share of recent positive behaviour by item kind"),
    ("clicks_30d", "f4", (), 0, "clicks in the 30 days before the watermark"),
    ("displays_30d", "f4", (), 0, "displays in the 30 days before the watermark"),
    ("conversions_90d", "f4", (), 0, "conversions in the 90 days before the watermark"),
    ("active_days_30d", "f4", (), 0, "distinct UTC days with behaviour in 30 days"),
    ("last_active", "f8", (), 0, "time of the last behaviour, POSIX seconds"),
)


def _columns(
    purpose: Purpose, rows: Sequence[tuple[Any, ...]], aggregated: bool = False
) -> tuple[Column, ...]:
    return tuple(
        Column(name, dtype + (str(list(shape)) if shape else ""), purpose, meaning, aggregated)
        for name, dtype, shape, _, meaning in rows
    )


PROFILE_COLUMNS: Final = (
    *_columns("service", _SERVICE),
    *_columns("permission", _PERMISSION),
    *_columns("profiling", _PROFILING),
    *_columns("profiling", _AGGREGATED, aggregated=True),
)

AGGREGATED_FIELDS: Final = tuple(row[0] for row in _AGGREGATED)

PROFILE: Final = View(
    "profile",
    "user",
    timedelta(days=40),
    (
        *_fields("service", *(row[:4] for row in _SERVICE)),
        *_fields("permission", *(row[:4] for row in _PERMISSION)),
        *_fields("profiling", *(row[:4] for row in (*_PROFILING, *_AGGREGATED))),
    ),
)

MEMBERSHIP: Final = View(
    "membership",
    "user",
    timedelta(days=40),
    _fields("permission", ("audiences", "u2", (AUDIENCES_KEPT,))),  # sorted, 0 padded at the end
    sparse=True,
)

ITEM_STATS: Final = View(
    "item_stats",
    "item",
    timedelta(days=40),
    _fields(
        "service",
        ("displays", "f4"),  # these four decayed to the watermark
        ("clicks", "f4"),
        ("conversions", "f4"),
        ("dismissals", "f4"),
        ("interactions", "f4"),  # positive behaviours, not decayed
        ("users", "f4"),  # distinct customers with a positive behaviour
        ("first_seen", "f8"),
        ("last_seen", "f8"),
    ),
)

ITEM: Final = View(
    "item",
    "item",
    timedelta(days=3650),
    _fields(
        "service",
        ("key", "u8"),
        ("kind", "u1"),
        ("org", "u4"),
        ("category", "u4"),  # key32 of the full path
        ("top_category", "u4"),  # key32 of the path's first part
        ("risk_class", "u1"),  # 0 none, 1 to 5
        ("min_age", "u1"),
        ("max_age", "u1"),  # 0 none
        ("needs", "u8", (4,)),  # keys of items: all must be held
        ("excludes", "u8", (4,)),  # keys of items: holding one forbids
        ("repeat", "u1"),  # 0 always, 1 after maturity, 2 never
        ("channels", "u1"),  # bit mask, 0 all
        ("min_app", "u4"),  # major * 1e6 + minor * 1e3 + patch
        ("regions", "u4", (8,)),  # key32 of city or province codes; all 0 everywhere
        ("starts", "f8"),
        ("ends", "f8"),  # 0 none
        ("sold_out", "u1"),
        ("stock", "i4", (), -1),  # -1 unlimited
        ("auth_level", "u1"),  # 0 none, 1 device, 2 password, 3 bound_card, 4 face
        ("consents", "u2"),  # bits that the customer must have given
        ("audience", "u2"),  # 0 none, else membership is required
        ("approved", "u1"),  # 1 when some creative is live
        ("creative_from", "f8"),
        ("creative_until", "f8"),  # 0 none
        ("min_amount", "f4"),
        ("rate", "f4"),
        ("price", "f4"),
        ("cost", "f4"),
        ("published_at", "f8"),
        ("location", "S8"),  # geohash
        ("cooling", "u1"),  # 1: not within 14 days of a complaint, or of a dismissal of it
        ("withdrawn", "u1"),
    ),
)

RECENT: Final = np.dtype(
    [
        ("item", "<u8"),  # item and event are the entry's identity: the first 16 bytes
        ("event", "<u8"),  # key64 of event_id
        ("at", "<f8"),
        ("what", "u1"),
        ("channel", "u1"),
        ("action", "<u2"),
        ("value", "<f4"),
    ]
)
"""What the customer did, never what was displayed: clicked, converted, dismissed, acted. 32 bytes each."""

CONTACT: Final = np.dtype(
    [
        ("item", "<u8"),  # item and event are the entry's identity: the first 12 bytes
        (
            "event",
            "<u4",
        ),  # of a display the decision's mark (a page shows an item once), else key32 of event_id
        ("at", "<u4"),  # POSIX seconds
        ("campaign", "<u4"),
        ("category", "<u4"),
        ("slot", "<u4"),
        ("channel", "u1"),
        ("what", "u1"),
        ("position", "u1"),
        ("flags", "u1"),
        ("creative", "<u4"),
        ("org", "<u4"),  # 0 where the writer does not know it
    ]
)
"""What reached the customer, and the answer: displayed, clicked, dismissed, converted; complaints. 40 B."""

RESERVATION: Final = np.dtype(
    [
        ("item", "<u8"),  # the first 40 bytes are the CONTACT entry that a display will be
        ("event", "<u4"),
        ("at", "<u4"),  # when it was reserved
        ("campaign", "<u4"),
        ("category", "<u4"),
        ("slot", "<u4"),
        ("channel", "u1"),
        ("what", "u1"),
        ("position", "u1"),
        ("flags", "u1"),
        ("creative", "<u4"),
        ("org", "<u4"),
        ("expires", "<u4"),  # POSIX seconds of the store
        ("scope", "<u4"),  # key32 of surface and device
        ("epoch", "<u4"),
        ("place", "u1"),  # of the page's capped places
        ("choice", "u1"),  # which alternative was taken, 255 none
        ("attempt", "u1"),
        ("state", "u1"),  # 0 displayed, 1 held, 2 refused or released, 3 held on a device for a user's page
    ]
)
"""One capped place of one decision, kept until it lapses: what may still be displayed, and what was answered
when the same decision is reserved again. 56 bytes."""

RECENT_KEEP: Final = 128  # a third of them without an item: logins, transfers
RECENT_WHOLE: Final = 64  # fewer were never cut; logs were once kept to so many
HISTORY_KEEP: Final = 64  # of the RECENT entries the last, by which models are asked
CONTACT_KEEP: Final = 256
LOG_TTL: Final = timedelta(days=180)

BATCH_VIEWS: Final = (PROFILE, MEMBERSHIP)
SCHEMAS: Final = Schemas((PROFILE, MEMBERSHIP, ITEM_STATS, ITEM))
