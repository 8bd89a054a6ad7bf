"""A study: interactions cut into stages on which models are fitted and asked, as `fenliu evaluate` needs it.

A stage is what a `training.model.Model` is fitted on and the cases that it is then asked, with the histories
they are asked with. The models, their fits and the scorer are the product's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from training.evaluate import Cases, Lists, Past
from training.model import Customers, Positives, TrainData, decayed
from training.source import DataError
from training.study_split import VALID, validation
from training.windows import REPEATED_SHARE

Seen = Literal["auto", "mask", "keep"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol, apart from the split.

    `seen`: are items that a customer had left out of the ranking (`auto`: unless a fifth of what is held out
    is such)? `unseen`: held-out items that training never saw are dropped, or kept as misses.
    `least_history`: customers with fewer training items are not asked. `keep`: the latest items of a history
    that count, 0 all (a live log keeps 64). `most`: customers asked, a sample where there are more.
    """

    seen: Seen = "auto"
    unseen: Literal["drop", "keep"] = "drop"
    least_history: int = 0
    keep: int = 0
    most: int = 50_000
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Stage:
    """`events`: what is known of the customers when they are asked, in order of time."""

    data: TrainData
    cases: Cases
    events: Positives
    keep: int
    masked: bool

    def past(self, half_life_days: float) -> Past:
        """The histories with weights decayed to the stage's end, the latest last."""
        return past_of(self.events, self.cases, self.data.now, half_life_days, self.keep)

    def known_by(self, latest: int, half_life_days: float) -> Past:
        """The same histories, cut to their latest items; none at all for 0."""
        if latest:
            return past_of(self.events, self.cases, self.data.now, half_life_days, latest)
        nothing = np.zeros(len(self.cases) + 1, np.int64)
        return Past(nothing, np.zeros(0, np.int32), np.zeros(0, np.float32))

    def lengths(self) -> NDArray[np.int64]:
        """(cases,) distinct items known of each."""
        return np.diff(self.past(float("inf")).indptr)


def past_of(events: Positives, cases: Cases, now: float, half_life_days: float, keep: int) -> Past:
    """Item rows and summed decayed weights of each case, ordered by the last time."""
    place = np.full(int(max(events.user.max(initial=0), cases.users.max(initial=0))) + 1, -1, np.int64)
    place[cases.users] = np.arange(len(cases))
    mine = np.flatnonzero(place[events.user] >= 0)
    case, item = place[events.user[mine]], events.item[mine].astype(np.int64)
    weight = decayed(events, now, half_life_days)[mine]
    cell = case * cases.n_items + item
    order = np.argsort(cell, kind="stable")  # within a cell in order of time
    ordered = cell[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(order) else order
    total = np.add.reduceat(weight[order], starts) if len(order) else weight
    last = order[np.append(starts[1:], len(order)) - 1] if len(order) else order
    by_time = np.lexsort((last, case[last]))
    last, total = last[by_time], total[by_time]
    if keep and len(last):
        ends = np.searchsorted(case[last], np.arange(len(cases)), side="right")
        recent = ends[case[last]] - np.arange(len(last)) <= keep
        last, total = last[recent], total[recent]
    indptr = np.searchsorted(case[last], np.arange(len(cases) + 1)).astype(np.int64)
    return Past(indptr, item[last].astype(np.int32), np.maximum(total, 1e-9).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Study:
    """Everything of one evaluation. `segments`: names by code; `shelves`: of items' groups, likewise."""

    users: tuple[str, ...]
    items: tuple[str, ...]
    valid: Stage
    test: Stage
    timed: bool
    segments: tuple[str, ...]
    shelves: tuple[tuple[str, ...], NDArray[np.int32]] | None
    notes: tuple[str, ...]


def stage(
    train: Positives,
    asked: Positives,
    customers: Customers,
    n_items: int,
    rules: Rules,
    *,
    also_known: Positives | None = None,
    mask_only: Positives | None = None,
    candidates: Lists | None = None,
    now: float,
) -> tuple[Stage, list[str]]:
    """Fit on `train`, ask for `asked`. `also_known`: history that nothing is learnt from; `mask_only`: left
    out of the ranking beside the history. `candidates` by user row. Notes say what was dropped and why.
    """
    notes: list[str] = []
    events = train if also_known is None else _joined(train, also_known)
    known = np.zeros(n_items, np.bool_)
    known[train.item] = True
    if rules.unseen == "drop" and (~known[asked.item]).any():
        gone = ~known[asked.item]
        notes.append(
            f"{int(gone.sum()):,} held-out rows dropped: training never saw the item (else: --unseen keep)"
        )
        asked = asked.take(~gone)
    masked = _masks(events, asked, n_items, rules.seen) and candidates is None
    users = np.unique(asked.user)
    if rules.least_history:
        had = np.bincount(
            np.unique(events.user.astype(np.int64) * n_items + events.item) // n_items,
            minlength=len(customers),
        )
        few = had[users] < rules.least_history
        notes.append(f"{int(few.sum()):,} customers not asked: fewer than {rules.least_history} items before")
        users = users[~few]
    place = np.full(len(customers), -1, np.int64)
    place[users] = np.arange(len(users))
    held = _lists(place, asked, len(users))
    seen = (
        _lists(place, events, len(users))
        if masked
        else Lists.group(np.zeros(0, np.int64), np.zeros(0, np.int32), len(users))
    )
    if mask_only is not None:
        seen = _union(seen, _lists(place, mask_only, len(users)))
    if masked or mask_only is not None:
        held, before = _less(held, seen, n_items), len(held.items)
        if before > len(held.items):
            notes.append(f"{before - len(held.items):,} held-out items dropped: the customer had them before")
    own = None if candidates is None else _pick(candidates, users)
    cases = Cases(users.astype(np.int32), held, seen, n_items, own)
    open_cases = np.flatnonzero(held.lengths > 0)
    if own is not None and (own.lengths[open_cases] == 0).any():
        bare = int((own.lengths[open_cases] == 0).sum())
        notes.append(f"{bare:,} customers not asked: no candidates for them")
        open_cases = open_cases[own.lengths[open_cases] > 0]
    if len(open_cases) > rules.most:
        rng = np.random.default_rng(rules.seed)
        notes.append(f"a sample of {rules.most:,} of {len(open_cases):,} customers (--customers asks more)")
        open_cases = np.sort(rng.choice(open_cases, rules.most, replace=False))
    cases = cases.take(open_cases)
    data = TrainData(train, customers, np.full(n_items, KINDS.index("content"), np.uint8), now)
    return Stage(data, cases, events, rules.keep, masked), notes


def _joined(a: Positives, b: Positives) -> Positives:
    columns = [
        np.concatenate((getattr(a, name), getattr(b, name))) for name in ("user", "item", "at", "weight")
    ]
    both = Positives(*columns)
    return both.take(np.argsort(both.at, kind="stable"))


def _masks(events: Positives, asked: Positives, n_items: int, seen: Seen) -> bool:
    if seen != "auto":
        return seen == "mask"
    had = np.unique(events.user.astype(np.int64) * n_items + events.item)
    wanted = asked.user.astype(np.int64) * n_items + asked.item
    return bool(np.isin(wanted, had).mean() < REPEATED_SHARE) if len(wanted) else True


def _lists(place: NDArray[np.int64], events: Positives, n: int) -> Lists:
    case = place[events.user]
    return Lists.group(case[case >= 0], events.item[case >= 0], n)


def _union(a: Lists, b: Lists) -> Lists:
    n = len(a)
    owner = np.concatenate([np.repeat(np.arange(n), one.lengths) for one in (a, b)])
    return Lists.group(owner, np.concatenate((a.items, b.items)), n)


def _less(a: Lists, b: Lists, n_items: int) -> Lists:
    owner, theirs = (np.repeat(np.arange(len(one)), one.lengths) for one in (a, b))
    kept = ~np.isin(owner * n_items + a.items, theirs * n_items + b.items)
    return Lists.group(owner[kept], a.items[kept], len(a))


def _pick(lists: Lists, users: NDArray[np.integer]) -> Lists:
    owner = np.repeat(np.arange(len(lists)), lists.lengths)
    place = np.full(len(lists), -1, np.int64)
    place[users] = np.arange(len(users))
    kept = place[owner] >= 0
    return Lists.group(place[owner[kept]], lists.items[kept], len(users))


def prepare(
    users: tuple[str, ...],
    items: tuple[str, ...],
    train: Positives,
    test: Positives,
    rules: Rules,
    *,
    timed: bool,
    customers: Customers,
    valid: Positives | None = None,
    learn_valid: bool = False,
    mask_valid: bool = True,
    also_known: Positives | None = None,
    candidates: Lists | None = None,
    segments: tuple[str, ...] = (),
    shelves: tuple[tuple[str, ...], NDArray[np.int32]] | None = None,
    tuning_customers: int = 1500,
    most_tuning_rows: int = 2_000_000,
    notes: tuple[str, ...] = (),
) -> Study:
    """Both stages. Without `valid` a validation part is cut from `train` and given back for the test.

    Raises DataError where nothing is left to train on or to ask for.
    """
    said = list(notes)
    if valid is None:
        parts = validation(train, test, timed=timed, seed=rules.seed)
        fit, asked, final, mask_only = (
            train.take(parts.part != VALID),
            train.take(parts.part == VALID),
            train,
            None,
        )
        said.append(f"validation, for tuning: {parts.said}; the tested models learn from all of training")
    else:
        fit, asked = train, valid
        final = _joined(train, valid) if learn_valid else train
        mask_only = valid if mask_valid and not learn_valid else None
        what = (
            "the tested models learn from it as well"
            if learn_valid
            else "the tested models do not learn from it"
        )
        said.append(f"validation as given, for tuning; {what}")
    n_items = len(items)
    for name, one in (("train", final), ("test", test)):
        if not len(one):
            raise DataError(
                f"the {name} part", None, None, "holds no row", "Check the split and --min-weight"
            )
    tuning = replace(rules, most=tuning_customers)
    drawn = None if candidates is None else _draw(asked, final, candidates, n_items, len(users), rules.seed)
    fit, asked = _thinned(fit, asked, most_tuning_rows, tuning, said)
    end = float(fit.at.max(initial=0.0))
    valid_stage, _ = stage(fit, asked, customers, n_items, tuning, candidates=drawn, now=end)
    test_stage, dropped = stage(
        final, test, customers, n_items, rules,
        also_known=also_known, mask_only=mask_only, candidates=candidates, now=float(final.at.max()),
    )  # fmt: skip
    if not len(test_stage.cases):
        raise DataError(
            "the test part",
            None,
            None,
            "leaves no customer to ask: " + "; ".join(dropped or ["none"]),
            "Loosen --min-history, or --unseen keep",
        )
    return Study(users, items, valid_stage, test_stage, timed, segments, shelves, tuple(said + dropped))


def _thinned(
    fit: Positives, asked: Positives, most: int, rules: Rules, said: list[str]
) -> tuple[Positives, Positives]:
    """Fewer customers to tune on where the data are large; items keep their share of them."""
    if len(fit) <= most:
        return fit, asked
    rng = np.random.default_rng(rules.seed)
    users = np.unique(fit.user)
    chosen = np.zeros(int(max(users.max(), asked.user.max(initial=0))) + 1, np.bool_)
    chosen[users[rng.random(len(users)) < most / len(fit)]] = True
    some = np.unique(asked.user)
    chosen[rng.choice(some, min(rules.most, len(some)), replace=False)] = True
    thin, few = fit.take(chosen[fit.user]), asked.take(chosen[asked.user])
    said.append(
        f"tuned on {len(thin):,} of {len(fit):,} rows (whole customers); the tested models learn from all"
    )
    return thin, few


def _draw(asked: Positives, train: Positives, like: Lists, n_items: int, n_users: int, seed: int) -> Lists:
    """Candidates for the validation, as many as the test's, uniformly among items that a customer has not."""
    count = int(np.median(like.lengths[like.lengths > 0]))
    rng = np.random.default_rng(seed)
    users = np.unique(asked.user)
    had = np.unique(np.concatenate([e.user.astype(np.int64) * n_items + e.item for e in (train, asked)]))
    owner = np.repeat(users.astype(np.int64), min(2 * count, 4 * n_items))
    drawn = np.unique(owner * n_items + rng.integers(0, n_items, len(owner)))
    drawn = drawn[~np.isin(drawn, had)]
    drawn = drawn[np.lexsort((rng.random(len(drawn)), drawn // n_items))]
    starts = np.searchsorted(drawn // n_items, users)
    place = np.arange(len(drawn)) - starts[np.searchsorted(users, drawn // n_items)]
    kept = drawn[place < count]
    return Lists.group(kept // n_items, (kept % n_items).astype(np.int32), n_users)
