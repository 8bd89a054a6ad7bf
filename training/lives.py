"""What a logged decision was made by, put together again: bundle, plan, item changes, lists, kills, prices.

Bundles come from the registry, everything else from where it was logged (`serving.kept`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

from serving.arm_bundles import LoadBundle
from serving.bandit import Learned
from serving.bundle import Bundle, BundleError
from serving.control import Kill
from serving.kept import BANDIT, CONTENT, PLAN, PRICES, Content, content_of, learned_of, plan_of, prices_of
from serving.live import Live, build_live
from serving.plan import Plan, PlanError
from serving.plans import PlanShelf
from serving.prices import NO_PRICES, Prices
from serving.registry import RegistryError
from training.logged import Logged
from training.replay import Record, ReplayError, base_of

T = TypeVar("T")
BUNDLES_KEPT: Final = 6  # memory-mapped
VIEWS_KEPT: Final = 6  # a view of 3,000 items is about 10 MB
PRICED_KEPT: Final = 64
DAY_S: Final = 86_400.0


class Lives:
    """`of(record)` is the Live that its decision was made by; views are kept while they are needed.

    `days`: many records of a day are coming, so what it names is read as a whole.
    """

    def __init__(
        self, logged: Logged, bundles: LoadBundle, shelf: PlanShelf | None = None, *, days: bool = False
    ) -> None:
        self._logged, self._load, self._shelf, self._days = logged, bundles, shelf, days
        self._bundles: OrderedDict[Hashable, Bundle] = OrderedDict()
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self._contents: OrderedDict[Hashable, Content] = OrderedDict()
        self._views: OrderedDict[Hashable, Live] = OrderedDict()
        self._priced: OrderedDict[Hashable, Live] = OrderedDict()
        self._read: OrderedDict[Hashable, dict[str, bytes]] = OrderedDict()

    def of(
        self, record: Record, *, plan: Plan | None = None, bundle: Bundle | None = None, priced: bool = True
    ) -> Live:
        """`plan` and `bundle` instead of its own: what-if. Raises ReplayError: what is missing."""
        plan = plan or self._plan(record)
        bundle = bundle or self._bundle(record)
        content = str(record.get("content", ""))
        kills = tuple((str(scope), str(name)) for scope, name in record["kills"])
        key = (
            plan.version, bundle.version, content, record["overlay"], kills,
            record["features"], tuple(record["views"]), record["watermark"],
        )  # fmt: skip
        view = _kept(self._views, key, VIEWS_KEPT, lambda: self._view(record, plan, bundle, kills))
        version, told = record["prices"] if priced else None, record.get("learned")
        if version is None and told is None:
            return view

        def made() -> Live:
            one = view if version is None else view.priced(self._prices(record, version))
            return one if told is None else one.taught(self._learned(record, told))

        return _kept(self._priced, (key, version, told), PRICED_KEPT, made)

    def _view(self, record: Record, plan: Plan, bundle: Bundle, kills: tuple[tuple[str, str], ...]) -> Live:
        content = self._content(record)
        try:
            return build_live(
                bundle,
                tuple(content.changes.values()),
                plan,
                [Kill(scope, name) for scope, name in kills],  # type: ignore[arg-type] # as control said them
                overlay_seq=record["overlay"],
                features_version=record["features"] or None,
                materialised=record["views"],
                watermark=record["watermark"],
                prices=NO_PRICES,
                lists=content.lists,
                strict=False,
                bundles=self._named,
            )
        except (PlanError, ValueError) as bad:
            raise ReplayError(f"decision {record['id']}: its view cannot be built ({bad})") from None

    def _bundle(self, record: Record) -> Bundle:
        version = base_of(record)
        try:
            return self._named(version)
        except (BundleError, RegistryError, OSError, KeyError) as gone:
            raise _lost(record, f"bundle {version}", f"the registry does not have it ({gone})") from None

    def _named(self, version: str) -> Bundle:
        return _kept(self._bundles, version, BUNDLES_KEPT, lambda: self._load(version))

    def _plan(self, record: Record) -> Plan:
        version = str(record["plan"])

        def fetch() -> Plan:
            if (body := self._body(record, PLAN, version)) is not None:
                return plan_of(version, body)
            if self._shelf is None:
                raise _lost(record, f"plan {version}", "neither the log nor the lake has it")
            return self._shelf.fetch(version)

        try:
            return _kept(self._plans, version, 8, fetch)
        except PlanError as gone:
            raise _lost(record, f"plan {version}", str(gone)) from None

    def _content(self, record: Record) -> Content:
        version = str(record.get("content", ""))
        if not version:
            return Content({}, {})
        bodies = self._bodies(record, CONTENT)
        try:
            return _kept(self._contents, version, 8, lambda: content_of(version, bodies))
        except KeyError as gone:
            raise _lost(record, f"item changes {version}", f"of {gone} nothing was logged") from None

    def _prices(self, record: Record, version: str) -> Prices:
        body = self._body(record, PRICES, version)
        if body is None:
            raise _lost(record, f"prices {version}", "neither the log nor the lake has them")
        return prices_of(body)

    def _learned(self, record: Record, version: str) -> Learned:
        body = self._body(record, BANDIT, version)
        if body is None:
            raise _lost(record, f"bandit {version}", "neither the log nor the lake has it")
        return learned_of(version, body)

    def _body(self, record: Record, kind: str, version: str) -> bytes | None:
        if self._days:
            return self._bodies(record, kind).get(version)
        return self._logged.body(kind, version, record["at"])

    def _bodies(self, record: Record, kind: str) -> dict[str, bytes]:
        day = float(record["at"]) // DAY_S
        return _kept(self._read, (kind, day), 6, lambda: self._logged.bodies(kind, day * DAY_S))


def _kept(held: OrderedDict[Hashable, T], key: Hashable, most: int, make: Callable[[], T]) -> T:
    if key not in held:
        held[key] = make()
        if len(held) > most:
            held.popitem(last=False)
    held.move_to_end(key)
    return held[key]


def _lost(record: Record, what: str, why: str) -> ReplayError:
    return ReplayError(
        f"decision {record['id']} was made by {what}: {why}. Was the lake's partition, or the registry's"
        " bundle, dropped since? Restore it, or replay it under another (--plan, --bundle)"
    )


def described(record: Record) -> dict[str, Any]:
    """The versions that a record names."""
    names = ("bundle", "base", "plan", "prices", "overlay", "content", "features", "watermark")
    return {name: record.get(name) for name in names}
