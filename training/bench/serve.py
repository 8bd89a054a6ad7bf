"""`fenliu bench serve`: whole pages on Ray Serve, beside an empty deployment and what one would write else.

All run in one Ray Serve behind one HAProxy with the same flags and replicas, asked with the same bodies by
the same generator in turns: (a) an empty ASGI application; (b) ours, 6 slots, 40 places, 3,000 items, 200
campaigns with caps on some, 100,000 customers with live history in the embedded store, served events logged,
and the same on the rung `light`; (c) FastAPI with implicit, one GET and a list of campaigns; (d) ours under
`--local`. A closed loop says how much each can take; open loops at 50, 80 and 120 % of the knee how long an
answer takes, timed from the moment it was meant to be sent.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from training.bench.harness import Bar, Result
from training.bench.processes import cpu_s
from training.bench.serve_rounds import CONNECTIONS, EMPTY, LIGHT, NAIVE, OURS, Rounds
from training.bench.tally import Tally
from training.progress import wide_console

if TYPE_CHECKING:
    from training.bench.load import Outcome
    from training.bench.serve_world import Served
    from training.bench.volley import Volley

ABOUT = "whole pages on Ray Serve: throughput and latency beside an empty deployment and a naive one"

FULL = {"customers": 100_000, "rounds": 5, "seconds": 6.0, "open_seconds": 40.0}
QUICK = {"customers": 100_000, "rounds": 2, "seconds": 1.5, "open_seconds": 5.0}
ABOUT_SIZES = {
    "customers": "customers in the store",
    "rounds": "rounds of closed loop, each asking every deployment",
    "seconds": "seconds of each closed loop, after a half of warming up",
    "open_seconds": "seconds of each open loop",
}
SHARES: Final = (0.5, 0.8, 1.2)  # of the knee
OVERLOADED_CONNECTIONS: Final = 256
REPLICA: Final = "ServeReplica:{}:"  # in the command line of a replica's process
APP: Final = {OURS: "pages"}  # Serve's name of an application, where it is another
UNHURRIED_MS: Final = 1_000  # in closed loops: how many whole pages there are, not how many in 80 ms
IN_TIME: Final = " in time"  # the same requests with the service's own deadline
DISTINCT: Final = 20_000  # requests that differ, at most
RECOVER_S: Final = 10
NAIVE_PREFIX, EMPTY_PREFIX, LIGHT_PREFIX = "/naive", "/empty", "/light"


def arguments(parser: argparse.ArgumentParser) -> None:
    for name, about in ABOUT_SIZES.items():
        flag = f"--{name.replace('_', '-')}"
        kind = type(FULL[name])
        said = f"{about} ({FULL[name]:,}; with --quick {QUICK[name]:,})"
        parser.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=said)
    parser.add_argument("--items", type=int, default=3_000, help="items of the catalogue")
    parser.add_argument("--campaigns", type=int, default=200, help="live campaigns")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of each deployment")
    parser.add_argument("--plot", type=Path, default=None, metavar="FILE", help="a PNG of the outcome")


def run(args: argparse.Namespace) -> Result:
    from serving.app import add_application, serve_ray
    from serving.local import serve_local
    from training.bench.empty import Empty
    from training.bench.light import LightPages
    from training.bench.naive import Naive, write_profiles
    from training.bench.serve_world import HOMEPAGE, Sizes, opened
    from training.bench.volley import Target, Volley

    size = {name: getattr(args, name, default) for name, default in (QUICK if args.quick else FULL).items()}
    console, tally, rounds = wide_console(), Tally(), Rounds()
    sizes = Sizes(customers=int(size["customers"]), items=args.items, campaigns=args.campaigns)
    began = time.perf_counter()
    looked: dict[str, list[float]] = {}
    with opened(console, sizes, replicas=args.replicas) as served:
        write_profiles(served.settings.features_url or "", sizes.customers)
        where = served.settings.host, served.settings.port
        prefixes = {OURS: "", EMPTY: EMPTY_PREFIX, LIGHT: LIGHT_PREFIX, NAIVE: NAIVE_PREFIX}
        targets = {
            name: Target(*where, served.requests(DISTINCT, prefix + HOMEPAGE, UNHURRIED_MS))
            for name, prefix in prefixes.items()
        }
        targets |= {
            name + IN_TIME: Target(*where, served.requests(DISTINCT, prefixes[name] + HOMEPAGE))
            for name in (OURS, EMPTY)
        }
        with Volley(targets) as volley:
            with serve_ray(served.settings) as url:
                add_application(Empty, EMPTY, EMPTY_PREFIX, served.settings)
                add_application(Naive, NAIVE, NAIVE_PREFIX, served.settings)
                add_application(LightPages, LIGHT, LIGHT_PREFIX, served.settings)
                console.print(f"Ray Serve with all four on {url}, {time.perf_counter() - began:.0f} s")
                _closed(served, volley, size, rounds, tally, console)
                _open(served, volley, size, rounds, tally, looked, console)
                if note := _wrk(served, targets[EMPTY].requests[0]):
                    tally.notes["empty_16_per_s"] = note
            with serve_local(served.settings):
                outcome = volley.closed(OURS, connections=16, seconds=size["seconds"])
                rounds.count(OURS, outcome)
                tally.put("local_16_per_s", outcome.rate, "pages/s", "ours under --local: no proxy, no Ray")
    if args.plot is not None:
        from training.bench.serve_plot import plot

        console.print(f"plotted: {plot(args.plot, rounds, looked, served.settings.deadline_ms)}")
    note = f"of {rounds.asked:,} requests, those at 120 % not among them: {dict(rounds.failed)}"
    tally.put("failed", sum(rounds.failed.values()), "requests", note, ("<=", 0.0))
    console.print(f"the whole benchmark took {time.perf_counter() - began:.0f} s")
    return tally.result()


def _closed(
    served: Served, volley: Volley, size: dict[str, float], rounds: Rounds, tally: Tally, console: Console
) -> None:
    """Saturation, in turns; who begins changes from round to round."""
    order = [OURS, EMPTY, LIGHT, NAIVE]
    for name in order:
        _awake(volley, name)
    for number in range(int(size["rounds"])):
        for connections in CONNECTIONS:
            for name in order if number % 2 == 0 else order[::-1]:
                before, seconds = _efforts(served), size["seconds"]
                unread = _unread(served)
                spent = cpu_s(REPLICA.format(APP.get(name, name)))
                outcome = volley.closed(name, connections=connections, seconds=seconds, warm_up=seconds / 3)
                rounds.add(name, connections, outcome)
                rounds.spent(name, connections, cpu_s(REPLICA.format(APP.get(name, name))) - spent)
                if name == OURS:
                    rounds.efforts.setdefault(connections, Counter()).update(_efforts(served) - before)
                    rounds.unread[connections] = rounds.unread.get(connections, 0) + _unread(served) - unread
            told = ", ".join(f"{name} {rounds.rates[name, connections][-1]:,.0f}/s" for name in order)
            console.print(f"round {number + 1}, {connections:2d} connections: {told}")
    for connections in CONNECTIONS:
        bar: Bar | None = (">=", 0.5) if connections > 1 else None
        tally.put(f"ratio_{connections}", rounds.ratio(connections), "ours/empty", "closed loop", bar)
    for connections in CONNECTIONS:
        bar = (">=", 0.6) if connections > 1 else None
        tally.put(f"light_ratio_{connections}", rounds.ratio(connections, name=LIGHT), "light/empty", "", bar)
    for connections in CONNECTIONS[1:]:
        ratio = rounds.ratio(connections, over=NAIVE)
        tally.put(f"over_naive_{connections}", ratio, "ours/naive", "closed loop", (">=", 2.3))
    for connections in CONNECTIONS:
        note = "of the pages, made with full effort and the customer's records; the others with less"
        tally.put(f"full_{connections}_share", rounds.full(connections), "", note)
    for connections in CONNECTIONS:
        share = rounds.unread[connections] / max(1, rounds.efforts[connections].total())
        note = "of the pages, made without the customer's records: the store was late"
        tally.put(f"unread_{connections}_share", share, "", note)
    for name in order:
        for connections in CONNECTIONS:
            tally.put(f"{name}_{connections}_per_s", rounds.rate(name, connections), "answers/s")
    for name in order:
        cost = rounds.cpu_us(name, 16, size["seconds"] * 4 / 3)
        tally.put(f"cpu_us_{name}_16", cost, "µs", "of the replica's processor an answer, 16 connections")
    for name in order:
        tally.put(f"p50_{name}_1_ms", rounds.p50_ms(name, 1), "ms", "one connection")
    added = rounds.p50_ms(OURS, 1) - rounds.p50_ms(EMPTY, 1)
    tally.put("added_p50_ms", added, "ms", "what a page of 40 places adds to an empty answer", ("<=", 0.6))


def _awake(volley: Volley, name: str) -> None:
    """Asks until answers come: the first page loads compiled code, which a busy machine does slowly.

    Raises RuntimeError when none has come after half a minute.
    """
    until = time.perf_counter() + 30.0
    while not (outcome := volley.closed(name, connections=4, seconds=0.5, warm_up=1.0)).rate:
        if time.perf_counter() > until:
            raise RuntimeError(f"nothing was answered by {name}: {dict(outcome.statuses)}")
        time.sleep(0.5)


def _open(
    served: Served, volley: Volley, size: dict[str, float], rounds: Rounds, tally: Tally,
    looked: dict[str, list[float]], console: Console,
) -> None:  # fmt: skip
    """Latency at shares of our knee, from the moment each request was meant to be sent."""
    knee, seconds = rounds.knee(), float(size["open_seconds"])
    tally.put("knee_per_s", knee, "pages/s", "the most that ours made with full effort")
    p99: dict[str, float] = {}
    for name, share in ((EMPTY, 0.5), *((OURS, share) for share in SHARES)):
        connections = OVERLOADED_CONNECTIONS if share > 1 else 64
        before = _efforts(served)
        outcome = volley.open(
            name + IN_TIME, rate=knee * share, seconds=seconds, connections=connections
        ).result()
        label = f"{name}_{share * 100:.0f}"
        looked[f"{name}, {share:.0%} of the knee"] = outcome.latencies
        console.print(f"open loop, {name} at {knee * share:,.0f}/s: {dict(outcome.statuses)}")
        for q in (0.5, 0.95, 0.99, 0.999):
            tally.put(f"{label}_p{q * 100:g}_ms", outcome.quantile(q) * 1e3, "ms")
        p99[label] = outcome.quantile(0.99) * 1e3
        if share <= 1:
            rounds.count(name, outcome)
            continue
        efforts = _efforts(served) - before
        tally.notes[f"{label}_p99_ms"] = f"deadline {served.settings.deadline_ms} ms; by rung {dict(efforts)}"
        tally.put(f"{label}_per_s", outcome.rate, "pages/s", f"answered 200 of {knee * share:,.0f}/s offered")
        tally.put(f"{label}_shed_share", outcome.statuses[503] / max(1, sum(outcome.statuses.values())), "")
        _others(outcome, tally)
    tally.bars["ours_50_p99_ms"] = ("<=", 15.0)
    tally.bars["ours_120_p99_ms"] = ("<=", float(served.settings.deadline_ms))
    tally.put("open_p99_over_empty", p99["ours_50"] / p99["empty_50"], "", "at 50 % of the knee", ("<=", 3.0))
    recovered = _recovered(served, volley, knee / 2)
    tally.put("recovery_s", recovered, "s", "until all pages are full and in time again", ("<=", RECOVER_S))


def _others(outcome: Outcome, tally: Tally) -> None:
    others = sum(count for status, count in outcome.statuses.items() if status not in (200, 503))
    tally.put("overload_other_statuses", others, "answers", "neither 200 nor 503", ("<=", 0.0))


def _recovered(served: Served, volley: Volley, rate: float) -> float:
    """Seconds after the overload until a whole second was answered in time and with full effort."""
    for second in range(1, 2 * RECOVER_S + 1):
        before = _efforts(served)
        outcome = volley.open(OURS + IN_TIME, rate=rate, seconds=1.0).result()
        made = _efforts(served) - before
        poor = sum(made.values()) - made["full"]
        if not outcome.failed and outcome.quantile(0.99) * 1e3 <= served.settings.deadline_ms and not poor:
            return float(second)
    return float("inf")


def _efforts(served: Served) -> Counter[str]:
    """Pages by rung of the ladder, as the replica that answers counts them."""
    lines = served.get("/metrics").decode().splitlines()
    name = "fenliu_decisions_total{effort="
    told = (line.removeprefix(name).split('"} ', 1) for line in lines if line.startswith(name))
    return Counter({rung.strip('"'): int(float(count)) for rung, count in told})


def _unread(served: Served) -> int:
    """Pages for which the live store was late or not asked."""
    name = 'fenliu_degraded_total{cause="live"} '
    lines = served.get("/metrics").decode().splitlines()
    return sum(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


def _wrk(served: Served, request: bytes) -> str:
    """What wrk, where there is one, says of the empty deployment: a check of our own generator."""
    program = shutil.which("wrk")
    if program is None:
        return ""
    head, _, content = request.partition(b"\r\n\r\n")
    path = head.split(b" ")[1].decode()
    headers = {"content-type": "application/json", **served.headers}
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script = "\n".join(['wrk.method = "POST"', f"wrk.body = [==[{content.decode()}]==]", *lines])
    with tempfile.TemporaryDirectory(prefix="fenliu-bench-") as folder:
        file = Path(folder) / "post.lua"
        file.write_text(script)
        url = f"http://{served.settings.host}:{served.settings.port}{path}"
        command = [program, "-t1", "-c16", "-d3s", "-s", str(file), url]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    rates = [line.split()[-1] for line in said.splitlines() if line.startswith("Requests/sec")]
    return f"wrk, once: {float(rates[0]):,.0f}/s" if rates else ""
