"""Machine code is made while the demo's world is drawn and its model trained: no page waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

ROOT: Final = Path(__file__).parents[1]
LIMIT_S: Final = 600.0


@contextmanager
def compiling(console: Console) -> Iterator[Callable[[], None]]:
    """`serving.warm` in a process of its own; what is yielded waits for it. Ends with the block.

    A failure is said, and nothing else: then the replicas compile for themselves.
    """
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    process = subprocess.Popen(
        (sys.executable, "-m", "serving.warm"),
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait() -> None:
        began = time.monotonic()
        with console.status("compiling what decides pages (once per version of the code) …"):
            try:
                out, err = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                console.print(f"compiling takes more than {LIMIT_S:.0f} s: the replicas go on with it")
                return
        told = out.strip() if process.returncode == 0 else f"compiling ahead failed: {err.strip()[-300:]}"
        console.print(f"{told}; waited {time.monotonic() - began:.1f} s for it", markup=False)

    try:
        yield wait
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
