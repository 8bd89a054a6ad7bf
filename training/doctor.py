"""`fenliu doctor`: is everything there that serving and training need, and what to do where it is not.

Each check is small, waits at most seconds and changes nothing. `bad` keeps the product from working, `warn`
will, or makes it worse than it could be.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from features import compiled
from features.keyspace import KeySpaceError, parse_keyspace
from features.redis_address import parse_address
from features.redis_plain import opened
from features.store import StoreUnavailable
from features.views import BATCH_VIEWS
from serving.bundle import Bundle, BundleError, load
from serving.keys import check_plan_file
from serving.lists import ListShelf
from serving.live import build_live
from serving.plan import PlanError, default_plan, load_plan
from serving.plans import PlanShelf
from serving.registry import Registry, RegistryError
from serving.security import check_binding
from serving.settings import Settings, SettingsError
from training.commands import lake_of
from training.doctor_identity import identity_findings, limit_findings
from training.doctor_spool import spool
from training.doctor_traces import trace_findings
from training.finding import Finding as Finding
from training.finding import State
from training.materialize import pointers
from training.tables import LakeError

LEAST_FREE: Final = 1 << 30  # bytes
LEAST_FILES: Final = 1024
DAY_S: Final = 86_400.0
OLD_DAYS: Final = 7.0
SLOW_MS: Final = 5.0
SKEW_S: Final = 1.0
TIMEOUT_S: Final = 3.0
FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")  # of a store's URL


def examined(
    env: Mapping[str, str], settings: Settings, now: Callable[[], float] = time.time
) -> list[Finding]:
    """Every check, in the order in which things depend on each other. Raises nothing."""
    found: list[Finding] = []
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _machine(settings),
        lambda: _settings(settings),
        lambda: _port(settings),
        lambda: _stores(settings, now),
        lambda: (Finding(*one) for one in spool(settings, now)),
        lambda: _control(settings, now),
        lambda: _registry(settings, now),
        lambda: _lake(settings, now),
        lambda: _governance(settings, env),
        lambda: identity_findings(settings, env),
        lambda: limit_findings(settings, env),
        lambda: trace_findings(settings),
    )
    for check in checks:
        try:
            found += check()
        except Exception as bug:  # a check that fails is a finding, and the others still run
            found.append(
                Finding("doctor", "warn", f"a check failed: {type(bug).__name__}: {bug}", "report it")
            )
    return found


def _machine(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if fits else "bad", version, "" if fits else "use Python 3.11 or newer")
    home = settings.home
    there = home if home.exists() else home.parent
    if not os.access(there, os.W_OK):
        yield Finding("home", "bad", f"{home} cannot be written", "name another --home, or change its owner")
        return
    free = shutil.disk_usage(there).free
    enough = free >= LEAST_FREE
    said = f"{home}, {free / 2**30:.1f} GiB free"
    yield Finding(
        "home", "ok" if enough else "warn", said, "" if enough else "make room: ingest and bundles need it"
    )
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    enough = files >= LEAST_FILES
    yield Finding("open files", "ok" if enough else "warn", str(files), "" if enough else "ulimit -n 65536")
    kept = Path(str(vars(compiled)["numba"].config.CACHE_DIR))  # as the kernels are kept by it
    warm = kept.exists() and any(kept.rglob("*.nbi"))
    remedy = "" if warm else "the first start compiles for a minute or two: make setup, or start once"
    yield Finding("kernels", "ok" if warm else "warn", f"{compiled.digest()} in {kept}", remedy)


def _settings(settings: Settings) -> Iterator[Finding]:
    try:
        check_binding(settings)
        check_plan_file(settings)
    except (SettingsError, PlanError) as bad:
        yield Finding("settings", "bad", str(bad), "change the environment as it says")
    else:
        yield Finding("settings", "ok", f"listens on {settings.host}:{settings.port}, role {settings.role}")
    if not settings.loopback and not settings.token_keys:
        remedy = "set FENLIU_TOKEN_KEYS: replicas must share what signs page tokens"
        yield Finding("token keys", "bad", "none are given", remedy)


def _port(settings: Settings) -> Iterator[Finding]:
    where = (settings.host, settings.port)
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.settimeout(TIMEOUT_S)
        if probe.connect_ex(where):
            yield Finding("port", "ok", f"{settings.port} is free")
            return
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        with urlopen(f"http://{host}:{settings.port}/readyz", timeout=TIMEOUT_S) as answer:
            said = answer.read(500).decode(errors="replace")
        yield Finding("port", "ok", f"{settings.port} answers ready: {said}")
    except HTTPError as problem:
        said = problem.read(500).decode(errors="replace")
        yield Finding(
            "port", "warn", f"{settings.port} answers {problem.code}: {said}", "see the service's log"
        )
    except (URLError, OSError, ValueError) as other:
        yield Finding(
            "port", "bad", f"{settings.port} is taken by something else ({other})", "set FENLIU_PORT"
        )


def _stores(settings: Settings, now: Callable[[], float]) -> Iterator[Finding]:
    for role, url in settings.store_urls.items():
        about = f"store {role}"
        if url is None:
            yield Finding(about, "ok", "the embedded one, started when it is needed")
            continue
        wire = [*_wire(about, url)]
        yield from wire
        if any(one.state == "bad" for one in wire):
            continue
        try:
            with opened(url, TIMEOUT_S) as store:
                began = time.perf_counter()
                store.ping()
                took = (time.perf_counter() - began) * 1e3
                said: Any = store.info()
                at: Any = store.time()
        except StoreUnavailable as away:
            yield Finding(about, "bad", str(away), "is it running, and are URL, user and password right?")
            continue
        slow = took > SLOW_MS
        version = said.get("valkey_version") or said.get("redis_version")
        remedy = "place it nearer: a page waits for it" if slow else ""
        yield Finding(about, "warn" if slow else "ok", f"{version}, answers in {took:.1f} ms", remedy)
        skew = abs(at[0] + at[1] / 1e6 - now())
        if skew > SKEW_S:
            yield Finding(
                about, "warn", f"its clock differs by {skew:.1f} s", "run NTP: caps and leases use it"
            )
        if role in ("live", "log"):
            yield from _durable(about, said)


def _wire(about: str, url: str) -> Iterator[Finding]:
    """What its URL says of TLS; said before it is tried, for a file that is missing fails in other words."""
    options = dict(parse_address(url).tls or ())
    for name in FILES:
        if name in options and not os.access(options[name], os.R_OK):
            remedy = "on Kubernetes: the Secret fenliu-tls (k8s/README.md, TLS to the stores)"
            yield Finding(about, "bad", f"{name} names {options[name]}, which cannot be read", remedy)
    if options.get("ssl_cert_reqs") == "none":
        remedy = "name the authority by ssl_ca_certs: else whoever answers there is sent the password"
        yield Finding(about, "warn", "its certificate is not checked (ssl_cert_reqs=none)", remedy)


def _durable(about: str, said: Mapping[str, Any]) -> Iterator[Finding]:
    policy = said.get("maxmemory_policy")
    if policy not in (None, "noeviction"):
        yield Finding(
            about, "bad", f"evicts ({policy})", "maxmemory-policy noeviction: caps and events live here"
        )
    if not said.get("aof_enabled"):
        yield Finding(about, "warn", "has no append-only file", "appendonly yes: else a restart forgets")
    if said.get("aof_last_write_status", "ok") != "ok":
        yield Finding(about, "bad", "could not write its append-only file", "look at its disk")


def _control(settings: Settings, now: Callable[[], float]) -> Iterator[Finding]:
    if settings.control_url is None:
        return
    try:
        state = pointers(settings.control_url)
    except StoreUnavailable:
        return  # told of the store
    if state.kills:
        named = ", ".join(" ".join(one) for one in state.kills[:5])
        yield Finding(
            "kills", "warn", f"{len(state.kills)} in force: {named}", "fenliu kill … --undo, when it is over"
        )
    if state.features is None:
        yield Finding(
            "features", "warn", "nothing is materialised", "fenliu train: customers are strangers until then"
        )
        return
    try:
        space = parse_keyspace(state.features)
    except KeySpaceError as bad:
        yield Finding("features", "bad", str(bad), "materialise again: fenliu train")
        return
    for view in BATCH_VIEWS:
        held = space.views.get(view.name)
        if held is None:
            yield Finding("features", "warn", f"{view.name} is not materialised", "fenliu train")
            continue
        days = (now() - held.as_of) / DAY_S
        state_of: State = "bad" if days > view.ttl.days else "warn" if days > OLD_DAYS else "ok"
        remedy = "" if state_of == "ok" else "materialise again (fenliu train); is the CronJob running?"
        yield Finding(
            "features", state_of, f"{view.name}: {held.count:,} records, {days:.1f} days old", remedy
        )


def _registry(settings: Settings, now: Callable[[], float]) -> Iterator[Finding]:
    registry = Registry(settings.registry_url)
    try:
        version = registry.live()
    except (RegistryError, OSError) as away:
        yield Finding("registry", "bad", str(away), "is FENLIU_REGISTRY right, and are its credentials?")
        return
    if version is None:
        yield Finding("bundle", "bad", "none is live", "fenliu train, or fenliu bundle promote VERSION")
        return
    try:
        bundle = load(registry.fetch(version, settings.bundles), verify=True)
    except (RegistryError, BundleError, OSError) as bad:
        yield Finding("bundle", "bad", f"{version}: {bad}", "fenliu bundle rollback, then train again")
        return
    days = (now() - bundle.trained_until) / DAY_S
    old = days > OLD_DAYS
    said = f"{version}: {len(bundle):,} items, learned until {days:.1f} days ago"
    yield Finding(
        "bundle", "warn" if old else "ok", said, "train again: is the CronJob running?" if old else ""
    )
    yield _plan(settings, bundle)


def _plan(settings: Settings, bundle: Bundle) -> Finding:
    version = None
    try:
        if settings.plan is not None:
            plan, version = load_plan(settings.plan), str(settings.plan)
        else:
            version = None if settings.control_url is None else pointers(settings.control_url).plan
            plan = (
                default_plan(bundle.kind_counts())
                if version is None
                else PlanShelf(settings.registry_url).fetch(version)
            )
        lists, load = ListShelf(settings.registry_url).numbers(), Registry(settings.registry_url).loader
        build_live(bundle, (), plan, lists=lists, bundles=load(settings.bundles))
    except StoreUnavailable:
        return Finding("plan", "warn", "control does not say which is live", "see the store")
    except (PlanError, OSError, ValueError) as bad:
        return Finding("plan", "bad", str(bad), "fenliu plan check FILE; fenliu plan rollback")
    return Finding("plan", "ok", f"{version or 'the default one'}: fits the bundle")


def _lake(settings: Settings, now: Callable[[], float]) -> Iterator[Finding]:
    lake = lake_of(settings)
    try:
        manifest = lake.manifest()
    except (LakeError, OSError) as bad:
        yield Finding("lake", "bad", str(bad), "restore it from its copy")
        return
    rows = {name: sum(file["rows"] for file in files) for name, files in manifest.files.items()}
    told = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    yield Finding("lake", "ok", told if any(rows.values()) else "empty yet")
    if manifest.quarantine:
        aside = sum(file["rows"] for file in manifest.quarantine)
        yield Finding("lake", "warn", f"{aside:,} entries were set aside", f"see {lake.path('quarantine')}")
    if settings.log_url is not None:
        yield from _waiting(settings, lake.changed_at(), now())


def _waiting(settings: Settings, changed_at: float, now: float) -> Iterator[Finding]:
    from training.commands import waiting

    try:
        count = waiting(settings)
    except StoreUnavailable:
        return
    hours = (now - changed_at) / 3600 if changed_at else float("inf")
    late = count > 0 and hours > 24
    said = f"{count:,} entries wait in the log"
    yield Finding(
        "ingest",
        "warn" if late else "ok",
        said,
        "fenliu events ingest: is the CronJob running?" if late else "",
    )


def _governance(settings: Settings, env: Mapping[str, str]) -> Iterator[Finding]:
    from training.desk import Desk

    desk = Desk(settings, env)
    verdict = desk.governance.books.audit.verify()
    if not verdict.ok:
        yield Finding(
            "audit log",
            "bad",
            f"does not hold: {verdict.problem}",
            "fenliu audit verify; find out who wrote it",
        )
    else:
        yield Finding("audit log", "ok", f"{verdict.records} records hold")
    if not desk.keys:
        alone = "no principals: whoever is on this machine may do everything"
        state: State = "ok" if settings.loopback else "warn"
        yield Finding(
            "principals", state, alone, "" if settings.loopback else "fenliu keys add NAME --scope admin"
        )
