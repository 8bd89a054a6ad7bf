"""Permission: one short class per rule, three-valued; what is not known denies.

`rules_of` marks, per row, which rules it is subject to. A row under none of `reasons.CLOSING` is open: it may
be shown to everybody, always, but for those from whom the bank withholds its kind. A filter is asked about
rows under its rule only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Hashable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from features.ids import KIND_CODE
from features.views import BLOCKED, CONTACT_KEEP, HOLDINGS_KEPT, OFFERS, withheld
from serving.catalogue import REPEATS
from serving.domain import Column, Facts, Mask
from serving.pipeline import Filter, Page
from serving.reasons import CUSTOMER, Drop

Cause = Callable[[Page], Hashable]  # what an answer depends on, see Filter.cause
Listed = Callable[[Page], list[int] | None]  # what is denied, see Filter.listed

NEVER: Final = REPEATS.index("never")
COOLING_S: Final = 14 * 86_400.0
_OFFERED: Final = [KIND_CODE[kind] for kind in OFFERS]


def rules_of(table: NDArray[np.void], killed: Collection[int] = ()) -> NDArray[np.uint32]:
    """Per ITEM row, a bit per rule it is subject to. `killed` are row numbers."""
    rules = np.zeros(len(table), np.uint32)

    def mark(rule: Drop, where: NDArray[Any]) -> None:
        rules[where] |= np.uint32(rule.bit)

    mark(Drop.CHANNEL, table["channels"] != 0)
    mark(Drop.APP_VERSION, table["min_app"] != 0)
    mark(Drop.REGION, (table["regions"] != 0).any(axis=1))
    mark(Drop.DATES, (table["starts"] != 0) | (table["ends"] != 0))
    mark(Drop.STOCK, (table["sold_out"] != 0) | (table["stock"] == 0))
    mark(Drop.WITHDRAWN, table["withdrawn"] != 0)
    mark(Drop.AUTH_LEVEL, table["auth_level"] != 0)
    windowed = (table["creative_from"] != 0) | (table["creative_until"] != 0)
    mark(Drop.CREATIVE, (table["approved"] == 0) | windowed)
    mark(Drop.RISK, table["risk_class"] != 0)
    mark(Drop.AGE, (table["min_age"] != 0) | (table["max_age"] != 0))
    mark(Drop.CONSENT, table["consents"] != 0)
    mark(Drop.NEEDS, (table["needs"] != 0).any(axis=1))
    mark(Drop.EXCLUDES, (table["excludes"] != 0).any(axis=1))
    mark(Drop.REPEAT, table["repeat"] == NEVER)
    mark(Drop.AUDIENCE, table["audience"] != 0)
    mark(Drop.COOLING, table["cooling"] != 0)
    mark(Drop.BLOCKED, (rules & np.uint32(CUSTOMER)) != 0)
    mark(Drop.BARRED, np.isin(table["kind"], _OFFERED))
    if killed:
        rules[np.array(sorted(killed), np.intp)] |= np.uint32(Drop.KILLED.bit)
    return rules


class Channel(Filter):
    rule = Drop.CHANNEL

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        channel = page.query.context.channel
        if not channel:
            return True
        mask: Mask = (items["channels"] & np.uint8(1 << (channel - 1))) == 0
        return mask

    def cause(self, items: Facts) -> Cause:  # noqa: ARG002
        return lambda page: page.query.context.channel


class AppVersion(Filter):
    rule = Drop.APP_VERSION

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        mask: Mask = items["min_app"] > page.query.context.app_version
        return mask

    def cause(self, items: Facts) -> Cause:
        steps = _steps(items["min_app"])
        return lambda page: bisect_right(steps, page.query.context.app_version)


class Region(Filter):
    """By the city of the request, else of the profile, and the areas that contain it."""

    rule = Drop.REGION
    views = ("profile",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        if not page.city:
            return True
        mask: Mask = ~np.any(_any_of(items["regions"], np.array(page.areas, np.uint32)), axis=1)
        return mask

    def cause(self, items: Facts) -> Cause:
        named = frozenset(items["regions"].ravel().tolist())
        return lambda page: named.intersection(page.areas) if page.city else None


class Dates(Filter):
    rule = Drop.DATES

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        return _outside(items["starts"], items["ends"], page.query.now)

    def cause(self, items: Facts) -> Cause:
        steps = _steps(items["starts"], items["ends"])
        return lambda page: bisect_right(steps, page.query.now)


class AuthLevel(Filter):
    rule = Drop.AUTH_LEVEL

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        mask: Mask = items["auth_level"] > page.query.context.auth_level
        return mask

    def cause(self, items: Facts) -> Cause:
        steps = _steps(items["auth_level"])
        return lambda page: bisect_right(steps, page.query.context.auth_level)


class Approved(Filter):
    """Some creative is live now; whether one suits the slot is seen when it is placed."""

    rule = Drop.CREATIVE

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        outside = _outside(items["creative_from"], items["creative_until"], page.query.now)
        mask: Mask = outside | (items["approved"] == 0)
        return mask

    def cause(self, items: Facts) -> Cause:
        steps = _steps(items["creative_from"], items["creative_until"])
        return lambda page: bisect_right(steps, page.query.now)


class Risk(Filter):
    rule = Drop.RISK
    views = ("profile",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        customer = page.query.customer
        if not customer.knows("risk_level"):
            return True
        mask: Mask = items["risk_class"] > customer.get("risk_level")
        return mask

    def cause(self, items: Facts) -> Cause:
        steps = _steps(items["risk_class"])

        def cause(page: Page) -> int | None:
            customer = page.query.customer
            return bisect_right(steps, customer.get("risk_level")) if customer.knows("risk_level") else None

        return cause


class Age(Filter):
    rule = Drop.AGE
    views = ("profile",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        age = int(page.query.customer.get("age"))  # 0 when it is not known
        if not age:
            return True
        above = (items["max_age"] != 0) & (items["max_age"] < age)
        mask: Mask = above | (items["min_age"] > age)
        return mask

    def cause(self, items: Facts) -> Cause:
        steps = _steps(items["min_age"], items["max_age"] + 1.0)

        def cause(page: Page) -> int | None:
            age = int(page.query.customer.get("age"))
            return bisect_right(steps, age) if age else None

        return cause


class Blocked(Filter):
    """A blocked customer (frozen, in dispute, on a list) gets nothing that asks about the customer.

    So it is as long as it is not known whether one is; withholding a kind only (see Barred) blocks no more.
    """

    rule = Drop.BLOCKED
    views = ("profile",)

    def denies(self, page: Page, items: Facts) -> bool:  # noqa: ARG002
        customer = page.query.customer
        return not customer.knows("blocked") or bool(customer.get("blocked") & BLOCKED)

    def cause(self, items: Facts) -> Cause:
        return lambda page: self.denies(page, items)


class Barred(Filter):
    """What the bank's fraud engine withholds: kinds of offers; benefits from whoever is blocked.

    The one rule by which unknown does not deny: it is about who is named, and an offer that nobody else is
    asked about (open: no age, audience, consent ...) stays on the page while profiles are late. An offer that
    asks anything of the customer is under Blocked as well, which reads the same field and denies.
    """

    rule = Drop.BARRED
    views = ("profile",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        bits = self._bits(page)
        return bits != 0 and np.isin(
            items["kind"], [KIND_CODE[kind] for kind in OFFERS if bits & withheld(kind)]
        )

    def cause(self, items: Facts) -> Cause:  # noqa: ARG002
        return self._bits

    def _bits(self, page: Page) -> int:
        bits = int(page.query.customer.get("blocked"))  # 0 when it is not known
        return bits | withheld("benefit") if bits & BLOCKED else bits


class Consent(Filter):
    rule = Drop.CONSENT
    views = ("profile",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        customer = page.query.customer
        if not customer.knows("consents"):
            return True
        mask: Mask = (items["consents"] & ~customer.get("consents")) != 0
        return mask

    def cause(self, items: Facts) -> Cause:
        wanted = int(np.bitwise_or.reduce(items["consents"]))

        def cause(page: Page) -> int | None:
            customer = page.query.customer
            return wanted & int(customer.get("consents")) if customer.knows("consents") else None

        return cause


class Needs(Filter):
    """All of them must be held."""

    rule = Drop.NEEDS
    views = ("profile",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        if not page.query.customer.knows("holdings"):
            return True
        needs = items["needs"]
        mask: Mask = ~np.all(_any_of(needs, _holdings(page)) | (needs == 0), axis=1)
        return mask


class Excludes(Filter):
    """Holding any of them forbids. A full list may have been cut: then it is not known what else is held."""

    rule = Drop.EXCLUDES
    views = ("profile",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        held = _holdings(page)
        if not page.query.customer.knows("holdings") or len(held) == HOLDINGS_KEPT:
            return True
        mask: Mask = np.any(_any_of(items["excludes"], held), axis=1)
        return mask


class Repeat(Filter):
    """What is held, or was converted since the holdings were last known, is not offered again."""

    rule = Drop.REPEAT
    views = ("profile", "live")

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        had = self._had(page)
        return True if had is None else _any_of(items["key"], np.array(had, np.uint64))

    def listed(self, items: Facts) -> Listed:
        at = {key: place for place, key in enumerate(items["key"].tolist())}

        def listed(page: Page) -> list[int] | None:
            had = self._had(page)
            return None if had is None else [at[key] for key in had if key in at]

        return listed

    def _had(self, page: Page) -> list[int] | None:
        """Keys of what is held or was bought; None where that is not known."""
        customer = page.query.customer
        if not customer.knows("holdings") or customer.contact is None:
            return None
        had: list[int] = _holdings(page).tolist()
        if len(had) == HOLDINGS_KEPT:
            return None
        as_of = customer.profile.as_of if customer.profile is not None else -np.inf
        if len(customer.contact) >= CONTACT_KEEP and customer.contact["at"][0] > as_of:
            return None  # the log was cut since the holdings were known: a purchase may be gone from it
        what = customer.contact["what"]
        return had + _items_where(customer.contact, what, WHAT["converted"])


class Audience(Filter):
    rule = Drop.AUDIENCE
    views = ("membership",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        audiences = page.query.customer.audiences
        if audiences is None:
            return True
        return ~_any_of(items["audience"], audiences)


class Cooling(Filter):
    """Not within 14 days of any complaint, or of a dismissal of this item."""

    rule = Drop.COOLING
    views = ("live",)

    def denies(self, page: Page, items: Facts) -> Mask | bool:
        refused = self._refused(page)
        return True if refused is None else _any_of(items["key"], np.array(refused, np.uint64))

    def listed(self, items: Facts) -> Listed:
        at = {key: place for place, key in enumerate(items["key"].tolist())}

        def listed(page: Page) -> list[int] | None:
            refused = self._refused(page)
            return None if refused is None else [at[key] for key in refused if key in at]

        return listed

    def _refused(self, page: Page) -> list[int] | None:
        """Keys of what was dismissed lately; None after a complaint, or where it is not known."""
        contact = page.query.customer.contact
        if contact is None:
            return None
        since = page.query.now - COOLING_S
        if len(contact) >= CONTACT_KEEP and contact["at"][0] > since:
            return None  # the log was cut within the period
        lately = np.where(contact["at"] > since, contact["what"], np.uint8(0))
        if WHAT["acted"] in lately.tobytes():  # of what customers do, contacts keep only complaints
            return None
        return _items_where(contact, lately, WHAT["dismissed"])


FILTERS: Final[tuple[Filter, ...]] = (
    Channel(),
    AppVersion(),
    Region(),
    Dates(),
    AuthLevel(),
    Approved(),
    Risk(),
    Age(),
    Blocked(),
    Barred(),
    Consent(),
    Needs(),
    Excludes(),
    Repeat(),
    Audience(),
    Cooling(),
)
"""Every rule that depends on the request; sold out, withdrawn and killed rows are denied by their mark."""


def _steps(*columns: Column) -> list[float]:
    """The values at which a comparison with these columns changes its answer, ascending."""
    steps: list[float] = np.unique(np.concatenate(columns)).tolist()
    return steps


def _outside(starts: NDArray[Any], ends: NDArray[Any], now: float) -> Mask:
    mask: Mask = (starts > now) | ((ends != 0) & (ends <= now))
    return mask


def _holdings(page: Page) -> NDArray[np.uint64]:
    slots: NDArray[np.uint64] = page.query.customer.get("holdings")
    held: NDArray[np.uint64] = slots[slots != 0]
    return held


def _items_where(contact: NDArray[np.void], what: NDArray[np.uint8], wanted: int) -> list[int]:
    """Keys of the entries with that code; of most logs there are none, which their bytes say fastest."""
    if wanted not in what.tobytes():
        return []
    keys: list[int] = contact["item"][what == wanted].tolist()
    return keys


def _any_of(values: NDArray[Any], wanted: NDArray[Any]) -> Mask:
    """Which values are among the wanted, of which there are few: the shape of `values`."""
    mask: Mask = (values[..., None] == wanted).any(axis=-1)
    return mask
