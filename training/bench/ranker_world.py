"""What `fenliu bench ranker` learns from: a synthetic bank's days, each page with its customer's logs as they
were when it was decided, and with the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.schema import Record
from features.transforms import DAY
from features.views import CONTACT, CONTACT_KEEP, RECENT, RECENT_KEEP
from serving.catalogue import CompiledItems, compile_items
from training.profiles import Profiles, as_served, profile_records
from training.world import HOME, World
from training.world.history import stream
from training.world.needs import Needs
from training.world.respondent import Respondent
from training.world.response import Probabilities
from training.world.rows import ACTED, CLICKED, CONVERTED, DISMISSED, DISPLAYED, OUTCOME, Rows

PLACES = HOME.places
LIVE = (ACTED, CLICKED, CONVERTED, DISMISSED)
MET = (DISPLAYED, CLICKED, CONVERTED, DISMISSED)
_APART = 1e8  # seconds: customers' times side by side on one axis


class Asked(NamedTuple):
    """Pages (p) as they were answered; the rest (p, places) by the truth."""

    customer: NDArray[np.int64]
    at: NDArray[np.float64]
    items: NDArray[np.int64]
    click: NDArray[np.float32]
    convert: NDArray[np.float32]
    examined: NDArray[np.float32]


class Watched(Respondent):
    """A respondent that keeps the probabilities by which each page was answered."""

    asked: list[Asked]

    @classmethod
    def of(cls, world: World) -> Watched:
        fresh = world.respondent()
        made = cls(
            stream(world.seed, "answers"), fresh.response, fresh.tastes,
            Needs(stream(world.seed, "needs"), world.rates, world.start), world.start,
        )  # fmt: skip
        made.asked = []
        return made

    def probabilities(
        self, customers: NDArray[np.int64], pages: NDArray[np.int64], now: NDArray[np.float64] | float
    ) -> Probabilities:
        p = super().probabilities(customers, pages, now)
        at = np.broadcast_to(np.asarray(now, np.float64), customers.shape)
        self.asked.append(Asked(customers, at, pages, p.click, p.convert, p.examination))
        return p


@dataclass(frozen=True, eq=False)
class Logs:
    """Entries of all customers, one below the other, each customer's in the order of arrival."""

    entries: NDArray[np.void]
    key: NDArray[np.float64]  # customer · _APART + seconds since the start at which it arrived
    most: int

    def until(self, customer: int, seconds: float) -> NDArray[np.void]:
        """What lay in the customer's log then."""
        first = int(self.key.searchsorted(customer * _APART))
        last = int(self.key.searchsorted(customer * _APART + seconds))
        return self.entries[max(first, last - self.most) : last]


@dataclass(frozen=True, eq=False)
class History:
    """Pages (p) in the order of time, and their displayed places (m) with answers and truth."""

    world: World
    compiled: CompiledItems
    profiles: Profiles
    did: Logs
    met: Logs
    rows: Rows  # everything that happened, also what arrives after the end
    at: NDArray[np.float64]  # (p,)
    customer: NDArray[np.int64]  # (p,)
    page: NDArray[np.int64]  # (m,), ascending; within a page rows ascend
    place: NDArray[np.int64]  # (m,) column of HOME
    item: NDArray[np.int32]  # (m,)
    clicked: NDArray[np.bool_]
    converted: NDArray[np.float64]  # when the conversion that its click led to arrived; inf: never
    truth: NDArray[np.float32]  # (m,) P(clicked | displayed)
    converts: NDArray[np.float32]  # (m,) P(converted by a click | displayed)
    examined: NDArray[np.float32]  # (m,) P(looked at | displayed)
    until: float

    def customer_at(self, page: int) -> Customer:
        """As the store would have handed it to the decision."""
        who, seconds = int(self.customer[page]), float(self.at[page] - self.world.start)
        profile = Record(self.profiles.records[who], int(self.profiles.known[who]), self.world.start)
        return Customer(profile, None, self.did.until(who, seconds), self.met.until(who, seconds))

    @property
    def slot(self) -> NDArray[np.int64]:
        slot: NDArray[np.int64] = HOME.slot_of[self.place]
        return slot

    @property
    def position(self) -> NDArray[np.int64]:
        position: NDArray[np.int64] = HOME.position_of[self.place]
        return position


def lived(
    world: World,
    days: int,
    kept: int,
    progress: Callable[[int, int], None] | None = None,
    respondent: Watched | None = None,
) -> History:
    """`days` days under the logging policy; the pages of the last `kept` are kept with their truth.

    `respondent`: fresh ones, to go on with from where the days leave them.
    """
    respondent = respondent or Watched.of(world)
    parts: list[Rows] = []
    asked: list[Asked] = []
    for day in world.history(days, respondent=respondent):
        parts.append(day.rows)
        asked += respondent.asked if day.number >= days - kept else []
        respondent.asked = []
        if progress is not None:
            progress(day.number + 1, days)
    parts.append(respondent.due(np.inf))
    rows = np.concatenate(parts)
    return _history(world, rows, asked, world.start + days * DAY)


def _history(world: World, rows: Rows, parts: list[Asked], until: float) -> History:
    asked = Asked(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = np.argsort(asked.at, kind="stable")
    customer, at, pages = asked.customer[order], asked.at[order], asked.items[order]
    click, convert, examined = asked.click[order], asked.convert[order], asked.examined[order]
    number = _numbers(rows, customer, at)
    page_of = np.full(int(rows["page"].max()) + 2, -1, np.int64)
    page_of[number[number >= 0]] = np.flatnonzero(number >= 0)
    shown, clicked = np.zeros(pages.shape, np.bool_), np.zeros(pages.shape, np.bool_)
    converted = np.full(pages.shape, np.inf)
    placed = rows[rows["page"] >= 0]
    placed = placed[page_of[placed["page"]] >= 0]
    cell = page_of[placed["page"]], placed["place"].astype(np.int64)
    for mark, what in ((shown, DISPLAYED), (clicked, CLICKED)):
        some = placed["what"] == what
        mark[cell[0][some], cell[1][some]] = True
    bought = np.isin(placed["what"], (CONVERTED, OUTCOME))
    np.minimum.at(converted, (cell[0][bought], cell[1][bought]), placed["received_at"][bought])
    shown &= pages >= 0  # where nothing stood nothing was shown
    clicked &= shown  # a click whose display was never reported says nothing of those that were
    converted[~clicked] = np.inf
    page, place = np.nonzero(shown)
    item = pages[page, place].astype(np.int32)
    order = np.lexsort((item, page))
    page, place, item = page[order], place[order], item[order]
    ids = world.customers.ids
    users = world.users()
    compiled = compile_items(world.items())
    return History(
        world, compiled, as_served(profile_records(users, ids)),
        logs_of(rows, LIVE, world, RECENT, RECENT_KEEP), logs_of(rows, MET, world, CONTACT, CONTACT_KEEP),
        rows, at, customer, page, place, item, clicked[page, place], converted[page, place],
        click[page, place], click[page, place] * convert[page, place],
        examined[page, place], until,
    )  # fmt: skip


def _numbers(rows: Rows, customer: NDArray[np.int64], at: NDArray[np.float64]) -> NDArray[np.int64]:
    """The page number of each page asked for, -1 where nothing of it was reported."""
    placed = rows[rows["page"] >= 0]
    _, first = np.unique(placed["page"], return_index=True)
    some = placed[first]
    key = some["customer"] * _APART * 100 + some["decided_at"]
    order = np.argsort(key)
    wanted = customer * _APART * 100 + at
    found = np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)
    hit = key[order][found] == wanted
    return np.where(hit, some["page"][order][found], -1)


def logs_of(rows: Rows, kinds: tuple[int, ...], world: World, dtype: np.dtype[np.void], most: int) -> Logs:
    """Of what happened, these kinds, as entries of `dtype`, of each customer the last `most`."""
    rows = rows[np.isin(rows["what"], kinds)]
    key = rows["customer"] * _APART + (rows["received_at"] - world.start)
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    entries = np.zeros(len(rows), dtype)
    known = rows["item"] >= 0
    entries["item"][known] = world.catalogue.keys[rows["item"][known]]
    entries["event"] = np.arange(len(rows))
    entries["at"] = np.minimum(rows["occurred_at"], rows["received_at"]).astype(entries["at"].dtype)
    entries["what"] = rows["what"]
    if "action" in (dtype.names or ()):
        entries["action"] = rows["action"]
    return Logs(entries, key, most)
