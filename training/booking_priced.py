"""Pages of a booking under prices: decided by the product's own page, and summed up by campaign."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.page import NO_LIMIT, Batch, Pages, Slots, solve_many
from training.booking_pages import Part
from training.booking_quick import quick_sums
from training.dual import totals
from training.page_bound import page_bounds

THREADS: Final = 2  # the page's loops let go of the interpreter

Floats = NDArray[np.float64]
T = TypeVar("T")


class Prices(NamedTuple):
    """Net, (C,) CNY per display, click and conversion."""

    display: Floats
    click: Floats
    convert: Floats


def no_prices(campaigns: int) -> Prices:
    none = np.zeros(campaigns)
    return Prices(none, none, none)


class Taken(NamedTuple):
    """What pages come to, weighted. `units` (3, C) displays, clicks, conversions of tagged placements.

    `page` the pages of the parts and `worth_of` the objective of each, unweighted.
    """

    worth: float  # Σ objective, prices included
    base: float  # CNY without prices and levers
    organic: float  # of it, of what no campaign stands behind
    units: Floats
    value: Floats  # (C,) of `base`, by campaign
    shown: Floats  # (plan slots,) displays of anything
    pages: NDArray[np.int64]
    weight: Floats
    worth_of: Floats


SLOTS: Final = 64


def evaluated(parts: Iterable[Part], prices: Prices, *, exact: bool = False) -> Taken:
    """Every part decided at the prices: in quick pages, or `exact` by the product's own.

    Parts may be made as they are asked for; two are at work at a time.
    """
    many = len(prices.display)
    total = Taken(
        0.0, 0.0, 0.0, np.zeros((3, many)), np.zeros(many), np.zeros(SLOTS), np.zeros(0, np.int64),
        np.zeros(0), np.zeros(0),
    )  # fmt: skip
    step = _exactly if exact else _quickly
    found = list(_worked(parts, lambda part: step(part, prices, many)))
    if not found:
        return total
    return Taken(
        worth=sum(one.worth for one in found),
        base=sum(one.base for one in found),
        organic=sum(one.organic for one in found),
        units=np.sum([one.units for one in found], axis=0),
        value=np.sum([one.value for one in found], axis=0),
        shown=np.sum([one.shown for one in found], axis=0),
        pages=np.concatenate([one.pages for one in found]),
        weight=np.concatenate([one.weight for one in found]),
        worth_of=np.concatenate([one.worth_of for one in found]),
    )


def corrected(quick: Taken, some: Taken, exactly: Taken) -> Taken:
    """Sums of quick pages by what the product makes of some: ratios, shrunken where there is little."""

    def ratio(one: Floats, other: Floats, little: float) -> Floats:
        return np.asarray((one + little) / (other + little))

    little = 1e-3 * max(float(some.units[0].sum()), 1e-9)
    units = quick.units * ratio(exactly.units[0], some.units[0], little)
    value = quick.value * ratio(exactly.value, some.value, 1e-3 * max(abs(some.base), 1e-9))
    organic = quick.organic * (exactly.organic + 1e-9) / (some.organic + 1e-9)
    worth = quick.worth * (exactly.worth + 1e-9) / (some.worth + 1e-9)
    shown = quick.shown * ratio(exactly.shown, some.shown, little)
    return quick._replace(
        units=units, value=value, organic=organic, base=organic + float(value.sum()), worth=worth, shown=shown
    )


def _worked(parts: Iterable[Part], step: Callable[[Part], T]) -> Iterator[T]:
    """In the order of the parts, THREADS at a time."""
    with ThreadPoolExecutor(THREADS) as threads:
        waiting: deque[Future[T]] = deque()
        for part in parts:
            waiting.append(threads.submit(step, part))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _quickly(part: Part, prices: Prices, campaigns: int) -> Taken:
    net = net_of(part, prices)
    sums = quick_sums(part.batch, net, part.p, part.used, part.weight, campaigns)
    shown = np.zeros(SLOTS)
    shown[list(part.slots)] = sums.shown
    organic, value = float(sums.organic[0]), float(sums.value.sum())
    return Taken(
        float(part.weight @ sums.worth), organic + value, organic, sums.units, sums.value, shown,
        part.pages, part.weight, sums.worth,
    )  # fmt: skip


def _exactly(part: Part, prices: Prices, campaigns: int) -> Taken:
    return summed(part, solve_many(priced(part, prices)), campaigns)


def bounded(parts: Iterable[Part], prices: Prices) -> tuple[float, Floats]:
    """(weighted sum, per page) of what no arrangement of a page exceeds: see `training.page_bound`."""
    found = list(_worked(parts, lambda part: (part, page_bounds(priced(part, prices)))))
    return (
        float(sum(part.weight @ bounds for part, bounds in found)),
        np.concatenate([bounds for _, bounds in found]),
    )


def net_of(part: Part, prices: Prices) -> NDArray[np.float32]:
    """(m,) CNY per display of the offers at the prices."""
    campaign = part.batch.offers.campaign
    net = part.value + prices.display[campaign] + part.p * prices.click[campaign]
    if prices.convert.any():
        net += part.used * prices.convert[campaign]
    return net.astype(np.float32)


def priced(part: Part, prices: Prices) -> Batch:
    """The part's problems at the prices."""
    return part.batch._replace(offers=part.batch.offers._replace(value=net_of(part, prices)))


def summed(part: Part, pages: Pages, campaigns: int) -> Taken:
    batch = part.batch
    page = np.repeat(np.arange(len(part.pages)), np.diff(pages.at))
    weight = part.weight[page]
    share = weight * pages.factor * pages.base
    rate = weight * batch.slots.rates[pages.slot, pages.position]
    tagged = np.flatnonzero(pages.offer >= 0)
    at = batch.offer_at[page[tagged]] + pages.offer[tagged]
    campaign = batch.offers.campaign[at]
    shown = rate[tagged]
    units = [
        totals(campaign, amount, campaigns) for amount in (shown, shown * part.p[at], shown * part.used[at])
    ]
    value = totals(campaign, share[tagged], campaigns)
    base = float(share.sum())
    index = np.array(part.slots, np.int64)
    return Taken(
        float(part.weight @ pages.worth), base, base - float(value.sum()), np.array(units), value,
        totals(index[pages.slot], rate, SLOTS), part.pages, part.weight, pages.worth,
    )  # fmt: skip


def bare(part: Part) -> Part:
    """Its offers worth nothing by themselves, and no interactions: what units alone can come to."""
    slots: Slots = part.batch.slots
    ones, free = np.ones_like(slots.diminish), np.full_like(slots.per_category, 1000)
    plain = slots._replace(
        diminish=ones, cross=ones, interruption=np.zeros_like(ones), switching=np.zeros_like(ones),
        per_category=free, per_kind=free, kind_least=np.zeros_like(slots.kind_least),
        kind_most=np.where(slots.kind_most == 0, slots.kind_most, NO_LIMIT).astype(np.uint8),
    )  # fmt: skip
    nothing = np.zeros_like(part.value)
    offers = part.batch.offers._replace(value=nothing, base=nothing)
    options = part.batch.options._replace(value=np.zeros_like(part.batch.options.value))
    batch = part.batch._replace(slots=plain, offers=offers, options=options)
    return part._replace(batch=batch, value=nothing)
