"""Customers answer pages: the closed loop's other half. Draws from the response model and remembers.

Page by page of one customer, in the order of time: each answer meets the fatigue, satiation, holdings and
needs that the one before it left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KIND_CODE
from training.world.memory import Memory
from training.world.needs import VIEW_THROUGH, Needs
from training.world.response import (
    DELAY_MEDIAN_S,
    DELAY_MOST_S,
    DELAY_SIGMA,
    IN_APP,
    RENDERED,
    Probabilities,
    Response,
)
from training.world.rows import (
    ACTED,
    ACTION,
    CLICKED,
    CONVERTED,
    DISMISSED,
    DISPLAYED,
    OUTCOME,
    Outbox,
    Rows,
    rows_of,
)  # fmt: skip
from training.world.tastes import Tastes
from training.world.traffic import permitted

DAY: Final = 86_400.0
LOST: Final = 0.03  # pages on screen whose `displayed` never arrives
DELAYED: Final = 0.05  # … whose events arrive hours to days later
STALE: Final = 0.015  # … that are looked at after they expired
VALID_S: Final = 600.0
COMPLAINS: Final = 0.004  # of those who wave something away
_BATCH = 4096
_PRODUCT = KIND_CODE["product"]


class Answer(NamedTuple):
    """(pages, places) each: what one draw made of Probabilities."""

    displayed: NDArray[np.bool_]
    examined: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    dismissed: NDArray[np.bool_]


def draw(
    rng: np.random.Generator, p: Probabilities, slot_of: NDArray[np.int64], filled: NDArray[np.bool_]
) -> Answer:
    """One realisation of pages. Within a slot what is on screen is a prefix: one depth is drawn per slot."""
    n = len(filled)
    depth = rng.random((n, int(slot_of[-1]) + 1), np.float32)[:, slot_of]
    rendered = rng.random(n) < RENDERED
    displayed = (depth < p.displayed / np.float32(RENDERED)) & filled & rendered[:, None]
    examined = displayed & (rng.random(filled.shape, np.float32) < p.examination)
    clicked = examined & (rng.random(filled.shape, np.float32) < p.perceived)
    left = p.examination - p.click
    wave = np.divide(p.dismiss, left, out=np.zeros_like(left), where=left > 0)
    dismissed = examined & ~clicked & (rng.random(filled.shape, np.float32) < wave)
    return Answer(displayed, examined, clicked, dismissed)


class Respondent:
    """All customers, answering. `respond` to pages in order of time; `due` hands over what has arrived."""

    def __init__(
        self, rng: np.random.Generator, response: Response, tastes: Tastes, needs: Needs, start: float
    ) -> None:
        self._rng, self.response, self.tastes, self.needs = rng, response, tastes, needs
        self.memory = Memory(len(response.customers), int(response.catalogue.topic.max()) + 1, start)
        self.outbox = Outbox()
        self.pages = 0

    def probabilities(
        self, customers: NDArray[np.int64], pages: NDArray[np.int64], now: NDArray[np.float64] | float
    ) -> Probabilities:
        """The truth about pages (n, places; item rows, -1 empty) for customers (n), given all so far."""
        return self.response.probabilities(
            customers, pages, _times(now, len(customers)), self.tastes, self.memory, self.needs
        )

    def respond(
        self, customers: NDArray[np.int64], pages: NDArray[np.int64], at: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Answer pages decided at `at`; what happens waits in the outbox. Returns the pages' numbers.

        ValueError when shapes do not agree or a page is not of the layout.
        """
        places = self.response.layout.places
        if pages.shape != (len(customers), places) or at.shape != customers.shape:
            raise ValueError(f"pages must be ({len(customers)}, {places}) and at ({len(customers)},)")
        numbers = self.pages + np.arange(len(customers))
        self.pages += len(customers)
        for turn in _turns(customers, at):
            for first in range(0, len(turn), _BATCH):
                rows = turn[first : first + _BATCH]
                self._answer(numbers[rows], customers[rows], pages[rows], at[rows])
        return numbers

    def settle(self, until: float) -> None:
        """All purchases that customers make by themselves before `until`."""
        everybody = np.arange(len(self.response.customers))
        self._buy_unprompted(everybody, np.full(len(everybody), until))

    def due(self, until: float) -> Rows:
        """What arrives before `until` and was not handed over yet, ordered by received_at."""
        return self.outbox.due(until)

    def _answer(
        self,
        numbers: NDArray[np.int64],
        who: NDArray[np.int64],
        pages: NDArray[np.int64],
        at: NDArray[np.float64],
    ) -> None:
        """One page each of distinct customers."""
        self._buy_unprompted(who, at)
        p = self.probabilities(who, pages, at)
        answer = draw(self._rng, p, self.response.layout.slot_of, pages >= 0)
        sent = _Sending(self._rng, numbers, who, at)
        self.outbox.add(sent.rows(answer.displayed & ~sent.lost[:, None], DISPLAYED, pages, sent.seen_at))
        clicks = sent.rows(answer.clicked, CLICKED, pages, sent.seen_at)
        clicks["occurred_at"] += 1 + self._rng.exponential(12, len(clicks))
        clicks["received_at"] = np.maximum(clicks["received_at"], clicks["occurred_at"]) + 0.3
        self.outbox.add(clicks)
        waved = sent.rows(answer.dismissed, DISMISSED, pages, sent.seen_at)
        waved["occurred_at"] += 0.5 + self._rng.exponential(3, len(waved))
        waved["received_at"] = np.maximum(waved["received_at"], waved["occurred_at"]) + 0.3
        self.outbox.add(waved)
        self._complain(waved)
        self._convert(clicks, p, sent)
        self._view_through(answer, p, pages, sent)
        weights = (answer.displayed & ~answer.clicked) + 2 * answer.dismissed
        self.memory.remember_displays(who, pages, weights.astype(np.int64), at)
        if len(clicks):
            items = clicks["item"].astype(np.int64)
            topics = self.response.catalogue.topic[items]
            self.memory.remember_clicks(
                clicks["customer"].astype(np.int64), items, topics, clicks["decided_at"]
            )

    def _complain(self, waved: Rows) -> None:
        some = waved[self._rng.random(len(waved)) < COMPLAINS]
        rows = rows_of(len(some), customer=some["customer"], item=some["item"], what=ACTED)
        rows["action"] = ACTION["complained"]
        rows["occurred_at"] = some["occurred_at"] + self._rng.exponential(1800, len(some))
        rows["received_at"] = rows["occurred_at"] + 1
        self.outbox.add(rows)

    def _convert(self, clicks: Rows, p: Probabilities, sent: _Sending) -> None:
        """Conversions of clicks: through needs where the kind meets one, else by the kind's own hazard."""
        row, place = sent.row_of(clicks["page"]), clicks["place"].astype(np.int64)
        items = clicks["item"].astype(np.int64)
        family = self.response.catalogue.family[items]
        latest = np.full(len(clicks), np.inf)
        bought = self._rng.random(len(clicks)) < p.convert[row, place]
        meets = np.flatnonzero(family >= 0)
        for one in _distinct(clicks["customer"][meets], family[meets]):
            at = meets[one]
            bought[at], latest[at] = self.needs.answer(
                self._rng, clicks["customer"][at].astype(np.int64), family[at], p.delta[row[at], place[at]],
                clicks["decided_at"][at],
            )  # fmt: skip
        self._purchased(clicks[bought], latest[bought], viewed=False)

    def _view_through(
        self, answer: Answer, p: Probabilities, pages: NDArray[np.int64], sent: _Sending
    ) -> None:
        """A few are persuaded by what they only looked at: purchases that no click explains."""
        chance = VIEW_THROUGH * np.maximum(p.delta, 0) * (answer.examined & ~answer.clicked)
        looked = sent.rows(self._rng.random(pages.shape, np.float32) < chance, CLICKED, pages, sent.seen_at)
        family = self.response.catalogue.family[looked["item"].astype(np.int64)]
        bought = np.zeros(len(looked), np.bool_)
        for one in _distinct(looked["customer"], family):
            bought[one], _ = self.needs.answer(
                self._rng, looked["customer"][one].astype(np.int64), family[one],
                np.ones(len(one), np.float32), looked["decided_at"][one], own=False,
            )  # fmt: skip
        self._purchased(looked[bought], np.full(int(bought.sum()), np.inf), viewed=True)

    def _purchased(self, causes: Rows, latest: NDArray[np.float64], *, viewed: bool) -> None:
        """Conversions that follow `causes` (clicks or looks), each no later than `latest`; holdings change
        at once.

        A conversion in the app is a `converted` of the placement, or `acted` purchased after a mere look; one
        outside it is an outcome, which the bank's systems report the day after.
        """
        rows = causes.copy()
        items = rows["item"].astype(np.int64)
        kind = self.response.catalogue.kind[items]
        delay = np.exp(self._rng.normal(np.log(DELAY_MEDIAN_S[kind]), DELAY_SIGMA[kind]))
        happened = np.minimum(causes["occurred_at"] + np.clip(delay, 5.0, DELAY_MOST_S), latest)
        rows["occurred_at"] = np.maximum(happened, causes["occurred_at"] + 2.0)
        rows["family"] = self.response.catalogue.family[items]
        rows["amount"] = self._amounts(rows["customer"].astype(np.int64), items)
        inside = self._rng.random(len(rows)) < IN_APP[kind]
        rows["what"] = np.where(inside, ACTED if viewed else CONVERTED, OUTCOME)
        rows["action"] = np.where(inside & viewed, ACTION["purchased"], 0)
        recorded = self._rng.exponential(12 * 3600.0, len(rows)) + 6 * 3600.0
        rows["received_at"] = rows["occurred_at"] + np.where(inside, 0.5, recorded)
        self.outbox.add(rows)
        product = kind == _PRODUCT
        self.memory.take(rows["customer"][product].astype(np.int64), items[product])

    def _buy_unprompted(self, who: NDArray[np.int64], until: NDArray[np.float64]) -> None:
        """Purchases of one's own: products by `acted` or an outcome with the item, spending by its family."""
        customers, families, at = self.needs.own_purchases(self._rng, who, until)
        if not len(customers):
            return
        items = self._own_products(customers, families, at)
        inside = (items >= 0) & (self._rng.random(len(items)) < 0.4)
        recorded = self._rng.exponential(12 * 3600.0, len(items)) + 6 * 3600.0
        rows = rows_of(
            len(items), customer=customers, item=items, family=families, occurred_at=at,
            what=np.where(inside, ACTED, OUTCOME), action=np.where(inside, ACTION["purchased"], 0),
            received_at=at + np.where(inside, 0.5, recorded), amount=self._amounts(customers, items),
        )  # fmt: skip
        self.outbox.add(rows)
        self.memory.take(customers[items >= 0], items[items >= 0])

    def _own_products(
        self, customers: NDArray[np.int64], families: NDArray[np.int64], at: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """A product of the family that the customer may buy, by appeal; -1: spending, or none was found."""
        catalogue = self.response.catalogue
        items = np.full(len(customers), -1)
        for family in np.unique(families):
            pool = np.flatnonzero((catalogue.family == family) & (catalogue.kind == _PRODUCT))
            if not len(pool):
                continue
            steps = np.cumsum(catalogue.appeal[pool], dtype=np.float64)
            rows = np.flatnonzero(families == family)
            for _ in range(4):  # tries
                draws = self._rng.random(len(rows)) * steps[-1]
                wanted = pool[np.minimum(np.searchsorted(steps, draws), len(pool) - 1)]
                may = permitted(
                    catalogue, self.response.customers, customers[rows], wanted[:, None], at[rows]
                )[:, 0]
                items[rows[may]] = wanted[may]
                rows = rows[~may]
        return items

    def _amounts(self, customers: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        """CNY: a share of the assets for products, everyday money for functions and spending, else none."""
        catalogue = self.response.catalogue
        safe = np.maximum(items, 0)
        kind = np.where(items >= 0, catalogue.kind[safe], KIND_CODE["benefit"])
        invested = np.maximum(
            catalogue.min_amount[safe],
            self.response.customers.assets[customers] * self._rng.beta(1.2, 6, len(items)),
        )
        spent = np.exp(self._rng.normal(5.0, 1.1, len(items)))
        money = np.where(kind == _PRODUCT, invested, spent)
        none = np.isin(kind, [KIND_CODE["activity"], KIND_CODE["content"], KIND_CODE["service"]])
        return np.where(none, np.nan, np.round(money, 2))


class _Sending:
    """How one batch of pages is reported: when it was seen, and when that arrives, if it does."""

    def __init__(
        self,
        rng: np.random.Generator,
        numbers: NDArray[np.int64],
        who: NDArray[np.int64],
        at: NDArray[np.float64],
    ) -> None:
        n = len(who)
        self._numbers, self._who, self._at = numbers, who, at
        self.lost = rng.random(n) < LOST
        stale = np.where(rng.random(n) < STALE, VALID_S + rng.exponential(1800, n), 0.0)
        self.seen_at = at + 0.2 + rng.exponential(0.4, n) + stale
        waits = np.exp(rng.normal(np.log(3 * 3600.0), 1.2, n))  # offline
        self._wait = np.where(rng.random(n) < DELAYED, np.minimum(waits, 6 * DAY), rng.uniform(0.5, 3.0, n))
        self._skew = np.clip(rng.normal(0, 2.0, n), -30, 30)  # the client's clock
        self._order = np.argsort(numbers)

    def row_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The batch's row of each page number."""
        rows: NDArray[np.int64] = self._order[np.searchsorted(self._numbers[self._order], numbers)]
        return rows

    def rows(
        self, mask: NDArray[np.bool_], what: int, pages: NDArray[np.int64], seen_at: NDArray[np.float64]
    ) -> Rows:
        """Rows of the marked places, each occurring when its page was seen."""
        row, place = np.nonzero(mask)
        return rows_of(
            len(row), page=self._numbers[row], place=place, customer=self._who[row], item=pages[row, place],
            what=what, decided_at=self._at[row], occurred_at=(seen_at + self._skew)[row],
            received_at=(seen_at + self._wait)[row],
            late=((seen_at - self._at) > VALID_S)[row] & (what == DISPLAYED),
        )  # fmt: skip


def _turns(customers: NDArray[np.int64], at: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Rows of the pages that are each customer's first, then second …, in the order of `at`."""
    order = np.lexsort((at, customers))
    yield from _ranked(order, customers[order])


def _distinct(customers: NDArray[np.int32], families: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows in groups that hold no (customer, family) twice, the first of each before the second."""
    order = np.lexsort((families, customers))
    yield from _ranked(order, customers[order] * np.int64(1024) + families[order])


def _ranked(order: NDArray[np.int64], sorted_keys: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    if not len(order):
        return
    first = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
    sizes = np.diff(np.concatenate([first, [len(order)]]))
    rank = np.arange(len(order)) - np.repeat(first, sizes)
    by_rank = np.argsort(rank, kind="stable")
    for part in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]):
        yield order[part]


def _times(now: NDArray[np.float64] | float, count: int) -> NDArray[np.float64]:
    return np.broadcast_to(np.asarray(now, np.float64), (count,))
