"""One verdict: interval, p and what is said of an arm agree, and chance findings are as rare as promised."""

from __future__ import annotations

import numpy as np
import pytest

from training.experiment.analysis import Answer, Question, answer
from training.experiment.collect import Collected, Day, Novelty
from training.experiment.metrics import Metric
from training.experiment.statistics import Moments

ARMS = ("control", "one", "two")
UNITS = 1_000
ALPHA = 0.05


def told(z: np.ndarray, planned: int, *, alpha: float = ALPHA) -> Answer:
    """An answer where `z` (days, arms but the control, metrics) are the standard errors of the difference."""
    days, arms, count = z.shape
    metrics = tuple(Metric(f"m{at}", f"m{at}") for at in range(count))
    names, one = ARMS[: arms + 1], np.ones((1, 1))
    seen = []
    for day in range(days):
        n = UNITS * (day + 1)
        gap = z[day] * (2 / n) ** 0.5
        of = {
            metric.name: tuple(Moments(n, np.array([10.0 + shift]), one) for shift in (0.0, *gap[:, at]))
            for at, metric in enumerate(metrics)
        }
        seen.append(Day(f"2026-11-{day + 1:02}", (n,) * len(names), of))
    nothing = Novelty(*(np.zeros((len(names), days)) for _ in range(3)))
    starts = tuple(range(0, UNITS * (arms + 1) + 1, UNITS))
    first = np.zeros(starts[-1], np.int16)
    collected = Collected(names, tuple(seen), nothing, starts, first, {}, {}, 0, {}, days)
    return answer(
        Question("e", dict.fromkeys(names, 1.0), metrics[0], metrics, {}, planned, alpha), collected
    )


@pytest.mark.parametrize("planned", [2, 14])
def test_interval_p_and_verdict_agree(planned: int) -> None:
    """The criterion's for two arms, and of the others p alone: one after the plan's end as well."""
    sides = set()
    for last in np.linspace(1.5, 4.2, 10):
        z = np.array([[[0.4, 1.0], [-0.2, -1.0]], [[0.9, 0.3], [0.3, 0.3]], [[last, -last], [-last, last]]])
        found = told(z, planned)
        for one in found.compared:
            alpha = ALPHA / 2 if one.metric == "m0" else ALPHA
            outside = one.low > 0 or one.high < 0
            assert outside == (one.p < alpha)
            sides.add((one.metric, outside))
            if one.metric == "m0":
                decided = {"one": "better", "two": "worse"}[one.arm] if outside else "not decided"
                assert one.verdict == decided and (one.adjusted_p < ALPHA) == outside
            else:
                assert (one.verdict == "not decided") == (one.adjusted_p >= ALPHA)
    assert sides == {("m0", True), ("m0", False), ("m1", True), ("m1", False)}


def test_of_twenty_null_metrics_a_finding_is_named_as_seldom_as_promised() -> None:
    rng, runs = np.random.default_rng(12), 120
    named = alone = 0
    for _ in range(runs):
        found = told(rng.normal(size=(1, 1, 21)), 1)
        others = [one for one in found.compared if one.metric != "m0"]
        named += any(one.verdict != "not decided" for one in others)
        alone += any(one.p < ALPHA for one in others)
    assert named / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5 and alone / runs > 0.4
