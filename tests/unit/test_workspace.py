"""The folder of a run: one training at a time, and what a full disk says."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from features.store import StoreUnavailable
from serving.settings import Settings
from training import workspace
from training.lake_commands import events_ingest
from training.workspace import DiskFull, TrainingBusy, Workspace, alone, prune, writing_to

HOLDING = """
import sys, time
from pathlib import Path
from training.workspace import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_training_that_was_killed_holds_nothing_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(TrainingBusy, match=rf"process {other.pid}\)"), alone(tmp_path):
            pass
        other.kill()
    with alone(tmp_path):
        assert (tmp_path / "train.lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_no_more_is_named(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskFull, match=r"Make room.*run again") as caught, writing_to(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "part"))
    assert str(tmp_path) in str(caught.value) and os.strerror(number).lower() in str(caught.value)


def test_an_error_without_a_number_is_the_disk_s_when_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="4064 written"), writing_to(tmp_path):
        raise OSError("5550 requested and 4064 written")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda _: usage._replace(free=4096))
    with pytest.raises(DiskFull, match="4 KiB free"), writing_to(tmp_path):
        raise OSError("5550 requested and 4064 written")


@pytest.mark.parametrize("error", [StoreUnavailable("away"), FileNotFoundError(errno.ENOENT, "gone", "x")])
def test_other_errors_stay_what_they_are(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(type(error)), writing_to(tmp_path):
        raise error


def test_a_step_counts_once_it_has_ended_with_the_same_key(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "run")
    (work.fresh("models") / "half").write_text("x")
    assert work.done("models", "k") is None  # killed before its end
    assert list(work.fresh("models").iterdir()) == []
    work.finish("models", "k", {"n": 1})
    assert work.done("models", "k") == {"n": 1} and work.done("models", "other") is None
    assert work.last("models") == {"n": 1}
    (tmp_path / "run" / "models.done.json").write_text('{"key": "k", "res')
    assert work.done("models", "k") is None and work.last("models") is None
    prune(tmp_path, 0)
    prune(tmp_path / "never made", 0)
    assert list(tmp_path.iterdir()) == []


def test_ingest_waits_for_no_training_but_says_that_one_is_at_work(tmp_path):
    settings = Settings(home=tmp_path)
    with alone(tmp_path), pytest.raises(TrainingBusy, match="another training is at work"):
        events_ingest(Namespace(), settings)
