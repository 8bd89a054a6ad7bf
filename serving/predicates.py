"""What audience rules test, each distinct test once, laid out by type so that all of a type run together.

An atom is true, false or unknown about a customer; `Predicates` holds the atoms of a whole plan.
A predicate p has two literals, p itself ("known to hold") and P + p ("known not to hold"): neither is true
while it is unknown.

Numbers of audiences (u16) tell who writes them: below LISTS_FROM the bank's customer table, below
COMPUTED_FROM uploaded lists, from there on what was computed (look-alikes, scores, batch audiences). The last
are profiling: unknown for who refuses personalisation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import WHAT
from features.views import PROFILE

LISTS_FROM: Final = 32_768
COMPUTED_FROM: Final = 49_152

ANY_ITEM, OF_ITEM, OF_CATEGORY, OF_KIND = range(4)
NOTHING_PROVES: Final = -1
ABSENCE_PROVES: Final = 0
_ZERO_IS_UNKNOWN: Final = ("org", "city", "tz", "risk_level", "last_active")  # as features.views says of them


# Dataclasses, not named tuples: atoms of two types are two predicates, whatever their fields.
@dataclass(frozen=True, order=True, slots=True)
class AtLeast:
    """A numeric column >= a bound."""

    column: str
    bound: float


@dataclass(frozen=True, order=True, slots=True)
class Equal:
    """A numeric column == a value; key columns hold key32, which f8 holds exactly."""

    column: str
    value: float


@dataclass(frozen=True, order=True, slots=True)
class Holds:
    """An item (key64) is among the holdings."""

    item: int


@dataclass(frozen=True, order=True, slots=True)
class Attributed:
    """A name=value token among the attributes; false where another token of the name is."""

    name: str
    token: int


@dataclass(frozen=True, order=True, slots=True)
class HasTag:
    bit: int


@dataclass(frozen=True, order=True, slots=True)
class Consented:
    bit: int


@dataclass(frozen=True, order=True, slots=True)
class InList:
    """In an audience by number (0: of none yet). What proves the contrary: not being in it (ABSENCE_PROVES),
    being in another, or nothing."""

    audience: int
    contrary: int = ABSENCE_PROVES


@dataclass(frozen=True, order=True, slots=True)
class Happened:
    """At least `least` events of a code within so many seconds. `code`: what << 16 | action."""

    code: int
    within: float
    least: int
    about: int = ANY_ITEM
    key: int = 0  # of the item (64 bits), the category (32), or the code of the kind


Atom = AtLeast | Equal | Holds | Attributed | HasTag | Consented | InList | Happened
ORDER: Final = (AtLeast, Equal, Holds, Attributed, HasTag, Consented, InList, Happened)


class Tables(NamedTuple):
    """The P atoms of a plan in ORDER of their types, as columns; predicate p is the p-th atom."""

    shift: NDArray[np.int64]  # of the known-bit of each numeric column
    zero: NDArray[np.uint8]  # 1: a zero in this column means unknown
    starts: NDArray[np.int64]  # (9,) where each type begins; the last is P
    column: NDArray[np.int64]  # of the AtLeast atoms, then of the Equal ones
    bound: NDArray[np.float64]  # theirs
    holdings: NDArray[np.uint64]
    tokens: NDArray[np.uint32]
    sibling_at: NDArray[np.int64]  # per attribute atom: where the other tokens of its name begin and end
    siblings: NDArray[np.uint32]
    bits: NDArray[np.int64]  # of the tags, then of the consents
    audiences: NDArray[np.int64]
    contrary: NDArray[np.int64]
    codes: NDArray[np.int64]  # distinct event codes, ascending
    code_at: NDArray[np.int64]  # where the atoms of each code begin, among the live ones
    within: NDArray[np.float64]
    least: NDArray[np.int64]
    about: NDArray[np.uint8]
    key: NDArray[np.uint64]
    sets: NDArray[np.int64]  # known-bit shifts of holdings, attributes, tags, consents


@dataclass(frozen=True, slots=True, eq=False)
class Predicates:
    """The distinct atoms; `columns`: the numeric columns that some of them compare."""

    atoms: tuple[Atom, ...]
    columns: tuple[str, ...]
    tables: Tables

    def __len__(self) -> int:
        return len(self.atoms)

    def span(self, kind: type[Atom]) -> range:
        """Where the atoms of a type lie."""
        at = ORDER.index(kind)
        return range(int(self.tables.starts[at]), int(self.tables.starts[at + 1]))


def arranged(atoms: Collection[Atom], values: Mapping[str, Collection[int]]) -> Predicates:
    """The columns of distinct atoms. `values`: attribute name -> all tokens of that name."""
    ordered = sorted(atoms, key=lambda atom: (ORDER.index(type(atom)), atom))
    at_least = [atom for atom in ordered if isinstance(atom, AtLeast)]
    equal = [atom for atom in ordered if isinstance(atom, Equal)]
    attributed = [atom for atom in ordered if isinstance(atom, Attributed)]
    in_list = [atom for atom in ordered if isinstance(atom, InList)]
    live = [atom for atom in ordered if isinstance(atom, Happened)]
    # Columns of one type lie together, so that a customer's are read one type at a time.
    named = [atom.column for atom in at_least] + [atom.column for atom in equal]
    columns = tuple(sorted(set(named), key=_by_type))
    place = {name: i for i, name in enumerate(columns)}
    siblings = [sorted(set(values.get(a.name, ())) - {a.token}) for a in attributed]
    codes, code_at = np.unique(np.array([atom.code for atom in live], np.int64), return_index=True)
    sizes = [sum(type(atom) is kind for atom in ordered) for kind in ORDER]
    tables = Tables(
        shift=np.array([shift_of(name.partition(".")[0]) for name in columns], np.int64),
        zero=np.array([name in _ZERO_IS_UNKNOWN for name in columns], np.uint8),
        starts=np.cumsum([0, *sizes]).astype(np.int64),
        column=np.array([place[name] for name in named], np.int64),
        bound=np.array([a.bound for a in at_least] + [a.value for a in equal], np.float64),
        holdings=np.array([atom.item for atom in ordered if isinstance(atom, Holds)], np.uint64),
        tokens=np.array([atom.token for atom in attributed], np.uint32),
        sibling_at=np.cumsum([0, *map(len, siblings)]).astype(np.int64),
        siblings=np.array([one for some in siblings for one in some], np.uint32),
        bits=np.array([atom.bit for atom in ordered if isinstance(atom, HasTag | Consented)], np.int64),
        audiences=np.array([atom.audience for atom in in_list], np.int64),
        contrary=np.array([atom.contrary for atom in in_list], np.int64),
        codes=codes.astype(np.int64),
        code_at=np.append(code_at, len(live)).astype(np.int64),
        within=np.array([atom.within for atom in live], np.float64),
        least=np.array([atom.least for atom in live], np.int64),
        about=np.array([atom.about for atom in live], np.uint8),
        key=np.array([atom.key for atom in live], np.uint64),
        sets=np.array([shift_of(name) for name in ("holdings", "attributes", "tags", "consents")], np.int64),
    )
    return Predicates(tuple(ordered), columns, tables)


def event_code(what: str, action: int) -> int:
    """The code of an event of the live log: `what` of WHAT, `action` its code when it is `acted`, else 0."""
    return WHAT[what] << 16 | action


def shift_of(field: str) -> int:
    """The number of a PROFILE field's known-bit."""
    return PROFILE.bit(field).bit_length() - 1


def _by_type(column: str) -> tuple[int, str, str]:
    kind = PROFILE.field(column.partition(".")[0]).packed
    return -kind.itemsize, kind.str, column
