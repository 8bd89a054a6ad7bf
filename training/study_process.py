"""A fit in a process of its own: what it costs is then its own, not what earlier fits left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from serving.models import ServedModel, load_model
from training.config import TrainConfig
from training.ials import warm_up
from training.model import Effort, Params, TrainData

FEWEST_ROWS: Final = 20_000  # training rows below which a process costs more than it tells


class Fit(NamedTuple):
    """A fitted model, its seconds, and its peak of resident memory above what the data took (MiB).

    `peak_mib` is NaN where the fit had no process of its own.
    """

    model: ServedModel
    seconds: float
    peak_mib: float


class FitDied(RuntimeError):
    """The process of a fit was killed; the message says what to do."""


def fit_here(config: TrainConfig, name: str, params: Params, data: TrainData, effort: Effort) -> Fit:
    """The fit in this process: no peak."""
    started = time.perf_counter()
    model = config.build_models()[name].fit(data, params, effort)
    return Fit(model, time.perf_counter() - started, float("nan"))


def fit_apart(config: TrainConfig, name: str, params: Params, data: TrainData, effort: Effort) -> Fit:
    """The fit in a fresh process, the model handed over as a bundle holds it.

    Raises FitDied where the system killed it, and whatever the fit itself raised.
    """
    with TemporaryDirectory(prefix="fenliu-fit-") as folder:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        with pool:
            try:
                asked = pool.submit(_fit, config, name, dict(params), data, effort, folder)
                seconds, peak = asked.result()
            except BrokenProcessPool:
                raise FitDied(
                    f"the fit of {name} was killed, most likely for memory: try fewer factors, or --models "
                    "without it"
                ) from None
        return Fit(load_model(Path(folder)), seconds, peak)


def _fit(
    config: TrainConfig, name: str, params: Params, data: TrainData, effort: Effort, folder: str
) -> tuple[float, float]:
    if name == "ials":
        warm_up()
    before = _forget_peak()
    started = time.perf_counter()
    model = config.build_models()[name].fit(data, params, effort)
    seconds = time.perf_counter() - started
    peak = _peak() - before
    model.save(Path(folder))
    return seconds, max(peak, 0.0)


def _forget_peak() -> float:
    """Start the system's record of the peak anew, where it lets us; MiB resident now, or at most so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> float:
    """MiB. `ru_maxrss` alone would begin with the parent's: Linux hands it on through exec."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
