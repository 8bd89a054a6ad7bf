"""The learner: each minute the one that leads turns what customers did into the bandit's next version.

Every replica has one; control elects the leader. It reads the event log for pages that drew a creative, joins
displays and clicks to the segment that the page was decided for, and counts a page once: when it is older
than `RIPE_S`, with the clicks that came until then, which is the same for every arm. Of new items it sums
the clicks that the bundle predicted where they were displayed, and those that came. A version says up to
when pages were counted, so that the next leader goes on from there. It is written to the registry, control is
pointed at it, and replicas take it up with their next poll; while nobody leads, the last version holds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from features.events import unpack
from features.ids import key64
from features.log import EventLog
from features.store import StoreUnavailable
from features.token import PLACES
from serving.bandit import (
    MOST_ARMS,
    NOTHING_LEARNED,
    USUAL,
    BanditError,
    Counts,
    Learned,
    Seen,
    cell_of,
    learned,
)
from serving.bandit_draws import group_of
from serving.bandit_shelf import BanditShelf
from serving.control import Control, ControlError
from serving.live import Live
from serving.log_tail import Tail
from serving.newcomer_pages import Predictions, Watched, counted
from serving.observe import Metrics
from serving.turns import Turns, resign

LOG: Final = logging.getLogger("fenliu.bandit")
LEARNER: Final = "bandit"  # what control elects
EVERY_S: Final = 60.0
LEAD_S: Final = 150.0
STEP_TIMEOUT_S: Final = 50.0
RIPE_S: Final = 180.0
BACK_S: Final = 3_600.0  # a first leader counts from so long ago, as far as the log goes back
MOST_PAGES: Final = 200_000  # waiting to ripen; more are left out, by their decision's hash alone
MOST_WATCHED: Final = 30_000  # of those, for new items: 2 KB each, a minute's at 500 pages a second
MOST_GROUPS: Final = 2_000
KEPT: Final = 30  # versions left in the registry
WARM_UP: Final = 50.0  # displays of an item that its own rate weighs as much as the usual one

Row = Mapping[str, Any]


class _Page:
    """One that drew creatives or has new items, and may still be clicked."""

    __slots__ = ("arms", "at", "cell", "clicked", "groups", "shown", "watched")

    def __init__(
        self,
        at: float,
        cell: int,
        groups: Mapping[int, tuple[int, ...]],
        arms: Sequence[tuple[int, Sequence[str], int]],
        watched: Watched | None,
    ) -> None:
        """`groups`: item key -> key32s of its creatives; `arms`: of adaptive experiments, which was drawn;
        `watched`: what is counted for new items.
        """
        self.at, self.cell, self.groups, self.arms, self.watched = at, cell, groups, arms, watched
        self.shown: set[tuple[int, int]] = set()  # (item, creative)
        self.clicked: set[tuple[int, int]] = set()


class Harvest:
    """Pages and what became of them, from log entries. `after`: those decided until then are not counted."""

    def __init__(self, after: float, watched: Callable[[Row], Watched | None] = lambda _: None) -> None:
        """`watched`: what is counted of a served page for new items."""
        self._after, self._watched = after, watched
        self._pages: dict[int, _Page] = {}
        self._watching = 0

    def take(self, payloads: Iterable[bytes]) -> None:
        for payload in payloads:
            row = unpack(payload)
            kind = row["t"]
            if kind == "served":
                if row["at"] <= self._after or len(self._pages) >= MOST_PAGES:
                    continue
                watched = self._watched(row) if self._watching < MOST_WATCHED else None
                if watched is not None or row.get("draws") or row.get("arm_draws"):
                    name = _key(row["subject"], row["id"])
                    before = self._pages.get(name)  # the log may hold a page twice
                    self._pages[name] = _page_of(row, watched)
                    self._watching += watched is not None
                    self._watching -= before is not None and before.watched is not None
            elif kind in ("displayed", "clicked") and row.get("decision_id"):
                page = self._pages.get(_key(row["subject"], row["decision_id"]))
                if page is not None and "places" in row:
                    found = page.shown if kind == "displayed" else page.clicked
                    for place in np.frombuffer(row["places"], PLACES):
                        found.add((int(place["item"]), int(place["creative"])))

    def unwatch(self) -> None:
        """What waits was predicted by another bundle: none of it is counted for new items."""
        for page in self._pages.values():
            page.watched = None
        self._watching = 0

    def ripe(
        self, until: float, seen: Mapping[int, Seen], fresh: Counts[int], usual: Counts[str]
    ) -> tuple[dict[int, Seen], Counts[int], Counts[str]]:
        """All three and the pages decided up to `until`, which are forgotten. A click tells of a display."""
        watched: list[tuple[Watched, set[int], set[int]]] = []
        found = {key: Seen(one.arms, *(column.copy() for column in one.columns)) for key, one in seen.items()}
        self._after = max(self._after, until)
        for name in [name for name, page in self._pages.items() if page.at <= until]:
            page = self._pages.pop(name)
            for group_key, names, drawn in page.arms if page.shown or page.clicked else ():
                group = found[group_key] = found.get(group_key, Seen.none(())).of(names)
                clicks = float(len(page.clicked))
                _add(group, names[drawn], page.cell, clicks)
            if page.watched is not None:
                self._watching -= 1
                shown, clicked = ({item for item, _ in some} for some in (page.shown, page.clicked))
                watched.append((page.watched, shown, clicked))
            for item, creative in page.shown | page.clicked:
                if item not in page.groups or (item not in found and len(found) >= MOST_GROUPS):
                    continue
                names = [f"{key:08x}" for key in page.groups[item]]
                group = found[item] = found.get(item, Seen.none(())).of(names)
                arm = f"{creative:08x}"
                if arm not in group.arms:
                    continue  # the item has more creatives than are told apart
                _add(group, arm, page.cell, float((item, creative) in page.clicked))
        return found, *counted(fresh, usual, watched)


def _add(group: Seen, arm: str, cell: int, reward: float) -> None:
    at = group.arms.index(arm), cell
    for column, amount in zip(group.columns, (1.0, reward, reward**2), strict=True):
        column[at] += amount


class Learner:
    """`live` gives what is run by. Started and stopped with the service; `step` raises nothing."""

    def __init__(
        self,
        control: Control,
        log: EventLog,
        registry_url: str,
        live: Callable[[], Live | None],
        metrics: Metrics,
        candidate: str,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._control, self._log, self._live, self._candidate = control, log, live, candidate
        self._shelf, self._clock = BanditShelf(registry_url), clock
        self._fence: int | None = None
        self._tail: Tail | None = None
        self._harvest = Harvest(0.0)
        self._last = NOTHING_LEARNED
        self._versions: list[str] = []
        self._predictions = Predictions(self._shelf.fetch)
        self._turns = Turns(self.step, every_s, "fenliu-bandit")
        self._metrics = metrics

    @property
    def leads(self) -> bool:
        return self._fence is not None

    async def start(self) -> None:
        self._turns.start()

    async def stop(self) -> None:
        """Resigns, so that another leads at once."""
        await self._turns.stop()
        if self._fence is not None:
            self._fence = None
            await resign(self._control, LEARNER, self._candidate)

    async def step(self) -> str:
        """`written` when there is another version."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                result = await self._step()
        except (StoreUnavailable, TimeoutError, ControlError, BanditError, OSError) as away:
            LOG.warning("the bandit was not updated: %s", away or "out of time")
            result, self._fence = "failed", None  # a thread may be at work still: begin anew
        except Exception:  # learning must go on: the next step may read what can be read
            LOG.exception("a step of the bandit's learner failed")
            result, self._fence = "failed", None
        self._metrics.bandit_steps.labels(result).inc()
        return result

    async def _step(self) -> str:
        live = self._live()
        if live is None or not explores(live):
            return "idle"
        fence = await self._control.lead(LEARNER, self._candidate, LEAD_S)
        if fence is None:
            self._fence = None
            return "following"
        now = self._clock()
        if fence != self._fence:
            await self._begin(now)
            self._fence = fence
        made = await asyncio.to_thread(self._learn, live, now)
        if made is None:
            return "idle"
        version = await asyncio.to_thread(self._shelf.put, made)
        await self._control.set("bandit", version)
        self._last = made
        self._versions.append(version)
        if len(self._versions) > KEPT:
            await asyncio.to_thread(self._shelf.drop, self._versions.pop(0))
        return "written"

    async def _begin(self, now: float) -> None:
        """From where the last version ended."""
        version = (await self._control.poll()).bandit
        self._last = await asyncio.to_thread(self._shelf.fetch, version) if version else NOTHING_LEARNED
        after = max(self._last.until, now - BACK_S)
        self._harvest, self._tail = Harvest(after, self._predictions), Tail(self._log, after)

    def _learn(self, live: Live, now: float) -> Learned | None:
        """The next version; None where nothing ripened. Blocking."""
        assert self._tail is not None
        if self._predictions.watch(live):
            self._harvest.unwatch()
        for payloads in self._tail.read():
            self._harvest.take(payloads)
        last, until, bundle = self._last, now - RIPE_S, live.bundle.version
        before = (last.fresh, last.usual) if last.bundle == bundle else ({}, {})
        seen, fresh, usual = self._harvest.ripe(until, last.seen, *before)
        same = seen.keys() == last.seen.keys() and all(
            np.array_equal(one.shown, last.seen[key].shown) for key, one in seen.items()
        )
        if same and fresh == last.fresh and usual == last.usual:
            return None
        aged = {key: one.decayed(now - last.made_at if last.made_at else 0.0) for key, one in seen.items()}
        hourly = [group_of(name) for name in live.experiments.adaptive]
        return learned(
            *(aged, base_of(live), last), made_at=now, until=until, bundle=bundle, hourly=hourly,
            fresh=fresh, usual=usual,
        )  # fmt: skip


def explores(live: Live) -> bool:
    """Whether a slot of the plan, or of an arm, explores, or an experiment adapts."""
    if live.experiments.adaptive:
        return True
    views = (live, *live.variants.values())
    return any(slot.explore + slot.explore_new > 0 for view in views for slot in view.plan.slots.values())


def base_of(live: Live) -> Callable[[int], float]:
    """What the bundle knows beforehand: clicks a display by an item's key, and clicks a page of what an
    adaptive experiment is asked on."""
    pages = _a_page(live)

    def base(key: int) -> float:
        if key in pages:
            return pages[key]
        row = int(live.items.rows_of_keys(np.array([key], np.uint64))[0])
        stats = live.bundle.stats
        if not 0 <= row < len(stats):
            return USUAL
        shown, clicks = float(stats["displays"][row]), float(stats["clicks"][row])
        if not shown >= 0 or not clicks >= 0:
            return USUAL
        return min((clicks + WARM_UP * USUAL) / (shown + WARM_UP), 0.9)

    return base


def _a_page(live: Live) -> dict[int, float]:
    """By adaptive experiment: clicks a display of all items, times the displays that a page expects, of the
    surfaces whose slots its arms change."""
    adaptive, stats = live.experiments.adaptive, live.bundle.stats
    if not adaptive:
        return {}
    shown, clicks = (float(np.nansum(np.maximum(stats[name], 0))) for name in ("displays", "clicks"))
    rate = (clicks + WARM_UP * USUAL) / (shown + WARM_UP)
    found = {}
    for layer in live.experiments.layers:
        for one in layer.experiments:
            name = one.arms[0].assigned.name.partition("/")[0]
            pages = [
                sum(sum(slot.shown) for slot in slots)
                for slots in live.plan.surfaces.values()
                if any(slot.bit & one.slots for slot in slots)
            ]
            if name in adaptive and pages:
                found[group_of(name)] = rate * sum(pages) / len(pages)
    return found


def _page_of(row: Row, watched: Watched | None) -> _Page:
    items = np.frombuffer(row["items"], "<u8")
    groups = {int(items[place]): tuple(keys[:MOST_ARMS]) for place, keys, _, _ in row.get("draws", ())}
    arms = [(group_of(name), names, drawn) for name, names, _, drawn in row.get("arm_draws", ())]
    return _Page(row["at"], cell_of(int(row.get("cell", 0))), groups, arms, watched)


def _key(subject: str, decision_id: str) -> int:
    return key64(f"{subject}\0{decision_id}")
