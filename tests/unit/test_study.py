"""`fenliu evaluate`: arguments, stages, metrics, and whole evaluations."""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from features.events import WHAT
from features.transforms import EventWeights, histories
from tests.study_files import NOW, START, events, write
from training import study_fit
from training.config import ConfigError, TrainConfig, parse_config
from training.ease import Ease, everything_had
from training.evaluate import Cases, Lists, measure, rank
from training.model import Customers, Positives
from training.source import DataError
from training.study import Rules, past_of, stage
from training.study_arguments import PRESET_NAMES, add_evaluate
from training.study_attributes import bucketed
from training.study_commands import EvaluateError, evaluate, request_of
from training.study_fit import Bench
from training.study_load import load
from training.study_presets import PRESETS
from training.study_progress import telling


def test_histories_are_those_that_the_service_makes() -> None:
    rng = np.random.default_rng(0)
    n = 200
    user, item = rng.integers(0, 5, n).astype(np.int32), rng.integers(0, 9, n).astype(np.int32)
    at = np.sort(START + rng.random(n) * 1e7)
    known = Positives(user, item, at, np.ones(n, np.float32))
    none = Lists.group(np.zeros(0, np.int64), np.zeros(0, np.int32), 3)
    cases = Cases(np.array([0, 2, 4], np.int32), none, none, 9)
    now = float(at[-1])
    mine = past_of(known, cases, now, 30.0, 0)
    place = np.array([0, -1, 1, -1, 2], np.int32)
    what = np.full(n, WHAT["clicked"], np.uint8)
    theirs = histories(
        place[user], item, what, np.zeros(n, np.uint16), at, now, EventWeights(half_life_days=30.0)
    )
    assert np.array_equal(mine.rows, theirs.rows)
    np.testing.assert_allclose(mine.weights, theirs.weights, rtol=1e-5)
    few = past_of(known, cases, now, 30.0, 4)
    assert all(np.array_equal(few.of(c).rows, mine.of(c).rows[-4:]) for c in range(3))


def test_a_stage_drops_what_cannot_be_found_and_says_so() -> None:
    train = events([(0, 0, 1), (0, 1, 2), (1, 1, 3), (2, 0, 4)])
    asked = events([(0, 1, 5), (0, 3, 6), (1, 0, 7), (2, 2, 8)])
    made, notes = stage(train, asked, Customers.unknown(3), 4, Rules(), now=4.0)
    assert made.masked is False or made.cases.held.items.tolist() == [0]
    assert any("2 held-out rows dropped" in note for note in notes)
    made, _ = stage(train, asked, Customers.unknown(3), 4, Rules(seen="mask", unseen="keep"), now=4.0)
    assert made.cases.users.tolist() == [0, 1, 2]
    assert made.cases.held.of(0).tolist() == [3]
    made, notes = stage(train, asked, Customers.unknown(3), 4, Rules(least_history=2, seen="keep"), now=4.0)
    assert made.cases.users.tolist() == [0]


def test_candidates_are_ranked_whether_seen_or_not_and_nothing_else_is() -> None:
    held = Lists.group(np.array([0]), np.array([2], np.int32), 1)
    seen = Lists.group(np.array([0]), np.array([4], np.int32), 1)
    own = Lists.group(np.array([0, 0]), np.array([4, 0], np.int32), 1)
    cases = Cases(np.zeros(1, np.int32), held, seen, 5, own)
    scores = np.array([1.0, 9.0, 5.0, 9.0, 7.0], np.float32)
    ranking = rank(lambda _: scores, cases, depth=4)
    assert ranking.ranks.tolist() == [1]
    assert ranking.top[0].tolist() == [4, 2, 0, -1]


def test_metrics_at_k_are_their_definitions() -> None:
    held = Lists.group(np.array([0, 0, 1]), np.array([0, 3, 2], np.int32), 2)
    none = Lists.group(np.zeros(0, np.int64), np.zeros(0, np.int32), 2)
    cases = Cases(np.arange(2, dtype=np.int32), held, none, 5)
    table = np.array([[5, 4, 3, 2, 1], [5, 4, 3, 2, 1]], np.float32)
    found = measure(rank(table.__getitem__, cases, 5), cases, np.full(5, 0.5), (2, 5)).values()
    assert found["mrr@2"] == pytest.approx((1 + 0) / 2)
    assert found["mrr@5"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["map@5"] == pytest.approx(((1 + 2 / 4) / 2 + 1 / 3) / 2)
    assert found["map@2"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["gini@5"] == pytest.approx(0)
    assert found["gini@2"] == pytest.approx(0.6)


def test_numbers_of_many_values_become_buckets() -> None:
    ages = np.array([str(n) for n in range(100)] + [""], object)
    levels = bucketed(ages)
    assert len(set(levels.tolist())) == 6
    assert levels[-1] == ""
    assert bucketed(np.array(["b", "a", ""], object)).tolist() == ["b", "a", ""]


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_evaluate(parser)
    return parser.parse_args(list(words))


def request(tmp_path: Path, *words: str):
    return request_of(parsed(*words), {"FENLIU_DATA": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--train FILE --test FILE"),
        (["--train", "a"], "--train FILE --test FILE"),
        (["--train", "a", "--test", "b", "--split", "last"], "divided already"),
        (["--data", "a", "--segment", "x"], "--users FILE"),
        (["--data", "a", "--item-group", "x"], "--items FILE"),
        (["--data", "a", "--models", "magic"], "there is no magic"),
        (["--data", "a", "--columns", "who=x"], "there is no role who"),
        (["--data", "a", "--k", "ten"], "--k"),
        (["--data", "a", "--seeds", "0"], "--seeds"),
    ],
)
def test_arguments_that_do_not_go_together(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(EvaluateError, match=said):
        request(tmp_path, *words)


def test_presets_are_named_where_help_is_instant() -> None:
    assert set(PRESET_NAMES) == set(PRESETS)
    for preset in PRESETS.values():
        assert not set(preset.arguments) - set(vars(parsed()))


def test_a_preset_without_its_files_says_where_they_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, ConfigError), match="FENLIU_DATA"):
        request(tmp_path, "--preset", "lastfm")


def sample(tmp_path: Path, users: int = 60, items: int = 40) -> Path:
    rng = np.random.default_rng(1)
    lines = ["user,item,timestamp"]
    for user in range(users):
        taste = user % 4
        for n in range(12):
            item = (rng.integers(0, items // 4) * 4 + taste) if rng.random() < 0.8 else rng.integers(0, items)
            lines.append(f"u{user},i{item},{START + n * 86_400 + user}")
    return write(tmp_path / "all.csv", "\n".join(lines) + "\n")


def run(tmp_path: Path, *words: str) -> tuple[dict, str]:
    console = Console(record=True, width=200, file=io.StringIO())
    said = evaluate(request(tmp_path, *words), tmp_path / "home", console, now=NOW)
    return said, console.export_text()


def test_a_whole_evaluation_and_its_cache(tmp_path: Path) -> None:
    path = sample(tmp_path)
    users = write(tmp_path / "users.csv", "user,band\n" + "".join(f"u{n},b{n % 4}\n" for n in range(60)))
    items = write(tmp_path / "items.csv", "item,group\n" + "".join(f"i{n},g{n % 4}\n" for n in range(40)))
    config = write(tmp_path / "c.yaml", "ials: {factors: 8, epochs: 3, fixed: [[0.01, 0.3], [0.01, 1.0]]}\n")
    words = [
        "--data", str(path), "--split", "time:0.8", "--users", str(users), "--segment", "band",
        "--items", str(items), "--item-group", "group", "--config", str(config), "--k", "5,10",
        "--models", "ials,ease,neighbours,popular,ensemble",
    ]  # fmt: skip
    said, text = run(tmp_path, *words)
    assert set(said["models"]) == {"ials", "ease", "neighbours", "popular", "ensemble"}
    for one in said["models"].values():
        low, high = one["intervals"]["ndcg@10"]
        assert low <= one["metrics"]["ndcg@10"] <= high
        assert 0 < one["metrics"]["coverage@10"] <= 1
    random = 10 / 40  # a taste has a quarter of the items
    assert all(one["metrics"]["recall@10"] > random for one in said["models"].values())
    assert {"segment b0", "items: g1"} <= set(said["slices"])
    assert all(Path(plot).stat().st_size > 1000 for plot in said["plots"])
    assert json.loads(json.dumps(said))["protocol"]["already_had"] in ("ranked", "not ranked")
    assert "paired" in text
    again, text = run(tmp_path, *words)
    assert all(one["cached"] for one in again["models"].values())
    assert "as measured before" in text
    known, _ = run(tmp_path, *words, "--curve", "0,1,3")
    assert set(known["curve"]["ensemble"]) == {"0", "1", "3", "all"}
    assert len(set(known["curve"]["popular"].values())) == 1
    assert known["curve"]["ease"]["all"] != known["curve"]["ease"]["0"]
    for name, one in said["models"].items():
        assert again["models"][name]["metrics"] == pytest.approx(one["metrics"])


def test_train_and_test_with_strangers_repeats_and_candidates(tmp_path: Path) -> None:
    train = write(
        tmp_path / "train.csv",
        "user,item\n" + "".join(f"{u},{(u * n) % 9}\n" for u in range(20) for n in (1, 2, 2, 4)),
    )
    test = write(tmp_path / "test.csv", "user,item\n" + "".join(f"{u},{(u + 5) % 11}\n" for u in range(25)))
    own = write(
        tmp_path / "c.csv", "user,item\n" + "".join(f"{u},{i}\n" for u in range(25) for i in range(9))
    )
    words = ["--train", str(train), "--test", str(test), "--models", "popular,neighbours"]
    said, _ = run(tmp_path, *words)
    notes = " ".join(said["protocol"]["notes"])
    assert "training never saw the item" in notes
    assert "repeat a user and an item" in notes
    assert said["metric"] == "mrr"
    assert said["slices"]["customers with no history"]["customers"] >= 4
    said, _ = run(tmp_path, *words, "--candidates", str(own), "--seeds", "2", "--metric", "hr@5")
    assert "sampled" in said["protocol"]["candidates"]
    assert "seeds" not in said["models"]["popular"]  # the same from every seed


def test_tiny_data_are_evaluated_all_the_same(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", "user,item\na,x\nb,x\nb,y\n")
    test = write(tmp_path / "test.csv", "user,item\na,y\n")
    said, _ = run(tmp_path, "--train", str(train), "--test", str(test))
    assert set(said["models"]) == {"ials", "ease", "als", "neighbours", "popular", "ensemble"}
    assert said["protocol"]["customers"] == 1


def test_nothing_to_ask_for_says_why(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", "user,item\na,x\nb,x\nb,y\n")
    test = write(tmp_path / "test.csv", "user,item\na,z\n")
    with pytest.raises(DataError, match="training never saw the item"):
        load(request(tmp_path, "--train", str(train), "--test", str(test)), now=NOW)


def test_more_factors_are_kept_while_they_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample(tmp_path, users=80, items=120)
    study = load(request(tmp_path, "--data", str(path), "--split", "time:0.8"), now=NOW)
    config = TrainConfig(models=("ials",))
    bench = Bench(study, config, "ndcg@10", (10,), [1], None, lambda _: None, lambda *_: lambda _: None)
    model = bench.fresh("ials")
    params = dict(model.trials()[0]) | {"factors": 4.0, "epochs": 2.0}
    worth = {8.0: 0.2, 16.0: 0.3, 32.0: 0.3}
    monkeypatch.setattr(Bench, "value", lambda _self, _served, given: worth[given["factors"]])
    found, value, tried = bench._wider(model, params, 0.1)
    assert (found["factors"], value) == (16.0, 0.3)
    assert tried == 2  # twenty factors are the most for eighty users


def test_a_model_that_cannot_be_fitted_says_why_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise ValueError("raise l2")

    monkeypatch.setattr(Ease, "fit", never)
    words = ["--data", str(sample(tmp_path)), "--models", "ease,popular,neighbours,ensemble"]
    said, text = run(tmp_path, *words)
    assert set(said["models"]) == {"popular", "neighbours", "ensemble"}
    assert said["not_run"] == {"ease": "raise l2"}
    assert "ease: not run: raise l2" in text
    with pytest.raises(DataError, match="none could be fitted"):
        run(tmp_path, *words[:2], "--models", "ease")


def test_of_a_large_catalogue_ease_is_tried_on_what_most_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_fit, "TRIED_ITEMS", 10)
    study = load(request(tmp_path, "--data", str(sample(tmp_path))), now=NOW)
    config = parse_config({"models": ["ease"], "ease": {"whole_up_to": 0}})
    bench = Bench(study, config, "ndcg@10", (10,), [1], None, lambda _: None, lambda *_: lambda _: None)
    model = bench.fresh("ease")
    weighed = np.flatnonzero(np.diff(bench.tryout(model, model.trials()[0]).neighbours.indptr))
    had = np.bincount(everything_had(study.valid.data).indices, minlength=len(study.items))
    assert len(weighed) == 10
    assert had[weighed].min() >= np.delete(had, weighed).max()


def test_elsewhere_than_on_a_terminal_progress_is_lines() -> None:
    console = Console(file=io.StringIO(), width=80)
    with telling(console, every_s=0.01) as begin:
        begin(1, "reading")
        told = begin(3_000, "ials: ranking for customers")
        told(1_500)
        time.sleep(0.1)
    lines = console.file.getvalue().splitlines()
    assert "  … ials: ranking for customers, 1,500 of 3,000, 0 s" in lines
    assert len(lines) < 12


def test_known_history_speaks_for_strangers_and_nothing_is_learnt_from_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mine = lambda u: [f"i{n * 2 + u % 2}" for n in rng.choice(30, 12, replace=False)]  # noqa: E731
    rows = {u: mine(u) for u in range(60)}
    csv = lambda users, part: "user,item\n" + "".join(f"{u},{i}\n" for u in users for i in rows[u][part])  # noqa: E731
    train = write(tmp_path / "train.csv", csv(range(40), slice(None)))
    known = write(tmp_path / "known.csv", csv(range(40, 60), slice(0, 6)))
    test = write(tmp_path / "test.csv", csv(range(40, 60), slice(6, 12)))
    words = [
        "--train",
        str(train),
        "--test",
        str(test),
        "--models",
        "neighbours,popular",
        "--metric",
        "ndcg@10",
    ]
    blind = load(request(tmp_path, *words), now=NOW)
    told = load(request(tmp_path, *words, "--known", str(known)), now=NOW)
    assert blind.test.lengths().max() == 0
    assert told.test.lengths().min() == 6
    assert len(blind.test.data.positives) == len(told.test.data.positives) == 480
    values = [run(tmp_path, *words, *more)[0]["models"] for more in ([], ["--known", str(known)])]
    ndcg = [one["neighbours"]["metrics"]["ndcg@10"] for one in values]
    assert ndcg[1] > 1.3 * ndcg[0]


def test_a_validation_file_is_masked_or_learnt_from(tmp_path: Path) -> None:
    files = {
        "train": "a,x\na,y\nb,x\nb,z\nc,y\nc,z\nd,x\n",
        "valid": "a,z\nb,y\n",
        "test": "c,x\nd,y\n",
    }
    words = [
        w
        for role, text in files.items()
        for w in (f"--{role}", str(write(tmp_path / role, "user,item\n" + text)))
    ]
    plain = load(request(tmp_path, *words, "--models", "popular"), now=NOW)
    assert len(plain.test.data.positives) == 7
    assert len(plain.valid.cases) == 2
    both = load(request(tmp_path, *words, "--models", "popular", "--learn-valid"), now=NOW)
    assert len(both.test.data.positives) == 9
