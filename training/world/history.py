"""`World`: the synthetic bank whole, and its past under a logging policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.catalogue import Item
from training.world.catalogue import Catalogue, draw_catalogue
from training.world.customers import OCCUPATIONS, ZONES, Customers, draw_customers
from training.world.layout import HOME, Layout, Looks
from training.world.needs import DAY, HORIZON, Needs, Uplift, deltas, draw_rates, true_uplift
from training.world.policy import Policy, SegmentPopularity
from training.world.respondent import Respondent
from training.world.response import Parameters, Probabilities, Response, draw_parameters
from training.world.rows import Rows, joined
from training.world.tastes import Tastes, Themes, draw_tastes, draw_themes
from training.world.traffic import Visits, own_actions, visits
from training.world.words import CITIES

if TYPE_CHECKING:
    from training.lake import Lake

START: Final = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
STREAMS: Final = (
    "customers", "items", "themes", "tastes", "rates", "parameters", "looks", "needs", "answers", "visits",
    "drift", "policy", "own",
)  # fmt: skip


class Day(NamedTuple):
    """One day of history: what arrived in it, and the pages that were decided."""

    number: int
    begins: float
    rows: Rows  # ordered by received_at
    visits: Visits
    pages: NDArray[np.int64]


class Written(NamedTuple):
    events: int
    outcomes: int
    pages: int
    until: float  # the first instant after the history
    respondent: Respondent  # the customers as the history left them, for a closed loop that goes on from here


@dataclass(frozen=True)
class World:
    """Everything that is true of one synthetic bank. Immutable: see `respondent()`."""

    seed: int
    start: float
    customers: Customers = field(repr=False)
    catalogue: Catalogue = field(repr=False)
    themes: Themes = field(repr=False)
    parameters: Parameters = field(repr=False)
    rates: NDArray[np.float64] = field(repr=False)
    _tastes: Tastes = field(repr=False)
    _looks: Looks = field(repr=False)

    @classmethod
    def create(
        cls,
        seed: int = 7,
        customers: int = 50_000,
        items: int = 3_000,
        start: float = START,
        visits_per_day: float = 0.12,
    ) -> World:
        """Draw a world. `start`: POSIX seconds of its first midnight UTC; `visits_per_day`: a customer's
        mean.

        ValueError when there are no customers, too few items, or `start` is not a midnight.
        """
        if customers < 1:
            raise ValueError("a world needs at least one customer")
        if start % DAY:
            raise ValueError(f"start must be a midnight UTC, {start} is {start % DAY:.0f} s after one")
        people = draw_customers(stream(seed, "customers"), customers, start, visits_per_day)
        catalogue = draw_catalogue(stream(seed, "items"), items, start)
        themes = draw_themes(stream(seed, "themes"), catalogue)
        tastes = draw_tastes(stream(seed, "tastes"), people, themes)
        rates = draw_rates(stream(seed, "rates"), people, tastes.area_weights(themes))
        return cls(
            seed, start, people, catalogue, themes, draw_parameters(stream(seed, "parameters")), rates,
            tastes, Looks(stream(seed, "looks")),
        )  # fmt: skip

    def items(self) -> list[Item]:
        return self.catalogue.items()

    def users(self, at: float | None = None, respondent: Respondent | None = None) -> pa.Table:
        """What the bank knows of its customers at `at` (default: the start): `user_id` and PROFILE's fields
        by name.

        With a `respondent`, holdings are those it has; without, nobody holds anything yet.
        """
        return users_table(self, self.start if at is None else at, respondent)

    def response(self, layout: Layout = HOME) -> Response:
        """The response model over a layout."""
        curves = self._looks.of(layout.slots)
        return Response(
            self.catalogue, self.customers, self.themes, self.rates, self.parameters, layout, curves
        )

    def respondent(self, layout: Layout = HOME, run: int = 0) -> Respondent:
        """Fresh customers, as at the start. Another `run`: other chances in the same world."""
        return Respondent(
            stream(self.seed, "answers", run), self.response(layout), self._tastes.copy(),
            Needs(stream(self.seed, "needs", run), self.rates, self.start), self.start,
        )  # fmt: skip

    def probabilities(
        self, customers: NDArray[np.int64], pages: NDArray[np.int64], now: NDArray[np.float64] | float
    ) -> Probabilities:
        """The true probabilities for customers (n) and pages (n, 40 of HOME) as at the start, with no past.

        After a history ask its respondent: `respondent.probabilities` knows fatigue, drift, holdings and
        purchases.
        """
        return self.respondent().probabilities(customers, pages, now)

    def uplift(
        self, customers: NDArray[np.int64], items: NDArray[np.int64], tastes: Tastes | None = None
    ) -> Uplift:
        """The true uplift of a click, for pairs (n): purchases of the item's family within 14 days, no past
        known.

        Kinds that meet no need (all but products and benefits) have base 0 and are not asked about:
        ValueError.
        """
        family = self.catalogue.family[items]
        if (family < 0).any():
            raise ValueError("only products and benefits have a family of needs to be bought from")
        affinity = (tastes or self._tastes).affinity(self.themes, customers, items[:, None])[:, 0]
        base = -np.expm1(-self.rates[customers, family] * (HORIZON / DAY))
        return true_uplift(
            base, deltas(self.catalogue, self.customers, self.rates, customers, items, affinity)
        )

    def visits(self, day: int) -> Visits:
        """Page requests of day `day` (0 = the first): the same whatever is shown."""
        return visits(stream(self.seed, "visits", day), self.customers, self.start + day * DAY, self.start)

    def policy(self, layout: Layout = HOME) -> SegmentPopularity:
        """The logging policy that history uses by default."""
        return SegmentPopularity(stream(self.seed, "policy"), self.catalogue, self.customers, layout)

    def begin(self, day: int, respondent: Respondent) -> Visits:
        """The visits of a day; what customers will do in it by themselves goes to the outbox."""
        visited = self.visits(day)
        own = stream(self.seed, "own", day)
        respondent.outbox.add(
            own_actions(own, visited, respondent.tastes, self.themes, self.catalogue, self.customers)
        )
        return visited

    def end(self, day: int, respondent: Respondent) -> None:
        """The last of the day's unprompted purchases; then tastes drift."""
        respondent.settle(self.start + (day + 1) * DAY)
        respondent.tastes.drift(stream(self.seed, "drift", day))

    def live(self, day: int, respondent: Respondent, policy: Policy) -> Day:
        """One day: visits, pages by `policy`, answers, the customers' own doings; then tastes drift."""
        begins = self.start + day * DAY
        visited = self.begin(day, respondent)
        pages = policy.decide(stream(self.seed, "policy", day + 1), visited.customers, visited.at)
        respondent.respond(visited.customers, pages, visited.at)
        self.end(day, respondent)
        rows = respondent.due(begins + DAY)
        policy.learn(rows)
        return Day(day, begins, rows, visited, pages)

    def history(
        self, days: int, policy: Policy | None = None, respondent: Respondent | None = None, first: int = 0
    ) -> Iterator[Day]:
        """`days` days from day `first`, one chunk each, under a policy (default: `self.policy()`)."""
        policy = policy or self.policy()
        respondent = respondent or self.respondent()
        for day in range(first, first + days):
            yield self.live(day, respondent, policy)

    def write(
        self,
        lake: Lake,
        days: int,
        progress: Callable[[int, int], None] | None = None,
        policy: Policy | None = None,
    ) -> Written:
        """Write items, users and `days` days of events and outcomes to a lake; `progress(days done, rows)`.

        Idempotent by seed, sizes and day. What has not arrived by the end (late displays, conversions still
        to come) stays in the respondent's outbox.
        """
        from training.world.lakeside import write_history

        return write_history(self, lake, days, progress, policy)

    def event_rows(self, days: int) -> Rows:
        """All rows of a history at once."""
        return joined([day.rows for day in self.history(days)])


def stream(seed: int, name: str, number: int = 0) -> np.random.Generator:
    """The generator of one purpose: independent of every other, and of what was drawn before."""
    return np.random.default_rng([seed, STREAMS.index(name), number])


def users_table(world: World, at: float, respondent: Respondent | None) -> pa.Table:
    people = world.customers
    codes = np.array([city[0] for city in CITIES])
    city = codes[people.city]
    held = [[""]] * len(people)
    if respondent is not None:
        ids = np.array([*world.catalogue.ids, ""])
        held = ids[respondent.memory.holdings].tolist()
    return pa.table(
        {
            "user_id": pa.array(people.ids),
            "tz": pa.array(np.array(ZONES)[people.zone]),
            "org": pa.array(np.char.add("branch/", city)),
            "city": pa.array(city),
            "consents": pa.array(people.consents),
            "profiling": pa.array(people.profiling.astype(np.uint8)),
            "risk_level": pa.array(people.risk_level),
            "age": pa.array(people.age),
            "blocked": pa.array(people.blocked.astype(np.uint8)),
            "holdings": pa.array(["|".join(one for one in items if one) or "none" for items in held]),
            "age_band": pa.array(people.age_band + 1),
            "gender": pa.array(people.gender),
            "star_level": pa.array(people.star_level),
            "payroll": pa.array(people.payroll.astype(np.uint8)),
            "lifecycle": pa.array(people.lifecycle),
            "assets": pa.array(people.assets),
            "income": pa.array(people.income),
            "tenure_days": pa.array(np.maximum(np.floor((at - people.joined_at) / DAY), 0)),
            "segment": pa.array(people.segment + 1),
            "city_tier": pa.array(people.city_tier),
            "occupation": pa.array(np.array(OCCUPATIONS)[people.occupation]),
        }
    )
