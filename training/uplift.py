"""Fits the uplift that serving.uplift serves, from pages of which chance decided what they showed, or from
any.

Three steps, made for little data:

1. `base`: who buys in a group of items anyway, a ridge logistic per group over the customer's columns, on
   pages that showed nothing of the group. Every page counts for it, so it is known well, and it is what
   matters most: who buys anyway is no gain.
2. `persuaded`: after a click an item is used by those who would have bought anyway, and by some of the
   others, who are persuaded: P(used) = a + (1 - a)·d. Given a, d is a logistic over the columns with a bias
   per item (pulled to its kind's). Only clicks count for it, so it is held close to one number per item: how
   close, clicks decide that the fit has not seen. Of a customer who clicks again and again the first click
   counts: who has not bought after one is known not to be about to.
3. `shift`: a click is a sign of wanting anyway: logit a = base + shift. Two things tell the shift: how use
   rises with base among clicks, and, where chance decided, what really happened: purchases less base, against
   (W - e)·P(clicked)·(1 - a)·d with e = P(displayed), as in the residual regression of Nie and Wager (2021).
   Tried on a grid, with a prior around 0. Chance decides of a lake's pages where campaigns have ghosts:
   `Study.trial`.

Against a two-model and a transformed-outcome estimate on held-out pages: see `fenliu bench benefit`. An item
that puts customers off cannot be told from one that does nothing: gains are never below 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.ids import KINDS
from serving.uplift import COLUMNS, Uplift

Floats = NDArray[np.float64]

HORIZON_S: Final = 14 * 86_400.0  # a purchase later than this after a display is not looked for
RIDGE: Final = 20.0  # of standardised columns, in examples
ITEM_RIDGE: Final = 10.0  # of an item's own bias
PERSUADED_RIDGES: Final = (300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)  # the one that foretells uses best
FOLDS: Final = 4  # of clicks, to choose it
SLOPE_RIDGE: Final = 100.0
SHIFTS: Final = tuple(np.arange(-0.75, 0.76, 0.25).tolist())
SHIFT_SD: Final = 0.5
FEWEST_USES: Final = 150  # of a kind, or it is not measured
MOST_PAGES: Final = 40_000  # a model of pages is fitted on
TAGS_PER_GROUP: Final = 6
_PROXIMAL = 1e-6


class Seen(NamedTuple):
    """What is known of pages (n) before anything is shown."""

    columns: NDArray[np.float32]  # (n, COLUMNS + tags)
    interest: NDArray[np.float32]  # (n, I) as `Study.interest`

    def take(self, rows: NDArray[np.int64]) -> Seen:
        return Seen(self.columns[rows], self.interest[rows])


class Study(NamedTuple):
    """Pages (n) with one of the study's items (I) or none of them. `columns` (n, COLUMNS + tags).

    `interest` (n, I): log of how many times likelier than anybody the customer is to click on each item, by
    what they did before: the ranker's feature of this name. Of pages that teach it, by ties that have not
    seen their customer. Only P(clicked) reads it, which serving asks of the page's own scorer.
    """

    columns: NDArray[np.float32]
    interest: NDArray[np.float32]
    tags: NDArray[np.int64]
    item: NDArray[np.int64]  # (n,) the one displayed, −1 none
    clicked: NDArray[np.bool_]
    used: NDArray[np.bool_]  # converted by it, in the app or outside
    fresh: NDArray[np.bool_]  # a click, the customer's first within HORIZON_S on an item of the group
    bought: NDArray[np.bool_]  # (n, G) anything of the group within HORIZON_S, by any way
    chance: NDArray[np.float32] | None  # (n, I) P(item displayed) where chance decided; None: it did not
    quiet: NDArray[np.bool_]  # (n,) pages that tell who buys anyway: chosen without regard to the answer
    keys: NDArray[np.uint64]  # (I,) key64
    kinds: NDArray[np.uint8]  # (I,)
    group: NDArray[np.int64]  # (I,) index in `groups`
    groups: NDArray[np.uint32]  # (G,) key32 of top categories, ascending
    trial: Study | None = None  # of the same items and tags, by chance, where these pages are not; of whom it
    # held out `clicked` says whether they clicked on the item all the same

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Study:
        chance = None if self.chance is None else self.chance[rows]
        return self._replace(
            columns=self.columns[rows],
            interest=self.interest[rows],
            item=self.item[rows],
            clicked=self.clicked[rows],
            used=self.used[rows],
            fresh=self.fresh[rows],
            bought=self.bought[rows],
            chance=chance,
            quiet=self.quiet[rows],
        )

    @property
    def seen(self) -> Seen:
        return Seen(self.columns, self.interest)


@dataclass(frozen=True, slots=True)
class Learned:
    """The model, and what the manifest says of it."""

    uplift: Uplift
    clicks: int
    uses: int
    randomised: int  # pages where chance decided
    lift_ratio: float  # measured gain over the model's, on the randomised pages; NaN without any
    lift_sd: float

    def to_json(self) -> dict[str, object]:
        measured = [
            kind for kind, bias in zip(KINDS, self.uplift.kind_bias, strict=True) if np.isfinite(bias)
        ]
        ratio = {"gain_over_model": self.lift_ratio, "standard_deviation": self.lift_sd}
        return {
            "kinds": measured, "clicks": self.clicks, "uses": self.uses, "shift": self.uplift.shift,
            "randomised_pages": self.randomised, "randomised": ratio if self.randomised else None,
        }  # fmt: skip


def fit_uplift(study: Study, *, seed: int = 0, most_pages: int = MOST_PAGES) -> Learned | None:
    """None where too few uses are known to say anything (see FEWEST_USES)."""
    uses = np.bincount(study.kinds[study.item[study.used]], minlength=len(KINDS))[: len(KINDS)]
    kinds = uses >= FEWEST_USES
    if not kinds.any():
        return None
    study = with_telling_tags(study)
    centre, scale = standards(study.columns)
    x = standardised(study.columns, centre, scale)
    base = _base(study, x, seed, most_pages)
    z = x @ base[:-1].T
    by_chance = study.trial if study.chance is None else study
    trial = None
    if by_chance is not None:
        own = x if by_chance is study else standardised(by_chance.columns, centre, scale)
        trial = _Trial.of(by_chance, own, z if by_chance is study else own @ base[:-1].T)
    best = _most_likely(study, x, z, trial, PERSUADED_RIDGES[-1])
    ridge = _telling_ridge(study, x, z, best.shift, seed)
    if ridge != PERSUADED_RIDGES[-1]:
        best = _most_likely(study, x, z, trial, ridge)
    order = np.argsort(study.keys)
    kind_bias = np.where(kinds, best.kind_bias, np.nan)
    made = Uplift(
        tags=study.tags, centre=centre, scale=scale, groups=study.groups, base=base.astype(np.float32),
        shift=best.shift, persuaded=best.coefficients.astype(np.float32), slope=best.slope,
        item_keys=study.keys[order], item_bias=best.item_bias[order].astype(np.float32),
        kind_bias=kind_bias.astype(np.float32),
    )  # fmt: skip
    randomised = 0 if by_chance is None else len(by_chance.item)
    clicks, used = int(study.clicked.sum()), int(study.used.sum())
    return Learned(made, clicks, used, randomised, *best.lift)


def standardised(
    columns: NDArray[np.float32], centre: NDArray[np.float32], scale: NDArray[np.float32]
) -> Floats:
    """(n, D) as `Uplift.standard` gives it, in double precision."""
    x = np.ones((len(columns), columns.shape[1] + 1))
    x[:, 1:] = np.nan_to_num((columns - centre) / scale, nan=0.0)
    return x


def logistic(
    x: Floats, label: Floats, ridge: Floats, *, offset: Floats | float = 0.0, steps: int = 30
) -> Floats:
    """Penalised maximum likelihood by Newton's method: (D,), pulled to 0 by `ridge` (D,)."""
    found = np.zeros(x.shape[1])
    for _ in range(steps if len(label) else 0):
        p = sigmoid(x @ found + offset)
        slope = x.T @ (label - p) - ridge * found
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge + _PROXIMAL)
        step = np.clip(np.linalg.solve(curve, slope), -4.0, 4.0)
        found = found + step
        if float(np.abs(step).max()) < 1e-4:
            break
    return found


def sigmoid(z: Floats) -> Floats:
    made: Floats = 1.0 / (1.0 + np.exp(-np.clip(z, -30, 30)))
    return made


def with_telling_tags(study: Study) -> Study:
    """The study, and its trial, with the tags alone that say most of what is bought in the study:
    TAGS_PER_GROUP of each group."""
    said = study.columns[:, len(COLUMNS) :]
    known = np.isfinite(said)
    mean = np.where(known, said, 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)
    told = np.where(known, said - mean, 0).astype(np.float32)
    bought = (study.bought - study.bought.mean(axis=0)).astype(np.float32)
    spread = np.sqrt((told**2).mean(axis=0))
    strength = np.abs(told.T @ bought) / np.maximum(spread, 1e-3)[:, None]
    best = np.argsort(-strength, axis=0, kind="stable")[:TAGS_PER_GROUP]
    kept = np.unique(best[np.take_along_axis(strength, best, 0) > 0])

    def with_them(one: Study) -> Study:
        told = one.columns[:, len(COLUMNS) :][:, kept]
        return one._replace(
            columns=np.concatenate([one.columns[:, : len(COLUMNS)], told], axis=1), tags=study.tags[kept]
        )

    trial = None if study.trial is None else with_them(study.trial)
    return with_them(study)._replace(trial=trial)


@dataclass(frozen=True, slots=True)
class Clicks:
    """logit P(clicked | displayed) = x @ `columns` + `slope` · interest + `item`: (D,), a number, (I,)."""

    columns: Floats
    slope: float
    item: Floats

    def logit(self, x: Floats, interest: NDArray[np.float32]) -> Floats:
        """(n, I) of pages (n, D) with their interest (n, I)."""
        found: Floats = (x @ self.columns)[:, None] + self.slope * interest + self.item
        return found

    def chances(self, x: Floats, interest: NDArray[np.float32]) -> Floats:
        """(n, I) probabilities."""
        return sigmoid(self.logit(x, interest))


def click_model(study: Study, x: Floats) -> Clicks:
    """P(clicked | displayed), a ridge logistic over the columns with a bias per item, on top of interest.

    Of every click and of one in so many displays without: that moves the constant alone, by a known amount.
    Only the level of the uplift needs it; a page is made with the scorer's own.
    """
    left = np.flatnonzero((study.item >= 0) & ~study.clicked)
    thinned = max(len(left) // MOST_PAGES, 1)
    shown = np.concatenate([np.flatnonzero((study.item >= 0) & study.clicked), left[::thinned]])
    item, width = study.item[shown], x.shape[1]
    own = study.interest[shown, item].astype(np.float64)
    design = np.concatenate([x[shown], own[:, None], np.eye(len(study.keys))[item]], axis=1)
    ridge = np.concatenate([_ridge(width), [_PROXIMAL], np.full(len(study.keys), ITEM_RIDGE)])
    found = logistic(design, study.clicked[shown].astype(np.float64), ridge)
    found[0] -= np.log(thinned)
    return Clicks(found[:width], float(found[width]), found[width + 1 :])


def standards(columns: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and scale of columns, for `standardised`."""
    known = np.isfinite(columns)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, columns, 0).astype(np.float64)
    centre = filled.sum(axis=0) / count
    spread = np.sqrt((np.where(known, columns - centre, 0) ** 2).sum(axis=0) / count)
    return centre.astype(np.float32), np.where(spread > 1e-6, spread, 1.0).astype(np.float32)


def _ridge(width: int) -> Floats:
    ridge = np.full(width, RIDGE)
    ridge[0] = _PROXIMAL
    return ridge


def _base(study: Study, x: Floats, seed: int, most: int) -> Floats:
    """(G + 1, D): each group on pages that showed nothing of it; the last the mean over groups."""
    rng = np.random.default_rng(seed)
    of_page = np.where(study.item >= 0, study.group[study.item], -1)
    found = np.zeros((len(study.groups) + 1, x.shape[1]))
    for group in range(len(study.groups)):
        rows = np.flatnonzero(study.quiet & (of_page != group))
        if len(rows) > most:
            rows = np.sort(rng.choice(rows, most, replace=False))
        label = study.bought[rows, group].astype(np.float64)
        found[group] = logistic(x[rows], label, _ridge(x.shape[1]))
    found[-1] = found[:-1].mean(axis=0)
    return found


@dataclass(frozen=True, slots=True)
class _Fit:
    """The model of the persuaded under one shift. `evidence`: log posterior up to a constant."""

    shift: float
    coefficients: Floats  # (D,)
    slope: float
    item_bias: Floats  # (I,)
    kind_bias: Floats
    evidence: float
    lift: tuple[float, float]


class _Trial(NamedTuple):
    """Pages of which chance decided: their columns, P(buys anyway) by group, and what displaying each item
    adds to the chance of a click on it."""

    study: Study
    x: Floats  # (n, D)
    z: Floats  # (n, G) logit of P(buys anyway)
    click: Floats  # (n, I)

    @classmethod
    def of(cls, study: Study, x: Floats, z: Floats) -> _Trial:
        shown = study.item >= 0
        clicks = (study.clicked & shown).sum() / max(shown.sum(), 1)
        without = (study.clicked & ~shown).sum() / max((~shown).sum(), 1)
        added = 1.0 - min(without / clicks, 1.0) if clicks else 0.0  # of a click, by the display
        return cls(study, x, z, added * click_model(study, x).chances(x, study.interest))

    def lift(self, gain: Floats) -> tuple[float, float]:
        """(gained over `gain` (n, I) per click, its standard deviation): 1 where the model is right.

        A purchase is random by p(1 - p), so pages of those who hardly buy by themselves say most.
        """
        study, above, below = self.study, 0.0, 1e-9
        assert study.chance is not None
        for group in range(len(study.groups)):
            items = np.flatnonzero(study.group == group)
            effect = self.click[:, items] * gain[:, items]
            chance = study.chance[:, items]
            lift = (((study.item[:, None] == items) - chance) * effect).sum(axis=1)
            buys = sigmoid(self.z[:, group])
            weight = 1.0 / np.maximum(buys * (1 - buys), 0.01)
            over = study.bought[:, group] - buys - (chance * effect).sum(axis=1)
            above += float((weight * lift * over).sum())
            below += float((weight * lift**2).sum())
        return above / below, below**-0.5


class _Clicked(NamedTuple):
    """Clicks (m): what may tell who is persuaded, P(would have bought anyway), whether it was used."""

    design: Floats  # (m, D - 1 columns, base's logit, kinds, items)
    anyway: Floats
    used: Floats

    def take(self, rows: NDArray[np.bool_]) -> _Clicked:
        return _Clicked(*(column[rows] for column in self))

    def likelihood(self, found: Floats) -> Floats:
        """(m,) log, of coefficients."""
        p = np.clip(self.anyway + (1 - self.anyway) * sigmoid(self.design @ found), 1e-6, 1 - 1e-6)
        each: Floats = self.used * np.log(p) + (1 - self.used) * np.log(1 - p)
        return each


def _clicked(study: Study, x: Floats, z: Floats, shift: float) -> _Clicked:
    rows = np.flatnonzero(study.clicked & study.fresh & (study.item >= 0))
    item = study.item[rows]
    own = z[rows, study.group[item]]
    eye = np.eye(len(KINDS))[study.kinds[item]], np.eye(len(study.keys))[item]
    design = np.concatenate([x[rows][:, 1:], own[:, None], *eye], axis=1)
    return _Clicked(design, sigmoid(own + shift), study.used[rows].astype(np.float64))


def _ridges(study: Study, width: int, persuaded: float) -> Floats:
    """Of `_Clicked.design`, of which `width` are columns."""
    return np.concatenate(
        [np.full(width, persuaded), [max(persuaded, SLOPE_RIDGE)], np.full(len(KINDS), 1e-2),
         np.full(len(study.keys), ITEM_RIDGE)]
    )  # fmt: skip


def _scored(clicks: _Clicked, ridge: Floats, width: int) -> Floats:
    """Fisher scoring: P(used) = a + (1 - a)·sigmoid(design), a known."""
    design, anyway, label = clicks
    found = np.zeros(design.shape[1])
    found[width + 1 : width + 1 + len(KINDS)] = -2.0
    for _ in range(40):
        d = sigmoid(design @ found)
        p = np.clip(anyway + (1 - anyway) * d, 1e-6, 1 - 1e-6)
        moved = (1 - anyway) * d * (1 - d)
        slope = design.T @ ((label - p) / (p * (1 - p)) * moved) - ridge * found
        curve = (design * (moved**2 / (p * (1 - p)))[:, None]).T @ design + np.diag(ridge + _PROXIMAL)
        step = np.clip(np.linalg.solve(curve, slope), -2.0, 2.0)
        found = found + step
        if float(np.abs(step).max()) < 1e-3:
            break
    return found


def first_of(
    cell: NDArray[np.int64], at: NDArray[np.float64], within: float = HORIZON_S
) -> NDArray[np.bool_]:
    """(m,) of events at these times: those that none of the same cell precedes by less than `within`."""
    order = np.lexsort((at, cell))
    cells, times = cell[order], at[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (cells[1:] != cells[:-1]) | (times[1:] - times[:-1] >= within)
    found = np.empty_like(first)
    found[order] = first
    return found


def _telling_ridge(study: Study, x: Floats, z: Floats, shift: float, seed: int) -> float:
    """The strongest of PERSUADED_RIDGES that foretells whether clicks are used, which it has not seen, no
    worse than the best by more than a standard error (Breiman et al. 1984): what is wrong with P(buys anyway)
    looks like persuasion, so a little better is not enough.

    Clicks with the same columns are one customer's: they are dealt to the same fold.
    """
    clicks, width = _clicked(study, x, z, shift), x.shape[1] - 1
    _, alike = np.unique(clicks.design[:, :width], axis=0, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(int(alike.max(initial=0)) + 1)[alike.ravel()] % FOLDS
    foretold = np.zeros((len(PERSUADED_RIDGES), len(fold)))
    for row, persuaded in enumerate(PERSUADED_RIDGES):
        ridge = _ridges(study, width, persuaded)
        for one in range(FOLDS):
            out = fold == one
            foretold[row, out] = clicks.take(out).likelihood(_scored(clicks.take(~out), ridge, width))
    behind = foretold[foretold.sum(axis=1).argmax()] - foretold
    near = behind.sum(axis=1) <= behind.std(axis=1) * len(fold) ** 0.5
    return max(ridge for ridge, fine in zip(PERSUADED_RIDGES, near.tolist(), strict=True) if fine)


def _most_likely(study: Study, x: Floats, z: Floats, trial: _Trial | None, persuaded: float) -> _Fit:
    """Of all shifts."""
    fits = (_persuaded(study, x, z, shift, trial, persuaded) for shift in SHIFTS)
    return max(fits, key=lambda one: one.evidence)


def _persuaded(
    study: Study, x: Floats, z: Floats, shift: float, trial: _Trial | None, persuaded: float
) -> _Fit:
    clicks, width = _clicked(study, x, z, shift), x.shape[1] - 1
    ridge = _ridges(study, width, persuaded)
    found = _scored(clicks, ridge, width)
    evidence = float(clicks.likelihood(found).sum() - 0.5 * ridge @ found**2)
    kind_bias = found[width + 1 : width + 1 + len(KINDS)]
    item_bias = found[width + 1 + len(KINDS) :] + kind_bias[study.kinds]
    coefficients, own_slope = np.concatenate([[0.0], found[:width]]), float(found[width])
    evidence -= 0.5 * (shift / SHIFT_SD) ** 2
    lift = (float("nan"), float("nan"))
    if trial is not None:
        of_item = trial.z[:, study.group]
        d = sigmoid((trial.x @ coefficients)[:, None] + own_slope * of_item + item_bias)
        lift = trial.lift((1 - sigmoid(of_item + shift)) * d)
        evidence -= 0.5 * ((lift[0] - 1) / lift[1]) ** 2
    return _Fit(shift, coefficients, own_slope, item_bias, kind_bias, evidence, lift)
