"""The bench's bank in stretches of days: what was counted and fitted before each, its displays as rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import Vocabulary
from features.ranking import INTEREST, Clock
from features.transforms import DAY, tokens_many
from features.views import ITEM_STATS, SCHEMAS
from serving.blend import Blend
from serving.bundle import Bundle
from serving.domain import Context, Query, SlotRequest
from serving.live import Live, build_live
from serving.plan import default_plan
from serving.ranker import POSITIONS
from serving.ranking import Signals
from training.bench.ranker_world import History
from training.ease import Ease
from training.model import Customers, Effort, Positives, TrainData
from training.neighbours import build_neighbours, cooccurrence, owned
from training.popular import build_popular
from training.ranker_facts import (
    TIES_S,
    Counts,
    Rates,
    codes_of,
    facts_of,
    fit_hours,
    fit_rates,
    fit_ties,
    snapshots,
)
from training.ranker_fit import Rows
from training.ranker_rows import UNSCALED, page_matrix, rescaled, scale_of

SLOTS = 6
INTEREST_S = 20 * DAY  # half-life, as `features.ranking_kernel` has it


class Stretch(NamedTuple):
    """What is known at its start, and its rows; `shown` (m,) their numbers among the history's displays."""

    live: Live
    signals: Signals
    rates: Rates
    rows: Rows
    shown: NDArray[np.int64]


class Study:
    """One history, asked for stretches."""

    def __init__(self, history: History, seed: int) -> None:
        self.history, self._seed = history, seed
        self._table = history.compiled.table
        self._codes = codes_of(self._table)
        rows = history.rows
        self._gain = INTEREST.of(rows["what"], rows["action"].astype(np.uint16))
        self._starts = np.searchsorted(history.page, np.arange(len(history.at) + 1))

    def stretch(
        self, since: float, until: float, pages: int, tick: Callable[[int, int], None] | None = None
    ) -> Stretch:
        """At most `pages` of the pages decided then, drawn by chance; counts and models from before."""
        live, signals, rates = self.before(since)
        first, last = np.searchsorted(self.history.at, (since, until))
        drawn = np.arange(first, last)
        if len(drawn) > pages:
            rng = np.random.default_rng([self._seed, int(first)])
            drawn = np.sort(rng.choice(drawn, pages, replace=False))
        rows, shown = self._rows(live, signals, drawn, tick)
        scale = scale_of(rows.matrix)
        rescaled(rows.matrix, scale)
        scaled = Signals(signals.facts, signals.popular, scale)
        return Stretch(live, scaled, rates, rows, shown)

    def query(self, live: Live, page: int, *, slots: bool = False) -> Query:
        """The page's query; with the homepage's slots only where they are wanted."""
        h = self.history
        asked = (
            () if not slots else tuple(SlotRequest(slot, slot.size) for slot in live.plan.surfaces["home"])
        )
        context = Context(channel=int(h.world.customers.channel[h.customer[page]]))
        return Query(
            f"d{page}",
            f"u:{h.customer[page]}",
            "home",
            asked,
            context,
            h.customer_at(page),
            float(h.at[page]),
        )

    def _rows(
        self, live: Live, signals: Signals, pages: NDArray[np.int64], tick: Callable[[int, int], None] | None
    ) -> tuple[Rows, NDArray[np.int64]]:
        h = self.history
        parts, shown = [], []
        for done, page in enumerate(pages.tolist()):
            mine = np.arange(self._starts[page], self._starts[page + 1])
            items = h.item[mine]
            if not len(items):
                continue
            once = np.concatenate([[True], items[1:] != items[:-1]])
            mine = mine[once]
            parts.append(page_matrix(self.query(live, page), live, h.item[mine], signals))
            shown.append(mine)
            if tick is not None and done % 512 == 0:
                tick(done, len(pages))
        at = np.concatenate(shown)
        made = Rows(
            np.concatenate(parts, axis=1), h.slot[at], h.position[at], h.item[at],
            h.at[h.page[at]], h.clicked[at], h.converted[at],
        )  # fmt: skip
        return made, at

    def before(self, cut: float) -> tuple[Live, Signals, Rates]:
        """What is known at a moment: a Live without a ranker, and the counts for one."""
        h, codes = self.history, self._codes
        past = np.flatnonzero(h.at[h.page] < cut)
        place = h.slot * POSITIONS + h.position
        counts = Counts(place[past], h.item[past], h.clicked[past], h.converted[past] < cut)
        rates = fit_rates(counts, SLOTS * POSITIONS, codes[:, 0], codes[:, 2])
        expected = rates.place[place] * rates.item[h.item]
        since = max(cut - TIES_S, float(h.at[0]))
        late = past[h.at[h.page[past]] >= since]
        when = snapshots(since, cut)
        asked = h.page[late]
        moment = np.searchsorted(when, h.at[asked], side="right") - 1
        ties = fit_ties(
            np.concatenate([self._shares(one) for one in when.tolist()]),
            h.customer[asked] + moment * len(h.world.customers), h.item[late], h.clicked[late],
            expected[late], codes[:, 0],
        )  # fmt: skip
        hours = fit_hours(
            codes[h.item[past], 1], Clock.of(self._local[h.page[past]]), h.clicked[past], expected[past],
            int(codes[:, 1].max()) + 1,
        )  # fmt: skip
        bundle = self._bundle(cut)
        live = build_live(bundle, (), default_plan(bundle.kind_counts()))
        facts = facts_of(self._table, rates, ties, hours)
        return live, Signals(facts, bundle.popular, UNSCALED), rates

    @cached_property
    def _local(self) -> NDArray[np.float64]:
        """Of each page by the customer's clock."""
        h = self.history
        local: NDArray[np.float64] = h.at + h.world.customers.offset_s[h.customer]
        return local

    def _positives(self, cut: float) -> Positives:
        rows = self.history.rows
        good = (self._gain > 0) & (rows["item"] >= 0) & (rows["received_at"] < cut) & (rows["what"] <= 5)
        chosen = np.flatnonzero(good)
        chosen = chosen[np.argsort(rows["occurred_at"][chosen], kind="stable")]
        some = rows[chosen]
        return Positives(
            some["customer"].astype(np.int32), some["item"].astype(np.int32),
            np.ascontiguousarray(some["occurred_at"]), self._gain[chosen],
        )  # fmt: skip

    def _shares(self, cut: float) -> NDArray[np.float64]:
        """(customers, categories) of decayed interest, as the features have it."""
        done, width = self._positives(cut), int(self._codes[:, 0].max()) + 1
        people = len(self.history.world.customers)
        weight = done.weight * np.exp2(-(cut - done.at) / INTEREST_S)
        cell = done.user * np.int64(width) + self._codes[done.item, 0]
        share = np.bincount(cell, weight, people * width).reshape(people, width)
        found: NDArray[np.float64] = share / (share.sum(axis=1, keepdims=True) + 1)
        return found

    def _bundle(self, cut: float) -> Bundle:
        h = self.history
        indptr, tokens = tokens_many(h.profiles.records, h.profiles.known)
        people = len(h.world.customers)
        customers = Customers(
            indptr, tokens, h.profiles.records["segment"].astype(np.uint16), np.zeros(people, np.uint32)
        )
        data = TrainData(self._positives(cut), customers, self._table["kind"].astype(np.uint8), cut)
        model = Ease().fit(data, {"l2": 300.0, "pseudo": 0.01, "half_life_days": 30.0}, Effort(self._seed, 1))
        had = owned(data)
        return Bundle(
            version="bench",
            manifest={"model": {"name": "ease"}, "event_weights": INTEREST_WEIGHTS},
            items=Vocabulary(h.compiled.ids),
            compiled=h.compiled,
            stats=ITEM_STATS.blank(len(self._table)),
            model=model,
            popular=build_popular(data, {"half_life_days": 30.0, "smoothing": 200.0}),
            neighbours=build_neighbours(had, cooccurrence(had), damping=0.6, shrink=10.0),
            blend=Blend.neutral(),
            schemas=SCHEMAS,
        )


INTEREST_WEIGHTS = {
    "clicked": INTEREST.clicked,
    "converted": INTEREST.converted,
    "dismissed": INTEREST.dismissed,
    "acted": dict(INTEREST.acted),
    "half_life_days": 30.0,
}
