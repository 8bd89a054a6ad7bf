"""Which displays count for what, by the plan in force: goals and quotas of campaigns, shares of slots.

Made once per plan; an event is then joined with it by the keys in its page token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from features.ids import key32
from features.leases import Terms
from features.ledger import quota_on
from features.meters import Booked, ShareMeter
from serving.campaigns import Campaigns
from serving.headroom import zone_of
from serving.pace_inputs import campaign_share, slot_share
from serving.plan import CompiledPlan


@dataclass(frozen=True, slots=True, eq=False)
class Metered:
    """`booked` by campaign key32, `shares` by slot key32; `pools`: every quota of displays."""

    booked: Mapping[int, Booked]
    shares: Mapping[int, tuple[ShareMeter, ...]]
    pools: tuple[QuotaPool, ...]

    @classmethod
    def of(cls, plan: CompiledPlan) -> Metered:
        campaigns = plan.campaigns
        zones = [zone_of(calendar.tz) for calendar in campaigns.calendars]
        pools = tuple(
            QuotaPool(
                quota.key,
                int(quota.at_most),
                quota.per,
                zones[quota.campaign],
                _valid_s(plan, quota.campaign),
            )
            for quota in campaigns.quotas
            if quota.unit == "displayed"
        )
        booked = {
            int(key): Booked(campaigns.ids[c], _units(campaigns, c), _displayed(campaigns, c, zones[c]))
            for c, key in enumerate(campaigns.keys.tolist())
        }
        return cls(booked, _shares(plan, zones), pools)


@dataclass(frozen=True, slots=True)
class QuotaPool:
    """A quota of displays. `valid_s`: the longest that a page with it may be shown."""

    key: str
    at_most: int
    per: str
    zone: ZoneInfo
    valid_s: float

    def name(self, now: float) -> str:
        """The ledger's pool: a quota per day has one a day."""
        return quota_on(self.key, self.per, now, self.zone)

    @property
    def terms(self) -> Terms:
        return Terms(self.at_most, self.valid_s)


def _units(campaigns: Campaigns, c: int) -> frozenset[str]:
    """Displays are counted of every campaign: its delivery is asked for whether or not it is promised."""
    units = [goal.unit for goal in campaigns.goals if goal.campaign == c]
    units += [campaigns.quotas[index].unit for index in campaigns.quota_of[c]]
    return frozenset(("displayed", "clicked", "converted", *(unit.lower() for unit in units)))


def _displayed(campaigns: Campaigns, c: int, zone: ZoneInfo) -> tuple[tuple[str, str, ZoneInfo], ...]:
    own = [campaigns.quotas[index] for index in campaigns.quota_of[c]]
    return tuple((quota.key, quota.per, zone) for quota in own if quota.unit == "displayed")


def _valid_s(plan: CompiledPlan, c: int) -> float:
    campaigns = plan.campaigns
    bits = 0
    for slots in campaigns.offer_slots[campaigns.offer_campaign == c].tolist():
        bits |= slots
    return float(max((slot.valid_for_s for slot in plan.slots.values() if bits & slot.bit), default=600))


def _shares(plan: CompiledPlan, zones: list[ZoneInfo]) -> dict[int, tuple[ShareMeter, ...]]:
    """What share goals are measured by: the campaign's displays in the slot, and all of its customers'."""
    campaigns = plan.campaigns
    names = {slot.index: slot.name for slot in plan.slots.values()}
    below: dict[int, list[str]] = {}
    for org, line in plan.orgs.lineages.items():
        for above in line:
            below.setdefault(key32(above), []).append(org)
    found: dict[int, list[ShareMeter]] = {}
    for goal in campaigns.goals:
        if goal.share <= 0:
            continue
        slot, c = names[goal.slot], goal.campaign
        orgs = below.get(int(campaigns.customers_of[c]), [])
        found.setdefault(key32(slot), []).extend(
            (campaign_share(slot, campaigns.ids[c], zones[c]), slot_share(slot, orgs, zones[c]))
        )
    return {slot: tuple(dict.fromkeys(meters)) for slot, meters in found.items()}
