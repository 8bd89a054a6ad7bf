"""Campaigns, prices and price tags at `/metrics`: read from the sums when they are scraped, nothing per page.

At most 500 campaigns have labels of their own, by plan order; the rest is summed as "other".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.causes import Cause
from serving.prices import Prices
from serving.tag_sums import OTHER, TagKey, TagSums
from serving.tallies import CampaignTally, What

MOST_CAMPAIGNS: Final = 500
MOST_TAGS: Final = 1_000
MOST_SLOTS: Final = 64


class Held(Protocol):
    """`serving.holder.Holder`, as far as it is exposed here."""

    @property
    def prices(self) -> Prices: ...
    @property
    def prices_age_s(self) -> float: ...


class CampaignCollector(Collector):
    """Registered once per process, on `Metrics.registry`."""

    def __init__(self, tally: CampaignTally, tags: TagSums, held: Held) -> None:
        self._tally, self._tags, self._held = tally, tags, held

    def describe(self) -> Iterable[Metric]:
        return ()  # names are known only by what there is; nothing clashes

    def collect(self) -> Iterator[Metric]:
        yield from self._funnel()
        yield from self._prices()
        yield from self._tagged()

    def _funnel(self) -> Iterator[Metric]:
        ids, sums = self._tally.totals()
        for what in What:
            name = f"fenliu_campaign_{what.code}"
            text = "pages, placements or expected units of a campaign: see serving/tallies.py"
            family = CounterMetricFamily(name, text, labels=["campaign"])
            for campaign, value in _bounded(dict(zip(ids, sums[what].tolist(), strict=True))).items():
                family.add_metric([campaign], value)
            yield family

    def _prices(self) -> Iterator[Metric]:
        prices = self._held.prices
        age = GaugeMetricFamily("fenliu_prices_age_seconds", "time since the last good prices")
        age.add_metric([], self._held.prices_age_s)
        yield age
        family = GaugeMetricFamily(
            "fenliu_campaign_price_cny", "net price of a campaign", labels=["campaign", "unit"]
        )
        columns = {
            "displayed": prices.per_display,
            "clicked": prices.per_click,
            "converted": prices.per_convert,
        }
        for unit, priced in columns.items():
            for campaign, price in list(priced.items())[:MOST_CAMPAIGNS]:  # do not add up: no "other"
                family.add_metric([campaign, unit], price)
        yield family
        late = GaugeMetricFamily("fenliu_goals_late", "goals that are late, by cause", labels=["cause"])
        codes = list(prices.causes.values())
        for cause in Cause:
            late.add_metric([cause.value], codes.count(cause.value))
        yield late

    def _tagged(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "fenliu_price_tag_cny", "CNY forgone because of a rule", labels=["rule", "campaign", "org"]
        )
        sums: dict[TagKey, float] = {}
        for at, (key, one) in enumerate(self._tags.totals.items()):
            labels = key if at < MOST_TAGS else TagKey(key.rule, OTHER, OTHER)
            sums[labels] = sums.get(labels, 0.0) + max(one.cny, 0.0)
        for labels, cny in sums.items():
            family.add_metric(list(labels), cny)
        yield family
        inner = GaugeMetricFamily(
            "fenliu_slot_inner_price_cny", "CNY per display that rules displaced in a slot", labels=["slot"]
        )
        for slot, price in list(self._tags.slot_prices.items())[:MOST_SLOTS]:
            inner.add_metric([slot], price.per_display)
        yield inner


def _bounded(values: Mapping[str, float]) -> dict[str, float]:
    """The first campaigns as they are, those behind them summed."""
    names = list(values)
    found = {name: values[name] for name in names[:MOST_CAMPAIGNS]}
    if len(names) > MOST_CAMPAIGNS:
        found[OTHER] = found.get(OTHER, 0.0) + sum(values[name] for name in names[MOST_CAMPAIGNS:])
    return found
