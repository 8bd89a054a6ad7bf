"""What the plan would be: parts checked, composed and judged, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from serving.audit import Entry
from serving.books import Books
from serving.composing import (
    Aside,
    Check,
    Composer,
    ItemOrg,
    Version,
    checked_creative,
    checked_policy,
    root_org,
)
from serving.errors import FieldError, Problem
from serving.plan import Plan, PlanError
from serving.plans import PlanShelf
from serving.principals import Identity
from serving.proposals import FRAME, POLICY, Revision, check_part, named

EMPTY: Final = None  # the content of an org's part after it was taken back
VERSIONS: Final = 8  # of an org's fragment that are tried, newest first


class Judged(NamedTuple):
    """A plan that would result, the revision of each part in it, and what the check said."""

    plan: Plan
    used: dict[str, int]
    aside: tuple[Aside, ...]
    report: Mapping[str, Any]


class Assembly:
    """Books and what judges their contents. Raises Problem: `bad_plan` names the path."""

    def __init__(
        self, books: Books, shelf: PlanShelf, composer: Composer, check: Check, item_org: ItemOrg
    ) -> None:
        self.books, self.shelf, self.check = books, shelf, check
        self._composer, self._item_org = composer, item_org

    def root(self) -> str:
        """The org that owns the frame."""
        return root_org(self.books.newest(FRAME))

    def org_of(self, part: str, content: Any) -> str:
        """Whose a part is. Raises Problem `unknown_item` for a creative of no item."""
        if part in (FRAME, POLICY):
            return root_org(content) if part == FRAME and self.books.state.number(FRAME) == 0 else self.root()
        if part.startswith("org:"):
            return named(part)
        return self._creative_org(content["item_id"])

    def owner(self, scope: str, name: str) -> str | None:
        """The org that a campaign or creative belongs to; None where it is not known."""
        if scope == "creative":
            held = self.books.newest(f"creative:{name}")
            return None if held is None else self._creative_org(held["item_id"])
        if scope != "campaign":
            return None
        for part in self.books.state.parts:
            if in_plan(part):
                campaigns = (self.books.newest(part) or {}).get("campaigns", ())
                for campaign in (one for one in campaigns if one.get("id") == name):
                    return named(part) or str(campaign.get("org") or self.root())
        return None

    def judge(self, part: str, raw: Any, *, full: bool = True) -> tuple[Any, Judged | None]:
        """The content as it would be kept, and the plan it would give (None: the part is in no plan).

        Raises Problem: `bad_plan` naming the path, `bad_creative`, `invalid_field`.
        """
        content = self.checked(check_part(part), raw)
        return content, self.composed({part: content}, full) if in_plan(part) else None

    def checked(self, part: str, raw: Any) -> Any:
        """The part's content in its one spelling. Raises Problem."""
        if part == POLICY:
            return checked_policy(raw)
        if part.startswith("creative:"):
            return checked_creative(named(part), raw)
        try:
            return self._composer.checked(named(part) or None, raw)
        except PlanError as bad:
            raise bad_plan(bad) from None

    def _creative_org(self, item_id: str) -> str:
        org = self._item_org(item_id)
        if org is None:
            raise Problem("unknown_item", f"there is no item {item_id[:80]!r}: put the item first")
        return org

    def composed(self, changed: Mapping[str, Any], full: bool) -> Judged:
        frame = changed.get(FRAME, self.books.newest(FRAME))
        if frame is None:
            raise Problem("bad_plan", "there is no frame yet: head office publishes one first")
        parts = sorted(part for part in {*self.books.state.parts, *changed} if part.startswith("org:"))
        versions = {named(part): held for part in parts if (held := self._versions(part, changed))}
        try:
            made = self._composer.compose(frame, versions)
            for part in changed:
                org = named(part)
                if org in versions and made.used.get(org) != versions[org][0].number:
                    wrong = next((one.problem for one in made.aside if one.org == org), "it does not fit")
                    raise PlanError(part, wrong, "correct it and propose it again")
            report = self.check(made.plan, full)
        except PlanError as bad:
            raise bad_plan(bad) from None
        used = {f"org:{org}": number for org, number in made.used.items()}
        used[FRAME] = self._number_after(FRAME, changed)
        return Judged(made.plan, used, made.aside, report)

    def _versions(self, part: str, changed: Mapping[str, Any]) -> list[Version]:
        """A fragment's versions, newest first; none where it was taken back."""
        state = self.books.state
        lineage = state.lineage(part)[:VERSIONS]
        found = [Version(one.number, one.seq, self.books.content(one.content)) for one in lineage]
        if part in changed:
            found.insert(0, Version(self._number_after(part, changed), state.head.seq + 1, changed[part]))
        if found and found[0].content is EMPTY:
            return []
        return [one for one in found if one.content is not EMPTY]

    def _number_after(self, part: str, changed: Mapping[str, Any]) -> int:
        return self.books.state.number(part) + (part in changed)

    def revising(
        self,
        who: Identity,
        action: str,
        made: Mapping[str, Mapping[str, Any]],
        reason: str,
        *,
        alone: bool = False,
        approvals: str = "",
        back: Mapping[str, int] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Entry:
        """The record that gives parts their new revisions, and the plan that comes of it. Raises Problem."""
        part = next(iter(made))
        detail: dict[str, Any] = release_detail(made, "", {}, 0, ())
        if in_plan(part):
            judged = self.composed(
                {one: self.books.content(new["content"]) for one, new in made.items()}, False
            )
            parent = self.books.state.release.number if self.books.state.release else 0
            aside = [one.org for one in judged.aside]
            detail = release_detail(made, self.shelf.put(judged.plan), judged.used, parent, aside)
            detail["checked"] = self.books.keep(dict(judged.report))
        detail |= {"alone": alone, "approvals": approvals, "back": dict(back or {}), **(more or {})}
        return Entry(who.principal, action, part, reason, detail, who.key)


def in_plan(part: str) -> bool:
    return part == FRAME or part.startswith("org:")


def again(target: Revision) -> dict[str, Any]:
    """An earlier revision as a new one: what it went back to stays what it goes back to."""
    return {
        "content": target.content,
        "parent": target.parent,
        "proposal": target.proposal,
        "approved_by": target.approved_by,
    }


def release_detail(
    made: Mapping[str, Mapping[str, Any]],
    plan: str,
    used: Mapping[str, int],
    parent: int,
    aside: Sequence[str],
) -> dict[str, Any]:
    parts = {part: dict(new) for part, new in made.items()}
    return {"parts": parts, "plan": plan, "used": dict(used), "parent": parent, "aside": list(aside)}


def bad_plan(bad: PlanError) -> Problem:
    return Problem(
        "bad_plan", str(bad), errors=[FieldError(bad.path, "bad_plan", f"{bad.problem}; {bad.remedy}")]
    )
