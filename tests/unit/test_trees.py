"""LightGBM on a machine without OpenMP, and its forests as the arrays that serve."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.forest import Forest
from training.trees import LearnerMissing, bundled, forest_of, lightgbm, renamed

ROOT = Path(__file__).parents[2]
HIDDEN = """
import ctypes, pathlib, sys
real = ctypes.CDLL
def hiding(name, *args, **kwargs):
    if name == "libgomp.so.1":
        raise OSError("libgomp.so.1: cannot open shared object file")
    return real(name, *args, **kwargs)
ctypes.CDLL = hiding
from training.trees import lightgbm
booster = lightgbm().Booster
maps = pathlib.Path("/proc/self/maps").read_text()
print(*sorted({line.split()[-1] for line in maps.splitlines() if "libgomp" in line}))
"""


@pytest.fixture(scope="module")
def learned():
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(2_000, 6)).astype(np.float32)
    label = rng.random(2_000) < 1 / (1 + np.exp(-columns[:, 0] - columns[:, 1] * columns[:, 2]))
    learner = lightgbm()
    asked = {"objective": "binary", "num_leaves": 16, "num_threads": 1, "verbosity": -1, "max_bin": 63}
    return learner.train(asked, learner.Dataset(columns, label.astype(float)), 12), columns


def test_without_the_systems_openmp_the_bundled_one_is_loaded_under_its_name(tmp_path: Path) -> None:
    assert bundled() is not None
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    copy = next((tmp_path / "fenliu").glob("libgomp-*.so.1"))
    assert done.stdout.split() == [str(copy)]  # and the system's, where there is one, is not


def test_the_copy_is_made_once_and_mended_when_it_is_broken(tmp_path: Path) -> None:
    source = bundled()
    assert source is not None
    copy = renamed(source, tmp_path)
    assert len(copy.read_bytes()) == source.stat().st_size
    copy.write_bytes(b"half a fi")
    assert renamed(source, tmp_path) == copy
    ctypes.CDLL(str(copy))
    assert [one.name for one in tmp_path.iterdir()] == [copy.name]


def test_a_library_that_does_not_name_itself_is_refused_with_the_remedy(tmp_path: Path) -> None:
    odd = tmp_path / "libgomp-odd.so.1.0.0"
    odd.write_bytes(b"\x7fELF and nothing of that name")
    with pytest.raises(LearnerMissing, match="libgomp1"):
        renamed(odd, tmp_path)


def test_the_arrays_say_what_the_booster_says(learned) -> None:
    booster, columns = learned
    edges = np.nextafter(columns[:200], np.float32(9))  # and just beside where it was split
    for some in (columns, edges):
        logit = np.zeros(len(some), np.float32)
        forest_of(booster).add(np.ascontiguousarray(some.T), logit)
        assert np.abs(logit - booster.predict(some, raw_score=True)).max() < 2e-6


def test_a_forest_survives_its_folder_and_refuses_what_does_not_fit(learned, tmp_path: Path) -> None:
    forest = forest_of(learned[0])
    forest.save(tmp_path)
    again = Forest.load(tmp_path)
    assert all(np.array_equal(getattr(again, name), getattr(forest, name)) for name in ("mask", "leaves"))
    forest.check(6)
    with pytest.raises(ValueError, match="train again"):
        forest.check(3)
    with pytest.raises(ValueError, match="finite"):
        Forest(forest.feature, forest.threshold * np.nan, forest.mask, forest.starts, forest.leaves)


def test_an_empty_forest_adds_nothing() -> None:
    logit = np.full(3, 0.5, np.float32)
    Forest.nothing().add(np.zeros((6, 3), np.float32), logit)
    assert logit.tolist() == [0.5, 0.5, 0.5]


def test_trees_that_are_too_large_are_refused() -> None:
    rng = np.random.default_rng(0)
    columns, learner = rng.normal(size=(2_000, 3)), lightgbm()
    label = columns @ np.array([1.0, 2.0, -1.0])
    asked = {"num_leaves": 17, "num_threads": 1, "verbosity": -1, "min_data_in_leaf": 5}
    with pytest.raises(ValueError, match="16 leaves"):
        forest_of(learner.train(asked, learner.Dataset(columns, label), 1))


def test_what_is_the_same_in_all_columns_is_tested_once_and_says_the_same(learned) -> None:
    booster, columns = learned
    forest = forest_of(booster)
    assert (forest.feature < 2).any() and (forest.feature >= 2).any()
    for first in range(0, 200, 20):
        page = columns[first : first + 50].copy()
        page[:, :2] = page[0, :2]
        asked = np.ascontiguousarray(page.T)
        plain, once = np.zeros(50, np.float32), np.zeros(50, np.float32)
        forest.add(asked, plain)
        forest.add(asked, once, 2)
        assert np.array_equal(plain, once)
    forest.add(np.zeros((6, 0), np.float32), np.zeros(0, np.float32), 2)
