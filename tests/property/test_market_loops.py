"""A page's market and its places by compiled loops, against twins that say the same in other ways."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.ids import LAYOUTS
from features.views import CONTACT
from serving.meeting import counted, met
from serving.page import Offers
from serving.page_packing import packed
from serving.page_seating import (
    CAMPAIGN_BIT,
    F_SPARE_OFFER,
    NOTHING,
    T_CAPPED,
    T_LAYOUT,
    T_LEAST,
    T_RESERVED,
    bar,
    laid,
)
from serving.page_state import I_MEMBERS, O_CAMPAIGN, O_CANDIDATE, O_ROOM, O_SLOTS
from serving.reached import SCOPES, reached, read_only
from serving.splitting import part_of
from serving.stocking import (
    D_BAND,
    D_CAMPAIGN,
    D_CAPPED,
    D_MEASURED,
    D_PIN,
    D_PIN_SLOT,
    D_PROMISE,
    D_ROADBLOCK,
    D_ROW,
    D_SLOTS,
    ROOMS,
    stocked,
)
from serving.why import reason_of, reasons
from tests.plain_market import plain_counted, plain_met, plain_reached, plain_stock
from tests.plain_seats import barred, plain_laid
from tests.property.test_page_properties import problems

seeds = st.integers(0, 2**32 - 1)
some = settings(max_examples=60, deadline=None)
CATALOGUE = 80


@some
@given(seeds, st.booleans(), st.booleans())
def test_a_market_is_what_its_columns_say(seed: int, measured: bool, in_order: bool) -> None:
    rng = np.random.default_rng(seed)
    campaigns, many, slots = 7, 20, 4
    whole = rng.integers(-1, 6, (CATALOGUE, 4))
    parts = rng.normal(0, 1, (CATALOGUE, 5)).astype(np.float32)
    deals = np.zeros((many, D_MEASURED + 1), np.int64)
    deals[:, D_ROW], deals[:, D_CAMPAIGN] = (
        rng.integers(0, CATALOGUE, many),
        np.sort(rng.integers(0, campaigns, many)),
    )
    deals[:, D_SLOTS], deals[:, D_BAND] = rng.integers(0, 16, many), rng.integers(0, 3, many)
    deals[:, D_PIN_SLOT], deals[:, D_PIN] = rng.integers(-1, slots, many), rng.integers(-1, 3, many)
    for flag in (D_CAPPED, D_ROADBLOCK, D_PROMISE):
        deals[:, flag] = rng.integers(0, 2, many)
    deals[:, D_MEASURED] = rng.integers(-1, 6, many)
    terms, until = rng.normal(0, 1, (many, 7)).astype(np.float32), rng.choice([50.0, 200.0], many)
    most = rng.integers(0, 4, campaigns).astype(np.int32)
    rows = np.sort(rng.permutation(CATALOGUE)[: rng.integers(1, 40)]).astype(np.int32)
    score = rng.uniform(-0.2, 1.2, len(rows)).astype(np.float32)
    odd = rng.random(len(rows)) < 0.2
    score[odd] = rng.choice([np.nan, np.inf, -np.inf], int(odd.sum()))
    origin = rng.integers(1, 2**13, len(rows)).astype(np.uint32)
    at = np.flatnonzero(rng.random(many) < 0.7)
    use, delta = (rng.random(4).astype(np.float32) if measured else np.zeros(0, np.float32) for _ in range(2))
    prices = rng.normal(0, 0.1, (campaigns, 3)).astype(np.float32)
    slot_of = rng.permutation(slots).astype(np.int32) - np.int32(1)
    scratch = rng.integers(-5, 2 * CATALOGUE, CATALOGUE).astype(np.int32)  # whatever was left there
    held = whole, parts, deals, terms, until, most
    asked = at, rows, origin, score, use, delta, prices, 100.0, slot_of, in_order
    for found, plain in zip(stocked(*held, scratch, *asked), plain_stock(*held, *asked), strict=True):
        np.testing.assert_array_equal(found, plain)


@some
@given(seeds)
def test_what_campaigns_met_and_what_dropped_whom(seed: int) -> None:
    rng = np.random.default_rng(seed)
    campaign, row = (
        np.sort(rng.integers(0, 6, 20)).astype(np.int32),
        rng.integers(0, CATALOGUE, 20).astype(np.int32),
    )
    at = np.flatnonzero(rng.random(20) < 0.7)
    rows = np.sort(rng.permutation(CATALOGUE)[: rng.integers(0, 60)]).astype(np.int32)
    drops = rng.choice(np.array([0, 0, 1, 6, 9], np.uint32), len(rows))
    offers = rng.integers(0, 6, (rng.integers(0, 9), O_ROOM + ROOMS))
    room, of = rng.integers(-1, 3, 8).astype(np.int32), rng.integers(-1, 6, 8).astype(np.int32)
    running, scratch = rng.random(6) < 0.5, rng.integers(-5, 99, CATALOGUE).astype(np.int32)
    found = met(running, campaign, row, at, rows, drops, offers, room, of, scratch)
    plain = plain_met(running, campaign, row, at, rows, drops, offers[:, O_CAMPAIGN], room, of)
    assert [column.tolist() for column in found] == plain
    assert list(zip(*(column.tolist() for column in counted(drops)), strict=True)) == plain_counted(drops)


@some
@given(seeds, st.sampled_from(SCOPES))
def test_what_reached_a_customer(seed: int, scope: str) -> None:
    rng = np.random.default_rng(seed)
    log = np.zeros(rng.integers(0, 30), CONTACT)
    for name in (*SCOPES, "what"):
        log[name] = rng.integers(0, 4, len(log))
    log["at"] = rng.integers(0, 100, len(log))
    keys = rng.integers(0, 4, rng.integers(1, 3)).astype(np.uint64)
    what, since = int(rng.integers(0, 4)), float(rng.integers(0, 100))
    found = reached(read_only(log), what, SCOPES.index(scope), keys, since)
    assert found == plain_reached(log, what, scope, keys, since)
    assert log.flags.writeable


class Laying:
    """A page laid out by the loops and by their plain twin, with all that they ask of catalogue and plan."""

    def __init__(self, problem, rng: np.random.Generator, tags: bool) -> None:
        slots, n, m = len(problem.slots.bit), len(problem.options.value), len(problem.offers.value)
        origin = rng.integers(1, 2**4, n).astype(np.uint32) | np.uint32(1)
        origin[rng.random(n) < 0.3] = CAMPAIGN_BIT
        self.problem = problem._replace(options=problem.options._replace(origin=origin))
        self.problem = self.problem._replace(
            slots=problem.slots._replace(origins=np.full(slots, 2**32 - 1, np.uint32))
        )
        self.rows = np.sort(rng.permutation(CATALOGUE)[:n]).astype(np.int32)
        self.score, self.table = rng.random(n).astype(np.float32), rng.permutation(20)[:m]
        self.layouts = rng.integers(0, len(LAYOUTS), slots).tolist()
        self.picks = rng.integers(-3, 3, (len(LAYOUTS), CATALOGUE)).astype(np.int16)
        self.capped = (rng.random(slots) < 0.2).tolist()
        self.naming = (rng.random(20) < 0.2).astype(np.uint8)
        self.least = [int(count) if rng.random() < 0.7 else 0 for count in problem.slots.count]
        self.reserved = [rng.choice([2, 4, 8], 2, replace=False).tolist() for _ in range(slots)]
        self.shown = rng.random((slots, 5))
        keys = rng.integers(0, 2**64, CATALOGUE, np.uint64), rng.integers(0, 2**32, 5, np.uint32)
        self.rest = self.naming, *keys, rng.random(CATALOGUE).astype(np.float32)
        self.why = np.array([(2, 5), (8, 6), (0, 7)], np.int64)
        self.terms = np.zeros((slots, T_RESERVED + 2), np.int64)
        self.terms[:, T_LAYOUT], self.terms[:, T_CAPPED] = self.layouts, self.capped
        self.terms[:, T_LEAST], self.terms[:, T_RESERVED:] = self.least, self.reserved
        self.tags = tags
        of = self.problem
        self.given = packed(of.slots, of.options, of.offers, of.room, of.limits, of.held)

    def laid(self, unit: int, salts, shares, without: bool):
        return laid(
            self.given.slots, self.given.slots_f, self.terms, self.shown, *self.given[2:], self.tags,
            self.table, self.rows, self.score, self.why, self.picks, *self.rest, unit, salts, shares, without,
        )  # fmt: skip

    def plain(self, problem, table, tags: bool | None = None):
        return plain_laid(
            problem, self.layouts, self.capped, self.least, self.reserved, self.shown,
            self.tags if tags is None else tags, table, self.rows, self.score, self.why.tolist(), self.picks,
            *self.rest,
        )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(problems(), seeds, st.booleans())
def test_places_say_what_the_solution_does(problem, seed: int, tags: bool) -> None:
    one = Laying(problem, np.random.default_rng(seed), tags)
    nobody = 0, np.zeros(0, np.uint64), np.zeros(0)
    found, whole, parts, *rest, ranked, ghosts, without = one.laid(*nobody, False)
    solution, plain, plain_parts, *others = one.plain(one.problem, one.table)
    assert [column.tolist() for column in found] == [
        column.tolist() for column in (*solution[:4], *solution[7:11])
    ]
    assert whole.T.tolist() == plain and parts.T.tolist() == plain_parts
    assert rest == others and ranked.tolist() == solution.ranked.tolist()
    assert not len(ghosts) and not without
    given, slots = one.given, problem.slots
    bare = barred(slots, one.layouts, one.rows, one.picks)
    options, offers = given.options.copy(), given.offers.copy()
    bar(given.slots, one.terms, options, offers, one.rows, one.picks)
    for s, bit in enumerate(slots.bit.tolist()):
        before = given.options[:, I_MEMBERS] & bit != 0
        np.testing.assert_array_equal(options[:, I_MEMBERS] & bit != 0, before & ~np.array(bare[s], np.bool_))
        of_offers = np.array(bare[s], np.bool_)[offers[:, O_CANDIDATE]]
        np.testing.assert_array_equal(
            offers[:, O_SLOTS] & bit != 0, (given.offers[:, O_SLOTS] & bit != 0) & ~of_offers
        )


@settings(max_examples=150, deadline=None)
@given(problems(), seeds, st.booleans(), st.booleans())
def test_who_is_held_out_gets_the_page_without_and_where_it_stood_is_told(
    problem, seed: int, tags: bool, sure: bool
) -> None:
    rng = np.random.default_rng(seed)
    one = Laying(problem, rng, tags)
    if sure:  # nothing has to be asked about
        one.picks[:], one.naming[:] = 1, 0
    unit, salts = int(rng.integers(-(2**63), 2**63)), rng.integers(0, 2**64, 5, np.uint64)
    shares = rng.choice([0.0, 0.4, 1.0], 5)
    held = np.array([part_of(unit & 2**64 - 1, int(salt)) for salt in salts]) < shares
    of, never = one.problem, held[one.problem.offers.campaign]
    solution, plain, plain_parts, *_ = one.plain(of, one.table, tags and not never.any())
    stood = [
        [int(of.offers.campaign[o]), s, k]
        for s, k, _, o in zip(*(column.tolist() for column in solution[:4]), strict=True)
        if o >= 0 and never[o]
    ]
    found, whole, parts, _, unsure, *_, ghosts, without = one.laid(unit, salts, shares, False)
    assert ghosts.tolist() == stood and without == (bool(stood) and (sure or unsure_of(plain) == 0))
    for offer in found[F_SPARE_OFFER].tolist():
        assert offer < 0 or not never[offer]
    if stood and not without:
        assert unsure == unsure_of(plain) and whole.T.tolist() == plain
        found, whole, parts, *_, ghosts, without = one.laid(unit, salts, shares, True)
        assert without and not len(ghosts)
    if not stood:
        _, plain, plain_parts, *_ = one.plain(of, one.table)
        assert whole.T.tolist() == plain and parts.T.tolist() == plain_parts
        return
    theirs = np.isin(np.arange(len(of.options.value)), of.offers.candidate[never])
    mine = np.isin(np.arange(len(of.options.value)), of.offers.candidate[~never])
    gone = theirs & ~mine & (of.options.origin == CAMPAIGN_BIT)
    members = np.where(gone, np.uint64(0), of.options.members)
    left = of._replace(
        options=of.options._replace(members=members),
        offers=Offers(*(column[~never] if len(column) else column for column in of.offers)),
    )
    _, plain, plain_parts, *_ = one.plain(left, one.table[~never])
    assert whole.T.tolist() == plain and parts.T.tolist() == plain_parts


def unsure_of(plain: list[list[int]]) -> int:
    """How many places have to be asked about."""
    return sum(place[7] <= NOTHING for place in plain)


@given(st.integers(0, 2**13 - 1), st.booleans(), st.booleans())
def test_a_reason_is_the_first_that_is_true(origin: int, informed: bool, grouped: bool) -> None:
    told = reasons(informed, grouped)
    assert int(told[-1, 0]) == 0
    first = next(int(reason) for bit, reason in told.tolist() if not bit or origin & bit)
    assert reason_of(origin, informed, grouped) == first
