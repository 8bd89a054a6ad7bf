"""The office: what governance decided is carried out in control, where every replica sees it.

Publishing writes the record first, then points control at the newest release, at most once a second however
many publish; a writer that dies in between is made good by the next one, and by `reconcile`. A kill is the
other way round: off first, then the record, because stopping may not wait for a registry. Switching on waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from serving import permits
from serving.control import Control, ControlError, Kill, check_kill
from serving.errors import Problem
from serving.governance import Governance
from serving.items import CREATIVE_OF
from serving.principals import Identity
from serving.proposals import Release, Revision

T = TypeVar("T")
LOG: Final = logging.getLogger("fenliu.office")
EVERY_S: Final = 1.0  # between two plans that control is pointed at
CREATIVE: Final = "creative:"


class Killed(NamedTuple):
    """`audited`: False when the switch was thrown although the registry did not take the record."""

    kill: Kill
    undo: bool
    audited: bool


class Office:
    """One per process, on one event loop. `monotonic` gives seconds that never go back."""

    def __init__(
        self,
        governance: Governance,
        control: Control,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.governance, self._control, self._monotonic = governance, control, monotonic
        self._pointing = asyncio.Lock()
        self._pointed = 0  # the release that control was last pointed at from here
        self._free_at = 0.0

    async def publish(
        self, who: Identity, proposal_id: str, *, alone: bool = False, reason: str = ""
    ) -> Revision:
        """In force everywhere within seconds of the return. Raises Problem, StoreUnavailable."""
        revision = await _thread(self.governance.publish, who, proposal_id, alone=alone, reason=reason)
        await self._carry_out(self.governance.state.proposal(proposal_id).part)
        return revision

    async def roll_back(self, who: Identity, part: str, *, reason: str, to: int | None = None) -> Revision:
        """One part. Raises Problem, StoreUnavailable."""
        revision = await _thread(self.governance.undo.part, who, part, reason=reason, to=to)
        await self._carry_out(part)
        return revision

    async def roll_back_whole(self, who: Identity, *, reason: str) -> Release:
        """The plan before. Raises Problem, StoreUnavailable."""
        release = await _thread(self.governance.undo.whole, who, reason=reason)
        await self.point()
        return release

    async def switch_off(
        self, who: Identity, name: str, arm: str, *, reason: str, evidence: Mapping[str, Any] | None = None
    ) -> Revision:
        """An experiment's arm. Raises Problem, StoreUnavailable."""
        undo = self.governance.undo
        revision = await _thread(undo.arm, who, name, arm, reason=reason, evidence=evidence)
        await self.point()
        return revision

    async def withdraw(self, who: Identity, creative_id: str, *, reason: str) -> Revision:
        """Raises Problem, StoreUnavailable."""
        revision = await _thread(self.governance.withdraw, who, creative_id, reason=reason)
        await self._carry_out(CREATIVE + creative_id)
        return revision

    async def kill(self, who: Identity, kill: Kill, *, reason: str, undo: bool = False) -> Killed:
        """Throw a switch or take it back. Raises Problem, StoreUnavailable."""
        try:
            check_kill(kill)
        except ControlError as bad:
            raise Problem("invalid_field", f"kill: {bad}") from None
        await self._permit(who, kill, undo)
        about = f"{kill.scope}:{kill.id}".rstrip(":")
        said = {"scope": kill.scope, "id": kill.id}
        if undo:
            await _thread(self.governance.record, who, "revived", about, reason, said)
            await self._control.revive(kill)
            return Killed(kill, undo, True)
        await self._control.kill(kill)
        try:
            await _thread(self.governance.record, who, "killed", about, reason, said)
        except Problem as problem:
            LOG.error(
                "%s killed %s (%s), and it is not on the record: %s", who.principal, about, reason, problem
            )
            return Killed(kill, undo, False)
        return Killed(kill, undo, True)

    async def _permit(self, who: Identity, kill: Kill, undo: bool) -> None:
        owner = thrown_by = None
        if not (who.has("admin") or who.acts_for("approver", "")):  # theirs needs no look into the registry
            state = await _thread(self.governance.refresh)
            owner = await _thread(self.governance.assembly.owner, kill.scope, kill.id)
            thrown_by = state.killed.get((kill.scope, kill.id))
        permits.may_kill(who, kill, owner, undo, thrown_by)

    async def _carry_out(self, part: str) -> None:
        if part.startswith(CREATIVE):
            await self._show(part.removeprefix(CREATIVE))
        elif part != "policy":
            await self.point()

    async def _show(self, creative_id: str) -> None:
        payload = await _thread(self.governance.creative, creative_id)
        if payload is not None:
            await self._control.overlay_put([("creative", creative_id, payload)])

    async def point(self) -> None:
        """Control names the newest release's plan when this returns. Raises Problem, StoreUnavailable."""
        wanted = self.governance.state.release
        async with self._pointing:
            while wanted is not None and wanted.number > self._pointed:
                await asyncio.sleep(max(0.0, self._free_at - self._monotonic()))
                newest = (await _thread(self.governance.refresh)).release or wanted
                await self._control.set("plan", newest.plan)
                self._free_at, self._pointed = self._monotonic() + EVERY_S, newest.number
                # Another process may have published and pointed meanwhile, and ours have come after its.
                wanted = (await _thread(self.governance.refresh)).release

    async def reconcile(self) -> bool:
        """Make control say what the books say; whether it did not. For start-up, and every few seconds.

        Raises Problem, StoreUnavailable.
        """
        release = (await _thread(self.governance.refresh)).release
        state = await self._control.poll()
        wrong = release is not None and state.plan != release.plan
        if wrong:
            self._pointed = 0
            await self.point()
        return wrong | await self._reconcile_creatives()

    async def _reconcile_creatives(self) -> bool:
        """A creative that was published, but whose overlay entry was never written or says otherwise, or
        whose item was put since: a whole item takes its creatives' place. What was withdrawn stays withdrawn.
        """
        parts = [part for part in self.governance.state.parts if part.startswith(CREATIVE)]
        if not parts:
            return False
        entries = {(entry.kind, entry.id): entry for entry in await self._control.overlay_since(0)}
        wrong = False
        for part in parts:
            name = part.removeprefix(CREATIVE)
            wanted = await _thread(self.governance.creative, name)
            held = entries.get(("creative", name))
            if held is not None and (held.payload is None or held.payload.get("state") == "withdrawn"):
                continue
            item = entries.get(("item", str((wanted or {}).get(CREATIVE_OF))))
            covered = (
                held is not None and item is not None and item.payload is not None and item.seq > held.seq
            )
            if held is None or held.payload != wanted or covered:
                await self._show(name)
                wrong = True
        return wrong


async def _thread(call: Callable[..., T], *args: Any, **options: Any) -> T:
    return await asyncio.to_thread(call, *args, **options)
