"""Closed loop: decided pages go in, and what the world's customers make of them comes out, when it arrives.

`Simulation.loop` walks through days in ticks: customers ask, `decide` answers, they look, click, wave away,
buy now or weeks later, and the next tick sees what has arrived by then. Nothing here knows how a page was
decided: by `serving.decide`, over HTTP, or by a rule. `wire` turns what arrived into bodies for POST
/v1/events and /v1/outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import ACTIONS, WHAT
from features.ids import CHANNELS
from training.world.catalogue import FAMILIES
from training.world.history import World
from training.world.layout import HOME, Layout
from training.world.respondent import Respondent
from training.world.response import Probabilities
from training.world.rows import ACTED, DISPLAYED, OUTCOME, Rows
from training.world.traffic import Visits

DAY = 86_400.0
_NAMES = {code: name for name, code in WHAT.items()}
_VALUED = ("clicked", "converted", "dismissed", "acted")


class Placed(NamedTuple):
    """Decided places, one row each, in any order. A page's places may be fewer than the layout's."""

    page: NDArray[np.int64]  # row of the pages asked for
    slot: NDArray[np.uint32]  # key32 of the slot's name
    position: NDArray[np.int64]
    item: NDArray[np.uint64]  # key64 of the item's id
    token_index: NDArray[np.int64]  # the place's index in its page token


class Tick(NamedTuple):
    """What happened up to `until`: the pages asked for, and what arrived."""

    until: float
    visits: Visits
    numbers: NDArray[np.int64]  # the pages' numbers, as rows name them
    rows: Rows


class Value(NamedTuple):
    """What pages are truly worth: expectations given everything that the world knows."""

    displayed: float
    clicks: float
    conversions: float
    uplift: float  # purchases (and completed acts) that would not have been without the page


Decide = Callable[[NDArray[np.int64], NDArray[np.float64]], Placed]
"""(customers, asked at) -> the places of their pages."""


@dataclass
class Simulation:
    """One run: a world, its customers as they are by now, and the pages that were sent."""

    world: World
    respondent: Respondent
    layout: Layout = HOME
    _tokens: dict[int, tuple[str, dict[int, int]]] = field(default_factory=dict, repr=False)
    _told: int = 0

    @classmethod
    def start(cls, world: World, respondent: Respondent | None = None, layout: Layout = HOME) -> Simulation:
        """Go on from `respondent` (as `World.write` hands it back), or begin with customers without past."""
        return cls(world, respondent or world.respondent(layout), layout)

    def pages(self, count: int, placed: Placed) -> NDArray[np.int64]:
        """(count, places) item rows of decided places, -1 where empty.

        ValueError where the world does not know an item, a slot or a position.
        """
        column = self._columns(placed)
        rows = self.world.catalogue.rows_of(placed.item)
        if (rows < 0).any():
            raise ValueError(f"{int((rows < 0).sum())} placed items are not of this world")
        pages = np.full((count, self.layout.places), -1, np.int64)
        pages[placed.page, column] = rows
        return pages

    def respond(
        self,
        customers: NDArray[np.int64],
        at: NDArray[np.float64],
        placed: Placed,
        tokens: Sequence[str] | None = None,
    ) -> NDArray[np.int64]:
        """Show decided pages to customers (rows of World.customers); their numbers. Answers wait for
        `arrived`.

        `tokens`: the pages' tokens, needed only for `wire`.
        """
        numbers = self.respondent.respond(customers, self.pages(len(customers), placed), at)
        if tokens is not None:
            column, order = self._columns(placed), np.argsort(placed.page, kind="stable")
            bounds = np.searchsorted(placed.page[order], np.arange(len(customers) + 1))
            for row, (number, token) in enumerate(zip(numbers.tolist(), tokens, strict=True)):
                own = order[bounds[row] : bounds[row + 1]]
                self._tokens[number] = (
                    token,
                    dict(zip(column[own].tolist(), placed.token_index[own].tolist(), strict=True)),
                )
        return numbers

    def probabilities(
        self, customers: NDArray[np.int64], at: NDArray[np.float64], placed: Placed
    ) -> Probabilities:
        """The truth about decided pages, before they are shown."""
        return self.respondent.probabilities(customers, self.pages(len(customers), placed), at)

    def value(self, customers: NDArray[np.int64], at: NDArray[np.float64], placed: Placed) -> Value:
        p = self.probabilities(customers, at, placed)
        clicks = p.displayed * p.click
        return Value(
            *(float(x.sum()) for x in (p.displayed, clicks, clicks * p.convert, p.displayed * p.uplift))
        )

    def arrived(self, until: float) -> Rows:
        """What arrived before `until` and was not handed over yet."""
        return self.respondent.due(until)

    def loop(self, decide: Decide, first_day: int, days: int, tick_s: float = 900.0) -> Iterator[Tick]:
        """Days of visits, decided tick by tick: `decide` may use all that earlier ticks brought."""
        for day in range(first_day, first_day + days):
            begins = self.world.start + day * DAY
            asked = self.world.begin(day, self.respondent)
            edges = np.append(np.arange(begins, begins + DAY, tick_s), np.inf)
            bounds = np.searchsorted(asked.at, edges)
            for tick in range(len(edges) - 1):
                now = slice(bounds[tick], bounds[tick + 1])
                visits = Visits(asked.customers[now], asked.at[now], asked.first[now])
                numbers = np.zeros(0, np.int64)
                if len(visits.at):
                    numbers = self.respond(visits.customers, visits.at, decide(visits.customers, visits.at))
                until = min(begins + (tick + 1) * tick_s, begins + DAY)
                if until == begins + DAY:
                    self.world.end(day, self.respondent)
                yield Tick(until, visits, numbers, self.arrived(until))

    def wire(self, rows: Rows) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(events, outcomes) as JSON objects for the HTTP contract; pages must have been shown with `tokens`.

        KeyError when a page has no token.
        """
        events: list[dict[str, Any]] = []
        outcomes: list[dict[str, Any]] = []
        shown: dict[int, dict[str, Any]] = {}
        for row in rows:
            if row["what"] == OUTCOME:
                outcomes.append(self._outcome(row))
            elif row["what"] == DISPLAYED and (page := int(row["page"])) in shown:
                shown[page]["seen"].append(self._tokens[page][1][int(row["place"])])
            else:
                events.append(self._event(row))
                if row["what"] == DISPLAYED:
                    shown[int(row["page"])] = events[-1]
        return events, outcomes

    def answerable(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows `wire` can tell: pages shown here with tokens, and what needs no page."""
        free = (rows["what"] == OUTCOME) | (rows["what"] == ACTED)
        known: NDArray[np.bool_] = free | np.isin(rows["page"], list(self._tokens))
        return known

    def forget(self, before: int) -> None:
        """Drop the tokens of pages with numbers below `before`."""
        self._tokens = {number: token for number, token in self._tokens.items() if number >= before}

    def _event(self, row: np.void) -> dict[str, Any]:
        kind = _NAMES[int(row["what"])]
        self._told += 1
        event: dict[str, Any] = {
            "event_id": f"w{self.world.seed}-{self._told}",
            "type": kind,
            "occurred_at": _rfc3339(row["occurred_at"]),
        }
        if row["what"] == ACTED:
            event["user_id"] = self.world.customers.ids[row["customer"]]
            event["action"] = ACTIONS[row["action"] - 1]
            event["channel"] = CHANNELS[self.world.customers.channel[row["customer"]] - 1]
            if row["item"] >= 0:
                event["item_id"] = self.world.catalogue.ids[row["item"]]
        else:
            token, indexes = self._tokens[int(row["page"])]
            index = indexes[int(row["place"])]
            event |= {"page_token": token} | (
                {"seen": [index]} if row["what"] == DISPLAYED else {"index": index}
            )
        if kind in _VALUED and np.isfinite(row["amount"]):
            event["value"] = {"amount": float(row["amount"]), "currency": "CNY"}
        return event

    def _outcome(self, row: np.void) -> dict[str, Any]:
        self._told += 1
        what: dict[str, Any] = (
            {"item_id": self.world.catalogue.ids[row["item"]]}
            if row["item"] >= 0
            else {"family": FAMILIES[row["family"]]}
        )
        if np.isfinite(row["amount"]):
            what["value"] = {"amount": float(row["amount"]), "currency": "CNY"}
        return {
            "outcome_id": f"w{self.world.seed}-o{self._told}",
            "user_id": self.world.customers.ids[row["customer"]],
            "kind": "purchase",
            "occurred_at": _rfc3339(row["occurred_at"]),
            "recorded_at": _rfc3339(row["received_at"] - 1.0),
            "channel": "core",
            **what,
        }

    def _columns(self, placed: Placed) -> NDArray[np.int64]:
        """The layout's column of each decided place."""
        keys = self.layout.slot_keys
        order = np.argsort(keys)
        slot = order[np.minimum(np.searchsorted(keys[order], placed.slot), len(keys) - 1)]
        if (keys[slot] != placed.slot).any():
            raise ValueError("a placed slot is not of this simulation's layout")
        sizes = np.array([one.size for one in self.layout.slots])
        if ((placed.position < 0) | (placed.position >= sizes[slot])).any():
            raise ValueError("a placed position is beyond its slot's size")
        first: NDArray[np.int64] = np.cumsum(sizes) - sizes
        return first[slot] + placed.position


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(float(at), UTC).isoformat()
