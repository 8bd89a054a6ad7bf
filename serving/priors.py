"""Where prices begin: the offline plan's dual by plan version, kept beside the plans in the registry.

    plans/{version}.priors.json    {"format": 1, "priors": {goal id or quota key: [CNY per unit, answer]}}

Written by a booking check (`training.booking_record`), read by the pacer when the plan is a new one. A start
only: what is missing, unreadable or not a number is left out, and the pacer takes its defaults.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from serving.append_only import Files
from serving.pace_plan import Prior

FORMAT: Final = 1
KEPT: Final = 8  # versions remembered
MOST_BYTES: Final = 8 << 20


class Priors:
    """`url`: the registry's. Call it with a plan version; blocking, once per version that is there."""

    def __init__(self, url: str) -> None:
        self._files = Files(url, "plans")
        self._known: dict[str, Mapping[str, Prior]] = {}

    def __call__(self, version: str) -> Mapping[str, Prior]:
        found = self._known.get(version)
        if found is None:
            found = self._read(version)
            if found:  # what is not there yet may come
                while len(self._known) >= KEPT:
                    del self._known[next(iter(self._known))]
                self._known[version] = found
        return found

    def put(self, version: str, priors: Mapping[str, Prior]) -> None:
        """Keep the priors of a plan; the newest check wins. Raises ValueError for what is no version."""
        said = {name: [prior.price, _said(prior.answer)] for name, prior in sorted(priors.items())}
        body = json.dumps({"format": FORMAT, "priors": said}, ensure_ascii=False, allow_nan=False)
        self._files.replace(_name(version), body.encode())

    def _read(self, version: str) -> Mapping[str, Prior]:
        try:
            raw = self._files.read(_name(version))
            said = json.loads(raw) if raw is not None and len(raw) <= MOST_BYTES else {}
        except (OSError, ValueError):
            return {}
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            return {}
        found = said.get("priors")
        pairs = found.items() if isinstance(found, dict) else ()
        return {str(name): prior for name, one in pairs if (prior := _prior(one)) is not None}


def _name(version: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{12}", version):
        raise ValueError(f"{version[:40]!r} is no plan version: name 12 hex digits")
    return f"{version}.priors.json"


def _said(answer: float) -> float | None:
    return answer if math.isfinite(answer) else None


def _prior(one: Any) -> Prior | None:
    """None for what is no pair of numbers with a price that is one."""
    if not isinstance(one, list) or len(one) != 2:
        return None
    price, answer = one
    if not isinstance(price, int | float) or not math.isfinite(price) or isinstance(price, bool):
        return None
    known = isinstance(answer, int | float) and math.isfinite(answer) and answer >= 0
    return Prior(float(price), float(answer)) if known else Prior(float(price))
