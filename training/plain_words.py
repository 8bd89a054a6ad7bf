"""Why am I seeing this: a placement of a trace in plain words, Chinese and English, for the customer.

What is said is what was so: the reason that decided, what kinds of facts were used, whether somebody pays
for the place or a rule put it there, and what the customer can do about it. No score, no price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving.reasons import REASON_TEXTS, Reason

_REASONS: Final = {reason.code: texts for reason, texts in REASON_TEXTS.items()}
_USED: Final = {
    Reason.SIMILAR_TO_ANCHOR.code: ("您正在查看的内容", "what you are looking at"),
    Reason.NEAR_VIEWED.code: (
        "您最近在本应用内的浏览和点击",
        "what you recently viewed and clicked in this app",
    ),
    Reason.NEAR_YOU.code: ("您此刻的位置", "where you are now"),
    Reason.SIMILAR_PEOPLE.code: (
        "您在本应用内的行为和您的客户资料",
        "what you did in this app, and your customer profile",
    ),
    Reason.POPULAR_SEGMENT.code: ("您所属的客户群体", "the group of customers you belong to"),
    Reason.POPULAR_HERE.code: ("您所在的城市", "the city you are in"),
}
_NOTHING: Final = ("没有使用您的个人信息", "nothing about you")
_BY_RULE: Final = {
    "pin": ("由运营方固定在此位置", "the operator fixed it to this place"),
    "mandatory": ("按规定必须展示", "it has to be shown by rule"),
    "roadblock": ("活动占用了整个版位", "a campaign takes the whole slot"),
    "exploration": ("为了解您是否感兴趣而随机展示", "shown by lot, to learn whether it is of interest"),
}
OFF: Final = (
    "您可以在设置中关闭个性化推荐或单个标签；关闭后仅按适当性规则展示。",
    "You can switch personalisation, or single tags, off in the settings; then only suitability rules apply.",
)
IS_OFF: Final = ("个性化推荐已关闭。", "Personalisation is switched off.")


def told(place: Mapping[str, Any], *, profiling: bool) -> dict[str, str]:
    """`place`: of a trace's slots. Sentences by language."""
    return {language: _said(place, profiling, at) for at, language in enumerate(("zh", "en"))}


def _said(place: Mapping[str, Any], profiling: bool, at: int) -> str:
    code = place["reason"]
    used = (_USED.get(code, _NOTHING) if profiling or code in _SITUATION else _NOTHING)[at]
    reason = _REASONS[code][at]
    parts = [f"推荐理由：{reason}。依据：{used}。"] if at == 0 else [f"Why: {reason}. Based on: {used}."]
    if place["campaign"] is not None:
        parts.append("这是一项推广活动的内容。" if at == 0 else "It is part of a promotion.")
    if (rule := _BY_RULE.get(place["rule"] or "")) is not None:
        parts.append(f"{rule[0]}。" if at == 0 else f"{rule[1][0].upper()}{rule[1][1:]}.")
    parts.append((OFF if profiling else IS_OFF)[at])
    return "".join(parts) if at == 0 else " ".join(parts)


_SITUATION: Final = frozenset(
    {Reason.SIMILAR_TO_ANCHOR.code, Reason.NEAR_YOU.code, Reason.POPULAR_HERE.code}
)  # of the request, not of the person: also without personalisation
