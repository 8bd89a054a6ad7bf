"""The bandit: which creative of an item works for which audience.

Linear Thompson sampling with context (Agrawal and Goyal 2013), the context a segment of customers: the reward
of arm a in cell s is b + α_a + β_s + γ_as, each with a normal prior, so that a cell of which little is known
borrows from the others. The posterior is told in batches. Thompson's chances, the probability that an arm is
the best, are worked out then by draws from the posterior and kept as a table: what a page draws is drawn from
the table, so its propensity is exact whatever the table cost to make.

Everything here is a value and pure. `Learned` is one version: what replicas draw by, and all that the next
version needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

Floats = NDArray[np.float64]
K = TypeVar("K")
Counts = Mapping[K, tuple[float, float]]  # clicks expected, and met
CELLS: Final = 32  # segments 0 (unknown) … 31; those beyond share the last
FLOOR: Final = 0.002  # least chance of an arm: estimates from the log stay possible
DRAWS: Final = 1_000  # of the posterior, per cell
EFFECT: Final = 0.3  # prior deviation of an arm's effect, relative to the base rate
MIXED: Final = 0.1  # … of an arm's effect in one cell
CELL: Final = 0.5  # … of a cell's
WARM: Final = 20.0  # displays that the bundle's base rate weighs as
RESHAPE: Final = (0.9, 0.3)  # of the posterior's deviation when drawing (Chapelle and Li 2011): from, to …
RESHAPED: Final = (1e3, 1e5)  # … at so many displays of the group, by their logarithm
USUAL: Final = 0.05  # base rate where nothing is known
HOUR_S: Final = 3_600.0
HALF_LIFE_S: Final = 30 * 86_400.0  # what was seen counts half after so long
MOST_ARMS: Final = 12
WORTH_IT: Final = 0.02  # a table is made anew when so much more was displayed, relative to what it is of
MOST_REMADE: Final = 100  # at once: a second of one core


class BanditError(ValueError):
    """What claims to be a version cannot be read."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Of one group. Rows are cells as `cells` names them, the last is for every other cell.

    `chances` (S + 1, K); `mean`, `deviation` (S + 1, K) of the posterior; `loss` (S + 1,): the part of the
    best arm's reward that drawing by `chances` gives up in expectation, by the posterior.
    """

    arms: tuple[str, ...]
    cells: tuple[int, ...]
    chances: Floats
    mean: Floats
    deviation: Floats
    loss: Floats
    displays: float  # that it was made of

    def row(self, cell: int) -> int:
        """The row of a cell."""
        return self.cells.index(cell) if cell in self.cells else len(self.cells)


@dataclass(slots=True)
class Seen:
    """What a group's arms met: (K, CELLS) displays, rewards and squares of rewards; decayed."""

    arms: tuple[str, ...]
    shown: Floats
    reward: Floats
    squares: Floats

    @classmethod
    def none(cls, arms: Sequence[str]) -> Seen:
        return cls(tuple(arms), *(np.zeros((len(arms), CELLS)) for _ in range(3)))

    def of(self, arms: Sequence[str]) -> Seen:
        """The same with these arms too: new ones have met nothing, those that are gone are remembered."""
        fresh = [name for name in arms if name not in self.arms][: max(0, MOST_ARMS - len(self.arms))]
        if not fresh:
            return self
        grown = [np.vstack([one, np.zeros((len(fresh), CELLS))]) for one in self.columns]
        return Seen((*self.arms, *fresh), *grown)

    def decayed(self, seconds: float) -> Seen:
        left = 0.5 ** (max(seconds, 0.0) / HALF_LIFE_S)
        return Seen(self.arms, *(one * left for one in self.columns))

    def plain(self) -> list[Any]:
        """As JSON values, cells that met nothing left out."""
        cells = np.flatnonzero(self.shown.any(axis=0))
        return [self.arms, cells.tolist(), *(np.round(one[:, cells], 6).tolist() for one in self.columns)]

    @classmethod
    def read(cls, raw: Sequence[Any]) -> Seen:
        """What `plain` wrote. Raises ValueError and the like."""
        arms, cells, *rest = raw
        made = cls.none(arms)
        for column, told in zip(made.columns, rest, strict=True):
            column[:, cells] = told
        return made

    @property
    def columns(self) -> tuple[Floats, Floats, Floats]:
        return self.shown, self.reward, self.squares


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """One version. By key64 of the item; arms are creatives, named by their key32 in hex.

    `until`: POSIX seconds; every page decided before has been counted. `seen`: what the tables were made of.
    `fresh`: of new items by key, `usual`: of known ones by place, both on pages of `bundle`
    (serving.newcomer_pages).
    """

    made_at: float = 0.0
    until: float = 0.0
    tables: Mapping[int, Table] = field(default_factory=dict)
    seen: Mapping[int, Seen] = field(default_factory=dict)
    bundle: str = ""
    fresh: Counts[int] = field(default_factory=dict)
    usual: Counts[str] = field(default_factory=dict)
    version: str = ""  # digest of the whole text; "" before the first

    def encode(self, *, whole: bool = True) -> bytes:
        """JSON; the same value gives the same bytes. Not `whole`: what decisions read of it."""
        seen = {f"{key}": one.plain() for key, one in sorted(self.seen.items())}
        return orjson.dumps(
            {
                "made_at": self.made_at,
                "until": self.until,
                "tables": {f"{key}": _plain(table) for key, table in sorted(self.tables.items())},
                "seen": seen if whole else {},
                "bundle": self.bundle,
                "fresh": {f"{key}": one for key, one in sorted(self.fresh.items())},
                "usual": dict(sorted(self.usual.items())) if whole else {},
            }
        )


NOTHING_LEARNED: Final = Learned()


def version_of(body: bytes) -> str:
    return blake2b(body, digest_size=6).hexdigest()


def decode_learned(body: bytes, version: str = "") -> Learned:
    """`version` where the text is not the whole of it. Raises BanditError."""
    try:
        raw: dict[str, Any] = orjson.loads(body)
        seen = {int(key): Seen.read(one) for key, one in raw["seen"].items()}
        tables = {int(key): _table(one) for key, one in raw["tables"].items()}
        fresh = {int(key): (float(told), float(met)) for key, (told, met) in raw.get("fresh", {}).items()}
        return Learned(
            *(float(raw["made_at"]), float(raw["until"]), tables, seen, str(raw.get("bundle", "")), fresh),
            {place: (float(told), float(met)) for place, (told, met) in raw.get("usual", {}).items()},
            version or version_of(body),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as bad:
        raise BanditError(f"a version of the bandit cannot be read: {str(bad)[:120]}") from None


def learned(
    seen: Mapping[int, Seen],
    base: Callable[[int], float],
    last: Learned = NOTHING_LEARNED,
    *,
    made_at: float,
    until: float,
    bundle: str = "",
    fresh: Counts[int] | None = None,
    usual: Counts[str] | None = None,
    hourly: Collection[int] = (),
) -> Learned:
    """The next version. `base`: the rate of an item that the bundle knows of; the warm start. `hourly`:
    groups whose table stays as it is within an hour.

    A table takes milliseconds, so those are made anew of which the most was learned since; others stay.
    """
    tables = {key: last.tables[key] for key in seen if key in last.tables}
    grown = {key: _growth(one, tables.get(key)) for key, one in seen.items()}
    if int(last.made_at // HOUR_S) == int(made_at // HOUR_S):
        grown |= {key: 0.0 for key in hourly if key in tables}
    due = sorted((key for key, growth in grown.items() if growth > WORTH_IT), key=lambda key: -grown[key])
    for key in due[:MOST_REMADE]:
        tables[key] = table_of(seen[key], base(key), seed=key ^ int(made_at))
    return decode_learned(Learned(made_at, until, tables, seen, bundle, fresh or {}, usual or {}).encode())


def _growth(seen: Seen, table: Table | None) -> float:
    """How much more is known than when the table was made, relative to that."""
    total = float(seen.shown.sum())
    if table is None or len(table.arms) != len(seen.arms):
        return total
    return abs(total - table.displays) / max(table.displays, 1.0)


def table_of(seen: Seen, base: float, *, seed: int, draws: int = DRAWS) -> Table:
    """Posterior and Thompson's chances of one group."""
    cells = tuple(np.flatnonzero(seen.shown.sum(axis=0)).tolist())
    mean, cov = posterior(seen, cells, base)
    k, rows = len(seen.arms), len(cells) + 1
    means = mean.reshape(k, rows).T
    # Chances are by cell, so only the arms of one cell need to be drawn together.
    within = np.einsum("arbr->rab", cov.reshape(k, rows, k, rows))
    deviation: Floats = np.sqrt(np.maximum(np.diagonal(within, axis1=1, axis2=2), 0.0))
    root = np.linalg.cholesky(within + 1e-12 * max(float(np.trace(cov)), 1e-12) * np.eye(k))
    noise = np.random.default_rng(seed).standard_normal((k, draws))
    total = float(seen.shown.sum())
    sampled = means[:, :, None] + reshape_of(total) * (root @ noise)  # (rows, k, draws)
    best = sampled.max(axis=1)
    won = (sampled == best[:, None]).mean(axis=2)  # (rows, k)
    chances = FLOOR + (1 - k * FLOOR) * won
    chances = np.round(chances / chances.sum(axis=1, keepdims=True), 6)
    chances[:, 0] += 1 - chances.sum(axis=1)
    top = best.mean(axis=1)
    given = (chances * means).sum(axis=1)
    loss: Floats = np.clip((top - given) / np.maximum(np.abs(top), 1e-12), 0.0, 1.0)
    means, deviation, loss = means.round(9), deviation.round(9), loss.round(6)
    return Table(seen.arms, cells, chances, means, deviation, loss, total)


def reshape_of(displays: float) -> float:
    """What part of the posterior's deviation draws have.

    Most while little is known, when a wrong creative would be stuck to for long; later what drawing finds
    is worth less than it costs, and the floor goes on looking.
    """
    return float(np.interp(np.log10(max(displays, 1.0)), np.log10(RESHAPED), RESHAPE))


def posterior(seen: Seen, cells: Sequence[int], base: float) -> tuple[Floats, Floats]:
    """Mean (K·R,) and covariance of the rewards, arm by arm; R: the cells, and one that is unknown."""
    k, rows, at = len(seen.arms), len(cells) + 1, list(cells)
    shown, reward = np.zeros((k, rows)), np.zeros((k, rows))
    shown[:, :-1], reward[:, :-1] = seen.shown[:, at], seen.reward[:, at]
    total = float(shown.sum())
    rate = (float(reward.sum()) + base * WARM) / (total + WARM)
    usual = rate * (1 - rate) if 0 < rate < 1 else rate**2
    spread = (float(seen.squares[:, at].sum()) - total * rate**2 + usual * WARM) / (total + WARM)
    met = np.flatnonzero(shown.ravel() > 0)
    same_arm, same_cell = _alike(k, rows)
    prior = rate**2 * (EFFECT**2 * same_arm + CELL**2 * same_cell + MIXED**2 * np.eye(k * rows))
    if not len(met):
        return np.full(k * rows, rate), prior
    noise = max(spread, 1e-12) / shown.ravel()[met]
    told = reward.ravel()[met] / shown.ravel()[met] - rate
    root = np.linalg.cholesky(prior[np.ix_(met, met)] + np.diag(noise))
    gain = np.linalg.solve(root, prior[met])
    return rate + gain.T @ np.linalg.solve(root, told), prior - gain.T @ gain


@lru_cache(maxsize=64)
def _alike(k: int, rows: int) -> tuple[Floats, Floats]:
    """(K·R, K·R): 1 where two have the arm in common; and the cell."""
    arm, cell = np.repeat(np.arange(k), rows), np.tile(np.arange(rows), k)
    return (arm[:, None] == arm).astype(np.float64), (cell[:, None] == cell).astype(np.float64)


@lru_cache(maxsize=MOST_ARMS)
def untold(k: int) -> Table:
    """Of k arms of which nothing is known."""
    names = tuple(str(number) for number in range(k))
    even = np.full((1, k), 1 / k)
    made = table_of(Seen.none(names), USUAL, seed=0)
    return Table(names, (), even, made.mean, made.deviation, made.loss, 0.0)


def cell_of(segment: int) -> int:
    return min(max(segment, 0), CELLS - 1)


def _plain(table: Table) -> list[Any]:
    return [
        table.arms, table.cells, table.displays,
        *(one.tolist() for one in (table.chances, table.mean, table.deviation, table.loss)),
    ]  # fmt: skip


def _table(raw: Sequence[Any]) -> Table:
    arms, cells, displays, *rest = raw
    chances, mean, deviation, loss = (np.array(one, np.float64) for one in rest)
    if chances.shape != (len(cells) + 1, len(arms)) or not np.isclose(chances.sum(axis=1), 1).all():
        raise ValueError("chances that are none")
    return Table(tuple(arms), tuple(cells), chances, mean, deviation, loss, float(displays))
