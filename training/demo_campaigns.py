"""The demo's operators: a frame of head office, a branch's fragment and a partner's, 30 campaigns in all.

Flights last as long as the demo's visitors come, so goals are made of what these will see: `Traffic` is the
forecast, and every goal a part of the displays that its audience can give.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.fragments import check_fragment, check_frame, compose
from serving.plan import Plan
from training.world import HOME, Layout, Slot, World
from training.world.words import CITIES

BRANCH, PARTNER = "branch/310000", "partner"
LIFE: Final = Layout(
    (
        Slot("life.banner", "banner", 3, ("activity", "benefit")),
        Slot("life.services", "icon_grid", 8, ("service",)),
        Slot("life.benefits", "shelf", 6, ("benefit",)),
        Slot("life.feed", "feed", 10, ("content", "activity", "service")),
    )
)
"""The partner's surface: its banner is the partner's own."""
INFEASIBLE: Final = "c10-too-much"
TOO_MUCH: Final = 5.0  # times what the audience of INFEASIBLE gives
NEVER: Final = 0.10  # of pages: the app is closed before anything is on screen
ON_SCREEN: Final = 0.98 * 0.97 * (1 - NEVER)  # rendered, and its report arrives
AWAY_ASSETS, AWAY_DAYS = 20_000, 3
Raw = dict[str, Any]
Standard = tuple[str, str, str, list[str], str, Raw]  # id, name, kind, slots, category, fields


@dataclass(frozen=True)
class Traffic:
    """Who asks for pages during the flights: `rate` a second from `start` on, for `seconds`."""

    world: World
    start: float  # POSIX seconds
    seconds: float
    rate: float
    life: float = 0.2  # of the pages are the partner's surface
    away: float = 0.04  # of the visitors: they were away, and looked up a fund in another channel

    @property
    def until(self) -> float:
        return self.start + self.seconds

    @cached_property
    def returning(self) -> NDArray[np.int64]:
        """Customers with money who rarely come, rarest first."""
        people = self.world.customers
        fit = people.profiling & ~people.blocked & (people.assets >= AWAY_ASSETS) & (people.activity < 0.05)
        rows = np.flatnonzero(fit)
        order = np.argsort(people.activity[rows], kind="stable")
        most = max(round(0.5 * self.away * self.rate * self.seconds), 1)
        return rows[order[:most]]

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """(customers,) part of the visits that are theirs."""
        usual = self.world.customers.activity.astype(np.float64)
        usual = (1 - self.away) * usual / usual.sum()
        usual[self.returning] += self.away / max(len(self.returning), 1)
        whole: NDArray[np.float64] = usual / usual.sum()
        return whole

    def part(self, mask: NDArray[np.bool_]) -> float:
        """Of the visits, by customers in `mask`."""
        return float(self.weights[mask].sum())

    def displays(self, slot: str, mask: NDArray[np.bool_] | None = None) -> float:
        """Displays in a slot's first place, if one campaign had it on every page of these customers."""
        pages = self.rate * self.seconds * (self.life if slot.startswith("life.") else 1 - self.life)
        part = 1.0 if mask is None else self.part(mask)
        return pages * part * display_rates(self.world)[slot][0]


def display_rates(world: World) -> dict[str, tuple[float, ...]]:
    """P(on screen | page delivered) by slot and position: what a bank would have measured of its app."""
    found = {}
    for layout in (HOME, LIFE):
        shown = world.response(layout).curves.shown
        for at, slot in enumerate(layout.slots):
            rates = np.minimum.accumulate(np.clip(shown[layout.columns(at)] * ON_SCREEN, 0.02, 1.0))
            found[slot.name] = tuple(round(float(rate), 4) for rate in rates)
    return found


def masks(world: World) -> dict[str, NDArray[np.bool_]]:
    """Who is in the audiences of the profile; what customers do is not known beforehand."""
    people = world.customers
    known = people.profiling & ~people.blocked
    city = np.array([row[0] for row in CITIES])[people.city]
    return {
        "young": known & (people.age >= 18) & (people.age < 31),
        "payroll": known & people.payroll,
        "wealthy": known & (people.assets >= 100_000),
        "delta": known & np.isin(city, ["440100", "440300"]),
        "shanghai": known & (city == "310000"),
    }


def demo_plan(world: World, start: float, seconds: float, rate: float, base: Mapping[str, Any]) -> Plan:
    """The whole plan over a frame without campaigns. Raises PlanError."""
    parts = demo_parts(Traffic(world, start, seconds, rate), base)
    return compose(
        check_frame(parts["frame"]), [check_fragment(parts[f"org:{o}"]) for o in (BRANCH, PARTNER)]
    )


def demo_parts(traffic: Traffic, base: Mapping[str, Any]) -> dict[str, Raw]:
    """What is proposed, part by part: head office's frame with its campaigns, and two fragments."""
    book = Book(traffic)
    cards = {"id": "one-card", "campaigns": ["c22-gold-card", "c23-travel-card"], "most": 1}
    campaigns = [*_fixed(book), *_promised(book), *_free(book)]
    frame = {**demo_frame(traffic.world, base), "exclusions": [cards], "campaigns": campaigns}
    return {
        "frame": frame,
        f"org:{BRANCH}": {"org": BRANCH, **_branch(book)},
        f"org:{PARTNER}": {"org": PARTNER, **_partner(book)},
    }


def demo_frame(world: World, base: Mapping[str, Any]) -> Raw:
    """`base` (k8s/plan.yaml) with measured rates, delegated shares, audiences and contact rules."""
    raw = deepcopy(dict(base))
    rates = display_rates(world)
    changes: dict[str, Raw] = {
        "home.banner": {"shares": {BRANCH: 0.2, PARTNER: 0.15}, "valid_for_s": 30},
        "home.grid": {"switching_cost": 0.01},
        "home.feed": {"shares": {BRANCH: 0.2}, "explore": 0.02},
        "life.banner": {"owner": PARTNER, "shares": {"head": 0.3}},
    }
    for slot in raw["slots"]:
        slot |= changes.get(slot["name"], {})
        if slot["name"] in rates:
            slot["display_rates"] = list(rates[slot["name"]])
    raw["name"] = "demo-bank"
    raw["audiences"] = {
        "young": {"field": "age", "at_least": 18, "below": 31},
        "payroll": {"field": "payroll", "is": True},
        "wealthy": {"field": "assets", "at_least": 100_000},
        "delta": {"field": "city", "in": ["440100", "440300"]},
        "winback": {
            "all": [
                {"days_since": "login", "at_least": AWAY_DAYS},
                {"field": "assets", "at_least": AWAY_ASSETS},
                {"did": "viewed", "category": "fund", "within": "7d"},
            ]
        },
    }
    popups = {"id": "popups", "most": 2, "window": "day", "scope": "slot", "of": ["home.popup"]}
    raw["contact_rules"] = [popups]
    raw["ceilings"] = {
        BRANCH: {"lever": 2.0, "penalty": 1.5, "campaigns": 10},
        PARTNER: {"lever": 1.0, "campaigns": 5, "tiers": ["share", "standard"]},
    }
    return raw


class Book:
    """Hands out items and flights. Each item is used by one campaign."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic, self._taken = traffic, set[str]()
        self.masks = masks(traffic.world)
        self._items = traffic.world.items()
        ends = datetime.fromtimestamp(traffic.until + 86_400, UTC)
        self._open = [
            item
            for item in self._items
            if not (item.regions or item.consents or item.starts or item.risk_class or item.cooling)
            and not item.max_age
            and item.min_age <= 18
            and (item.ends is None or item.ends > ends)
        ]

    def items(self, kind: str, count: int = 1, category: str = "") -> list[str]:
        """Items that nearly everybody may be shown; of the category while there are any left."""
        free = [item for item in self._open if item.kind == kind and item.id not in self._taken]
        free.sort(key=lambda item: not item.category.startswith(category))
        if len(free) < count:
            raise ValueError(f"the demo needs more than {len(self._items)} items: --items 1000 or more")
        chosen = [item.id for item in free[:count]]
        self._taken.update(chosen)
        return chosen

    def flight(self, begin: float = 0.0, end: float = 1.0) -> Raw:
        """Parts of the demo's flight."""
        at = (self.traffic.start + self.traffic.seconds * part for part in (begin, end))
        first, last = (datetime.fromtimestamp(one, UTC).isoformat(timespec="seconds") for one in at)
        return {"from": first, "until": last}

    def displays(self, part: float, slot: str, audience: str | None = None) -> int:
        """A part of what the audience can be shown in the slot, as whole displays."""
        mask = None if audience is None else self.masks[audience]
        return max(round(part * self.traffic.displays(slot, mask)), 5)

    def campaign(self, name: str, label: str, items: list[str], slots: list[str], **fields: Any) -> Raw:
        plain = {"id": name, "name": label, "items": items, "slots": slots, "flight": self.flight()}
        return {"owner": "li.na", **plain, **fields}

    def promise(self, name: str, label: str, kind: str, slot: str, part: float, **fields: Any) -> Raw:
        """A guarantee of displays; `category` and `audience` as everywhere."""
        items = self.items(kind, 2, fields.pop("category", ""))
        goal = {"unit": "displayed", "at_least": self.displays(part, slot, fields.get("audience"))}
        return self.campaign(name, label, items, [slot], tier="guaranteed", goals=[goal], **fields)


def _fixed(book: Book) -> list[Raw]:
    """Placed by rule: a notice that everybody must see, and one moment that belongs to one campaign."""
    notice = book.campaign(
        "c01-notice", "系统维护公告", book.items("content", 1, "civic"), ["home.banner"],
        tier="mandatory", pin={"home.banner": 0}, flight=book.flight(0.0, 0.4),
    )  # fmt: skip
    moment = book.campaign(
        "c02-roadblock", "品牌日包屏", book.items("activity", 2), ["home.banner", "home.feed"],
        tier="mandatory", roadblock=True, flight=book.flight(0.55, 0.65),
    )  # fmt: skip
    return [notice, moment]


def _promised(book: Book) -> list[Raw]:
    """Ten guarantees, one of which nobody could keep, and our side of the swap with the partner."""
    capped = [{"event": "displayed", "most": 3, "window": "day", "min_gap_s": 10}]
    quota = [{"id": "most", "unit": "displayed", "at_most": book.displays(0.5, "home.banner")}]
    away = book.traffic.displays("home.banner") * book.traffic.away
    draw = {"unit": "clicked", "at_least": max(round(0.004 * book.displays(1.0, "home.banner")), 3)}
    swap = {"share": 0.2, "slot": "life.banner"}
    return [
        book.promise("c03-autumn", "秋季投教专场", "content", "home.banner", 0.15, category="investing"),
        book.promise("c04-young", "青年惠", "activity", "home.banner", 0.3, audience="young"),
        book.promise(
            "c05-payroll", "代发专享", "product", "home.shelf", 0.3, audience="payroll", category="deposit"
        ),
        book.promise(
            "c06-wealthy", "大额存单", "product", "home.shelf", 0.3, audience="wealthy", category="deposit"
        ),
        book.promise("c07-delta", "大湾区专题", "content", "home.feed", 0.4, audience="delta"),
        book.campaign(
            "c08-draw", "抽奖季", book.items("activity", 3, "everyday"), ["home.banner", "home.feed"],
            tier="guaranteed", goals=[draw],
        ),
        book.promise("c09-school", "理财课堂", "content", "home.feed", 0.2, pacing="front_loaded"),
        book.campaign(
            INFEASIBLE, "回归客户 5 倍曝光", book.items("content", 1, "investing"), ["home.banner"],
            tier="guaranteed", audience="winback",
            goals=[{"unit": "displayed", "at_least": max(round(TOO_MUCH * away), 5)}],
        ),
        book.promise("c11-popup", "开屏权益", "activity", "home.popup", 0.25, caps=capped),
        book.promise("c12-asap", "限时秒杀", "activity", "home.banner", 0.1, pacing="asap", quotas=quota),
        book.campaign(
            "c13-swap-ours", "在合作方页面的我行活动", book.items("activity", 2), ["life.banner"],
            tier="share", goals=[swap], surfaces=["life"],
        ),
    ]  # fmt: skip


def _free(book: Book) -> list[Raw]:
    """By value alone: coupons that cost, a lever, an exclusion group, a gap; and house campaigns."""
    until = datetime.fromtimestamp(book.traffic.until + 3_600, UTC).isoformat(timespec="seconds")
    lever = {"factor": 1.8, "owner": "wang.min", "reason": "launch week", "until": until}
    gap = [{"event": "displayed", "most": 3, "window": "1d", "min_gap_s": 20}]
    daily = [
        {"id": "day", "unit": "displayed", "at_most": book.displays(0.05, "home.benefits"), "per": "day"}
    ]
    stock = [{"id": "most", "unit": "displayed", "at_most": book.displays(0.12, "home.benefits")}]
    benefits, listed = ["home.benefits"], ["home.shelf", "home.feed"]
    made: list[Standard] = [
        ("c14-winback", "回归立减券", "benefit", ["home.popup", *benefits], "",
         {"audience": "winback", "benefit": {"cost": 8.0, "stock": 100}, "values": {"convert": 120}}),
        ("c15-coffee", "咖啡立减券", "benefit", benefits, "dining",
         {"benefit": {"cost": 5.0, "stock": 50}, "values": {"convert": 60}, "quotas": stock}),
        ("c16-fuel", "加油券", "benefit", benefits, "driving",
         {"benefit": {"cost": 10.0, "stock": 20}, "values": {"convert": 80}, "quotas": daily}),
        ("c17-clinic", "体检券", "benefit", benefits, "health",
         {"benefit": {"cost": 20.0, "stock": 10}, "values": {"convert": 100}, "caps": gap}),
        ("c18-levered", "新基金首发", "content", ["home.banner", "home.feed"], "investing",
         {"lever": lever, "values": {"click": 0.3}}),
        ("c19-save", "存钱计划", "product", ["home.shelf"], "deposit", {"caps": gap}),
        ("c22-gold-card", "金卡", "product", listed, "card", {"values": {"convert": 60}}),
        ("c23-travel-card", "旅行卡", "product", listed, "card", {"values": {"convert": 60}}),
        ("c24-life", "生活周", "activity", ["life.banner", "life.feed"], "", {"values": {"click": 0.2}}),
        ("c25-house", "品牌形象", "content", ["home.banner"], "", {"tier": "house"}),
        ("c26-house-feed", "金融知识", "content", ["home.feed"], "protection", {"tier": "house"}),
        ("c27-house-life", "便民服务", "content", ["life.feed"], "civic", {"tier": "house"}),
    ]  # fmt: skip
    return [
        book.campaign(name, label, book.items(kind, 2, category), slots, **fields)
        for name, label, kind, slots, category, fields in made
    ]


def _branch(book: Book) -> Raw:
    """Shanghai: a share of the banner to its own customers, and an audience of its own."""
    share = [{"share": 0.12, "slot": "home.banner"}]
    own = {"sh-young": {"all": [{"audience": "young"}, {"field": "star_level", "at_least": 2}]}}
    return {
        "audiences": own,
        "campaigns": [
            book.campaign("c20-sh-share", "上海专属", book.items("activity", 2), ["home.banner"],
                          tier="share", goals=share, owner="zhou.ping"),
            book.campaign("c21-sh-feed", "上海生活", book.items("content", 2), ["home.feed"],
                          owner="zhou.ping", audience="sh-young", values={"click": 0.2}),
        ],
    }  # fmt: skip


def _partner(book: Book) -> Raw:
    """The partner's item in our banner, against ours in its own (`c13-swap-ours`)."""
    share = [{"share": 0.1, "slot": "home.banner"}]
    items = book.items("benefit", 2, "shopping")
    return {
        "campaigns": [
            book.campaign("c28-swap-partner", "合作方优惠", items, ["home.banner"], tier="share", goals=share,
                          owner="partner.ops", benefit={"cost": 1.0}),
            book.campaign("c29-partner", "合作方上新", book.items("benefit", 2, "shopping"), ["life.banner"],
                          owner="partner.ops", values={"click": 0.3}, benefit={"cost": 1.0}),
            book.campaign("c30-partner-feed", "合作方专题", book.items("activity", 2), ["life.banner"],
                          owner="partner.ops"),
        ]
    }  # fmt: skip
