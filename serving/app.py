"""The same ASGI application under Ray Serve: one ingress deployment behind HAProxy. The only file that
imports ray.

Ray's own ports take pickles, so they listen on loopback and ask for a token of this process's
own; HAProxy binds its statistics everywhere, so it is started through `serving.haproxy`.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from features.ports import free_port
from serving.asgi import Receive, Scope, Send
from serving.backing import backed
from serving.front import Front
from serving.haproxy import write
from serving.json_log import set_up
from serving.keys import check_plan_file
from serving.security import check_binding, token_keys
from serving.settings import Settings
from serving.web import ARRIVED_KEY, REQUEST_ID_KEY

T = TypeVar("T")
NAME: Final = "pages"
CPUS: Final = 0.5
REQUEST_TIMEOUT_S: Final = 200.0  # a forecast may take 180 s; pages and events keep limits of their own
ALWAYS: Final = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
UNLESS_SET: Final = {
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",  # a retried POST is one decision by its id
    "RAY_SERVE_HAPROXY_RETRIES": "3",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "3",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.app:request_id_middleware",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
FILES: Final = {  # Ray has them in /tmp/haproxy-serve, which belongs to whoever of the machine was first
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
}
LONGEST_SCRATCH: Final = 36  # a node's folder and a socket's name still fit into the kernel's 107 bytes
LOOPBACK: Final = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"
}  # Ray's name for "a cluster of this machine only"
LOG: Final = logging.getLogger("fenliu.app")
PORTS: Final = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


class ClientRequestId:
    """The outermost of a replica: what Ray's own layers change or delay is noted before they do.

    They make up an x-request-id where the client sent none, and only the client's own makes a retry; and each
    of their steps waits for whatever else the loop has to do, which under overload is seconds.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = (value for name, value in scope.get("headers", ()) if name == b"x-request-id")
        scope[REQUEST_ID_KEY] = next(sent, None)
        scope[ARRIVED_KEY] = time.monotonic()
        await self._app(scope, receive, send)


def request_id_middleware() -> list[Any]:
    """What Ray Serve asks for by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    from starlette.middleware import Middleware

    return [Middleware(ClientRequestId)]


class Pages:
    """What a replica runs. Ray calls `__serve_build_asgi_app__` once it is made, then the ASGI lifespan."""

    def __init__(self, settings: Settings) -> None:
        set_up(os.environ)
        self._app = Front(settings)

    def __serve_build_asgi_app__(self) -> Front:
        return self._app


class PodPages(Pages):
    """A replica that reads its own pod's environment: what is secret never passes through Ray's store."""

    def __init__(self) -> None:
        settings = Settings.from_env()
        check_binding(settings)
        check_plan_file(settings)
        super().__init__(settings)


@contextmanager
def serve_ray(settings: Settings, pages: type = Pages) -> Iterator[str]:
    """Serves until the block ends, then stops everything it started; the value is the base URL.

    `pages`: another class of Pages' shape, to be run by the same flags (benchmarks compare with an empty
    one).

    Raises SettingsError before anything starts, RuntimeError when Ray was imported before its flags were set.
    """
    check_binding(settings)
    check_plan_file(settings)
    with tempfile.TemporaryDirectory(prefix="fenliu-") as scratch, backed(settings) as complete:
        token_keys(complete)  # made once, before the replicas ask for it
        with _flags(_environment(complete, Path(scratch))), _ray(complete):
            _serve(complete, pages)
            yield f"http://{complete.host}:{complete.port}"


@contextmanager
def _flags(flags: dict[str, str]) -> Iterator[None]:
    """Ray's processes inherit the environment; ours is as it was afterwards."""
    before = {name: os.environ.get(name) for name in flags}
    os.environ.update(flags)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    """A cluster of this machine only, stopped with everything in it."""
    import ray
    from ray import serve
    from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

    if not RAY_SERVE_ENABLE_HA_PROXY:
        raise RuntimeError("ray was imported before its flags were set: let serving.app import it first")
    ray.init(
        num_cpus=max(2, round(2 * settings.replicas * CPUS + 1)),  # room for add_application
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100_000_000,
    )
    try:
        yield
    finally:
        with redirect_stdout(io.StringIO()):  # Ray reports there that the controller ended, as a failure
            try:
                serve.shutdown()  # type: ignore[no-untyped-call]  # ray is typed in part
            finally:
                ray.shutdown()


@contextmanager
def spread(processes: int) -> Iterator[Callable[[Callable[..., T], Iterable[tuple[Any, ...]]], Iterator[T]]]:
    """Calls spread over processes: of the cluster that RAY_ADDRESS names, else of this machine.

    The value takes a function of a module and the arguments of each call; it yields the results in order,
    with two calls a process under way. An error of a call is raised here.
    """
    with _flags({name: os.environ.get(name, value) for name, value in _workers().items()}):
        import ray

        cluster = os.environ.get("RAY_ADDRESS")
        own: dict[str, Any] = {"num_cpus": processes, "include_dashboard": False}
        ray.init(address=cluster, log_to_driver=False, configure_logging=False, **({} if cluster else own))

        def mapped(function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
            remote = ray.remote(num_cpus=1)(function)
            under_way: deque[Any] = deque()
            for call in calls:
                under_way.append(remote.remote(*call))
                if len(under_way) >= 2 * processes:
                    yield ray.get(under_way.popleft())
            while under_way:
                yield ray.get(under_way.popleft())

        try:
            yield mapped
        finally:
            ray.shutdown()


def _workers() -> dict[str, str]:
    """Flags for a cluster of this machine that serves nothing."""
    flags = {name: value for name, value in UNLESS_SET.items() if not name.startswith("RAY_SERVE")}
    return flags if "RAY_ADDRESS" in os.environ else {**flags, **LOOPBACK, "RAY_AUTH_TOKEN": _token()}


def _serve(settings: Settings, pages: type) -> None:
    from ray import serve
    from ray.exceptions import ActorDiedError
    from ray.serve.config import HTTPOptions

    options = HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=REQUEST_TIMEOUT_S)
    try:
        serve.start(http_options=options)
    except ActorDiedError:  # a proxy that was slow to start, on a busy machine: the controller made another
        LOG.warning("the proxy was slow to start and has been replaced")
    serve.run(application(settings, pages), name=NAME, route_prefix="/")


def add_application(pages: type, name: str, prefix: str, settings: Settings) -> None:
    """Run another class of Pages' shape below `prefix`, beside what serve_ray serves, by the same flags."""
    from ray import serve

    serve.run(application(settings, pages), name=name, route_prefix=prefix)


def application(settings: Settings, pages: type = Pages) -> Any:
    """The Serve application of one deployment: no hop between deployments on the request's path."""
    return _deployment(pages, num_replicas=settings.replicas, max_ongoing_requests=_ongoing(settings)).bind(
        settings
    )


def pod_application(_arguments: dict[str, str]) -> Any:
    """What a RayService names as its import path (k8s/base/rayservice.yaml, which sets the numbers)."""
    return _deployment(PodPages, max_ongoing_requests=_ongoing(Settings.from_env())).bind()


def _ongoing(settings: Settings) -> int:
    return max(100, settings.max_in_flight + 36)  # ours sheds first, and says why


def _deployment(pages: type, **options: Any) -> Any:
    from ray import serve

    deployment = serve.deployment(
        name=NAME,
        ray_actor_options={"num_cpus": CPUS},
        health_check_period_s=5,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        **options,
    )
    return deployment(serve.ingress(None)(pages))


def _environment(settings: Settings, scratch: Path) -> dict[str, str]:
    """What the processes of Ray are to find in their environment."""
    flags = {**UNLESS_SET, **{name: str(free_port()) for name in PORTS}}
    if len(str(scratch)) <= LONGEST_SCRATCH:
        flags |= {name: str(scratch / file) for name, file in FILES.items()}
    if settings.loopback:
        flags |= LOOPBACK
    flags = {name: os.environ.get(name, value) for name, value in flags.items()} | ALWAYS
    if (
        flags["RAY_AUTH_MODE"] == "token"
        and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    ):
        flags["RAY_AUTH_TOKEN"] = _token()
    if "RAY_SERVE_HAPROXY_BINARY_PATH" not in os.environ and sys.platform == "linux":
        ports = [flags["RAY_SERVE_HAPROXY_METRICS_PORT"], flags["RAY_SERVE_HAPROXY_STATS_PORT"]]
        flags["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(write(scratch / "haproxy", ports))
    return flags


@cache
def _token() -> str:
    """Ray reads its token once in a process, so one lasts as long as the process."""
    return secrets.token_hex(32)
