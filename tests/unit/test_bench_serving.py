"""What the serving benchmarks count with: stopwatch, flame graph, processor time. Nothing is timed here."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from training.bench import stopwatch
from training.bench.flame import stack_of, svg
from training.bench.processes import cpu_s, rss_mb
from training.bench.serve_rounds import OURS, Rounds
from training.bench.stopwatch import Stopwatch


def test_a_stage_is_charged_with_its_own_time_and_not_with_its_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(stopwatch, "thread_time", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    class Work:
        async def outer(self) -> int:
            spend(1.0)
            self.inner()
            await asyncio.sleep(0)
            spend(2.0)
            return 7

        def inner(self) -> None:
            spend(4.0)

    async def story() -> int:
        other = asyncio.create_task(asyncio.to_thread(lambda: None))
        spend(100.0)
        made = await Work().outer()
        await other
        return made

    was = Work.__dict__["outer"]
    with Stopwatch({"out": [(Work, "outer")], "in": [(Work, "inner")]}) as watch:
        assert asyncio.run(story()) == 7
    assert watch.seconds == {"out": 3.0, "in": 4.0} and watch.calls == {"out": 1, "in": 1}
    assert Work.__dict__["outer"] is was


def test_what_a_timed_coroutine_raises_or_is_thrown_arrives() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("its own")

    async def waits() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "seen"
        return "late"

    held = SimpleNamespace(fails=fails, waits=waits)

    async def story() -> str:
        with pytest.raises(KeyError):
            await held.fails()
        task = asyncio.create_task(held.waits())
        await asyncio.sleep(0)
        task.cancel()
        return str(await task)

    with Stopwatch({"all": [(held, "fails"), (held, "waits")]}):
        assert asyncio.run(story()) == "seen"


def test_a_flame_graph_is_svg_with_boxes_as_wide_as_their_share() -> None:
    stacks = Counter({("main", "a<b"): 3, ("main", "c"): 1})
    root = ElementTree.fromstring(svg(stacks, "4 samples"))
    told = {title.text for title in root.iter("{http://www.w3.org/2000/svg}title")}
    assert told == {"main: 100.0%", "a<b: 75.0%", "c: 25.0%"}
    assert stack_of(sys._getframe())[-1].endswith(":" + sys._getframe().f_code.co_name)
    assert ElementTree.fromstring(svg(Counter(), "none")) is not None


def test_processor_time_of_what_is_not_there_is_no_number() -> None:
    assert math.isnan(cpu_s("no such process, surely")) and math.isnan(rss_mb("no such process, surely"))
    parent = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")[0]
    assert cpu_s(parent) >= 0 and rss_mb(parent) > 0


def test_processor_time_an_answer_is_over_all_rounds() -> None:
    rounds = Rounds()
    for _ in range(2):
        rounds.spent(OURS, 16, 0.5)
        rounds.rates.setdefault((OURS, 16), []).append(100.0)
    assert rounds.cpu_us(OURS, 16, seconds=5.0) == pytest.approx(1000.0)
