"""Follows control: a new bundle, plan or key space, changed items, kills, prices; one poll twice a second.

What is new is built and checked aside, in a thread, and swapped by one assignment. A bundle or plan that
cannot run is refused and counted, and the old one stays; kills and withdrawals come into force whatever
else is wrong. Prices need no building: they are put under the running view; those that are garbage or not
newer are refused and counted, and the last good ones hold.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final, Protocol, cast

from features.customer import NOTHING, decode_customer
from features.ids import CHANNEL_CODE
from features.keyspace import KeySpace, KeySpaceError
from features.store import StoreUnavailable
from features.views import PROFILE
from serving.bandit import NOTHING_LEARNED, BanditError
from serving.bandit_shelf import BanditShelf
from serving.bundle import Bundle, BundleError
from serving.control import Control, ControlError, ControlState, OverlayEntry
from serving.decide import decide
from serving.domain import Context, Query, SlotRequest
from serving.holder import Holder
from serving.keys import PLAN_FILE, Ring
from serving.lists import ListShelf
from serving.live import Live, build_live, check_fit
from serving.observe import Metrics
from serving.plan import Plan, PlanError, default_plan, load_plan
from serving.plans import PlanShelf
from serving.prices import PricesError, newer
from serving.registry import Registry, RegistryError
from serving.settings import Settings
from serving.turns import Turns

LOG: Final = logging.getLogger("fenliu.reload")
POLL_TIMEOUT_S: Final = 2.0
REFUSED_S: Final = 10.0  # what was refused is tried again: the registry may have been away
LOOK_AGAIN_S: Final = 5.0  # at the registry's own pointer, while control names no bundle
LISTS_S: Final = 2.0  # between two looks at the lists that audiences may name
REFUSED: Final = (BundleError, PlanError, RegistryError, KeySpaceError, OSError, ValueError)


class Bundles(Protocol):
    """Where bundles come from; both calls block, and are made in a thread."""

    def live(self) -> str | None:
        """The version that the registry itself says is live."""
        ...

    def load(self, version: str) -> Bundle:
        """Verified. Raises BundleError, RegistryError or OSError."""
        ...


class FromRegistry:
    """Bundles fetched into a folder of this machine and memory-mapped from there."""

    def __init__(self, settings: Settings) -> None:
        self._registry = Registry(settings.registry_url)
        self._load = self._registry.loader(settings.bundles)

    def live(self) -> str | None:
        return self._registry.live()

    def load(self, version: str) -> Bundle:
        return self._load(version)


class Blank(ValueError):
    """A bundle and plan that would leave a slot without a single item."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What control asks for; two equal values need no work."""

    bundle: str
    plan: str  # a version, or the state of the plan file, or "" for the plan that fits the bundle
    features: str | None
    overlay_seq: int
    kills: tuple[tuple[str, str], ...]
    epoch: str | None
    lists: tuple[tuple[str, int], ...] | None = None  # name and number; None: nobody could say


@dataclass(slots=True)
class _Overlay:
    """Every entry since the bundle, kept up by differences."""

    seq: int = 0
    entries: dict[tuple[str, str], OverlayEntry] = field(default_factory=dict)

    def take(self, entries: Sequence[OverlayEntry]) -> None:
        for entry in entries:
            self.entries[entry.kind, entry.id] = entry
            self.seq = max(self.seq, entry.seq)


class Reloader:
    """Owned by a Service. `poll` may be called at any time; polls do not overlap."""

    def __init__(
        self,
        control: Control,
        holder: Holder,
        settings: Settings,
        metrics: Metrics,
        bundles: Bundles,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._control, self._holder, self._settings, self._metrics = control, holder, settings, metrics
        self._clock = clock
        self._bundles = bundles
        self._plans = PlanShelf(settings.registry_url)
        self._overlay = _Overlay()
        self._held: dict[str, Bundle] = {}  # the running one and those of arms, each mapped once
        self._plan: tuple[str, Plan] | None = None
        self._planned: float | None = None  # when that one was published, POSIX seconds
        self._running: Wanted | None = None
        self._refused: Wanted | None = None
        self._refused_at = 0.0
        self._bandit, self._learned = BanditShelf(settings.registry_url), cast("str | None", None)
        self._unread: tuple[float, str | None] = (float("-inf"), None)
        self._prices_seen = ""  # the version last looked at, good or refused
        self._registry_said: tuple[float, str | None] = (float("-inf"), None)
        self._shelf, self._ring = ListShelf(settings.registry_url), Ring(settings.registry_url, clock)
        self._lists: tuple[tuple[str, int], ...] | None = None
        self._looked = float("-inf")
        self._lock = asyncio.Lock()
        self._turns = Turns(self.poll, settings.poll_s, "fenliu-reload")

    async def start(self) -> None:
        """Loads what is live, if the stores answer, and follows from then on."""
        await self.poll()
        self._turns.start()

    async def stop(self) -> None:
        await self._turns.stop()

    async def poll(self) -> bool:
        """Ask control once and follow it; True when something was swapped in. Raises nothing."""
        async with self._lock:
            try:
                return await self._poll()
            except (StoreUnavailable, TimeoutError, ControlError) as away:
                self._metrics.store_error("control")
                self._complain(f"control did not answer: {away}")
            except Exception as bug:  # following must go on: the next poll may find what can be run
                LOG.exception("a poll failed")
                self._metrics.failures.labels("reload").inc()
                self._complain(f"the last poll failed: {bug}")
            return False

    async def _poll(self) -> bool:
        async with asyncio.timeout(POLL_TIMEOUT_S):
            state = await self._control.poll(self._prices_seen)
            await self._follow_overlay(state)
        self._metrics.polled(time.monotonic)
        await self._follow_prices(state)
        await self._follow_bandit(state)
        wanted = await asyncio.to_thread(self._wanted, state)
        if wanted is None:
            self._holder.reason = (
                "no bundle is live: train one (fenliu train) or promote one (fenliu bundle promote)"
            )
            return False
        swapped = False
        again = wanted == self._refused and time.monotonic() > self._refused_at + REFUSED_S
        if wanted != self._running and (wanted != self._refused or again):
            swapped = await self._swap(wanted, state)
        self._holder.polled()
        return swapped

    async def _follow_overlay(self, state: ControlState) -> None:
        if state.overlay_seq == self._overlay.seq:
            return
        if state.overlay_seq < self._overlay.seq:  # the store was emptied: what it no longer says is not so
            self._overlay = _Overlay()
        self._overlay.take(await self._control.overlay_since(self._overlay.seq))
        self._overlay.seq = max(self._overlay.seq, state.overlay_seq)

    async def _follow_prices(self, state: ControlState) -> None:
        if state.prices is None or state.blob is None:
            return
        self._prices_seen = state.prices
        try:
            prices = await asyncio.to_thread(newer, state.blob, self._holder.prices)
        except PricesError as problem:
            self._metrics.price_sets.labels("refused").inc()
            LOG.error("prices refused, the last good ones hold: %s", problem)
            return
        self._holder.take_prices(prices, self._clock())
        self._metrics.price_sets.labels("taken").inc()

    async def _follow_bandit(self, state: ControlState) -> None:
        """What cannot be read is looked for again later; the last good version holds."""
        if state.bandit == self._learned or (
            state.bandit == self._unread[1] and time.monotonic() < self._unread[0] + REFUSED_S
        ):
            return
        try:
            made = await asyncio.to_thread(self._bandit.fetch, state.bandit) if state.bandit else None
        except (BanditError, OSError) as problem:
            self._unread = (time.monotonic(), state.bandit)
            LOG.error("the bandit's last good version holds: %s", problem)
            return
        self._holder.teach(made or NOTHING_LEARNED)
        self._learned = state.bandit

    def _wanted(self, state: ControlState) -> Wanted | None:
        bundle = state.bundle or self._registry_live()
        if bundle is None:
            return None
        kills = tuple((kill.scope, kill.id) for kill in state.kills)
        self._look()
        plan, seq = self._plan_wanted(state), self._overlay.seq
        return Wanted(bundle, plan, state.features, seq, kills, state.epoch, self._lists)

    def _look(self) -> None:
        """At the lists, and at who there is where a plan file must not pass them by. What was known stays."""
        if time.monotonic() - self._looked < LISTS_S:
            return
        self._looked = time.monotonic()
        try:
            self._lists = tuple(self._shelf.numbers().items())
        except (OSError, ValueError) as away:
            LOG.warning("the lists could not be read, so those known before stay: %s", away)
        if self._settings.plan is not None:
            self._ring.refresh()

    def _registry_live(self) -> str | None:
        """The registry's pointer, looked at now and then: control's is the fast way."""
        at, version = self._registry_said
        if version is None or time.monotonic() - at > LOOK_AGAIN_S:
            try:
                version = self._bundles.live()
            except (RegistryError, OSError) as away:
                self._complain(f"the registry did not say which bundle is live: {away}")
            self._registry_said = (time.monotonic(), version)
        return version

    def _plan_wanted(self, state: ControlState) -> str:
        if self._settings.plan is None:
            return state.plan or ""
        if self._ring.principals:
            return "file:not approved"  # refused when it is loaded; what runs goes on, kills still come
        try:
            stat = self._settings.plan.stat()
        except OSError:
            return "file:missing"  # refused when it is loaded, which says why; kills still come
        return f"file:{stat.st_mtime_ns}:{stat.st_size}"

    async def _swap(self, wanted: Wanted, state: ControlState) -> bool:
        entries = tuple(self._overlay.entries.values())
        started = time.monotonic()
        try:
            live = await asyncio.to_thread(self._build, wanted, state, entries)
        except REFUSED as problem:
            self._let_go(self._holder.current)
            self._refused, self._refused_at = wanted, time.monotonic()
            self._metrics.swaps.labels("refused").inc()
            self._complain(f"refused bundle {wanted.bundle}, plan {wanted.plan or 'default'}: {problem}")
            LOG.error("%s", self._holder.reason)
            return await self._keep_old(state, entries)
        self._holder.swap(live)
        self._let_go(live)
        self._running, self._refused = wanted, None
        self._metrics.swaps.labels("done").inc()
        self._metrics.swap_seconds.observe(time.monotonic() - started)
        self._tell(live, state)
        return True

    async def _keep_old(self, state: ControlState, entries: Sequence[OverlayEntry]) -> bool:
        """The running bundle, plan and key space with the newest kills and item changes."""
        old = self._holder.current
        if old is None:
            return False
        try:
            live = await asyncio.to_thread(self._live, old.bundle, old.plan.plan, state, entries, old)
        except REFUSED:
            LOG.exception("kills and item changes could not be taken up over the running bundle")
            self._metrics.failures.labels("reload").inc()
            return False
        self._holder.swap(live)
        # Not what `_running` says any more: control may point back at that, and it must then be built anew.
        self._running = None
        return True

    def _build(self, wanted: Wanted, state: ControlState, entries: Sequence[OverlayEntry]) -> Live:
        """In a thread. What a bundle says is checked by its digests, then by deciding with it."""
        bundle = self._keep(wanted.bundle)
        plan = self._plan_for(wanted, bundle)
        live = self._live(bundle, plan, state, entries, None)
        live.plan.audiences.warm()
        current = self._holder.current
        if current is None or current.bundle is not bundle or current.plan.version != plan.version:
            check(live, self._clock())
        if self._plan is None or self._plan[0] != wanted.plan:
            self._planned = self._published(wanted.plan)
        self._plan = wanted.plan, plan
        return live

    def _published(self, plan: str) -> float | None:
        """When the plan was first published, or its file written; None: the default plan, or nobody says."""
        file = self._settings.plan
        if file is None:
            return self._plans.published(plan) if plan else None
        try:
            return file.stat().st_mtime
        except OSError:
            return None

    def bundle(self, version: str) -> Bundle:
        """The one at hand, or loaded now for whoever asks; in a thread. Raises BundleError, RegistryError,
        OSError."""
        found = self._held.get(version)
        return self._bundles.load(version) if found is None else found

    def _keep(self, version: str) -> Bundle:
        """As `bundle`, for what is to run: kept until it is known what runs (`_let_go`)."""
        found = self._held[version] = self.bundle(version)
        return found

    def _let_go(self, live: Live | None) -> None:
        """Of the bundles that nothing is served from."""
        kept = () if live is None else (live, *live.others)
        self._held = {one.bundle.version: one.bundle for one in kept}

    def _plan_for(self, wanted: Wanted, bundle: Bundle) -> Plan:
        if not wanted.plan:
            return default_plan(bundle.kind_counts())
        if self._plan is not None and self._plan[0] == wanted.plan:
            return self._plan[1]
        if self._settings.plan is not None:
            if self._ring.principals:
                raise PlanError("FENLIU_PLAN", "is approved by nobody, and there are principals", PLAN_FILE)
            return load_plan(self._settings.plan)
        return self._plans.fetch(wanted.plan)

    def _live(
        self,
        bundle: Bundle,
        plan: Plan,
        state: ControlState,
        entries: Sequence[OverlayEntry],
        old: Live | None,
    ) -> Live:
        space = state.keyspace if old is None else None
        made = partial(
            build_live,
            bundle,
            entries,
            plan,
            state.kills,
            overlay_seq=self._overlay.seq,
            features_version=_version(space) if old is None else old.features_version,
            materialised=_materialised(space) if old is None else old.materialised,
            watermark=_watermark(space) if old is None else old.watermark,
            lists=None if self._lists is None else dict(self._lists),
            bundles=self._keep,
        )
        try:
            return made()
        except PlanError:
            check_fit(plan, bundle, self._keep)  # raises, unless all that is wrong is a list that is gone
            return made(
                strict=False
            )  # whoever was in it is in no audience by it any more; `problems` says so

    def _tell(self, live: Live, state: ControlState) -> None:
        version = live.features_version or "none"
        LOG.info("running bundle %s, plan %s, features %s", live.bundle.version, live.plan.version, version)
        for problem in live.problems:
            LOG.warning("%s", problem)
        self._metrics.learned(live.bundle.trained_until)
        self._metrics.planned(self._planned)
        self._metrics.drift.expect(live.bundle.version, live.bundle.manifest)
        self._metrics.running(live.bundle.version, live.plan.version, version, live.overlay_seq)
        space = state.keyspace
        views: Mapping[str, float] = (
            {} if space is None else {name: v.as_of for name, v in space.views.items()}
        )
        self._metrics.watermarks(views)

    def _complain(self, reason: str) -> None:
        if self._holder.reason != reason:
            LOG.warning("%s", reason)
        self._holder.reason = reason


def _version(space: KeySpace | None) -> str | None:
    return None if space is None else space.version


def _materialised(space: KeySpace | None) -> frozenset[str]:
    return frozenset() if space is None else space.materialised


def _watermark(space: KeySpace | None) -> float:
    """Of the profiles; where it is not known nothing is older than they may be."""
    profiles = None if space is None else space.views.get(PROFILE.name)
    return inf if profiles is None else profiles.as_of


def check(live: Live, now: float) -> None:
    """Decide every surface for somebody of whom nothing is known, under the plan and under every arm with a
    bundle of its own. Raises Blank when a slot stays empty.
    """
    _check(live, now, "")
    for one in live.variants.values():
        if one.bundle is not live.bundle:
            _check(one, now, f"from bundle {one.bundle.version}: ")


def _check(live: Live, now: float, whence: str) -> None:
    stranger = decode_customer(NOTHING, now=now)
    if live.kills.everything:
        return
    may_be_empty = live.plan.may_be_empty
    for surface, slots in live.plan.surfaces.items():
        asked = tuple(SlotRequest(slot, slot.size) for slot in slots)
        context = Context(channel=CHANNEL_CODE["app"])
        query = Query("check", "v:check", surface, asked, context, stranger, now)
        for effort in ("full", "fallback"):
            made = decide(query, live, effort)
            empty = [slot.name for slot, n in zip(slots, made.sizes, strict=True) if not n]
            empty = [name for name in empty if name not in live.kills.slots and name not in may_be_empty]
            if empty:
                raise Blank(f"{whence}on surface {surface}, {', '.join(empty)} would stay empty ({effort})")
