"""Booking in a process of its own: half a minute of arithmetic over the replay sample delays no page.

The process is the command line itself (`fenliu plan check FILE --whole --json`), on the same registry and
home, of lowest priority, one at a time and not for ever.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving.errors import Problem
from serving.plan import Plan, PlanError
from serving.settings import Settings

LOG: Final = logging.getLogger("fenliu.check")
ROOT: Final = Path(__file__).parents[1]  # where `fenliu` is imported from, whatever the working folder
SAMPLE: Final = "sample/manifest.json"  # in the home, once there is a replay sample to decide again
NO_SAMPLE: Final = {"missing": "there is no replay sample in this home: fenliu plan sample"}
LIMIT_S: Final = 180.0
NICENESS: Final = 15
_FORECAST: Final = ("-m", "fenliu", "plan", "check", "--whole", "--json")


class CheckProcess:
    """A `plan_fit.Booking`. Blocking: called from a thread; `close` ends what is running."""

    def __init__(
        self, settings: Settings, *, limit_s: float = LIMIT_S, command: tuple[str, ...] = _FORECAST
    ) -> None:
        self._settings, self._limit_s, self._command = settings, limit_s, command
        self._one = threading.Lock()
        self._running: subprocess.Popen[str] | None = None
        self._closed = False

    def __call__(self, plan: Plan) -> Mapping[str, Any]:
        """The forecast. Raises Problem `overloaded` while another is made, `not_ready` when none comes of it,
        PlanError for what the process finds wrong with the plan.
        """
        if not (self._settings.home / SAMPLE).exists():
            return NO_SAMPLE
        if not self._one.acquire(blocking=False):
            raise Problem("overloaded", "another plan is being checked here: ask again when it is done")
        try:
            with tempfile.TemporaryDirectory(prefix="fenliu-check-") as folder:
                file = Path(folder) / "plan.json"
                file.write_text(plan.model_dump_json(by_alias=True), encoding="utf-8")
                return _read(self._said(file))
        finally:
            self._one.release()

    def close(self) -> None:
        """What is being made is given up. Safe to call twice."""
        self._closed = True
        if (running := self._running) is not None:
            running.kill()

    def _said(self, file: Path) -> str:
        path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
        quiet = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            (sys.executable, *self._command, str(file)),
            env={**os.environ, **self._settings.as_env(), **quiet},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with contextlib.suppress(OSError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        self._running = process
        try:
            if self._closed:
                process.kill()
            out, err = process.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Problem("not_ready", f"no forecast within {self._limit_s:g} s: ask again later") from None
        finally:
            self._running = None
        if process.returncode not in (0, 1) or not out:
            LOG.error("the check's process ended with %s: %s", process.returncode, err[-2000:])
            raise Problem("not_ready", "the forecast's process failed; the service's log has it")
        return out


def _read(out: str) -> Mapping[str, Any]:
    """What `fenliu plan check --whole --json` printed last."""
    try:
        said = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise Problem("not_ready", "the forecast's process said nothing that can be read") from None
    if "error" in said:
        raise PlanError(*(str(said["error"][name]) for name in ("path", "problem", "remedy")))
    booked: Mapping[str, Any] = said.get("report", {}).get("booking") or {}
    return booked
