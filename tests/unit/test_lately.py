"""A replica forgets customers by itself: erasure cannot reach its memory."""

from __future__ import annotations

import asyncio

from serving.lately import KEPT_S, Lately
from tests.shell import run, running
from tests.shell_looks import effort_of, flushed
from tests.unit.test_campaign_pages import Slow


class Standing:
    """Monotonic seconds that stand still until they are moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_over_is_not_given_out() -> None:
    async def story() -> None:
        clock = Standing()
        held: Lately[str, int] = Lately(3, 10.0, clock)
        held.put("a", 1)
        clock.now += 9.9
        assert held.get("a") == 1 and "a" in held
        held.put("b", 2)
        clock.now += 0.1
        assert held.get("a") is None and "a" not in held and held.get("b") == 2
        held.put("b", 3)  # counts from now
        clock.now += 9.9
        assert held.get("b") == 3

    run(story)


def test_it_is_bounded_and_the_oldest_goes_first() -> None:
    async def story() -> None:
        held: Lately[int, int] = Lately(3, 10.0, Standing())
        for n in (0, 1, 2, 0, 3):
            held.put(n, n)
        assert len(held) == 3 and 1 not in held and 0 in held

    run(story)


def test_it_is_let_go_where_nobody_asks_any_more() -> None:
    async def story() -> None:
        held: Lately[str, int] = Lately(3, 0.01)
        held.put("a", 1)
        for _ in range(200):
            if not len(held):
                break
            await asyncio.sleep(0.01)
        assert not len(held) and held._timer is None

    run(story)


def test_a_replica_forgets_pages_and_links() -> None:
    """What the two hold of a customer is over after KEPT_S of the service's own clock."""

    async def story() -> None:
        async with running() as shell:
            recommender, clock = shell.service.recommender, Standing()
            await shell.page("u1", visitor_id="d1")
            pages, links = recommender._last, recommender._links._told
            assert len(pages) == len(links) == 1 and KEPT_S == 600.0
            recommender._ladder = Slow()
            await shell.page("u1")
            await flushed(shell)
            assert effort_of(shell) == "cached"
            began = pages._held[("u:u1", "home")][0]
            for kept in (pages, links):
                kept._clock = clock
            clock.now = began + KEPT_S + 1
            await shell.page("u1")
            await flushed(shell)
            assert effort_of(shell) == "popular"
            for kept in (pages, links):
                kept._swept()
                assert not len(kept)

    run(story)
