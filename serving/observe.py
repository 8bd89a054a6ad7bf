"""What the service says about itself at `/metrics`: one registry per process, children resolved once.

Nothing here names a customer, an item or a path that a client made up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from math import inf
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from features.redis_store import TIMED
from serving.domain import Decision
from serving.feature_counts import FeatureCounts
from serving.score_drift import ScoreDrift
from serving.stage_times import StageTimes
from serving.store_watch import StoreState

LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06,
    0.07, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0,
)  # fmt: skip
READ_BUCKETS: Final = (
    0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02,
    0.05, 0.1, 0.5, 1.0,
)  # fmt: skip
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()


class Metrics:
    """The counters of one process. Methods are cheap enough for the request path."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fenliu_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"fenliu_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests_total", "requests by route and status", "route", "status")
        self._seconds = Histogram(
            "fenliu_request_seconds", "time from the first byte read to the last written", ("route",),
            registry=self.registry, buckets=LATENCY_BUCKETS,
        )  # fmt: skip
        self._efforts = counter("decisions_total", "pages decided, by rung of the ladder", "effort")
        self._degraded = counter("degraded_total", "pages made with something missing, by what", "cause")
        self._places = counter("places_total", "places asked for and filled", "what")
        self._drops = counter("drops_total", "candidates dropped, by rule", "rule")
        self._events = counter("events_total", "client events, by what became of them", "result")
        self._stores = counter("store_errors_total", "store calls that failed or were late", "what")
        self._breakers = gauge("breaker_open", "1 while a store that did not answer is not asked", "role")
        self._breaks = counter("breaker_changes_total", "times a breaker opened or closed", "role", "to")
        self.replayed = counter("replayed_total", "requests answered with the page decided before")
        self.shed = counter("shed_total", "requests refused because too many were in flight")
        self.failures = counter("failures_total", "unforeseen errors, by place", "where")
        self.served_dropped = counter(
            "served_dropped_total", "served records lost because their queue was full"
        )
        self.served_written = counter("served_written_total", "served records written to the log")
        self.served_queue = gauge("served_queue", "served records waiting for the log")
        self.in_flight = gauge("in_flight", "page requests being answered")
        self.swaps = counter("swaps_total", "changes of what the service runs by", "result")
        self.swap_seconds = Histogram(
            "fenliu_swap_seconds", "time to build and check what replaces the running state",
            registry=self.registry, buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30),
        )  # fmt: skip
        self._running = gauge("running_info", "what the service runs by", "bundle", "plan", "features")
        self._overlay = gauge("overlay_seq", "sequence number of the last item change taken in")
        self.price_sets = counter("price_sets_total", "sets of prices met, by what became of them", "result")
        self._pacings = counter("pacer_steps_total", "steps of the pacer, by outcome", "result")
        self._pacing_seconds = Histogram(
            "fenliu_pacer_step_seconds", "time of one step of the pacer that leads",
            registry=self.registry, buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        )  # fmt: skip
        self.guard_steps = counter(
            "guard_steps_total", "steps of the guard of experiments, by outcome", "result"
        )
        self.guard_offs = counter("guard_switched_off_total", "arms that the guard switched off")
        self.bandit_steps = counter(
            "bandit_steps_total", "steps of the bandit's learner, by outcome", "result"
        )
        self._leads = gauge("pacer_leads", "1 while this process leads the pacing")
        self._ledger = counter("ledger_total", "places and units asked of the ledger, by outcome", "result")
        self._polled = gauge("control_age_seconds", "time since control last answered")
        self._features_age = gauge("features_age_seconds", "time since the watermark of a batch view", "view")
        self._surfaces = counter("surface_pages_total", "pages by surface, templates as one", "surface")
        self._score = Histogram(
            "fenliu_page_score", "mean probability of a click of a page's places: its drift",
            registry=self.registry, buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
        )  # fmt: skip
        self._learned = gauge("bundle_age_seconds", "time since the last event that the bundle learned from")
        self._planned = gauge(
            "plan_age_seconds", "time since the running plan was first published, or its file written"
        )
        self._limits = counter(
            "limits_total",
            "requests refused by a key's rate or quota; alone: leases made without the store",
            "what",
        )
        self.stages = StageTimes(self.registry, LATENCY_BUCKETS)
        self.features = FeatureCounts()
        self.registry.register(self.features)
        self.drift = ScoreDrift()
        self.registry.register(self.drift)
        self.stores_seen = StoreState()
        self.registry.register(self.stores_seen)
        self._reads = Histogram(
            "fenliu_store_read_seconds",
            f"time of a read of customers, from its leaving to its answer, of one read in {TIMED}", ("role",),
            registry=self.registry, buckets=READ_BUCKETS,
        )  # fmt: skip
        self._cache: dict[tuple[str, ...], Any] = {}

    def request(self, route: str, status: int, seconds: float) -> None:
        self._child(("requests", route, str(status)), lambda: self._requests.labels(route, str(status))).inc()
        self._child(("seconds", route), lambda: self._seconds.labels(route)).observe(seconds)

    def decided(
        self, effort: str, degraded: Collection[str], asked: int, filled: int, drops: Mapping[str, int]
    ) -> None:
        self._child(("effort", effort), lambda: self._efforts.labels(effort)).inc()
        self._child(("places", "asked"), lambda: self._places.labels("asked")).inc(asked)
        self._child(("places", "filled"), lambda: self._places.labels("filled")).inc(filled)
        for cause in degraded:
            self._child(("degraded", cause), partial(self._degraded.labels, cause)).inc()
        for rule, count in drops.items():
            self._child(("drops", rule), partial(self._drops.labels, rule)).inc(count)

    def recorded(self, decision: Decision, surface: str, scores: Collection[float]) -> None:
        """A page, off the request's path. `surface`: as the plan names it, so that names stay few."""
        self._child(("surface", surface), lambda: self._surfaces.labels(surface)).inc()
        self.features.add(decision.query.customer)
        if scores:
            mean = sum(scores) / len(scores)
            self._score.observe(mean)
            if decision.effort == "full":
                self.drift.add(decision.bundle, surface, mean)

    def learned(self, until: float) -> None:
        """POSIX seconds of the last event in the running bundle; infinite where it does not say."""
        self._learned.set_function((lambda: float("nan")) if until == inf else partial(_age, until))

    def planned(self, at: float | None) -> None:
        """POSIX seconds of the running plan's first publication; None: of the default plan, or unknown."""
        self._planned.set_function((lambda: float("nan")) if at is None else partial(_age, at))

    def events(self, result: str, count: int) -> None:
        if count:
            self._child(("events", result), lambda: self._events.labels(result)).inc(count)

    def limited(self, what: str) -> None:
        """A request refused by its key's rate or quota, or a lease made alone, the store being away."""
        self._child(("limits", what), lambda: self._limits.labels(what)).inc()

    def store_error(self, what: str) -> None:
        self._child(("stores", what), lambda: self._stores.labels(what)).inc()

    def store_read(self, role: str, seconds: float) -> None:
        self._child(("reads", role), lambda: self._reads.labels(role)).observe(seconds)

    def breaker(self, role: str, opened: bool) -> None:
        self._breakers.labels(role).set(opened)
        self._breaks.labels(role, "open" if opened else "closed").inc()

    def running(self, bundle: str, plan: str, features: str, overlay: int) -> None:
        self._running.clear()
        self._running.labels(bundle, plan, features).set(1)
        self._overlay.set(overlay)

    def polled(self, clock: Callable[[], float]) -> None:
        """Control answered: its age counts from now by `clock` (monotonic)."""
        at = clock()
        self._polled.set_function(lambda: clock() - at)

    def paced(self, result: str, seconds: float) -> None:
        """A step of the pacer: written, following, idle, deposed or failed."""
        self._child(("pacings", result), lambda: self._pacings.labels(result)).inc()
        self._leads.set(result in ("written", "idle"))
        if result == "written":
            self._pacing_seconds.observe(seconds)

    def ledger(self, result: str, count: int = 1) -> None:
        """What came of asking the ledger: taken, replaced, refused_cap, refused_quota, unreachable, epoch."""
        if count:
            self._child(("ledger", result), lambda: self._ledger.labels(result)).inc(count)

    def watermarks(self, views: Mapping[str, float]) -> None:
        """Time of the watermark of each batch view, POSIX seconds."""
        self._features_age.clear()
        for view, as_of in views.items():
            self._features_age.labels(view).set_function(partial(_age, as_of))

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

    def _child(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        child = self._cache.get(key)
        if child is None:
            child = self._cache[key] = make()
        return child


def _age(as_of: float) -> float:
    return time.time() - as_of
