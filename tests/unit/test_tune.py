"""`fenliu tune`: a search that goes on where it was stopped, and what it writes for `fenliu train`."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from training.config import read_config
from training.study_arguments import add_tune
from training.study_commands import EvaluateError
from training.tune_commands import Tried, read_journal, tune, worth_the_rest, write_line
from training.tune_space import SPACES, Range, section, suggest

START = 1_700_000_000


def data(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    lines = ["user,item,timestamp"]
    for user in range(50):
        for n in range(10):
            item = rng.integers(0, 10) * 4 + user % 4 if rng.random() < 0.8 else rng.integers(0, 40)
            lines.append(f"u{user},i{item},{START + n * 86_400 + user}")
    path = folder / "all.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(tmp_path: Path, trials: int, *more: str, home: str = "home") -> dict:
    parser = argparse.ArgumentParser()
    add_tune(parser)
    words = [
        "--data",
        str(tmp_path / "all.csv"),
        "--split",
        "time:0.8",
        "--trials",
        str(trials),
        "--k",
        "10,20",
    ]
    words += ["--out", str(tmp_path / "best.yaml"), "--json", str(tmp_path / "trials.json"), *more]
    console = Console(file=io.StringIO(), width=150)
    assert tune(parser.parse_args(words), {}, tmp_path, tmp_path / home, console) == 0
    return json.loads((tmp_path / "trials.json").read_text())


def untimed(said: dict) -> list[dict]:
    return [{k: v for k, v in one.items() if k != "seconds"} for one in said["trials"]["ials"]]


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    data(tmp_path)
    run(tmp_path, 3, "--model", "ials", home="a")
    resumed = run(tmp_path, 10, "--model", "ials", home="a")
    whole = run(tmp_path, 10, "--model", "ials", home="b")
    assert untimed(resumed) == untimed(whole)
    assert len(untimed(whole)) == 10


def test_what_is_written_makes_train_try_the_best_alone(tmp_path: Path) -> None:
    data(tmp_path)
    said = run(tmp_path, 4, *(word for name in SPACES for word in ("--model", name)))
    config = read_config(tmp_path / "best.yaml")
    assert set(config.models) == set(SPACES)
    for name, model in config.build_models().items():
        (only,) = model.trials()
        best = max((t for t in said["trials"][name] if not t["stopped"]), key=lambda t: t["value"])
        for key in SPACES[name]:
            assert only[key] == pytest.approx(float(best["params"][key]))
    assert list((tmp_path / "home" / "tuning").glob("*/trials.png"))
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["models"] == list(SPACES)


@given(st.integers(0, 1000), st.sampled_from(sorted(SPACES)), st.integers(0, 30))
def test_suggestions_stay_inside_and_follow_from_the_past_alone(seed: int, model: str, n: int) -> None:
    seen: list = []
    for k in range(n):
        seen.append((suggest(model, seen, seed, timed=True), float(np.sin(k))))
    one = suggest(model, seen, seed, timed=True)
    assert one == suggest(model, seen, seed, timed=True)
    for name, space in SPACES[model].items():
        if isinstance(space, Range):
            assert space.low * 0.999 <= one[name] <= space.high * 1.001
        else:
            assert one[name] in space.values


def test_later_trials_look_around_the_best() -> None:
    best = {"l2": 100.0, "pseudo": 0.01, "half_life_days": 30.0}
    seen = [(best, 1.0)] * 3 + [({"l2": 3000.0, "pseudo": 1.0, "half_life_days": 10.0}, 0.0)] * 20
    near = [suggest("ease", seen, seed, timed=True)["l2"] for seed in range(100)]
    assert np.mean([30 < l2 < 300 for l2 in near]) > 0.55


def test_only_the_better_third_is_given_the_rest() -> None:
    before = [Tried({}, value, 0.0, taster=value) for value in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert worth_the_rest(0.6, before)
    assert worth_the_rest(0.45, before)
    assert not worth_the_rest(0.25, before)
    assert worth_the_rest(0.0, [])


def test_a_journal_that_was_cut_off_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write_line(path, Tried({"l2": 3.0, "half_life_days": float("inf")}, 0.5, 1.0))
    write_line(path, Tried({"l2": 4.0, "half_life_days": 1.0}, float("nan"), 1.0, error="no"))
    path.write_text(path.read_text() + '{"params": {"l2"')
    found = read_journal(path)
    assert [one.params["l2"] for one in found] == [3.0, 4.0]
    assert found[0].params["half_life_days"] == float("inf")
    assert np.isnan(found[1].value)


def test_the_sections_are_those_of_the_configuration() -> None:
    params = {
        "factors": 8.0,
        "epochs": 3.0,
        "iterations": 4.0,
        "exponent": 1.0,
        "ratio": 5.0,
        "unobserved": 0.0,
    }
    for model in SPACES:
        assert section(model, params | suggest(model, [], 0, timed=True))


def test_nothing_to_tune_on_says_so(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("user,item\na,x\nb,x\n")
    (tmp_path / "t.csv").write_text("user,item\na,x\n")
    parser = argparse.ArgumentParser()
    add_tune(parser)
    words = [
        "--model",
        "ease",
        "--train",
        str(tmp_path / "all.csv"),
        "--test",
        str(tmp_path / "t.csv"),
        "--seen",
        "keep",
    ]
    with pytest.raises(EvaluateError, match="nobody to ask"):
        tune(parser.parse_args(words), {}, tmp_path, tmp_path, Console(file=io.StringIO()))
