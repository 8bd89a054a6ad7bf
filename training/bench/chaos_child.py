"""The service that the chaos benchmark breaks, in a process of its own: told what to do line by line.

    python -m training.bench.chaos_child local|ray
    clock SECONDS    the process's clock is so far off from now on (local only)
    update           other code, rolled out in place (ray only)

Each line is answered by `done`. Settings come from the environment, as `fenliu serve` takes them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

REAL = time.time
OFF = [0.0]

if TYPE_CHECKING:
    from serving.settings import Settings


def _clock() -> float:
    return REAL() + OFF[0]


def main(kind: str) -> None:
    """Ends with its input, or by SIGTERM."""
    if kind == "local":
        time.time = _clock  # before anything of ours has taken the name
    from serving.json_log import set_up
    from serving.settings import Settings

    set_up(os.environ)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = Settings.from_env(replicas=2 if kind == "ray" else 1)
    with _serving(kind, settings):
        for line in sys.stdin:
            verb, *rest = line.split()
            if verb == "clock":
                OFF[0] = float(rest[0])
            elif verb == "update":
                _update(settings)
            print("done", flush=True)


def _serving(kind: str, settings: Settings) -> AbstractContextManager[str]:
    if kind == "ray":
        from serving.app import serve_ray

        return serve_ray(settings)
    from serving.local import serve_local

    return serve_local(settings)


def _update(settings: Settings) -> None:
    """The same pages by another class: to Ray Serve another version of the code."""
    from serving.app import NAME, add_application
    from training.bench.chaos_next import NextPages

    add_application(NextPages, NAME, "/", settings)


if __name__ == "__main__":
    main(sys.argv[1])
