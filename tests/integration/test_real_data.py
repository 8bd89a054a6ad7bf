"""The public data sets, read from where they lie; skipped where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from features.transforms import EventWeights
from serving.catalogue import compile_items, parse_item
from training.adapters import data_folder, load
from training.dataset import Dataset, build_dataset, split, truth
from training.lake import Lake
from training.source import Source, import_source

pytestmark = pytest.mark.data

NOW = 1_760_000_000.0
DATA = data_folder(os.environ, Path(__file__).parents[2])


def imported(name: str, folder: Path) -> tuple[Source, Lake]:
    """The set in a fresh lake."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}: set FENLIU_DATA")
    source, lake = load(name, now=NOW, data=DATA), Lake(folder)
    import_source(source, lake)
    return source, lake


def dataset(lake: Lake) -> Dataset:
    items = compile_items([parse_item(item) for item in lake.read_items()])
    return build_dataset(lake, items, now=NOW, weights=EventWeights())


def test_ml_1m_as_its_readme_says(tmp_path: Path) -> None:
    source, lake = imported("ml-1m", tmp_path)
    assert source.events.num_rows == 463_020 + 57_809 + 54_452
    assert len(source.items) == 3_883
    assert not source.quarantined
    assert "424,928 ratings below 4" in source.notes[0]
    data = dataset(lake)
    assert data.n_users == 6_038  # two of the 6,040 never gave a 4
    assert len(np.unique(data.segments)) == 14
    parts = split(data)
    assert parts.protocol == "given"
    assert parts.train.at.max() <= parts.valid.at.min() <= parts.now_test <= parts.test.at.min()
    learnt = np.diff(truth(parts.train, data.n_users, data.n_items).indptr)
    asked = np.diff(truth(parts.test, data.n_users, data.n_items).indptr)
    assert int(((learnt >= 5) & (asked > 0)).sum()) == 954


def test_ml_1m_split_by_time_agrees_with_the_given_one(tmp_path: Path) -> None:
    _, lake = imported("ml-1m", tmp_path)
    data = dataset(lake)
    parts = split(data, "temporal")
    # the given split counts all ratings, this one positives: the cuts lie near one another
    assert abs(parts.now_test - split(data, "given").now_test) < 45 * 86_400


def test_insurance_as_its_readme_says(tmp_path: Path) -> None:
    source, lake = imported("insurance", tmp_path)
    assert source.events.num_rows == 93_006
    assert (len(source.items), {item.repeat for item in source.items}) == (24, {"after_maturity"})
    assert not source.quarantined
    data = dataset(lake)
    assert data.n_users == 51_877
    parts = split(data)
    assert parts.protocol == "leave_last_out"
    baskets = np.unique(np.stack((data.interactions.user.astype(np.float64), data.interactions.at)), axis=1)
    assert int((np.bincount(baskets[0].astype(np.int64)) >= 2).sum()) == 8_547
    dropped = (
        parts.notes["test dropped: item already held"] + parts.notes["test dropped: item unseen in training"]
    )
    held_out = {(u, t) for u, t in zip(parts.test.user.tolist(), parts.test.at.tolist(), strict=True)}
    assert len(held_out) <= 8_547 <= len(held_out) + dropped
    for user in parts.test.user[:200].tolist():  # the test is each customer's last purchase
        mine = parts.train.user == user
        assert parts.train.at[mine].max() < parts.test.at[parts.test.user == user].min()
    held = data.profiles.records["holdings"]
    assert int((held[:, 0] != 0).sum()) == 51_877


@pytest.mark.parametrize(
    ("name", "events", "users", "protocol"),
    [("lastfm", 64_315 + 9_143 + 18_321, 1_885, "given"), ("complete-journey", 77_089, 2_374, "temporal")],
)
def test_the_other_sets(name: str, events: int, users: int, protocol: str, tmp_path: Path) -> None:
    source, lake = imported(name, tmp_path)
    assert source.events.num_rows == events
    data = dataset(lake)
    assert abs(data.n_users - users) <= 5
    assert split(data).protocol == protocol == source.protocol
