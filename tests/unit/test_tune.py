"""`fenliu tune`: a search that goes on where it was stopped, and what it writes for `fenliu train`."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from rich.console import Console

from training.config import TrainConfig, read_config
from training.model import NEVER
from training.study_arguments import add_tune
from training.study_commands import EvaluateError
from training.tune_commands import Search, tune
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
    resumed = run(tmp_path, 6, "--model", "ials", home="a")
    whole = run(tmp_path, 6, "--model", "ials", home="b")
    assert untimed(resumed) == untimed(whole)
    assert len(untimed(whole)) == 6


def test_what_is_written_makes_train_try_the_best_alone(tmp_path: Path) -> None:
    data(tmp_path)
    said = run(tmp_path, 2, *(word for name in SPACES for word in ("--model", name)))
    config = read_config(tmp_path / "best.yaml")
    assert set(config.models) == set(SPACES)
    for name, model in config.build_models().items():
        (only,) = model.trials()
        best = max((t for t in said["trials"][name] if not t["stopped"]), key=lambda t: t["value"])
        for key in SPACES[name]:
            assert only[key] == pytest.approx(float(best["params"][key]))
    assert list((tmp_path / "home" / "tuning").glob("*/trials.png"))
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["models"] == list(SPACES)


def asked(model: str, *, timed: bool) -> dict[str, float]:
    """A setting drawn at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    return suggest(study.ask(), model, timed=timed)


@pytest.mark.parametrize("model", sorted(SPACES))
def test_suggestions_stay_inside_the_space(model: str) -> None:
    one = asked(model, timed=True)
    for name, space in SPACES[model].items():
        if isinstance(space, Range):
            assert space.low <= one[name] <= space.high
        else:
            assert one[name] in space.values
    if model != "popular":
        assert asked(model, timed=False)["half_life_days"] == NEVER


def test_the_models_own_setting_is_tried_first(tmp_path: Path) -> None:
    data(tmp_path)
    said = run(tmp_path, 2, "--model", "als", "--model", "ials")
    for name, model in TrainConfig().build_models().items():
        if name in ("als", "ials"):
            own, tried = model.trials()[0], said["trials"][name][0]["params"]
            assert all(tried[key] == own[key] for key in SPACES[name])


def test_a_trial_that_a_kill_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(tmp_path)
    whole = run(tmp_path, 4, "--model", "ials", home="b")
    run(tmp_path, 3, "--model", "ials", home="a")
    with monkeypatch.context() as patch:
        patch.setattr(Search, "_value", lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, 4, "--model", "ials", home="a")
    assert untimed(run(tmp_path, 4, "--model", "ials", home="a")) == untimed(whole)


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
        assert section(model, params | asked(model, timed=True))


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
