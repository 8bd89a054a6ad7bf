"""`fenliu bench scores`: what a list of the bank's own model adds to pages, and what a wrong one costs.

A ranker learns from weeks under the logging policy. Then three banks of the same customers: without a list,
with one of known quality (the log of each customer's true affinity and the item's appeal, with as much noise
again as `QUALITY` says), and with the same lists dealt to other customers. Each decides a day's pages by
`decide()`; its displays teach each how far to believe its list (`training.trust`). The next day's pages
are valued by the truth, the clicks that they can expect, for the same visits of the same customers: `gain`
as a day without any page left all alike, so that nothing but the pages differs; `lived` as each bank's own
first day left them, with the chances of that day. Intervals: bootstrap over customers of all worlds.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.bench.harness import Bar, Result
from training.bench.tally import Tally
from training.progress import counting, wide_console
from training.world.traffic import Visits

if TYPE_CHECKING:
    from serving.domain import Query
    from serving.live import Live
    from training.bench.ranker_study import Study
    from training.bench.ranker_world import History, Logs, Watched
    from training.trust import Learned
    from training.world import World
    from training.world.rows import Rows

ABOUT: Final = "a list of the bank's own model: what a good one adds to pages, what a shuffled one costs"
FIRST_SEED: Final = 61
ARMS: Final = ("none", "good", "shuffled")
MODEL: Final = "bank"
DAY: Final = 86_400.0
STRETCH: Final = 4  # days that share one set of counts
LISTED: Final = 32  # items of each customer's list
QUALITY: Final = 0.7  # correlation of a list's scores with the truth, over all pairs
EARLY: Final = 8  # kept days that only counts are made of
RESAMPLES: Final = 1_000

Floats = NDArray[np.float64]


class Sizes(NamedTuple):
    worlds: int
    customers: int
    items: int
    days: int
    kept: int
    pages: int  # to learn the ranker from


FULL: Final = Sizes(3, 4_000, 800, 24, 20, 16_000)
QUICK: Final = Sizes(1, 1_500, 600, 18, 16, 6_000)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worlds", type=int, help=f"{FULL.worlds}; with --quick {QUICK.worlds}")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="of the first world")


def run(args: argparse.Namespace) -> Result:
    size = QUICK if args.quick else FULL
    size = size._replace(worlds=args.worlds or size.worlds)
    tally, days = Tally(), list[list[Floats]]()
    for seed in range(args.first_seed, args.first_seed + size.worlds):
        clicks, learned = lived_with(seed, size)
        days.append(clicks)
        for name, one in learned.items():
            for model in one.known.values():
                note = f"± {model.level_sd:.3f}, ± {model.slope_sd:.3f}; {model.displays:,} displays"
                tally.put(f"{name}_level_{seed}", model.level, "log-odds", note)
                tally.put(f"{name}_slope_{seed}", model.slope, "log-odds", "per deviation of its scores")
    told(tally, *(np.concatenate(one) for one in zip(*days, strict=True)), seed=args.first_seed)
    return tally.result()


def told(tally: Tally, first: Floats, lived: Floats, alike: Floats, *, seed: int) -> None:
    """(customers, arms) each: true clicks on each customer's pages of a day."""
    rng = np.random.default_rng(seed)
    tally.put("customers", float(len(alike)), "", "with a list")
    tally.put("clicks_without", float(alike[:, 0].sum()), "clicks", "expected on the day that judges")
    limits: dict[str, Bar] = {"good": (">=", 0.0), "shuffled": (">=", -0.01)}
    days = (
        ("first_day", first, "before anything was learnt of it"),
        ("lived", lived, "a day after, each as its own first day left it"),
        ("gain", alike, "a day after, all alike"),
    )
    for arm, name in enumerate(ARMS[1:], start=1):
        for label, clicks, note in days:
            drawn = np.sort([_gain(clicks[_again(rng, len(clicks))], arm) for _ in range(RESAMPLES)])
            low, high = (float(drawn[int(share * RESAMPLES)]) for share in (0.025, 0.975))
            said = f"{note}: {low:+.4f} to {high:+.4f}"
            tally.put(f"{name}_{label}", _gain(clicks, arm), "of clicks", said)
            if label == "gain":
                tally.put(f"{name}_{label}_low", low, "of clicks", "lower end of 95 %", limits[name])


def _again(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    return rng.integers(0, n, n)


def _gain(clicks: Floats, arm: int) -> float:
    return float(clicks[:, arm].sum() / clicks[:, 0].sum() - 1)


def lived_with(seed: int, size: Sizes) -> tuple[list[Floats], dict[str, Learned]]:
    """(customers, arms) true clicks on the first day with lists and twice on the second, as `told` takes
    them; what was learnt of the lists.
    """
    from training.bench.ranker_study import Study
    from training.bench.ranker_world import Watched, lived
    from training.world import World

    console = wide_console()
    world = World.create(seed, size.customers, size.items, visits_per_day=1.0)
    respondent = Watched.of(world)
    with counting(console, f"world {seed}: {size.days} days of {size.customers:,} customers") as tick:
        history = lived(world, size.days, size.kept, tick, respondent)
    with console.status(f"world {seed}: the ranker …"):
        live = ranked(Study(history, seed), size, seed)
    lists = lists_of(world, respondent, live, seed)
    first, second, alike = np.zeros((3, size.customers, len(ARMS)))
    learned: dict[str, Learned] = {}
    for arm, name in enumerate(ARMS):
        with console.status(f"world {seed}: two days with {name} …"):
            bank = Homepages.of(history, respondent, lists.get(name))
            shown = bank.day(live, size.days)
            first[:, arm] = shown.clicks
            after = live
            if name != "none":
                learned[name] = bank.taught(live, shown)
                after = believing(live, learned[name])
            second[:, arm] = bank.day(after, size.days + 1).clicks
            rested = Homepages.of(history, respondent, lists.get(name))
            rested.live_through(size.days)
            alike[:, arm] = rested.day(after, size.days + 1).clicks
    return [first, second, alike], learned


class Shown(NamedTuple):
    """A day's pages (n): customers, when, item rows by places of HOME (−1 empty), what was reported displayed
    and clicked; `clicks` (customers,) that the truth expects of them.
    """

    who: NDArray[np.int64]
    at: Floats
    pages: NDArray[np.int64]
    displayed: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    clicks: Floats


@dataclass
class Homepages:
    """One arm's customers after the history, page by page decided for them, with or without lists."""

    history: History
    respondent: Watched
    lists: NDArray[np.void] | None
    rows: Rows
    did: Logs
    met: Logs

    @classmethod
    def of(cls, history: History, respondent: Watched, lists: NDArray[np.void] | None) -> Homepages:
        respondent.asked = []
        mine = copy.deepcopy(respondent)
        return cls(history, mine, lists, history.rows, history.did, history.met)

    def day(self, live: Live, number: int) -> Shown:
        """Decides a day's pages by what is known when it begins, shows them, and ends the day."""
        from serving.decide import decide
        from training.world import HOME
        from training.world.rows import CLICKED, DISPLAYED

        world = self.history.world
        visits = world.begin(number, self.respondent)
        pages = np.full((len(visits.at), HOME.places), -1, np.int64)
        first = {slot.name: HOME.columns(index).start for index, slot in enumerate(HOME.slots)}
        for page in range(len(visits.at)):
            query = self.query(live, visits, page)
            for one in decide(query, live).placements:
                pages[page, first[query.slots[one.slot].spec.name] + one.position] = one.row
        p = self.respondent.probabilities(visits.customers, pages, visits.at)
        each = (p.displayed * p.click).sum(axis=1, dtype=np.float64)
        clicks = np.bincount(visits.customers, each, len(world.customers)).astype(np.float64)
        numbers = self.respondent.respond(visits.customers, pages, visits.at)
        self.respondent.asked = []
        rows = self._end(number)
        marks = {}
        for what in (DISPLAYED, CLICKED):
            some = rows[(rows["what"] == what) & (rows["page"] >= numbers[0])]
            marks[what] = np.zeros(pages.shape, np.bool_)
            marks[what][some["page"] - numbers[0], some["place"]] = True
        shown = marks[DISPLAYED] & (pages >= 0)
        return Shown(visits.customers, visits.at, pages, shown, marks[CLICKED] & shown, clicks)

    def live_through(self, number: int) -> None:
        """A day on which no page is decided."""
        self.history.world.begin(number, self.respondent)
        self._end(number)

    def _end(self, number: int) -> Rows:
        """What arrived by the end of a day, which is in the customers' logs from then on."""
        from features.views import CONTACT, CONTACT_KEEP, RECENT, RECENT_KEEP
        from training.bench.ranker_world import LIVE, MET, logs_of

        world = self.history.world
        world.end(number, self.respondent)
        rows = self.respondent.due(world.start + (number + 1) * DAY)
        self.rows = np.concatenate([self.rows, rows])
        self.did = logs_of(self.rows, LIVE, world, RECENT, RECENT_KEEP)
        self.met = logs_of(self.rows, MET, world, CONTACT, CONTACT_KEEP)
        return rows

    def query(self, live: Live, visits: Visits, page: int) -> Query:
        from features.customer import Customer
        from features.schema import Record
        from serving.domain import Context, Query, SlotRequest

        h, who, at = self.history, int(visits.customers[page]), float(visits.at[page])
        midnight = float(np.floor((at - h.world.start) / DAY) * DAY)  # what is known
        profile = Record(h.profiles.records[who], int(h.profiles.known[who]), h.world.start)
        customer = Customer(profile, None, self.did.until(who, midnight), self.met.until(who, midnight))
        if self.lists is not None:
            customer = replace(customer, external=self.lists[who])
        slots = tuple(SlotRequest(slot, slot.size) for slot in live.plan.surfaces["home"])
        context = Context(channel=int(h.world.customers.channel[who]))
        return Query(f"d{at}-{page}", f"u:{who}", "home", slots, context, customer, at)

    def taught(self, live: Live, shown: Shown) -> Learned:
        """What the day's displays say of the lists, beside what the ranker says of them at their places."""
        from serving.ranking import Signals
        from training.ranker_rows import page_matrix
        from training.trust import fit_trust, heard_of, heard_together
        from training.world import HOME

        ranker = live.bundle.ranker
        assert ranker is not None and self.lists is not None
        signals = Signals(ranker.facts, live.bundle.popular, ranker.scale)
        visits = Visits(shown.who, shown.at, np.ones(len(shown.at), np.bool_))
        p, clicked, slots, heard, total = [], [], [], [], 0
        before = replace(self, did=self.history.did, met=self.history.met)
        for page in np.flatnonzero(shown.displayed.any(axis=1)).tolist():
            place = np.flatnonzero(shown.displayed[page])
            place = place[np.argsort(shown.pages[page, place], kind="stable")]
            items = shown.pages[page, place].astype(np.int32)
            matrix = page_matrix(before.query(live, visits, page), live, items, signals)
            p.append(ranker.click.at(matrix, HOME.slot_of[place], HOME.position_of[place]))
            clicked.append(shown.clicked[page, place])
            slots.append(HOME.slot_of[place])
            heard.append(heard_of(self.lists[shown.who[page]], shown.at[page], live.keys[items], total))
            total += len(place)
        return fit_trust(
            np.concatenate(p).astype(np.float64), np.concatenate(clicked), np.concatenate(slots),
            heard_together(heard),
        )  # fmt: skip


def believing(live: Live, learned: Learned) -> Live:
    """The same with what was learnt of lists."""
    from serving.live import build_live
    from serving.plan import default_plan

    ranker = live.bundle.ranker
    assert ranker is not None
    bundle = replace(live.bundle, ranker=replace(ranker, trust=learned.trust))
    return build_live(bundle, (), default_plan(bundle.kind_counts()))


def ranked(study: Study, size: Sizes, seed: int) -> Live:
    """What serves after the history, its ranker learnt from all kept days but the first EARLY."""
    from serving.live import build_live
    from serving.plan import default_plan
    from serving.ranker import Ranker
    from training.bench.ranker import NAMES
    from training.bench.ranker_study import SLOTS
    from training.ranker_fit import Setting, blank, fit_calibrated, place_table, placed_together

    start = study.history.world.start
    starts = [*range(size.days - size.kept + EARLY, size.days, STRETCH), size.days]
    per_day = size.pages / (size.days - starts[0])
    parts = [
        study.stretch(start + a * DAY, start + b * DAY, int(per_day * (b - a))) for a, b in pairwise(starts)
    ]
    bare, signals, rates = study.before(start + size.days * DAY)
    rows = placed_together([part.rows for part in parts])
    table = place_table(rates, SLOTS)
    label = rows.clicked.astype(np.float64)
    fitted = fit_calibrated(rows, label, blank(table, buys=False), Setting(seed=seed))
    neutral = np.median(rows.matrix, axis=1).astype(np.float32)
    scale = parts[-1].signals.scale
    made = Ranker(signals.facts, NAMES, fitted, blank(table, buys=True), neutral, scale)
    bundle = replace(bare.bundle, ranker=made)
    return build_live(bundle, (), default_plan(bundle.kind_counts()))


def lists_of(world: World, respondent: Watched, live: Live, seed: int) -> dict[str, NDArray[np.void]]:
    """Of each arm (customers, LISTED) entries of features.external."""
    from features.external import ENTRY
    from features.ids import key32

    rng = np.random.default_rng([seed, 16])
    people, catalogue = len(world.customers), world.catalogue
    every = np.tile(np.arange(len(catalogue)), (people, 1))
    truth = np.log(respondent.tastes.affinity(world.themes, np.arange(people), every) * catalogue.appeal)
    noise = truth.std() * np.sqrt(1 / QUALITY**2 - 1)
    score = truth + rng.normal(0, noise, truth.shape)
    best = np.argpartition(-score, LISTED, axis=1)[:, :LISTED]
    entries = np.zeros(best.shape, ENTRY)
    entries["item"] = live.keys[best]
    entries["model"], entries["expires"] = key32(MODEL), 4_000_000_000
    entries["score"] = np.take_along_axis(score, best, axis=1)
    return {"good": entries, "shuffled": entries[rng.permutation(people)]}
