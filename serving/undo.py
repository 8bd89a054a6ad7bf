"""Undoing: a part back to its last good revision, the whole plan to the one before, an experiment's arm off;
by one person, or by the service itself where it only takes away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving import permits
from serving.arm_switch import ArmError, switched_off
from serving.assembly import EMPTY, Assembly, again, bad_plan, in_plan, release_detail
from serving.audit import Entry
from serving.errors import Problem
from serving.plan import PlanError
from serving.principals import Identity
from serving.proposals import FRAME, POLICY, Release, Revision, State, check_part


class Undo:
    """What it goes back to was approved and published before, so an approver alone may; it is recorded."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly, self._books = assembly, assembly.books

    def part(self, who: Identity, part: str, *, reason: str, to: int | None = None) -> Revision:
        """A part back to its last good revision before the present one, or to `to`. Raises Problem."""
        check_part(part)
        if part == POLICY:
            raise Problem("wrong_state", "the policy is changed by a proposal, so that two people decide it")

        def decide(state: State) -> Entry:
            held = state.revision(part)
            if held is None:
                raise Problem("wrong_state", f"{part} was never published: there is nothing to go back to")
            permits.may_roll_back(who, self._assembly.org_of(part, self._books.content(held.content)))
            tried = [state.at(part, to)] if to is not None else state.lineage(part)[1:]
            problem = Problem("wrong_state", f"{part} has no revision before {held.number} to go back to")
            for target in tried:
                made = {part: again(target)}
                try:
                    return self._assembly.revising(
                        who, "rolled_back", made, reason, back={part: target.number}
                    )
                except Problem as bad:
                    problem = bad
            raise problem

        self._books.commit(decide)
        return self._books.last(part)

    def arm(
        self, who: Identity, name: str, arm: str, *, reason: str, evidence: Mapping[str, Any] | None = None
    ) -> Revision:
        """An arm of an experiment off, by a revision of the frame. Raises Problem `wrong_state` where there
        is none, it is the control, or it is off already. `evidence`: JSON, recorded with it.
        """

        def decide(state: State) -> Entry:
            held = state.revision(FRAME)
            if held is None:
                raise Problem("wrong_state", "no plan was published: switch the arm off in the plan's file")
            permits.may_switch_off(who, self._assembly.root())
            try:
                content = self._assembly.checked(FRAME, switched_off(self._books.newest(FRAME), name, arm))
            except ArmError as bad:
                raise Problem("wrong_state", str(bad)) from None
            kept = self._books.keep(content)
            made = {FRAME: {"content": kept, "parent": held.number, "proposal": "", "approved_by": ""}}
            said = {"arm": f"{name}/{arm}", "evidence": dict(evidence or {})}
            return self._assembly.revising(who, "switched_off", made, reason, more=said)

        self._books.commit(decide)
        return self._books.last(FRAME)

    def whole(self, who: Identity, *, reason: str) -> Release:
        """The plan before the one in force, with every part as it was then. Raises Problem."""

        def decide(state: State) -> Entry:
            permits.may_roll_back(who, "")
            now = state.release
            if now is None or not now.parent:
                raise Problem("wrong_state", "there is no plan before this one: nothing to go back to")
            target = state.releases[now.parent - 1]
            made = self._as_of(target)
            try:
                plan = self._assembly.shelf.fetch(target.plan)
                report = self._assembly.check(plan, False)
            except PlanError as bad:
                raise bad_plan(bad) from None
            used = {part: len(state.parts[part]) + (part in made) for part in target.parts}
            detail = release_detail(made, plan.version, used, target.parent, target.aside)
            detail |= {
                "back": {"release": target.number},
                "checked": self._books.keep(dict(report)),
                "alone": False,
            }
            return Entry(who.principal, "rolled_back", "plan", reason, detail, who.key)

        self._books.commit(decide)
        assert self._books.state.release is not None
        return self._books.state.release

    def _as_of(self, target: Release) -> dict[str, dict[str, Any]]:
        """The parts whose newest content is not what it was in a release, as new revisions with that."""
        made: dict[str, dict[str, Any]] = {}
        for part in self._books.state.parts:
            if not in_plan(part):
                continue
            if part not in target.parts:
                nothing = self._books.keep(EMPTY)
                if self._books.last(part).content != nothing:
                    made[part] = {"content": nothing, "parent": 0, "proposal": "", "approved_by": ""}
                continue
            then = self._books.state.at(part, target.parts[part])
            if self._books.last(part).content != then.content:
                made[part] = again(then)
        return made
