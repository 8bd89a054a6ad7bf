"""Work in steps: alone and side by side the same; and pages of one turn of the loop, decided together."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serving.decide import decide, deciding
from serving.stepping import at_once, side_by_side, whole
from serving.together import MOST, Together
from tests.worlds import NOW, contacts, customer, market_live, query, shown, sold


def steps(name, many, told, *, fails=False):
    for number in range(many):
        told.append((name, number))
        yield
    if fails:
        raise ValueError(name)
    return name


def test_a_step_of_each_in_turn_and_what_fails_fails_alone():
    told = []
    given = [steps("a", 2, told), steps("b", 1, told, fails=True), steps("c", 3, told), steps("d", 0, told)]
    first, second, *rest = side_by_side(given)
    assert first == "a" and isinstance(second, ValueError) and rest == ["c", "d"]
    assert told == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("c", 2)]
    assert side_by_side([]) == [] and whole(steps("e", 2, told)) == "e"
    assert whole(at_once(divmod)(7, 2)) == (3, 1)


def pages():
    """Pages that differ in all that stages keep for later ones: history, campaigns, caps, arms of work."""
    items = [f"i{2 + 6 * number}" for number in range(4)]
    once = {"most": 1, "window": "1d"}
    live = market_live(
        *(sold(n + 1, item, values={"click": 9.0}, caps=[once]) for n, item in enumerate(items))
    )
    asked = [
        query(live, customer(contact=contacts(*entries)), subject=f"u:{at}", decision_id=f"d{at}")
        for at, entries in enumerate(
            [(), (shown("i8", 60, campaign="c2"),), (shown("i2", 60, campaign="c1"), shown("i20", 9)), ()] * 5
        )
    ]
    asked[3] = replace(asked[3], slots=asked[3].slots[:2])
    return live, asked


@pytest.mark.parametrize("effort", ["full", "light", "popular", "fallback"])
def test_a_page_is_the_same_whoever_is_beside_it(effort):
    live, asked = pages()
    alone = [decide(one, live, effort) for one in asked]
    for most in (2, MOST, len(asked)):
        for at in range(0, len(asked), most):
            some = side_by_side([deciding(one, live, effort) for one in asked[at : at + most]])
            for ours, theirs in zip(some, alone[at : at + most], strict=True):
                assert ours.placements.columns == theirs.placements.columns and ours.drops == theirs.drops
                assert [list(column) for column in ours.met] == [list(column) for column in theirs.met]
                assert list(ours.lotteries) == list(theirs.lotteries) and ours.ghosts == theirs.ghosts


def test_what_waits_in_one_turn_is_decided_together_at_most_so_many_at_once():
    live, asked = pages()
    told: list[str] = []

    def watched(one):
        told.append(one.decision_id)
        return (yield from deciding(one, live))

    def begin(one):
        return lambda: ("full", watched(one))

    async def story():
        together = Together(lambda: NOW)
        return await asyncio.gather(*(together.decided(begin(one), alone=False) for one in asked[: MOST + 3]))

    found = asyncio.run(story())
    assert told == [one.decision_id for one in asked[: MOST + 3]]
    plain = [decide(one, live).placements.columns for one in asked[: MOST + 3]]
    assert [one.decision.placements.columns for one in found] == plain


def test_who_went_away_is_not_decided_and_who_fails_fails_alone():
    live, asked = pages()
    begun: list[int] = []

    def good():
        begun.append(len(begun))
        return "full", deciding(asked[0], live)

    def broken():
        return "full", at_once(lambda: 1 / 0)()

    def late():
        raise RuntimeError("it did not begin")

    async def story():
        together = Together(lambda: NOW)
        tasks = [
            asyncio.create_task(together.decided(one, alone=False)) for one in (good, broken, good, late)
        ]
        await asyncio.sleep(0)
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third, fourth = asyncio.run(story())
    assert first.decision.placements and begun == [0]
    assert isinstance(second, ZeroDivisionError) and isinstance(third, asyncio.CancelledError)
    assert isinstance(fourth, RuntimeError)


def test_what_a_rung_costs_is_not_charged_to_another():
    live, asked = pages()
    now = [0.0]

    def made(effort, seconds):
        def decided():
            now[0] += seconds
            return decide(asked[0], live, effort)

        return lambda: (effort, at_once(decided)())

    async def story():
        together = Together(lambda: now[0])
        some = [made("full", 3.0), made("popular", 0.5), made("full", 1.0)]
        return await asyncio.gather(*(together.decided(one, alone=False) for one in some))

    assert [one.seconds for one in asyncio.run(story())] == [2.0, 0.5, 2.0]


def test_a_page_that_nobody_is_beside_is_decided_where_it_stands():
    live, asked = pages()

    async def story():
        clock = iter((1.0, 1.5))
        together = Together(lambda: next(clock))
        return await together.decided(lambda: ("full", deciding(asked[0], live)), alone=True)

    made = asyncio.run(story())
    assert made.seconds == 0.5 and made.decision.placements == decide(asked[0], live).placements
