"""How parts become a plan: the port that governance composes through, and the parts that need no plan.

The frame is checked and composed with the orgs' fragments by `serving.fragments`; where an org's newest
version does not fit, its last good one stands in, so that one org's bad draft never blocks another's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from serving.catalogue import CatalogueError, parse_creative
from serving.errors import FieldError, Problem
from serving.fragments import Fragment, Frame, check_fragment, check_frame, compose_good
from serving.items import CREATIVE_OF
from serving.plan import Plan, PlanError
from serving.principals import HEAD_OFFICE
from serving.proposals import Proposal, Revision

NUMBERED: Final = ("revision", "sequence")

Check = Callable[[Plan, bool], Mapping[str, Any]]
"""What a plan is judged by: (plan, whether there is time for booking) -> JSON. Raises PlanError."""
ItemOrg = Callable[[str], str | None]
"""The org that an item belongs to; None when there is no such item."""


class Aside(NamedTuple):
    """An org whose newest version could not be used, and why."""

    org: str
    problem: str


class Version(NamedTuple):
    """A published, or to be published, version of an org's fragment; `seq` orders all orgs' publications."""

    number: int
    seq: int
    content: Any


class Composed(NamedTuple):
    """`used`: per org the number of the version in use; orgs of which none is good are not in it."""

    plan: Plan
    used: Mapping[str, int]
    aside: tuple[Aside, ...]


class Composer(Protocol):
    """Raises PlanError."""

    def checked(self, org: str | None, raw: Any) -> dict[str, Any]:
        """A frame (None) or an org's fragment by itself, as JSON values of one spelling."""
        ...

    def compose(self, frame: Any, versions: Mapping[str, Sequence[Version]]) -> Composed:
        """The plan; `versions` per org, newest first."""
        ...


class Fragments(Composer):
    """The plan of a frame and the orgs' fragments: serving.fragments, by numbers of revisions."""

    def checked(self, org: str | None, raw: Any) -> dict[str, Any]:
        if org is None:
            return _spelled(check_frame(raw))
        named = {"org": org, **raw} if isinstance(raw, Mapping) else raw
        fragment = check_fragment(named)
        if fragment.org != org:
            raise PlanError(
                "org", f"is {fragment.org}, but the part is {org}'s", f"propose org:{fragment.org}"
            )
        # Numbers are given when it is published; what the author wrote there would only look like a change.
        return {name: value for name, value in _spelled(fragment).items() if name not in NUMBERED}

    def compose(self, frame: Any, versions: Mapping[str, Sequence[Version]]) -> Composed:
        read: dict[str, list[Fragment]] = {}
        aside: list[Aside] = []
        for org, held in versions.items():
            for one in held:
                try:
                    numbers = {"revision": one.number, "sequence": one.seq}
                    read.setdefault(org, []).append(check_fragment({**one.content, **numbers}))
                except PlanError as bad:  # an older version of the product wrote it
                    aside.append(Aside(org, str(bad)))
        plan, problems = compose_good(check_frame(frame), read)
        used = {
            org: found.revision
            for org, held in read.items()
            if (found := next((one for one in held if not _refused(one, problems)), None)) is not None
        }
        aside += [
            Aside(one.org, str(problem))
            for held in read.values()
            for one in held
            for problem in problems
            if _is_of(one, problem)
        ]
        return Composed(plan, used, tuple(aside))


def _spelled(text: Frame | Fragment) -> dict[str, Any]:
    return text.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _refused(fragment: Fragment, problems: Sequence[PlanError]) -> bool:
    return any(_is_of(fragment, problem) for problem in problems)


def _is_of(fragment: Fragment, problem: PlanError) -> bool:
    """A fragment's errors begin with its name."""
    after = problem.path.removeprefix(fragment.name)
    return after != problem.path and not after[:1].isdigit()


def root_org(frame: Any) -> str:
    """The org that owns the frame: the one without a parent, `head` where it is not plain which."""
    orgs = frame.get("orgs", ()) if isinstance(frame, Mapping) else ()
    roots = [org["id"] for org in orgs if isinstance(org, Mapping) and not org.get("parent")]
    return str(roots[0]) if len(roots) == 1 else HEAD_OFFICE


def checked_policy(raw: Any) -> dict[str, Any]:
    """`{"approvals": "required" | "off"}`. Raises Problem."""
    if (
        not isinstance(raw, Mapping)
        or set(raw) != {"approvals"}
        or raw["approvals"] not in ("required", "off")
    ):
        wrong = FieldError(
            "approvals", "invalid_field", "is `required` or `off`, and nothing else is set here"
        )
        raise Problem("invalid_field", f"approvals: {wrong.detail}", errors=[wrong])
    return {"approvals": raw["approvals"]}


def checked_creative(creative_id: str, raw: Any) -> dict[str, Any]:
    """A creative as it is proposed, with its `item_id`. What an approval adds, it may not say itself.

    Raises Problem.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get(CREATIVE_OF), str):
        raise Problem("missing_field", f"{CREATIVE_OF}: say whose creative this is")
    body = {name: value for name, value in raw.items() if name != CREATIVE_OF}
    if body.setdefault("id", creative_id) != creative_id:
        raise Problem("id_mismatch", "id: the body names another creative than the part")
    for name in ("approver", "approval_number"):
        if name in body:
            raise Problem("bad_creative", f"{name}: is written by the approval, so leave it out")
    if body.pop("state", "draft") != "draft":
        raise Problem(
            "bad_creative", "state: what is proposed is a draft; approving and publishing it goes on"
        )
    try:
        made = parse_creative(body, raw[CREATIVE_OF], strict=True)
    except CatalogueError as bad:
        raise Problem("bad_creative", f"{bad.field}: {bad.problem}; {bad.remedy}") from None
    said = made.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {CREATIVE_OF: raw[CREATIVE_OF], **said, "state": "draft"}


def creative_payload(
    content: Mapping[str, Any], revision: Revision, proposal: Proposal | None
) -> dict[str, Any]:
    """What control's overlay gets: the approved content, live, with its approval and the earlier end."""
    if content["state"] == "withdrawn":
        return dict(content)
    approval = proposal.approval if proposal is not None else {}
    payload = {**content, "state": "live"}
    if revision.approved_by:
        payload["approver"] = revision.approved_by
    if approval.get("number"):
        payload["approval_number"] = approval["number"]
    ends = [text for text in (content.get("until"), approval.get("until")) if text]
    if ends:
        payload["until"] = min(ends, key=datetime.fromisoformat)
    return payload
