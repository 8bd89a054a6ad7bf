"""What a process exports, as rules and dashboards may ask for it."""

from __future__ import annotations

from serving.campaign_metrics import CampaignCollector
from serving.observe import Metrics
from serving.prices import NO_PRICES
from serving.spool_metrics import SpoolMetrics
from serving.tag_sums import TagSums
from serving.tallies import CampaignTally


class Held:
    prices = NO_PRICES
    prices_age_s = 1.0


def exported() -> dict[str, set[str]]:
    """Labels by sample name, of everything that a process may export."""
    metrics = Metrics()
    SpoolMetrics(metrics.registry, None, 1, lambda: 0.0)
    metrics.registry.register(CampaignCollector(CampaignTally(), TagSums(), Held()))
    found: dict[str, set[str]] = {}
    for collector, names in metrics.registry._collector_to_names.items():
        if hasattr(collector, "_labelnames"):  # the library's own; else one of ours
            labels = set(collector._labelnames)
            found |= {name: labels | ({"le"} if name.endswith("_bucket") else set()) for name in names}
            continue
        for family in (*collector.describe(), *collector.collect()):
            found[family.name + ("_total" if family.type == "counter" else "")] = set(family._labelnames)
    return found
