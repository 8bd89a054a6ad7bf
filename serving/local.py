"""The whole service in one process: uvicorn in a thread, the embedded store beside it. For a laptop, and
tests.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from serving.backing import backed
from serving.front import Front
from serving.keys import check_plan_file
from serving.security import check_binding, token_keys
from serving.settings import Settings, SettingsError

START_S: Final = 60.0
STOP_S: Final = 15.0


class StartError(RuntimeError):
    """The service did not come up; the text says why."""


@contextmanager
def serve_local(settings: Settings) -> Iterator[str]:
    """Serves until the block ends; the value is the base URL. `features.ports` finds a free port.

    Raises SettingsError before anything starts, StartError when the service does not come up.
    """
    check_binding(settings)
    check_plan_file(settings)
    listener = _listen(settings)
    with listener, backed(settings) as complete:
        token_keys(complete)
        server = uvicorn.Server(_config(Front(complete, eager=True)))
        thread = threading.Thread(target=_run, args=(server, listener), name="fenliu-local", daemon=True)
        thread.start()
        try:
            _wait_until_up(server, thread)
            yield f"http://{_shown(settings.host)}:{settings.port}"
        finally:
            server.should_exit = True
            thread.join(STOP_S)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named, or asyncio would not switch Nagle's delay off: 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as taken:
        listener.close()
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port} ({taken.strerror}):"
            " set FENLIU_PORT to a free port"
        ) from None
    return listener


def _config(app: Front) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    asyncio.run(server.serve(sockets=[listener]))


def _wait_until_up(server: uvicorn.Server, thread: threading.Thread) -> None:
    until = time.monotonic() + START_S
    while not server.started:
        if not thread.is_alive():
            raise StartError("the service stopped while starting; its log says why")
        if time.monotonic() > until:
            raise StartError(f"the service did not start within {START_S:g} s")
        time.sleep(0.01)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
