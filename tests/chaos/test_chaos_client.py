"""What the chaos client makes of answers: the figures of `make chaos` stand on it. No network, no store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest

from training.bench import chaos_client
from training.bench.chaos import _complaint
from training.bench.chaos_client import SLOTS, STREAK, Client, Row, recovered_s
from training.bench.chaos_faults import FAULTS, QUICK, Fault, nothing
from training.bench.chaos_ray import RAY_FAULTS, RAY_QUICK


def page(filled: int = SLOTS, degraded: tuple[str, ...] = ()) -> httpx.Response:
    items: list[dict[str, Any]] = [{"index": index, "campaign_id": None} for index in range(filled)]
    slots = [{"slot": "home.feed", "items": items}, {"slot": "home.popup", "items": [{"campaign_id": None}]}]
    said = {"page_token": "t", "degraded": list(degraded), "slots": slots, "bundle": "chaos-1"}
    return httpx.Response(200, json=said)


def asked(answer: Callable[[httpx.Request], httpx.Response], pages: int = 6, **options: Any) -> Row:
    async def story() -> Row:
        client = Client("http://x", 9, 1, transport=httpx.MockTransport(answer), **options)
        try:
            await client.run(200.0, pages / 200.0)
            return await client.settle(2.0)
        finally:
            await client.close()

    return asyncio.run(story())


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_client, "AGAIN_S", 0.01)
    monkeypatch.setattr(chaos_client, "TRIES", 3)


def test_pages_and_events_are_counted() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/events":
            return httpx.Response(202, json={"accepted": 1, "rejected": []})
        return page(SLOTS - 1, ("profile",))

    row = asked(answer)
    assert (row.sent, row.answered, row.degraded, row.held_back) == (6, 6, 6, 0)
    assert (row.asked, row.filled) == (6 * SLOTS, 6 * (SLOTS - 1))  # the pop-up may be empty
    assert len(row.acknowledged) >= 6 and not row.unsure and not row.failed
    assert _complaint(Fault("x", nothing, nothing), row)
    assert not _complaint(Fault("x", nothing, nothing, fill=False), row)


def test_an_event_is_sent_again_under_its_id_until_it_is_acknowledged() -> None:
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/events":
            return page()
        seen.append(request.content)
        return httpx.Response(503 if len(seen) == 1 else 202, json={"rejected": []})

    row = asked(answer, pages=1)
    assert len(seen) == 2 and seen[0] == seen[1] and len(row.acknowledged) >= 1 and not row.unsure
    assert asked(lambda r: page() if r.url.path != "/v1/events" else httpx.Response(503), pages=1).unsure


def test_what_is_not_a_page_is_told_apart() -> None:
    row = asked(lambda _: httpx.Response(503, headers={"retry-after": "1"}))
    assert row.refused == 6 and not row.failed and not row.answered
    row = asked(lambda _: httpx.Response(500))
    assert row.failed == {"500": 6} and _complaint(Fault("x", nothing, nothing), row)
    met = set[bytes]()

    def second_time(request: httpx.Request) -> httpx.Response:
        if request.content in met:
            return page()
        met.add(request.content)
        return httpx.Response(500)

    row = asked(second_time, retries=2)
    assert row.answered == row.sent == 6 and not row.failed  # a client that retries gets its page


def test_recovery_is_the_first_streak_of_whole_answers() -> None:
    row = Row(told=[(1.0, True), (5.0, False)] + [(6.0 + n, True) for n in range(STREAK)])
    assert recovered_s(row, 4.0) == 2.0
    assert recovered_s(Row(told=[(5.0, True)]), 4.0) == float("inf")


def test_what_cannot_be_sent_is_said() -> None:
    async def story() -> Row:
        client = Client("http://x", 0, 1, transport=httpx.MockTransport(lambda _: page()))
        await client.run(200.0, 0.02)
        await client.close()
        return client.row

    row = asyncio.run(story())
    assert row.held_back == 4 and _complaint(Fault("x", nothing, nothing), row)


def test_the_quick_rows_are_among_all() -> None:
    assert {one.name for one in FAULTS} > QUICK and {one.name for one in RAY_FAULTS} > RAY_QUICK


def test_a_front_that_was_killed_has_its_seconds() -> None:
    front = Fault("x", nothing, nothing, pages=False, within_s=10.0, kinds=frozenset({"404"}))
    assert not _complaint(front, Row(failed=Counter({"404": 3}), failed_at=[101.0, 109.0]), 100.0)
    assert "11.0 s" in _complaint(front, Row(failed=Counter({"404": 3}), failed_at=[111.0]), 100.0)
    assert "500" in _complaint(front, Row(failed=Counter({"500": 1}), failed_at=[101.0]), 100.0)


def test_what_is_to_be_refused_has_to_be_met_and_never_served() -> None:
    class Town:
        refused = 3.0

        def counted(self, metric: str) -> float:
            return self.refused if metric == 'fenliu_swaps_total{result="refused"}' else 0.0

    by_name = {one.name: one for one in FAULTS}
    for name in ("corrupt bundle", "bundle of other items", "plan with NaN"):
        town, proof = Town(), by_name[name].proof
        assert proof is not None
        missing = proof(cast(Any, town))
        assert "did not rise" in missing()
        town.refused += 1
        assert missing() == ""
    judge = by_name["corrupt bundle"].judge
    assert judge(Row(bundles=[(1.0, "chaos-1")]), 0.0, 2.0) == ""
    assert "1 pages" in judge(Row(bundles=[(1.0, "corrupt-9")]), 0.0, 2.0)


def test_a_bundle_that_was_published_has_to_be_served() -> None:
    judge = next(one.judge for one in RAY_FAULTS if "new bundle" in one.name)
    assert judge(Row(bundles=[(1.0, "chaos-1"), (9.0, "next-1")]), 5.0, 8.0) == ""
    assert judge(Row(bundles=[(1.0, "next-0"), (9.0, "chaos-1")]), 5.0, 8.0)


def test_a_service_that_was_killed_fails_only_until_it_is_back() -> None:
    fault = next(one for one in FAULTS if "service killed" in one.name)
    dead = Row(failed=Counter({"ConnectError": 2}), failed_at=[11.0, 19.0])
    assert not _complaint(fault, dead) and fault.judge(dead, 10.0, 20.0) == ""
    assert "500" in _complaint(fault, Row(failed=Counter({"500": 1})))
    assert fault.judge(Row(failed_at=[21.0]), 10.0, 20.0)


def test_an_empty_ledger_shows_nothing_capped_and_did_before() -> None:
    judge = next(one.judge for one in FAULTS if one.name.startswith("ledger emptied"))
    seen = [(1.0, True), (10.5, True), (13.0, False), (21.0, True)]
    assert judge(Row(capped=seen), 10.0, 20.0) == ""
    assert "while the ledger was empty" in judge(Row(capped=[*seen, (15.0, True)]), 10.0, 20.0)
    assert "0 after" in judge(Row(capped=seen[:-1]), 10.0, 20.0)
