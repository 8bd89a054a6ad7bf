"""What the chaos benchmark breaks in Ray: replica, controller, HAProxy, code and bundle rolled out."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from training.bench.chaos_faults import Fault, Step, new_bundle, nothing, taken

if TYPE_CHECKING:
    from training.bench.chaos_world import Town

REPLICA: Final = "ray::ServeReplica:pages"
CONTROLLER: Final = "ray::ServeController"
FRONT_S: Final = 10.0  # how long a front that was killed may be away
AWAY: Final = frozenset(
    ("ConnectError", "ConnectTimeout", "ReadError", "WriteError", "RemoteProtocolError", "404")
)


def _killed(name: str) -> Step:
    """The first of that name."""

    def kill(town: Town) -> str:
        found = town.processes(name)
        if not found:
            raise RuntimeError(f"no process named {name!r} runs below the service")
        os.kill(found[0], signal.SIGKILL)
        return f"one of {len(found)}"

    return kill


def _all_back(name: str, count: int) -> Step:
    """Wait until so many run again."""

    def wait(town: Town) -> str:
        began = time.monotonic()
        while len(town.processes(name)) < count:
            if time.monotonic() - began > 120:
                raise TimeoutError(f"{count} of {name!r} did not come back within 120 s")
            time.sleep(0.2)
        return f"replaced after {time.monotonic() - began:.1f} s more"

    return wait


def _update(town: Town) -> str:
    began, before = time.monotonic(), set(town.processes(REPLICA))
    town.tell("update")
    if kept := before & set(town.processes(REPLICA)):
        raise RuntimeError(f"{len(kept)} replicas run the former code")
    return f"two replicas replaced in {time.monotonic() - began:.0f} s"


RAY_FAULTS: Final = (
    Fault("Ray: nothing", nothing, nothing),
    Fault("Ray: replica killed, of two", _killed(REPLICA), _all_back(REPLICA, 2), by_itself=True),
    Fault("Ray: HAProxy killed", _killed("haproxy.cfg"), nothing, pages=False, within_s=FRONT_S, kinds=AWAY),
    Fault("Ray: controller killed", _killed(CONTROLLER), _all_back(CONTROLLER, 1), by_itself=True),
    Fault("Ray: new bundle rolled out", new_bundle, nothing, judge=taken),
    Fault("Ray: new code rolled out", _update, nothing),
)
RAY_QUICK: Final = frozenset({"Ray: replica killed, of two", "Ray: HAProxy killed"})
