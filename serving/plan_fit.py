"""What governance asks of the live bundle: whether a plan fits its items, and whose an item is.

What is wrong already stays somebody else's trouble: an item that vanished from the catalogue under one org's
campaign keeps no other org from publishing. Only what the change itself makes wrong is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from features.ids import key32
from serving.arm_bundles import LoadBundle, only, unknown
from serving.bundle import Bundle
from serving.experiment_checks import MOST_BUNDLES
from serving.live import Live, build_live
from serving.plan import Plan, PlanError
from serving.principals import HEAD_OFFICE

Booking = Callable[[Plan], Mapping[str, Any]]
"""The forecast of a plan by re-deciding the replay sample; takes half a minute."""


class Fit:
    """A `composing.Check`. `bundle` and `current` are asked anew each time: the live ones, or None; so are
    `lists`, the numbers of the lists that audiences may name (None: not checked). `bundles` loads what arms
    are served from.
    """

    def __init__(
        self,
        bundle: Callable[[], Bundle | None],
        current: Callable[[], Plan | None],
        booking: Booking | None = None,
        lists: Callable[[], Mapping[str, int] | None] = lambda: None,
        bundles: LoadBundle = unknown,
    ) -> None:
        self._bundle, self._current, self._booking, self._lists = bundle, current, booking, lists
        self._bundles = lru_cache(maxsize=MOST_BUNDLES)(bundles)  # verified once: a version never changes

    def __call__(self, plan: Plan, full: bool) -> Mapping[str, Any]:
        """The bundle, what was wrong before and still is, and the booking. Raises PlanError."""
        bundle = self._bundle()
        if bundle is None:
            return {"bundle": None, "problems": []}
        lists = self._lists()
        problems = list(self._view(bundle, plan, lists, strict=False).problems)
        known = self._known(bundle, lists) if problems else ()
        fresh = [problem for problem in problems if problem not in known]
        if fresh:
            self._view(bundle, plan, lists)  # raises the very error, with its path
            raise PlanError("the whole", fresh[0], "correct it")
        report: dict[str, Any] = {"bundle": bundle.version, "problems": problems}
        if full and self._booking is not None:
            report["booking"] = dict(self._booking(plan))
        return report

    def _known(self, bundle: Bundle, lists: Mapping[str, int] | None) -> Sequence[str]:
        """What is wrong with the plan in force; an arm whose bundle is gone is judged by the live one, or
        nobody could take it out."""
        plan = self._current()
        if plan is None:
            return ()
        try:
            return self._view(bundle, plan, lists, strict=False).problems
        except PlanError:
            return build_live(bundle, (), plan, lists=lists, strict=False, bundles=only(bundle)).problems

    def _view(
        self, bundle: Bundle, plan: Plan, lists: Mapping[str, int] | None, *, strict: bool = True
    ) -> Live:
        return build_live(bundle, (), plan, lists=lists, strict=strict, bundles=self._bundles)


def item_orgs(
    view: Callable[[], Live | Bundle | None], orgs: Callable[[], Iterable[str]]
) -> Callable[[str], str | None]:
    """A `composing.ItemOrg` over the catalogue in force, whose table holds orgs as keys of 32 bits.

    Without a catalogue, and for an org that the frame does not know, an item is head office's.
    """

    def org_of(item_id: str) -> str | None:
        seen = view()
        if seen is None:
            return HEAD_OFFICE
        row = seen.row(item_id) if isinstance(seen, Live) else seen.items.row(item_id)
        if row is None:
            return None
        table = seen.table if isinstance(seen, Live) else seen.compiled.table
        key = int(table["org"][row])
        return next((org for org in orgs() if key32(org) == key), HEAD_OFFICE)

    return org_of


def orgs_in(frame: Any) -> tuple[str, ...]:
    """The orgs that a frame declares."""
    declared = frame.get("orgs", ()) if isinstance(frame, Mapping) else ()
    return tuple(str(org["id"]) for org in declared)
