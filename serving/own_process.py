"""The command line as a process of its own beside the service: heavy work delays no page.

On the same registry, home and stores, of lowest priority, one at a time and not for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from serving.errors import Problem
from serving.settings import Settings

LOG: Final = logging.getLogger("fenliu.process")
ROOT: Final = Path(__file__).parents[1]  # where `fenliu` is imported from, whatever the working folder
NICENESS: Final = 15
KEY: Final = "FENLIU_KEY"  # by which the command line knows who asks; not an argument, which `ps` would show


class OwnProcess:
    """Blocking: called from a thread; `close` ends what is running. `what` it makes, for messages."""

    def __init__(self, settings: Settings, what: str, limit_s: float, command: tuple[str, ...]) -> None:
        self._settings, self._what, self._limit_s, self._command = settings, what, limit_s, command
        self._one = threading.Lock()
        self._running: subprocess.Popen[str] | None = None
        self._closed = False

    def said(self, *arguments: str, good: tuple[int, ...] = (0, 1), key: str = "") -> str:
        """The last line it printed. `key`: of whom it is done for; nobody else's is taken over.

        Raises Problem `overloaded` while another is made, else `not_ready`.
        """
        if not self._one.acquire(blocking=False):
            raise Problem("overloaded", f"another {self._what} is being made here: ask again when it is done")
        try:
            lines = self._run(arguments, good, key).strip().splitlines()
        finally:
            self._one.release()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """What is being made is given up. Safe to call twice."""
        self._closed = True
        if (running := self._running) is not None:
            running.kill()

    def _run(self, arguments: tuple[str, ...], good: tuple[int, ...], key: str) -> str:
        path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
        quiet = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            (sys.executable, *self._command, *arguments),
            env={**os.environ, **self._settings.as_env(), **quiet, KEY: key},
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
            raise Problem(
                "not_ready", f"no {self._what} within {self._limit_s:g} s: ask again later"
            ) from None
        finally:
            self._running = None
        if process.returncode not in good or not out:
            LOG.error("the %s's process ended with %s: %s", self._what, process.returncode, err[-2000:])
            raise Problem("not_ready", f"the {self._what}'s process failed; the service's log has it")
        return out
