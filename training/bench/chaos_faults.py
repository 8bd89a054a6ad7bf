"""What the chaos benchmark breaks in one process and its stores, and how it is mended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from training.bench.chaos_client import Row
    from training.bench.chaos_world import Town

Step = Callable[["Town"], object]


Judge = Callable[["Row", float, float], str]
Proof = Callable[["Town"], Callable[[], str]]


def no_complaint(_row: Row, _broken: float, _mended: float) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Fault:
    """`break_` and `mend` block and run in a thread.

    `pages`: whether every page has to be answered; `within_s`: else for how long after the break one may
    fail, with only the failures in `kinds`, while a client that retries gets every page. `fresh`: asked by
    customers of its own. `by_itself`: it recovers without `mend`, so its time counts from the break. `judge`:
    row, when broken, when mending began (monotonic) -> what is not allowed, or "". `proof`: called before the
    break, and what it gave before `mend`: "" where the service has met the fault, else what is missing.
    """

    name: str
    break_: Step
    mend: Step
    pages: bool = True
    fill: bool = True
    within_s: float | None = None
    kinds: frozenset[str] = frozenset()
    fresh: bool = False
    by_itself: bool = False
    judge: Judge = no_complaint
    proof: Proof | None = None


def nothing(_: Town) -> None:
    return None


def _stopped(role: str) -> Fault:
    return Fault(f"{role} stopped", lambda town: town.stop(role), lambda town: town.go_on(role))


def _slowed(role: str) -> Fault:
    return Fault(f"{role} slowed", lambda town: town.slow(role), lambda town: town.at_speed(role))


def _killed(role: str) -> Fault:
    return Fault(
        f"{role} killed, from its AOF", lambda town: town.kill(role), lambda town: town.restart(role)
    )


def _counted(metric: str) -> Proof:
    """The service's counter rises: it has met what was put in its way, and said no."""

    def before(town: Town) -> Callable[[], str]:
        was = town.counted(metric)
        return lambda: "" if town.counted(metric) > was else f"{metric} did not rise: nothing was refused"

    return before


def taken(row: Row, broken: float, _mended: float) -> str:
    """Some page after the break was made by the bundle that was published then."""
    took = any(bundle.startswith(NEXT) for at, bundle in row.bundles if at > broken)
    return "" if took else "no page was of the new bundle"


def _never_taken(name: str) -> Judge:
    def judge(row: Row, _broken: float, _mended: float) -> str:
        shown = sum(bundle.startswith(name) for _, bundle in row.bundles)
        return f"{shown} pages were of the bundle that is not to be served" if shown else ""

    return judge


def _until_back(row: Row, broken: float, mended: float) -> str:
    """A service of one process answers nothing while it is dead, and everything once it is ready."""
    late = [at for at in row.failed_at if not broken <= at <= mended]
    return f"{len(late)} pages failed while the service was there" if late else ""


def _flush(town: Town) -> None:
    from features.redis_plain import opened

    with opened(town.settings.features_url or "") as store:
        store.flushall()


def _materialise(town: Town) -> None:
    from training.bench.chaos_world import materialised

    materialised(town)


def _memory_of(role: str, most: str) -> Step:
    def change(town: Town) -> None:
        from features.redis_plain import opened

        with opened(getattr(town.settings, f"{role}_url")) as store:
            store.config_set("maxmemory", most)

    return change


def _full_disk(town: Town) -> str:
    """The log's server may write no byte more to any file."""
    import resource

    pid = town.stores["log"].pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    return "RLIMIT_FSIZE of the log's server"


def _room_again(town: Town) -> str:
    import resource

    pid = town.stores["log"].pid
    assert pid is not None
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ProcessLookupError:
        town.restart("log")
        return "the server had ended: restarted from its AOF"
    return "room again"


def _corrupt(town: Town) -> None:
    version = f"{CORRUPT}{time.time_ns()}"
    made = replace(town.bundle, version=version, manifest={**town.bundle.manifest, "version": version})
    from serving.bundle import save
    from training.materialize import point_at

    town.registry.put(save(made, town.home / version))
    spoilt = town.home / "registry" / "bundles" / version / "stats.npy"
    raw = bytearray(spoilt.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    spoilt.write_bytes(bytes(raw))
    point_at(town.settings.control_url or "", "bundle", version)


def _other_items(town: Town) -> None:
    """A bundle in which the plan's items do not exist."""
    from training.bench.decide_world import world_of

    other, _ = world_of(40, 1, 6, 1)
    town.publish(f"{OTHER}{time.time_ns()}", other)


def _former_bundle(town: Town) -> None:
    from training.materialize import point_at

    point_at(town.settings.control_url or "", "bundle", "chaos-1")


def _nan_plan(town: Town) -> None:
    from training.materialize import point_at

    text = town.plan.model_dump_json(by_alias=True).replace('"factor":', '"factor": NaN, "was":')
    text = text.replace('"click":', '"click": NaN, "was_click":', 1)
    (town.home / "registry" / "plans" / "ffffffffffff.json").write_text(text)
    point_at(town.settings.control_url or "", "plan", "ffffffffffff")


def _former_plan(town: Town) -> None:
    from training.materialize import point_at

    point_at(town.settings.control_url or "", "plan", town.plan.version)


def new_bundle(town: Town) -> None:
    town.publish(f"{NEXT}{time.time_ns()}", town.bundle)


def _log_and_service(town: Town) -> None:
    """What is acknowledged now is in the spool, and nowhere else; then its process is killed."""
    town.stop("log")
    time.sleep(1.5)
    town.kill_service()


def _both_back(town: Town) -> str:
    """The service first: its spool must wait for the log."""
    town.end()
    town.start()
    town.marked = time.monotonic()
    time.sleep(1.0)
    town.go_on("log")
    return "killed with events in its spool"


def _clock(seconds: float) -> Step:
    return lambda town: town.tell(f"clock {seconds:g}")


def _flushes_refused(town: Town) -> str:
    """As the very users that k8s/stores gives the service in live and log."""
    from features.redis_address import Refused
    from features.redis_plain import opened

    for role in ("live", "log"):
        url = getattr(town.settings, f"{role}_url")
        rules = town.users(role)["fenliu"]
        with opened(url) as store:
            store.execute_command("ACL", "SETUSER", "chaos", "reset", *rules)  # type: ignore[no-untyped-call]
        named = url.replace("://", f"://chaos:{town.secret}@", 1)
        for words in (["FLUSHALL"], ["FLUSHDB"], ["SWAPDB", "0", "1"], ["CONFIG", "SET", "appendonly", "no"]):
            with contextlib.suppress(Refused), opened(named) as store:
                store.execute_command(*words)  # type: ignore[no-untyped-call]
                raise RuntimeError(f"{role}: {' '.join(words)} was not refused")
    return "FLUSHALL, FLUSHDB, SWAPDB and CONFIG SET refused to the service's user in live and log"


def _empty_ledger(town: Town) -> None:
    from features.redis_plain import opened

    with opened(town.settings.live_url or "") as store:
        store.flushall()


def _rebuilt(town: Town) -> None:
    import subprocess

    for words in (("events", "ingest"), ("ledger", "rebuild", "--yes")):
        town.marked = time.monotonic()  # it opens within the second one
        done = subprocess.run(town.command(*words), capture_output=True, text=True, env=town.env)
        if done.returncode:
            raise RuntimeError(f"fenliu {' '.join(words)}: {done.stdout}{done.stderr}")


def _nothing_capped(row: Row, broken: float, mended: float) -> str:
    """Not from a second after the flush until the rebuild began; and before and after it was."""
    shown = sum(on for at, on in row.capped if broken + 1.0 < at < mended)
    before = sum(on for at, on in row.capped if at < broken)
    after = sum(on for at, on in row.capped if at > mended)
    if shown:
        return f"{shown} pages showed the capped campaign while the ledger was empty"
    return "" if before and after else f"the capped campaign was shown {before} times before, {after} after"


def _garbage_prices(town: Town) -> None:
    from features.redis_plain import opened

    with opened(town.settings.control_url or "") as store, contextlib.suppress(Exception):
        store.hset("control", "prices", "999999999999999999999")
        store.set("control:prices", b'{"version": 1e999, "prices": {"c1": [NaN]}}')


CORRUPT, OTHER, NEXT = "corrupt-", "other-", "next-"  # how versions of bundles begin
_REFUSED: Final = _counted('fenliu_swaps_total{result="refused"}')
_NO_PRICES: Final = _counted('fenliu_price_sets_total{result="refused"}')
DOWN: Final = frozenset({"ConnectError", "ReadError", "WriteError", "RemoteProtocolError"})
BASE: Final = Fault("nothing", nothing, nothing)
FAULTS: Final = (
    BASE,
    *(_stopped(role) for role in ("features", "live", "log", "control")),
    *(_slowed(role) for role in ("features", "live", "log", "control")),
    *(_killed(role) for role in ("features", "live", "log", "control")),
    Fault("features flushed, materialised", _flush, _materialise),
    Fault("log out of memory", _memory_of("log", "1mb"), _memory_of("log", "0")),
    Fault("log's disk full", _full_disk, _room_again),
    Fault("corrupt bundle", _corrupt, _former_bundle, judge=_never_taken(CORRUPT), proof=_REFUSED),
    Fault("bundle of other items", _other_items, _former_bundle, judge=_never_taken(OTHER), proof=_REFUSED),
    Fault("plan with NaN", _nan_plan, _former_plan, proof=_REFUSED),
    Fault("garbage for prices", _garbage_prices, nothing, proof=_NO_PRICES),
    Fault("new bundle under load", new_bundle, nothing, judge=taken),
    Fault("clock an hour ahead", _clock(3600), _clock(0)),
    Fault("clock 4 minutes behind", _clock(-240), _clock(0)),
    Fault(
        "log away, service killed, both back",
        _log_and_service,
        _both_back,
        pages=False,
        kinds=DOWN,
        judge=_until_back,
    ),
    Fault("flush of live and log", _flushes_refused, nothing),
    Fault("ledger emptied, rebuilt", _empty_ledger, _rebuilt, fresh=True, judge=_nothing_capped),
)
QUICK: Final = frozenset({"nothing", "features killed, from its AOF", "log stopped", "plan with NaN"})
