"""The race's own arithmetic: the fullest window, and counts that outlive the process that made them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from training.bench.race import most_in_window
from training.bench.race_counts import Count, Counts, summed
from training.bench.race_phones import Truth


def test_the_fullest_window_counts_displays_in_time_only():
    seen = [(100, False), (104, False), (109, False), (110, False), (111, True), (130, False)]
    entries = {bytes([number]): one for number, one in enumerate(seen)}
    assert most_in_window(Truth(entries=entries), 10) == 3  # (100, 110]: a window is open at its beginning
    assert most_in_window(Truth(entries=entries), 11) == 4
    assert most_in_window(Truth(), 10) == 0


def _count_and_die(path: Path) -> None:
    counts = Counts(path)
    counts.add(Count.ATTEMPTS, 3)
    counts.add(Count.CAPPED)
    os.kill(os.getpid(), signal.SIGKILL)


def test_counts_outlive_a_kill(tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=_count_and_die, args=(tmp_path / "a.counts",)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    Counts(tmp_path / "b.counts").add(Count.ATTEMPTS, 4)
    total = summed([*tmp_path.glob("*.counts"), tmp_path / "never_started.counts"])
    assert total[Count.ATTEMPTS] == 7 and total[Count.CAPPED] == 1 and total[Count.NO_UNIT] == 0
