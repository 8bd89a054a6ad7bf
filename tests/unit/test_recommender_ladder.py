"""The shell around `decide`: every rung is taken, load is shed, a late store costs views and no page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from features.store import StoreUnavailable
from serving.decide import decide
from serving.domain import EFFORTS, Decision, Effort
from serving.ladder import HOPELESS, Ladder, below
from serving.stepping import at_once
from tests.shell import CONTEXT, Shell, ids, run, running
from tests.shell_looks import effort_of, flushed, odd
from tests.worlds import item, tiny_bundle


@pytest.mark.parametrize(
    ("left_s", "load", "cached", "expected"),
    [
        (1.0, 0.0, True, "full"),
        (1.0, 0.80, True, "light"),
        (1.0, 0.95, True, "cached"),
        (1.0, 0.95, False, "popular"),
        (0.0045, 0.0, True, "light"),
        (0.003, 0.0, True, "cached"),
        (0.003, 0.0, False, "popular"),
        (0.0001, 0.0, True, "fallback"),
        (-1.0, 0.0, True, "fallback"),
    ],
)
def test_the_rung_follows_time_and_load(left_s: float, load: float, cached: bool, expected: Effort) -> None:
    assert Ladder().choose(left_s, load, cached=cached) == expected


def test_a_rung_that_was_slow_is_left_and_forgiven() -> None:
    ladder = Ladder()
    for _ in range(50):
        ladder.took("full", 0.2)
    assert ladder.choose(0.1, 0.0, cached=False) == "light"
    chosen = [ladder.choose(0.1, 0.0, cached=False) for _ in range(300)]
    assert chosen[-1] == "full"


@pytest.mark.parametrize(
    ("waiting", "expected"), [(1, "full"), (10, "full"), (14, "light"), (25, "cached"), (400, "fallback")]
)
def test_work_shrinks_as_the_queue_grows(waiting: int, expected: Effort) -> None:
    """80 ms are left: half of them, shared by all who wait, must be enough for the rung."""
    assert Ladder().choose(0.08, 0.1, cached=True, waiting=waiting) == expected


def test_who_cannot_be_answered_in_time_on_any_rung_is_refused_at_once() -> None:
    ladder = Ladder()
    assert ladder.admits(1000, 0.08)  # nothing is known yet of what a page costs
    ladder.answered(0.5)
    assert ladder.admits(60, 0.08)  # one page that was disturbed says nothing of the others
    for _ in range(300):
        ladder.took("fallback", 0.0001)
        ladder.answered(0.0006)
    assert ladder.admits(60, 0.08) and not ladder.admits(100, 0.08) and ladder.admits(100, 0.2)
    assert not ladder.admits(1, -0.01) and ladder.admits(
        0, -0.01
    )  # late already: where nobody waits, answered
    stood = HOPELESS * 0.08  # seconds that a page has stood in line, unread
    assert ladder.admits(1, 0.08, stood) and not ladder.admits(1, 0.08, stood + 0.001)
    assert ladder.admits(1, 0.2, stood + 0.001) and ladder.admits(0, 0.08, 10 * stood)
    refused = [ladder.admits(1_000, 0.08) for _ in range(200)]
    assert not refused[0] and refused[-1]  # wrong costs do not stay for ever
    for _ in range(300):
        ladder.answered(0.0006)
    assert ladder.choose(0.08, 0.1, cached=True, waiting=12) == "light"  # what is around a page counts too


def test_a_rung_is_not_left_for_one_that_costs_as_much() -> None:
    ladder = Ladder()
    for _ in range(200):
        for effort in EFFORTS:
            ladder.took(effort, 0.0015)
    assert ladder.choose(0.08, 0.1, cached=True, waiting=400) == "full"
    for _ in range(200):
        ladder.took("popular", 0.0005)
    assert ladder.choose(0.08, 0.1, cached=False, waiting=400) == "popular"
    assert ladder.choose(0.08, 0.8, cached=False, waiting=1) == "light"  # by the load: no longer full


def test_a_page_costs_what_the_processor_took_from_answer_to_answer() -> None:
    spent = iter(n * 0.001 for n in range(1_000))

    async def story() -> float:
        async with running() as shell:
            shell.service.recommender._processor, shell.service.recommender._spent = lambda: next(spent), 0.0
            for n in range(200):
                await shell.page(f"u{n % 3}")
            return shell.service.recommender._ladder._whole

    assert run(story) == pytest.approx(0.001, rel=0.01)


def test_below_skips_the_cached_rung_where_there_is_no_page() -> None:
    assert [below(effort, cached=True) for effort in EFFORTS] == [
        "light",
        "cached",
        "popular",
        "fallback",
        None,
    ]
    assert below("light", cached=False) == "popular"


class Failing:
    """`decide` in which some rungs fail."""

    def __init__(self, *efforts: str) -> None:
        self.efforts, self.asked = set(efforts), list[str]()

    def __call__(self, query: Any, live: Any, effort: Effort, cached: Any = None) -> Decision:
        self.asked.append(effort)
        if effort in self.efforts:
            raise FloatingPointError("broken on purpose")
        return decide(query, live, effort, cached)


@pytest.mark.parametrize(
    ("broken", "reached", "seen_before"),
    [
        ((), "full", False),
        (("full",), "light", False),
        (("full", "light"), "cached", True),
        (("full", "light"), "popular", False),
        (("full", "light", "cached"), "popular", True),
        (("full", "light", "popular"), "fallback", False),
    ],
)
def test_each_rung_is_taken_when_those_above_fail(
    broken: Sequence[str], reached: str, seen_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing()

    async def story() -> None:
        async with running(deciding=at_once(failing)) as shell:
            if seen_before:
                await shell.page("u1")
            failing.efforts = set(broken)
            page = await shell.page("u1")
            await flushed(shell)
            assert effort_of(shell) == reached and failing.asked[-1] == reached
            assert set(broken) <= set(page["degraded"])
            assert [len(slot["items"]) for slot in page["slots"]] == [3, 5, 4, 1, 3, 6]

    run(story)
    assert ("broken on purpose" in caplog.text) is bool(broken)


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_rung_is_taken_by_the_clock(effort: Effort) -> None:
    """The time left and the load put each rung in force; no rung shows what may not be shown."""
    left = {"full": 1.0, "light": 0.0045, "cached": 0.003, "popular": 0.003, "fallback": -1.0}[effort]
    restricted = [item(n, risk_class=5) if odd(n) else item(n) for n in range(120)]

    async def story() -> None:
        async with running(tiny_bundle(items=restricted)) as shell:
            await shell.know("u1", risk_level=1)
            recommender = shell.service.recommender
            if effort != "popular":
                await shell.page("u1")
            recommender._ladder = Ladder()
            times = iter([0.0])
            recommender._monotonic = lambda: next(times, 2.0 - left - 0.001)
            from serving.wire import RecommendAsk, parse

            ask = parse(RecommendAsk, {"user_id": "u1", "context": CONTEXT})
            body = await recommender.page(ask, "page", None, 0.0)
            await flushed(shell)
            assert effort_of(shell) == effort
            from orjson import loads

            assert [len(slot["items"]) for slot in loads(body)["slots"]] == [3, 5, 4, 1, 3, 6]
            assert not any(odd(int(name[1:])) for name in ids(loads(body)))

    run(story)


def test_too_many_in_flight_are_refused_with_retry_after() -> None:
    async def story() -> None:
        async with running(settings={"max_in_flight": 2}) as shell:
            answers = await asyncio.gather(
                *(shell.post("/v1/recommend", {"user_id": f"u{n}"}) for n in range(12))
            )
            refused = [answer for answer in answers if answer.status_code == 503]
            served = [answer for answer in answers if answer.status_code == 200]
            assert len(refused) + len(served) == 12 and served
            assert all(answer.json()["code"] == "overloaded" for answer in refused)
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert (await shell.post("/v1/recommend", {"user_id": "u"})).status_code == 200

    run(story)


def test_a_queue_that_cannot_be_answered_in_time_is_shed_before_it_is_full() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        async with running(settings={"read_timeout_s": 1.0, "max_in_flight": 50}) as shell:
            await hold_reads(shell, gate)
            shell.service.recommender._ladder._whole = 0.3  # of two seconds' deadline
            waiting = [
                asyncio.create_task(shell.post("/v1/recommend", {"user_id": f"u{n}"})) for n in range(3)
            ]
            await asyncio.sleep(0.02)
            late = asyncio.create_task(shell.post("/v1/recommend", {"user_id": "u9"}))
            await asyncio.sleep(0.02)
            refused = await shell.post("/v1/recommend", {"user_id": "u8"})
            assert refused.status_code == 503 and refused.json()["code"] == "overloaded"
            gate.set()
            answers = await asyncio.gather(*waiting, late)
            assert [answer.status_code for answer in answers] == [200] * 4
            assert (await shell.post("/v1/recommend", {"user_id": "u8"})).status_code == 200

    run(story)


def test_shedding_happens_while_others_are_answered() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        async with running(settings={"max_in_flight": 2, "read_timeout_s": 1.0}) as shell:
            await hold_reads(shell, gate)
            waiting = [
                asyncio.create_task(shell.post("/v1/recommend", {"user_id": f"u{n}"})) for n in range(2)
            ]
            await asyncio.sleep(0.02)
            refused = await shell.post("/v1/recommend", {"user_id": "u9"})
            assert refused.status_code == 503 and refused.json()["code"] == "overloaded"
            gate.set()
            assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]

    run(story)


async def hold_reads(shell: Shell, gate: asyncio.Event) -> None:
    store = shell.stores.live
    fetch = store.fetch

    async def held(keys: Sequence[bytes], timeout_s: float | None = None) -> list[bytes | None]:
        try:
            await asyncio.wait_for(gate.wait(), timeout_s)
        except TimeoutError:
            raise StoreUnavailable("held back") from None
        return await fetch(keys, timeout_s)

    store.fetch = held  # type: ignore[method-assign]


def test_a_late_store_gives_a_page_of_open_items_and_names_the_views() -> None:
    restricted = [item(n, risk_class=3) if odd(n) else item(n) for n in range(120)]

    async def story() -> None:
        async with running(tiny_bundle(items=restricted), settings={"read_timeout_s": 0.01}) as shell:
            await shell.know("u1", risk_level=5)
            usual = await shell.page("u1")
            assert usual["degraded"] == [] and any(odd(int(name[1:])) for name in ids(usual))
            await hold_reads(shell, asyncio.Event())
            page = await shell.page("u1")
            assert page["degraded"] == ["profile", "membership", "live"]
            assert [len(slot["items"]) for slot in page["slots"]] == [3, 5, 4, 1, 3, 6]
            assert not any(odd(int(name[1:])) for name in ids(page))

    run(story)


def test_control_that_is_silent_is_said_and_the_last_values_hold() -> None:
    async def story() -> None:
        async with running() as shell:
            before = await shell.page("u1")
            assert "control" not in before["degraded"]
            shell.service.holder._monotonic = lambda: 1e12
            after = await shell.page("u1")
            assert "control" in after["degraded"] and ids(after) == ids(before)
            assert (await shell.get("/readyz")).json()["control"] == "stale"

    run(story)
