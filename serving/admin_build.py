"""The admin application put together beside a running service, over its control and what it runs by."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.admin import Admin, Preview
from serving.admin_web import AdminApp
from serving.bundle import Bundle
from serving.control import Control
from serving.governance import Governance
from serving.holder import Holder
from serving.keys import GovernedRing, Keys
from serving.limits import Limits
from serving.lists import ListShelf
from serving.office import Office
from serving.plan import Plan
from serving.plan_fit import Booking, Fit, item_orgs, orgs_in
from serving.proposals import FRAME
from serving.security import Access
from serving.settings import Settings
from serving.tracing import Eraser, Tracer


def admin_app(
    settings: Settings,
    control: Control,
    holder: Holder,
    *,
    approvals: bool | None = None,
    preview: Preview | None = None,
    booking: Booking | None = None,
    tracer: Tracer | None = None,
    eraser: Eraser | None = None,
    below: str = "",
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
) -> AdminApp:
    """`approvals` is FENLIU_APPROVALS; `preview` and `booking` decide pages, where somebody can.

    Call its `startup` once the service has started, and `shutdown` before the service stops.
    """

    def bundle() -> Bundle | None:
        return None if holder.current is None else holder.current.bundle

    def current() -> Plan | None:
        return None if holder.current is None else holder.current.plan.plan

    governance = Governance(
        settings.registry_url,
        check=Fit(bundle, current, booking, ListShelf(settings.registry_url).numbers),
        item_org=item_orgs(lambda: holder.current, lambda: orgs_in(governance.books.newest(FRAME))),
        approvals=approvals,
        clock=clock,
    )
    ring = GovernedRing(settings.registry_url, Keys(settings.registry_url, governance.books), clock)
    access = Access(settings, ring)
    return AdminApp(Admin(Office(governance, control), preview, tracer, eraser), access, ring, below, limits)
