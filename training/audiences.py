"""Audiences over the whole base: counts with breakdown and a masked sample, and what is evaluated offline.

Counting runs the predicates that serve, over memory-mapped columns (training.base_columns). Live
behaviour lies in the live store, not in the columns: an audience that asks for it is counted without, which
is an upper bound, and the result names what was not counted.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.events import ACTIONS, WHAT, action_code
from features.ids import KINDS, key32
from features.tags import TagDictionary
from features.transforms import DAY
from features.views import PROFILE
from serving.audience import NO_TAGS, CompiledAudiences, Rule, compile_audiences
from serving.audience_network import score_list
from serving.predicates import OF_CATEGORY, OF_ITEM, OF_KIND, Happened
from training.base_columns import Base
from training.lists import Lists, Upload

BREAKDOWN: Final = ("org", "risk_level", "segment", "age_band", "star_level", "city_tier", "lifecycle")
MOST_LABELS: Final = 12
_WHAT: Final = {code: name for name, code in WHAT.items()}
_ACTION: Final = {action_code(name): name for name in ACTIONS}
Mask = NDArray[np.bool_]


class AudienceCountError(ValueError):
    """What was asked for cannot be counted; says why."""


@dataclass(frozen=True, slots=True)
class Share:
    """One value of a field: how many of the audience, and of those it is counted among, have it."""

    label: str
    members: int
    among: int


@dataclass(frozen=True, slots=True)
class Count:
    """`among`: customers of the org asked for, or all; `seconds` of evaluation, without mapping the base."""

    name: str
    members: int
    among: int
    as_of: float
    not_counted: tuple[str, ...]
    seconds: float
    breakdown: Mapping[str, tuple[Share, ...]] = field(default_factory=dict)
    sample: tuple[str, ...] = ()

    @property
    def upper_bound(self) -> bool:
        """Some of the rule was taken for satisfied."""
        return bool(self.not_counted)


def compiled_for(
    base: Base,
    rules: Mapping[str, Rule],
    lists: Mapping[str, int],
    *,
    tags: TagDictionary = NO_TAGS,
    actions: Collection[str] = ACTIONS,
    strict: bool = True,
) -> CompiledAudiences:
    """The rules over a base, whose attribute values they know. Raises AudienceError."""
    return compile_audiences(
        rules, lists=lists, tags=tags, attributes=base.attributes, actions=actions, strict=strict
    )


def count(
    base: Base,
    audiences: CompiledAudiences,
    name: str,
    *,
    orgs: Mapping[str, str | None] | None = None,
    org: str | None = None,
    breakdown: Sequence[str] = BREAKDOWN,
    sample: int = 5,
    seed: int = 0,
) -> Count:
    """Count an audience of the base; with `org`, only among customers of it and of the orgs below it.

    `orgs`: parent by org, as the plan says. Raises AudienceCountError for an unknown audience or org.
    """
    if name not in audiences.index:
        known = ", ".join(audiences.names) or "none"
        raise AudienceCountError(f"the plan has no audience {name!r}; it has: {known}")
    started = time.perf_counter()
    selected = audiences.evaluate_columns([name], base.columns, assume_live=True)
    inside, scope = selected.members[0], _scope(base, orgs or {}, org)
    if scope is not None:
        inside = inside & scope
    members = int(np.count_nonzero(inside))
    seconds = time.perf_counter() - started
    names = {key32(one): one for one in orgs or {}}
    return Count(
        name,
        members,
        base.n if scope is None else int(np.count_nonzero(scope)),
        base.as_of,
        tuple(told(atom) for atom in selected.not_counted),
        seconds,
        {one: _shares(base, one, inside, scope, names) for one in breakdown},
        _sample(base, inside, members, sample, seed),
    )


def below(orgs: Mapping[str, str | None], org: str) -> list[str]:
    """An org and every org below it. Raises AudienceCountError for an unknown one."""
    if org not in orgs:
        known = ", ".join(orgs) or "none"
        raise AudienceCountError(f"the plan has no org {org!r}; it has: {known}")
    found = [org]
    for one in found:
        found += [child for child, parent in orgs.items() if parent == one and child not in found]
    return found


def masked(user_id: str) -> str:
    """A user id that tells whoever knows the customer, and nobody else: `u1****89`."""
    return f"{user_id[:2]}****{user_id[-2:]}" if len(user_id) >= 8 else f"{user_id[:1]}****"


def told(atom: Happened) -> str:
    """A live predicate in words."""
    what, action = atom.code >> 16, atom.code & 0xFFFF
    name = _ACTION.get(action, f"action {action}") if what == WHAT["acted"] else _WHAT[what]
    about = {OF_ITEM: "an item", OF_CATEGORY: "a category"}.get(atom.about, "")
    about = KINDS[atom.key] if atom.about == OF_KIND else about
    return " ".join(part for part in (name, about, f"{atom.least}x in {atom.within / DAY:g} d") if part)


def write_scores(
    base: Base, wanted: Iterable[tuple[str, float, bool]], lists: Lists, *, owner: str, at: float
) -> list[Upload]:
    """Evaluate imported scores into lists: (score, threshold, whether its contrary is asked for as well).

    `wanted` is `CompiledAudiences.scores` of a plan compiled with `strict=False`. Raises AudienceCountError
    for a score that the customers' table does not have.
    """
    needed: dict[tuple[str, float], bool] = {}
    for score, threshold, contrary in wanted:
        needed[score, threshold] = needed.get((score, threshold), False) or contrary
    done = []
    for (score, threshold), contrary in needed.items():
        if score not in base.scores:
            known = ", ".join(base.scores) or "none"
            raise AudienceCountError(f"the customers' table has no score {score!r}; it has: {known}")
        values = np.asarray(base.scores[score], np.float64)
        done.append(_write(base, values >= threshold, lists, score_list(score, threshold), owner, at))
        if contrary:
            name = score_list(score, threshold, below=True)
            done.append(_write(base, values < threshold, lists, name, owner, at))
    return done


def write_batch(
    base: Base, audiences: CompiledAudiences, name: str, lists: Lists, *, owner: str, at: float
) -> Upload:
    """Evaluate an audience offline into the list of its name. Raises AudienceCountError for a live one."""
    selected = audiences.evaluate_columns([name], base.columns)
    if selected.not_counted:
        asked = "; ".join(map(told, selected.not_counted))
        raise AudienceCountError(f"audience {name} asks for live behaviour ({asked}): name it as it is")
    ids = np.asarray(base.ids)[selected.members[0]]
    return lists.write(name, ids, kind="batch", owner=owner, at=at)


def _write(base: Base, inside: Mask, lists: Lists, name: str, owner: str, at: float) -> Upload:
    return lists.write(name, np.asarray(base.ids)[inside], kind="score", owner=owner, at=at)


def _scope(base: Base, orgs: Mapping[str, str | None], org: str | None) -> Mask | None:
    if org is None:
        return None
    keys = np.array([key32(one) for one in below(orgs, org)], np.uint32)
    scope: Mask = np.isin(base.fields["org"], keys) & _knows(base, "org")
    return scope


def _knows(base: Base, name: str) -> Mask:
    known: Mask = (np.asarray(base.known) & np.uint64(PROFILE.bit(name))) != 0
    return known


def _shares(
    base: Base, name: str, inside: Mask, scope: Mask | None, orgs: Mapping[int, str]
) -> tuple[Share, ...]:
    """The most frequent values in the audience, then the rest together, then unknown."""
    known = _knows(base, name)
    column = np.asarray(base.fields[name])
    everybody = known if scope is None else known & scope
    values, among = np.unique(column[everybody], return_counts=True)
    found, counts = np.unique(column[inside & known], return_counts=True)
    members = np.zeros(len(values), np.int64)
    members[np.searchsorted(values, found)] = counts
    order = np.lexsort((values, -members))
    kept, rest = order[:MOST_LABELS], order[MOST_LABELS:]
    rows = [Share(_label(name, int(values[i]), orgs), int(members[i]), int(among[i])) for i in kept.tolist()]
    if len(rest):
        rows.append(Share(f"{len(rest)} others", int(members[rest].sum()), int(among[rest].sum())))
    total = len(inside) if scope is None else int(np.count_nonzero(scope))
    if unknown := total - int(among.sum()):
        rows.append(Share("unknown", int(np.count_nonzero(inside)) - int(members.sum()), unknown))
    return tuple(rows)


def _label(name: str, value: int, orgs: Mapping[int, str]) -> str:
    return orgs.get(value, f"{value:08x}") if name == "org" else str(value)


def _sample(base: Base, inside: Mask, members: int, sample: int, seed: int) -> tuple[str, ...]:
    rows = np.flatnonzero(inside)
    if len(rows) > sample:
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    texts: list[Any] = base.ids[rows].tolist() if members and sample else []
    return tuple(masked(one.decode()) for one in texts)
