"""When customers come, and what they do by themselves: visits over the day, the week, the month and the year.

Drawn day by day from the seed and independent of what is shown: two policies meet the same visits.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KIND_CODE
from training.world.catalogue import Catalogue
from training.world.customers import Customers
from training.world.rows import ACTED, ACTION, Rows, joined, rows_of
from training.world.tastes import Tastes, Themes

DAY: Final = 86_400.0
_PEAKS = ((8.2, 1.3, 0.25), (12.4, 1.1, 0.22), (20.4, 1.9, 0.38), (15.0, 5.0, 0.15))  # hour, sd, share
_MORE_PAGES = 0.3  # P(another page in the same visit)
_OWN_ACTIONS = 2.4  # a visit
_ACTIONS = (("viewed", 0.74), ("searched", 0.10), ("transferred", 0.10), ("added", 0.06))


class Visits(NamedTuple):
    """Pages asked for in one day, ordered by time."""

    customers: NDArray[np.int64]
    at: NDArray[np.float64]
    first: NDArray[np.bool_]  # the visit's first page


def rates(customers: Customers, day: float) -> NDArray[np.float64]:
    """Expected visits of every customer in the day that begins at `day` (UTC midnight)."""
    date = np.int64(day // DAY).astype("datetime64[D]")
    of_month = (date - date.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64) + 1
    of_year = (date - date.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
    since = of_month - customers.payday
    paid = np.where((since >= 0) & (since < 3), np.where(customers.payroll, 2.0, 1.25), 1.0)
    weekend = np.where((date.astype(np.int64) + 3) % 7 >= 5, 0.82, 1.0)
    season = 1 + 0.12 * np.cos(2 * np.pi * (of_year - 20) / 365.25)
    expected: NDArray[np.float64] = customers.activity * paid * weekend * season
    return expected


def visits(rng: np.random.Generator, customers: Customers, day: float, start: float) -> Visits:
    """The day's page requests. `start`: the world's first instant, from which trends run."""
    trend = np.exp(np.clip(customers.trend * (day - start) / DAY, -3, 1.5))
    count = rng.poisson(rates(customers, day) * trend * (customers.joined_at < day))
    who = np.repeat(np.arange(len(customers)), count)
    peak = rng.choice(len(_PEAKS), len(who), p=[share for *_, share in _PEAKS])
    hours, spread = np.array([p[0] for p in _PEAKS])[peak], np.array([p[1] for p in _PEAKS])[peak]
    local = rng.normal(hours + customers.chronotype[who], spread)
    begin = day + np.mod(local * 3600 - customers.offset_s[who], DAY)
    pages = rng.geometric(1 - _MORE_PAGES, len(who))
    visit = np.repeat(np.arange(len(who)), pages)
    index = np.arange(len(visit)) - np.repeat(np.cumsum(pages) - pages, pages)
    gap = rng.uniform(20, 240, len(visit))
    at = begin[visit] + np.where(index == 0, 0.0, index * 60 + gap)
    order = np.argsort(at, kind="stable")
    return Visits(who[visit][order], at[order], (index == 0)[order])


def own_actions(
    rng: np.random.Generator,
    visited: Visits,
    tastes: Tastes,
    themes: Themes,
    catalogue: Catalogue,
    customers: Customers,
) -> Rows:
    """`acted` rows of one day: a login a visit, and what customers look up or do by their own tastes."""
    who, at = visited.customers[visited.first], visited.at[visited.first]
    logins = rows_of(len(who), customer=who, what=ACTED, action=ACTION["login"], occurred_at=at - 1.5)
    row = np.repeat(np.arange(len(who)), rng.poisson(_OWN_ACTIONS, len(who)))
    kind = rng.choice(len(_ACTIONS), len(row), p=[share for _, share in _ACTIONS])
    items = own_choice(rng, who[row], tastes, themes)
    when = at[row] + rng.exponential(90, len(row)) + 3
    codes = np.array([ACTION[name] for name, _ in _ACTIONS])[kind]
    transfer = codes == ACTION["transferred"]
    amount = np.where(transfer, np.round(np.exp(rng.normal(6.2, 1.4, len(row))), 2), np.nan)
    rows = rows_of(
        len(row), customer=who[row], what=ACTED, action=codes, occurred_at=when, amount=amount,
        item=np.where(transfer, -1, items),
    )  # fmt: skip
    keep = transfer | permitted(catalogue, customers, who[row], items[:, None], when)[:, 0]
    done = joined([logins, rows[keep]])
    done["received_at"] = done["occurred_at"] + rng.uniform(0.05, 1.5, len(done))
    return done


def own_choice(
    rng: np.random.Generator, who: NDArray[np.int64], tastes: Tastes, themes: Themes
) -> NDArray[np.int64]:
    """An item for each: one of the customer's themes by weight, then one of the theme's items."""
    steps = np.cumsum(tastes.weights[who], axis=1)
    place = np.minimum((rng.random(len(who))[:, None] > steps).sum(axis=1), steps.shape[1] - 1)
    return themes.choose(tastes.held[who, place], rng.random(len(who)))


def permitted(
    catalogue: Catalogue,
    customers: Customers,
    who: NDArray[np.int64],
    items: NDArray[np.int64],
    at: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """(n, k): dates, risk, age, city, consent and `blocked`, as a plain logging policy would check them."""
    safe = np.maximum(items, 0)
    now = at[:, None]
    fine = (catalogue.starts[safe] <= now) & (now < catalogue.ends[safe]) & (items >= 0)
    fine &= catalogue.risk_class[safe] <= customers.risk_level[who, None]
    age = customers.age[who, None]
    fine &= (catalogue.min_age[safe] <= age) & (age <= catalogue.max_age[safe])
    fine &= (catalogue.cities[safe] >> customers.city[who, None].astype(np.uint32)) & 1 == 1
    needed = catalogue.consents[safe]
    fine &= customers.consents[who, None] & needed == needed
    closed = customers.blocked[who, None] & (catalogue.kind[safe] == KIND_CODE["product"])
    fine &= ~closed
    return fine
