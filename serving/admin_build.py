"""The admin application put together beside a running service, over its control and what it runs by."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.admin import Admin, Preview
from serving.admin_web import AdminApp
from serving.control import Control
from serving.governing import governance_of
from serving.holder import Holder
from serving.keys import GovernedRing, Keys
from serving.limits import Limits
from serving.office import Office
from serving.plan_fit import Booking
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

    governance = governance_of(settings, holder, booking=booking, approvals=approvals, clock=clock)
    ring = GovernedRing(settings.registry_url, Keys(settings.registry_url, governance.books), clock)
    access = Access(settings, ring)
    return AdminApp(Admin(Office(governance, control), preview, tracer, eraser), access, ring, below, limits)
