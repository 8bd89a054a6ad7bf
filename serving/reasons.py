"""Why an item is shown, and why it is not: closed lists with codes and Chinese and English texts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, Literal


class _Coded(IntEnum):
    @property
    def code(self) -> str:
        """The stable name in answers, logs and metrics."""
        return self.name.lower()


class Drop(_Coded):
    """One bit each in a candidate's drop mask. Names of the rules, not of the customer's facts."""

    CHANNEL = 0
    APP_VERSION = 1
    REGION = 2
    DATES = 3
    STOCK = 4
    KILLED = 5
    WITHDRAWN = 6
    AUTH_LEVEL = 7
    CREATIVE = 8
    RISK = 9
    AGE = 10
    BLOCKED = 11
    CONSENT = 12
    NEEDS = 13
    EXCLUDES = 14
    REPEAT = 15
    AUDIENCE = 16
    COOLING = 17
    BARRED = 18

    @property
    def bit(self) -> int:
        return 1 << self.value

    def text(self, language: Literal["zh", "en"]) -> str:
        return DROP_TEXTS[self][language == "en"]


DROP_TEXTS: Final[dict[Drop, tuple[str, str]]] = {
    Drop.CHANNEL: ("不在该渠道展示", "not shown in this channel"),
    Drop.APP_VERSION: ("需要更高的应用版本", "needs a newer app version"),
    Drop.REGION: ("不在该地区提供", "not offered in this region"),
    Drop.DATES: ("不在有效期内", "outside its dates"),
    Drop.STOCK: ("已售罄或库存不足", "sold out or out of stock"),
    Drop.KILLED: ("已被紧急下线", "stopped by a kill switch"),
    Drop.WITHDRAWN: ("已下架", "withdrawn"),
    Drop.AUTH_LEVEL: ("需要更高的认证等级", "needs stronger authentication"),
    Drop.CREATIVE: ("没有已批准且在期的素材", "no approved creative for this place and time"),
    Drop.RISK: (
        "产品风险高于客户风险承受能力或未测评",
        "riskier than the customer's assessed level, or not assessed",
    ),
    Drop.AGE: ("不符合年龄要求或年龄未知", "outside its ages, or age not known"),
    Drop.BLOCKED: ("客户被限制推荐或状态未知", "the customer is blocked from offers, or this is not known"),
    Drop.CONSENT: ("缺少所需授权或授权未知", "a consent is missing or not known"),
    Drop.NEEDS: ("未持有所需前置产品或持有未知", "something it needs is not held, or holdings are not known"),
    Drop.EXCLUDES: ("已持有互斥产品或持有未知", "something it excludes is held, or holdings are not known"),
    Drop.REPEAT: ("不可重复购买或持有未知", "may not be bought again, or holdings are not known"),
    Drop.AUDIENCE: ("不在目标客群或客群未知", "not in its audience, or memberships are not known"),
    Drop.COOLING: (
        "处于冷静期或接触记录未知",
        "cooling off after a complaint or dismissal, or contacts not known",
    ),
    Drop.BARRED: (
        "银行已限制向该客户提供此类内容",
        "the bank withholds such offers from the customer",
    ),
}

STATIC: Final = Drop.STOCK.bit | Drop.KILLED.bit | Drop.WITHDRAWN.bit
"""Rules that deny a row to everybody until the catalogue, or the kills, change."""

CUSTOMER: Final = sum(
    drop.bit
    for drop in (
        Drop.RISK,
        Drop.AGE,
        Drop.CONSENT,
        Drop.NEEDS,
        Drop.EXCLUDES,
        Drop.REPEAT,
        Drop.AUDIENCE,
        Drop.COOLING,
    )
)
"""Rules about what is known of the customer: a blocked customer gets no item that has any."""

CLOSING: Final = sum(drop.bit for drop in Drop if drop is not Drop.BARRED)
"""Rules that close a row to whom nothing is known of. BARRED denies whom the bank names, and nobody else."""


class Reason(_Coded):
    """Why an item is on the page; the first that applies, in this order."""

    SIMILAR_TO_ANCHOR = 1
    NEAR_VIEWED = 2
    NEAR_YOU = 3
    SIMILAR_PEOPLE = 4
    POPULAR_SEGMENT = 5
    POPULAR_HERE = 6
    NEW_ITEM = 7
    PICK_OF_OPERATOR = 8
    POPULAR = 9
    FALLBACK = 10

    def text(self, locale: str) -> str:
        return REASON_TEXTS[self][locale.startswith("en")]


REASON_TEXTS: Final[dict[Reason, tuple[str, str]]] = {
    Reason.SIMILAR_TO_ANCHOR: ("与正在查看的内容相关", "Related to what you are looking at"),
    Reason.NEAR_VIEWED: ("根据您最近的浏览", "Because of what you did recently"),
    Reason.NEAR_YOU: ("就在您附近", "Near you"),
    Reason.SIMILAR_PEOPLE: ("与您情况相似的客户喜欢", "Liked by customers like you"),
    Reason.POPULAR_SEGMENT: ("同类客户中受欢迎", "Popular with customers of your group"),
    Reason.POPULAR_HERE: ("您所在城市受欢迎", "Popular in your city"),
    Reason.NEW_ITEM: ("新上线", "New"),
    Reason.PICK_OF_OPERATOR: ("为您精选", "Our pick"),
    Reason.POPULAR: ("大家都在看", "Popular with everyone"),
    Reason.FALLBACK: ("常用推荐", "Often used"),
}


class Lift(_Coded):
    """What lifted an item in the ranker, or held it down: the vocabulary of explanations."""

    INTEREST = 1
    RECENT = 2
    DRAWS_CLICKS = 3
    MOMENT = 4
    SUITS = 5
    RESTED = 6
    FRESH = 7

    def text(self, locale: str) -> str:
        return LIFT_TEXTS[self][locale.startswith("en")]


LIFT_TEXTS: Final[dict[Lift, tuple[str, str]]] = {
    Lift.INTEREST: ("符合您的兴趣", "Fits your interests"),
    Lift.RECENT: ("与您最近的操作有关", "Follows from what you did recently"),
    Lift.DRAWS_CLICKS: ("点击的客户较多", "Many customers open it"),
    Lift.MOMENT: ("适合当前时段", "Suits this time"),
    Lift.SUITS: ("适合您的情况", "Suits your circumstances"),
    Lift.RESTED: ("近期未重复展示", "Not shown to you too often lately"),
    Lift.FRESH: ("新上线", "New"),
}


LIFTS_TOLD: Final = 3
LEAST_LIFT: Final = 0.05  # log-odds: what adds less is not worth a word


def lifted(terms: Mapping[str, float | None]) -> list[dict[str, object]]:
    """What lifted an item, most first, in words; none where no ranker spoke. `terms`: log-odds by name."""
    found = [(lift, value) for lift in Lift if (value := terms.get(lift.code)) and value >= LEAST_LIFT]
    found.sort(key=lambda pair: (-pair[1], pair[0]))
    return [
        {"code": lift.code, "log_odds": value, "zh": lift.text("zh"), "en": lift.text("en")}
        for lift, value in found[:LIFTS_TOLD]
    ]
