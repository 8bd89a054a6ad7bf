"""The items of the synthetic bank: columns for the simulation, and `Item`s for everybody else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.ids import KIND_CODE, KINDS, keys64
from features.views import CONSENTS
from serving.catalogue import REPEATS, Item
from training.world.naming import TOPICS, TOPICS_PER_AREA, Draft, Titles, drafts
from training.world.words import AREA_CODES, CITIES

DAY: Final = 86_400.0
SHARES: Final = {  # of the catalogue
    "function": 0.06, "product": 0.30, "activity": 0.12, "content": 0.27, "benefit": 0.15, "service": 0.10,
}  # fmt: skip
FEWEST_ITEMS: Final = 120
PRODUCT_FAMILIES: Final = ("deposit", "wealth", "fund", "insurance", "loan", "card")
FAMILIES: Final = (*PRODUCT_FAMILIES, *AREA_CODES)
"""Needs that are met by a purchase: product families, and for benefits spending in an area."""

_FAMILY_OF = {**{name: code for code, name in enumerate(PRODUCT_FAMILIES)}, "gold": 2}
_ADULT_ONLY = ("wealth", "fund", "insurance", "loan", "card", "gold")
_GEOHASH = "0123456789bcdefghjkmnpqrstuvwxyz"


@dataclass(frozen=True)
class Catalogue:
    """Columns over items (row = index in `ids`), grouped by kind in KINDS' order."""

    ids: tuple[str, ...]
    drafts: tuple[Draft, ...] = field(repr=False)
    kind: NDArray[np.int64]
    topic: NDArray[np.int64]
    family: NDArray[np.int64]  # row of FAMILIES, -1 where the kind meets no need
    appeal: NDArray[np.float32]  # around 1, long-tailed: what everybody likes about it
    pull: NDArray[np.float32]  # how far it can persuade: 0 to 1
    risk_class: NDArray[np.uint8]
    min_age: NDArray[np.uint8]
    max_age: NDArray[np.uint8]  # 255: none
    min_amount: NDArray[np.float32]
    rate: NDArray[np.float32]
    cost: NDArray[np.float32]  # what the bank pays when it is used, CNY
    repeat: NDArray[np.uint8]
    cities: NDArray[np.uint32]  # bit per row of CITIES; all set: everywhere
    consents: NDArray[np.uint8]  # bits that are required
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]  # inf: none
    published_at: NDArray[np.float64]
    location: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def area(self) -> NDArray[np.int64]:
        """Row of AREAS."""
        return self.topic // TOPICS_PER_AREA

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        return keys64(self.ids)

    def rows_of(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of item keys of any shape; -1 where unknown."""
        order = np.argsort(self.keys)
        at = np.minimum(np.searchsorted(self.keys[order], keys), len(order) - 1)
        return np.where(self.keys[order][at] == keys, order[at], -1)

    def items(self) -> list[Item]:
        """The catalogue as validated `Item`s, in row order."""
        return [self._item(row) for row in range(len(self))]

    def _item(self, row: int) -> Item:
        draft = self.drafts[row]
        kind = KINDS[self.kind[row]]
        facts: dict[str, Any] = {
            "id": self.ids[row],
            "kind": kind,
            "title": {"zh": draft.title.zh, "en": draft.title.en},
            "category": draft.category,
            "risk_class": int(self.risk_class[row]),
            "min_age": int(self.min_age[row]),
            "max_age": 0 if self.max_age[row] == 255 else int(self.max_age[row]),
            "repeat": REPEATS[self.repeat[row]],
            "regions": self._regions(row),
            "consents": [name for bit, name in enumerate(CONSENTS) if self.consents[row] >> bit & 1],
            "published_at": _moment(self.published_at[row]),
            "starts": _moment(self.starts[row]),
            "ends": _moment(self.ends[row]),
            "location": self.location[row] or None,
            "attributes": _attributes(draft),
            "action": f"app://{kind}/{self.ids[row]}",
            "cooling": draft.category.startswith(("insurance/", "loan/", "wealth/mixed", "fund/equity")),
        }
        if kind == "product":
            facts |= {"min_amount": draft.amount, "rate": draft.rate or None}
        if kind == "benefit":
            facts["cost"] = round(float(self.cost[row]), 2)
        return Item.model_validate(facts)

    def _regions(self, row: int) -> list[str]:
        if self.cities[row] == EVERYWHERE:
            return []
        return [city[0] for bit, city in enumerate(CITIES) if self.cities[row] >> np.uint32(bit) & 1]


EVERYWHERE: Final = np.uint32(2**32 - 1)


def draw_catalogue(rng: np.random.Generator, count: int, start: float) -> Catalogue:
    """`count` items of the six kinds in SHARES, of which some begin or end in the weeks around `start`."""
    sizes = kind_counts(count)
    titles, made = Titles(), []
    for kind in KINDS:
        made += [draft._replace(title=titles.once(draft.title)) for draft in drafts(kind, sizes[kind], rng)]
    kinds = np.repeat(np.arange(len(KINDS)), [sizes[kind] for kind in KINDS])
    ids = tuple(
        f"{kind[0]}{number:05d}" for kind in KINDS for number in range(1, sizes[kind] + 1)
    )  # f, p, a, c, b, s
    dates = _dates(rng, kinds, start)
    offers = np.array([draft.offer for draft in made], np.float32)
    benefit, product = kinds == KIND_CODE["benefit"], kinds == KIND_CODE["product"]
    pull = np.where(benefit, np.clip(0.25 + 1.3 * offers, 0, 0.9), rng.uniform(0.04, 0.22, count))
    return Catalogue(
        ids=ids,
        drafts=tuple(made),
        kind=kinds,
        topic=np.array([draft.topic for draft in made]),
        family=_families(made, kinds),
        appeal=_appeal(rng, made, kinds),
        pull=(pull * (benefit | product)).astype(np.float32),
        risk_class=_risk(rng, made),
        min_age=np.array(
            [_min_age(draft, int(kind)) for draft, kind in zip(made, kinds, strict=True)], np.uint8
        ),
        max_age=np.array([70 if draft.category.startswith("loan/") else 255 for draft in made], np.uint8),
        min_amount=np.where(product, [draft.amount for draft in made], 0).astype(np.float32),
        rate=np.array([draft.rate for draft in made], np.float32),
        cost=np.where(benefit, [max(draft.amount, 5.0) for draft in made], 0).astype(np.float32),
        repeat=np.array([REPEATS.index(d.line.repeat) if d.line else 0 for d in made], np.uint8),
        cities=_cities(rng, made, kinds),
        consents=_consents(rng, made, kinds),
        starts=dates[0],
        ends=dates[1],
        published_at=dates[2],
        location=tuple(_place(rng, draft, int(kind)) for draft, kind in zip(made, kinds, strict=True)),
    )


def kind_counts(count: int) -> dict[str, int]:
    """How many items of each kind a catalogue of `count` has. ValueError below FEWEST_ITEMS."""
    if count < FEWEST_ITEMS:
        raise ValueError(f"a world needs at least {FEWEST_ITEMS} items, not {count}")
    sizes = {kind: max(round(count * share), 12) for kind, share in SHARES.items()}
    sizes["content"] += count - sum(sizes.values())
    return sizes


def _families(made: list[Draft], kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    def family(draft: Draft, kind: int) -> int:
        if kind == KIND_CODE["product"]:
            return _FAMILY_OF[draft.category.partition("/")[0]]
        return len(PRODUCT_FAMILIES) + draft.topic // TOPICS_PER_AREA if kind == KIND_CODE["benefit"] else -1

    return np.array([family(draft, int(kind)) for draft, kind in zip(made, kinds, strict=True)])


def _appeal(rng: np.random.Generator, made: list[Draft], kinds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Lognormal, long-tailed; among functions the everyday ones lead."""
    spread = np.where(kinds == KIND_CODE["function"], 0.6, 0.8)
    everyday = np.array([draft.category.startswith("everyday/") for draft in made])
    local = np.array([draft.city >= 0 for draft in made])
    level = np.where(everyday & ~local & (kinds == KIND_CODE["function"]), 0.2, 0.0)
    return np.exp(rng.normal(level - spread**2 / 2, spread)).astype(np.float32)


def _risk(rng: np.random.Generator, made: list[Draft]) -> NDArray[np.uint8]:
    """Deposits, loans and cards carry no investment risk: class 0 needs no assessment."""
    drawn = [
        int(rng.integers(d.line.risk[0], d.line.risk[1] + 1))
        if d.line
        and d.category.startswith(("wealth/", "fund/", "gold/", "insurance/annuity", "insurance/life"))
        else 0
        for d in made
    ]
    return np.array(drawn, np.uint8)


def _min_age(draft: Draft, kind: int) -> int:
    if draft.category.startswith("insurance/annuity"):
        return 30
    return 18 if kind == KIND_CODE["product"] and draft.category.startswith(_ADULT_ONLY) else 0


def _cities(rng: np.random.Generator, made: list[Draft], kinds: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Its own city where it names one; a quarter of activities and benefits run in one to four cities."""
    regional = np.isin(kinds, [KIND_CODE["activity"], KIND_CODE["benefit"]]) & (rng.random(len(made)) < 0.25)
    masks = np.full(len(made), EVERYWHERE, np.uint32)
    shares = np.array([city[6] for city in CITIES])
    for row, draft in enumerate(made):
        if draft.city >= 0:
            masks[row] = 1 << draft.city
        elif regional[row]:
            chosen = rng.choice(len(CITIES), int(rng.integers(1, 5)), replace=False, p=shares / shares.sum())
            masks[row] = sum(1 << int(city) for city in chosen)
    return masks


def _consents(rng: np.random.Generator, made: list[Draft], kinds: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Some activities and benefits need consent to marketing, some services consent to third parties."""
    draw = rng.random(len(made))
    marketing = np.isin(kinds, [KIND_CODE["activity"], KIND_CODE["benefit"]]) & (draw < 0.2)
    third = (kinds == KIND_CODE["service"]) & (draw < 0.15)
    return np.where(marketing, 1, np.where(third, 4, 0)).astype(np.uint8)


def _dates(
    rng: np.random.Generator, kinds: NDArray[np.int64], start: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(starts, ends, published_at). Most are open at `start`; a tenth is published in the 60 days after it.

    Two in three activities and benefits run for weeks to months, the rest has no end. What is open already
    has no date to begin (-inf). Days begin at midnight UTC.
    """
    count = len(kinds)
    midnight = start - start % DAY
    age = np.where(rng.random(count) < 0.1, -rng.integers(1, 60, count), rng.integers(5, 400, count))
    published = midnight - age * DAY
    limited = np.isin(kinds, [KIND_CODE["activity"], KIND_CODE["benefit"]]) & (rng.random(count) < 0.67)
    left = np.where(rng.random(count) < 0.2, rng.integers(5, 30, count), rng.integers(30, 240, count))
    ends = np.where(limited, np.maximum(midnight, published) + left * DAY, np.inf)
    return np.where(published > midnight, published, -np.inf), ends, published


def _place(rng: np.random.Generator, draft: Draft, kind: int) -> str:
    """The geohash (7 characters, about 150 m) of a local service, within some 12 km of its city's centre."""
    if draft.city < 0 or kind != KIND_CODE["service"]:
        return ""
    north, east = rng.normal(0, 0.06, 2)
    return geohash(CITIES[draft.city][4] + north, CITIES[draft.city][5] + east)


def geohash(latitude: float, longitude: float, length: int = 7) -> str:
    """The geohash of a point (Niemeyer, 2008)."""
    spans = [[-180.0, 180.0], [-90.0, 90.0]]
    point, text, value = (longitude, latitude), "", 0
    for bit in range(length * 5):
        span, here = spans[bit % 2], point[bit % 2]
        middle = (span[0] + span[1]) / 2
        upper = here >= middle
        span[0 if upper else 1] = middle
        value = value * 2 + upper
        if bit % 5 == 4:
            text, value = text + _GEOHASH[value], 0
    return text


def _attributes(draft: Draft) -> dict[str, str]:
    named = {
        "topic": TOPICS[draft.topic],
        "term_days": str(draft.term_days) if draft.term_days else "",
        "merchant": draft.merchant,
        "offer": f"{draft.offer:.2f}" if draft.offer else "",
    }
    return {name: value for name, value in named.items() if value}


def _moment(at: float) -> datetime | None:
    return datetime.fromtimestamp(at, UTC) if np.isfinite(at) else None
