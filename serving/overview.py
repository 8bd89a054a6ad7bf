"""What the books say, as documents for people: the plan, who waits for whom, one part, the log."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from serving import permits
from serving.governance import Governance
from serving.permits import may_read
from serving.principals import Identity
from serving.proposals import FRAME, POLICY, Proposal, Revision, named


def overview(governance: Governance, who: Identity) -> dict[str, Any]:
    """Everything in force and everything that waits, as far as somebody may see it. Raises Problem."""
    if not who.has("operator", "approver", "engineer", "admin"):
        raise permits.forbidden(who, "see the plan", "operator:ORG, approver, engineer or admin")
    state, orgs = governance.state, who.orgs
    parts = [
        revision_document(governance, part, held[-1])
        for part, held in sorted(state.parts.items())
        if _mine(governance, orgs, part)
    ]
    waiting = [proposal_document(governance, one) for one in state.open() if orgs is None or one.org in orgs]
    release = state.release
    killed = [{"scope": s, "id": i, "by": by} for (s, i), by in state.killed.items()]
    return {
        "plan": release.plan if release else None,
        "release": release.number if release else 0,
        "aside": [org for org in (release.aside if release else ()) if orgs is None or org in orgs],
        "approvals": governance.approvals,
        "parts": parts,
        "proposals": waiting,
        "killed": killed,
        "audit": governance.books.audit.head.text,
    }


def _mine(governance: Governance, orgs: tuple[str, ...] | None, part: str) -> bool:
    if orgs is None or part in (FRAME, POLICY):
        return True
    if part.startswith("org:"):
        return named(part) in orgs
    return governance.assembly.org_of(part, governance.books.newest(part)) in orgs


def revision_document(governance: Governance, part: str, one: Revision) -> dict[str, Any]:
    """A revision: what is in force of a part, by whom, approved by whom."""
    release = governance.state.release
    live = release.parts.get(part) if release is not None else None
    return {
        "part": part,
        "revision": one.number,
        "in_use": one.number if live is None else live,
        "content": one.content,
        "at": one.at,
        "by": one.by,
        "approved_by": one.approved_by,
        "proposal": one.proposal,
        "goes_back_to": one.parent,
        "plan": release.plan if release is not None else None,
    }


def proposal_document(governance: Governance, one: Proposal) -> dict[str, Any]:
    """A proposal, whether its base has moved, and whom it waits for."""
    now = governance.state.number(one.part)
    said = asdict(one)
    checked = said.pop("checked")
    report = governance.books.content(checked) if checked else {}
    return {**said, "stale": one.base != now, "waits_for": waits_for(governance, one), "report": report}


def waits_for(governance: Governance, one: Proposal) -> str:
    """Who has to act next, in words; empty when it is over."""
    if one.state == "approved":
        return f"operator:{one.org} or approver to publish it"
    if one.state not in ("proposed", "reviewed"):
        return ""
    if governance.approvals == "off":
        return f"{one.author} to publish it"
    return f"approver or approver:{one.org}, other than {one.author}"


def part_document(governance: Governance, who: Identity, part: str, number: int | None) -> dict[str, Any]:
    """The text of a part, as it stands or stood. Raises Problem `not_found`, `forbidden`."""
    state = governance.state
    if not who.has("operator", "approver", "engineer", "admin"):
        raise permits.forbidden(who, "see the plan", "operator:ORG, approver, engineer or admin")
    held = state.at(part, number or state.number(part))
    content = governance.books.content(held.content)
    if part not in (FRAME, POLICY):
        may_read(who, governance.assembly.org_of(part, content))
    return {**revision_document(governance, part, held), "text": content}


def audit_lines(
    governance: Governance, since: int | None, most: int, action: str | None, principal: str | None
) -> list[dict[str, Any]]:
    """Records after number `since`, oldest first; the last `most` when it is None."""
    found = [
        asdict(record)
        for record in governance.books.audit.records[since or 0 :]
        if action in (None, record.action) and principal in (None, record.principal)
    ]
    return found[-most:] if since is None else found[:most]
