"""How often a field of a profile was known when a page was decided, at `/metrics`.

Counted off the request's path, of pages of customers whose profile was read: what was absent or late as a
whole is among `fenliu_degraded_total`. Fields for profiling count only where it is allowed, those under a
consent of their own only where it was given. A page costs one count of its known-bits; fields are told apart
when somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from features.customer import UNDER_CONSENT, Customer
from features.views import PROFILE

MOST_KINDS: Final = 4096  # of known-bits held apart
_CONSENTS: Final = PROFILE.bit("consents")
_NOT_READ: Final = frozenset(("profile", "live"))  # without the patch, permission fields are not known


class FeatureCounts(Collector):
    """Registered once per process."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, bool, int], int] = {}  # known-bits, profiling, consents given
        self._looked = dict.fromkeys(PROFILE.names, 0)
        self._known = dict.fromkeys(PROFILE.names, 0)

    def add(self, customer: Customer) -> None:
        """A page, after it was answered."""
        record, missing = customer.profile, customer.missing
        if record is None or (missing and not _NOT_READ.isdisjoint(missing)):
            return
        given = int(record.values["consents"]) if record.known & _CONSENTS else 0
        kind = record.known, customer.profiling, given
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if len(self._kinds) > MOST_KINDS:
            self._fold()

    def _fold(self) -> None:
        kinds, self._kinds = self._kinds, {}
        for (known, profiling, given), count in kinds.items():
            refused = sum(mask for bit, mask in UNDER_CONSENT if not given & bit)
            for field in PROFILE.fields:
                may = profiling or field.purpose != "profiling"
                if may and not refused & PROFILE.bit(field.name):
                    self._looked[field.name] += count
                    if known & PROFILE.bit(field.name):
                        self._known[field.name] += count

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterator[Metric]:
        self._fold()
        looked, known = self._families()
        for name, count in self._looked.items():
            if count:
                looked.add_metric([name], count)
                known.add_metric([name], self._known[name])
        yield looked
        yield known

    def _families(self) -> tuple[CounterMetricFamily, CounterMetricFamily]:
        return (
            CounterMetricFamily(
                "fenliu_feature_looked",
                "pages whose customer's profile was read and might use the field",
                labels=["field"],
            ),
            CounterMetricFamily(
                "fenliu_feature_known", "of these, pages where the field was known", labels=["field"]
            ),
        )
