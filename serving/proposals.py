"""The state of governance: what was proposed, approved and published, folded from the audit log.

The log is the only truth: `State` is its records applied in order, so two processes that have read the same
records hold the same state, and nothing can be approved or published behind the log. Parts are named
`frame`, `policy`, `org:ID` (that org's fragment) and `creative:ID`; each has revisions of its own, from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from features.ids import BadId, check_id
from serving.audit import NOTHING, Head, Record
from serving.errors import Problem

FRAME: Final = "frame"
POLICY: Final = "policy"  # whether a second person is needed at all: a part like any other
OPEN: Final = ("proposed", "reviewed", "approved")  # states of a proposal that is not decided for good


@dataclass(frozen=True, slots=True)
class Revision:
    """A published version of a part. `parent`: the revision that a rollback goes back to; 0 for none."""

    number: int
    content: str  # digest
    parent: int
    at: str
    by: str
    approved_by: str
    proposal: str
    seq: int  # of its record


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change somebody wants. It never changes: an edit is a new one, and starts without approval."""

    id: str
    part: str
    org: str  # whose it is
    content: str  # digest
    base: int  # revision of the part that it was made from
    author: str
    at: str
    reason: str
    state: str = "proposed"
    checked: str = ""  # digest of what the check said
    reviewed_by: str = ""
    approved_by: str = ""
    approval: Mapping[str, Any] = field(default_factory=dict)  # number and until, where they were given
    ended: str = ""  # why it was rejected, or what superseded it


class Release(NamedTuple):
    """A plan that was put in force. `parent`: the release that a rollback of the whole goes back to."""

    number: int
    plan: str
    parts: Mapping[str, int]  # revision in use per part of the plan
    parent: int
    at: str
    by: str
    aside: tuple[str, ...] = ()  # orgs whose newest revision could not be used


class State:
    """Everything by name. `apply` takes the records one by one, from the first."""

    def __init__(self) -> None:
        self.head = Head(0, NOTHING)
        self.proposals: dict[str, Proposal] = {}
        self.parts: dict[str, list[Revision]] = {}  # revision n at n - 1
        self.releases: list[Release] = []  # release n at n - 1
        self.principals = ""  # digest of the list of principals in force
        self.killed: dict[tuple[str, str], str] = {}  # who threw each switch

    @property
    def release(self) -> Release | None:
        return self.releases[-1] if self.releases else None

    def revision(self, part: str) -> Revision | None:
        """The newest of a part."""
        held = self.parts.get(part)
        return held[-1] if held else None

    def at(self, part: str, number: int) -> Revision:
        """Raises Problem `not_found`."""
        held = self.parts.get(part, [])
        if not 1 <= number <= len(held):
            raise Problem("not_found", f"{part} has no revision {number}; it has {len(held)}")
        return held[number - 1]

    def number(self, part: str) -> int:
        held = self.revision(part)
        return 0 if held is None else held.number

    def lineage(self, part: str) -> list[Revision]:
        """The newest revision and those a rollback would go back to, newest first."""
        found, number = [], self.number(part)
        while number:
            found.append(self.at(part, number))
            number = found[-1].parent
        return found

    def proposal(self, proposal_id: str) -> Proposal:
        """Raises Problem `unknown_proposal`."""
        found = self.proposals.get(proposal_id)
        if found is None:
            raise Problem("unknown_proposal", f"there is no proposal {proposal_id[:64]!r}: see plan status")
        return found

    def open(self) -> list[Proposal]:
        return [one for one in self.proposals.values() if one.state in OPEN]

    def apply(self, record: Record) -> None:
        """Records of kinds that this version does not know change nothing."""
        act = _ACTS.get(record.action)
        if act is not None:
            act(self, record)
        self.head = record.head


def check_part(part: str) -> str:
    """A part's name. Raises Problem `invalid_field`."""
    kind, colon, name = part.partition(":")
    try:
        if part in (FRAME, POLICY) or (colon and kind in ("org", "creative") and check_id(name, kind)):
            return part
    except BadId as bad:
        raise Problem("invalid_field", f"part: {bad}") from None
    raise Problem("invalid_field", f"part: {part[:80]!r} is none: name frame, policy, org:ID or creative:ID")


def named(part: str) -> str:
    """The org or creative a part is of; empty for the frame."""
    return part.partition(":")[2]


def _proposed(state: State, record: Record) -> None:
    said = record.detail
    one = Proposal(
        id=said["proposal"],
        part=record.object,
        org=said["org"],
        content=said["content"],
        base=said["base"],
        author=record.principal,
        at=record.at,
        reason=record.reason,
        checked=said["checked"],
    )
    state.proposals[one.id] = one
    if said["replaces"]:
        old = state.proposals[said["replaces"]]
        state.proposals[old.id] = replace(old, state="superseded", ended=f"edited: {one.id}")


def _change(state: State, record: Record, /, **fields: Any) -> None:
    old = state.proposals[record.detail["proposal"]]
    state.proposals[old.id] = replace(old, **fields)


def _reviewed(state: State, record: Record) -> None:
    _change(state, record, state="reviewed", reviewed_by=record.principal)


def _approved(state: State, record: Record) -> None:
    approval = record.detail["approval"]
    _change(state, record, state="approved", approved_by=record.principal, approval=approval)


def _rejected(state: State, record: Record) -> None:
    _change(state, record, state="rejected", ended=record.reason)


def _revised(state: State, record: Record) -> None:
    """Published, rolled back, withdrawn, switched off: each part named gets a revision, and a release."""
    said = record.detail
    for part, made in said["parts"].items():
        held = state.parts.setdefault(part, [])
        approved, proposal = made["approved_by"], made["proposal"]
        parent, content = made["parent"], made["content"]
        number = len(held) + 1
        held.append(
            Revision(number, content, parent, record.at, record.principal, approved, proposal, record.seq)
        )
        if proposal in state.proposals:
            state.proposals[proposal] = replace(state.proposals[proposal], state="published")
    if said["plan"]:
        number, aside = len(state.releases) + 1, tuple(said["aside"])
        used, parent = said["used"], said["parent"]
        state.releases.append(Release(number, said["plan"], used, parent, record.at, record.principal, aside))


def _keys(state: State, record: Record) -> None:
    state.principals = record.detail["principals"]


def _killed(state: State, record: Record) -> None:
    state.killed[record.detail["scope"], record.detail["id"]] = record.principal


def _revived(state: State, record: Record) -> None:
    state.killed.pop((record.detail["scope"], record.detail["id"]), None)


_ACTS: Final = {
    "proposed": _proposed,
    "reviewed": _reviewed,
    "approved": _approved,
    "rejected": _rejected,
    "published": _revised,
    "rolled_back": _revised,
    "withdrawn": _revised,
    "switched_off": _revised,
    "keys": _keys,
    "killed": _killed,
    "revived": _revived,
}
