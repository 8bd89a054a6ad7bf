"""Golden queries: made-up customers whose pages a bundle must be able to fill, and fill the same way again.

They are kept in the bundle with the pages it gave when it was made. None is about a real customer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.events import WHAT
from features.ids import CHANNEL_CODE, KINDS, key64
from features.views import CONTACT, RECENT
from serving.arm_bundles import only
from serving.bundle import Bundle
from serving.catalogue import AUTH_LEVELS
from serving.decide import decide
from serving.domain import Context, Decision, Query, SlotRequest
from serving.live import Live, build_live
from serving.plan import Plan, PlanError

_HISTORY = 3  # items a made-up customer clicked


def make_golden(bundle: Bundle, plan: Plan, now: float) -> tuple[Mapping[str, Any], ...]:
    """A newcomer, and for each kind somebody who clicked its most popular items; with the pages they get."""
    live = build_live(bundle, (), plan, bundles=only(bundle))
    stories: list[tuple[str, list[str]]] = [("newcomer", [])]
    for code, kind in enumerate(KINDS):
        rows = bundle.popular.top(0, 0, code, _HISTORY).rows
        if len(rows):
            stories.append((f"clicked popular {kind}", [bundle.items.ids[row] for row in rows.tolist()]))
    golden = []
    for name, clicked in stories:
        for surface in plan.surfaces:
            query: dict[str, Any] = {"name": name, "surface": surface, "clicked": clicked, "now": now}
            page = _decide(query, live)
            golden.append({**query, "plan": plan.version, "gives": _page(page, live)})
    return tuple(golden)


def check_golden(bundle: Bundle, plan: Plan) -> list[str]:
    """What is wrong with the pages of a loaded bundle: one sentence each; empty when nothing is."""
    try:
        live = build_live(bundle, (), plan, bundles=only(bundle))
    except PlanError as error:
        return [f"the plan does not fit the bundle: {error}"]
    problems: list[str] = []
    for query in bundle.golden:
        label = f"{query['name']!r} on {query['surface']}"
        if query["surface"] not in live.plan.surfaces:
            continue
        page = _decide(query, live)
        problems += [f"{label}: {problem}" for problem in _faults(page, live.plan.may_be_empty)]
        if query["plan"] == plan.version and _page(page, live) != query["gives"]:
            problems.append(f"{label}: the loaded bundle gives another page than the one published")
    return problems


def _faults(page: Decision, may_be_empty: frozenset[str]) -> list[str]:
    """A slot that is short although there are items for it, an item twice, a score that is not a number."""
    found = []
    if lost := [one for one in page.degraded if one not in ("profile", "membership", "live")]:
        found.append(f"stages failed: {', '.join(lost)}")
    rows = [placement.row for placement in page.placements]
    if len(set(rows)) < len(rows):
        found.append("an item is placed twice")
    if not np.isfinite([placement.score for placement in page.placements]).all():
        found.append("a score is not finite")
    open_left = {slot.spec.name: len(slot.spec.open) for slot in page.query.slots}
    for asked, filled in zip(page.query.slots, page.sizes, strict=True):
        if asked.spec.name in may_be_empty:
            continue
        if filled < asked.count and open_left[asked.spec.name] >= sum(
            slot.count for slot in page.query.slots
        ):
            found.append(f"{asked.spec.name} holds {filled} of {asked.count}")
    if not rows:
        found.append("the page is empty")
    return found


def _decide(query: Mapping[str, Any], live: Live) -> Decision:
    slots = tuple(SlotRequest(slot, slot.size) for slot in live.plan.surfaces[query["surface"]])
    context = Context(channel=CHANNEL_CODE["app"], app_version=99_000_000, auth_level=len(AUTH_LEVELS) - 1)
    recent = _recent(query["clicked"], query["now"])
    customer = Customer(None, None, recent, np.zeros(0, CONTACT), ("profile", "membership"))
    return decide(
        Query(
            decision_id=f"golden/{query['name']}",
            subject="u:golden",
            surface=query["surface"],
            slots=slots,
            context=context,
            customer=customer,
            now=query["now"],
        ),
        live,
    )


def _recent(clicked: Sequence[str], now: float) -> NDArray[np.void]:
    recent = np.zeros(len(clicked), RECENT)
    for place, item in enumerate(clicked):
        recent[place]["item"] = key64(item)
        recent[place]["event"] = place + 1
        recent[place]["at"] = now - 60.0 * (len(clicked) - place)
        recent[place]["what"] = WHAT["clicked"]
    return recent


def _page(page: Decision, live: Live) -> dict[str, list[str]]:
    """Item ids by slot, in order."""
    ids = live.bundle.items.ids
    found: dict[str, list[str]] = {asked.spec.name: [] for asked in page.query.slots}
    for placement in page.placements:
        found[page.query.slots[placement.slot].spec.name].append(ids[placement.row])
    return found
