"""All lifecycle models of one lake: learnt, judged on a later moment, kept on disk, asked about today.

    home/lifecycle/report.json      what was learnt, when, and how good it is
    home/lifecycle/<model>.json     the model

The latest moment, a span before the lake's end, judges; those at least a span before it teach. All look back
equally far. Who is judged on the last horizon is foretold by what was known before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.transforms import DAY
from training.lifecycle_fit import Line, Report, Rows, Scorer, fit, judge
from training.lifecycle_past import FUNCTION, Floats, Past
from training.lifecycle_targets import Target, functions_used, targets_of

FOLDER: Final = "lifecycle"
NEXT_FUNCTION: Final = "next_function"
MOMENTS: Final = 3  # that teach, at most, a third of a span apart
OFFERED: Final = 8  # functions scored for a customer
SAMPLED: Final = 6  # functions not begun, of each customer and moment, that teach
MOST_SPAN_DAYS: Final = 30.0
_LINE: Final = ("centre", "scale", "gaps", "weights")
_PAIR: Final = ("function_users", "function_rises", "function_like_theirs", "functions_used")


class LifecycleError(ValueError):
    """Nothing can be learnt or asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Made:
    """One model. `why_not`: why there is none."""

    name: str
    about: str
    scorer: Scorer | None
    report: Report | None
    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "about": self.about, "why_not": self.why_not,
            "report": None if self.report is None else self.report.to_json(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Moments:
    """`teach` and `judge`, POSIX seconds, the `span` after each in which labels come, and how far each looks
    `back`: as far as the first of them can.
    """

    teach: tuple[float, ...]
    judge: float
    span: float
    back: float


def moments_of(past: Past, span_days: float | None = None) -> Moments:
    """As many as the data bear. Raises LifecycleError where they are too short."""
    first, whole = float(past.at[0]), (past.now - float(past.at[0])) / DAY
    days = min(MOST_SPAN_DAYS, whole / 5) if span_days is None else span_days
    span = days * DAY
    judge_at = past.now - past.grace - span
    teach = [judge_at - (1 + k / 3) * span for k in range(MOMENTS)]
    teach = [at for at in teach if at - first >= span]
    if days < 1 or not teach:
        raise LifecycleError(
            f"the lake holds {whole:.1f} days: a horizon of {days:.1f} days needs {3 * max(days, 1):.0f}, a "
            "look back, what teaches and what judges (--days sets the horizon)"
        )
    return Moments(tuple(sorted(teach)), judge_at, span, min(teach) - first)


def train(
    past: Past,
    *,
    span_days: float | None = None,
    seed: int = 7,
    threads: int = 1,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[list[Made], Moments]:
    """Every model, the next function last."""
    when = moments_of(past, span_days)
    every = (*when.teach, when.judge)
    known = {at: past.known_at(at, when.back) for at in every}
    x = {at: known[at].features(at) for at in every}
    made: list[Made] = []
    for target in targets_of(past):
        told(target.name)
        learnt = Rows.joined([_rows(known[at], past, target, at, when.span, x[at]) for at in when.teach])
        held = _rows(known[when.judge], past, target, when.judge, when.span, x[when.judge])
        made.append(_made(target.name, target.about, learnt, held, past.names, seed, threads))
    told(NEXT_FUNCTION)
    pairs = [
        _pairs(known[at], past, at, when.span, x[at], np.random.default_rng([seed, k]))
        for k, at in enumerate(every)
    ]
    names = (*past.names, *_PAIR)
    about = "begins to use the function"
    made.append(_made(NEXT_FUNCTION, about, Rows.joined(pairs[:-1]), pairs[-1], names, seed, threads))
    return made, when


def _made(
    name: str, about: str, learnt: Rows, held: Rows, names: tuple[str, ...], seed: int, threads: int
) -> Made:
    scorer = fit(learnt, seed=seed, threads=threads)
    if scorer is None:
        n = int(learnt.label.sum())
        return Made(name, about, None, None, f"{n:,} of {len(learnt):,} teach: too few of either kind")
    if not 0 < held.label.sum() < len(held):
        return Made(name, about, None, None, "nobody to judge by in the last horizon")
    return Made(name, about, scorer, judge(scorer, learnt, held, names, seed=seed))


def _rows(known: Past, past: Past, target: Target, at: float, span: float, x: NDArray[np.float32]) -> Rows:
    concerned, label = target.asked(known, past, at, span)
    chosen = np.flatnonzero(concerned & ~past.refused)
    return Rows(x[chosen], label[chosen].astype(np.float64), chosen)


@dataclass(frozen=True, slots=True)
class _Functions:
    """What is known of functions at a moment: `rows` (m,) of the catalogue, users of each in the last span,
    how that rises, `like` (m, m) P(uses the second | uses the first), `has` (customers, m).
    """

    rows: NDArray[np.int64]
    users: Floats
    rise: Floats
    like: Floats
    has: NDArray[np.bool_]

    @classmethod
    def at(cls, past: Past, at: float, span: float) -> _Functions:
        rows = np.flatnonzero(past.compiled.table["kind"] == FUNCTION)
        place = np.full(len(past.items), -1)
        place[rows] = np.arange(len(rows))

        def used(since: float, until: float) -> NDArray[np.bool_]:
            who, what = functions_used(past, since, until)
            found = np.zeros((len(past), len(rows)), np.bool_)
            found[who, place[what]] = True
            return found

        has, before = used(at - 2 * span, at), used(at - 2 * span, at - span)
        lately = used(at - span, at)
        both = lately.T.astype(np.float64) @ lately
        like = both / (lately.sum(axis=0)[:, None] + 5.0)
        np.fill_diagonal(like, 0.0)
        rise = np.log((lately.sum(axis=0) + 5.0) / (before.sum(axis=0) + 5.0))
        return cls(rows, np.log1p(lately.sum(axis=0)), rise, like, has)

    def features(
        self, x: NDArray[np.float32], who: NDArray[np.int64], what: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(n, names and `_PAIR`) of customers and places among the functions."""
        count = self.has.sum(axis=1)
        taste = (self.has @ self.like) / np.maximum(count, 1)[:, None]
        own = np.stack([self.users[what], self.rise[what], taste[who, what], count[who]], axis=1)
        return np.hstack([x[who], own.astype(np.float32)])


def _pairs(
    then: Past, past: Past, at: float, span: float, x: NDArray[np.float32], rng: np.random.Generator
) -> Rows:
    """Customers seen lately and functions they do not use, some drawn for each: chances are of a function
    drawn so.
    """
    known = _Functions.at(then, at, span)
    seen = then.count(then.between(at - span, at)) > 0
    people = np.flatnonzero(seen & ~past.refused)
    if not len(people) or not len(known.rows):
        return Rows(np.zeros((0, len(past.names) + len(_PAIR)), np.float32), np.zeros(0), people[:0])
    m = len(known.rows)
    place = np.full(len(past.items), -1)
    place[known.rows] = np.arange(m)
    began = np.zeros((len(past), m), np.bool_)
    who, what = functions_used(past, at, at + span)
    began[who, place[what]] = True
    owner = np.repeat(people, min(SAMPLED, m))
    drawn = rng.integers(0, m, len(owner))
    cell = np.unique(owner * m + drawn)
    owner, drawn = cell // m, cell % m
    free = ~known.has[owner, drawn]
    owner, drawn = owner[free], drawn[free]
    return Rows(known.features(x, owner, drawn), began[owner, drawn].astype(np.float64), owner)


def scores(past: Past, models: dict[str, Scorer], when: Moments) -> dict[str, NDArray[np.float32]]:
    """Today's chances by model, (customers,) f4; NaN for whom the model is not about, or who refused."""
    past = past.known_at(past.now, when.back)
    x = past.features(past.now)
    found: dict[str, NDArray[np.float32]] = {}
    for target in targets_of(past):
        if target.name not in models:
            continue
        concerned, _ = target.asked(past, past, past.now, when.span)
        mine = np.flatnonzero(concerned & ~past.refused)
        column = np.full(len(past), np.nan, np.float32)
        if len(mine):
            column[mine] = models[target.name].chances(x[mine])
        found[target.name] = column
    return found


def next_functions(
    past: Past, scorer: Scorer, when: Moments
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(customers, item rows, chances): the `OFFERED` best functions that each customer seen lately does not
    use.
    """
    past = past.known_at(past.now, when.back)
    known, x = _Functions.at(past, past.now, when.span), past.features(past.now)
    people = np.flatnonzero((past.count(past.between(past.now - when.span, past.now)) > 0) & ~past.refused)
    m, keep = len(known.rows), min(OFFERED, len(known.rows))
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for start in range(0, len(people), 2_000):
        some = people[start : start + 2_000]
        who, what = np.repeat(some, m), np.tile(np.arange(m), len(some))
        p = scorer.chances(known.features(x, who, what)).reshape(len(some), m)
        p[known.has[some]] = -1.0
        best = np.argsort(-p, axis=1, kind="stable")[:, :keep]
        chance = np.take_along_axis(p, best, axis=1).ravel()
        good = chance >= 0
        parts.append(
            (np.repeat(some, keep)[good], known.rows[best.ravel()[good]], chance[good].astype(np.float32))
        )
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    who, what = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return who, what, np.concatenate([part[2] for part in parts])


def keep(home: Path, made: list[Made], when: Moments, *, at: float) -> Path:
    """Models and report under `home`; what was there before is replaced. Returns the report's path."""
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    for one in made:
        if one.scorer is not None:
            (folder / f"{one.name}.json").write_text(json.dumps(asdict(one.scorer)), encoding="utf-8")
    said = {
        "trained_at": at, "span_days": when.span / DAY, "back_days": when.back / DAY, "teach": when.teach,
        "judge": when.judge,
        "models": [one.to_json() for one in made],
    }  # fmt: skip
    path = folder / "report.json"
    path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return path


def kept(home: Path) -> tuple[dict[str, Scorer], dict[str, Any]]:
    """Models by name, and the report. Raises LifecycleError where nothing was trained."""
    folder = home / FOLDER
    try:
        said: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise LifecycleError("no lifecycle models yet: run fenliu lifecycle train") from None
    names = [one["name"] for one in said["models"] if (folder / f"{one['name']}.json").exists()]
    read = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    lines = {name: Line(*(tuple(one["line"][part]) for part in _LINE)) for name, one in read.items()}
    return {name: Scorer(**{**one, "line": lines[name]}) for name, one in read.items()}, said
