"""A store that was emptied while it served gets its customers' history back beside what happened since."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.events import WHAT
from features.ids import key32
from features.live_store import MemoryLiveStore
from features.store import MemoryBlobs
from features.views import CONTACT
from tests.ledgers import contact
from training.backfill import restored
from training.lake import Lake

NOW = 1_800_000_000.0


def test_what_happened_since_stays_and_each_entry_is_there_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    names = [("e1", "u:a"), ("e2", "u:a"), ("e3", "u:b")]
    rows = {
        "event_id": [event for event, _ in names], "type": ["displayed"] * 3, "at": [NOW, NOW + 1, NOW + 2],
        "received_at": [NOW] * 3, "subject": [subject for _, subject in names],
        "item_key": pa.array([11, 12, 13], pa.uint64()), "campaign": pa.array([9] * 3, pa.uint32()),
    }  # fmt: skip
    assert lake.append_events(pa.table(rows), "x") == 3
    live, ticks = MemoryLiveStore(MemoryBlobs(lambda: NOW + 9)), list[tuple[int, int]]()

    async def story() -> list[list[tuple[int, int]]]:
        since = [contact(12, key32("e2"), 9, NOW + 1), contact(99, 5, 9, NOW + 5)]  # one of them the lake has
        await live.append("u:a", contact=b"".join(since))
        for _ in range(2):  # doing it again is harmless
            await restored(live, lake, lambda done, total: ticks.append((done, total)))
        found = []
        for subject in ("u:a", "u:b"):
            log = np.frombuffer((await live.fetch(live.keys(subject)))[1] or b"", CONTACT)
            assert set(log["what"].tolist()) == {WHAT["displayed"]} and set(log["campaign"].tolist()) == {9}
            found.append(sorted(log["item"].tolist()))
        return found

    assert asyncio.run(story()) == [[11, 12, 99], [13]]
    assert ticks == [(2, 2)] * 2
