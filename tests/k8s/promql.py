"""As much of PromQL as our alerts use, so that each is run on series where no promtool is.

Instant vectors are dicts from label sets to numbers. Rates extrapolate as Prometheus does, instant selectors
look back five minutes, and a rule fires once its expression has held for its `for`, label set by label set.
Whatever is not known is refused: an alert that needs more of the language needs it here.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Series = Mapping[str, str]
STEP_S, LOOKBACK_S = 60, 300
NAME = "__name__"
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, "<": operator.lt, "!=": operator.ne, "==": operator.eq, ">=": operator.ge,
    "<=": operator.le,
}  # fmt: skip
AGGREGATE: dict[str, Callable[[list[float]], float]] = {
    "sum": sum, "max": max, "min": min, "count": lambda values: float(len(values))
}  # fmt: skip
FUNCTIONS = ("rate", "increase", "absent", "scalar", "histogram_quantile")
TOKEN = re.compile(
    r"\s*(?:(?P<duration>\[?\d+[smhd]\]?)|(?P<number>\d+(?:\.\d+)?)|(?P<word>[a-zA-Z_][\w:]*)"
    r'|(?P<selector>\{[^}]*\})|(?P<sign>[><!=]=|[()<>,/]))'
)  # fmt: skip
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class NotKnown(ValueError):
    """More of the language than is here."""


class Samples(NamedTuple):
    """Of one series: (seconds, value), missing ones left out."""

    labels: Labels
    points: list[tuple[float, float]]


def series_of(given: Series) -> list[Samples]:
    """From promtool's notation: `0+1x60` rises 60 times, `7x60` stays, `_x25` is missing, a minute apart."""
    found = []
    for selector, values in given.items():
        name, _, labels = selector.partition("{")
        pairs = re.findall(r'([a-z_]+)="([^"]*)"', labels)
        points, at = [], 0
        for part in values.split():
            told = re.fullmatch(r"(_|-?\d+(?:\.\d+)?)([+-]\d+(?:\.\d+)?)?x(\d+)", part)
            if told is None:
                raise NotKnown(f"samples {part!r}")
            start, rise, times = told.groups()
            if start == "_":
                at += int(times)
                continue
            for number in range(int(times) + 1):
                points.append((at * STEP_S * 1.0, float(start) + number * float(rise or 0)))
                at += 1
        found.append(Samples(frozenset([(NAME, name), *pairs]), points))
    return found


@dataclass
class Reader:
    """A recursive descent over one expression; the value is a function of the time."""

    text: str
    series: list[Samples]

    def __post_init__(self) -> None:
        self.tokens: list[tuple[str, str]] = []
        at, text = 0, self.text.strip()
        while at < len(text):
            found = TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise NotKnown(f"at {text[at : at + 20]!r}")
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        found = self.peek()
        if wanted and found not in wanted:
            raise NotKnown(f"{found!r} where {' or '.join(wanted)} was due")
        self.at += 1
        return found

    def whole(self) -> Any:
        made = self.either()
        if self.peek():
            raise NotKnown(f"{self.peek()!r} after the end")
        return made

    def either(self) -> Any:
        made = self.unless()
        while self.peek() == "or":
            self.take()
            left, right = made, self.unless()
            made = lambda t, left=left, right=right: {**right(t), **left(t)}  # noqa: E731
        return made

    def unless(self) -> Any:
        made = self.compared()
        while self.peek() == "unless":
            self.take()
            left, right = made, self.compared()

            def kept(t: float, left: Any = left, right: Any = right) -> Vector:
                gone = {_nameless(labels) for labels in right(t)}
                return {labels: v for labels, v in left(t).items() if _nameless(labels) not in gone}

            made = kept
        return made

    def compared(self) -> Any:
        left = self.divided()
        if self.peek() not in COMPARE:
            return left
        compare, right = COMPARE[self.take()], self.divided()

        def kept(t: float) -> Vector:
            limit = right(t)
            if not isinstance(limit, float):
                raise NotKnown("a comparison with anything but a number")
            return {labels: v for labels, v in left(t).items() if compare(v, limit)}

        return kept

    def divided(self) -> Any:
        made = self.primary()
        while self.peek() == "/":
            self.take()
            left, right = made, self.primary()

            def quotient(t: float, left: Any = left, right: Any = right) -> Vector:
                above, below = left(t), right(t)
                if isinstance(below, float):
                    return {labels: _over(v, below) for labels, v in above.items()}
                others = {_nameless(labels): v for labels, v in below.items()}
                named = {_nameless(labels): v for labels, v in above.items()}
                return {labels: _over(v, others[labels]) for labels, v in named.items() if labels in others}

            made = quotient
        return made

    def primary(self) -> Any:
        kind, word = self.tokens[self.at]
        if kind == "number":
            self.take()
            return lambda _t: float(word)
        if word == "(":
            self.take()
            made = self.either()
            self.take(")")
            return made
        if word in AGGREGATE:
            return self.aggregate()
        if word in FUNCTIONS:
            return self.function()
        return self.selector()

    def aggregate(self) -> Any:
        combine, by = AGGREGATE[self.take()], ()
        if self.peek() == "by":
            self.take()
            self.take("(")
            names = [self.take()]
            while self.take(",", ")") == ",":
                names.append(self.take())
            by = tuple(names)
        self.take("(")
        inner = self.either()
        self.take(")")

        def made(t: float) -> Vector:
            groups: dict[Labels, list[float]] = {}
            for labels, value in inner(t).items():
                key = frozenset((name, value) for name, value in labels if name in by)
                groups.setdefault(key, []).append(value)
            return {labels: combine(values) for labels, values in groups.items()}

        return made

    def function(self) -> Any:
        name = self.take()
        self.take("(")
        if name in ("rate", "increase"):
            matches, range_s, before = self.matcher(), self.duration(), self.offset()
            self.take(")")
            return lambda t: _risen(self.series, matches, t - before, range_s, per_second=name == "rate")
        quantile = float(self.take()) if name == "histogram_quantile" else 0.0
        if name == "histogram_quantile":
            self.take(",")
        inner = self.either()
        self.take(")")
        if name == "absent":
            return lambda t: {} if inner(t) else {frozenset(): 1.0}
        if name == "scalar":
            return lambda t: next(iter(found.values())) if len(found := inner(t)) == 1 else float("nan")
        return lambda t: _quantiles(quantile, inner(t))

    def selector(self) -> Any:
        matches, before = self.matcher(), self.offset()

        def made(t: float) -> Vector:
            found = {}
            for one in self.series:
                points = [v for at, v in one.points if t - before - LOOKBACK_S < at <= t - before]
                if points and matches(one.labels):
                    found[one.labels] = points[-1]
            return found

        return made

    def matcher(self) -> Callable[[Labels], bool]:
        kind, name = self.tokens[self.at]
        if kind != "word":
            raise NotKnown(f"{name!r} where a metric was due")
        self.take()
        rules = [(NAME, "=", name)]
        if self.at < len(self.tokens) and self.tokens[self.at][0] == "selector":
            text = self.take()[1:-1]
            rules += re.findall(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"', text)

        def matches(labels: Labels) -> bool:
            held = dict(labels)
            return all(_meets(held.get(label, ""), sign, value) for label, sign, value in rules)

        return matches

    def offset(self) -> int:
        """Seconds before the time asked for; 0 where none is named."""
        if self.peek() != "offset":
            return 0
        self.take()
        return self.duration()

    def duration(self) -> int:
        text = self.take().strip("[]")
        return int(text[:-1]) * UNITS[text[-1]]


def _meets(held: str, sign: str, value: str) -> bool:
    same = held == value if sign in ("=", "!=") else re.fullmatch(value, held) is not None
    return same != sign.startswith("!")


def _nameless(labels: Labels) -> Labels:
    return frozenset(pair for pair in labels if pair[0] != NAME)


def _over(above: float, below: float) -> float:
    return above / below if below else float("nan") if not above else float("inf")


def _risen(
    series: list[Samples], matches: Callable[[Labels], bool], t: float, range_s: int, *, per_second: bool
) -> Vector:
    """By how much counters rose, extrapolated to the window's ends as Prometheus does."""
    found = {}
    for one in series:
        points = [(at, v) for at, v in one.points if t - range_s <= at <= t]
        if len(points) < 2 or not matches(one.labels):
            continue
        risen = points[-1][1] - points[0][1]
        risen += sum(a for (_, a), (_, b) in pairwise(points) if b < a)  # a reset
        covered = points[-1][0] - points[0][0]
        between = covered / (len(points) - 1)
        start, end = points[0][0] - (t - range_s), t - points[-1][0]
        if risen > 0 and points[0][1] >= 0:
            start = min(start, covered * points[0][1] / risen)  # a counter is not below 0
        more = sum(gap if gap < between * 1.1 else between / 2 for gap in (start, end))
        risen *= (covered + more) / covered
        found[_nameless(one.labels)] = risen / range_s if per_second else risen
    return found


def _quantiles(quantile: float, buckets: Vector) -> Vector:
    """Of histograms by their cumulative buckets, linear within the bucket."""
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, value in buckets.items():
        held = dict(labels)
        key = frozenset((name, text) for name, text in labels if name != "le")
        groups.setdefault(key, []).append((float(held["le"]), value))
    found = {}
    for labels, counts in groups.items():
        counts.sort()
        wanted, before, below = quantile * counts[-1][1], 0.0, 0.0
        for bound, count in counts:
            if count >= wanted and count > 0:
                inside = (wanted - below) / (count - below) if count > below else 1.0
                found[labels] = before if bound == float("inf") else before + (bound - before) * inside
                break
            before, below = bound, count
    return found


def fires(expression: str, held_s: int, series: Series, at_s: int) -> bool:
    """Whether an alert with this expression and `for` fires at that time, evaluated each minute before: as
    long as the `for` is, for what held earlier does not matter.
    """
    evaluate = Reader(expression, series_of(series)).whole()
    if at_s < held_s:
        return False
    held: set[Labels] | None = None
    for t in range(at_s - held_s, at_s + 1, STEP_S):
        holds = {_nameless(labels) for labels in evaluate(float(t))}
        held = holds if held is None else held & holds
    return bool(held)
