"""The limits of keys and tokens, as FENLIU_RATES writes them.

    app=2000/s burst=4000, partner=50/s 1000000/day, *=20/s

A name is a principal's (`app`: whoever has FENLIU_APP_KEY; `oidc:SUBJECT`: a token's); `*` is everybody
else, each by themselves. The keys of a principal share its limits, so that rotating doubles nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from features.rates import RateTerms
from serving.setting_values import SettingsError

NAME: Final = "FENLIU_RATES"
OTHERS: Final = "*"
MOST_PER_S: Final = 1_000_000.0
MOST_A_DAY: Final = 10**12
_PER_S: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)/s")
_PER_DAY: Final = re.compile(r"(\d{1,12})/day")
_BURST: Final = re.compile(r"burst=(\d{1,7})")
_FORM: Final = f"{NAME} reads NAME=RATE/s [burst=N] [N/day], …: for instance app=2000/s 5000000/day, *=20/s"


def rate_terms(given: Mapping[str, str]) -> dict[str, RateTerms]:
    """By name; empty where nothing is limited. Raises SettingsError."""
    found: dict[str, RateTerms] = {}
    for entry in filter(None, (one.strip() for one in given.get(NAME, "").split(","))):
        first, *rest = entry.split()
        name, equals, limit = first.rpartition("=")
        if not equals or not name:
            raise SettingsError(f"{_FORM}; not {entry[:40]!r}")
        if name in found:
            raise SettingsError(f"{NAME} names {name[:40]!r} twice")
        found[name] = _terms(name, [limit, *rest])
    return found


def _terms(name: str, words: list[str]) -> RateTerms:
    per_s, burst, per_day = 0.0, 0, 0
    for word in words:
        if told := _PER_S.fullmatch(word):
            per_s = float(told[1])
        elif told := _PER_DAY.fullmatch(word):
            per_day = int(told[1])
        elif told := _BURST.fullmatch(word):
            burst = int(told[1])
        else:
            raise SettingsError(f"{_FORM}; not {word[:40]!r}")
    if (per_s <= 0 and per_day <= 0) or (burst and not per_s):
        raise SettingsError(f"{NAME} gives {name[:40]!r} no rate or quota above 0: {_FORM}")
    if per_s > MOST_PER_S or per_day > MOST_A_DAY:
        raise SettingsError(f"{NAME} gives {name[:40]!r} more than {MOST_PER_S:,.0f}/s or {MOST_A_DAY:,}/day")
    return RateTerms(per_s, burst or max(1, round(per_s)) if per_s else 0, per_day)
