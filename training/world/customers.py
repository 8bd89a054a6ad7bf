"""Customers: who they are. What they like is in `tastes`, what they buy anyway in `needs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.world.words import CITIES

AGE_BANDS: Final = (25, 35, 45, 60)  # lower bounds of bands 1 to 4; band 0 is below
STAR_ASSETS: Final = (1e3, 1e4, 5e4, 2e5, 6e5, 6e6)  # CNY: lower bounds of stars 2 to 7
LIFECYCLE: Final = ("prospect", "new", "growing", "mature", "declining", "dormant")
ZONES: Final = ("Asia/Shanghai", "Asia/Urumqi", "Europe/London", "America/New_York")
OFFSETS: Final = (8.0, 6.0, 0.0, -5.0)  # hours; the world has no daylight saving
OCCUPATIONS: Final = ("employee", "self_employed", "student", "retired", "public_servant", "homemaker")
SEGMENTS: Final = (len(AGE_BANDS) + 1) * 3


@dataclass(frozen=True)
class Customers:
    """Columns over customers; row i is customer `ids[i]`. Amounts in CNY, times in POSIX seconds."""

    ids: tuple[str, ...]
    age: NDArray[np.int64]
    gender: NDArray[np.int64]  # 0 not said, 1 female, 2 male
    city: NDArray[np.int64]  # row of CITIES
    zone: NDArray[np.int64]  # row of ZONES
    occupation: NDArray[np.int64]
    assets: NDArray[np.float64]
    income: NDArray[np.float64]  # a month
    wealth: NDArray[np.float64]  # rank by assets, 0 to 1
    star_level: NDArray[np.int64]  # 1 to 7
    risk_level: NDArray[np.int64]  # 1 to 5; 0 not assessed
    joined_at: NDArray[np.float64]
    payroll: NDArray[np.bool_]
    payday: NDArray[np.int64]  # day of the month on which money comes in
    lifecycle: NDArray[np.int64]  # row of LIFECYCLE
    consents: NDArray[np.int64]  # bits of features.views.CONSENTS
    profiling: NDArray[np.bool_]  # False: refused
    blocked: NDArray[np.bool_]
    channel: NDArray[np.int64]  # channel code
    thrift: NDArray[np.float64]  # 0 to 1: how much a discount moves them
    contrary: NDArray[np.bool_]  # those whom an offer puts off
    activity: NDArray[np.float64]  # mean visits a day, long-tailed
    trend: NDArray[np.float64]  # change of log activity a day
    chronotype: NDArray[np.float64]  # hours that their day is shifted

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def age_band(self) -> NDArray[np.int64]:
        return np.searchsorted(AGE_BANDS, self.age, side="right")

    @property
    def segment(self) -> NDArray[np.int64]:
        """Age band by wealth third: SEGMENTS codes."""
        return self.age_band * 3 + np.minimum((self.wealth * 3).astype(np.int64), 2)

    @property
    def offset_s(self) -> NDArray[np.float64]:
        """Seconds from UTC to the customer's clock."""
        return np.array(OFFSETS)[self.zone] * 3600.0

    @property
    def city_tier(self) -> NDArray[np.int64]:
        return np.array([city[3] for city in CITIES])[self.city]


def draw_customers(rng: np.random.Generator, count: int, start: float, visits_per_day: float) -> Customers:
    """`count` customers as they are at `start`; three in a hundred join in the 60 days after it."""
    age = _ages(rng, count)
    occupation = _occupations(rng, age)
    city = rng.choice(len(CITIES), count, p=_shares())
    tier = np.array([row[3] for row in CITIES])[city]
    assets: NDArray[np.float64] = np.exp(
        rng.normal(9.3 + 0.9 * np.sin(np.clip((age - 20) / 45, 0, 1) * np.pi / 1.4) - 0.25 * tier, 1.7)
    )
    income = np.round(np.exp(rng.normal(8.9 - 0.12 * tier, 0.5)) * np.where(occupation == 2, 0.3, 1.0), 2)
    wealth = (np.argsort(np.argsort(assets, kind="stable"), kind="stable") + 0.5) / count
    tenure = np.minimum(rng.gamma(1.3, 900, count), (age - 15) * 365.0)
    joins = rng.random(count) < 0.03
    joined_at = start - np.where(joins, -rng.uniform(0, 60, count), tenure) * 86_400
    payroll = rng.random(count) < np.where(np.isin(occupation, (0, 4)), 0.55, 0.08)
    lifecycle = _lifecycle(rng, tenure, joins)
    consents = (rng.random((count, 3)) < (0.75, 0.6, 0.4)) @ np.array([1, 2, 4])
    zone = (np.array([row[0] for row in CITIES])[city] == "650100").astype(np.int64)
    abroad = rng.random(count) < 0.01
    return Customers(
        ids=tuple(f"u{number:06d}" for number in range(1, count + 1)),
        age=age,
        gender=rng.choice(3, count, p=(0.05, 0.48, 0.47)),
        city=city,
        zone=np.where(abroad, rng.integers(2, len(ZONES), count), zone),
        occupation=occupation,
        assets=np.round(assets, 2),
        income=income,
        wealth=wealth,
        star_level=1 + np.searchsorted(STAR_ASSETS, assets, side="right"),
        risk_level=_risk(rng, age, wealth),
        joined_at=joined_at,
        payroll=payroll,
        payday=rng.choice((5, 10, 15, 20, 25), count, p=(0.1, 0.3, 0.3, 0.1, 0.2)),
        lifecycle=lifecycle,
        consents=consents,
        profiling=rng.random(count) >= 0.03,
        blocked=rng.random(count) < 0.004,
        channel=rng.choice((1, 2, 3, 4), count, p=(0.86, 0.04, 0.08, 0.02)),
        thrift=rng.beta(1.6, 1.8, count),
        contrary=rng.random(count) < 0.05,
        activity=_activity(rng, age, lifecycle, visits_per_day),
        trend=np.array([0.0, 0.004, 0.004, 0.0, -0.012, -0.004])[lifecycle] + rng.normal(0, 0.002, count),
        chronotype=rng.normal(0, 1.0, count) - (age - 40) * 0.02,
    )


def _shares() -> NDArray[np.float64]:
    shares = np.array([city[6] for city in CITIES], np.float64)
    normal: NDArray[np.float64] = shares / shares.sum()
    return normal


def _ages(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    centre = rng.choice((24.0, 35.0, 48.0, 66.0), count, p=(0.25, 0.35, 0.27, 0.13))
    return np.clip(np.round(rng.normal(centre, 5.5)), 18, 90).astype(np.int64)


def _occupations(rng: np.random.Generator, age: NDArray[np.int64]) -> NDArray[np.int64]:
    drawn = rng.choice(6, len(age), p=(0.58, 0.16, 0.0, 0.0, 0.16, 0.10))
    drawn = np.where((age < 24) & (rng.random(len(age)) < 0.6), 2, drawn)
    return np.where((age >= 60) & (rng.random(len(age)) < 0.85), 3, drawn)


def _risk(rng: np.random.Generator, age: NDArray[np.int64], wealth: NDArray[np.float64]) -> NDArray[np.int64]:
    drawn = np.round(rng.normal(2.6 + 1.2 * (wealth - 0.5) - 0.02 * (age - 40), 1.0))
    return np.where(rng.random(len(age)) < 0.12, 0, np.clip(drawn, 1, 5)).astype(np.int64)


def _lifecycle(
    rng: np.random.Generator, tenure: NDArray[np.float64], joins: NDArray[np.bool_]
) -> NDArray[np.int64]:
    fate = rng.random(len(tenure))
    settled = np.where(fate < 0.70, 3, np.where(fate < 0.85, 4, 5))
    young = np.where(tenure < 120, 1, np.where(tenure < 500, 2, settled))
    return np.where(joins, 0, young)


def _activity(
    rng: np.random.Generator, age: NDArray[np.int64], lifecycle: NDArray[np.int64], mean: float
) -> NDArray[np.float64]:
    """Lognormal with sigma 1.4: the busiest tenth makes about half of all visits."""
    stage = np.array([1.2, 1.3, 1.1, 1.0, 0.7, 0.08])[lifecycle]
    drawn = np.exp(rng.normal(0, 1.4, len(age))) * stage * np.where(age > 60, 0.7, 1.0)
    rates: NDArray[np.float64] = np.minimum(drawn * (mean / drawn.mean()), 12.0)
    return rates
