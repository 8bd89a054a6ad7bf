"""The predicates and rules of a plan over the columns of many customers: counts, booking, evidence.

The same atoms as per request, each evaluated for a stretch of customers at once; only what the asked
audiences depend on is touched, so that memory-mapped columns are read no more than needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.ids import KINDS
from features.views import PROFILE, RECENT, RECENT_WHOLE
from serving.audience_facts import NO_LOOKUPS, Lookups, zone_number
from serving.audience_network import Network
from serving.predicates import (
    ABSENCE_PROVES,
    COMPUTED_FROM,
    OF_CATEGORY,
    OF_ITEM,
    OF_KIND,
    AtLeast,
    Atom,
    Attributed,
    Consented,
    Equal,
    Happened,
    HasTag,
    Holds,
    InList,
    Predicates,
    shift_of,
)

STRETCH: Final = 1 << 15  # customers at once: what is computed stays in the cache
Mask = NDArray[np.bool_]
Truth = tuple[Mask, Mask]  # known to hold, known not to


class Logs(NamedTuple):
    """The RECENT logs of n customers, one after the other; `now` POSIX seconds, one or n."""

    starts: NDArray[np.int64]  # (n + 1,)
    entries: NDArray[np.void]
    known: Mask  # (n,)
    now: float | NDArray[np.float64]
    lookups: Lookups = NO_LOOKUPS


class Columns(NamedTuple):
    """n customers. A field that is not there is unknown; so are lists, unless `memberships` was read.

    `fields`: PROFILE columns by name (`tz` also as key32, u4); `memberships`: ascending rows by the number of
    the audience, one that is not there is empty.
    """

    n: int
    fields: Mapping[str, NDArray[Any]]
    known: NDArray[np.uint64]  # (n,) PROFILE's known bits, as a decision sees them
    memberships: Mapping[int, NDArray[np.integer[Any]]]
    memberships_known: Mask | None = None  # (n,); None: all
    profiling: Mask | None = None  # (n,) personalisation allowed; None: as the field says
    logs: Logs | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """`members` (audiences, n); `not_counted`: live predicates that the audiences use and no log answers."""

    members: Mask
    not_counted: tuple[Happened, ...] = ()


def select(
    predicates: Predicates,
    network: Network,
    roots: NDArray[np.uint32],
    columns: Columns,
    *,
    assume_live: bool = False,
) -> Selected:
    """(len(roots), n) where the network's values are true; see CompiledAudiences.evaluate_columns."""
    size = len(predicates)
    nodes = _below(network, roots, size)
    members = np.zeros((len(roots), columns.n), np.bool_)
    for start in range(0, columns.n, STRETCH):
        stretch = _Stretch(predicates, columns, slice(start, min(start + STRETCH, columns.n)), assume_live)
        values: dict[int, Mask] = {}

        def value(ref: int, stretch: _Stretch = stretch, values: dict[int, Mask] = values) -> Mask:
            return stretch.literal(ref) if ref < 2 * size else values[ref]

        for node in nodes:
            children = network.children[network.child_at[node] : network.child_at[node + 1]].tolist()
            both = np.logical_or if network.either[node] else np.logical_and
            joined = value(children[0]).copy()
            for child in children[1:]:
                both(joined, value(child), out=joined)
            values[2 * size + node] = joined
        for at, root in enumerate(roots.tolist()):
            members[at, stretch.rows] = value(root)
    return Selected(members, _unanswered(predicates, network, nodes, roots, columns))


def columns_of(customers: Sequence[Customer], now: float, lookups: Lookups = NO_LOOKUPS) -> Columns:
    """Decoded customers, all at one moment, as columns."""
    n = len(customers)
    records, known = PROFILE.blank(n), np.zeros(n, np.uint64)
    held: dict[int, list[int]] = {}
    for row, one in enumerate(customers):
        if one.profile is not None:
            records[row], known[row] = one.profile.values, one.profile.known
        for number in one.audiences.tolist() if one.audiences is not None else ():
            held.setdefault(number, []).append(row)
    recents = [np.zeros(0, RECENT) if one.recent is None else one.recent for one in customers]
    return Columns(
        n,
        {name: records[name] for name in PROFILE.names},
        known,
        {number: np.array(rows, np.int64) for number, rows in held.items()},
        np.array([one.audiences is not None for one in customers], np.bool_),
        np.array([one.profiling for one in customers], np.bool_),
        Logs(
            np.cumsum([0, *map(len, recents)]).astype(np.int64),
            np.concatenate([np.zeros(0, RECENT), *recents]),
            np.array([one.recent is not None for one in customers], np.bool_),
            now,
            lookups,
        ),
    )


def _below(network: Network, roots: NDArray[np.uint32], size: int) -> list[int]:
    """The nodes that the roots depend on, children first."""
    needed = np.zeros(len(network.either), np.bool_)
    needed[[root - 2 * size for root in roots.tolist() if root >= 2 * size]] = True
    for node in range(len(network.either) - 1, -1, -1):
        if needed[node]:
            children = network.children[network.child_at[node] : network.child_at[node + 1]]
            needed[children[children >= 2 * size] - 2 * size] = True
    return np.flatnonzero(needed).tolist()


def _unanswered(
    predicates: Predicates, network: Network, nodes: list[int], roots: NDArray[np.uint32], columns: Columns
) -> tuple[Happened, ...]:
    if columns.logs is not None:
        return ()
    at = network.child_at
    used = {root for root in roots.tolist() if root < 2 * len(predicates)}
    for node in nodes:
        used |= set(network.children[at[node] : at[node + 1]].tolist())
    found = (predicates.atoms[ref % len(predicates)] for ref in sorted(used) if ref < 2 * len(predicates))
    return tuple(dict.fromkeys(atom for atom in found if isinstance(atom, Happened)))


class _Stretch:
    """The atoms over some rows; each is evaluated when it is asked for, and remembered."""

    def __init__(self, predicates: Predicates, columns: Columns, rows: slice, assume_live: bool) -> None:
        self.rows, self._predicates, self._columns = rows, predicates, columns
        self._n = rows.stop - rows.start
        self._assume_live = assume_live
        self._truths: dict[int, Truth] = {}
        self._numbers: dict[str, tuple[NDArray[np.float64], Mask]] = {}
        self._sets: dict[str, list[NDArray[Any]]] = {}
        self._log: _Log | None = None

    def literal(self, ref: int) -> Mask:
        contrary, p = divmod(ref, len(self._predicates))
        found = self._truths.get(p)
        if found is None:
            atom = self._predicates.atoms[p]
            found = self._truths[p] = _TESTS[type(atom)](self, atom)
        return found[contrary]

    def number(self, atom: Any) -> Truth:
        x, usable = self._number(atom.column)
        holds = x >= atom.bound if isinstance(atom, AtLeast) else x == atom.value
        return holds & usable, ~holds & usable

    def holds(self, atom: Any) -> Truth:
        return self._contains("holdings", [atom.item])

    def attributed(self, atom: Any) -> Truth:
        has, _ = self._contains("attributes", [atom.token])
        tables, a = self._predicates.tables, self._predicates.atoms.index(atom)
        a -= self._predicates.span(Attributed).start
        siblings = tables.siblings[tables.sibling_at[a] : tables.sibling_at[a + 1]].tolist()
        other, _ = self._contains("attributes", siblings)
        return has, other & ~has

    def tagged(self, atom: Any) -> Truth:
        bit = self._bit("tags", atom.bit)
        on = self._known("tags") & ~self._bit("tags_off", atom.bit)
        return bit & on, ~bit & on

    def consented(self, atom: Any) -> Truth:
        there = self._known("consents")
        if "consents" not in self._columns.fields:
            return there, there
        given = (self._part("consents") >> np.uint16(atom.bit)) & np.uint16(1) != 0
        return given & there, ~given & there

    def listed(self, atom: Any) -> Truth:
        known = self._columns.memberships_known
        usable = np.ones(self._n, np.bool_) if known is None else known[self.rows].copy()
        if atom.audience >= COMPUTED_FROM:
            usable &= self._profiling()
        has = self._members(atom.audience)
        contrary = ~has if atom.contrary == ABSENCE_PROVES else self._members(atom.contrary) & ~has
        return has & usable, contrary & usable

    def happened(self, atom: Any) -> Truth:
        logs = self._columns.logs
        if logs is None:
            answer = np.full(self._n, self._assume_live)
            return answer, answer
        if self._log is None:
            self._log = _Log(logs, self.rows)
        enough, covered = self._log.truth(atom)
        usable = logs.known[self.rows] & self._profiling()
        return enough & usable, ~enough & covered & usable

    def _part(self, field: str) -> NDArray[Any]:
        return self._columns.fields[field][self.rows]

    def _known(self, field: str) -> Mask:
        if field not in self._columns.fields:
            return np.zeros(self._n, np.bool_)
        bit = np.uint64(1 << shift_of(field))
        marked: Mask = (self._columns.known[self.rows] & bit) != 0
        return marked

    def _profiling(self) -> Mask:
        if self._columns.profiling is not None:
            return self._columns.profiling[self.rows]
        if "profiling" not in self._columns.fields:
            return np.ones(self._n, np.bool_)
        allowed: Mask = self._part("profiling") != 0
        return allowed

    def _number(self, column: str) -> tuple[NDArray[np.float64], Mask]:
        found = self._numbers.get(column)
        if found is None:
            found = self._numbers[column] = self._read_number(column)
        return found

    def _read_number(self, column: str) -> tuple[NDArray[np.float64], Mask]:
        field, _, part = column.partition(".")
        there = self._known(field)
        if not there.any():
            return np.zeros(self._n), there
        raw = self._part(field)
        if raw.dtype.kind == "S":  # the time zone
            names, codes = np.unique(raw, return_inverse=True)
            raw = np.array([zone_number(name) for name in names.tolist()])[codes]
        x = (raw[:, KINDS.index(part)] if part else raw).astype(np.float64)
        there &= x == x
        if self._predicates.tables.zero[self._predicates.columns.index(column)]:
            there &= x != 0.0
        return x, there

    def _contains(self, field: str, keys: Sequence[int]) -> Truth:
        """Whether any of the keys is in a field of several values."""
        there = self._known(field)
        has = np.zeros(self._n, np.bool_)
        for column in self._places(field):
            for key in keys:
                has |= column == column.dtype.type(key)
        return has & there, ~has & there

    def _places(self, field: str) -> list[NDArray[Any]]:
        """The first value of everybody, the second …, where anybody has one: each contiguous, read once."""
        found = self._sets.get(field)
        if found is None:
            table = self._part(field) if field in self._columns.fields else np.zeros((self._n, 0), "u4")
            found = [column for column in np.ascontiguousarray(table.T) if column.any()]
            self._sets[field] = found
        return found

    def _bit(self, field: str, bit: int) -> Mask:
        if field not in self._columns.fields:
            return np.zeros(self._n, np.bool_)
        held: Mask = (self._part(field)[:, bit >> 3] >> np.uint8(bit & 7)) & np.uint8(1) != 0
        return held

    def _members(self, audience: int) -> Mask:
        has = np.zeros(self._n, np.bool_)
        rows = self._columns.memberships.get(audience)
        if rows is not None:
            first, last = np.searchsorted(rows, (self.rows.start, self.rows.stop))
            has[rows[first:last] - self.rows.start] = True
        return has


class _Log:
    """The logs of a stretch of customers."""

    def __init__(self, logs: Logs, rows: slice) -> None:
        starts = logs.starts[rows.start : rows.stop + 1]
        counts = np.diff(starts)
        self._n = len(counts)
        self._entries = logs.entries[starts[0] : starts[-1]]
        self._owner = np.repeat(np.arange(self._n), counts)
        self._now = np.broadcast_to(logs.now, logs.known.shape)[rows].astype(np.float64)
        tail = self._entries["what"].astype(np.int64) << 16
        self._code = tail | self._entries["action"]
        self._lookups = logs.lookups
        self._where: NDArray[np.int32] | None = None
        self._complete = counts < RECENT_WHOLE
        self._oldest = self._now.copy()
        np.minimum.at(self._oldest, self._owner, self._entries["at"])

    def truth(self, atom: Happened) -> Truth:
        """Whether enough happened, and whether the log reaches back far enough to say that it did not."""
        since = self._now - atom.within
        counted = (self._code == atom.code) & (self._entries["at"] > since[self._owner]) & self._about(atom)
        enough = np.bincount(self._owner[counted], minlength=self._n) >= atom.least
        return enough, self._complete | (self._oldest <= since)

    def _about(self, atom: Happened) -> Mask:
        if atom.about == OF_ITEM:
            same: Mask = self._entries["item"] == np.uint64(atom.key)
            return same
        if atom.about not in (OF_CATEGORY, OF_KIND) or not len(self._entries):
            return np.ones(len(self._entries), np.bool_)
        if self._where is None:
            self._where = self._lookups.rows(self._entries["item"].copy())
        there, catalogue = self._where >= 0, self._lookups.catalogue
        about = np.zeros(len(self._entries), np.bool_)
        at = self._where[there]
        if atom.about == OF_KIND:
            about[there] = catalogue.kinds[at] == atom.key
        else:
            about[there] = (catalogue.categories[at] == atom.key) | (catalogue.tops[at] == atom.key)
        return about


_TESTS: Final[Mapping[type[Atom], Callable[[_Stretch, Any], Truth]]] = {
    AtLeast: _Stretch.number,
    Equal: _Stretch.number,
    Holds: _Stretch.holds,
    Attributed: _Stretch.attributed,
    HasTag: _Stretch.tagged,
    Consented: _Stretch.consented,
    InList: _Stretch.listed,
    Happened: _Stretch.happened,
}
