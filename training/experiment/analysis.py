"""What an experiment says: by arm and metric the difference with an interval that holds at every look.

The first look is the first whole day; every day since has been one, whether somebody looked or not. Intervals
of the criterion share α over the arms compared with the control; of the other metrics each stands alone, and
what is called a finding among them is corrected for their number (Benjamini and Hochberg).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import pairwise
from math import isfinite, nan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.experiment.collect import Collected
from training.experiment.metrics import Metric
from training.experiment.mismatch import Mismatch, mismatch
from training.experiment.sequential import ALPHA, Looks, critical, judged
from training.experiment.statistics import Difference, adjusted, benjamini_hochberg, difference
from training.experiment.wording import between

MOST_SEGMENTS: Final = 12  # values of one dimension
LEAST_IN_SEGMENT: Final = 100


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: names, weights by arm (the control first), the planned length in days."""

    experiment: str
    weights: Mapping[str, float]
    criterion: Metric
    metrics: tuple[Metric, ...]  # the criterion among them
    guardrails: Mapping[str, float]  # metric -> the relative change for the worse that is tolerated
    planned_days: int
    alpha: float = ALPHA
    matures: int = 0  # days after the last page until everything is told that came of it
    units: str = "units"  # what is counted, in words
    among: int = 0  # arms that the experiment compares with its control, where they are more than these
    off_at: datetime | None = None  # when the arm was switched off, which ended the comparison
    about: tuple[str, ...] = ()  # sentences: what is asked, by whom, what each arm changes, since when

    def planned(self, metric: Metric) -> int:
        """Days until the metric's last look: what matures is looked at for longer."""
        return self.planned_days + (self.matures if metric.matures else 0)

    @property
    def criterion_alpha(self) -> float:
        """Of one arm: α is shared over the arms that are compared with the control."""
        return self.alpha / max(self.among, len(self.weights) - 1)


@dataclass(frozen=True, slots=True)
class Compared:
    """One arm against the control on one metric."""

    arm: str
    metric: str
    control: float
    treatment: float
    absolute: float
    low: float  # of the difference, at every look
    high: float
    relative: float
    relative_low: float
    relative_high: float
    fixed_p: float  # of a single look: too small for whoever looks every day
    p: float  # holds at every look: below α exactly where the interval leaves out zero
    adjusted_p: float  # for the number of arms (criterion), of arms and metrics (others): makes the verdict
    reduction: float  # of the variance, by what was known before
    verdict: str  # better, worse, not decided
    by_day: tuple[tuple[str, float, float, float], ...]  # date, relative difference, low, high


@dataclass(frozen=True, slots=True)
class Answer:
    question: Question
    units: Mapping[str, int]
    days: tuple[str, ...]
    mismatch: Mismatch
    compared: tuple[Compared, ...]
    breached: tuple[str, ...]  # guardrails, in words
    novelty: Mapping[str, tuple[tuple[int, float, float, float], ...]]  # arm -> (age, difference, low, high)
    segments: Mapping[str, tuple[tuple[str, str, int, float, float, float], ...]]  # … (arm, value, units, …)
    crossed: int

    def of(self, arm: str, metric: str) -> Compared:
        return next(one for one in self.compared if (one.arm, one.metric) == (arm, metric))

    @property
    def summary(self) -> str:
        """One sentence for whoever decides."""
        if self.question.off_at is None:
            return self._summary
        arm = list(self.question.weights)[1]
        at = self.question.off_at.strftime("%Y-%m-%d %H:%M UTC")
        return f"{arm} was switched off at {at}. Until then: {self._summary}"

    @property
    def _summary(self) -> str:
        if self.mismatch.found:
            return "Do not decide by this: the arms are not as large as they were assigned to be."
        told = [one for one in self.compared if one.metric == self.question.criterion.name]
        better = [one for one in told if one.verdict == "better"]
        worse = [one.arm for one in told if one.verdict == "worse"]
        if better:
            best = max(better, key=lambda one: one.absolute)
            caution = f" But {'; '.join(self.breached)}." if self.breached else ""
            within = between(best.relative_low, best.relative_high, "to")
            return f"{best.arm} is better: {best.relative:+.2%} {best.metric} ({within}).{caution}"
        if worse:
            return f"Worse than the control: {', '.join(worse)}."
        planned = self.question.planned(self.question.criterion)
        left = planned - len(self.days)
        going = left > 0 and self.question.off_at is None
        wait = f" {left} of {planned} planned days are left." if going else ""
        return f"Not decided: no arm's {self.question.criterion.name} differs from the control's.{wait}"

    def document(self) -> dict[str, Any]:
        """For machines: numbers that are not finite are null."""
        raw = asdict(self)
        raw["question"] = {
            "experiment": self.question.experiment,
            "criterion": self.question.criterion.name,
            "weights": dict(self.question.weights),
            "planned_days": self.question.planned_days,
            "matures_days": self.question.matures,
            "about": list(self.question.about),
            "alpha": self.question.alpha,
            "off_at": None if self.question.off_at is None else self.question.off_at.isoformat(),
        }
        raw["summary"] = self.summary
        raw["mismatch"]["found"] = self.mismatch.found
        return {name: _finite(value) for name, value in raw.items()}


def answer(question: Question, seen: Collected) -> Answer:
    """Everything at the last day's look."""
    arms = seen.arms
    compared: list[Compared] = []
    for at in range(1, len(arms)):
        compared += [_compared(question, seen, metric, at) for metric in question.metrics]
    compared = corrected(question, compared)
    units = {arm: seen.starts[at + 1] - seen.starts[at] for at, arm in enumerate(arms)}
    return Answer(
        question,
        units,
        tuple(day.date for day in seen.days),
        mismatch(
            units, question.weights, segments=_sizes(seen), crossed=seen.crossed, degraded=seen.degraded
        ),
        tuple(compared),
        tuple(breaches(question, compared)),
        _novelty(seen),
        {name: _segment(question, seen, values) for name, values in seen.segments.items()},
        seen.crossed,
    )


def _compared(question: Question, seen: Collected, metric: Metric, at: int) -> Compared:
    looks = []
    watched = seen.days if metric.matures else seen.days[: seen.exposed]
    for number, day in enumerate(watched):
        control, treatment = day.moments[metric.name][0], day.moments[metric.name][at]
        if min(control.n, treatment.n) < 2:
            continue
        found = adjusted(control, treatment, ratio=metric.bottom is not None)
        if found.absolute.variance > 0 and isfinite(found.absolute.value):
            looks.append((number, found))
    last = seen.days[-1].moments[metric.name]
    plain = difference(last[0], last[at], ratio=metric.bottom is not None)
    return compared_over(question, metric, seen.arms[at], [day.date for day in seen.days], looks, plain)


def compared_over(
    question: Question,
    metric: Metric,
    arm: str,
    dates: Sequence[str],
    looks: Sequence[tuple[int, Difference]],
    plain: Difference,
) -> Compared:
    """Differences day by day, as (number of the date, difference); the running intersection is not taken, for
    effects may change. `plain`: the means, where nothing varies, or nobody was met.
    """
    if not looks:
        gap = plain.absolute.value
        means = (plain.control.value, plain.treatment.value, gap, nan, nan, plain.relative, nan, nan)
        return Compared(arm, metric.name, *means, 1.0, 1.0, 1.0, 0.0, "not decided", ())
    days = []
    alpha = question.criterion_alpha if metric == question.criterion else question.alpha
    fraction = tuple((number + 1) / question.planned(metric) for number, _ in looks)
    variance = tuple(np.maximum.accumulate([found.information for _, found in looks]).tolist())
    planned = Looks(fraction, variance, alpha)
    bounds, p = judged(looks[-1][1].z, planned)
    for (number, found), bound in zip(looks, bounds.tolist(), strict=True):
        days.append((dates[number], found.relative, *found.relative_interval(bound)))
    last = looks[-1][1]
    low, high = last.absolute.interval(float(bounds[-1]))
    return Compared(
        arm,
        metric.name,
        last.control.value,
        last.treatment.value,
        last.absolute.value,
        low,
        high,
        last.relative,
        *last.relative_interval(float(bounds[-1])),
        last.p,
        p,
        p,
        last.reduction,
        "not decided",  # until all are known: corrected
        tuple(days),
    )


def corrected(question: Question, compared: list[Compared]) -> list[Compared]:
    """The criterion's p times the number of arms, as its interval has it (Bonferroni); all others together
    by Benjamini and Hochberg. By these is the verdict.
    """
    rest = [at for at, one in enumerate(compared) if one.metric != question.criterion.name]
    others = dict(zip(rest, benjamini_hochberg([compared[at].p for at in rest]), strict=True))
    arms = question.alpha / question.criterion_alpha
    better = {one.name: one.better for one in question.metrics}
    made = []
    for at, one in enumerate(compared):
        p = others[at] if at in others else min(1.0, one.p * arms)
        verdict = "not decided"
        if p < question.alpha:
            verdict = "better" if (one.absolute > 0) == (better[one.metric] == "higher") else "worse"
        made.append(replace(one, adjusted_p=p, verdict=verdict))
    return made


def breaches(question: Question, compared: Sequence[Compared]) -> list[str]:
    """Guardrails that an arm makes worse by more than is tolerated, beyond doubt."""
    found = []
    for one in compared:
        tolerated = question.guardrails.get(one.metric)
        if tolerated is None:
            continue
        lower = next(m for m in question.metrics if m.name == one.metric).better == "lower"
        harm = one.relative_low if lower else -one.relative_high
        if harm > tolerated:
            found.append(f"{one.arm} makes {one.metric} worse by at least {harm:.2%}")
        elif one.control == 0 and (one.low if lower else -one.high) > 0:  # beyond any tolerance of nothing
            found.append(
                f"{one.arm} makes {one.metric} worse: {one.treatment:.3g} where the control has none"
            )
    return found


def _sizes(seen: Collected) -> dict[str, dict[str, list[int]]]:
    """Units by arm within each segment, for the mismatch's causes."""
    found: dict[str, dict[str, list[int]]] = {}
    for name, values in seen.segments.items():
        known, code = np.unique(values, return_inverse=True)
        counts = np.array(
            [np.bincount(code[low:high], minlength=len(known)) for low, high in pairwise(seen.starts)]
        )
        largest = np.argsort(-counts.sum(axis=0), kind="stable")[:MOST_SEGMENTS]
        found[name] = {str(known[at]): counts[:, at].tolist() for at in largest.tolist()}
    return found


def _novelty(seen: Collected) -> dict[str, tuple[tuple[int, float, float, float], ...]]:
    """By days since the first page, the criterion's numerator per unit and day, for one look at each."""
    found = {}
    watched = seen.novelty
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = watched.total / watched.n
        spread = (watched.squares / watched.n - mean**2) / watched.n
    for at in range(1, len(seen.arms)):
        gap, error = mean[at] - mean[0], np.sqrt(spread[at] + spread[0])
        found[seen.arms[at]] = tuple(
            (age, float(gap[age]), float(gap[age] - 1.96 * error[age]), float(gap[age] + 1.96 * error[age]))
            for age in range(len(gap))
            if min(watched.n[0, age], watched.n[at, age]) >= LEAST_IN_SEGMENT
        )
    return found


def _segment(
    question: Question, seen: Collected, values: NDArray[Any]
) -> tuple[tuple[str, str, int, float, float, float], ...]:
    """Where the criterion differs: relative difference of each value, corrected for their number."""
    known, counts = np.unique(values, return_counts=True)
    chosen = [
        value
        for value, count in sorted(zip(known, counts, strict=True), key=lambda pair: -pair[1])[:MOST_SEGMENTS]
        if count >= LEAST_IN_SEGMENT
    ]
    days = len(seen.days) if question.criterion.matures else seen.exposed
    fraction = min(1.0, days / question.planned(question.criterion))
    bound = float(
        critical(Looks((fraction,), (1.0,), question.alpha / max(1, len(chosen) * (len(seen.arms) - 1))))[0]
    )
    found = []
    for value in chosen:
        moments = seen.moments(question.criterion, values == value)
        for at in range(1, len(seen.arms)):
            if min(moments[0].n, moments[at].n) < 2:
                continue
            gap = adjusted(moments[0], moments[at], ratio=question.criterion.bottom is not None)
            units = moments[0].n + moments[at].n
            found.append((seen.arms[at], str(value), units, gap.relative, *gap.relative_interval(bound)))
    return tuple(found)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
