"""The product's own pages as a log: what another plan or bundle would have put where a lottery was held.

A page is decided again by `decide` under the candidate, from the logged inputs. A round is a place where a
lottery was held, of items or of the creatives that one is shown by: its chances are logged, and the
candidate's are its own lotteries', or 1 for what it places without one. The chance of what was shown is that
of the item, times that of the creative of this item. A place that the candidate leaves empty earns nothing.
What a reservation refused was never a lottery's, so it is in no round; what the candidate has in that place
would have been refused too. Places that the candidate has beyond those that were logged are not counted.

The model of rewards knows items alone, so the doubly robust form is right by its weights where creatives
make a difference, and the direct method is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from features.ids import key32
from serving.domain import Decision
from serving.live import Live
from serving.reserving import settle
from training.lake import Lake
from training.ope.candidate import Views
from training.ope.creatives import CERTAIN, Creatives, Drawn, logged_creatives
from training.ope.estimators import Codes, Floats, Logged, Slates, onwards
from training.ope.rewards import fitted
from training.replay import Record, ReplayError, decided_first, records
from training.whatif import under

CLICK_S: Final = 86_400.0  # a click belongs to its page for so long
Progress = Callable[[int, int], None]
Place = tuple[str, int]  # slot, position
Clicks = Mapping[tuple[str, str, int, int], float]  # (subject, decision, slot key, position) -> reward


@dataclass(frozen=True, slots=True)
class Round:
    page: int
    slot: str
    position: int
    shown: int  # key64
    logged: Mapping[int, float]  # the lottery's chances, before it was drawn
    target: Mapping[int, float]
    reward: float
    creative: Drawn = CERTAIN

    @property
    def probability(self) -> float:
        """The logged one of what was shown."""
        return self.logged[self.shown] * self.creative.probability

    @property
    def chance(self) -> float:
        return self.target.get(self.shown, 0.0) * self.creative.chance

    @property
    def bound(self) -> float | None:
        """Of the weight, whatever had been drawn; None: not known, for the log has the creatives' chances of
        one item alone."""
        if len(self.logged) > 1 and not self.creative.same:
            return None
        ratio = max(self.target.get(key, 0.0) / chance for key, chance in self.logged.items())
        return ratio * self.creative.bound

    @property
    def supported(self) -> float:
        """Of items that were not shown, creatives are taken to be."""
        items = sum(self.target.get(key, 0.0) for key in self.logged)
        return self.nothing + items - self.target.get(self.shown, 0.0) * (1 - self.creative.supported)

    @property
    def nothing(self) -> float:
        """1 where the candidate leaves the place empty, whose worth is known."""
        return float(not self.target)


class Fixed(NamedTuple):
    """A place without a lottery, where the candidate does not surely put what stood there."""

    page: int
    slot: str
    position: int
    chance: float  # the candidate's, of what stood there
    nothing: float = 0.0  # 1 where it leaves the place empty


@dataclass(frozen=True, slots=True)
class Replayed:
    rounds: tuple[Round, ...]
    fixed: tuple[Fixed, ...]
    units: tuple[str, ...]  # by page, the customer (the visitor, while no customer is known)
    pages: int  # with at least one round
    left_out: int  # pages that the candidate cannot decide
    why: Mapping[str, int]  # left out, by reason
    same: float  # part of the rounds' places where both put the same item most often
    draws: int = 0  # places of these pages whose creative was drawn by the bandit


def rewards(lake: Lake, since: float, until: float, *, value: bool = False) -> Clicks:
    """Clicks by place (1 each), or the CNY of conversions."""
    wanted = "converted" if value else "clicked"
    columns = ["type", "subject", "decision_id", "slot", "position", "amount"]
    table = lake.events(since, until + CLICK_S, columns)
    found: dict[tuple[str, str, int, int], float] = {}
    for kind, *place, amount in zip(*(table[name].to_pylist() for name in columns), strict=True):
        if kind == wanted and None not in place:
            key = (place[0], place[1], place[2], place[3])
            found[key] = found.get(key, 0.0) + (amount or 0.0) if value else 1.0
    return found


def replayed(
    lake: Lake,
    candidate: Views,
    since: float,
    until: float,
    *,
    value: bool = False,
    most: int = 100_000,
    progress: Progress | None = None,
) -> Replayed:
    """The rounds of pages decided in since <= at < until, at most `most` pages."""
    earned = rewards(lake, since, until, value=value)
    return rounds_of(records(lake, since, until), candidate, earned, most=most, progress=progress)


def rounds_of(
    logged: Iterable[Record],
    candidate: Views,
    earned: Clicks,
    *,
    most: int = 100_000,
    progress: Progress | None = None,
    watch: Callable[[Record, Decision, Live], None] | None = None,
) -> Replayed:
    """`watch` is told of every page that was decided again, and of the view that decided it."""
    rounds: list[Round] = []
    fixed: list[Fixed] = []
    units: list[str] = []
    why: Counter[str] = Counter()
    pages = same = draws = 0
    for record in logged:
        drawn_at = {one[0] for one in record.get("draws") or ()}
        if not record["lotteries"] and not drawn_at:
            continue
        if pages == most:
            break
        try:
            live = candidate(record)
            decision = _decided(record, live)
        except ReplayError as lost:
            why[str(lost).partition(": ")[2][:160]] += 1
            continue
        if watch is not None:
            watch(record, decision, live)
        target, slots, items = chances(decision), _places(record), np.frombuffer(record["items"], "<u8")
        mine, shown_by = Creatives(decision, live), logged_creatives(record)
        held = {place: (keys, probabilities) for place, keys, probabilities, _ in record["lotteries"]}
        for place, key in enumerate(items.tolist()):
            theirs = target.get(slots[place], {})
            drawn = Drawn(*shown_by[place], mine.of(*slots[place], key) if key in theirs else {})
            if place in held or place in drawn_at:
                keys, probabilities = held.get(place, ((key,), (1.0,)))
                at = (record["subject"], record["id"], key32(slots[place][0]), slots[place][1])
                logged_chances = dict(zip(keys, probabilities, strict=True))
                reward = earned.get(at, 0.0)
                rounds.append(Round(pages, *slots[place], key, logged_chances, theirs, reward, drawn))
                same += bool(theirs) and max(theirs, key=lambda key: theirs[key]) == keys[0]
            elif (chance := theirs.get(key, 0.0) * drawn.chance) != 1.0:
                fixed.append(Fixed(pages, *slots[place], chance, float(not theirs)))
        draws += len(drawn_at)
        units.append(str(record.get("unit") or record["subject"]))
        pages += 1
        if progress is not None:
            progress(pages, most)
    share = same / len(rounds) if rounds else 0.0
    return Replayed(tuple(rounds), tuple(fixed), tuple(units), pages, why.total(), why, share, draws)


def _decided(record: Record, live: Live) -> Decision:
    """The page as the candidate would have answered it. Slots that it does not have stay empty."""
    asked = under(record, live)
    found = live.plan.surface(record["surface"])
    if found is not None:
        known = {slot.name for slot in found[0]}
        slots = [pair for pair in zip(record["slots"], record["sizes"], strict=True) if pair[0] in known]
        asked |= {"slots": [name for name, _ in slots], "sizes": [count for _, count in slots]}
    decision = decided_first(asked, live)
    placed = decision.placements
    refused = {place: why for place, _, why in record["refused"] if place < len(placed)}
    return settle(
        decision,
        {place: why for place, why in refused.items() if placed[place].capped or placed[place].campaign >= 0},
    )


def chances(decision: Decision) -> dict[Place, dict[int, float]]:
    """By place what a policy puts there, with its chances."""
    held = {one.place: one for one in decision.lotteries}
    found: dict[Place, dict[int, float]] = {}
    for index, place in enumerate(decision.placements):
        name = decision.query.slots[place.slot].spec.name
        lottery = held.get(index)
        if lottery is None:
            found[name, place.position] = {place.key: 1.0}
        else:
            found[name, place.position] = dict(zip(lottery.keys, lottery.probabilities, strict=True))
    return found


def _places(record: Record) -> list[Place]:
    """(slot, position) of each place of a logged page."""
    met: dict[int, int] = {}
    found = []
    for slot in np.frombuffer(record["place_slot"], "u1").tolist():
        position = met.get(slot, 0)
        met[slot] = position + 1
        found.append((record["slots"][slot], position))
    return found


def as_logged(found: Replayed, rng: np.random.Generator) -> Logged:
    """Rounds as columns, with a model of rewards by place and item that knows other customers only."""
    q, v = _modelled(found, rng)
    bounds = [bound for one in found.rounds if (bound := one.bound) is not None]
    return Logged(
        _column(found, lambda one: one.reward),
        _column(found, lambda one: one.probability),
        _column(found, lambda one: one.chance),
        q,
        v,
        _column(found, lambda one: one.supported),
        np.array(bounds, np.float64) if len(bounds) == len(found.rounds) else None,
        units_of(found)[[one.page for one in found.rounds]],
        _column(found, lambda one: one.nothing),
    )


def units_of(found: Replayed) -> Codes:
    """(pages,) numbers of the customers."""
    _, numbers = np.unique(np.array(found.units), return_inverse=True)
    return numbers.astype(np.int64)


def as_slates(found: Replayed, rng: np.random.Generator) -> tuple[Slates, ...]:
    """By slot its places of all pages, in order: a cascade each, for no slot stands above another.

    Places without a lottery are in the order too, with no reward of their own: where the candidate puts
    something else there, what follows was not seen. Where nothing stands nothing is weighed.
    """
    q, v = _modelled(found, rng)
    columns = (
        (_column(found, lambda one: one.reward), 0.0),
        (_column(found, lambda one: one.probability), 1.0),
        (_column(found, lambda one: one.chance), 1.0),
        (q, 0.0),
        (v, 0.0),
        (_column(found, lambda one: one.nothing), 0.0),
    )
    page = np.array([one.page for one in found.rounds])
    position = np.array([one.position for one in found.rounds])
    unit = units_of(found)
    slots: list[Slates] = []
    for slot in dict.fromkeys(one.slot for one in found.rounds):
        mine = np.array([one.slot == slot for one in found.rounds])
        shape = (found.pages, int(position[mine].max()) + 1)
        tables = [np.full(shape, fill) for _, fill in columns]
        for table, (values, _) in zip(tables, columns, strict=True):
            table[page[mine], position[mine]] = values[mine]
        reward, logged, target, own, expected, nothing = tables
        for one in found.fixed:
            if one.slot == slot and one.position < shape[1]:
                target[one.page, one.position] = one.chance
                nothing[one.page, one.position] = one.nothing
        both = onwards(own, expected)
        slots.append(Slates(reward, logged, target, own, expected, *both, unit, nothing, slot))
    return tuple(slots)


def _column(found: Replayed, of: Callable[[Round], float]) -> Floats:
    return np.array([of(one) for one in found.rounds], np.float64)


def _modelled(found: Replayed, rng: np.random.Generator) -> tuple[Floats, Floats]:
    met = dict.fromkeys((one.slot, one.position) for one in found.rounds)
    places = {place: at for at, place in enumerate(met)}
    keys: dict[int, int] = {}
    for one in found.rounds:
        for key in (*one.logged, *one.target):
            keys.setdefault(key, len(keys))
    cell = np.array([places[one.slot, one.position] for one in found.rounds])
    action = np.array([keys[one.shown] for one in found.rounds])
    reward = _column(found, lambda one: one.reward)
    unit = units_of(found)
    fold = rng.integers(0, 2, int(unit.max()) + 1)[unit][[one.page for one in found.rounds]]
    q, v = np.empty(len(reward)), np.empty(len(reward))
    for side in (0, 1):
        other = fold != side
        table = fitted(reward[other], action[other], cell[other], len(keys), len(places))
        for at in np.flatnonzero(fold == side).tolist():
            row = table[cell[at]]
            q[at] = row[action[at]]
            v[at] = sum(chance * row[keys[key]] for key, chance in found.rounds[at].target.items())
    return q, v


def told(found: Replayed) -> dict[str, Any]:
    return {
        "pages": found.pages,
        "rounds": len(found.rounds),
        "left_out": found.left_out,
        "left_out_why": dict(found.why),
        "same": found.same,
        "creatives_drawn": found.draws,
    }
