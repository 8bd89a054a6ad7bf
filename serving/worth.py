"""What a display is worth, in CNY: the value table, the items' statistics and the measured uplift in one
number.

    organic   p·(click + Δ·convert − use·cost) − P(dismissed)·|dismiss|          per row
    offer     L·(p·(click + Δ·convert) − P(dismissed)·|dismiss|) − p·use·cost + (d + p·pc + p·use·pv)

p = P(clicked | displayed) of the scorer; use = P(converted or used | clicked); Δ = what of it would not
have been without the click. Use and Δ come from the measured uplift of this customer where there is one,
else from the item's own counts, shrunken to its kind's, with all of it counted as gained, of benefits
BENEFIT_SHARE. Sure sales are no gain: a coupon that everybody uses who buys anyway is worth less than it
costs.

The price of a budget in CNY at μ per CNY comes in pv, as −μ·cost per use: with the −p·use·cost above that is
`Δp·v − (1 + μ)·p₁·cost`. L, the lever, counts on what is above zero, so that raising it never lowers
anything.

Without a value table a click of any kind is worth 1.0 and nothing else counts: u = p.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import jit
from features.ids import KIND_CODE, KINDS, key64
from serving.domain import Scores
from serving.uplift import MeasuredRows, PerClick, Uplift

if TYPE_CHECKING:
    from serving.campaign import Values
    from serving.campaigns import Campaigns
    from serving.catalogue import Kind

BENEFIT_SHARE: Final = np.float32(0.3)
"""Of a benefit's uses, the part that would not have been purchases anyway, where it was never measured. Low
on purpose: in the synthetic bank it is 0.16 to 0.65, 0.3 on average, and paying those who buy anyway is the
error that costs."""
CLICKS_OF_PRIOR: Final = 20.0  # clicks that the kind's conversion rate counts for
DISPLAYS_OF_PRIOR: Final = 200.0  # displays that the kind's dismissal rate counts for
_FIRST_CVR, _FIRST_WEIGHT = 0.05, 100.0  # of a kind without any counts, and what they weigh in clicks
_FIRST_DISMISSED = 0.01  # … per display, weighing DISPLAYS_OF_PRIOR

CLICK, CONVERT, LOSS, COST, LEVER, USED, GAINED = range(7)
_NO_USE: Final = np.zeros(0, np.float32)


class Pairs(NamedTuple):
    """CNY by row (n,) f4: of a click, of a conversion, of a dismissal (a loss, so >= 0)."""

    click: Scores
    convert: Scores
    dismiss: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Worth:
    """Columns over a catalogue's rows (n,), f4, finite. `gain` and `loss`: organic, of no customer."""

    value: Pairs
    cvr: Scores  # P(converted | clicked)
    dismissed: Scores  # P(dismissed | displayed)
    cost: Scores  # CNY per use; 0 without a value table
    share: Scores  # of conversions that count as gained
    gain: Scores  # CNY per click
    loss: Scores  # CNY per display
    measured: MeasuredRows | None

    @classmethod
    def of(
        cls,
        values: Values | None,
        stats: NDArray[np.void],
        kinds: NDArray[np.uint8],
        keys: NDArray[np.uint64],
        *,
        costs: NDArray[np.float32] | None = None,
        uplift: Uplift | None = None,
        tops: NDArray[np.uint32] | None = None,
    ) -> Worth:
        """`stats` ITEM_STATS of the first rows (those put since the bundle have none yet), `kinds` codes and
        `keys` key64 of all rows; `costs` CNY per use (ITEM.cost), `tops` key32 of top categories, for
        `uplift`.
        """
        n = len(kinds)
        value = _pairs(values, kinds, keys)
        cvr = _rates(stats, "conversions", "clicks", kinds, _FIRST_CVR, _FIRST_WEIGHT, CLICKS_OF_PRIOR)
        dismissed = _rates(
            stats, "dismissals", "displays", kinds, _FIRST_DISMISSED, DISPLAYS_OF_PRIOR, DISPLAYS_OF_PRIOR
        )
        cost = np.zeros(n, np.float32)
        if values is not None and costs is not None:
            cost = np.maximum(np.nan_to_num(costs, nan=0.0, posinf=0.0), 0).astype(np.float32)
        share = np.where(kinds == KIND_CODE["benefit"], BENEFIT_SHARE, np.float32(1)).astype(np.float32)
        gain = value.click + cvr * (share * value.convert - cost)
        measured = None
        if uplift is not None and tops is not None and values is not None:
            measured = uplift.bound(keys, kinds, tops)
        return cls(value, cvr, dismissed, cost, share, gain, dismissed * value.dismiss, measured)

    def per_click(self, x: NDArray[np.float32] | None) -> PerClick | None:
        """The customer's measured uplift, once a page; `x` from `Uplift.of`. None: nothing is measured."""
        return None if self.measured is None or x is None else self.measured.per_click(x)

    def bound(self, campaigns: Campaigns) -> OfferWorth:
        """What offers are worth before anybody asks: overrides merged, once per plan and catalogue."""
        row, of = campaigns.offer_row, campaigns.offer_campaign
        terms = np.empty((len(row), 5), np.float32)
        for at, own, table in (
            (CLICK, campaigns.click, self.value.click),
            (CONVERT, campaigns.convert, self.value.convert),
            (LOSS, np.abs(campaigns.dismiss), self.value.dismiss),
        ):
            terms[:, at] = np.where(np.isnan(own[of]), table[row], own[of])
        terms[:, LOSS] *= self.dismissed[row]
        terms[:, COST] = np.where(campaigns.cost[of] > 0, campaigns.cost[of], self.cost[row])
        terms[:, LEVER] = campaigns.lever[of]
        cvr, share = self.cvr[row], self.share[row]
        place = np.full(len(row), -1, np.int32) if self.measured is None else self.measured.at[row]
        until = campaigns.lever_until[of]
        return OfferWorth(np.ascontiguousarray(np.column_stack([terms, cvr, cvr * share])), until, of, place)


@dataclass(frozen=True, slots=True, eq=False)
class OfferWorth:
    """Columns over a plan's offers (O): `terms` (O, 7) f4, the lever's end, the campaign, the place among the
    measured rows or −1.
    """

    terms: NDArray[np.float32]
    until: NDArray[np.float64]
    campaign: NDArray[np.int32]
    measured: NDArray[np.int32]

    def values(
        self,
        p: Scores,
        candidate: NDArray[np.int32],
        offers: NDArray[np.int32],
        prices: NDArray[np.float32],
        now: float,
        measured: PerClick | None = None,
    ) -> tuple[Scores, Scores]:
        """(value, base), (m,) f4 CNY per display of offers: with lever and prices, and without; finite.

        `p` (n,) of the page's candidates, `candidate` (m,) each offer's one, `offers` (m,) rows of the
        plan's; `prices` (C, 3) f4 as `price_table` makes it; `now` ends levers.
        """
        value, base = np.empty(len(offers), np.float32), np.empty(len(offers), np.float32)
        use, delta = (_NO_USE, _NO_USE) if measured is None else measured
        offer_values(
            p, candidate, offers, self.terms, self.until, self.campaign, self.measured, use, delta, prices,
            now, value, base,
        )  # fmt: skip
        return value, base


def price_table(
    display: NDArray[np.float32], click: NDArray[np.float32], convert: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(C, 3) f4 for `OfferWorth.values`, made once per prices: what is not finite counts as no price."""
    return np.ascontiguousarray(
        np.nan_to_num(np.column_stack([display, click, convert]), nan=0.0, posinf=0.0, neginf=0.0), np.float32
    )


@jit
def organic_value(p: np.float32, gain: np.float32, loss: np.float32) -> np.float32:
    """p·gain − loss of one row; a p that is not a number counts as 0."""
    chance = p
    if not 0 <= chance <= 1:  # NaN among them
        chance = np.float32(0) if not chance > 1 else np.float32(1)
    return chance * gain - loss


@jit
def offer_values(
    p: NDArray[np.float32],
    candidate: NDArray[np.int32],
    offers: NDArray[np.int32],
    terms: NDArray[np.float32],
    until: NDArray[np.float64],
    campaign: NDArray[np.int32],
    measured: NDArray[np.int32],
    use: NDArray[np.float32],
    delta: NDArray[np.float32],
    prices: NDArray[np.float32],
    now: float,
    value: NDArray[np.float32],
    base: NDArray[np.float32],
) -> None:
    """The formula of the module's text, offer by offer, into `value` and `base`."""
    for j in range(len(offers)):
        o = offers[j]
        used, gained = terms[o, USED], terms[o, GAINED]
        place = measured[o]
        if 0 <= place < len(use):
            used, gained = use[place], delta[place]
        levered = now < until[o]
        value[j], base[j], _ = priced(p[candidate[j]], terms[o], used, gained, levered, prices[campaign[o]])


@jit
def priced(
    p: np.float32,
    terms: NDArray[np.float32],
    used: np.float32,
    gained: np.float32,
    levered: bool,
    price: NDArray[np.float32],
) -> tuple[np.float32, np.float32, np.float32]:
    """(value, base, what the lever adds) of one offer by its terms (7,), and the uses and gain of a click."""
    chance = p
    if not 0 <= chance <= 1:  # NaN among them
        chance = np.float32(0) if not chance > 1 else np.float32(1)
    good = chance * (terms[CLICK] + gained * terms[CONVERT]) - terms[LOSS]
    spent = chance * used * terms[COST]
    lever = terms[LEVER] if levered and good > 0 else np.float32(1)
    base, free = good - spent, lever * good - spent
    return free + price[0] + chance * price[1] + chance * used * price[2], base, free - base


def _pairs(values: Values | None, kinds: NDArray[np.uint8], keys: NDArray[np.uint64]) -> Pairs:
    n = len(kinds)
    if values is None:
        return Pairs(np.ones(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32))
    by_kind = [
        _by_kind(one)[np.minimum(kinds, len(KINDS))] for one in (values.click, values.convert, values.dismiss)
    ]
    if values.items:
        row_of = {key: row for row, key in enumerate(keys.tolist())}
        for name, own in values.items.items():
            row = row_of.get(key64(name), -1)
            for column, said in zip(by_kind, (own.click, own.convert, own.dismiss), strict=True):
                if row >= 0 and said is not None:
                    column[row] = said
    click, convert, dismiss = by_kind
    return Pairs(click, convert, np.abs(dismiss))


def _by_kind(said: float | Mapping[Kind, float]) -> NDArray[np.float32]:
    """(kinds + 1,): the last is of a row of no known kind."""
    table = np.zeros(len(KINDS) + 1, np.float32)
    if isinstance(said, Mapping):
        for kind, value in said.items():
            table[KIND_CODE[kind]] = value
    else:
        table[:] = said
    return table


def _rates(
    stats: NDArray[np.void],
    event: str,
    of: str,
    kinds: NDArray[np.uint8],
    first: float,
    first_weight: float,
    prior: float,
) -> Scores:
    """P(event | of) by row: counts shrunken to the kind's rate, and that to `first` (Beta priors)."""
    happened, trials = (np.zeros(len(kinds)) for _ in range(2))
    for column, name in ((happened, event), (trials, of)):
        counted = np.nan_to_num(stats[name].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        column[: len(stats)] = np.maximum(counted, 0)
    happened = np.minimum(happened, trials)  # outcomes may come without a click: a rate stays one
    code = np.minimum(kinds, len(KINDS))
    good, all_of = (np.bincount(code, column, len(KINDS) + 1) for column in (happened, trials))
    of_kind = ((good + first * first_weight) / (all_of + first_weight))[code]
    return ((happened + of_kind * prior) / (trials + prior)).astype(np.float32)
