"""Governance: a change is proposed by one principal, approved by another, published as approved.

    proposed -> (reviewed) -> approved -> published        or rejected, or superseded by an edited one
    creatives: draft -> reviewed -> approved -> live -> withdrawn: the same steps under their own names

A proposal names the revision it was made from; when the part has moved since, it is refused, as an If-Match
would be. Undoing is `serving.undo`. Blocking: the shell calls from a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from serving import permits
from serving.assembly import Assembly
from serving.audit import Entry, Record
from serving.books import Books
from serving.composing import Check, Composer, Fragments, ItemOrg, creative_payload
from serving.errors import Problem
from serving.plan import Plan
from serving.plans import PlanShelf
from serving.principals import HEAD_OFFICE, Identity
from serving.proposals import FRAME, OPEN, POLICY, Proposal, Revision, State, check_part
from serving.undo import Undo


def accept(_plan: Plan, _full: bool) -> Mapping[str, Any]:
    """The check where no bundle is live yet: a plan that composes is a plan."""
    return {}


def head_office(_item: str) -> str | None:
    """The org of items where no catalogue is at hand."""
    return HEAD_OFFICE


class Governance:
    """`url`: the registry's. `approvals`: False where FENLIU_APPROVALS=0; it counts only while there are no
    principals. `check` judges whole plans, `item_org` says whose an item (and so its creative) is.
    """

    def __init__(
        self,
        url: str,
        *,
        composer: Composer | None = None,
        check: Check = accept,
        item_org: ItemOrg = head_office,
        approvals: bool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.books = Books(url, clock)
        self.shelf = PlanShelf(url)
        self.assembly = Assembly(self.books, self.shelf, composer or Fragments(), check, item_org)
        self.undo = Undo(self.assembly)
        self._setting = approvals

    @property
    def state(self) -> State:
        """As far as it was read: `refresh` reads on."""
        return self.books.state

    @property
    def approvals(self) -> str:
        """`required`, `alone` or `off`: Books.approvals."""
        return self.books.approvals(self._setting)

    def refresh(self) -> State:
        """Raises Problem: `audit_broken`, `registry_unavailable`."""
        return self.books.refresh()

    def propose(
        self, who: Identity, part: str, raw: Any, *, base: int | None, reason: str, replaces: str = ""
    ) -> Proposal:
        """`base`: the revision it was made from (None: whichever is newest); `replaces`: a proposal it edits.

        Raises Problem: `forbidden`, `stale_revision`, `bad_plan` and what `judge` raises.
        """
        self.refresh()
        check_part(part)
        if part.startswith("org:") or part in (FRAME, POLICY):  # before a stranger's text costs a compile
            permits.may_propose(who, part, self.assembly.org_of(part, raw))
        content, judged = self.assembly.judge(part, raw)
        name, report = self.books.keep(content), self.books.keep(dict(judged.report)) if judged else ""
        proposal_id = ""

        def decide(state: State) -> Entry:
            nonlocal proposal_id
            orgs = {
                self.assembly.org_of(part, one)
                for one in (content, self.books.newest(part))
                if one is not None
            }
            for org in sorted(orgs):
                permits.may_propose(who, part, org)
            now = state.number(part)
            _check_base(part, base, now)
            if now and state.at(part, now).content == name:
                raise Problem("wrong_state", f"{part}: nothing changes; revision {now} says the same")
            if replaces:
                _check_replaced(state.proposal(replaces), part)
            proposal_id = f"p{state.head.seq + 1}-{name[:8]}"
            org = self.assembly.org_of(part, content)
            detail = {"proposal": proposal_id, "content": name, "base": now, "org": org}
            detail |= {"checked": report, "replaces": replaces}
            return Entry(who.principal, "proposed", part, reason, detail, who.key)

        self.books.commit(decide)
        return self.state.proposal(proposal_id)

    def review(self, who: Identity, proposal_id: str, *, content: str, reason: str = "") -> Proposal:
        """A second pair of eyes before the approval; not the author's. Raises Problem."""

        def decide(state: State) -> Entry:
            one = _standing(state, proposal_id, ("proposed",))
            if not (who.acts_for("operator", one.org) or who.acts_for("approver", one.org)):
                needs = f"operator:{one.org} or approver:{one.org}"
                raise permits.forbidden(who, f"review for {one.org}", needs)
            permits.another_than(who, one)
            _check_seen(one, content)
            return _about(who, "reviewed", one, reason)

        self.books.commit(decide)
        return self.state.proposal(proposal_id)

    def approve(
        self,
        who: Identity,
        proposal_id: str,
        *,
        content: str,
        reason: str = "",
        number: str = "",
        until: str = "",
    ) -> Proposal:
        """`content`: the digest of what the approver looked at; `number` and `until` of the approval.

        Raises Problem: `forbidden`, `same_person`, `wrong_state`, `stale_revision`, `not_approved`.
        """
        if until and not _later(until, self.books.clock()):
            raise Problem("invalid_field", "until: an approval ends at an RFC 3339 time to come")

        def decide(state: State) -> Entry:
            one = _standing(state, proposal_id, ("proposed", "reviewed"))
            permits.may_approve(who, one)
            _check_seen(one, content)
            self.books.content(one.content)
            if one.part.startswith("creative:") and not number:
                raise Problem("missing_field", "number: a creative is approved under an approval number")
            return _about(who, "approved", one, reason, approval={"number": number, "until": until})

        self.books.commit(decide)
        return self.state.proposal(proposal_id)

    def reject(self, who: Identity, proposal_id: str, *, reason: str) -> Proposal:
        """By an approver, or by the author who takes it back; also after an approval. Raises Problem."""

        def decide(state: State) -> Entry:
            one = _standing(state, proposal_id, OPEN)
            permits.may_reject(who, one)
            return _about(who, "rejected", one, reason)

        self.books.commit(decide)
        return self.state.proposal(proposal_id)

    def publish(self, who: Identity, proposal_id: str, *, alone: bool = False, reason: str = "") -> Revision:
        """Make a proposal the newest revision of its part, exactly as it was approved.

        `alone`: without a second person, where nobody else is known (recorded). Raises Problem:
        `not_approved`, `stale_revision`, `bad_plan`, `forbidden`, `wrong_state`.
        """

        def decide(state: State) -> Entry:
            one = _standing(state, proposal_id, OPEN)
            permits.may_publish(who, one)
            single = self._second_person(one, alone)
            _check_base(one.part, one.base, state.number(one.part))
            self.assembly.checked(one.part, self.books.content(one.content))
            made = {"content": one.content, "parent": one.base, "proposal": one.id}
            made["approved_by"] = one.approved_by
            return self.assembly.revising(
                who,
                "published",
                {one.part: made},
                reason or one.reason,
                alone=single,
                approvals=self.approvals,
            )

        self.books.commit(decide)
        return self.books.last(self.state.proposal(proposal_id).part)

    def withdraw(self, who: Identity, creative_id: str, *, reason: str) -> Revision:
        """Take a creative off, at once and by one person. Raises Problem."""
        part = check_part(f"creative:{creative_id}")

        def decide(state: State) -> Entry:
            held = state.revision(part)
            content = self.books.newest(part)
            if held is None or content["state"] == "withdrawn":
                raise Problem("wrong_state", f"{part} is not live")
            permits.may_withdraw(who, self.assembly.org_of(part, content))
            name = self.books.keep({**content, "state": "withdrawn"})
            made = {"content": name, "parent": held.number, "proposal": "", "approved_by": ""}
            return self.assembly.revising(who, "withdrawn", {part: made}, reason)

        self.books.commit(decide)
        return self.books.last(part)

    def record(
        self, who: Identity, action: str, about: str, reason: str, detail: Mapping[str, Any]
    ) -> Record:
        """A fact that stands whatever else happens: a kill, a forced bundle. Raises Problem."""

        def decide(_state: State) -> Entry:
            return Entry(who.principal, action, about, reason, detail, who.key)

        return self.books.commit(decide)

    def creative(self, creative_id: str) -> dict[str, Any] | None:
        """What control's overlay should hold of a creative; None when none was published."""
        held = self.state.revision(f"creative:{creative_id}")
        if held is None:
            return None
        return creative_payload(
            self.books.content(held.content), held, self.state.proposals.get(held.proposal)
        )

    def _second_person(self, one: Proposal, alone: bool) -> bool:
        """Whether it goes out without one; False when it was approved. Raises Problem `not_approved`."""
        if one.state == "approved":
            if one.approved_by == one.author:
                raise Problem("not_approved", f"{one.id} was approved by its author")
            until = one.approval.get("until")
            if until and not _later(until, self.books.clock()):
                raise Problem(
                    "not_approved", f"the approval of {one.id} ended at {until}: have it approved again"
                )
            return False
        policy = self.approvals
        if policy == "off" or (policy == "alone" and alone):
            return True
        remedy = "say --alone if there is nobody else" if policy == "alone" else f"approve {one.id} first"
        raise Problem(
            "not_approved", f"{one.id} is {one.state}, and somebody else has to approve it: {remedy}"
        )


def _standing(state: State, proposal_id: str, states: Sequence[str]) -> Proposal:
    """Raises Problem `wrong_state` when it is past that."""
    one = state.proposal(proposal_id)
    if one.state not in states:
        ended = f" ({one.ended})" if one.ended else ""
        raise Problem("wrong_state", f"{one.id} is {one.state}{ended}, not {' or '.join(states)}")
    return one


def _about(who: Identity, action: str, one: Proposal, reason: str, **more: Any) -> Entry:
    detail = {"proposal": one.id, "content": one.content, **more}
    return Entry(who.principal, action, one.part, reason, detail, who.key)


def _check_base(part: str, base: int | None, now: int) -> None:
    if base is not None and base != now:
        raise Problem(
            "stale_revision",
            f"{part} is at revision {now}, this was made from {base}: look at what changed and propose again",
        )


def _check_seen(one: Proposal, content: str) -> None:
    """An approval is of what the approver saw. A prefix of 8 or more digits will do."""
    if len(content) < 8 or not one.content.startswith(content):
        raise Problem(
            "stale_revision", f"{one.id} holds {one.content[:12]}, not what was looked at: see its diff"
        )


def _check_replaced(old: Proposal, part: str) -> None:
    if old.part != part or old.state not in OPEN:
        raise Problem("wrong_state", f"{old.id} is a {old.state} proposal of {old.part}: it cannot be edited")


def _later(text: str, now: float) -> bool:
    """Whether a time is to come; a text that is none, or has no zone, is not."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return False
    return at.tzinfo is not None and at.timestamp() > now
