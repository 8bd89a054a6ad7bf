"""The shell around `decide`: events inside a request count before it is answered, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from features.events import WHAT
from features.ids import key64
from features.log import Entry
from features.store import StoreUnavailable
from features.views import CONTACT, RECENT
from tests.shell import ids, run, running
from tests.shell_looks import odd
from tests.worlds import item, tiny_bundle


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


def test_without_a_spool_events_that_cannot_be_logged_are_told_and_the_page_still_comes() -> None:
    async def story() -> None:
        async with running(settings={"spool_mb": 0}) as shell:
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
