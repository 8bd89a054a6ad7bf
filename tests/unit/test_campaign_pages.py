"""Campaigns through the real shell: pages, displays, caps, quotas, meters, retries."""

from __future__ import annotations

from typing import Any

import pytest

from features.customer import decode_customer
from features.ids import key32
from features.ledger import bucket_of
from features.reservations import LATE, RESERVED
from features.views import CONTACT
from serving.domain import Effort
from serving.ladder import Ladder
from serving.tallying import tells_tags
from tests.shell import Shell, ids, run, running
from tests.worlds import NOW, sold, tiny_plan

DEAR = {"click": 100.0}


def plan(*campaigns: dict[str, Any], **changes: Any) -> Any:
    return tiny_plan(campaigns=list(campaigns), **changes)


def exclusive(number: int, item: str, slot: str = "home.banner", **fields: Any) -> dict[str, Any]:
    return sold(number, item, slot, values=DEAR, exclusive=True, **fields)


def tagged(page: dict[str, Any]) -> dict[str, str]:
    """Item id -> campaign."""
    places = [one for slot in page["slots"] for one in slot["items"]]
    return {one["item_id"]: one["campaign_id"] for one in places if one["campaign_id"] is not None}


async def ready(shell: Shell) -> None:
    """The ledger was seen, and the quotas of the plan are leased for now."""
    await shell.service.granting.renew()


async def see(shell: Shell, page: dict[str, Any], event_id: str) -> dict[str, Any]:
    """Everything on a page is displayed."""
    seen = [one["index"] for slot in page["slots"] for one in slot["items"]]
    event = shell.event("displayed", event_id, page_token=page["page_token"], seen=seen)
    answer = await shell.post("/v1/events", {"events": [event]})
    assert answer.status_code == 202 and answer.json()["rejected"] == [], answer.text
    await shell.service.publisher.flush()
    return dict(answer.json())


async def contact(shell: Shell, user: str = "u1") -> Any:
    import numpy as np

    (_, blob, *_) = await shell.stores.live.fetch(shell.stores.live.keys(f"u:{user}"), 1.0)
    return np.frombuffer(blob or b"", CONTACT)


async def counted(shell: Shell, campaign: str, unit: str = "displayed") -> float:
    found = await shell.stores.meters.read([campaign])
    return found.get(campaign, {}).get(unit, _NONE).total


class _None:
    total = 0.0


_NONE = _None()
ONCE = {"most": 1, "window": "1d"}


def test_a_cap_of_one_holds_on_the_page_after_the_display() -> None:
    async def story() -> None:
        async with running(plan=plan(exclusive(1, "i2", caps=[ONCE]), exclusive(2, "i8"))) as shell:
            await ready(shell)
            first = await shell.page()
            assert tagged(first) == {"i2": "c1", "i8": "c2"}
            again = await shell.page()  # not displayed yet: this page takes over what the first one held
            assert tagged(again) == tagged(first)
            await see(shell, again, "e1")
            shell.clock.now += 5
            await ready(shell)
            assert tagged(await shell.page()) == {"i8": "c2"}
            shell.clock.now += 86_400
            await ready(shell)
            assert tagged(await shell.page()) == {"i2": "c1", "i8": "c2"}

    run(story)


class Slow(Ladder):
    """Too busy for anything above the cached rung."""

    def choose(self, left_s: float, load: float, *, cached: bool, waiting: int = 1) -> Effort:
        return "cached" if cached else "popular"


@pytest.mark.parametrize("stale", [False, True], ids=["read", "read before the display"])
def test_the_ledger_is_asked_again_on_the_cached_rung(stale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page kept from before shows nothing whose cap was used since, even where the read missed that."""
    made = plan(exclusive(1, "i2", tier="mandatory", caps=[ONCE]), exclusive(2, "i8", tier="mandatory"))

    def forgetful(blobs: Any, **rest: Any) -> Any:
        return decode_customer(blobs._replace(contact=None), **rest)

    async def story() -> None:
        async with running(plan=made) as shell:
            await ready(shell)
            first = await shell.page()
            assert tagged(first) == {"i2": "c1", "i8": "c2"}
            shell.service.recommender._ladder = Slow()
            again = await shell.page(options={"explain": True})
            assert again["effort"] == "cached" and tagged(again) == tagged(first)
            await see(shell, again, "e1")
            shell.clock.now += 5
            if stale:
                monkeypatch.setattr("serving.recommender.decode_customer", forgetful)
            third = await shell.page(options={"explain": True})
            assert third["effort"] == "cached" and tagged(third) == {"i8": "c2"}
            await shell.service.publisher.flush()
            refused = shell.logged("served")[-1]["refused"]
            assert bool(refused) == stale  # by the ledger, where the decision could not know

    run(story)


def test_a_display_is_counted_once_for_the_campaign_and_the_goal_moves() -> None:
    flight = {"from": "2026-09-01", "until": "2026-10-01"}
    goal = {"tier": "guaranteed", "goals": [{"unit": "displayed", "at_least": 100}], "flight": flight}
    made = plan(exclusive(1, "i2", **goal), exclusive(2, "i8"))

    async def story() -> None:
        async with running(plan=made) as shell:
            await ready(shell)
            page = await shell.page()
            assert await counted(shell, "c1") == 0
            await see(shell, page, "e1")
            assert await counted(shell, "c1") == await counted(shell, "c2") == 1
            await see(shell, page, "e1")  # told twice, and by another event once more
            await see(shell, page, "e2")
            assert await counted(shell, "c1") == 1
            index = next(o["index"] for s in page["slots"] for o in s["items"] if o["item_id"] == "i2")
            click = shell.event("clicked", "e3", page_token=page["page_token"], index=index)
            await shell.post("/v1/events", {"events": [click]})
            assert await counted(shell, "c1", "clicked") == 1 and await counted(shell, "c2", "clicked") == 0

    run(story)


def test_a_quota_of_three_is_never_exceeded_by_two_services_on_one_ledger() -> None:
    made = plan(exclusive(1, "i2", quotas=[{"id": "q", "at_most": 3}]))

    async def story() -> None:
        async with running(plan=made) as one:
            shared = {"stores": one.stores, "control": one.control, "clock": one.clock}
            async with running(plan=made, **shared) as other:
                shown = 0
                for turn in range(20):
                    shell = (one, other)[turn % 2]
                    one.clock.now += 1.7
                    await ready(shell)
                    page = await shell.page(f"u{turn}")
                    shown += "i2" in tagged(page)
                    await see(shell, page, f"e{turn}")
                assert shown == 3 and await counted(one, "c1") == 3
                pool = (await one.stores.ledger.pools(["c1/q"]))["c1/q"]
                assert (pool.confirmed, pool.late) == (3, 0)

    run(story)


def test_units_that_were_never_displayed_come_back_when_their_page_has_lapsed() -> None:
    made = plan(exclusive(1, "i2", quotas=[{"id": "q", "at_most": 1}]))

    async def story() -> None:
        async with running(plan=made) as shell:
            await ready(shell)
            assert "i2" in tagged(await shell.page("u1"))
            shell.clock.now += 300
            assert "i2" not in tagged(await shell.page("u2"))
            shell.clock.now += 400  # 600 s of validity, 60 s of grace, the bucket's 10 s
            await ready(shell)
            assert "i2" in tagged(await shell.page("u3"))

    run(story)


def test_a_retry_is_the_same_page_and_reserves_once() -> None:
    made = plan(exclusive(1, "i2", caps=[ONCE], quotas=[{"id": "q", "at_most": 3}]))

    async def story() -> None:
        async with running(plan=made) as shell:
            await ready(shell)
            first = await shell.page(request_id="r1")
            assert tagged(first) == {"i2": "c1"}
            assert await shell.page(request_id="r1") == first
            held = (await shell.stores.live.fetch(shell.stores.live.keys("u:u1"), 1.0))[3]
            assert held is not None and len(held) == 56
            await see(shell, first, "e1")
            pool = (await shell.stores.ledger.pools(["c1/q"]))["c1/q"]
            assert pool.confirmed == 1 and bucket_of(NOW) >= 0

    run(story)


def test_a_display_after_the_page_has_lapsed_is_late_and_counts_as_such() -> None:
    made = plan(exclusive(1, "i2", caps=[{"most": 5, "window": "1d"}], quotas=[{"id": "q", "at_most": 9}]))

    async def story() -> None:
        async with running(plan=made) as shell:
            await ready(shell)
            on_time, too_late = await shell.page("u1"), await shell.page("u2")
            await see(shell, on_time, "e1")
            shell.clock.now += 1000
            await ready(shell)
            await see(shell, too_late, "e2")
            (good,) = [one for one in await contact(shell) if one["campaign"] == key32("c1")]
            (bad,) = [one for one in await contact(shell, "u2") if one["campaign"] == key32("c1")]
            assert good["flags"] & RESERVED and not good["flags"] & LATE
            assert bad["flags"] & LATE
            pool = (await shell.stores.ledger.pools(["c1/q"]))["c1/q"]
            assert (pool.confirmed, pool.late) == (1, 1)

    run(story)


def test_a_display_under_a_quota_alone_is_not_late() -> None:
    made = plan(exclusive(1, "i2", quotas=[{"id": "q", "at_most": 9}]))

    async def story() -> None:
        async with running(plan=made) as shell:
            await ready(shell)
            await see(shell, await shell.page(), "e1")
            (entry,) = [one for one in await contact(shell) if one["campaign"] == key32("c1")]
            assert not entry["flags"] & (LATE | RESERVED)

    run(story)


def test_when_the_ledger_cannot_be_reached_the_page_is_made_without_and_says_so() -> None:
    from features.store import StoreUnavailable

    made = plan(exclusive(1, "i2", caps=[ONCE]), exclusive(2, "i8"))

    async def cut(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("cut on purpose")

    async def story() -> None:
        async with running(plan=made) as shell:
            await ready(shell)
            shell.stores.ledger.reserve = cut  # type: ignore[method-assign]
            page = await shell.page()
            assert tagged(page) == {"i8": "c2"} and "ledger" in page["degraded"] and len(ids(page)) == 22

    run(story)


def test_an_exclusion_group_and_a_pin_hold_on_the_page_that_is_answered() -> None:
    made = plan(
        exclusive(1, "i2"),
        exclusive(2, "i8", "home.popup"),
        sold(3, "i3", pin={"home.banner": 1}),
        exclusions=[{"id": "x", "campaigns": ["c1", "c2"]}],
    )

    async def story() -> None:
        async with running(plan=made) as shell:
            page = await shell.page()
            assert ids(page, "home.banner")[1] == "i3"
            assert len({"i2", "i8"} & set(ids(page))) == 1

    run(story)


def test_pages_and_their_tags_are_tallied_for_the_pacer() -> None:
    made = plan(exclusive(1, "i2", tier="mandatory"), exclusive(2, "i8", caps=[ONCE]))

    async def story() -> None:
        async with running(plan=made) as shell:
            await ready(shell)
            assert tells_tags("t10")
            await see(shell, await shell.page(request_id="t10"), "e1")
            await shell.page()
            await shell.service.publisher.flush()
            tallying = shell.service.tallying
            await tallying.flush()
            assert tallying.tags.by_rule().get("mandatory") is not None
            assert (await shell.stores.meters.read(["v:home|"]))["v:home|"]["displayed"].total == 2
            await tallying.flush()
            assert (await shell.stores.meters.read(["v:home|"]))["v:home|"]["displayed"].total == 2

    run(story)
