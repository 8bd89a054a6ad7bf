"""`fenliu bench faults`: pages while the store is slow, stopped, flushed and killed.

Ours under `--local` with its store behind a small proxy that can delay it, asked in an open loop well below
the knee, so that only the fault tells. Every page must be filled, in time, and the breaker open and close.
The pop-up stands under a contact rule, and what is capped is not shown while nobody can count: it may be
blank.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from training.bench.harness import Result
from training.bench.tally import Tally
from training.progress import wide_console

if TYPE_CHECKING:
    from training.bench.load import Outcome
    from training.bench.serve_world import Served
    from training.bench.volley import Volley

ABOUT = "pages while the store is slow by 100 ms, stopped, flushed, killed: filled, in time, breaker"
SLOW_S: Final = 0.1
RATE: Final = 40.0
CAPPED_PLACES: Final = 1  # home.popup's, by a contact rule of the plan
OURS: Final = "ours"
COUNTED: Final = {
    'fenliu_places_total{what="': "",
    'fenliu_degraded_total{cause="': "degraded ",
    'fenliu_breaker_changes_total{role="live",to="': "",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=4.0, help="of each fault, and between them")
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--rate", type=float, default=RATE, help="pages a second")


def run(args: argparse.Namespace) -> Result:
    from serving.local import serve_local
    from training.bench.serve_world import Sizes, opened
    from training.bench.volley import Target, Volley

    console, tally = wide_console(), Tally()
    seconds = 2.0 if args.quick else args.seconds
    with opened(console, Sizes(customers=args.customers)) as served, Delayed(served) as delayed:
        behind = replace(served, settings=delayed.settings)
        server = _Server(served)
        target = Target(behind.settings.host, behind.settings.port, behind.requests(2_000))
        with Volley({OURS: target}) as volley, serve_local(behind.settings):
            volley.open(OURS, rate=args.rate, seconds=2.0).result()  # warmed up
            faults: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
                "none": (lambda: None, lambda: None),
                "slow": (lambda: delayed.delay(SLOW_S), lambda: delayed.delay(0.0)),
                "stopped": (server.stop, server.go_on),
                "flushed": (server.flush, lambda: None),
                "killed": (delayed.cut, delayed.mend),
            }
            for name, (begin, end) in faults.items():
                before = _counted(behind)
                begin()
                try:
                    outcome = volley.open(OURS, rate=args.rate, seconds=seconds).result()
                finally:
                    end()
                counted = _counted(behind) - before
                _told(tally, name, outcome, counted, _closes(behind, volley), served.settings.deadline_ms)
                console.print(f"{name}: {dict(outcome.statuses)}, {dict(counted)}")
    return tally.result()


def _told(
    tally: Tally, name: str, outcome: Outcome, counted: Counter[str], closed_s: float, deadline_ms: int
) -> None:
    pages = outcome.statuses[200]
    note = f"of {pages} pages; {counted['degraded profile']} without the store"
    tally.put(f"{name}_p99_ms", outcome.quantile(0.99) * 1e3, "ms", note, ("<=", float(deadline_ms)))
    blank = max(0, counted["asked"] - counted["filled"] - pages * CAPPED_PLACES)
    tally.put(f"{name}_not_filled", blank + outcome.failed, "places or pages", "", ("<=", 0.0))
    if name in ("slow", "stopped", "killed"):
        tally.put(f"{name}_breaker_opened", counted["open"], "times", "", (">=", 1.0))
        tally.put(f"{name}_breaker_closed_s", closed_s, "s", "after the fault was over", ("<=", 10.0))


def _counted(served: Served) -> Counter[str]:
    """Places asked and filled, pages without a view, and how often the live store's breaker changed."""
    found: Counter[str] = Counter()
    for line in served.get("/metrics").decode().splitlines():
        for start, prefix in COUNTED.items():
            if line.startswith(start):
                label, _, value = line.removeprefix(start).partition('"} ')
                found[prefix + label] += int(float(value))
    return found


def _closes(served: Served, volley: Volley) -> float:
    """Seconds until the breaker is closed, with pages asked for meanwhile; infinite after fifteen."""
    began = time.perf_counter()
    while time.perf_counter() - began < 15.0:
        counted = _counted(served)
        if counted["open"] == counted["closed"]:
            return time.perf_counter() - began
        volley.open(OURS, rate=20.0, seconds=0.2).result()
    return float("inf")


class _Server:
    """The embedded store's process."""

    def __init__(self, served: Served) -> None:
        self._url = served.settings.live_url or ""

    def _pid(self) -> int:
        from features.redis_plain import opened

        with opened(self._url) as store:
            return int(store.info("server")["process_id"])

    def stop(self) -> None:
        self._stopped = self._pid()
        os.kill(self._stopped, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._stopped, signal.SIGCONT)

    def flush(self) -> None:
        from features.redis_plain import opened

        with opened(self._url) as store:
            for key in store.scan_iter("lv:*", 10_000):
                store.delete(key)


class Delayed:
    """A proxy before the store, in a thread with a loop of its own: late on demand, or gone (killed).

    Control keeps its own connection: what a replica runs by is not what is tried here.
    """

    def __init__(self, served: Served) -> None:
        from features.ports import free_port

        self._target = served.settings.live_url or ""
        self._port = free_port()
        url = f"redis://127.0.0.1:{self._port}/0"
        self.settings = replace(
            served.settings, features_url=url, live_url=url, log_url=url, port=free_port()
        )
        self._delay_s, self._cut = 0.0, False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Delayed:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def delay(self, seconds: float) -> None:
        self._delay_s = seconds

    def cut(self) -> None:
        """As a store that was killed: connections break, and new ones are refused."""
        self._cut = True
        self._loop.call_soon_threadsafe(self._close)

    def mend(self) -> None:
        self._cut = False

    def _close(self) -> None:
        for writer in list(self._writers):
            writer.close()

    async def _listen(self) -> None:
        await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.close()
            return
        from features.redis_address import parse_address

        address = parse_address(self._target)
        if address.path is not None:
            theirs, ours = await asyncio.open_unix_connection(address.path)
        else:
            theirs, ours = await asyncio.open_connection(address.host, address.port)
        self._writers |= {writer, ours}
        await asyncio.gather(self._pass(reader, ours), self._pass(theirs, writer, late=True))
        self._writers -= {writer, ours}

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, late: bool = False
    ) -> None:
        """Bytes in order, each piece as late as it was to be when it came."""
        loop, last = asyncio.get_running_loop(), 0.0
        try:
            while piece := await source.read(1 << 16):
                at = max(last, loop.time() + (self._delay_s if late else 0.0))
                last = at
                loop.call_at(at, target.write, piece)
        except OSError:
            pass
        finally:
            target.close()
