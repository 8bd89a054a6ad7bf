"""How a customer answers a page: every probability can be asked for.

Hazards multiply: h = appeal · affinity · hour and payday · fit · fatigue · satiation · rivalry, and an item
that is looked at earns p = 1 − exp(−h): none of the rankers that Fenliu ships has this form. The click then
has the position's trust bias on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KIND_CODE, KINDS
from training.world.catalogue import Catalogue
from training.world.customers import Customers
from training.world.layout import Curves, Layout
from training.world.memory import Memory
from training.world.needs import VIEW_THROUGH, Needs, deltas, true_uplift
from training.world.tastes import Tastes, Themes
from training.world.words import AREAS, LIFESTYLE

DAY: Final = 86_400.0
_MONEY = ("saving", "investing", "borrowing", "retirement")
RENDERED: Final = 0.98  # pages that reach the screen at all
_FEWEST_H, _MOST_H = 1e-6, 12.0


@dataclass(frozen=True)
class Parameters:
    """Drawn once a world. Arrays are by kind, in KINDS' order, unless said."""

    level: NDArray[np.float32]  # hazard of a click at affinity, appeal … of 1
    tires: NDArray[np.float32]  # fatigue: −log hazard per remembered display
    sates: NDArray[np.float32]  # satiation: −log hazard per remembered click in the topic
    finish: NDArray[np.float32]  # hazard of converting after a click, for kinds that meet no need
    between: float  # cannibalisation: what rivals of the same area in other slots take
    within: float  # … and those in the same slot
    interruption: float  # share of the attention that a pop-up takes from the rest of the page
    hours: NDArray[np.float32]  # (areas, 24): by the customer's clock
    weekend: NDArray[np.float32]  # by area
    payday: NDArray[np.float32]  # by area, on payday and two days after


def draw_parameters(rng: np.random.Generator) -> Parameters:
    def near(*values: float) -> NDArray[np.float32]:
        return (np.array(values) * rng.uniform(0.9, 1.1, len(values))).astype(np.float32)

    clock = np.arange(24)
    away = np.array([[min(abs(h - area.hour), 24 - abs(h - area.hour)) for h in clock] for area in AREAS])
    lifestyle = np.array([area.code in LIFESTYLE for area in AREAS])
    money = np.array([area.code in _MONEY for area in AREAS])
    office = np.array([area.code in ("business", "civic") for area in AREAS])
    return Parameters(
        level=near(0.036, 0.070, 0.070, 0.070, 0.080, 0.080),
        tires=near(0.01, 0.22, 0.30, 0.35, 0.18, 0.15),
        sates=near(0.0, 0.10, 0.25, 0.30, 0.12, 0.08),
        finish=near(0.5, 0.0, 0.35, 0.7, 0.0, 0.5),
        between=float(rng.uniform(0.9, 1.3)),
        within=float(rng.uniform(0.3, 0.5)),
        interruption=float(rng.uniform(0.10, 0.15)),
        hours=(0.8 + 0.6 * np.exp(-((away / 3.0) ** 2))).astype(np.float32),
        weekend=np.where(lifestyle, 1.25, np.where(office, 0.5, 0.9)).astype(np.float32),
        payday=np.where(money, 1.7, np.where(lifestyle, 1.15, 1.0)).astype(np.float32),
    )


class Moments(NamedTuple):
    """The customer's own time at each of n instants."""

    hour: NDArray[np.int64]
    weekend: NDArray[np.bool_]
    payday: NDArray[np.bool_]  # payday itself or one of the two days after it


def moments(customers: Customers, who: NDArray[np.int64], at: NDArray[np.float64]) -> Moments:
    local = at + customers.offset_s[who]
    days = np.floor_divide(local, DAY).astype(np.int64)
    day = days.astype("datetime64[D]")
    of_month = (day - day.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64) + 1
    since = of_month - customers.payday[who]
    return Moments(
        ((local - days * DAY) // 3600).astype(np.int64), (days + 3) % 7 >= 5, (since >= 0) & (since < 3)
    )


class Probabilities(NamedTuple):
    """(pages, places), 0 where a place is empty. What depends on the page depends on all of its items."""

    displayed: NDArray[np.float32]  # P(on screen); reported or not
    examination: NDArray[np.float32]  # P(looked at | on screen)
    click: NDArray[np.float32]  # P(clicked | on screen)
    dismiss: NDArray[np.float32]  # P(waved away | on screen)
    convert: NDArray[np.float32]  # P(converted, sooner or later, in the app or outside | clicked)
    uplift: NDArray[np.float32]  # P(purchase in 14 days | on screen) − P(… | place left empty); see `needs`
    perceived: NDArray[np.float32]  # P(clicked | looked at)
    anyway: NDArray[np.float32]  # would buy anyway within the horizon, given what has shown itself
    delta: NDArray[np.float32]  # P(persuaded | clicked, not anyway); < 0: put off
    affinity: NDArray[np.float32]


class Response:
    """The response model over one layout. Reads the state it is given; changes nothing."""

    def __init__(
        self,
        catalogue: Catalogue,
        customers: Customers,
        themes: Themes,
        rates: NDArray[np.float64],
        parameters: Parameters,
        layout: Layout,
        curves: Curves,
    ) -> None:
        self.catalogue, self.customers, self.themes, self.rates = catalogue, customers, themes, rates
        self.parameters, self.layout, self.curves = parameters, layout, curves
        self._base = (parameters.level[catalogue.kind] * catalogue.appeal).astype(np.float32)

    def probabilities(
        self,
        customers: NDArray[np.int64],
        pages: NDArray[np.int64],
        now: NDArray[np.float64],
        tastes: Tastes,
        memory: Memory,
        needs: Needs,
    ) -> Probabilities:
        """For pages (n, places) of item rows (−1: empty) shown to customers (n) at `now` (n)."""
        filled = pages >= 0
        items = np.where(filled, pages, 0)
        kind = self.catalogue.kind[items]
        affinity = tastes.affinity(self.themes, customers, items)
        hazard = self._base[items] * affinity * self._context(customers, items, now)
        hazard *= self.fit(customers, items) * np.where(memory.holds(customers, items), np.float32(0.1), 1)
        tired = self.parameters.tires[kind] * memory.fatigue(customers, items, now)
        sated = self.parameters.sates[kind] * memory.satiation(customers, self.catalogue.topic[items], now)
        hazard *= np.exp(-(tired + sated))
        examined = self._attention(filled)
        hazard *= self._rivalry(items, np.where(filled, hazard * examined * self.curves.shown, 0))
        earned = -np.expm1(-np.clip(hazard, _FEWEST_H, _MOST_H))
        perceived = earned * self.curves.theta + (1 - earned) * self.curves.eta
        click = examined * perceived
        waved = np.minimum(self.curves.dismiss * (1 + 0.3 * tired), 0.9)
        delta = deltas(self.catalogue, self.customers, self.rates, customers[:, None], items, affinity)
        family = self.catalogue.family[items]
        anyway, delta_now = needs.chances(customers[:, None], family, delta, now[:, None])
        convert = self._convert(kind, family, affinity, anyway, delta_now)
        uplift = self._uplift(family, click, examined - click, anyway, delta_now, convert)
        parts = (
            np.broadcast_to(self.curves.shown * RENDERED, pages.shape), examined, click,
            (examined - click) * waved, convert,
            uplift, perceived, anyway, delta_now, affinity,
        )  # fmt: skip
        return Probabilities(*(np.where(filled, part, 0).astype(np.float32) for part in parts))

    def fit(self, who: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, k): how far an item suits the customer's means, risk and city; 1: nothing speaks against."""
        c, people = self.catalogue, self.customers
        poor = people.assets[who, None] < c.min_amount[items]
        risk = people.risk_level[who, None] - c.risk_class[items].astype(np.int64)
        bold = np.where(c.risk_class[items] > 0, np.exp(-0.15 * risk.astype(np.float32) ** 2), 1)
        there = (c.cities[items] >> people.city[who, None].astype(np.uint32)) & 1
        thrift = np.where(c.kind[items] == KIND_CODE["benefit"], 0.6 + 0.8 * people.thrift[who, None], 1)
        return (np.where(poor, 0.2, 1) * bold * np.where(there == 1, 1, 0.1) * thrift).astype(np.float32)

    def _context(
        self, who: NDArray[np.int64], items: NDArray[np.int64], now: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        time, p = moments(self.customers, who, now), self.parameters
        by_area = p.hours[:, time.hour]
        by_area = by_area * np.where(time.weekend, p.weekend[:, None], 1)
        by_area = (by_area * np.where(time.payday, p.payday[:, None], 1)).astype(np.float32)
        context: NDArray[np.float32] = by_area[self.catalogue.area[items], np.arange(len(who))[:, None]]
        return context

    def _attention(self, filled: NDArray[np.bool_]) -> NDArray[np.float32]:
        """P(looked at | on screen): the position's curve, less what a pop-up takes."""
        popup = self.curves.popup
        if not popup.any():
            return np.broadcast_to(self.curves.examined, filled.shape)
        interrupted = np.any(filled[:, popup], axis=1, keepdims=True) & ~popup
        return (
            np.where(interrupted, 1 - self.parameters.interruption, 1).astype(np.float32)
            * self.curves.examined
        )

    def _rivalry(self, items: NDArray[np.int64], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is left of each hazard beside the page's other items of the same area."""
        slots, areas = len(self.layout.slots), len(AREAS)
        pages = np.arange(len(items))[:, None]
        cell = (pages * areas + self.catalogue.area[items]) * slots + self.layout.slot_of
        sums = np.bincount(cell.ravel(), weight.ravel(), len(items) * areas * slots).astype(np.float32)
        same = sums[cell] - weight
        whole = sums.reshape(-1, slots).sum(axis=1)[cell // slots]
        other = np.maximum(whole - weight - same, 0)
        left: NDArray[np.float32] = 1 / (
            1 + self.parameters.between * other + self.parameters.within * np.maximum(same, 0)
        )
        return left

    def _convert(
        self,
        kind: NDArray[np.int64],
        family: NDArray[np.int64],
        affinity: NDArray[np.float32],
        anyway: NDArray[np.float64],
        delta: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        done = -np.expm1(-self.parameters.finish[kind] * (0.6 + 0.4 * np.minimum(affinity, 4)))
        return np.where(family >= 0, true_uplift(anyway, delta.astype(np.float32)).treated, done)

    def _uplift(
        self,
        family: NDArray[np.int64],
        click: NDArray[np.float32],
        looked: NDArray[np.float32],
        anyway: NDArray[np.float64],
        delta: NDArray[np.float64],
        convert: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Of a place on screen: by clicks, a little by looks. Kinds without a need: all of it is caused."""
        gain = true_uplift(anyway, delta.astype(np.float32)).delta
        seen = VIEW_THROUGH * np.maximum(delta, 0) * (1 - anyway)
        return np.where(family >= 0, click * gain + looked * seen, click * convert)


FUNCTION: Final = KIND_CODE["function"]
IN_APP: Final = np.array(  # share of conversions that the app itself sees, by kind
    [
        {"function": 1.0, "product": 0.6, "activity": 0.9, "content": 1.0, "benefit": 0.4, "service": 0.7}[k]
        for k in KINDS
    ]
)
DELAY_MEDIAN_S: Final = np.array([60.0, 4 * 3600.0, 900.0, 120.0, 20 * 3600.0, 1800.0])  # by kind
DELAY_SIGMA: Final = np.array([0.8, 2.0, 1.5, 0.7, 1.5, 1.5])
DELAY_MOST_S: Final = 42 * DAY
