"""The customers' table -> PROFILE and MEMBERSHIP records.

A column named like a PROFILE field fills that field; any other categorical column becomes attributes
(`name=value`). A cell that is empty, or that cannot be read, leaves its field unknown: permission then
denies. A cell that cannot be read is reported as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.customer import UNDER_CONSENT
from features.ids import check_id, key32, key64
from features.tags import TagDictionary
from features.views import (
    AGGREGATED_FIELDS,
    ATTRIBUTES_KEPT,
    AUDIENCES_KEPT,
    BLOCKED,
    CONSENTS,
    HOLDINGS_KEPT,
    MEMBERSHIP,
    OFFERS,
    PROFILE,
    withheld,
)
from training.cells import MISSING, numeric, pc, text_of

USER_ID: Final = "user_id"
DAY_S: Final = 86_400.0
MOST_VALUES: Final = 1000  # a column with more distinct values than this says who someone is, not what kind
FEW: Final = 20  # values are few, in whatever small table
ALIKE: Final = 2  # and so does one whose values are shared by fewer customers than this, on average
AGE_EDGES: Final = (18, 25, 35, 45, 55, 65)  # band 1 is below 18, band 7 is 65 and above; 0 unknown
_NONE: Final = frozenset({"none", "-", "[]"})  # a list that is known to be empty
_YES: Final = frozenset({"1", "true", "yes", "y", "t", "是"})
_NO: Final = frozenset({"0", "false", "no", "n", "f", "否"})
_GENDERS: Final = {
    "f": 1,
    "female": 1,
    "女": 1,
    "1": 1,
    "m": 2,
    "male": 2,
    "男": 2,
    "2": 2,
    "other": 3,
    "3": 3,
    "0": 0,
}
_RANGES: Final = {  # field -> lowest and highest
    "risk_level": (0, 5),
    "age": (0, 150),
    "age_band": (0, 255),
    "star_level": (0, 255),
    "lifecycle": (0, 255),
    "city_tier": (0, 255),
    "segment": (0, 65_535),
    "assets": (0, 1e13),
    "income": (0, 1e10),
    "tenure_days": (0, 60_000),
}
_WHOLE: Final = frozenset(_RANGES) - {"assets", "income", "tenure_days"}


class CellProblem(NamedTuple):
    """Cells of one column that could not be read; `rows` are positions in the table."""

    column: str
    reason: str
    remedy: str
    rows: NDArray[np.int64]


class Profiles(NamedTuple):
    """One record a customer, in the order of the ids asked for; `known` has the PROFILE bits."""

    records: NDArray[np.void]
    known: NDArray[np.uint64]


Cells = tuple[NDArray[Any], NDArray[np.bool_]]  # values, and which rows have one
Reader = Callable[["_Columns", str], Cells]


def profile_records(
    users: pa.Table | None,
    ids: Sequence[str],
    *,
    tags: TagDictionary | None = None,
    tag_age: float = 0.0,
    problems: list[CellProblem] | None = None,
) -> Profiles:
    """PROFILE records of `ids`; customers that are not in the table are blank, with nothing known.

    `tag_age`: days since the table was written; tags that are too old by it are left out. Every unreadable
    cell is added to `problems`.
    """
    found: list[CellProblem] = [] if problems is None else problems
    if users is None or not users.num_rows:
        return Profiles(PROFILE.blank(len(ids)), np.zeros(len(ids), np.uint64))
    all_records, all_known = _whole_table(users, tags, tag_age, found)
    at = rows_of(users, ids)
    records, known = PROFILE.blank(len(ids)), np.zeros(len(ids), np.uint64)
    have = at >= 0
    records[have], known[have] = all_records[at[have]], all_known[at[have]]
    return Profiles(records, known)


def as_served(profiles: Profiles) -> Profiles:
    """What a decision sees of the profiles, as `features.customer.decode_customer` leaves them: no tag that
    was switched off, nothing of the purpose profiling of who refused it, no field without its own consent.
    """
    records, known = profiles.records.copy(), profiles.known.copy()
    records["tags"] &= ~records["tags_off"]
    known[records["profiling"] == 0] &= ~np.uint64(PROFILE.purpose_mask("profiling"))
    given = np.where(known & np.uint64(PROFILE.bit("consents")), records["consents"], 0)
    for bit, mask in UNDER_CONSENT:
        known[(given & bit) == 0] &= ~np.uint64(mask)
    return Profiles(records, known)


def rows_of(users: pa.Table, ids: Sequence[str]) -> NDArray[np.int64]:
    """The table's row of each id, -1 where it has none."""
    found = pc.index_in(pa.array(ids, pa.string()), value_set=text_of(users[USER_ID]))
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def tag_age(written_at: float | None, now: float) -> float:
    """Days from the writing of the customers' table to `now`, the data's own present; 0 for a later table."""
    return 0.0 if written_at is None else max(now - written_at, 0.0) / DAY_S


def membership_records(
    users: pa.Table | None, ids: Sequence[str]
) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """MEMBERSHIP records of `ids` from the column `audiences` (`3|17`), and which customers are in any
    audience.
    """
    records, member = MEMBERSHIP.blank(len(ids)), np.zeros(len(ids), np.bool_)
    if users is None or "audiences" not in users.column_names:
        return records, member
    at = rows_of(users, ids)
    texts = text_of(users["audiences"]).to_pylist()
    for row, source in enumerate(at.tolist()):
        if source >= 0 and (audiences := _audiences(texts[source])):
            kept = audiences[:AUDIENCES_KEPT]
            records["audiences"][row, : len(kept)] = kept
            member[row] = True
    return records, member


def _audiences(text: str | None) -> list[int]:
    parts = (part.strip() for part in (text or "").split("|"))
    return sorted({int(part) for part in parts if part.isdecimal() and 0 < int(part) < 65_536})


def _whole_table(
    users: pa.Table, tags: TagDictionary | None, tag_age: float, problems: list[CellProblem]
) -> tuple[NDArray[np.void], NDArray[np.uint64]]:
    n = users.num_rows
    columns = _Columns(users, tags, problems)
    records, known = PROFILE.blank(n), np.zeros(n, np.uint64)

    def fill(name: str, cells: Cells) -> None:
        values, have = cells
        records[name][have] = values[have]
        known[have] |= np.uint64(PROFILE.bit(name))

    for name in users.column_names:
        if reader := _READERS.get(name):
            fill(name, reader(columns, name))
    names = attribute_columns(users)
    if names:
        fill("attributes", columns.attributes(names))
    if tags is not None:  # those that were switched off stay said, whatever their age
        records["tags"] &= tags.usable(tag_age)
    _derive(records, known, fill)
    return records, known


def _derive(records: NDArray[np.void], known: NDArray[np.uint64], fill: Callable[[str, Cells], None]) -> None:
    """The age band from the age, and the segment from gender and age band, where the table gives neither."""

    def knows(name: str) -> NDArray[np.bool_]:
        return np.asarray((known & np.uint64(PROFILE.bit(name))) != 0)

    if not knows("age_band").any() and knows("age").any():
        fill("age_band", (np.searchsorted(AGE_EDGES, records["age"], "right") + 1, knows("age")))
    if not knows("segment").any():
        either = (knows("gender") & (records["gender"] > 0)) | knows("age_band")
        fill("segment", (1 + records["gender"] * np.uint16(16) + np.minimum(records["age_band"], 15), either))


def attribute_columns(users: pa.Table) -> list[str]:
    """Columns that become attributes: not PROFILE fields, and of few distinct values; at most 16, in the
    table's order.
    """
    spoken_for = {USER_ID, "audiences", *PROFILE.names}
    free = [name for name in users.column_names if name not in spoken_for]
    most = min(MOST_VALUES, max(users.num_rows // ALIKE, FEW))
    return [name for name in free if len(pc.unique(text_of(users[name]))) <= most][:ATTRIBUTES_KEPT]


def unused_columns(users: pa.Table) -> list[str]:
    """Columns that say nothing to a profile: too many values, too many columns, or computed from events."""
    used = {USER_ID, "audiences", *PROFILE.names, *attribute_columns(users)} - set(AGGREGATED_FIELDS)
    return [name for name in users.column_names if name not in used]


class _Columns:
    """Reads cells of a table, and remembers those that it cannot read."""

    def __init__(self, users: pa.Table, tags: TagDictionary | None, problems: list[CellProblem]) -> None:
        self.users, self.tags, self.problems = users, tags, problems

    def report(self, name: str, bad: NDArray[np.bool_], reason: str, remedy: str) -> None:
        if bad.any():
            self.problems.append(CellProblem(name, reason, remedy, np.flatnonzero(bad)))

    def coded(self, name: str) -> tuple[list[str], NDArray[np.int64], NDArray[np.bool_]]:
        """Distinct texts, each row's position among them, and which rows have one."""
        column = self.users[name]
        nested = pa.types.is_nested(column.type)
        text = pc.utf8_trim_whitespace(text_of(column, empty="none" if nested else ""))
        coded = text.fill_null("").dictionary_encode()
        values: list[str] = coded.dictionary.to_pylist()
        codes = np.asarray(coded.indices.to_numpy(), np.int64)
        there = np.array([value not in MISSING for value in values], np.bool_)
        return values, codes, there[codes]

    def translated(
        self, name: str, translate: Callable[[str], Any], blank: NDArray[Any], remedy: str
    ) -> Cells:
        """Values by `translate`, once for each distinct text; None from it is an unreadable cell."""
        values, codes, have = self.coded(name)
        table = np.repeat(blank, len(values), axis=0)
        good = np.zeros(len(values), np.bool_)
        for row, value in enumerate(values):
            if value not in MISSING and (result := translate(value)) is not None:
                table[row], good[row] = result, True
        self.report(name, have & ~good[codes], f"{name} cannot be read", remedy)
        return table[codes], have & good[codes]

    def attributes(self, names: Sequence[str]) -> Cells:
        """key32 of `name=value` of each column's cell, in the columns' order, 0 padded."""
        found = np.zeros((self.users.num_rows, ATTRIBUTES_KEPT), np.uint32)
        for name in names:
            values, codes, have = self.coded(name)
            keys = np.array([key32(f"{name}={value}") for value in values], np.uint32)
            free = (found != 0).sum(1)
            found[have, free[have]] = keys[codes][have]
        return found, found[:, 0] != 0


def _number(columns: _Columns, name: str) -> Cells:
    low, high = _RANGES[name]
    column = columns.users[name]
    if name == "risk_level" and not numeric(column.type):  # C3, R3
        column = pc.replace_substring_regex(text_of(column), r"^\s*[A-Za-z](\d)\s*$", r"\1")
    values, given = _numbers(column)
    good = given & (values >= low) & (values <= high)
    if name in _WHOLE:
        good &= values == np.floor(np.where(np.isfinite(values), values, 0))
    kind = "a whole number" if name in _WHOLE else "a number"
    columns.report(name, given & ~good, f"{name} cannot be read", f"Give {kind} from {low:g} to {high:g}")
    return np.where(good, values, 0), good


def _numbers(column: Any) -> Cells:
    """f8 values (nan where unreadable), and which cells hold anything."""
    if numeric(column.type):
        values = np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), np.float64)
        return values, ~np.isnan(values)
    text = pc.utf8_trim_whitespace(text_of(column)).fill_null("")
    given = pc.invert(pc.is_in(text, value_set=pa.array(sorted(MISSING)))).to_numpy(zero_copy_only=False)
    reads = pc.match_substring_regex(text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
    values = pc.cast(pc.if_else(reads, text, None), pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64), np.asarray(given, np.bool_)


def _flag(columns: _Columns, name: str) -> Cells:
    def translate(text: str) -> int | None:
        text = text.casefold()
        return 1 if text in _YES else 0 if text in _NO else None

    return columns.translated(name, translate, np.zeros(1, np.uint8), "Give 1 or 0, or yes or no")


def _blocked(columns: _Columns, name: str) -> Cells:
    """All that asks about the customer, or kinds of offers that the bank's fraud engine withholds."""

    def translate(text: str) -> int | None:
        text = text.casefold()
        if text in _YES or text in _NO:
            return BLOCKED if text in _YES else 0
        parts = _parts(text)
        return sum(map(withheld, set(parts))) if parts and set(parts) <= set(OFFERS) else None

    remedy = f"Give 1 or 0, yes or no, or any of {', '.join(OFFERS)} with | between them"
    return columns.translated(name, translate, np.zeros(1, np.uint8), remedy)


def _key(columns: _Columns, name: str) -> Cells:
    return columns.translated(name, key32, np.zeros(1, np.uint32), "Give a code")


def _zone(columns: _Columns, name: str) -> Cells:
    return columns.translated(name, _zone_name, np.zeros(1, "S32"), "Give an IANA zone such as Asia/Shanghai")


def _zone_name(text: str) -> bytes | None:
    try:
        ZoneInfo(text)
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError only when the file is absent
        return None
    except KeyError:
        return None
    return text.encode() if len(text) <= 32 else None


def _gender(columns: _Columns, name: str) -> Cells:
    remedy = "Give F, M or other"
    return columns.translated(name, lambda text: _GENDERS.get(text.casefold()), np.zeros(1, np.uint8), remedy)


def _consents(columns: _Columns, name: str) -> Cells:
    def translate(text: str) -> int | None:
        if text.isdecimal():
            return int(text) if int(text) < 1 << len(CONSENTS) else None
        parts = _parts(text)
        return sum(1 << CONSENTS.index(p) for p in set(parts)) if set(parts) <= set(CONSENTS) else None

    remedy = f"Give any of {', '.join(CONSENTS)} with | between them, or none"
    return columns.translated(name, translate, np.zeros(1, np.uint16), remedy)


def _parts(text: str) -> list[str]:
    return [] if text.casefold() in _NONE else [part for part in (p.strip() for p in text.split("|")) if part]


def _holdings(columns: _Columns, name: str) -> Cells:
    def translate(text: str) -> NDArray[np.uint64] | None:
        parts = list(dict.fromkeys(_parts(text)))
        if len(parts) > HOLDINGS_KEPT:
            return None
        try:
            keys = [key64(check_id(part)) for part in parts]
        except ValueError:
            return None
        return np.array(keys + [0] * (HOLDINGS_KEPT - len(keys)), np.uint64)

    remedy = f"Give at most {HOLDINGS_KEPT} item ids with | between them, or none"
    return columns.translated(name, translate, np.zeros((1, HOLDINGS_KEPT), np.uint64), remedy)


def _tags(columns: _Columns, name: str) -> Cells:
    dictionary = columns.tags

    def translate(text: str) -> NDArray[np.uint8] | None:
        if dictionary is None:
            return None
        try:
            return dictionary.pack(_parts(text))
        except (KeyError, ValueError):
            return None

    remedy = (
        "Give tags of the tag dictionary with | between them"
        if dictionary
        else "Give a tag dictionary as well"
    )
    return columns.translated(name, translate, np.zeros((1, 16), np.uint8), remedy)


_READERS: Final[dict[str, Reader]] = {
    **dict.fromkeys(_RANGES, _number),
    **dict.fromkeys(("profiling", "payroll"), _flag),
    "blocked": _blocked,
    **dict.fromkeys(("org", "city"), _key),
    **dict.fromkeys(("tags", "tags_off"), _tags),
    "tz": _zone,
    "gender": _gender,
    "consents": _consents,
    "holdings": _holdings,
}


def holdings_of(
    user: NDArray[np.int32], item_key: NDArray[np.uint64], at: NDArray[np.float64], n_users: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Holdings u8[n_users, 16] from purchases: each customer's most recent distinct items, newest first, 0
    padded; and whose are whole: false for who took more than 16.
    """
    order = np.lexsort((-at, user))
    user, item_key = user[order], item_key[order]
    _, code = np.unique(item_key, return_inverse=True)
    _, first = np.unique(user.astype(np.int64) * (len(code) + 1) + code, return_index=True)
    first.sort()  # back to newest first within the customer
    user, item_key = user[first], item_key[first]
    start = np.searchsorted(user, np.arange(n_users))
    rank = np.arange(len(user)) - start[user]
    kept = rank < HOLDINGS_KEPT
    out = np.zeros((n_users, HOLDINGS_KEPT), np.uint64)
    out[user[kept], rank[kept]] = item_key[kept]
    return out, np.bincount(user, minlength=n_users) <= HOLDINGS_KEPT
