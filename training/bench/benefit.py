"""`fenliu bench benefit`: what a CNY of coupons brings in when it is spent by measured uplift (evidence E3).

Weeks of quiet, four in which chance decides who sees which coupon, two to wait for the labels; then every
policy has the same days, customers of its own and the same budget, a part of what p × v would have people
use. Policies know what the bank would know, and yesterday's pages to set their price by; what they gained
and spent is the world's own expectation, and what was spent is known at the day's end.

    ours       Δp·v − (1 + μ)·p₁·cost, above 0, Δp and p₁ as served (serving.uplift)
    p_x_v      the best by p·v, above a threshold
    random     any coupon, by chance
    oracle     ours with the world's Δp and p₁
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.bench.harness import Bar, Result

if TYPE_CHECKING:
    from training.bench.coupons import CouponBank, Pages
    from training.uplift import Seen, Study
    from training.world.respondent import Respondent

ABOUT = "coupons: value gained per CNY by measured uplift, beside p x v, random and the oracle"

FULL: Final = {"seeds": 6, "customers": 30_000, "coupons": 6, "days": 5}
QUICK: Final = {"seeds": 3, "customers": 16_000, "coupons": 6, "days": 3}
FIRST_SEED: Final = 11  # the settings of training.uplift were looked at on 1 and 2
VISITS: Final = 0.2  # a customer's a day
BUDGET: Final = 0.3  # of what is used where every page shows its best coupon by p × v
POLICIES: Final = ("ours", "p_x_v", "random", "oracle")
BARS: Final[dict[str, Bar]] = {
    "ours_over_p_x_v": (">=", 3.0),
    "ours_over_random": (">=", 1.5),
    "of_the_oracle": (">=", 0.65),
    "most_spent": ("<=", 1.0),
}
QUICK_BARS: Final[dict[str, Bar]] = {  # half the customers to learn from
    "ours_over_p_x_v": (">=", 2.0),
    "ours_over_random": (">=", 1.3),
    "of_the_oracle": (">=", 0.5),
    "most_spent": ("<=", 1.0),
}
_STUDENT: Final = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}

Floats = NDArray[np.float64]


class Guess(NamedTuple):
    """(n, I) CNY per decided page: what a policy believes is gained, and is spent."""

    gain: Floats
    spend: Floats


class Days(NamedTuple):
    """What a policy brought in and paid, CNY, by the world's truth."""

    gained: float
    spent: float


@dataclass
class Known:
    """What the bank knows after learning: P(click) and the served uplift, of every customer's columns."""

    bank: CouponBank
    click: Callable[[Seen], Floats]
    per_click: Callable[[Seen], tuple[Floats, Floats]]
    seen: Seen  # of all customers, as of the first day that is decided
    _pages: dict[int, tuple[Floats, Floats, Floats]] = field(default_factory=dict)

    def guess(self, name: str, day: int, pages: Pages) -> Guess:
        """What a policy believes of a day's pages, which are the same for all."""
        if day not in self._pages:
            seen = self.seen.take(pages.customers)
            self._pages[day] = (self.click(seen), *self.per_click(seen))
        click, use, delta = self._pages[day]
        cost, value = self.bank.coupons.cost, self.bank.coupons.value
        return Guess(click * (delta if name == "ours" else use) * value, click * use * cost)


def arguments(parser: argparse.ArgumentParser) -> None:
    for name, about in (
        ("seeds", "worlds"),
        ("customers", "customers of each"),
        ("coupons", "coupons"),
        ("days", "days decided by each policy"),
    ):
        said = f"{about} ({FULL[name]:,}; with --quick {QUICK[name]:,})"
        parser.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS, help=said)


def run(args: argparse.Namespace) -> Result:
    from threadpoolctl import threadpool_limits

    from training.bench.coupons import CouponBank
    from training.bench.uplift_rivals import areas

    size = {name: getattr(args, name, default) for name, default in (QUICK if args.quick else FULL).items()}
    weeks: dict[str, list[Days]] = {name: [] for name in POLICIES}
    spent: list[float] = []
    compared: list[dict[str, float]] = []
    with threadpool_limits(1):
        for seed in range(FIRST_SEED, FIRST_SEED + size["seeds"]):
            bank = CouponBank.create(seed, size["customers"], size["coupons"], VISITS)
            study = bank.learn()
            known = learned(bank, study)
            budget = BUDGET * everybody(known) * size["days"]
            for name in POLICIES:
                weeks[name].append(lived(name, known, budget, size["days"]))
                spent.append(weeks[name][-1].spent / budget)
            if not args.quick:
                compared.append(areas(bank, study))
    return told(weeks, max(spent), compared, QUICK_BARS if args.quick else BARS)


def learned(bank: CouponBank, study: Study) -> Known:
    """Everything that policies know. RuntimeError where too little was used to learn from."""
    from training.bench.coupons import LEARNED
    from training.uplift import click_model, fit_uplift, standardised, with_telling_tags

    found = fit_uplift(study, seed=bank.world.seed)
    if found is None:
        raise RuntimeError("too few coupons were used to learn from: ask for more customers")
    model, study = found.uplift, with_telling_tags(study)
    kept = bank.places(model.tags)
    clicks = click_model(study, standardised(study.columns, model.centre, model.scale))
    rows = model.bound(study.keys, study.kinds, study.groups[study.group])

    def click(seen: Seen) -> Floats:
        return clicks.chances(standardised(seen.columns, model.centre, model.scale), seen.interest)

    def per_click(seen: Seen) -> tuple[Floats, Floats]:
        each = [rows.per_click(one) for one in model.standard(seen.columns)]
        return np.array([one.use for one in each], np.float64), np.array(
            [one.delta for one in each], np.float64
        )

    seen = bank.seen(LEARNED, np.arange(len(bank.world.customers)))
    return Known(bank, click, per_click, seen._replace(columns=seen.columns[:, kept]))


def everybody(known: Known) -> float:
    """CNY a day where every page shows its best coupon by p × v, as believed of the first day's."""
    from training.bench.coupons import LEARNED

    guess = known.guess("p_x_v", LEARNED, known.bank.begin(LEARNED))
    return float(guess.spend[np.arange(len(guess.spend)), guess.gain.argmax(axis=1)].sum())


def lived(name: str, known: Known, budget: float, days: int) -> Days:
    """A policy's days with customers of its own."""
    from training.bench.coupons import LEARNED

    bank, respondent = known.bank, known.bank.fork()
    rng = np.random.default_rng([bank.world.seed, 13])
    gained, spent, before = 0.0, 0.0, None
    for day in range(LEARNED, LEARNED + days):
        pages = bank.begin(day)
        guess = perfect(bank, pages, respondent) if name == "oracle" else known.guess(name, day, pages)
        aim = max(budget - spent, 0.0) / (LEARNED + days - day)
        shown = chosen(name, guess, level_of(name, before or guess, aim), rng)
        on = np.flatnonzero(shown >= 0)
        truth = bank.truth(pages.take(on), shown[on, None], respondent)
        cost = np.cumsum(truth.use[:, 0] * bank.coupons.cost[shown[on]])
        paid = cost <= budget - spent
        gained += float((truth.gain[:, 0] * bank.coupons.value[shown[on]])[paid].sum())
        spent += float(cost[paid].max(initial=0.0))
        shown[on[~paid]] = -1
        bank.show(pages, shown, respondent)
        bank.end(day, respondent)
        before = guess
    return Days(gained, spent)


def perfect(bank: CouponBank, pages: Pages, respondent: Respondent) -> Guess:
    every = np.tile(np.arange(len(bank.coupons.cost)), (len(pages.at), 1))
    truth = bank.truth(pages, every, respondent)
    return Guess(truth.gain * bank.coupons.value, truth.use * bank.coupons.cost)


def level_of(name: str, guess: Guess, aim: float) -> float:
    """The price 1 + μ, threshold or probability at which these pages would have spent `aim`; μ >= 0."""
    if name == "random":
        return min(aim / max(float(guess.spend.mean(axis=1).sum()), 1e-9), 1.0)
    low, high = 0.0, float(guess.gain.max())
    if name != "p_x_v":
        low, high = 1.0, max(float((guess.gain / np.maximum(guess.spend, 1e-9)).max()), 1.0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        middle = (low + high) / 2
        shown = chosen(name, guess, middle, rng)
        on = shown >= 0
        low, high = (middle, high) if float(guess.spend[on, shown[on]].sum()) > aim else (low, middle)
    return high


def chosen(name: str, guess: Guess, level: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) the coupon of each page, −1 none."""
    n, count = guess.gain.shape
    if name == "random":
        return np.where(rng.random(n) < level, rng.integers(0, count, n), -1)
    score = guess.gain - (level if name == "p_x_v" else level * guess.spend)
    best = score.argmax(axis=1)
    return np.where(score[np.arange(n), best] > 0, best, -1)


def told(
    weeks: dict[str, list[Days]],
    most_spent: float,
    compared: list[dict[str, float]],
    bars: dict[str, Bar],
) -> Result:
    per_cny = {name: np.array([one.gained / max(one.spent, 1e-9) for one in d]) for name, d in weeks.items()}
    figures = {f"{name}_per_cny": float(values.mean()) for name, values in per_cny.items()}
    ratios = {
        "ours_over_p_x_v": per_cny["ours"].mean() / per_cny["p_x_v"].mean(),
        "ours_over_random": per_cny["ours"] / per_cny["random"],
        "of_the_oracle": per_cny["ours"] / per_cny["oracle"],
        "gained_of_the_oracle": _totals(weeks["ours"]) / _totals(weeks["oracle"]),
    }
    notes = {name: _interval(values) for name, values in ((f"{k}_per_cny", v) for k, v in per_cny.items())}
    for name, values in ratios.items():
        figures[name] = float(np.mean(values))
        if np.ndim(values):
            notes[name] = _interval(values)
    notes["ours_over_p_x_v"] = "of the means: in some worlds p x v gains next to nothing"
    figures["most_spent"] = most_spent
    notes["gained_of_the_oracle"] = (notes["gained_of_the_oracle"] + " of the same budget").strip()
    notes["most_spent"] = "of the budget, by any policy"
    for name in compared[0] if compared else ():
        values = np.array([one[name] for one in compared])
        figures[name], notes[name] = float(values.mean()), _interval(values)
    units = {name: "CNY/CNY" for name in figures if name.endswith("_per_cny")}
    return Result(figures, bars, units, notes)


def _totals(days: list[Days]) -> Floats:
    return np.array([one.gained for one in days])


def _interval(values: Floats) -> str:
    """The mean's 95 % interval over worlds, by Student."""
    n = len(values)
    if n < 2:
        return ""
    half = _STUDENT.get(n, 2.0) * float(values.std(ddof=1)) / n**0.5
    return f"{values.mean() - half:.2f} to {values.mean() + half:.2f} over {n} worlds"
