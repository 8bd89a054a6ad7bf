"""Titles a person understands, in Chinese and in English, no two alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from training.world.words import (
    ACTIVITIES,
    AREAS,
    CITIES,
    CONTENT,
    LIFESTYLE,
    MERCHANTS,
    SERVICE_TOPICS,
    SERVICES,
    Words,
)
from training.world.words_bank import FUNCTIONS, LINES, LOCAL_FUNCTIONS, SECTORS, SERIES, TERMS, Line

TOPICS: Final = tuple(f"{area.code}/{topic[0]}" for area in AREAS for topic in area.topics)
TOPIC_WORDS: Final = tuple(Words(topic[1], topic[2]) for area in AREAS for topic in area.topics)
TOPIC_OF: Final = {path: row for row, path in enumerate(TOPICS)}
TOPICS_PER_AREA: Final = 5

_LIFESTYLE_TOPICS = [row for row, path in enumerate(TOPICS) if path.partition("/")[0] in LIFESTYLE]
_FEE_TOPICS = [
    row for row, path in enumerate(TOPICS) if path.startswith(("investing/", "borrowing/", "saving/exchange"))
]
_DISCOUNTS = (5, 8, 10, 12, 15, 20, 25, 30, 40, 50)
_SPENDS = (20, 30, 50, 80, 100, 200, 300, 500)


class Draft(NamedTuple):
    """An item before its numbers: what it is called and about, and the terms its title states."""

    topic: int
    category: str
    title: Words
    line: Line | None = None
    rate: float = 0.0
    amount: float = 0.0
    term_days: int = 0
    offer: float = 0.0  # benefits: the share of the price that is taken off
    merchant: str = ""
    city: int = -1


class Titles:
    """Hands out titles once: what is taken gets a number."""

    def __init__(self) -> None:
        self._zh: set[str] = set()
        self._en: set[str] = set()

    def once(self, title: Words) -> Words:
        number, unique = 1, title
        while unique.zh in self._zh or unique.en in self._en:
            number += 1
            unique = Words(f"{title.zh}·第{number}期", f"{title.en} (no. {number})")
        self._zh.add(unique.zh)
        self._en.add(unique.en)
        return unique


def drafts(kind: str, count: int, rng: np.random.Generator) -> Iterator[Draft]:
    """`count` drafts of one kind, the best known first where that has a meaning (functions)."""
    make = {
        "function": _functions,
        "product": _products,
        "activity": _activities,
        "content": _articles,
        "benefit": _benefits,
        "service": _services,
    }[kind]
    return make(count, rng)


def _functions(count: int, rng: np.random.Generator) -> Iterator[Draft]:
    for topic, title in FUNCTIONS[:count]:
        yield Draft(TOPIC_OF[topic], topic, title)
    local = [(topic, words, city) for topic, words in LOCAL_FUNCTIONS for city in range(len(CITIES))]
    order = rng.permutation(len(local))
    for n in range(max(count - len(FUNCTIONS), 0)):
        topic, words, city = local[order[n % len(local)]]
        title = Words(words.zh.format(CITIES[city][1]), words.en.format(CITIES[city][2]))
        yield Draft(TOPIC_OF[topic], topic, title, city=city)


def _products(count: int, rng: np.random.Generator) -> Iterator[Draft]:
    shares = np.array([line.share for line in LINES])
    first = np.arange(min(count, len(LINES)))  # at least one of each line
    rest = rng.choice(len(LINES), max(count - len(LINES), 0), p=shares / shares.sum())
    for row in np.sort(np.concatenate([first, rest])):
        yield _product(LINES[row], rng)


def _product(line: Line, rng: np.random.Generator) -> Draft:
    series, sector = SERIES[rng.integers(len(SERIES))], SECTORS[rng.integers(len(SECTORS))]
    merchant = MERCHANTS[rng.integers(len(MERCHANTS))]
    rate = round(float(rng.uniform(*line.rate)), 2)
    amount = int(rng.choice(line.amounts))
    term, years = int(rng.choice(TERMS)), int(rng.choice((1, 2, 3, 5, 10)))
    topic = int(rng.choice(_LIFESTYLE_TOPICS)) if line.topic == "lifestyle" else TOPIC_OF[line.topic]
    said = {"rate": f"{rate:.2f}", "amount": amount, "term": term, "years": years}
    about = TOPIC_WORDS[topic]
    title = Words(
        line.title.zh.format(
            series=series.zh, sector=sector.zh, merchant=merchant.zh, topic=about.zh, **said
        ),
        line.title.en.format(
            series=series.en, sector=sector.en, merchant=merchant.en, topic=about.en, **said
        ),
    )
    days = term if "{term}" in line.title.zh else years * 365 if "{years}" in line.title.zh else 0
    brand = merchant.en if "{merchant}" in line.title.zh else ""
    return Draft(topic, line.category, title, line, rate, float(amount), days, merchant=brand)


def _written(templates: tuple[Words, ...], count: int, rng: np.random.Generator) -> Iterator[Draft]:
    """Template by topic, each pair once before any twice."""
    pairs = len(templates) * len(TOPICS)
    order = np.concatenate([rng.permutation(pairs) for _ in range(-(-count // pairs))])
    for pair in order[:count]:
        template, topic = templates[pair // len(TOPICS)], int(pair % len(TOPICS))
        about = TOPIC_WORDS[topic]
        title = Words(template.zh.format(about.zh), _capital(template.en.format(about.en)))
        yield Draft(topic, TOPICS[topic], title)


def _articles(count: int, rng: np.random.Generator) -> Iterator[Draft]:
    return _written(CONTENT, count, rng)


def _activities(count: int, rng: np.random.Generator) -> Iterator[Draft]:
    return _written(ACTIVITIES, count, rng)


def _benefits(count: int, rng: np.random.Generator) -> Iterator[Draft]:
    for _ in range(count):
        off = int(rng.choice(_DISCOUNTS))
        if rng.random() < 0.12:  # the bank's own fees
            topic = int(rng.choice(_FEE_TOPICS))
            about, left = TOPIC_WORDS[topic], 100 - off
            title = Words(f"{about.zh}费率{left}折券", _capital(f"{about.en}: {off}% off fees"))
            yield Draft(topic, TOPICS[topic], title, offer=off / 100)
            continue
        topic, spend = int(rng.choice(_LIFESTYLE_TOPICS)), int(rng.choice(_SPENDS))
        about, merchant = TOPIC_WORDS[topic], MERCHANTS[rng.integers(len(MERCHANTS))]
        less = max(round(spend * off / 100), 1)
        title = Words(
            f"{merchant.zh}{about.zh}满{spend}减{less}", f"{merchant.en} {about.en}: ¥{less} off ¥{spend}"
        )
        yield Draft(topic, TOPICS[topic], title, amount=float(less), offer=less / spend, merchant=merchant.en)


def _services(count: int, rng: np.random.Generator) -> Iterator[Draft]:
    each = len(SERVICE_TOPICS) * len(SERVICES)
    pairs = each * len(CITIES)
    order = np.concatenate([rng.permutation(pairs) for _ in range(-(-count // pairs))])
    for pair in order[:count]:
        city, rest = divmod(int(pair), each)
        path, template = SERVICE_TOPICS[rest % len(SERVICE_TOPICS)], SERVICES[rest // len(SERVICE_TOPICS)]
        about = TOPIC_WORDS[TOPIC_OF[path]]
        nationwide = rng.random() < 0.4
        place = Words("", "") if nationwide else Words(CITIES[city][1], f"{CITIES[city][2]} ")
        title = Words(
            template.zh.format(place.zh + about.zh), _capital(place.en + template.en.format(about.en))
        )
        yield Draft(TOPIC_OF[path], path, title, city=-1 if nationwide else city)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
