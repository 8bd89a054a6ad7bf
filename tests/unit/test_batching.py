"""Pages of many customers in one call: the same pages, streamed, in order, behind those somebody awaits."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from tests.shell import CONTEXT, Shell, ids, run, running, without_ids
from tests.shell_looks import flushed

PATH = "/v1/recommend:batch"


async def batch(shell: Shell, *users: str, **more: Any) -> list[dict[str, Any]]:
    answer = await shell.post(PATH, {"user_ids": list(users), "context": CONTEXT, **more})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(line) for line in answer.content.splitlines()]


def test_a_batch_is_the_pages_of_its_customers_in_their_order() -> None:
    users = [f"u{number}" for number in range(21)]

    async def story() -> None:
        async with running() as shell:
            await shell.know("u3", risk_level=1)
            lines = await batch(shell, *users, surface="home")
            assert [line["user_id"] for line in lines] == users
            for line in (lines[0], lines[3]):
                alone = await shell.page(line["user_id"], surface="home")
                assert without_ids(line["page"]) == without_ids(alone) and line["page"]["page_token"]
            assert len({line["page"]["decision_id"] for line in lines}) == len(users)
            await flushed(shell)
            assert {row["subject"] for row in shell.logged("served")} == {f"u:{user}" for user in users}

    run(story)


def test_a_batch_sent_again_under_its_id_is_the_same_and_logged_once() -> None:
    async def story() -> None:
        async with running() as shell:
            first = await batch(shell, "u1", "u2", request_id="push-1")
            assert await batch(shell, "u1", "u2", request_id="push-1") == first
            await flushed(shell)
            assert len(shell.logged("served")) == 2

    run(story)


def test_slots_and_exclusions_hold_for_everybody_and_a_bad_ask_is_no_stream() -> None:
    async def story() -> None:
        async with running() as shell:
            (line,) = await batch(shell, "u1", slots=[{"slot": "home.feed", "count": 2}])
            assert len(ids(line["page"])) == 2
            for bad, code in (
                ({"user_ids": []}, "invalid_field"),
                ({"user_ids": ["u1"], "surface": "nowhere"}, "unknown_surface"),
                ({"user_ids": ["x" * 65]}, "bad_id"), ({"user_ids": ["u"] * 5001}, "too_many"),
            ):  # fmt: skip
                answer = await shell.post(PATH, bad)
                assert answer.status_code == 422 or answer.status_code == 404, answer.text
                assert answer.json()["code"] == code

    run(story)


def test_one_batch_at_a_time_and_none_while_many_wait_for_pages() -> None:
    async def story() -> None:
        async with running() as shell:
            recommender = shell.service.recommender
            recommender._in_flight = 60  # of a hundred
            waiting = asyncio.create_task(shell.post(PATH, {"user_ids": ["u1"], "context": CONTEXT}))
            await asyncio.sleep(0.02)
            assert not waiting.done()
            refused = await shell.post(PATH, {"user_ids": ["u2"]})
            assert refused.status_code == 503 and refused.json()["code"] == "overloaded"
            recommender._in_flight = 0
            assert (await waiting).status_code == 200
            assert len(await batch(shell, "u2")) == 1

    run(story)


def test_a_client_that_goes_away_ends_the_batch() -> None:
    async def story() -> None:
        async with running() as shell:
            sent: list[Any] = []
            body = orjson.dumps({"user_ids": [f"u{n}" for n in range(200)], "context": CONTEXT})
            messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

            async def receive() -> Any:
                return messages.pop(0)

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"",
                     "headers": [(b"content-type", b"application/json")]}  # fmt: skip
            await shell.app(scope, receive, send)
            await flushed(shell)
            assert len(shell.logged("served")) <= 16
            assert len(await batch(shell, "u1")) == 1  # and the next may begin

    run(story)
