"""The shell around `decide`: the rungs of the ladder, retries, events before the decision, dry runs,
linking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from features.events import WHAT
from features.ids import key64
from features.log import Entry, MemoryLog
from features.store import StoreUnavailable
from features.views import CONTACT, RECENT
from serving.control import Kill
from serving.decide import decide
from serving.domain import EFFORTS, Decision, Effort
from serving.ladder import Ladder, below
from tests.shell import CONTEXT, Shell, ids, run, running, without_ids
from tests.worlds import NOW, item, tiny_bundle, tiny_items


def effort_of(shell: Shell) -> str:
    """The rung of the page decided last, from its served record."""
    return str(shell.logged("served")[-1]["effort"])


def odd(number: int) -> bool:
    """Half the items of every kind (kinds follow in turn, by six)."""
    return number // 6 % 2 == 1


async def flushed(shell: Shell) -> None:
    await shell.service.publisher.flush()


# --- the ladder


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
        async with running(decide=failing) as shell:
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


# --- the store


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


# --- retries


def test_a_retried_request_id_gets_the_same_bytes() -> None:
    async def story() -> None:
        async with running() as shell:
            body = {"user_id": "u1", "context": CONTEXT, "request_id": "r1"}
            first = await shell.post("/v1/recommend", body)
            shell.clock.now += 30
            changed = shell.event(
                "acted", "e1", user_id="u1", action="purchased", item_id=ids(first.json())[0]
            )
            assert (await shell.post("/v1/events", {"events": [changed]})).json()["accepted"] == 1
            again = await shell.post("/v1/recommend", body)
            assert again.content == first.content and first.json()["decision_id"] == "r1"
            await flushed(shell)
            assert len(shell.logged("served")) == 1
            shell.clock.now += 601
            later = await shell.post("/v1/recommend", body)
            assert later.status_code == 200 and later.content != first.content

    run(story)


def test_the_header_gives_the_id_and_the_body_wins() -> None:
    async def story() -> None:
        async with running() as shell:
            body = {"user_id": "u1", "context": CONTEXT}
            first = await shell.post("/v1/recommend", body, x_request_id="h1")
            again = await shell.post("/v1/recommend", body, x_request_id="h1")
            assert first.json()["decision_id"] == "h1" and again.content == first.content
            both = await shell.post("/v1/recommend", {**body, "request_id": "b1"}, x_request_id="h1")
            assert both.json()["decision_id"] == "b1"
            made = [(await shell.post("/v1/recommend", body)).json()["decision_id"] for _ in range(2)]
            assert made[0] != made[1] and all(len(one) == 36 and one[14] == "7" for one in made)
            assert made == sorted(made)

    run(story)


def test_the_same_id_of_two_customers_is_two_decisions() -> None:
    async def story() -> None:
        async with running() as shell:
            pages = [await shell.page(user, request_id="r1") for user in ("u1", "u2")]
            assert pages[0]["page_token"] != pages[1]["page_token"]

    run(story)


def test_overlapping_retries_are_one_decision() -> None:
    async def story() -> None:
        async with running() as shell:
            body = {"user_id": "u1", "context": CONTEXT, "request_id": "r1"}
            answers = await asyncio.gather(*(shell.post("/v1/recommend", body) for _ in range(8)))
            assert len({answer.content for answer in answers}) == 1
            await flushed(shell)
            assert len(shell.logged("served")) == 1

    run(story)


def test_an_id_used_for_another_page_is_refused() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.page("u1", request_id="r1")
            other = await shell.post("/v1/recommend/banner", {"user_id": "u1", "request_id": "r1"})
            assert other.status_code == 409 and other.json()["code"] == "request_id_reused"

    run(story)


@pytest.mark.parametrize("how", ["withdrawn", "killed", "creative", "slot"])
def test_a_remembered_page_with_something_stopped_since_is_decided_afresh(how: str) -> None:
    creative = {"id": "cr1", "title": "看", "layouts": []}
    items = [item(n, creatives=[creative | {"id": f"cr{n}"}]) for n in range(120)]

    async def story() -> None:
        async with running(tiny_bundle(items=items)) as shell:
            first = await shell.page("u1", request_id="r1")
            victim = first["slots"][0]["items"][0]
            stop = {
                "withdrawn": shell.client.delete(f"/v1/items/{victim['item_id']}"),
                "killed": shell.control.kill(Kill("item", victim["item_id"])),
                "creative": shell.control.kill(Kill("creative", victim["creative"]["id"])),
                "slot": shell.control.kill(Kill("slot", "home.popup")),
            }
            await stop.pop(how)
            for unused in stop.values():
                unused.close()
            assert await shell.service.reloader.poll()
            second = await shell.page("u1", request_id="r1")
            assert second["decision_id"] == "r1"
            if how == "slot":
                assert ids(first, "home.popup") and not ids(second, "home.popup")
            else:
                assert victim["item_id"] in ids(first) and victim["item_id"] not in ids(second)
            assert without_ids(await shell.page("u1", request_id="r1")) == without_ids(second)
            await flushed(shell)
            assert len(shell.logged("served")) == 2

    run(story)


# --- events


def test_events_inside_a_request_count_before_it_is_answered() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1")
            before = await shell.page("u1")
            liked = ids(before, "home.shelf")[0]
            event = shell.event("acted", "e1", user_id="u1", action="purchased", item_id=liked)
            page = await shell.page("u1", events=[event])
            assert page["events"] == {"accepted": 1, "duplicates": 0, "rejected": []}
            assert ids(page) != ids(before)
            again = await shell.page("u1", events=[event])
            assert again["events"] == {"accepted": 0, "duplicates": 1, "rejected": []}
            assert ids(again) == ids(page) == ids(await shell.page("u1"))
            assert [row["id"] for row in shell.logged("acted")] == ["e1"]

    run(story)


def test_a_dismissal_inside_a_request_is_obeyed_at_once() -> None:
    cooling = [item(n, cooling=odd(n)) for n in range(120)]

    async def story() -> None:
        async with running(tiny_bundle(items=cooling)) as shell:
            await shell.know("u1")
            first = await shell.page("u1")
            places = [one for slot in first["slots"] for one in slot["items"]]
            shown = next(one for one in places if odd(int(one["item_id"][1:])))
            event = shell.event("dismissed", "e1", page_token=first["page_token"], index=shown["index"])
            second = await shell.page("u1", events=[event])
            assert shown["item_id"] in ids(first) and shown["item_id"] not in ids(second)
            keys = shell.stores.live.keys("u:u1")
            recent, contact, *_ = await shell.stores.live.fetch(keys)
            assert np.frombuffer(recent or b"", RECENT)["item"].tolist() == [key64(shown["item_id"])]
            assert np.frombuffer(contact or b"", CONTACT)["what"].tolist() == [WHAT["dismissed"]]

    run(story)


def test_events_that_cannot_be_logged_are_told_and_the_page_still_comes() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1")
            before = await shell.page("u1")

            async def away(entries: Sequence[Entry]) -> list[bool]:
                raise StoreUnavailable("gone")

            append, shell.stores.log.append = shell.stores.log.append, away  # type: ignore[method-assign]
            event = shell.event("acted", "e1", user_id="u1", action="purchased", item_id=ids(before)[0])
            page = await shell.page("u1", events=[{"event_id": "e0"}, event])
            codes = [(r["index"], r["code"]) for r in page["events"]["rejected"]]
            assert codes == [(0, "missing_field"), (1, "store_unavailable")]
            assert ids(page) != ids(before)  # it happened, so it counts for this page
            refused = await shell.post("/v1/events", {"events": [event]})
            assert refused.status_code == 503 and refused.json()["code"] == "store_unavailable"
            shell.stores.log.append = append  # type: ignore[method-assign]
            assert (await shell.post("/v1/events", {"events": [event]})).json()["accepted"] == 1

    run(story)


def test_a_live_view_that_missed_an_event_is_repaired() -> None:
    async def story() -> None:
        async with running() as shell:
            live, gone = shell.stores.live, [True]
            append = live.append

            async def away(subject: str, **entries: bytes) -> None:
                if gone:
                    raise StoreUnavailable("gone")
                await append(subject, **entries)

            live.append = away  # type: ignore[method-assign]
            event = shell.event("acted", "e1", user_id="u1", action="viewed", item_id="i3")
            told = await shell.post("/v1/events", {"events": [event]})
            assert told.status_code == 202 and told.json()["accepted"] == 1
            gone.clear()
            for _ in range(100):
                await asyncio.sleep(0.02)
                if (await live.fetch(live.keys("u:u1")))[0]:
                    break
            recent = (await live.fetch(live.keys("u:u1")))[0]
            assert np.frombuffer(recent or b"", RECENT)["item"].tolist() == [key64("i3")]

    run(story)


# --- dry runs, profiling, linking


def test_a_dry_run_logs_counts_and_remembers_nothing() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1")
            before = shell.service.metrics.exposition()
            real = await shell.page("u1")
            event = shell.event("acted", "e1", user_id="u1", action="purchased", item_id=ids(real)[0])
            await flushed(shell)
            held, counted = len(shell.logged()), decided(shell)
            options = {"dry_run": True}
            dry = await shell.page("u1", visitor_id="d1", request_id="r1", events=[event], options=options)
            assert dry["page_token"] is None and ids(dry) != ids(real)  # the event is tried out, not taken
            await flushed(shell)
            assert len(shell.logged()) == held and decided(shell) == counted != before
            keys = [*shell.stores.live.keys("u:u1"), *shell.stores.live.keys("v:d1")]
            assert await shell.stores.live.fetch(keys) == [None] * 8
            wet = await shell.page("u1", request_id="r1")
            assert wet["page_token"] and ids(wet) == ids(real)

    run(story)


def decided(shell: Shell) -> list[bytes]:
    lines = shell.service.metrics.exposition().splitlines()
    return [
        line for line in lines if line.startswith((b"fenliu_decisions", b"fenliu_places", b"fenliu_events"))
    ]


def test_without_profiling_what_the_customer_did_does_not_matter() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1", star_level=5)
            plain = await shell.page("u1", options={"profiling": False})
            event = shell.event("acted", "e1", user_id="u1", action="purchased", item_id=ids(plain)[0])
            await shell.post("/v1/events", {"events": [event]})
            assert ids(await shell.page("u1", options={"profiling": False})) == ids(plain)
            assert ids(await shell.page("u1")) != ids(plain)
            put = await shell.put("/v1/users/u1", {"profile": {"profiling": False}})
            assert put.json() == {"user_id": "u1", "changed": ["profiling"]}
            assert ids(await shell.page("u1")) == ids(plain)
            await flushed(shell)
            assert [row["profiling"] for row in shell.logged("served")] == [False, False, True, False]

    run(story)


def test_both_ids_link_the_visitor_to_the_user() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1")
            alone = await shell.page("u1")
            event = shell.event("acted", "e1", visitor_id="d1", action="purchased", item_id=ids(alone)[0])
            await shell.post("/v1/events", {"events": [event]})
            assert ids(await shell.page("u1")) == ids(alone)
            together = await shell.page("u1", visitor_id="d1")
            assert ids(together) != ids(alone)
            assert ids(await shell.page("u1")) == ids(together)  # from now on without the device as well
            await shell.page("u1", visitor_id="d1")
            await flushed(shell)
            (linked,) = shell.logged("linked")
            assert (linked["user_id"], linked["visitor_id"]) == ("u1", "d1")
            token = shell.service.signer.verify(together["page_token"])
            assert token.subject == "u:u1"

    run(story)


def test_what_happened_on_the_device_counts_also_while_the_link_cannot_be_written() -> None:
    async def story() -> None:
        async with running(tiny_bundle(items=[item(n, cooling=odd(n)) for n in range(120)])) as shell:
            await shell.know("u1")
            event = shell.event("acted", "e1", visitor_id="d1", action="complained", item_id="i1")
            assert any(odd(int(name[1:])) for name in ids(await shell.page("u1")))
            await shell.post("/v1/events", {"events": [event]})
            live = shell.stores.live
            link, tried = live.link, list[str]()

            async def away(visitor: str, user: str) -> None:
                tried.append(visitor)
                raise StoreUnavailable("read only")

            live.link = away  # type: ignore[method-assign]
            both = {"visitor_id": "d1"}
            for _ in range(3):
                assert not any(odd(int(name[1:])) for name in ids(await shell.page("u1", **both)))
            assert len(tried) >= 3 and len(shell.service.publisher._repairs) <= 1
            live.link = link  # type: ignore[method-assign]
            for asked in (both, {}):
                assert not any(odd(int(name[1:])) for name in ids(await shell.page("u1", **asked)))

    run(story)


def test_an_event_with_both_ids_links_as_well() -> None:
    async def story() -> None:
        async with running() as shell:
            seen = shell.event("acted", "e1", visitor_id="d1", action="viewed", item_id="i3")
            login = shell.event("linked", "e2", visitor_id="d1", user_id="u1")
            assert (await shell.post("/v1/events", {"events": [seen, login]})).json()["accepted"] == 2
            recent = (await shell.stores.live.fetch(shell.stores.live.keys("u:u1")))[0]
            assert key64("i3") in np.frombuffer(recent or b"", RECENT)["item"].tolist()

    run(story)


# --- what is written about a page


def test_the_served_record_holds_the_inputs_and_the_choice() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.know("u1")
            asked = {"slots": [{"slot": "home.shelf", "count": 2, "exclude": ["i1"]}], "session_id": "s1"}
            page = await shell.page("u1", context={**CONTEXT, "city": "310000"}, **asked)
            await flushed(shell)
            (row,) = shell.logged("served")
            assert row["id"] == page["decision_id"] and row["subject"] == "u:u1" and row["at"] == NOW
            assert (row["bundle"], row["plan"]) == (page["bundle"], page["plan"])
            assert row["item_ids"] == ids(page) and row["sizes"] == [2] and row["slots"] == ["home.shelf"]
            keys = [key64(name) for name in ids(page)]
            assert np.frombuffer(row["items"], np.uint64).tolist() == keys
            assert np.frombuffer(row["propensity"], np.float32).tolist() == [1.0, 1.0]
            assert row["context"]["city"] == "310000" and row["context"]["exclude"] == {"home.shelf": ["i1"]}
            assert row["context"]["session_id"] == "s1" and len(row["blobs"]) == 5 and row["blobs"][0]
            token = shell.service.signer.verify(page["page_token"])
            assert [place.item for place in token.places] == keys

    run(story)


def test_explain_says_what_was_dropped_and_what_the_score_is_made_of() -> None:
    restricted = [item(n, risk_class=5) if odd(n) else item(n) for n in range(120)]

    async def story() -> None:
        async with running(tiny_bundle(items=restricted)) as shell:
            await shell.know("u1", risk_level=1)
            page = await shell.page("u1", options={"explain": True})
            assert page["effort"] == "full"
            shelf = next(slot for slot in page["slots"] if slot["slot"] == "home.shelf")
            dropped = {one["code"]: one for one in shelf["explained"]["dropped"]}
            assert dropped["risk"]["count"] > 0 and dropped["risk"]["zh"] and dropped["risk"]["en"]
            placed = {one["item_id"] for one in shelf["items"]}
            assert set(shelf["explained"]["terms"]) <= placed and shelf["explained"]["terms"]

    run(story)


def test_an_anchor_that_is_gone_is_said_and_costs_nothing() -> None:
    async def story() -> None:
        async with running() as shell:
            plain = await shell.page("u1")
            lost = await shell.page("u1", context={**CONTEXT, "anchor_item": "nobody"})
            assert "anchor_item" in lost["degraded"] and ids(lost) == ids(plain)
            near = await shell.page("u1", context={**CONTEXT, "anchor_item": "i1"})
            assert any(
                one["reason"]["code"] == "similar_to_anchor" for s in near["slots"] for one in s["items"]
            )

    run(story)


# --- following control


def test_items_put_changed_and_deleted_are_in_force_after_a_poll() -> None:
    async def story() -> None:
        async with running(tiny_bundle(items=tiny_items(60))) as shell:
            new = {"kind": "function", "title": {"zh": "新功能", "en": "New one"}, "action": "app://new"}
            assert (await shell.put("/v1/items/new1", new)).json()["overlay"] == 1
            assert (await shell.put("/v1/items:batch", {"items": [{**new, "id": "new2"}]})).json()[
                "items"
            ] == 1
            creative = {"item_id": "new2", "title": "看这里", "state": "live"}
            assert (await shell.put("/v1/creatives/cr1", creative)).status_code == 200
            await shell.service.reloader.poll()
            live = shell.service.holder.live
            assert live.row("new1") is not None and live.row("new2") is not None
            row = live.row("new2")
            assert row is not None and [c.id for c in live.texts[row].creatives] == ["cr1"]
            page = await shell.page("u1", slots=[{"slot": "home.grid"}])
            victim = ids(page)[0]
            assert (await shell.client.delete(f"/v1/items/{victim}")).status_code == 200
            await shell.service.reloader.poll()
            assert victim not in ids(await shell.page("u1", slots=[{"slot": "home.grid"}]))
            back = {"kind": "function", "title": {"zh": "回来"}}
            await shell.put(f"/v1/items/{victim}", back)
            await shell.service.reloader.poll()
            assert shell.service.holder.live.row(victim) is not None
            assert victim in ids(await shell.page("u1", slots=[{"slot": "home.grid"}]))

    run(story)


def test_a_bundle_that_cannot_run_is_refused_and_kills_still_come() -> None:
    async def story() -> None:
        async with running() as shell:
            before = await shell.page("u1")
            shell.bundles.held["b-bad"] = tiny_bundle(
                items=[item(n, "product") for n in range(9)], version="b-bad"
            )
            await shell.control.set("bundle", "b-bad")
            victim = ids(before)[0]
            await shell.control.kill(Kill("item", victim))
            assert await shell.service.reloader.poll()
            after = await shell.page("u1")
            assert after["bundle"] == before["bundle"] and victim not in ids(after)
            assert b'fenliu_swaps_total{result="refused"} 1.0' in shell.service.metrics.exposition()
            await shell.control.set("bundle", "nowhere")
            await shell.service.reloader.poll()
            assert (await shell.page("u1"))["bundle"] == before["bundle"]
            shell.bundles.held["b2"] = tiny_bundle(seed=1, version="b2")
            await shell.control.set("bundle", "b2")
            await shell.service.reloader.poll()
            swapped = await shell.page("u1")
            assert swapped["bundle"] == "b2" and victim not in ids(swapped)

    run(story)


def test_a_kill_is_obeyed_when_control_says_again_what_it_said_before_a_refusal() -> None:
    """Killed; then a bundle that cannot run, and revived; then both are taken back: killed again."""

    async def story() -> None:
        async with running() as shell:
            victim = ids(await shell.page("u1"))[0]
            await shell.control.set("bundle", "b-tiny")
            await shell.control.kill(Kill("item", victim))
            assert await shell.service.reloader.poll()
            await shell.control.set("bundle", "nowhere")
            await shell.control.revive(Kill("item", victim))
            assert await shell.service.reloader.poll()
            assert victim in ids(await shell.page("u1"))
            await shell.control.set("bundle", "b-tiny")
            await shell.control.kill(Kill("item", victim))
            assert await shell.service.reloader.poll()
            assert victim not in ids(await shell.page("u1"))

    run(story)


def test_everything_killed_empties_the_page_and_says_so() -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.control.kill(Kill("everything"))
            await shell.service.reloader.poll()
            page = await shell.page("u1")
            assert ids(page) == [] and "killed" in page["degraded"]
            await shell.control.revive(Kill("everything"))
            await shell.service.reloader.poll()
            assert ids(await shell.page("u1"))

    run(story)


def test_a_changed_plan_file_is_taken_up() -> None:
    async def story() -> None:
        async with running() as shell:
            from tests.worlds import tiny_plan

            path = shell.service.settings.plan
            assert path is not None
            path.write_text(tiny_plan(name="second").model_dump_json())
            assert await shell.service.reloader.poll()
            assert (await shell.page("u1"))["plan"] == tiny_plan(name="second").version
            path.write_text("slots: [")
            await shell.service.reloader.poll()
            assert (await shell.page("u1"))["plan"] == tiny_plan(name="second").version

    run(story)


def test_kills_come_also_while_the_plan_file_is_gone() -> None:
    async def story() -> None:
        async with running() as shell:
            victim = ids(await shell.page("u1"))[0]
            plan = shell.service.settings.plan
            assert plan is not None
            text = plan.read_text()
            plan.unlink()
            await shell.control.kill(Kill("item", victim))
            assert await shell.service.reloader.poll()
            page = await shell.page("u1")
            assert page["slots"] and victim not in ids(page)
            plan.write_text(text)
            assert await shell.service.reloader.poll()

    run(story)


def test_what_was_refused_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with running() as shell:
            await shell.control.set("bundle", "late")
            assert not (await shell.service.reloader.poll()) or (await shell.page("u1"))["bundle"] == "b-tiny"
            shell.bundles.held["late"] = tiny_bundle(seed=3, version="late")
            await shell.service.reloader.poll()
            assert (await shell.page("u1"))["bundle"] == "b-tiny"
            monkeypatch.setattr("serving.reload.REFUSED_S", -1.0)
            assert await shell.service.reloader.poll()
            assert (await shell.page("u1"))["bundle"] == "late"

    run(story)


def test_a_full_log_says_when_to_come_back() -> None:
    async def story() -> None:
        async with running() as shell:
            log = shell.stores.log
            assert isinstance(log, MemoryLog)
            log.max_entries = 0
            event = shell.event("acted", "e1", user_id="u1", action="viewed", item_id="i1")
            answer = await shell.post("/v1/events", {"events": [event]})
            assert answer.status_code == 503 and answer.json()["code"] == "log_full"
            assert int(answer.headers["retry-after"]) >= 1
            page = await shell.page("u1", events=[event])
            assert [r["code"] for r in page["events"]["rejected"]] == ["log_full"] and page["slots"]
            log.max_entries = 1000

    run(story)
