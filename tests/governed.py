"""A small bank under governance: a frame with two branches, principals with keys, and a clock that is moved.

desk = governed(tmp_path)
one = desk.governance.propose(desk.alice, "frame", frame(), base=0, reason="first")
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serving.composing import Check
from serving.errors import Problem
from serving.governance import Governance, accept
from serving.keys import Keys
from serving.principals import Identity, Scope, local_identity
from serving.proposals import Proposal, Revision
from tests.worlds import SLOTS

START = 1_790_000_000.0
SHARED = ("home.banner", "home.shelf")


@dataclass
class Ticking:
    """Each look is a millisecond later."""

    now: float = START

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def person(name: str, *scopes: str, key: str = "k") -> Identity:
    parts = (scope.partition(":") for scope in scopes)
    return Identity(name, frozenset(Scope(role, org) for role, _, org in parts), key)


def frame(**changes: Any) -> dict[str, Any]:
    """Head office, and branches bj and sh that share the banner and the shelf."""
    slots = [dict(slot) for slot in SLOTS]
    for slot in slots:
        if slot["name"] in SHARED:
            slot["shares"] = {"bj": 0.2, "sh": 0.3}
    orgs = [{"id": "head"}, {"id": "bj", "parent": "head"}, {"id": "sh", "parent": "head"}]
    home = [slot["name"] for slot in slots]
    return {"name": "head", "surfaces": {"home": home}, "slots": slots, "orgs": orgs, **changes}


def fragment(*names: str, slot: str = "home.shelf") -> dict[str, Any]:
    """A branch's campaigns, one a name; in a slot that is not shared it does not fit."""
    flight = {"from": "2026-11-01", "until": "2027-12-01"}
    made = [{"id": name, "items": ["i1"], "slots": [slot], "flight": flight} for name in names]
    return {"campaigns": made}


def creative(**changes: Any) -> dict[str, Any]:
    return {"item_id": "i1", "title": "开户有礼", "layouts": ["banner"], **changes}


ALICE = person("alice", "operator:head")
ANN = person("ann", "approver")
BOB = person("bob", "operator:bj")
BEA = person("bea", "approver:bj")
SAM = person("sam", "operator:sh")
SID = person("sid", "approver:sh")
ROOT = person("root", "admin")


@dataclass
class Bank:
    governance: Governance
    keys: Keys
    clock: Ticking
    path: Path
    alice: Identity = ALICE
    ann: Identity = ANN
    bob: Identity = BOB
    bea: Identity = BEA
    sam: Identity = SAM
    sid: Identity = SID
    root: Identity = ROOT
    texts: dict[str, str] = field(default_factory=dict)  # keys as they were shown, by principal

    def publish(
        self, part: str, raw: Any, by: Identity | None = None, ok: Identity | None = None
    ) -> Revision:
        """Proposed, approved by an approver of everything, published."""
        author = by or {"org:bj": self.bob, "org:sh": self.sam}.get(part, self.alice)
        one = self.propose(part, raw, author)
        self.approve(one, ok or self.ann)
        return self.governance.publish(author, one.id)

    def propose(self, part: str, raw: Any, by: Identity, **options: Any) -> Proposal:
        given = {"base": None, "reason": "because", **options}
        return self.governance.propose(by, part, raw, **given)

    def approve(self, one: Proposal, by: Identity) -> Proposal:
        number = "A-1" if one.part.startswith("creative:") else ""
        return self.governance.approve(by, one.id, content=one.content, number=number)


def governed(
    path: Path,
    *,
    principals: bool = True,
    approvals: bool | None = None,
    check: Check = accept,
    orgs: Iterable[tuple[str, str]] = (("i1", "head"), ("i2", "bj")),
) -> Bank:
    """`principals`: an admin and an approver have keys already, so that approvals are required."""
    clock, known = Ticking(), dict(orgs)
    url = str(path / "registry")
    governance = Governance(url, check=check, item_org=known.get, approvals=approvals, clock=clock)
    bank = Bank(governance, Keys(url, governance.books), clock, path / "registry" / "governance")
    if principals:
        bank.texts["root"] = bank.keys.issue(local_identity(), "root", ["admin"])[0]
        bank.texts["ann"] = bank.keys.issue(bank.root, "ann", ["approver"])[0]
    return bank


def refused(code: str, call, *args, **options) -> Problem:
    with pytest.raises(Problem) as caught:
        call(*args, **options)
    assert caught.value.code == code, caught.value
    return caught.value


def plan(bank: Bank):
    return bank.governance.shelf.fetch(bank.governance.refresh().release.plan)


def campaigns(bank: Bank) -> list[str]:
    return sorted(one.id for one in plan(bank).campaigns)
