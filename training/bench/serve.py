"""`fenliu bench serve`: our deployment beside an empty one on the same Ray Serve, behind the same HAProxy.

Both are asked with the same bodies by the same generator, in turns. A closed loop says how much each can
take, an open loop how long an answer takes at half of what ours can.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from rich.console import Console

from training.bench.harness import Result
from training.bench.tally import Tally

if TYPE_CHECKING:
    from training.bench.bank import Bank
    from training.bench.load import Outcome
    from training.bench.volley import Volley

ABOUT = "throughput and latency of pages on Ray Serve, beside an empty ASGI deployment"

CONNECTIONS: Final = (1, 16, 64)
OURS, EMPTY = "ours", "empty"
PREFIX: Final = "/empty"
FULL = {"customers": 100_000, "days": 2, "rounds": 5, "seconds": 8, "open_seconds": 60}
QUICK = {"customers": 5_000, "days": 6, "rounds": 2, "seconds": 3, "open_seconds": 10}
ABOUT_SIZES = {
    "customers": "customers in the store",
    "days": "days of their history",
    "rounds": "rounds of closed loop, each asking both deployments",
    "seconds": "seconds of each closed loop, after one of warming up",
    "open_seconds": "seconds of the open loop",
}
FULL_ENOUGH: Final = 0.95
DISTINCT: Final = 20_000  # requests that differ, at most


def arguments(parser: argparse.ArgumentParser) -> None:
    for name, about in ABOUT_SIZES.items():
        flag = f"--{name.replace('_', '-')}"
        said = f"{about} ({FULL[name]:,}; with --quick {QUICK[name]:,})"
        parser.add_argument(flag, type=int, default=argparse.SUPPRESS, help=said)
    parser.add_argument("--items", type=int, default=3_000, help="items of the synthetic bank")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of each deployment")


@dataclass(slots=True)
class Rounds:
    """What the closed loops saw, by deployment and connections."""

    rates: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    latencies: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    efforts: dict[int, Counter[str]] = field(default_factory=dict)  # our pages by rung of the ladder
    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, connections: int, outcome: Outcome) -> None:
        key = name, connections
        self.rates.setdefault(key, []).append(outcome.rate)
        self.latencies.setdefault(key, []).extend(outcome.latencies)
        self.count(name, outcome)

    def count(self, name: str, outcome: Outcome) -> None:
        self.asked += sum(outcome.statuses.values())
        self.failed[name] += outcome.failed

    def rate(self, name: str, connections: int) -> float:
        return median(self.rates[name, connections])

    def p50_ms(self, name: str, connections: int) -> float:
        return median(self.latencies[name, connections]) * 1e3

    def full(self, connections: int) -> float:
        """The share of our pages that was made with full effort."""
        made = self.efforts[connections]
        return made["full"] / made.total() if made.total() else float("nan")

    def knee(self) -> float:
        """The most pages a second that ours makes with full effort: faster but poorer does not count."""
        rates = {one: self.rate(OURS, one) for one in CONNECTIONS}
        whole = [rate for one, rate in rates.items() if self.full(one) >= FULL_ENOUGH]
        return max(whole or rates.values())

    def ratio(self, connections: int) -> float:
        """The median of the rounds' own ratios: what disturbs a round disturbs both."""
        pairs = zip(self.rates[OURS, connections], self.rates[EMPTY, connections], strict=True)
        return median(ours / empty for ours, empty in pairs)


def run(args: argparse.Namespace) -> Result:
    from serving.app import add_application, serve_ray
    from serving.local import serve_local
    from training.bench import bank as banks
    from training.bench.empty import Empty
    from training.bench.volley import Target, Volley

    size = {name: getattr(args, name, default) for name, default in (QUICK if args.quick else FULL).items()}
    console, tally, rounds = Console(), Tally(), Rounds()
    began = time.perf_counter()
    with banks.opened(
        console,
        customers=size["customers"],
        items=args.items,
        days=size["days"],
        replicas=args.replicas,
    ) as bank:
        where = bank.settings.host, bank.settings.port
        targets = {
            OURS: Target(*where, bank.requests(DISTINCT)),
            EMPTY: Target(*where, bank.requests(DISTINCT, PREFIX)),
        }
        with Volley(targets) as volley:
            with serve_ray(bank.settings) as url:
                add_application(Empty, EMPTY, PREFIX, bank.settings)
                console.print(f"Ray Serve with both on {url}, {time.perf_counter() - began:.0f} s")
                _closed(bank, volley, size, rounds, tally, console)
                _open(volley, size, rounds, tally, console)
                if note := _wrk(bank, targets[EMPTY].requests[0]):
                    tally.notes["empty_16_per_s"] = note
            with serve_local(bank.settings):
                outcome = volley.closed(OURS, connections=16, seconds=size["seconds"])
                rounds.count(OURS, outcome)
                tally.put("local_16_per_s", outcome.rate, "pages/s", "ours under --local: no proxy, no Ray")
    note = f"of {rounds.asked:,} requests; ours {rounds.failed[OURS]}, empty {rounds.failed[EMPTY]}"
    tally.put("failed", sum(rounds.failed.values()), "requests", note, ("<=", 0.0))
    console.print(f"the whole benchmark took {time.perf_counter() - began:.0f} s")
    return tally.result()


def _closed(
    bank: Bank, volley: Volley, size: dict[str, int], rounds: Rounds, tally: Tally, console: Console
) -> None:
    """Saturation, in turns; which of the two begins changes from round to round."""
    for name in (OURS, EMPTY):
        outcome = volley.closed(name, connections=4, seconds=0.5, warm_up=0.5)
        if not outcome.rate:
            raise RuntimeError(f"nothing was answered by {name}: {dict(outcome.statuses)}")
    for number in range(size["rounds"]):
        for connections in CONNECTIONS:
            for name in (OURS, EMPTY) if number % 2 == 0 else (EMPTY, OURS):
                before = _efforts(bank)
                outcome = volley.closed(name, connections=connections, seconds=size["seconds"])
                rounds.add(name, connections, outcome)
                if name == OURS:
                    rounds.efforts.setdefault(connections, Counter()).update(_efforts(bank) - before)
            console.print(
                f"round {number + 1}, {connections:2d} connections: ours"
                f" {rounds.rates[OURS, connections][-1]:,.0f}/s, empty"
                f" {rounds.rates[EMPTY, connections][-1]:,.0f}/s"
            )
    for connections in CONNECTIONS:
        tally.put(f"ratio_{connections}", rounds.ratio(connections), "ours/empty", "closed loop")
    for connections in CONNECTIONS:
        tally.put(f"ours_{connections}_per_s", rounds.rate(OURS, connections), "pages/s")
    for connections in CONNECTIONS:
        note = "of the pages, made with full effort; the others with less, for lack of time or room"
        tally.put(f"full_{connections}_share", rounds.full(connections), "", note)
    for connections in CONNECTIONS:
        tally.put(f"empty_{connections}_per_s", rounds.rate(EMPTY, connections), "requests/s")
    ours, empty = rounds.p50_ms(OURS, 1), rounds.p50_ms(EMPTY, 1)
    tally.put("p50_ours_1_ms", ours, "ms", "one connection")
    tally.put("p50_empty_1_ms", empty, "ms", "one connection")
    tally.put("added_p50_ms", ours - empty, "ms", "what deciding a page of 40 places adds")


def _open(volley: Volley, size: dict[str, int], rounds: Rounds, tally: Tally, console: Console) -> None:
    """Latency at half of our knee, from the moment each request was meant to be sent."""
    rate = rounds.knee() / 2
    seconds = float(size["open_seconds"])
    outcome = volley.open(OURS, rate=rate, seconds=seconds).result()
    rounds.count(OURS, outcome)
    console.print(f"open loop at {rate:,.0f} pages a second for {seconds:g} s")
    tally.put("open_rate_per_s", rate, "pages/s", "half of the most that ours made with full effort")
    for q in (0.5, 0.95, 0.99):
        tally.put(
            f"open_p{q * 100:.0f}_ms", outcome.quantile(q) * 1e3, "ms", "timed from the intended moment"
        )


def _efforts(bank: Bank) -> Counter[str]:
    """Pages by rung of the ladder, as the replica that answers counts them."""
    from training.bench.bank import Till

    with Till(bank) as till:
        lines = till.get("/metrics").decode().splitlines()
    name = "fenliu_decisions_total{effort="
    told = (line.removeprefix(name).split('"} ', 1) for line in lines if line.startswith(name))
    return Counter({rung.strip('"'): int(float(count)) for rung, count in told})


def _wrk(bank: Bank, request: bytes) -> str:
    """What wrk, where there is one, says of the empty deployment: a check of our own generator."""
    program = shutil.which("wrk")
    if program is None:
        return ""
    head, _, content = request.partition(b"\r\n\r\n")
    path = head.split(b" ")[1].decode()
    headers = {"content-type": "application/json", **bank.headers}
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script = "\n".join(['wrk.method = "POST"', f"wrk.body = [==[{content.decode()}]==]", *lines])
    with tempfile.TemporaryDirectory(prefix="fenliu-bench-") as folder:
        file = Path(folder) / "post.lua"
        file.write_text(script)
        url = f"http://{bank.settings.host}:{bank.settings.port}{path}"
        command = [program, "-t1", "-c16", "-d3s", "-s", str(file), url]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    rates = [line.split()[-1] for line in said.splitlines() if line.startswith("Requests/sec")]
    return f"wrk, once: {float(rates[0]):,.0f}/s" if rates else ""
