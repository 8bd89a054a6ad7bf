"""A plan composed: head office's frame, and of each org one fragment with campaigns, audiences and groups.

Each fragment has its own revision, approval and rollback. The composed value is one immutable, hashed `Plan`.
An org that writes nonsense keeps its last good fragment, and nobody else notices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from serving.audience_rules import AllOf, AnyOf, Named, Not, Rule
from serving.campaign import Campaign, Exclusion, TextModel, Tier, where_of
from serving.catalogue import Code
from serving.orgs import Orgs
from serving.plan_checks import check_whole
from serving.plan_error import PlanError
from serving.plan_read import check_fields
from serving.plan_text import Plan


class Ceiling(TextModel):
    """The most that an org's fragment may ask for; None: as the plan allows anybody."""

    lever: Annotated[float, Field(ge=1, le=5, allow_inf_nan=False)] | None = None
    penalty: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = Field(
        None, description="CNY per unit short, of each campaign"
    )
    campaigns: Annotated[int, Field(ge=0)] | None = Field(
        None, description="number of campaigns, paused ones too"
    )
    tiers: tuple[Tier, ...] | None = None
    exclusive: bool = Field(False, description="whether it may take items from everybody's organic pages")


class Frame(Plan):
    """Head office's part: everything but the branches' campaigns. Delegations stand in the slots."""

    ceilings: dict[Code, Ceiling] = Field(
        default_factory=dict, description="org -> ceiling, for it and those below it without one"
    )


class Fragment(TextModel):
    """One org's part, for its own customers, in what it owns or was given a share of."""

    org: Code
    revision: Annotated[int, Field(ge=0)] = 0
    sequence: Annotated[int, Field(ge=0)] = Field(
        0, description="number of its publication among all orgs': of two that clash the later one gives way"
    )
    campaigns: tuple[Campaign, ...] = ()
    audiences: dict[Code, Rule] = Field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()

    @property
    def name(self) -> str:
        return f"fragment of {self.org}, revision {self.revision}"


def check_frame(raw: Any) -> Frame:
    """A frame from JSON-like data, sound by itself. Raises PlanError."""
    frame = check_fields(Frame, raw)
    _sound(frame)
    return frame


def check_fragment(raw: Any) -> Fragment:
    """A fragment from JSON-like data, field by field; `compose` says whether it fits. Raises PlanError."""
    return check_fields(Fragment, raw)


def compose(frame: Frame, fragments: Iterable[Fragment]) -> Plan:
    """The plan of a frame and at most one fragment of each org. Raises PlanError.

    The error names the fragment; where two clash, the one that was published later.
    """
    parts = sorted(fragments, key=lambda one: (one.sequence, one.org))
    orgs = _sound(frame)
    for at, part in enumerate(parts):
        if any(part.org == other.org for other in parts[:at]):
            raise PlanError(part.name, "there is another fragment of the org", "compose one version of each")
    problem = _first_wrong(frame, orgs, parts)
    if problem is not None:
        raise problem
    return _joined(frame, _in_order(parts))


def compose_good(
    frame: Frame, versions: Mapping[str, Sequence[Fragment]]
) -> tuple[Plan, tuple[PlanError, ...]]:
    """The plan of each org's last version that can stand (newest first), and what was wrong with the others.

    Orgs are taken in the order in which their newest was published: of two that clash the older stays.
    Raises PlanError when the frame itself is bad.
    """
    orgs = _sound(frame)
    newest = sorted((held[0] for held in versions.values() if held), key=lambda one: (one.sequence, one.org))
    if _named_rightly(versions) and _first_wrong(frame, orgs, newest) is None:
        return _joined(frame, _in_order(newest)), ()
    taken: list[Fragment] = []
    problems: list[PlanError] = []
    for org in sorted(versions, key=lambda name: (versions[name][0].sequence if versions[name] else 0, name)):
        for version in versions[org]:
            problem = _misnamed(version, org) or _wrong(frame, orgs, taken, version)
            if problem is None:
                taken.append(version)
                break
            problems.append(problem)
    return _joined(frame, _in_order(taken)), tuple(problems)


def _sound(frame: Frame) -> Orgs:
    """The tree of a frame that can stand alone. Raises PlanError."""
    orgs = check_whole(_joined(frame, ()))
    for org in frame.ceilings:
        if org not in orgs:
            raise PlanError(f"ceilings.{org}", "is no org of the plan", "declare it in `orgs`")
    return orgs


def _named_rightly(versions: Mapping[str, Sequence[Fragment]]) -> bool:
    return all(one.org == org for org, held in versions.items() for one in held)


def _misnamed(version: Fragment, org: str) -> PlanError | None:
    if version.org == org:
        return None
    return PlanError(version.name, f"was handed in for {org!r}", "hand it in for its own org")


def _in_order(parts: Iterable[Fragment]) -> list[Fragment]:
    return sorted(parts, key=lambda one: one.org)


def _first_wrong(frame: Frame, orgs: Orgs, parts: Sequence[Fragment]) -> PlanError | None:
    """All at once where all is well; else one after the other, to find whose fault it is."""
    if not any(_alone(frame, orgs, part) for part in parts):
        try:
            check_whole(_joined(frame, parts))
        except PlanError:
            pass
        else:
            return None
    for at, part in enumerate(parts):
        problem = _wrong(frame, orgs, parts[:at], part)
        if problem is not None:
            return problem
    return None


def _wrong(frame: Frame, orgs: Orgs, taken: Sequence[Fragment], part: Fragment) -> PlanError | None:
    """What keeps a fragment from joining those that stand."""
    problem = _alone(frame, orgs, part)
    if problem is None:
        try:
            check_whole(_joined(frame, (*taken, part)))
        except PlanError as error:
            problem = _localised(error, frame, taken)
    return None if problem is None else problem.within(part.name)


_INDEXED: Final = re.compile(r"(campaigns|exclusions)\.(\d+)(.*)", re.DOTALL)


def _localised(error: PlanError, frame: Frame, taken: Sequence[Fragment]) -> PlanError:
    """The error of the fragment that was joined last, with its own counting."""
    found = _INDEXED.fullmatch(error.path)
    if found is None:
        return error
    before = sum(len(getattr(part, found[1])) for part in (frame, *taken))
    index = int(found[2]) - before
    if index < 0:
        return error
    return PlanError(f"{found[1]}.{index}{found[3]}", error.problem, error.remedy)


def _joined(frame: Frame, parts: Sequence[Fragment]) -> Plan:
    """Frame and fragments as one plan, not yet checked as a whole. Raises PlanError."""
    fields: dict[str, Any] = {name: getattr(frame, name) for name in Plan.model_fields}
    audiences: dict[str, Rule] = dict(frame.audiences)
    for part in parts:
        for name, rule in part.audiences.items():
            if name in audiences:
                problem = "is an audience of another fragment or of the frame"
                raise PlanError(
                    f"audiences.{name}", problem, f"choose another name, such as {part.org}-{name}"
                )
            audiences[name] = rule
    fields["audiences"] = audiences
    fields["campaigns"] = (*frame.campaigns, *(one for part in parts for one in _campaigns(part)))
    fields["exclusions"] = (*frame.exclusions, *(one for part in parts for one in part.exclusions))
    return check_fields(Plan, fields)


def _campaigns(part: Fragment) -> Iterator[Campaign]:
    """A campaign that does not say whose it is is its fragment's."""
    for one in part.campaigns:
        yield one if "org" in one.model_fields_set else one.model_copy(update={"org": part.org})


def _alone(frame: Frame, orgs: Orgs, part: Fragment) -> PlanError | None:
    """What a fragment may not say, whatever the others say."""
    if part.org not in orgs:
        return PlanError("org", f"{part.org!r} is no org of the frame", "have head office add it to `orgs`")
    names = {*frame.audiences, *part.audiences}
    for name, rule in part.audiences.items():
        for named in _names_in(rule):
            if named not in names:
                return _foreign(f"audiences.{name}", named)
    own = {one.id for one in part.campaigns}
    for at, group in enumerate(part.exclusions):
        path = where_of("exclusions", at, group.id)
        if group.items or group.categories:
            problem = "items and categories are also on other orgs' pages"
            return PlanError(path, problem, "name campaigns only, or have head office put it in the frame")
        if not set(group.campaigns) <= own:
            return PlanError(path, "names campaigns of others", "name campaigns of this fragment only")
    for at, one in enumerate(_campaigns(part)):
        if one.org not in orgs or not orgs.covers(part.org, one.org):
            problem = f"{one.org!r} is not {part.org!r}, nor below it"
            return PlanError(where_of("campaigns", at, one.id, "org"), problem, "leave `org` out")
        if one.audience is not None and one.audience not in names:
            return _foreign(where_of("campaigns", at, one.id, "audience"), one.audience)
    return _above_ceiling(frame, orgs, part)


def _foreign(path: str, audience: str) -> PlanError:
    problem = f"{audience!r} is no audience of this fragment or of the frame"
    return PlanError(path, problem, "write the rule here, or have head office share it")


def _names_in(rule: Rule) -> Iterator[str]:
    """Audiences that a rule names."""
    if isinstance(rule, Named):
        yield rule.audience
    elif isinstance(rule, Not):
        yield from _names_in(rule.not_)
    elif isinstance(rule, AllOf | AnyOf):
        for one in rule.all if isinstance(rule, AllOf) else rule.any:
            yield from _names_in(one)


def _above_ceiling(frame: Frame, orgs: Orgs, part: Fragment) -> PlanError | None:
    org = next((name for name in orgs.lineages[part.org] if name in frame.ceilings), None)
    most = frame.ceilings[org] if org is not None else Ceiling()
    remedy = "lower it, or have head office raise the ceiling"
    if most.campaigns is not None and len(part.campaigns) > most.campaigns:
        problem = f"{len(part.campaigns)} campaigns, and the ceiling is {most.campaigns}"
        return PlanError("campaigns", problem, remedy)
    for at, one in enumerate(part.campaigns):
        limits = (
            ("lever.factor", one.lever.factor if one.lever else 1.0, most.lever),
            ("penalty", one.penalty_cny, most.penalty),
        )
        for field, value, limit in limits:
            if limit is not None and value > limit:
                path = where_of("campaigns", at, one.id, field)
                return PlanError(path, f"{value:g} is above the ceiling of {limit:g}", remedy)
        if most.tiers is not None and one.tier not in most.tiers:
            path = where_of("campaigns", at, one.id, "tier")
            return PlanError(
                path, f"{one.tier!r} is not open to {part.org!r}", f"use {', '.join(most.tiers)}"
            )
        if one.exclusive and not most.exclusive and part.org != orgs.root:
            path = where_of("campaigns", at, one.id, "exclusive")
            problem = "would take its items from everybody's pages"
            return PlanError(path, problem, "leave it out, or have head office allow it in `ceilings`")
    return None
