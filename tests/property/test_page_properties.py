"""What holds of every page that is solved, whatever competes for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.page import (
    HOUSE,
    MANDATORY,
    NO_LIMIT,
    ORGANIC,
    Batch,
    Offers,
    Options,
    Problem,
    Slots,
    solve,
    solve_many,
)
from tests.plain_page import broken, places_of, plain_solve, worth_of

KINDS = 6


@st.composite
def problems(draw, plain=False):
    """Up to 4 slots of 5 places, 30 candidates, 14 offers of 5 campaigns; `plain`: market offers only."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    slots, n, m = draw(st.integers(1, 4)), draw(st.integers(1, 30)), draw(st.integers(0, 14))
    count = rng.integers(0, 6, slots).astype(np.int32)
    most = max(1, int(count.max()))
    rates = np.zeros((slots, most), np.float32)
    for s in range(slots):
        rates[s, : count[s]] = rng.uniform(0.3, 1) * rng.uniform(0.5, 1) ** np.arange(count[s])
    crossed, stable = draw(st.booleans()), draw(st.booleans()) and not plain
    limits = draw(st.booleans()) and not plain
    page = Slots(
        bit=np.uint64(1) << np.arange(slots, dtype=np.uint64),
        count=count,
        rates=rates,
        origins=np.full(slots, 1, np.uint32),
        per_category=rng.integers(1, 4, slots).astype(np.int32),
        per_kind=rng.integers(1, 6, slots).astype(np.int32),
        diminish=rng.choice([1.0, 0.9, 0.5], slots).astype(np.float32),
        cross=rng.choice([1.0, 0.9], slots).astype(np.float32) if crossed else np.ones(slots, np.float32),
        interruption=np.where(rng.random(slots) < 0.2, 0.2, 0).astype(np.float32),
        switching=np.where(rng.random(slots) < 0.5, 0.05, 0).astype(np.float32) * np.float32(stable),
        kind_least=(rng.random((slots, KINDS)) < 0.1).astype(np.uint8) * np.uint8(limits),
        kind_most=np.where(rng.random((slots, KINDS)) < 0.15, 1, NO_LIMIT).astype(np.uint8)
        if limits
        else np.full((slots, KINDS), NO_LIMIT, np.uint8),
    )
    members = rng.integers(0, 1 << slots, n).astype(np.uint64)
    counters = 7
    room = np.where(rng.random((n, 2)) < 0.1, rng.integers(0, counters, (n, 2)), -1).astype(np.int32)
    value = rng.lognormal(-1, 1, n)
    options = Options(
        members, np.ones(n, np.uint32), value.astype(np.float32), rng.integers(0, 5, n).astype(np.int32),
        rng.integers(0, KINDS, n).astype(np.uint8), room, (rng.random(n) < 0.2).astype(np.uint8),
    )  # fmt: skip
    candidate = rng.integers(0, n, m).astype(np.int32)
    base = (value[candidate] * rng.uniform(0.5, 1.5, m)).astype(np.float32)
    pinned = rng.random(m) < (0 if plain else 0.15)
    pin_slot = np.where(pinned, rng.integers(0, slots, m), -1).astype(np.int32)
    bands = [1] if plain else [1, 1, 1, 1, MANDATORY, HOUSE]
    offers = Offers(
        candidate=candidate,
        campaign=rng.integers(0, 5, m).astype(np.int32),
        slots=rng.integers(0, 1 << slots, m).astype(np.uint64),
        value=(base + rng.normal(0, 0.3, m)).astype(np.float32) if not plain else base,
        base=base,
        band=rng.choice(bands, m).astype(np.uint8),
        pin_slot=pin_slot,
        pin=np.where(pinned, rng.integers(0, 4, m), -1).astype(np.int32),
        room=np.where(rng.random((m, 6)) < 0.15, rng.integers(0, counters, (m, 6)), -1).astype(np.int32),
        capped=(rng.random(m) < 0.4).astype(np.uint8),
        roadblock=(rng.random(m) < 0.1).astype(np.uint8) * np.uint8(not plain),
    )
    held = np.array(
        [
            [s, i, k]
            for s, i, k in zip(rng.integers(0, slots, 4), rng.permutation(n)[:4], range(4), strict=False)
        ],
        np.int32,
    ).reshape(-1, 3)
    left = rng.integers(0, 3, counters).astype(np.int32)
    return Problem(page, options, offers, left, held, np.full(counters, 5, np.uint8))


@given(problems())
@settings(max_examples=150, deadline=None)
def test_a_page_breaks_nothing_and_is_worth_what_it_says(problem):
    solution = solve(problem)
    places = places_of(solution)
    assert broken(problem, places) == []
    assert solution.worth == pytest.approx(worth_of(problem, places), abs=1e-6)
    assert np.isfinite(solution.tag).all()


@given(problems())
@settings(max_examples=60, deadline=None)
def test_compiled_and_interpreted_pages_are_the_same_to_the_bit(problem):
    one, other = solve(problem), plain_solve(problem)
    for name, a, b in zip(one._fields, one, other, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


@given(problems())
@settings(max_examples=60, deadline=None)
def test_stand_ins_need_no_reservation_and_stand_nowhere_else(problem):
    solution = solve(problem)
    offers, options, slots = problem.offers, problem.options, problem.slots
    placed = dict(zip(solution.candidate.tolist(), range(len(solution.candidate)), strict=True))
    seen = set()
    for at, (i, o) in enumerate(
        zip(solution.spare_candidate.tolist(), solution.spare_offer.tolist(), strict=True)
    ):
        own, offer = int(solution.candidate[at]), int(solution.offer[at])
        capped = bool(options.capped[own]) or (offer != ORGANIC and bool(offers.capped[offer]))
        if i < 0:
            continue
        assert capped and i not in seen and placed.get(i, at) == at
        assert not options.capped[i] and (o == ORGANIC or not offers.capped[o])
        suits = options.members[i] if o == ORGANIC else offers.slots[o]
        assert suits & slots.bit[solution.slot[at]]
        seen.add(i)


@given(st.lists(problems(), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_many_pages_at_once_are_each_as_one(several):
    problems_ = [one._replace(slots=several[0].slots) for one in several]
    bits = int(sum(several[0].slots.bit.tolist()))
    fitting = [
        one._replace(
            offers=one.offers._replace(
                slots=one.offers.slots & np.uint64(bits),
                pin_slot=np.where(one.offers.pin_slot < len(one.slots.count), one.offers.pin_slot, -1).astype(
                    np.int32
                ),
            ),
            held=one.held[one.held[:, 0] < len(one.slots.count)],
        )
        for one in problems_
    ]
    pages = solve_many(batch_of(fitting), tags=True)
    for b, one in enumerate(fitting):
        solution, here = solve(one), slice(int(pages.at[b]), int(pages.at[b + 1]))
        for name in ("slot", "position", "candidate", "offer", "value", "base", "tag", "rule", "by"):
            assert getattr(pages, name)[here].tolist() == getattr(solution, name).tolist(), name
        assert pages.worth[b] == solution.worth


def batch_of(several):
    def joined(parts):
        return type(parts[0])(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def bounds(sizes):
        return np.cumsum([0, *sizes]).astype(np.int64)

    offers = [
        one.offers._replace(
            boost=np.zeros(len(one.offers.band), np.float32), promise=np.zeros(len(one.offers.band), np.uint8)
        )
        for one in several
    ]
    return Batch(
        several[0].slots,
        joined([one.options for one in several]), bounds([len(one.options.value) for one in several]),
        joined(offers), bounds([len(one.offers.band) for one in several]),
        np.concatenate([one.room for one in several]), bounds([len(one.room) for one in several]),
        np.concatenate([one.held for one in several]), bounds([len(one.held) for one in several]),
        np.concatenate([one.limits for one in several]),
    )  # fmt: skip


@given(problems(plain=True), st.integers(0, 4), st.floats(1.01, 4))
@settings(max_examples=1_000, deadline=None, derandomize=True)
def test_a_raised_lever_does_not_lower_the_campaigns_value(problem, campaign, factor):
    """In displays times value, as before the lever. Fixed examples: the optimum obeys, a search does not
    always find it, and one random page in 4,000 breaks this; it is no guarantee."""
    mine = problem.offers.campaign == campaign
    raised = np.where(mine, problem.offers.value * np.float32(factor), problem.offers.value).astype(
        np.float32
    )
    more = problem._replace(offers=problem.offers._replace(value=raised))
    before, after = solve(problem, tags=False), solve(more, tags=False)
    had, has = of_campaign(problem, before, mine), of_campaign(problem, after, mine)
    assert has >= had - 1e-6


def of_campaign(problem, solution, mine):
    """What a campaign's placements are worth at lever 1, under the page's interactions."""
    places = places_of(solution)
    others = problem.offers._replace(value=np.where(mine, problem.offers.value, 0).astype(np.float32))
    nothing = problem.options._replace(value=np.zeros_like(problem.options.value))
    free = problem.slots._replace(interruption=np.zeros_like(problem.slots.interruption))
    return worth_of(problem._replace(options=nothing, offers=others, slots=free), places)
