"""Lifecycle models: what is known at a moment, labels, fits, and scores where audiences read them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from features.transforms import DAY
from training import lifecycle_fit
from training.base_columns import Base
from training.lake import Lake
from training.lifecycle import LifecycleError, keep, kept, moments_of, next_functions, scores, train
from training.lifecycle_fit import Rows, auc, fit, judge, lift
from training.lifecycle_past import Past, past_of, to_next_level
from training.lifecycle_report import show
from training.lifecycle_scores import put, with_columns, write
from training.lifecycle_targets import targets_of
from training.world import World


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Past]:
    lake = Lake(tmp_path_factory.mktemp("bank") / "lake")
    World.create(3, 600, 300, visits_per_day=0.4).write(lake, 20)
    return lake, past_of(lake)


def asked(past: Past, name: str, day: float, span: float = 5 * DAY) -> tuple[np.ndarray, np.ndarray]:
    target = next(one for one in targets_of(past) if one.name == name)
    at = past.at[0] + day * DAY
    return target.asked(past.known_at(at), past, at, span)


def test_what_arrives_later_is_not_known_yet(bank: tuple[Lake, Past]) -> None:
    past = bank[1]
    at = past.at[0] + 9 * DAY
    known = past.known_at(at)
    assert known.at.max() <= at and known.arrived.max() <= at
    assert ((past.at <= at) & (past.arrived > at)).any()  # the world has late ones
    late = past.arrived > at
    again = known.features(at)
    turned = {name: getattr(past, name).copy() for name in ("user", "item", "what")}
    for column in turned.values():
        column[late] = column[late][::-1]  # the future is another
    other = replace(past, **turned)
    assert np.array_equal(other.known_at(at).features(at), again, equal_nan=True)
    assert again.shape == (len(past), len(past.names))
    assert 0 <= past.grace <= 3 * DAY


def test_labels_are_what_the_words_say(bank: tuple[Lake, Past]) -> None:
    past = bank[1]
    at, span = past.at[0] + 11 * DAY, 5 * DAY
    came = past.count(past.between(at, at + span)) > 0
    concerned, label = asked(past, "dormant_return", 11)
    known = past.known_at(at)
    assert not (concerned & (known.count(known.between(at - span, at)) > 0)).any()
    assert np.array_equal(label, came)
    concerned, label = asked(past, "new_churn", 11)
    assert np.array_equal(label, ~came) and 0 < concerned.sum() < len(past) / 2
    product = past.bought & (past.family >= 0)
    concerned, label = asked(past, "prospect", 11)
    assert not (concerned & (known.count(known.bought & (known.family >= 0)) > 0)).any()
    assert np.array_equal(label, past.count(product & past.between(at, at + span)) > 0)
    for place, family in enumerate(past.families):
        _, label = asked(past, f"buys_{family}", 11)
        mine = past.bought & (past.family == place) & past.between(at, at + span)
        assert np.array_equal(label, past.count(mine) > 0)
    concerned, label = asked(past, "swing", 11)
    halved = past.days_active(at, at + span) <= 0.5 * known.days_active(at - span, at)
    assert np.array_equal(label, halved) and concerned.any()


def test_the_next_level_is_as_far_as_its_poorest_are_rich() -> None:
    level, assets = np.array([1, 1, 2, 2, 2]), np.array([10.0, 90.0, 100.0, 110.0, 500.0])
    found = to_next_level(level, assets)
    bound = np.quantile(assets[2:], 0.02)
    assert np.expm1(found[:2]) == pytest.approx(bound - assets[:2])
    assert np.isnan(found[2:]).all()


def test_moments_teach_before_they_judge_and_too_little_says_so(bank: tuple[Lake, Past]) -> None:
    past = bank[1]
    when = moments_of(past, 5)
    assert when.judge + when.span + past.grace == pytest.approx(past.now)
    assert all(at + when.span <= when.judge for at in when.teach)
    assert min(when.teach) - when.back >= past.at[0]
    short = past.known_at(when.judge, when.back)
    assert short.at.min() > when.judge - when.back and short.at.max() <= when.judge
    with pytest.raises(LifecycleError, match="needs 60"):
        moments_of(past, 20)


def test_auc_and_lift_are_their_definitions() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 6, 60).astype(float), (rng.random(60) < 0.3).astype(float)
    good, bad = score[label == 1], score[label == 0]
    pairs = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
    assert auc(score, label) == pytest.approx(pairs)
    assert auc(score, label, np.full(60, 3.0)) == pytest.approx(pairs)
    assert np.isnan(auc(score, np.ones(60)))
    assert lift(np.arange(10.0), np.array([0] * 8 + [1, 1.0]), 0.2) == pytest.approx(5.0)


def drawn(n: int, seed: int, *, bent: bool) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 4)).astype(np.float32)
    logit = -2.0 + x[:, 0] + (1.5 * (np.abs(x[:, 1]) > 1.2) if bent else 0.0)
    x[rng.random(n) < 0.1, 2] = np.nan
    return Rows(x, (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float), np.arange(n))


def test_trees_take_part_only_where_they_foretell_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle_fit, "SIZES", (0, 20, 60))
    monkeypatch.setattr(lifecycle_fit, "RESAMPLES", 50)
    names = ("a", "b", "c", "d")
    straight = fit(drawn(3_000, 1, bent=False))
    assert straight is not None
    report = judge(straight, drawn(3_000, 1, bent=False), drawn(3_000, 2, bent=False), names)
    assert abs(report.gap[0]) < 0.01 and report.telling[0] == "a"
    assert report.forest.total.low < 1.03 and report.forest.total.high > 0.97
    bent = fit(drawn(3_000, 3, bent=True))
    assert bent is not None and bent.text
    report = judge(bent, drawn(3_000, 3, bent=True), drawn(3_000, 4, bent=True), names)
    assert report.gap[1] > 0.01 and report.auc_interval[0] < report.forest.auc < report.auc_interval[1]
    few = drawn(100, 5, bent=False)
    assert fit(few) is None


def test_trained_kept_and_written_where_audiences_read(
    bank: tuple[Lake, Past], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, past = bank
    monkeypatch.setattr(lifecycle_fit, "SIZES", (0, 5))
    monkeypatch.setattr(lifecycle_fit, "RESAMPLES", 10)
    made, when = train(past, span_days=4)
    learnt = [one.name for one in made if one.scorer is not None]
    assert {"dormant_return", "swing", "next_function"} <= set(learnt)
    keep(tmp_path, made, when, at=1.0)
    models, said = kept(tmp_path)
    assert list(models) == learnt
    columns = scores(past, models, when)
    same = scores(past, {one.name: one.scorer for one in made if one.scorer}, when)
    assert all(np.array_equal(columns[name], same[name], equal_nan=True) for name in columns)
    assert all(np.isnan(one[past.refused]).all() for one in columns.values())
    who, what, chance = next_functions(past, models["next_function"], when)
    assert len(np.unique(who * len(past.items) + what)) == len(who)
    assert (np.bincount(who) <= 8).all() and (chance > 0).all()
    done = write(lake, tmp_path, None, now=past.now)
    assert any("next_function: version 1" in line for line in done)
    users = lake.read_users()
    assert users is not None and users.num_rows == len(past)
    row = {name: place for place, name in enumerate(users["user_id"].to_pylist())}
    at = [row[name] for name in past.ids]
    there = users["lifecycle_swing"].to_numpy()[at]
    assert np.array_equal(there, columns["swing"], equal_nan=True)
    out = Console(file=io.StringIO(), width=160)
    show(out, said["models"], said["span_days"])
    assert "dormant_return" in out.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(LifecycleError, match="lifecycle train"):
        kept(tmp_path / "nothing")


def test_columns_replace_older_ones_and_add_who_is_missing() -> None:
    users = pa.table({"user_id": ["b", "a"], "age": [1, 2], "lifecycle_old": [0.5, 0.5]})
    found = with_columns(users, ("a", "c"), {"lifecycle_new": np.array([0.25, np.nan], np.float32)})
    assert found.column_names == ["user_id", "age", "lifecycle_new"]
    assert found["user_id"].to_pylist() == ["b", "a", "c"]
    assert found["lifecycle_new"].to_pylist() == [None, 0.25, None]


def test_the_base_is_written_at_once(tmp_path: Path) -> None:
    class Two(Base):
        def __init__(self) -> None:
            self.folder, self.n = tmp_path, 2

        def rows(self, ids: object) -> np.ndarray:
            return np.array([1, -1])

    put(Two(), ("a", "c"), {"lifecycle_x": np.array([0.5, 0.7], np.float32)})
    assert np.array_equal(np.load(tmp_path / "score.lifecycle_x.npy"), [np.nan, 0.5], equal_nan=True)
