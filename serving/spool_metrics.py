"""What the spool says at `/metrics`: how much waits, how long; what was spooled, drained, refused, lost."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from features.spool import Spool
from features.store import Clock


class SpoolMetrics:
    """Registered once in a service's registry, however often that starts. `most`: bytes that the spool may
    hold; `spool`: the one that is told of, if there is one."""

    def __init__(self, registry: CollectorRegistry, spool: Spool | None, most: int, clock: Clock) -> None:
        self.spool = spool

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fenliu_spool_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"fenliu_spool_{name}", text, registry=registry)

        def lag() -> float:
            oldest = None if self.spool is None else self.spool.oldest
            return 0.0 if oldest is None else max(clock() - oldest, 0.0)

        entries = gauge("entries", "acknowledged events that wait on this replica for the log")
        entries.set_function(lambda: 0 if self.spool is None else self.spool.entries)
        size = gauge("bytes", "bytes that they take")
        size.set_function(lambda: 0 if self.spool is None else self.spool.size)
        gauge("lag_seconds", "time since the oldest of them was spooled").set_function(lag)
        gauge("most_bytes", "bytes that they may take before events are refused").set(most)
        damaged = gauge("damaged_bytes", "bytes met that were no record; their files are set aside")
        damaged.set_function(lambda: 0 if self.spool is None else self.spool.damaged)
        self._spooled = counter("spooled_total", "events acknowledged by the spool")
        self._drained = counter("drained_total", "events drained to the log: new there, or not", "result")
        self._refused = counter("refused_total", "events answered with 503: no room or a failing disk")
        self._lost = counter("dropped_total", "acknowledged events lost by level memory")
        self._failures = counter("failures_total", "unforeseen errors of the drain")

    def spooled(self, count: int) -> None:
        self._spooled.inc(count)

    def drained(self, new: int, duplicates: int) -> None:
        self._drained.labels("new").inc(new)
        self._drained.labels("duplicate").inc(duplicates)

    def refused(self, count: int) -> None:
        self._refused.inc(count)

    def lost(self, count: int) -> None:
        self._lost.inc(count)

    def failed(self) -> None:
        self._failures.inc()
