from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from features.events import parse_batch
from features.ids import KIND_CODE, key32
from features.outcomes import parse_outcomes
from features.token import TokenSigner
from training.simulate import Placed, Simulation
from training.world import HOME, World
from training.world.needs import DAY
from training.world.rows import CLICKED, DISPLAYED, OUTCOME

SIGNER = TokenSigner([("k1", b"0123456789abcdef")])


@cache
def world() -> World:
    return World.create(5, customers=800, items=300, visits_per_day=0.5)


class Best:
    """Decides by the true affinity: the first of each slot's kinds, no item twice. `seed` None: at random."""

    def __init__(self, simulation: Simulation, random: bool = False) -> None:
        self.simulation, self.random = simulation, random
        self.rng = np.random.default_rng(0)
        self.asked: list[float] = []

    def __call__(self, customers: np.ndarray, at: np.ndarray) -> Placed:
        self.asked.append(float(at.min()))
        w = world()
        everything = np.tile(np.arange(len(w.catalogue)), (len(customers), 1))
        if self.random:
            score = self.rng.random(everything.shape)
        else:
            score = (
                self.simulation.respondent.tastes.affinity(w.themes, customers, everything)
                * w.catalogue.appeal
            )
        parts, index = [], 0
        for slot in HOME.slots:
            fits = np.isin(w.catalogue.kind, [KIND_CODE[kind] for kind in slot.kinds])
            top = np.argsort(np.where(fits, -score, np.inf), axis=1, kind="stable")[:, : slot.size]
            np.put_along_axis(score, top, -1.0, axis=1)
            for position in range(slot.size):
                parts.append((key32(slot.name), position, w.catalogue.keys[top[:, position]], index))
                index += 1
        n = len(customers)
        return Placed(
            np.tile(np.arange(n), len(parts)),
            np.repeat(np.array([p[0] for p in parts], np.uint32), n),
            np.repeat([p[1] for p in parts], n),
            np.concatenate([p[2] for p in parts]),
            np.repeat([p[3] for p in parts], n),
        )


def test_places_come_out_where_they_were_put() -> None:
    simulation = Simulation.start(world())
    decide = Best(simulation)
    placed = decide(np.arange(3), np.zeros(3))
    pages = simulation.pages(3, placed)
    assert (pages >= 0).all() and pages.shape == (3, 40)
    for index, slot in enumerate(HOME.slots):
        kinds = {KIND_CODE[kind] for kind in slot.kinds}
        assert set(world().catalogue.kind[pages[:, HOME.columns(index)]].ravel().tolist()) <= kinds
    few = Placed(*(column[:5] for column in placed))
    assert (simulation.pages(3, few) >= 0).sum() == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": np.array([12345], np.uint64)}, "not of this world"),
        ({"slot": np.array([key32("home.other")], np.uint32)}, "slot is not of"),
        ({"position": np.array([5])}, "beyond its slot"),
        ({"position": np.array([-1])}, "beyond its slot"),
    ],
)
def test_refuses_places_that_do_not_exist(change, message) -> None:
    good = Placed(
        np.array([0]),
        np.array([key32("home.banner")], np.uint32),
        np.array([0]),
        world().catalogue.keys[:1],
        np.array([0]),
    )
    with pytest.raises(ValueError, match=message):
        Simulation.start(world()).pages(1, good._replace(**change))


def test_a_better_policy_earns_more_and_the_truth_knew_it() -> None:
    clicks, promised = {}, {}
    for random in (True, False):
        simulation = Simulation.start(world())
        decide = Best(simulation, random)
        expected = 0.0

        def watched(customers, at, simulation=simulation, decide=decide):
            nonlocal expected
            placed = decide(customers, at)
            if len(np.unique(customers)) == len(customers):  # exact where nobody asks twice in a tick
                expected += simulation.value(customers, at, placed).clicks
            return placed

        rows = np.concatenate([tick.rows for tick in simulation.loop(watched, 0, 1, tick_s=60.0)])
        clicks[random] = int((rows["what"] == CLICKED).sum())
        promised[random] = expected
    assert clicks[False] > 2 * clicks[True]
    for random, expected in promised.items():
        assert abs(clicks[random] - expected) < 5 * np.sqrt(expected) + 0.08 * expected  # some arrive later


def test_the_loop_meets_the_worlds_visits_in_order_and_is_deterministic() -> None:
    runs = []
    for _ in range(2):
        simulation = Simulation.start(world())
        decide = Best(simulation, random=True)
        ticks = list(simulation.loop(decide, 0, 2, tick_s=3600.0))
        assert [tick.until for tick in ticks] == [world().start + 3600 * (n + 1) for n in range(48)]
        asked = np.concatenate([tick.visits.customers for tick in ticks])
        expected = np.concatenate([world().visits(day).customers for day in range(2)])
        assert (asked == expected).all()
        assert decide.asked == sorted(decide.asked)
        assert all((tick.rows["received_at"] < tick.until).all() for tick in ticks)
        runs.append(np.concatenate([tick.rows for tick in ticks]).tobytes())
    assert runs[0] == runs[1]


def test_a_simulation_goes_on_from_a_history() -> None:
    respondent = world().respondent()
    list(world().history(2, respondent=respondent))
    before = respondent.pages
    simulation = Simulation.start(world(), respondent)
    ticks = list(simulation.loop(Best(simulation), 2, 1))
    numbers = np.concatenate([tick.numbers for tick in ticks])
    assert numbers.min() == before and len(np.unique(numbers)) == len(numbers)
    assert ticks[-1].until == world().start + 3 * DAY


def test_wire_bodies_are_accepted_by_the_contract() -> None:
    simulation = Simulation.start(world())
    decide = Best(simulation)
    visits = world().begin(0, simulation.respondent)
    placed = decide(visits.customers, visits.at)
    tokens, slots = [], HOME.slot_keys.tolist()
    pages = simulation.pages(len(visits.at), placed)
    nothing = np.zeros(HOME.places, np.uint32)
    for row, (customer, at) in enumerate(zip(visits.customers.tolist(), visits.at.tolist(), strict=True)):
        tokens.append(
            SIGNER.sign(
                f"d{row}", "u:" + world().customers.ids[customer], at, at + 600, 1, slots,
                HOME.slot_of.astype(np.uint8), world().catalogue.keys[pages[row]], nothing, nothing,
                nothing.astype(np.uint8),
            )
        )  # fmt: skip
    numbers = simulation.respond(visits.customers, visits.at, placed, tokens)
    world().end(0, simulation.respondent)
    until = world().start + DAY
    rows = simulation.arrived(until)
    events, outcomes = simulation.wire(rows)
    taken = []
    for first in range(0, len(events), 500):
        good, bad = parse_batch(events[first : first + 500], received_at=until, verify=SIGNER.verify)
        assert bad == []
        taken += good
    assert len({event.event_id for event in taken}) == len(taken)
    shown = [event for event in taken if event.type == "displayed"]
    assert sum(len(event.places) for event in shown) == (rows["what"] == DISPLAYED).sum()
    assert len(shown) == len(np.unique(rows["page"][rows["what"] == DISPLAYED]))
    clicks = rows[rows["what"] == CLICKED]
    clicked = [event.item_key for event in taken if event.type == "clicked"]
    assert clicked == world().catalogue.keys[clicks["item"]].tolist()
    assert len(outcomes) == (rows["what"] == OUTCOME).sum() > 0
    good, bad = parse_outcomes(outcomes[:500], received_at=until)
    assert bad == [] and len(good) == min(len(outcomes), 500)
    simulation.forget(int(numbers.max()) + 1)
    with pytest.raises(KeyError):
        simulation.wire(clicks[:1])
