"""Forecasts are kept, and scored when their time is over: the track record that stands beside each new one.

    forecasts/{number}-{plan}.json           a booking as it was made, never changed
    forecasts/{number}-{plan}.scored.json    what was delivered of its goals, once its time had ended

Beside the plans in the registry, on any fsspec URL.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import fsspec
import numpy as np

from serving.append_only import Files
from serving.priors import Priors
from training.booking_report import Booking

SHORTEST_TRACK: Final = 10  # goals scored before the record says how wrong forecasts are


@dataclass(frozen=True, slots=True)
class Track:
    """Of goals whose time is over: how far off, and how often the 90 % interval held."""

    goals: int
    error: float  # median of |delivered / expected - 1|
    bias: float  # mean of delivered / expected - 1
    covered: float  # share of goals within their interval

    @property
    def known(self) -> bool:
        return self.goals >= SHORTEST_TRACK


def document(booking: Booking) -> dict[str, Any]:
    """JSON of a booking; what is not a number is null."""
    return {
        "plan": booking.plan,
        "bundle": booking.bundle,
        "since": booking.span[0],
        "until": booking.span[1],
        "fits": booking.fits,
        "value": {"before": booking.value[0], "after": booking.value[1]},
        "goals": [{name: _plain(value) for name, value in goal._asdict().items()} for goal in booking.goals],
        "displaced": [one._asdict() | {"cost": one.cost} for one in booking.displaced],
        "orgs": [one._asdict() for one in booking.orgs],
        "capped": [one._asdict() for one in booking.capped],
        "quotas": {key: list(one) for key, one in booking.quotas.items()},
        "relax": [one._asdict() for one in booking.relax],
        "pages": [one._asdict() for one in booking.pages],
        "notes": list(booking.notes),
        "seconds": booking.seconds,
    }


class Forecasts:
    """`url`: the registry's."""

    def __init__(self, url: str) -> None:
        self._files = Files(url, "forecasts")
        self._fs, root = fsspec.core.url_to_fs(url)
        self._folder = f"{str(root).rstrip('/')}/forecasts"
        self._priors = Priors(url)

    def keep(self, booking: Booking, now: float) -> str:
        """Write a forecast, and its prices as where the pacer may begin; returns its name."""
        said = document(booking) | {"made_at": now}
        body = json.dumps(said, ensure_ascii=False, allow_nan=False, indent=1).encode()
        number = len(self.names())
        while not self._files.create(f"{number:08d}-{booking.plan}.json", body):
            number += 1
        if booking.priors:
            self._priors.put(booking.plan, booking.priors)
        return f"{number:08d}-{booking.plan}"

    def names(self) -> list[str]:
        """Oldest first."""
        found = self._fs.glob(f"{self._folder}/*.json")
        names = (str(path).rsplit("/", 1)[-1] for path in found)
        return sorted(name[: -len(".json")] for name in names if not name.endswith(".scored.json"))

    def read(self, name: str) -> dict[str, Any]:
        """Raises KeyError when there is none."""
        raw = self._files.read(f"{name}.json")
        if raw is None:
            raise KeyError(name)
        said: dict[str, Any] = json.loads(raw)
        return said

    def due(self, now: float) -> list[str]:
        """Those whose time is over and that are not scored yet, oldest first."""
        unscored = [name for name in self.names() if self._files.read(f"{name}.scored.json") is None]
        return [name for name in unscored if self.read(name)["until"] <= now]

    def score(self, name: str, delivered: Mapping[str, float], now: float) -> bool:
        """Write down what the goals of a forecast came to, once; whether anything was written.

        `delivered`: units by goal id over the forecast's time.
        """
        goals = [one["id"] for one in self.read(name)["goals"]]
        ended = {goal: delivered[goal] for goal in goals if goal in delivered}
        body = json.dumps({"at": now, "delivered": ended}, allow_nan=False).encode()
        return bool(ended) and self._files.create(f"{name}.scored.json", body)

    def track(self) -> Track:
        """Every scored forecast together."""
        ratios: list[float] = []
        held: list[bool] = []
        for name in self.names():
            raw = self._files.read(f"{name}.scored.json")
            if raw is None:
                continue
            delivered = json.loads(raw)["delivered"]
            for goal in self.read(name)["goals"]:
                if goal["id"] in delivered and goal["expected"]:
                    got = float(delivered[goal["id"]])
                    ratios.append(got / float(goal["expected"]) - 1.0)
                    held.append(goal["low"] <= got <= goal["high"])
        if not ratios:
            return Track(0, math.nan, math.nan, math.nan)
        off = np.array(ratios)
        return Track(len(off), float(np.median(np.abs(off))), float(off.mean()), float(np.mean(held)))


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return bool(value) if isinstance(value, np.bool_) else value
