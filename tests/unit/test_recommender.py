"""The shell around `decide`: dry runs, profiling, linking, and what is written about a page."""

from __future__ import annotations

import numpy as np

from features.ids import key64
from features.store import StoreUnavailable
from features.views import RECENT
from tests.shell import CONTEXT, Shell, ids, run, running
from tests.shell_looks import flushed, odd
from tests.worlds import NOW, item, tiny_bundle


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
            assert await shell.stores.live.fetch(keys) == [None] * 10
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
            assert row["context"]["session_id"] == "s1" and len(row["blobs"]) == 7 and row["blobs"][0]
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
