"""The asynchronous shell around the pure core: events, one read, `decide`, remember, one hand-over to a
queue.

The shell looks at the clock and the load between calls and chooses the rung; a stage never does. A page is
asked for again with the id the client gave it: then the page that was decided is returned, byte for byte.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

from features.customer import Blobs, decode_customer
from features.ids import key32
from features.log import Entry
from features.store import StoreUnavailable
from features.stores import Stores
from features.token import TokenSigner
from serving import remembered, wire
from serving.asked import Asked, PageKind, identity_of, surface_of
from serving.breaker import Breakers
from serving.decide import deciding
from serving.domain import Decision, Effort, Query
from serving.errors import Problem
from serving.granting import Granting
from serving.holder import Holder
from serving.intake import Intake, Taken, in_time
from serving.joining import Links, with_entries
from serving.json_log import DECISION
from serving.kept import Keeping
from serving.ladder import Ladder, below
from serving.lately import Lately
from serving.observe import Metrics
from serving.placed import Columns, packed
from serving.publisher import Publisher
from serving.remembered import Remembered
from serving.served import served_entry
from serving.settings import Settings
from serving.stage_times import DECIDE, DECODE, EVENTS, REMEMBER, RESERVE, STORE_READ, UNTIMED, WRITE
from serving.standing import categories_of, may_stand
from serving.stepping import Steps
from serving.tallying import Tallying, tells_tags
from serving.together import Together
from serving.wire import RecommendAsk
from serving.writing import page_bytes

LOG: Final = logging.getLogger("fenliu.recommender")
ANSWER_S: Final = 0.001  # what is left to do after deciding: bytes, token, remembering
LAST_PAGES: Final = 10_000  # pages kept for the cached rung
LEAST_S: Final = 0.002
MORE_S: Final = 0.01  # for remembering, even when the deadline has passed: a retry must find the page
MOST_AGAIN: Final = 3

Deciding = Callable[..., Steps[Decision]]


class _NoRung(Exception):
    """The ladder's last rung has failed."""


class Recommender:
    """One per process, on one event loop. `page` raises Problem and nothing else for what a client can do."""

    def __init__(
        self,
        holder: Holder,
        stores: Stores,
        intake: Intake,
        publisher: Publisher,
        signer: TokenSigner,
        metrics: Metrics,
        settings: Settings,
        granting: Granting,
        tallying: Tallying,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        deciding: Deciding = deciding,
        breakers: Breakers | None = None,
        processor: Callable[[], float] = time.thread_time,
    ) -> None:
        """`clock` POSIX; `monotonic`; `processor`: what the event loop's thread has taken; all in seconds."""
        self._processor, self._spent = processor, processor()
        self._breakers = breakers or Breakers(monotonic, metrics.breaker)
        self._granting, self._tallying = granting, tallying
        self._holder, self._stores, self._intake, self._publisher = holder, stores, intake, publisher
        self._signer, self._metrics, self._settings = signer, metrics, settings
        self._clock, self._monotonic, self._deciding = clock, monotonic, deciding
        self._ladder, self._together = Ladder(), Together(monotonic)
        self._in_flight = self._waiting = 0  # being answered; of these, not decided yet
        metrics.in_flight.set_function(lambda: self._in_flight)
        self._running: dict[tuple[str, str], tuple[Asked, asyncio.Task[bytes]]] = {}
        # By subject and surface: key64s of the last page.
        self._last: Lately[tuple[str, str], bytes] = Lately(LAST_PAGES, clock=monotonic)
        self.keeping = Keeping(publisher.put)
        self._links = Links(stores.live, publisher, metrics, monotonic)

    async def page(self, ask: RecommendAsk, kind: PageKind, request_id: str | None, arrived: float) -> bytes:
        """The body of the answer. `arrived` is monotonic: the deadline counts from it."""
        live = self._holder.live  # taken once: nothing newer is seen by this request
        who = identity_of(ask, request_id)
        DECISION.set(who.decision_id)
        surface, slots, owner = surface_of(live.plan, ask, kind)
        deadline_s = (ask.options.deadline_ms or self._settings.deadline_ms) / 1000
        marks = UNTIMED if ask.options.dry_run else self._metrics.stages.drawn(self._monotonic)
        asked = Asked(live, ask, who, surface, slots, owner, self._clock(), arrived + deadline_s, marks)
        full = self._in_flight >= self._settings.max_in_flight
        waited_s = self._monotonic() - arrived
        if full or not self._ladder.admits(self._in_flight, deadline_s, waited_s):
            self._metrics.shed.inc()
            raise Problem(
                "overloaded", f"{self._in_flight} page requests are being answered; try again shortly"
            )
        self._in_flight += 1
        try:
            body = await (self._once(asked) if who.retried and not asked.dry else self._answer(asked))
        finally:
            self._in_flight -= 1
        if marks is not UNTIMED:
            self._metrics.stages.told(marks, live.plan.called(surface)[-1], self._monotonic() - arrived)
        return body

    @property
    def load(self) -> float:
        """The share of places taken by pages that somebody waits for."""
        return self._in_flight / self._settings.max_in_flight

    async def unhurried(self, ask: RecommendAsk, request_id: str | None, due: float) -> bytes:
        """As `page`, of a list that nobody waits for: it takes no place, is not refused. `due`: monotonic."""
        live = self._holder.live
        who = identity_of(ask, request_id)
        asked = Asked(live, ask, who, *surface_of(live.plan, ask, "page"), self._clock(), due)
        if who.retried and not asked.dry:
            return await self._once(asked)
        return await self._answer(asked)

    async def _once(self, asked: Asked) -> bytes:
        """Requests of one id that overlap are one: the later ones wait for the first one's page.

        One that asks for something else under the id waits too, and is then judged by what is remembered.
        """
        key = asked.who.key
        while (running := self._running.get(key)) is not None and not asked.same_as(running[0]):
            await asyncio.wait({running[1]})
        if running is None:
            running = self._running[key] = asked, asyncio.create_task(self._answer(asked))
            running[1].add_done_callback(partial(self._finished, key))
        return await asyncio.shield(running[1])

    def _finished(self, key: tuple[str, str], task: asyncio.Task[bytes]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen: whoever waited has it, and nobody may wait any more

    async def _answer(self, asked: Asked) -> bytes:
        self._waiting += 1
        try:
            made = await self._made(asked)
        finally:
            self._waiting -= 1
        if isinstance(made, bytes):
            return made
        decision, taken, blobs, again = made
        if not asked.dry:
            decision = await self._granted(asked, decision, again)
        asked.marks.ended(RESERVE)
        columns = Columns.of(decision.placements)
        body = self._body(asked, decision, columns, taken)
        spent = self._processor()
        self._ladder.answered(spent - self._spent)
        self._spent = spent
        asked.marks.ended(WRITE)
        if asked.dry:
            return body
        if asked.who.retried:
            own = Remembered.of(decision, body, columns).encode()
            body, again = await self._remember(asked, decision, own, body, again)
            asked.marks.ended(REMEMBER)
            if again < 0:
                return body
        self._note(asked, decision, columns, blobs, again)
        return body

    async def _made(self, asked: Asked) -> bytes | tuple[Decision, Taken | None, Blobs, int]:
        """The page decided before under this id; or a decision, what was taken of the events, what was read,
        and how often a page was decided afresh under the id.
        """
        taken = await self._events(asked)
        if asked.ask.events:
            asked.marks.ended(EVENTS)
        blobs, stands, reserved = await self._read(asked, taken)
        asked.marks.ended(STORE_READ)
        query = self._query(asked, blobs, reserved)
        asked.marks.ended(DECODE)
        again = 0
        if stands is not None and not asked.dry:
            if (body := self._replayed(asked, query, stands)) is not None:
                return body
            again = 1
        decision = await self._decided(asked, query)
        asked.marks.ended(DECIDE)
        return decision, taken, blobs, again

    # --- before the decision

    async def _events(self, asked: Asked) -> Taken | None:
        raws = asked.ask.events
        if not raws:
            return None
        rest: dict[str, Any] = {
            "now": asked.now, "actions": asked.live.plan.actions, "categories": categories_of(asked.live),
        }  # fmt: skip
        if asked.dry:
            return self._intake.preview(raws, **rest)
        return await self._intake.take_inline(raws, timeout_s=self._left(asked) / 2, **rest)

    def _left(self, asked: Asked) -> float:
        """Seconds until the deadline; never nothing, so that a store that answers at once is heard."""
        return max(asked.due - self._monotonic(), LEAST_S)

    async def _read(self, asked: Asked, taken: Taken | None) -> tuple[Blobs, bytes | None, bytes]:
        """The customer's bytes with everything that is known to have happened, the remembered page, and what
        pages hold.
        """
        who, skipped = asked.who, self._breakers.skipped()
        found = await self._stores.fetch_customer(
            who.subject,
            who.visitor,
            asked.live.features_version,
            who.decision_id if who.retried and not asked.dry else None,
            timeout_s=min(self._settings.read_timeout_s, self._left(asked)),
            skip=skipped,
        )
        for role in ("features", "live"):
            if role not in skipped:
                self._breakers.of(role).told(role not in found.late)
        for role in found.late:
            self._metrics.store_error(f"{'skipped' if role in skipped else 'late'}_{role}")
        blobs = found.blobs
        if found.visitor is not None and who.visitor is not None:
            blobs = await self._links.joined(
                who.visitor,
                who.subject,
                blobs,
                found.visitor,
                now=asked.now,
                timeout_s=self._left(asked),
                dry=asked.dry,
            )
        if taken is not None:
            for subject in (who.visitor, who.subject):
                blobs = with_entries(blobs, taken.live.get(subject) if subject else None)
        return blobs, found.decision, found.reserved or b""

    def _replayed(self, asked: Asked, query: Query, blob: bytes) -> bytes | None:
        """The page decided before, unless something on it may not be shown any more."""
        page = remembered.decode(blob)
        if page is None:
            return None
        if page.asked != asked.digest:
            raise Problem(
                "request_id_reused",
                f"request id {asked.who.decision_id!r} was used for another page within 10 minutes",
            )
        if not may_stand(asked.live, query, page):
            return None
        self._metrics.replayed.inc()
        return page.body

    # --- the decision

    def _query(self, asked: Asked, blobs: Blobs, reserved: bytes) -> Query:
        live, options = asked.live, asked.ask.options
        customer = decode_customer(
            blobs,
            now=asked.now,
            profiling=options.profiling,
            schemas=live.bundle.schemas,
            materialised=live.materialised,
            watermark=live.watermark,
        )
        anchor = asked.ask.context.anchor_item
        return Query(
            asked.who.decision_id,
            asked.who.subject,
            asked.surface,
            asked.slots,
            wire.context_of(asked.ask.context),
            customer,
            asked.now,
            live.row(anchor) if anchor is not None else None,
            customer.profiling,
            options.explain,
            asked.who.visitor,
            reserved,
            self._granting.spent(live),
            self._granting.open,
            key32(asked.owner) if asked.owner is not None else 0,
            options.explain or tells_tags(asked.who.decision_id),
        )

    async def _decided(self, asked: Asked, query: Query) -> Decision:
        decision = await self._down_the_ladder(asked, query)
        lost = decision.degraded
        if asked.ask.context.anchor_item is not None and query.anchor_row is None:
            lost = (*lost, "anchor_item")
        if self._breakers.any_open:
            lost = (*lost, "store")
        if self._holder.stale:
            lost = (*lost, "control")
        if self._holder.prices_stale:
            lost = (*lost, "prices")
        return decision if lost == decision.degraded else replace(decision, degraded=lost)

    async def _down_the_ladder(self, asked: Asked, query: Query) -> Decision:
        """The best rung that the time allows; a rung that fails is left for the one below it."""
        # Keys of the customer's last page, which was made of what they did: not without profiling.
        last = self._last.get((asked.who.subject, asked.surface)) if query.profiling else None
        tried: list[Effort] = []

        def begin() -> tuple[Effort, Steps[Decision]]:
            """Of the rung whose turn it is, chosen when the page's turn comes."""
            effort = below(tried[-1], cached=last is not None) if tried else self._rung(asked, last)
            if effort is None:
                raise _NoRung
            tried.append(effort)
            cached = last if effort == "cached" else None
            rows = None if cached is None else asked.live.items.rows_of_keys(np.frombuffer(cached, np.uint64))
            return effort, self._deciding(query, asked.live, effort, rows)

        while True:
            try:
                made = await self._together.decided(begin, alone=self._waiting <= 1)
            except _NoRung:
                raise Problem(
                    "not_ready",
                    "no rung of the degradation ladder could make a page; the service's log says why",
                ) from None
            except Exception:
                # Whatever is wrong on this rung, the customer gets the next one, and it is counted.
                LOG.exception("the rung %s failed", tried[-1])
                self._metrics.failures.labels(f"rung_{tried[-1]}").inc()
                continue
            self._ladder.took(tried[-1], made.seconds)
            failed, decision = tuple(tried[:-1]), made.decision
            return replace(decision, degraded=(*decision.degraded, *failed)) if failed else decision

    def _rung(self, asked: Asked, last: bytes | None) -> Effort:
        """Who is decided beside others is ready when all of them are."""
        left_s = asked.due - self._monotonic() - ANSWER_S
        return self._ladder.choose(left_s, self.load, cached=last is not None, waiting=self._waiting)

    async def _granted(self, asked: Asked, decision: Decision, attempt: int) -> Decision:
        """The page as quotas and caps allow it. A decision and attempt reserve once, however often tried."""
        timeout_s = min(self._settings.write_timeout_s, max(self._left(asked) / 2, MORE_S))
        return await self._granting.granted(decision, asked.live, attempt, timeout_s)

    # --- after the decision

    def _body(self, asked: Asked, decision: Decision, columns: Columns, taken: Taken | None) -> bytes:
        extra: dict[str, Any] = {}
        texts = asked.live.of(decision).texts
        if taken is not None:
            extra["events"] = taken.answer()
        if asked.ask.options.explain:
            extra["effort"] = decision.effort
        return page_bytes(
            decision,
            texts,
            page_token=None if asked.dry else self._token(decision, columns),
            valid_until=decision.valid_until,
            campaigns=asked.live.plan.campaigns.ids,
            extra=extra,
            explained=wire.explained_slots(decision, texts) if decision.explained is not None else None,
            columns=columns,
        )

    def _token(self, decision: Decision, columns: Columns) -> str:
        query = decision.query
        return self._signer.sign_packed(
            query.decision_id,
            query.subject,
            (query.now, decision.valid_until),
            query.context.channel,
            [slot.spec.key for slot in query.slots],
            bytes(columns.slot),
            (
                packed("Q", columns.key),
                packed("I", columns.campaign_key),
                packed("I", columns.creative_key),
                bytes(columns.flags),
            ),
            device=query.device or "",
            org=int(query.customer.get("org")),
        )

    async def _remember(
        self, asked: Asked, decision: Decision, own: bytes, body: bytes, again: int
    ) -> tuple[bytes, int]:
        """The body that stands under this id, and `again`; -1 when another replica's page stands."""
        if self._breakers.live.open:
            return body, again
        for turn in range(again, MOST_AGAIN + 1):
            name = asked.who.decision_id + (f"#{turn}" if turn else "")
            try:
                timeout_s = min(self._settings.write_timeout_s, max(self._left(asked), MORE_S))
                stands = await in_time(self._stores.live.remember(asked.who.subject, name, own), timeout_s)
            except StoreUnavailable:
                self._metrics.store_error("remember")
                return body, again
            if stands == own:
                return body, turn
            if (theirs := self._replayed(asked, decision.query, stands)) is not None:
                return theirs, -1
        return body, MOST_AGAIN

    def _note(self, asked: Asked, decision: Decision, columns: Columns, blobs: Blobs, again: int) -> None:
        """Counted, kept for the cached rung, and queued for the log."""
        wanted = sum(slot.count for slot in asked.slots)
        self._metrics.decided(
            decision.effort, decision.degraded, wanted, len(decision.placements), decision.drops
        )
        if decision.effort in ("full", "light"):
            self._last.put((asked.who.subject, asked.surface), packed("Q", columns.key))
        self.keeping.note(asked.live, asked.now)
        ms = 1000.0 * (self._clock() - asked.now)
        self._publisher.put(partial(self._record, decision, columns, blobs, asked, again, ms))

    def _record(
        self, decision: Decision, columns: Columns, blobs: Blobs, asked: Asked, again: int, ms: float
    ) -> Entry:
        """Made when it is written, off the request's path: the tallies and the served record."""
        self._tallying.add(decision, asked.live)
        surface = asked.live.plan.called(asked.surface)[-1]
        self._metrics.recorded(decision, surface, columns.score)
        return served_entry(decision, blobs, asked.ask, asked.live, again, columns, ms=ms)
