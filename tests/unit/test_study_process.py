"""Fits in a process of their own: the same model, and a peak of memory that is theirs."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from training.config import TrainConfig
from training.model import NEVER, Customers, Effort, Positives, TrainData
from training.study_process import FitDied, fit_apart, fit_here

ITEMS = 1_500
PARAMS = {"l2": 100.0, "pseudo": 0.01, "half_life_days": NEVER}


def data() -> TrainData:
    rng = np.random.default_rng(5)
    n = 4_000
    user, item = rng.integers(0, 200, n).astype(np.int32), rng.integers(0, ITEMS, n).astype(np.int32)
    events = Positives(user, item, np.arange(n, dtype=np.float64), np.ones(n, np.float32))
    return TrainData(events, Customers.unknown(200), np.zeros(ITEMS, np.uint8), float(n))


def test_a_fit_apart_is_the_same_model_and_knows_its_peak() -> None:
    here, apart = (
        fit(TrainConfig(models=("ease",)), "ease", PARAMS, data(), Effort(7, 1))
        for fit in (fit_here, fit_apart)
    )
    nothing = np.zeros(0, np.uint32)
    for n in (0, 3):
        past = np.arange(n, dtype=np.int32), np.ones(n, np.float32)
        scores = [one.model.represent(_history(*past), nothing, 0).values for one in (here, apart)]
        np.testing.assert_allclose(*scores, rtol=1e-6)
    matrix_mib = ITEMS**2 * 8 / 2**20  # the inverse is held in double precision
    assert matrix_mib < apart.peak_mib < 12 * matrix_mib + 60
    assert np.isnan(here.peak_mib)


def _history(rows: np.ndarray, weights: np.ndarray):
    from features.transforms import History

    return History(rows, weights)


class Killed(TrainConfig):
    """A configuration whose models end their process, as the kernel does when memory runs out."""

    def build_models(self) -> dict:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


def test_a_fit_that_was_killed_says_what_to_do() -> None:
    few = replace(data(), customers=Customers.unknown(200))
    with pytest.raises(FitDied, match="for memory"):
        fit_apart(Killed(), "ease", PARAMS, few, Effort(7, 1))
