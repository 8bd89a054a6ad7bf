"""The lake's events -> what models are trained on: users, items and interactions as columns, in order of
time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.events import WHAT, action_code
from features.ids import Vocabulary, user_subject
from features.tags import TagDictionary
from features.transforms import EventWeights, tokens_many
from features.views import PROFILE
from serving.catalogue import REPEATS, CompiledItems
from training.cells import pc
from training.interactions import Grouped as Grouped
from training.interactions import Interactions as Interactions
from training.interactions import Truth as Truth
from training.interactions import by_user as by_user
from training.interactions import distinct
from training.interactions import truth as truth
from training.lake import Lake
from training.profiles import Profiles, holdings_of, profile_records
from training.source import MARKS, DataError
from training.split import Split as Split
from training.split import split as split

_COLUMNS: Final = ("type", "subject", "user_id", "visitor_id", "item_key", "action", "at", "weight", "source")
_PURCHASES: Final = ("purchase", "purchased")  # kinds of outcome
_BEHAVIOUR: Final = ("clicked", "dismissed", "converted", "acted")


@dataclass(frozen=True)
class Dataset:
    """Everything known up to `now`.

    User u is `subjects[u]`: "u:42", or "v:…" for a visitor whom nobody has linked to a user. `profiles` are
    today's (an import has no history of them); their `holdings` follow from the purchases unless the
    customers' table brings them.
    """

    subjects: tuple[str, ...]
    items: Vocabulary
    compiled: CompiledItems
    interactions: Interactions
    profiles: Profiles
    weights: EventWeights
    now: float
    dropped: dict[str, int] = field(default_factory=dict)  # events by reason

    @cached_property
    def users(self) -> tuple[str, ...]:
        """The users' (or visitors') ids, without the prefix."""
        return tuple(subject[2:] for subject in self.subjects)

    @property
    def n_users(self) -> int:
        return len(self.subjects)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def kinds(self) -> NDArray[np.uint8]:
        """(n_items,) kind code of each item."""
        return np.asarray(self.compiled.table["kind"], np.uint8)

    @property
    def repeat(self) -> NDArray[np.uint8]:
        """(n_items,) 0 always, 1 after maturity, 2 never: what is held of the last is not recommended
        again.
        """
        return np.asarray(self.compiled.table["repeat"], np.uint8)

    @cached_property
    def tokens(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """(indptr, tokens) of the users' profiles, as features.transforms.tokens_many gives them."""
        return tokens_many(self.profiles.records, self.profiles.known)

    @property
    def segments(self) -> NDArray[np.uint16]:
        """(n_users,) segment, 0 unknown."""
        return np.asarray(self.profiles.records["segment"], np.uint16)

    @property
    def cities(self) -> NDArray[np.uint32]:
        """(n_users,) key32 of the city, 0 unknown."""
        return np.asarray(self.profiles.records["city"], np.uint32)

    def held(self, interactions: Interactions) -> Truth:
        """Items of `repeat: never` that each user took in these interactions: they are not to be ranked
        again.
        """
        chosen = interactions.take(interactions.taken)
        never = self.repeat[chosen.item] == REPEATS.index("never")
        return distinct(chosen.user[never], chosen.item[never], self.n_users, self.n_items)


def build_dataset(
    lake: Lake,
    items: CompiledItems,
    *,
    now: float,
    weights: EventWeights,
    window: float | None = None,
    tags: TagDictionary | None = None,
) -> Dataset:
    """Read behaviour from the lake: clicks, dismissals, conversions and acts on items of the catalogue,
    until `now`.

    `window`: learn from the last so many seconds only; holdings follow from all purchases. Raises DataError
    when there is nothing to learn from; what is left out is counted in `Dataset.dropped`.
    """
    table: Any = lake.events(until=float(np.nextafter(now, np.inf)), columns=_COLUMNS)
    behaviour = table.filter(pc.is_in(table["type"].cast(pa.string()), pa.array(_BEHAVIOUR)))
    dropped = {"displays and links (not behaviour)": table.num_rows - behaviour.num_rows}
    vocabulary = Vocabulary(items.ids)
    item_key = behaviour["item_key"].fill_null(0).to_numpy()
    row = vocabulary.rows_of_keys(item_key)
    known = row >= 0
    dropped["behaviour without an item"] = int((item_key == 0).sum())
    dropped["items that the catalogue does not have"] = int((~known & (item_key != 0)).sum())
    subjects, user = _subjects(behaviour["subject"].combine_chunks().filter(pa.array(known)), _links(table))
    every = _interactions(behaviour.filter(pa.array(known)), user, row[known], weights)
    profiles = _profiles(lake, subjects, every, vocabulary, items, now=now, tags=tags)
    recent = every.at >= (-np.inf if window is None else now - window)
    dropped["behaviour before the window"] = int((~recent).sum())
    chosen, place = np.unique(every.user[recent], return_inverse=True)
    interactions = replace(every.take(recent), user=place.astype(np.int32))
    _check(interactions)
    return Dataset(
        subjects=tuple(subjects[row] for row in chosen.tolist()),
        items=vocabulary,
        compiled=items,
        interactions=interactions,
        profiles=Profiles(profiles.records[chosen], profiles.known[chosen]),
        weights=weights,
        now=now,
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _profiles(
    lake: Lake,
    subjects: tuple[str, ...],
    events: Interactions,
    vocabulary: Vocabulary,
    items: CompiledItems,
    *,
    now: float,
    tags: TagDictionary | None,
) -> Profiles:
    """Profiles of the users, blank for visitors. Unless the customers' table says what they hold, it
    follows from all their purchases, however old, in the app and by the bank's own outcomes; who took more
    than a record holds is unknown.
    """
    table = lake.read_users()
    users = [subject[2:] if subject.startswith("u:") else "" for subject in subjects]
    profiles = profile_records(table, users, tags=tags)
    if table is not None and "holdings" in table.column_names:
        return profiles
    told = _outcomes(lake, subjects, vocabulary, now)
    kept = events.take(events.taken)
    user = np.concatenate((kept.user, told[0]))
    item, at = np.concatenate((kept.item, told[1])), np.concatenate((kept.at, told[2]))
    once = items.table["repeat"][item] != REPEATS.index("always")
    found, whole = holdings_of(user[once], items.table["key"][item[once]], at[once], len(users))
    whole &= np.array([bool(user) for user in users], np.bool_)
    profiles.records["holdings"][whole] = found[whole]
    profiles.known[whole] |= np.uint64(PROFILE.bit("holdings"))
    return profiles


def _outcomes(
    lake: Lake, subjects: tuple[str, ...], vocabulary: Vocabulary, now: float
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """User rows, item rows and times of purchases that the bank's own systems report."""
    table: Any = lake.outcomes(until=float(np.nextafter(now, np.inf)))
    table = table.filter(pc.is_in(table["kind"], pa.array(_PURCHASES)))
    place = {subject: row for row, subject in enumerate(subjects)}
    names = (user_subject(user) for user in table["user_id"].to_pylist())
    user = np.fromiter((place.get(name, -1) for name in names), np.int32, table.num_rows)
    item = vocabulary.rows_of_keys(table["item_key"].fill_null(0).to_numpy())
    known = (user >= 0) & (item >= 0)
    return user[known], item[known], table["occurred_at"].to_numpy()[known]


def _check(interactions: Interactions) -> None:
    if not len(interactions):
        problem = "no event is about an item of the catalogue, in the window of time that is asked for"
        raise DataError("the lake", None, None, problem, "Import events first, or widen the window")
    positive = interactions.positive
    if not positive.any():
        remedy = "Check the event weights of the configuration"
        raise DataError("the lake", None, None, "no event says that somebody likes an item", remedy)
    if len(np.unique(interactions.user[positive])) < 2:
        remedy = "Training compares customers with one another: import the events of more of them"
        raise DataError("the lake", None, None, "all positive events are of one user", remedy)


def _links(table: Any) -> dict[str, str]:
    """Visitor subject -> user subject; the last link wins."""
    links = table.filter(pc.equal(table["type"].cast(pa.string()), "linked"))
    links = links.take(pc.sort_indices(links["at"]))
    pairs = zip(links["visitor_id"].to_pylist(), links["user_id"].to_pylist(), strict=True)
    return {f"v:{visitor}": user_subject(user) for visitor, user in pairs if visitor and user}


def _subjects(column: Any, links: dict[str, str]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Distinct customers in sorted order, and each event's row among them; a linked visitor is the user."""
    coded = column.dictionary_encode()
    names = [links.get(name, name) for name in coded.dictionary.to_pylist()]
    ordered = sorted(set(names))
    place = {name: row for row, name in enumerate(ordered)}
    table = np.array([place[name] for name in names], np.int32)
    return tuple(ordered), table[np.asarray(coded.indices)] if len(names) else np.zeros(0, np.int32)


def _interactions(
    table: Any, user: NDArray[np.int32], item: NDArray[np.int32], weights: EventWeights
) -> Interactions:
    what = _translated(table["type"], lambda name: WHAT.get(name, 0)).astype(np.uint8)
    action = _translated(table["action"], lambda name: action_code(name) if name else 0).astype(np.uint16)
    own = table["weight"].fill_null(1.0).to_numpy()
    mark = _translated(table["source"], _mark).astype(np.uint8)
    at = table["at"].to_numpy()
    weight = (weights.of(what, action) * own).astype(np.float32)
    every = Interactions(user, item, what, action, at, weight, mark)
    return every if bool((at[1:] >= at[:-1]).all()) else every.take(np.argsort(at, kind="stable"))


def _translated(column: Any, code: Callable[[Any], int]) -> NDArray[np.int64]:
    """Codes of a text column of few distinct values."""
    whole = column.combine_chunks()
    coded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    values = [code(value) for value in coded.dictionary.to_pylist()]
    table = np.array([*values, code(None) if coded.null_count else 0], np.int64)
    codes = coded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return np.asarray(table[codes], np.int64)


def _mark(source: str | None) -> int:
    mark = (source or "").rpartition(":")[2] if ":" in (source or "") else ""
    return MARKS.index(mark) if mark in MARKS else 0
