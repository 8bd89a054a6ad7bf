"""What names a training run: everything that its result follows from."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from features.tags import Tag, TagDictionary
from serving.registry import Registry
from training.config import TrainConfig
from training.lake import Lake
from training.progress import Telling
from training.run_state import RunState

NOW, DAY = 1_790_000_000.0, 86_400.0
TAGS = TagDictionary([Tag("old", "rule", "o", "s", 30, "profiling", 365, 0)])


def inputs(home: Path, lake: Lake, tags: TagDictionary | None = TAGS) -> str:
    return RunState(home, TrainConfig(), lake, Registry(home / "registry"), Telling(None), None, tags).inputs


def test_a_tag_that_has_become_too_old_makes_another_run(tmp_path: Path) -> None:
    """The table and the dictionary are the same, and records are not."""
    lake = Lake(tmp_path / "lake")
    event = {"event_id": ["e"], "type": ["clicked"], "received_at": [NOW], "at": [NOW], "subject": ["u:a"]}
    lake.append_events(pa.table(event), "b1")
    users, found = pa.table({"user_id": ["a"], "tags": ["old"]}), {}
    for days in (1, 29, 31, 400):
        lake.write_users(users, at=NOW - days * DAY)
        found[days] = inputs(tmp_path, lake)
    assert found[1] == found[29] != found[31] == found[400]
    lake.write_users(users, at=NOW - 400 * DAY)
    without = inputs(tmp_path, lake, None)
    lake.write_users(users, at=NOW)
    assert inputs(tmp_path, lake, None) == without not in found.values()
