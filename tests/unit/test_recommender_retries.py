"""The shell around `decide`: one request id is one decision, and what it answers again."""

from __future__ import annotations

import asyncio

import pytest

from serving.control import Kill
from tests.shell import CONTEXT, ids, run, running, without_ids
from tests.shell_looks import flushed
from tests.worlds import item, tiny_bundle


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
