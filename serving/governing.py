"""Governance put together beside a running service, over what it runs by."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.bundle import Bundle
from serving.governance import Governance
from serving.holder import Holder
from serving.lists import ListShelf
from serving.plan import Plan
from serving.plan_fit import Booking, Fit, item_orgs, orgs_in
from serving.proposals import FRAME
from serving.registry import Registry
from serving.settings import Settings


def governance_of(
    settings: Settings,
    holder: Holder,
    *,
    booking: Booking | None = None,
    approvals: bool | None = None,
    clock: Callable[[], float] = time.time,
) -> Governance:
    """Governance on the settings' registry; plans are judged by what the service runs by."""

    def bundle() -> Bundle | None:
        return None if holder.current is None else holder.current.bundle

    def current() -> Plan | None:
        return None if holder.current is None else holder.current.plan.plan

    registered = Registry(settings.registry_url).loader(settings.bundles)

    def load(version: str) -> Bundle:
        current = holder.current  # what an arm is served from already is at hand
        at_hand = () if current is None else (one.bundle for one in (current, *current.others))
        found = next((one for one in at_hand if one.version == version), None)
        return found if found is not None else registered(version)

    made = Governance(
        settings.registry_url,
        check=Fit(bundle, current, booking, ListShelf(settings.registry_url).numbers, load),
        item_org=item_orgs(lambda: holder.current, lambda: orgs_in(made.books.newest(FRAME))),
        approvals=approvals,
        clock=clock,
    )
    return made
