"""The lake's events -> what models are trained on: users, items and interactions as columns, in order of
time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

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
from training.profiles import Profiles, as_served, holdings_of, profile_records, tag_age
from training.results import Conversions, OutcomeRules, conversions, reported, without_repeated
from training.source import MARKS, DataError, Mask
from training.split import Split as Split
from training.split import split as split

_COLUMNS: Final = (
    "type", "subject", "user_id", "visitor_id", "item_key", "action", "at", "weight", "source", "channel",
)  # fmt: skip
_BEHAVIOUR: Final = ("clicked", "dismissed", "converted", "acted")


class Others(NamedTuple):
    """Behaviour without an item of the catalogue (a login, a transfer): rows of users, POSIX seconds,
    ascending. Nothing is learnt from it, but it has its place among the last entries of a live log.
    """

    user: NDArray[np.int32]
    at: NDArray[np.float64]


NO_OTHERS: Final = Others(np.zeros(0, np.int32), np.zeros(0, np.float64))


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
    others: Others = NO_OTHERS

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
        return tokens_many(*self.served)

    @cached_property
    def served(self) -> Profiles:
        """The profiles as a decision sees them."""
        return as_served(self.profiles)

    @property
    def refused(self) -> Mask:
        """(n_users,) who refused profiling: nobody is judged by pages that are not made for them."""
        return np.asarray(self.profiles.records["profiling"] == 0)

    @property
    def segments(self) -> NDArray[np.uint16]:
        """(n_users,) segment, 0 unknown."""
        known = (self.served.known & np.uint64(PROFILE.bit("segment"))) != 0
        return np.where(known, self.served.records["segment"], 0).astype(np.uint16)

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
    outcomes: OutcomeRules | None = None,
) -> Dataset:
    """Read behaviour from the lake: clicks, dismissals, conversions and acts on items of the catalogue,
    until `now`, and what the bank's own systems report, by `outcomes` (None: the default rules).

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
    rules = outcomes or OutcomeRules()
    told, links = reported(lake, rules, now), _links(table)
    found = conversions(told, table, links, vocabulary, items, rules)
    dropped |= found.dropped
    known_rows = behaviour.filter(pa.array(known))
    names = pa.chunked_array([*known_rows["subject"].chunks, pa.array(found.subjects, pa.string())])
    subjects, user = _subjects(names.combine_chunks(), links)
    n = known_rows.num_rows
    every = _interactions(known_rows, user[:n], row[known], weights)
    fresh = without_repeated(found, user[n:], every, len(vocabulary))
    dropped["outcomes that the app reported as well"] = int((~fresh).sum())
    every = Interactions.joined([every, _converted(found, user[n:], weights).take(fresh)])
    profiles = _profiles(lake, told, subjects, every, vocabulary, items, tags=tags, now=now)
    recent = every.at >= (-np.inf if window is None else now - window)
    dropped["behaviour before the window"] = int((~recent).sum())
    chosen, place = np.unique(every.user[recent], return_inverse=True)
    interactions = replace(every.take(recent), user=place.astype(np.int32))
    _check(interactions)
    names_kept = tuple(subjects[row] for row in chosen.tolist())
    return Dataset(
        subjects=names_kept,
        items=vocabulary,
        compiled=items,
        interactions=interactions,
        profiles=Profiles(profiles.records[chosen], profiles.known[chosen]),
        weights=weights,
        now=now,
        dropped={reason: count for reason, count in dropped.items() if count},
        others=_others(behaviour.filter(pa.array(~known)), names_kept, links),
    )


def _others(table: Any, subjects: tuple[str, ...], links: dict[str, str]) -> Others:
    """What users of the dataset did without an item of the catalogue."""
    place = {subject: row for row, subject in enumerate(subjects)}
    coded = table["subject"].combine_chunks().dictionary_encode()
    rows = [place.get(links.get(name, name), -1) for name in coded.dictionary.to_pylist()]
    user = np.array(rows, np.int32)[np.asarray(coded.indices)] if rows else np.zeros(0, np.int32)
    at = table["at"].to_numpy()
    order = np.argsort(at[user >= 0], kind="stable")
    return Others(user[user >= 0][order], at[user >= 0][order])


def _converted(found: Conversions, user: NDArray[np.int32], weights: EventWeights) -> Interactions:
    """Outcomes as interactions of their own type, which weigh what a conversion does."""
    n = len(user)
    return Interactions(
        user,
        found.item,
        np.full(n, WHAT["outcome"], np.uint8),
        found.action,
        found.at,
        (weights.converted * found.share).astype(np.float32),
        np.zeros(n, np.uint8),
    )


def _profiles(
    lake: Lake,
    told: Any,
    subjects: tuple[str, ...],
    events: Interactions,
    vocabulary: Vocabulary,
    items: CompiledItems,
    *,
    tags: TagDictionary | None,
    now: float,
) -> Profiles:
    """Profiles of the users, blank for visitors. Unless the customers' table says what they hold, it
    follows from all their purchases, however old, in the app and by the bank's own outcomes (`told`); who
    took more than a record holds is unknown.
    """
    table = lake.read_users()
    users = [subject[2:] if subject.startswith("u:") else "" for subject in subjects]
    age = tag_age(lake.users_written_at(), now)
    profiles = profile_records(table, users, tags=tags, tag_age=age)
    if table is not None and "holdings" in table.column_names:
        return profiles
    kept = events.take(events.taken)
    bank = _holders(told, subjects, vocabulary)
    user = np.concatenate((kept.user, bank[0]))
    item, at = np.concatenate((kept.item, bank[1])), np.concatenate((kept.at, bank[2]))
    once = items.table["repeat"][item] != REPEATS.index("always")
    found, whole = holdings_of(user[once], items.table["key"][item[once]], at[once], len(users))
    whole &= np.array([bool(user) for user in users], np.bool_)
    profiles.records["holdings"][whole] = found[whole]
    profiles.known[whole] |= np.uint64(PROFILE.bit("holdings"))
    return profiles


def _holders(
    table: Any, subjects: tuple[str, ...], vocabulary: Vocabulary
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """User rows, item rows and times of the purchases that the bank's own systems report."""
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
