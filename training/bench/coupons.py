"""A synthetic bank that hands out coupons: a month of quiet, weeks in which chance decides, and what came
of it.

What is learned from is what a bank would have: profiles with tags such as "dined out twice in four weeks"
from its own books, what customers look up and do in the app by themselves, logged displays with their
chances, clicks, conversions and outcomes that have arrived. Only `Truth` asks the world.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.aggregate import user_features
from features.ids import KIND_CODE, key32
from features.ranking import INTEREST
from features.ranking_kernel import INTEREST_DAYS
from features.views import AGGREGATED_FIELDS, PROFILE
from serving.catalogue import compile_items
from serving.uplift import COLUMNS, columns_of
from training.ranker_facts import codes_of, fit_ties
from training.uplift import HORIZON_S, Seen, Study, first_of
from training.uplift_study import last_before, within
from training.world import Layout, Slot, World
from training.world.catalogue import EVERYWHERE, FAMILIES
from training.world.needs import VIEW_THROUGH
from training.world.respondent import Respondent
from training.world.rows import CLICKED, CONVERTED, DISPLAYED, OUTCOME, Rows, joined

DAY: Final = 86_400.0
QUIET: Final = 84  # days before anything is shown: purchases that the bank sees anyway
RANDOM: Final = 28  # days in which chance decides
MATURE: Final = 14  # days until the last of them has its label
LEARNED: Final = QUIET + RANDOM + MATURE  # the first day that is decided by what was learned
PLACE: Final = Layout((Slot("home.banner", "banner", 1, ("benefit",)),))
CONTROL: Final = 1 / 3  # of the random pages show nothing
OFTEN: Final = (1, 2, 4, 8)  # purchases in COUNTED days that earn a tag
COUNTED: Final = 84
USED_WITHIN_S: Final = 30 * DAY
TIE_FOLDS: Final = 4  # of customers: ties that tell a page's interest have not seen its customer


class Coupons(NamedTuple):
    """(I,): item rows of the world, CNY per use, CNY that one more purchase is worth."""

    rows: NDArray[np.int64]
    cost: NDArray[np.float64]
    value: NDArray[np.float64]


class Pages(NamedTuple):
    """(n,) page requests of a day."""

    customers: NDArray[np.int64]
    at: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> Pages:
        return Pages(self.customers[rows], self.at[rows])


class Truth(NamedTuple):
    """(n, k), of a coupon decided for, so with P(displayed): expected purchases gained, and uses."""

    gain: NDArray[np.float64]
    use: NDArray[np.float64]


@dataclass
class CouponBank:
    """One seed's bank. `learn` lives through the days before LEARNED; `fork` copies what became of it."""

    world: World
    coupons: Coupons
    respondent: Respondent
    _rows: list[Rows] = field(default_factory=list)
    _ties: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0), np.float32)
    )  # (I, categories)

    @classmethod
    def create(cls, seed: int, customers: int, coupons: int, visits_per_day: float) -> CouponBank:
        """ValueError where the world has too few benefits that everybody may be shown throughout."""
        world = World.create(seed, customers, 600, visits_per_day=visits_per_day)
        c, until = world.catalogue, world.start + (LEARNED + 30) * DAY
        fit = (c.kind == KIND_CODE["benefit"]) & (c.cities == EVERYWHERE) & (c.consents == 0)
        fit &= (c.starts == -np.inf) & (c.ends > until)
        rng = np.random.default_rng([seed, 11])
        rows = rng.permutation(np.flatnonzero(fit))
        rows = np.sort(rows[np.unique(c.family[rows], return_index=True)[1]][:coupons])
        if len(rows) < coupons:
            raise ValueError(f"the world has {len(rows)} coupons of different families: ask for fewer")
        cost = rng.choice([5.0, 8.0, 10.0, 15.0, 20.0], len(rows))
        made = Coupons(rows, cost, np.round(cost * rng.uniform(2.0, 4.0, len(rows)), 1))
        return cls(world, made, world.respondent(PLACE))

    def learn(self) -> Study:
        """Lives through the days before LEARNED; the random pages as a study, as known when they end."""
        rng = np.random.default_rng([self.world.seed, 12])
        asked: list[tuple[NDArray[np.int64], Pages, NDArray[np.float32], NDArray[np.float32]]] = []
        columns, shares = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
        for day in range(LEARNED):
            self.world.begin(day, self.respondent)
            pages = self.begin(day)
            if QUIET <= day < QUIET + RANDOM:
                if (day - QUIET) % 7 == 0:
                    columns, shares = self.profiles(day), self.shares(day)
                shown = rng.integers(0, len(self.coupons.rows), len(pages.at))
                shown[rng.random(len(pages.at)) < CONTROL] = -1
                self.show(pages, shown, self.respondent)
                asked.append((shown, pages, columns[pages.customers], shares[pages.customers]))
            self._rows.append(self.end(day, self.respondent))
        shown, customers, at, seen, share = (
            np.concatenate([one[0] for one in asked]), np.concatenate([one[1].customers for one in asked]),
            np.concatenate([one[1].at for one in asked]), np.concatenate([one[2] for one in asked]),
            np.concatenate([one[3] for one in asked]),
        )  # fmt: skip
        return self._study(shown, Pages(customers, at), seen, share)

    def fork(self) -> Respondent:
        """The customers as the learning days left them, for one policy to live with."""
        return copy.deepcopy(self.respondent)

    def begin(self, day: int) -> Pages:
        """The day's page requests: the same whatever was shown."""
        visits = self.world.visits(day)
        keep = ~self.world.customers.blocked[visits.customers]
        return Pages(visits.customers[keep], visits.at[keep])

    def show(self, pages: Pages, shown: NDArray[np.int64], respondent: Respondent) -> None:
        """`shown` (n,) index of the coupon, −1 nothing."""
        on = shown >= 0
        respondent.respond(pages.customers[on], self.coupons.rows[shown[on], None], pages.at[on])

    def end(self, day: int, respondent: Respondent) -> Rows:
        """The day's own purchases and drift; what arrived."""
        self.world.end(day, respondent)
        return respondent.due(self.world.start + (day + 1) * DAY)

    def profiles(self, day: int) -> NDArray[np.float32]:
        """(customers, columns): every profile as materialised at the beginning of a day."""
        now, people = self.world.start + day * DAY, self.world.customers
        rows = joined(self._rows)
        records = PROFILE.blank(len(people))
        plain = {
            "age_band": people.age_band + 1, "gender": people.gender, "star_level": people.star_level,
            "payroll": people.payroll, "lifecycle": people.lifecycle, "assets": people.assets,
            "income": people.income, "city_tier": people.city_tier,
            "tenure_days": np.maximum((now - people.joined_at) / DAY, 0),
        }  # fmt: skip
        for name, column in plain.items():
            records[name] = column
        known = rows[rows["item"] >= 0]
        items = known["item"].astype(np.int64)
        catalogue = self.world.catalogue
        events = {
            "user_index": known["customer"], "item_key": catalogue.keys[items],
            "kind": catalogue.kind[items].astype(np.uint8), "what": known["what"],
            "action": known["action"].astype(np.uint16), "at": known["occurred_at"],
        }  # fmt: skip
        features = user_features(events, len(people), as_of=now)
        for name in AGGREGATED_FIELDS:
            records[name] = features[name]
        records["tags"] = np.packbits(self._tags(rows, now), axis=1, bitorder="little")
        everything = np.full(len(people), PROFILE.mask(PROFILE.names), np.uint64)
        return columns_of(records, everything, self.tags)

    def seen(self, day: int, customers: NDArray[np.int64]) -> Seen:
        """What is known of customers (n) at the beginning of a day. After `learn`."""
        return Seen(self.profiles(day)[customers], interest(self.shares(day)[customers], self._ties))

    def shares(self, day: int) -> NDArray[np.float32]:
        """(customers, categories) of decayed interest at the beginning of a day, as the ranker has it."""
        now, rows, people = self.world.start + day * DAY, joined(self._rows), len(self.world.customers)
        gain = INTEREST.of(rows["what"], rows["action"].astype(np.uint16))
        some = (gain > 0) & (rows["item"] >= 0)
        weight = gain[some] * np.exp2(-(now - rows["occurred_at"][some]) / (INTEREST_DAYS * DAY))
        category, width = self.categories[rows["item"][some]], int(self.categories.max()) + 1
        cell = rows["customer"][some].astype(np.int64) * width + category
        share = np.bincount(cell, weight, people * width).reshape(people, width)
        found: NDArray[np.float32] = (share / (share.sum(axis=1, keepdims=True) + 1)).astype(np.float32)
        return found

    def met(self) -> NDArray[np.float32]:
        """(customers, 3, I): displays, clicks and uses of each coupon so far."""
        rows, count = joined(self._rows), len(self.coupons.rows)
        place = np.full(len(self.world.catalogue) + 1, -1)
        place[self.coupons.rows] = np.arange(count)
        item = place[rows["item"]]
        found = np.zeros((len(self.world.customers), 3, count), np.float32)
        for at, what in enumerate(((DISPLAYED,), (CLICKED,), (CONVERTED, OUTCOME))):
            some = np.isin(rows["what"], what) & (item >= 0)
            np.add.at(found, (rows["customer"][some], at, item[some]), 1)
        return found

    @cached_property
    def categories(self) -> NDArray[np.int32]:
        """(items,) of the catalogue, as the ranker numbers them."""
        return codes_of(compile_items(self.world.items()).table)[:, 0]

    @property
    def families(self) -> NDArray[np.int64]:
        """Families of the coupons, ascending: the study's groups."""
        return np.unique(self.world.catalogue.family[self.coupons.rows])

    @property
    def tags(self) -> NDArray[np.int64]:
        return np.arange(len(FAMILIES) * len(OFTEN))

    def places(self, tags: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of `profiles`' columns a model with only these tags reads."""
        return np.concatenate([np.arange(len(COLUMNS)), len(COLUMNS) + np.searchsorted(self.tags, tags)])

    def truth(self, pages: Pages, coupons: NDArray[np.int64], respondent: Respondent) -> Truth:
        """What the world knows of coupons (n, k; indexes) on these pages; each alone on its page."""
        n, count = coupons.shape
        p = respondent.probabilities(
            np.repeat(pages.customers, count),
            self.coupons.rows[coupons].reshape(-1, 1),
            np.repeat(pages.at, count),
        )
        looked = (p.examination - p.click) * VIEW_THROUGH * np.maximum(p.delta, 0) * (1 - p.anyway)
        use = p.displayed * (p.click * p.convert + looked)
        return Truth(
            (p.displayed * p.uplift).reshape(n, count).astype(np.float64),
            use.reshape(n, count).astype(np.float64),
        )

    def _tags(self, rows: Rows, now: float) -> NDArray[np.bool_]:
        """(customers, 128): bit family · 4 + i: at least OFTEN[i] purchases of the family in COUNTED days."""
        bought = rows[(rows["family"] >= 0) & (rows["occurred_at"] > now - COUNTED * DAY)]
        cell = bought["customer"].astype(np.int64) * len(FAMILIES) + bought["family"]
        counts = np.bincount(cell, minlength=len(self.world.customers) * len(FAMILIES))
        often = counts.reshape(-1, len(FAMILIES))[:, :, None] >= np.array(OFTEN)
        bits = np.zeros((len(often), 128), np.bool_)
        bits[:, : len(self.tags)] = often.reshape(len(often), -1)
        return bits

    def _study(
        self,
        shown: NDArray[np.int64],
        pages: Pages,
        columns: NDArray[np.float32],
        shares: NDArray[np.float32],
    ) -> Study:
        catalogue, rows = self.world.catalogue, joined(self._rows)
        item = np.where(shown >= 0, self.coupons.rows[shown], -1)
        clicked, used = self._answers(rows, pages, item)
        self._ties = self._tied(shares, shown, clicked)
        rng = np.random.default_rng([self.world.seed, 14])
        fold = (rng.permutation(len(self.world.customers)) % TIE_FOLDS)[pages.customers]
        wanted = np.zeros((len(shown), len(self.coupons.rows)), np.float32)
        for one in range(TIE_FOLDS):
            out = fold == one
            wanted[out] = interest(shares[out], self._tied(shares[~out], shown[~out], clicked[~out]))
        families = self.families
        bought = np.zeros((len(shown), len(families)), np.bool_)
        for group, family in enumerate(families.tolist()):
            of = rows[rows["family"] == family]
            bought[:, group] = within(
                pages.customers, pages.at, of["customer"].astype(np.int64), of["occurred_at"], HORIZON_S
            )
        share = (1 - CONTROL) / len(self.coupons.rows)
        names = np.array([key32(FAMILIES[family]) for family in families.tolist()], np.uint32)
        order = np.argsort(names)
        place = np.argsort(order)[np.searchsorted(families, catalogue.family[self.coupons.rows])]
        hits = np.flatnonzero(clicked)
        fresh = np.zeros(len(shown), np.bool_)
        cell = pages.customers[hits] * len(families) + place[shown[hits]]
        fresh[hits] = first_of(cell, pages.at[hits])
        return Study(
            columns=columns,
            interest=wanted,
            tags=self.tags,
            item=shown,
            clicked=clicked,
            used=used,
            fresh=fresh,
            bought=bought[:, order],
            chance=np.full((len(shown), len(self.coupons.rows)), share, np.float32),
            quiet=np.ones(len(shown), np.bool_),
            keys=catalogue.keys[self.coupons.rows],
            kinds=catalogue.kind[self.coupons.rows].astype(np.uint8),
            group=place,
            groups=names[order],
        )

    def _tied(
        self, shares: NDArray[np.float32], shown: NDArray[np.int64], clicked: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """(I, categories) of the displays among these pages: `training.ranker_facts.fit_ties`."""
        on = np.flatnonzero(shown >= 0)
        count = len(self.coupons.rows)
        rate = np.bincount(shown[on], clicked[on], count) / np.maximum(
            np.bincount(shown[on], minlength=count), 1
        )
        found = fit_ties(
            shares[on].astype(np.float64), np.arange(len(on)), self.coupons.rows[shown[on]].astype(np.int32),
            clicked[on], rate[shown[on]], self.categories,
        )  # fmt: skip
        return found[self.coupons.rows]

    def _answers(
        self, rows: Rows, pages: Pages, item: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Clicked, used: of the last display of the item to the customer before it, as attribution has it."""
        clicked, used = np.zeros(len(item), np.bool_), np.zeros(len(item), np.bool_)
        count = len(self.world.catalogue)
        cell = pages.customers * count + item
        order = np.lexsort((pages.at, cell))
        order = order[item[order] >= 0]
        for mark, what, window in ((clicked, (CLICKED,), DAY), (used, (CONVERTED, OUTCOME), USED_WITHIN_S)):
            of = rows[np.isin(rows["what"], what) & (rows["item"] >= 0)]
            cells = of["customer"].astype(np.int64) * count + of["item"]
            at = last_before(cell[order], pages.at[order], cells, of["occurred_at"] + 60)
            near = at >= 0
            near[near] = of["occurred_at"][near] <= pages.at[order][at[near]] + window
            mark[order[at[near]]] = True
        return clicked, used


def interest(shares: NDArray[np.float32], ties: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, I) log of how many times likelier than anybody customers with these shares (n, categories) click,
    by ties (I, categories): what the ranker's feature of this name is.
    """
    rest = np.maximum(1 - shares.sum(axis=1, keepdims=True), 1e-6)
    found: NDArray[np.float32] = np.log(rest + shares @ ties.T)
    return found
