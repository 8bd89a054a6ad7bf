"""Who stands below whom: head office, branches and partners as one tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from features.ids import key32
from serving.calendar import zone
from serving.campaign import DEFAULT_ORG, DEFAULT_TZ, Org, where_of
from serving.plan_error import PlanError


@dataclass(frozen=True, slots=True)
class Orgs:
    """A checked tree. `lineages`: per org itself, its parent, … up to the root."""

    root: str
    lineages: dict[str, tuple[str, ...]]
    zones: dict[str, str]
    partners: frozenset[str]

    def __contains__(self, name: object) -> bool:
        return name in self.lineages

    def covers(self, upper: str, lower: str) -> bool:
        """Whether `lower` is `upper` or stands below it."""
        return upper in self.lineages[lower]

    def related(self, one: str, other: str) -> bool:
        """Whether some customer may be a customer of both."""
        return self.covers(one, other) or self.covers(other, one)

    def customers(self, org: str) -> str:
        """The org whose customers, and those below it, `org` reaches: its own; of a partner its parent's."""
        return next(name for name in self.lineages[org] if name not in self.partners)

    def keys(self) -> dict[int, tuple[int, ...]]:
        """The lineages by key32, for a customer's org."""
        return {key32(name): tuple(map(key32, line)) for name, line in self.lineages.items()}


def orgs_of(declared: Sequence[Org]) -> Orgs:
    """The tree of a plan; a plan without orgs has head office alone. Raises PlanError."""
    if not declared:
        return Orgs(DEFAULT_ORG, {DEFAULT_ORG: (DEFAULT_ORG,)}, {DEFAULT_ORG: DEFAULT_TZ}, frozenset())
    by_id = {org.id: org for org in declared}
    seen: set[str] = set()
    for index, org in enumerate(declared):
        if org.id in seen:
            raise PlanError(where_of("orgs", index, org.id, "id"), "is there twice", "keep one of them")
        seen.add(org.id)
        if org.parent is not None and org.parent not in by_id:
            problem = f"{org.parent!r} is no org of the plan"
            raise PlanError(where_of("orgs", index, org.id, "parent"), problem, f"name one of {_some(by_id)}")
        if org.tz is not None:
            _check_zone(org.tz, where_of("orgs", index, org.id, "tz"))
    roots = [org for org in declared if org.parent is None]
    lineages = {org.id: _lineage(index, org, by_id) for index, org in enumerate(declared)}
    if len(roots) != 1:
        names = ", ".join(org.id for org in roots) or "none"
        raise PlanError(
            "orgs", f"has these roots: {names}", "leave `parent` out of one org, head office, only"
        )
    if roots[0].kind == "partner":
        at = where_of("orgs", declared.index(roots[0]), roots[0].id, "kind")
        raise PlanError(at, "the root cannot be a partner", "make it an org")
    zones = {
        name: next((by_id[up].tz for up in line if by_id[up].tz), None) or DEFAULT_TZ
        for name, line in lineages.items()
    }
    partners = frozenset(org.id for org in declared if org.kind == "partner")
    return Orgs(roots[0].id, lineages, zones, partners)


def _lineage(index: int, org: Org, by_id: dict[str, Org]) -> tuple[str, ...]:
    line = [org.id]
    while (parent := by_id[line[-1]].parent) is not None:
        if parent in line:
            way = " -> ".join((*line, parent))
            raise PlanError(where_of("orgs", index, org.id, "parent"), f"is a cycle: {way}", "break it")
        line.append(parent)
    return tuple(line)


def _check_zone(name: str, path: str) -> None:
    try:
        zone(name)
    except ValueError as error:
        raise PlanError(path, str(error), "name one such as Asia/Shanghai") from None


def _some(names: Sequence[str] | dict[str, Org]) -> str:
    shown = list(names)[:8]
    return ", ".join(shown) + (" …" if len(names) > len(shown) else "")
