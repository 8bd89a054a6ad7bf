"""A candidate bundle beside the live one: the pages that are served now, decided again by both.

    shadow = Shadow(lives, inputs, candidate, live="…")
    for payloads in tail.read(): shadow.take(payloads)
    shadow.settle(now)

Pages come from the event log, long after they were answered: nothing here is on a request's path, and nothing
is written. Each is made again from its logged inputs by the replay's own code, under the plan, prices, item
changes and kills that it was made by, once with its own bundle and once with the candidate. Both are taken as
decided, before the ledger was asked. When a page is ripe, its displays and clicks are held against what both
bundles say of the very places that were displayed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import unpack
from features.ids import key32, key64
from features.token import PLACES
from serving.bundle import Bundle
from serving.decide import decide
from serving.domain import Decision, Query
from serving.live import Live
from training.lives import Lives
from training.placed_chances import chances_of
from training.replay import Record, ReplayError, base_of, differing, query_of, settled
from training.shadow_figures import Figures
from training.shadow_inputs import TailedInputs
from training.whatif import under

LOG: Final = logging.getLogger("fenliu.shadow")
RIPE_S: Final = 180.0  # a page's displays and clicks are counted when it is so old
_WHOLE: Final = float(2**64)
_CHANCES: Final = np.dtype(
    [("item", "<u8"), ("slot", "<u4"), ("name", "<i2"), ("live", "<f4"), ("other", "<f4")]
)


@dataclass(slots=True)
class _Page:
    """One that was decided again, or waits for it, and what became of it: (slot key32, item key64)."""

    at: float
    chances: NDArray[np.void] | None = None  # of its places; None where they cannot be told
    names: tuple[str, ...] = ()
    shown: set[tuple[int, int]] = field(default_factory=set)
    clicked: set[tuple[int, int]] = field(default_factory=set)


class _LeftOut(Exception):
    """Why a page is not compared."""


class Shadow:
    """`live`: the version in service; pages of others are left out. `share` of the pages, by their ids;
    `since`: POSIX seconds, pages decided before are left alone; `most` pages are decided again.
    """

    def __init__(
        self,
        lives: Lives,
        inputs: TailedInputs,
        candidate: Bundle,
        live: str,
        *,
        share: float = 1.0,
        since: float = 0.0,
        ripe_s: float = RIPE_S,
        most: int = 20_000,
    ) -> None:
        self.figures = Figures()
        self._lives, self._inputs, self._candidate, self._live = lives, inputs, candidate, live
        self._share, self._since, self._ripe_s, self._most = share, since, ripe_s, most
        self._pages: dict[int, _Page] = {}
        self._waiting: list[tuple[Record, _Page]] = []
        self._killed: tuple[float, frozenset[int]] = (0.0, frozenset())

    @property
    def full(self) -> bool:
        """Whether as many pages were decided again as may be."""
        return self.figures.sampled >= self._most

    @property
    def unripe(self) -> int:
        """Pages whose displays and clicks may still come."""
        return len(self._pages)

    def take(self, payloads: Iterable[bytes]) -> None:
        """Entries of the log, of one shard, in their order. What cannot be read is counted."""
        for payload in payloads:
            try:
                self._take(unpack(payload))
            except (ValueError, TypeError, KeyError, AttributeError):
                self.figures.rows_unread += 1
        self._inputs.moved()

    def _take(self, row: dict[str, Any]) -> None:
        kind = row["t"]
        if kind == "input":
            self._inputs.take(row)
        elif kind == "served":
            self._served(row)
        elif kind in ("displayed", "clicked") and row.get("decision_id"):
            page = self._pages.get(_key(row["subject"], row["decision_id"]))
            if page is not None and "places" in row:
                found = page.shown if kind == "displayed" else page.clicked
                for place in np.frombuffer(row["places"], PLACES):
                    found.add((int(place["slot"]), int(place["item"])))

    def _served(self, record: dict[str, Any]) -> None:
        at, key = float(record["at"]), _key(record["subject"], record["id"])
        if at < self._since:
            return
        if at > self._killed[0]:
            named = (name for scope, name in record["kills"] if scope == "item")
            self._killed = at, frozenset(map(key64, named))
        self.figures.seen += 1
        if key64(f"shadow\0{record['id']}") >= self._share * _WHOLE or self.full:
            return
        self.figures.sampled += 1
        page = self._pages[key] = _Page(at)
        self._waiting.append((record, page))

    def settle(self) -> None:
        """Decide again what was taken. In the order of time, so that views are built once. Raises
        StoreUnavailable: what is left waits for the next time.
        """
        self._waiting.sort(key=lambda one: one[1].at, reverse=True)
        while self._waiting:
            record, page = self._waiting[-1]
            try:
                self._again(record, page)
            except _LeftOut as left:
                self.figures.leave(str(left))
            except ReplayError as lost:  # without the decision's name, so that equal reasons count together
                why, _, _ = str(lost).removeprefix(f"decision {record['id']}").partition(". Was the lake's")
                self.figures.leave(why.lstrip(": "))
            except (KeyError, TypeError, ValueError) as odd:  # a version of the product wrote it otherwise
                self.figures.leave(f"its record has another form ({type(odd).__name__}: {odd})")
            self._waiting.pop()

    def ripen(self, now: float) -> None:
        """Count the displays and clicks of pages that are ripe. Only when the log was read to its end, or a
        shard that lags would seem to have no clicks.
        """
        until = now - self._ripe_s
        for key in [key for key, page in self._pages.items() if page.at <= until]:
            page = self._pages.pop(key)
            if page.chances is not None:
                self.figures.ripe_pages += 1
                self._join(page, page.chances)

    def _again(self, record: Record, page: _Page) -> None:
        if base_of(record) != self._live:
            raise _LeftOut(f"made by bundle {base_of(record)}, not by the live one")
        if record["bundle"] != self._live:
            raise _LeftOut("an experiment's arm has a bundle of its own")
        if record["cached"] is not None:
            raise _LeftOut("the customer's last page once more (rung cached)")
        views = self._views(record)
        given = query_of(record, views[0]), query_of(under(record, views[1]), views[1])
        made: dict[int, tuple[Decision, float]] = {}
        for side in (0, 1) if self.figures.compared % 2 else (1, 0):  # the second finds the processor warm
            made[side] = self._decided(given[side], views[side], record["effort"], side)
        pair = made[0][0], made[1][0]
        same = not differing(record, settled(pair[0], record), views[0])
        chances = _chances(record, given, views) if record["profiling"] else None
        figures = self.figures
        surface = views[0].plan.called(record["surface"])[-1]
        figures.page(surface, page.at, pair, (made[0][1], made[1][1]))
        figures.plans[str(record["plan"])] += 1
        figures.killed_pages += bool(record["kills"])
        figures.as_logged += same
        page.names, page.chances = tuple(record["slots"]), chances

    def _views(self, record: Record) -> tuple[Live, Live]:
        """Both, under what the page was made by. What is not known yet is looked for once more."""
        while True:
            try:
                return self._lives.of(record), self._lives.of(record, bundle=self._candidate)
            except ReplayError:
                if not self._inputs.again():
                    raise

    def _decided(self, query: Query, live: Live, effort: Any, side: int) -> tuple[Decision, float]:
        """The page, and the µs that it took."""
        start = perf_counter()
        try:
            made = decide(query, live, effort)
        except Exception as problem:  # what it cannot decide is the finding: the other pages go on
            LOG.exception("a page could not be decided by bundle %s", live.bundle.version)
            if side:
                self.figures.failed += 1
            who = "candidate" if side else "live bundle"
            raise _LeftOut(f"the {who} fails: {type(problem).__name__}") from None
        return made, (perf_counter() - start) * 1e6

    def _join(self, page: _Page, chances: NDArray[np.void]) -> None:
        found: list[tuple[str, bool, float, float]] = []
        killed, skipped = self._killed[1], self.figures.unscored
        for item, slot, name, live, other in chances.tolist():
            if (slot, item) not in page.shown and (slot, item) not in page.clicked:
                continue
            if item in killed:
                skipped["killed since"] += 1
            elif live != live or other != other:  # not a number
                who = "candidate" if live == live else "live bundle"
                skipped[f"not ranked by the {who}"] += 1
            else:
                found.append((page.names[name], (slot, item) in page.clicked, live, other))
        if found:
            self.figures.joined(found)


def _chances(record: Record, queries: tuple[Query, Query], views: tuple[Live, Live]) -> NDArray[np.void]:
    """What both say of the places of a logged page, at these places."""
    items = np.frombuffer(record["items"], "<u8")
    slot = np.frombuffer(record["place_slot"], "u1").astype(np.int64)
    names = [str(record["slots"][one]) for one in slot.tolist()]
    first = np.searchsorted(slot, slot)  # places stand slot by slot
    position = np.arange(len(slot)) - first
    found = np.zeros(len(items), _CHANCES)
    found["item"], found["name"] = items, slot
    found["slot"] = [key32(name) for name in names]
    for side, query, live in zip(("live", "other"), queries, views, strict=True):
        found[side] = chances_of(query, live, items, names, position)
    return found


def _key(subject: str, decision_id: str) -> int:
    return key64(f"{subject}\0{decision_id}")


def told(shadow: Shadow, candidate: str, live: str, share: float) -> Mapping[str, Any]:
    """The whole, for `--json` and reports."""
    found = shadow.figures.document()
    found["displays"]["unripe_pages"] = shadow.unripe
    return {"candidate": candidate, "live": live, "share": share, **found}
