"""The lake's history into the live views: what customers did before the service knew them counts at once.

Events of the API reach the live logs by themselves, at once; those of an import do not, and a store that
was lost has neither. `backfill` packs the last entries of every subject as `features.events.live_entries`
would have, and writes a log only where the store has none: what is there is never replaced. A mark in the
store says up to which imports it was filled, so that a store that was lost is filled by the next training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from features.events import LATE, WHAT, action_code
from features.ids import Vocabulary, decision_mark, key32, key64
from features.live_store import LiveStore
from features.redis_fill import Logs, filling
from features.views import CONTACT, CONTACT_KEEP, RECENT, RECENT_KEEP
from training.lake import Lake
from training.tables import LakeError
from training.workspace import digest_of

pc: Any = pyarrow.compute

COLUMNS: Final = (
    "event_id", "type", "at", "subject", "slot", "position", "item_key", "campaign", "action", "amount",
    "channel", "late", "creative", "decision_id",
)  # fmt: skip
AT_ONCE: Final = 200
_RECENT_TYPES: Final = ("clicked", "dismissed", "converted", "acted")
_CONTACT_TYPES: Final = ("displayed", "clicked", "dismissed", "converted")


def backfill(url: str, lake: Lake, progress: Callable[[int, int], None] | None = None) -> int:
    """Fill the live logs of subjects that have none from the lake; how many subjects were looked at.

    0 when the store has seen these imports already. Raises StoreUnavailable.
    """
    manifest = lake.manifest()
    if not manifest.files["events"]:
        return 0
    with filling(url, digest_of(sorted(manifest.batches))) as fill:
        if fill is None:
            return 0
        return fill(list(live_logs(lake.events(columns=COLUMNS), _categories(lake))), progress)


async def restored(live: LiveStore, lake: Lake, progress: Callable[[int, int], None]) -> int:
    """Add the lake's history to the live logs of a store that was emptied while it served: what happened
    since stays, each entry is there once. How many subjects. Raises StoreUnavailable: do it again then.
    """
    logs = list(live_logs(lake.events(columns=COLUMNS), _categories(lake)))
    for start in range(0, len(logs), AT_ONCE):
        some = logs[start : start + AT_ONCE]
        await asyncio.gather(
            *(live.append(one.subject, recent=one.recent, contact=one.contact) for one in some)
        )
        progress(start + len(some), len(logs))
    return len(logs)


def live_logs(
    events: pa.Table, categories: Callable[[NDArray[np.uint64]], NDArray[np.uint32]]
) -> Iterator[Logs]:
    """The logs of all subjects of `events` (COLUMNS). `categories`: item keys -> category key32."""
    names, subject = _codes(events["subject"])
    order = np.lexsort((np.arange(len(subject)), _floats(events["at"]), subject))
    kind = np.array([WHAT.get(name, 0) for name in _codes(events["type"])[0]], np.uint8)[
        _codes(events["type"])[1]
    ]
    complained = _equals(events["action"], "complained")
    recent = order[np.isin(kind, [WHAT[name] for name in _RECENT_TYPES])[order]]
    reached = np.isin(kind, [WHAT[name] for name in _CONTACT_TYPES]) | (complained & (kind == WHAT["acted"]))
    contact = order[reached[order]]
    recent, contact = _last(recent, subject, RECENT_KEEP), _last(contact, subject, CONTACT_KEEP)
    packed = _packed_recent(events, kind, recent), _packed_contact(events, kind, contact, categories)
    ends = [np.searchsorted(subject[rows], np.arange(len(names) + 1)) for rows in (recent, contact)]
    for code, name in enumerate(names):
        mine, theirs = (
            log[bounds[code] : bounds[code + 1]].tobytes() for log, bounds in zip(packed, ends, strict=True)
        )
        if mine or theirs:
            yield Logs(name, mine, theirs)


def _packed_recent(events: pa.Table, kind: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.void]:
    some = events.take(rows)
    log = np.zeros(len(rows), RECENT)
    log["item"] = _whole(some["item_key"], np.uint64)
    log["event"] = _hashed(some["event_id"], key64, np.uint64)
    log["at"] = _floats(some["at"])
    log["what"] = kind[rows]
    log["channel"] = _whole(some["channel"], np.uint8)
    log["action"] = _hashed(some["action"], lambda name: action_code(name) if name else 0, np.uint16)
    log["value"] = np.clip(np.nan_to_num(_floats(some["amount"])), -3e38, 3e38)
    return log


def _packed_contact(
    events: pa.Table,
    kind: NDArray[np.uint8],
    rows: NDArray[np.int64],
    categories: Callable[[NDArray[np.uint64]], NDArray[np.uint32]],
) -> NDArray[np.void]:
    some = events.take(rows)
    log = np.zeros(len(rows), CONTACT)
    log["item"] = _whole(some["item_key"], np.uint64)
    log["event"] = _marks(some, kind[rows])
    log["at"] = np.clip(_floats(some["at"]), 0, 2**32 - 1)
    log["category"] = categories(log["item"])
    for name in ("campaign", "slot", "creative"):
        log[name] = _whole(some[name], np.uint32)
    log["channel"] = _whole(some["channel"], np.uint8)
    log["what"] = kind[rows]
    log["position"] = np.clip(_whole(some["position"], np.int64), 0, 255)
    log["flags"] = np.where(_whole(some["late"], np.uint8) > 0, LATE, 0)
    return log


def _marks(some: pa.Table, kind: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """`features.events.contact_mark` of rows."""
    marks = _hashed(some["event_id"], key32, np.uint32)
    paged = (kind == WHAT["displayed"]) & some["decision_id"].is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(paged)
    pairs = some.take(rows).select(["subject", "decision_id"]).to_pydict()
    marks[rows] = [decision_mark(*pair) for pair in zip(*pairs.values(), strict=True)]
    return marks


def _last(rows: NDArray[np.int64], subject: NDArray[np.int64], keep: int) -> NDArray[np.int64]:
    """Of rows ordered by subject and time, the last `keep` of each subject."""
    whose = subject[rows]
    end = np.searchsorted(whose, whose, side="right")
    return rows[end - np.arange(len(rows)) <= keep]


def _categories(lake: Lake) -> Callable[[NDArray[np.uint64]], NDArray[np.uint32]]:
    try:
        items = lake.read_items()
    except LakeError:  # no catalogue was ever imported: nobody's caps are by category then
        items = []
    known = Vocabulary([item["id"] for item in items])
    category = np.array(
        [*(key32(item["category"]) if item.get("category") else 0 for item in items), 0], np.uint32
    )
    return lambda keys: category[known.rows_of_keys(keys)]


def _codes(column: Any) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct values, and each row's index among them."""
    coded = column.combine_chunks().dictionary_encode() if not pa.types.is_dictionary(column.type) else None
    whole = column.unify_dictionaries().combine_chunks() if coded is None else coded
    return whole.dictionary.to_pylist(), whole.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(
        np.int64
    )


def _hashed(column: Any, code: Callable[[str], int], dtype: type[np.generic]) -> NDArray[Any]:
    names, index = _codes(column)
    codes = np.array([*(code(name) for name in names), 0], dtype)
    return np.where(_present(column), codes[index], codes[-1]) if len(index) else np.zeros(0, dtype)


def _present(column: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_valid(column).to_numpy()
    return found


def _equals(column: Any, value: str) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = pc.fill_null(pc.equal(column.cast(pa.string()), value), False).to_numpy()
    return same


def _whole(column: Any, dtype: type[np.generic]) -> NDArray[Any]:
    wide = column.cast(pa.uint64() if dtype is np.uint64 else pa.int64())
    values: NDArray[Any] = wide.fill_null(0).to_numpy().astype(dtype)
    return values


def _floats(column: Any) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.to_numpy().astype(np.float64)
    return values
