"""What customers buy anyway, and what an offer adds to it: the true uplift.

A customer has, for each family of needs (product lines; spending in an area), a rate of purchases that come
without any offer: exponential gaps, so the time to the next one does not depend on the past. One who clicks
a placement of the family

* buys, if their own next purchase would have come within HORIZON anyway (it is then made through the
  placement: the bank pays and has gained nothing), or
* else is persuaded with probability delta: a purchase that without the placement would not have been, or
* for the few whom offers put off, drops a purchase that they would have made.

So P(purchase within HORIZON | not clicked) = base = 1 − exp(−rate · HORIZON), P(… | clicked) = treated, and
uplift = treated − base. An item looked at but not clicked persuades with VIEW_THROUGH of delta (and never
puts off).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.world.catalogue import PRODUCT_FAMILIES, Catalogue
from training.world.customers import Customers
from training.world.words import AREA_CODES, LIFESTYLE

DAY: Final = 86_400.0
HORIZON: Final = 14 * DAY
VIEW_THROUGH: Final = 0.02
PUT_OFF: Final = 0.35  # of the purchases that would have come anyway
RESTED: Final = 0.2  # of delta that is left within HORIZON of a purchase in the family

STRATA: Final = ("lost_cause", "persuadable", "sure_thing", "put_off")
_SPEAKS_TO = {  # product family: the areas whose weight raises its rate
    "deposit": ("saving", "retirement"), "wealth": ("saving", "investing"), "fund": ("investing",),
    "insurance": ("protection", "retirement"), "loan": ("borrowing", "business"),
    "card": ("shopping", "travel"),
}  # fmt: skip
_RATES = {
    "deposit": 0.004,
    "wealth": 0.005,
    "fund": 0.005,
    "insurance": 0.0015,
    "loan": 0.0015,
    "card": 0.0008,
}
_SPENDING, _BANKING = 0.012, 0.004  # purchases a day in a lifestyle area, in another area


class Uplift(NamedTuple):
    """Per pair of customer and item; probabilities of a purchase in the item's family within HORIZON."""

    base: NDArray[np.float64]  # without the placement
    treated: NDArray[np.float64]  # with the placement clicked
    delta: NDArray[np.float64]  # treated - base: the true uplift of a click
    stratum: NDArray[np.int64]  # row of STRATA


def draw_rates(
    rng: np.random.Generator, customers: Customers, area_weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(customers, FAMILIES): purchases a day that come without any offer."""
    spends = np.array([_SPENDING if code in LIFESTYLE else _BANKING for code in AREA_CODES])
    product = np.stack(
        [area_weights[:, [AREA_CODES.index(a) for a in _SPEAKS_TO[f]]].sum(axis=1) for f in PRODUCT_FAMILIES],
        axis=1,
    )
    interest = np.concatenate([product, area_weights], axis=1)
    base = np.concatenate([[_RATES[family] for family in PRODUCT_FAMILIES], spends])
    noise = np.exp(rng.normal(-0.5, 1.0, interest.shape))
    rates = base * (0.25 + 9.0 * interest**1.5) * noise
    rates[:, : len(PRODUCT_FAMILIES)] *= 0.3 + 1.4 * customers.wealth[:, None]
    return np.minimum(rates, 0.4)


class Needs:
    """The purchases that come by themselves, and what clicks do to them. Mutable: one run owns one."""

    def __init__(self, rng: np.random.Generator, rates: NDArray[np.float64], start: float) -> None:
        self.rates = rates
        self._next = start + rng.standard_exponential(rates.shape) * (DAY / rates)
        self._known = np.full(rates.shape, -np.inf, np.float64)  # no purchase of one's own before this time
        self._bought = np.full(rates.shape, -np.inf, np.float64)

    def chances(
        self,
        customers: NDArray[np.int64],
        families: NDArray[np.int64],
        delta: NDArray[np.float32],
        at: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(anyway, persuaded) of a click now, given all that has shown itself so far; shapes broadcast.

        anyway = P(the customer's own next purchase lies within HORIZON); persuaded = P(persuaded | not
        anyway), negative where the offer puts off that share of the purchases.
        """
        safe = np.maximum(families, 0)
        rate, known = self.rates[customers, safe] / DAY, self._known[customers, safe]
        anyway = -np.expm1(-rate * np.maximum(at + HORIZON - np.maximum(at, known), 0))
        rested = np.where(at - self._bought[customers, safe] < HORIZON, RESTED, 1.0)
        real = families >= 0
        return np.where(real, anyway, 0.0), np.where(real, delta * rested, 0.0)

    def answer(
        self,
        rng: np.random.Generator,
        customers: NDArray[np.int64],
        families: NDArray[np.int64],
        persuaded: NDArray[np.float32],
        at: NDArray[np.float64],
        *,
        own: bool = True,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """What clicks (n), each of another (customer, family), lead to: (bought, latest time or inf).

        `persuaded` as `chances` gives it. `own` False: the item was only looked at, and nobody's own
        purchase is pulled into the placement. The latest time of a purchase that comes anyway is when it
        would have come.
        """
        cell = (customers, families)
        due = self._next[cell]
        anyway = due < at + HORIZON
        draw = rng.random(len(customers))
        dropped = own & anyway & (persuaded < 0) & (draw < -persuaded)
        through = own & anyway & ~dropped
        caused = ~anyway & (draw < persuaded)
        later = dropped | through
        self._known[customers[later], families[later]] = due[later]
        self._next[customers[later], families[later]] = due[later] + self._gaps(
            rng, customers[later], families[later]
        )
        spared = ~anyway & (own | caused)
        self._known[customers[spared], families[spared]] = at[spared] + HORIZON
        bought = through | caused
        self._bought[customers[bought], families[bought]] = at[bought]
        return bought, np.where(through, due, np.inf)

    def own_purchases(
        self, rng: np.random.Generator, customers: NDArray[np.int64], until: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(customers, families, times) of purchases before `until` (n) that no placement had a part in.

        `customers` (n) names each at most once.
        """
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        while True:
            row, family = np.nonzero(self._next[customers] < until[:, None])
            if not len(row):
                break
            cell = (customers[row], family)
            times = self._next[cell]
            self._bought[cell] = np.maximum(self._bought[cell], times)
            self._next[cell] = times + self._gaps(rng, *cell)
            found.append((*cell, times))
        who, families, times = (np.concatenate(part) for part in zip(*found, strict=True))
        return who, families, times

    def _gaps(
        self, rng: np.random.Generator, customers: NDArray[np.int64], families: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        return rng.standard_exponential(len(customers)) * (DAY / self.rates[customers, families])


def deltas(
    catalogue: Catalogue,
    customers: Customers,
    rates: NDArray[np.float64],
    who: NDArray[np.int64],
    items: NDArray[np.int64],
    affinity: NDArray[np.float32],
) -> NDArray[np.float32]:
    """P(persuaded by a click | would not buy anyway) for customers (n, 1) and items (n, k); negative: put
    off.

    Thrift, the offer's pull and affinity raise it; where the need is already met by itself there is nobody
    to persuade.
    """
    family = np.maximum(catalogue.family[items], 0)
    base = -np.expm1(-rates[who, family] * (HORIZON / DAY))
    moved = customers.thrift[who] * catalogue.pull[items] * (affinity / (affinity + 1.5)) * (1 - base) ** 2
    put_off = customers.contrary[who] & (family >= len(PRODUCT_FAMILIES)) & (catalogue.pull[items] > 0)
    return np.where(put_off, -PUT_OFF, moved).astype(np.float32)


def true_uplift(base: NDArray[np.float64], delta: NDArray[np.float32]) -> Uplift:
    """The uplift of a click from `base` and `delta` (elementwise)."""
    treated = np.where(delta < 0, base * (1 + delta), base + (1 - base) * delta)
    gain = treated - base
    stratum = np.select([delta < 0, gain >= 0.05, base >= 0.5], [3, 1, 2], 0)
    return Uplift(base, treated, gain, stratum)
