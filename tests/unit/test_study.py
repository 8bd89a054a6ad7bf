"""`fenliu evaluate`: anybody's files, splits, stages and results."""

from __future__ import annotations

import argparse
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from features.events import WHAT
from features.transforms import EventWeights, histories
from training.config import ConfigError, TrainConfig
from training.evaluate import Cases, Lists, measure, rank
from training.model import Customers, Positives
from training.source import DataError
from training.study import Rules, past_of, stage
from training.study_arguments import PRESET_NAMES, add_evaluate
from training.study_attributes import bucketed
from training.study_commands import EvaluateError, evaluate, request_of
from training.study_files import Reading, read_attributes, read_candidates, read_log
from training.study_fit import Bench
from training.study_load import load
from training.study_presets import PRESETS
from training.study_split import OUT, TEST, TRAIN, VALID, core, divide, validation

NOW = 1_800_000_000.0
START = 1_700_000_000


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def reading(**given: object) -> Reading:
    return Reading(**({"columns": {}} | given))


def pairs(path: Path, **given: object) -> list[tuple[str, str]]:
    log = read_log(path, reading(**given), now=NOW)
    return [
        (log.user.values[u], log.item.values[i]) for u, i in zip(log.user.codes, log.item.codes, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user,item\n7,x\n8,y\n"),
        ("a.csv.gz", "user,item\n7,x\n8,y\n"),
        ("a.tsv", "userId\titemId\trating\n7\tx\t3\n8\ty\t4\n"),
        ("a.csv", '"user_id","item_id"\n"7","x"\n"8","y"\n'),
        ("a.csv", "\ufeffuser;item\n7;x\n8;y\n"),
    ],
)
def test_headers_in_many_forms(tmp_path: Path, name: str, text: str) -> None:
    assert pairs(write(tmp_path / name, text)) == [("7", "x"), ("8", "y")]


def test_attributes_without_a_header_are_named_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "users.dat", "1::F::18\n2::M::35\n2::M::50\n")
    found = read_attributes(path, reading(), "user")
    assert found.ids == ("1", "2")
    assert found.columns["3"].tolist() == ["18", "35"]


@pytest.mark.parametrize(
    "text",
    ["7,1,5\n8,2,4\n", "7\t1\t5\n8\t2\t4\n", "7::1::5\n8::2::4\n", "7 1 5\n8 2 4\n", "7,1\n8,2\n"],
)
def test_files_without_a_header(tmp_path: Path, text: str) -> None:
    assert pairs(write(tmp_path / "a.dat", text)) == [("7", "1"), ("8", "2")]


def test_text_ids_without_a_header_need_a_word(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "u1,i1\nu2,i2\n")
    with pytest.raises(DataError, match="--no-header"):
        pairs(path)
    assert pairs(path, header=False) == [("u1", "i1"), ("u2", "i2")]


def test_columns_by_name_and_by_number(tmp_path: Path) -> None:
    named = write(tmp_path / "a.csv", "who,what,stars\n7,x,2\n8,y,5\n")
    columns = {"user": "who", "item": "what", "weight": "stars"}
    assert pairs(named, columns=columns, least=3.0) == [("8", "y")]
    bare = write(tmp_path / "b.csv", "2,7,x\n5,8,y\n")
    assert pairs(bare, columns={"user": "2", "item": "3", "weight": "1"}, header=False, least=3.0) == [
        ("8", "y")
    ]
    with pytest.raises(DataError, match="there is no such column"):
        pairs(named, columns={"user": "nobody"})


def test_a_line_a_user(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "0 5 6 7\n1 5\n2\n3 8 9\n")
    assert pairs(path) == [("0", "5"), ("0", "6"), ("0", "7"), ("1", "5"), ("3", "8"), ("3", "9")]


def test_parquet_of_numbers_and_times(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    at = pa.array([START, START + 60], pa.timestamp("s"))
    pq.write_table(pa.table({"user_id": [7, 8], "item_id": ["x", "y"], "timestamp": at}), path)
    log = read_log(path, reading(), now=NOW)
    assert log.user.values == ("7", "8")
    assert log.at.tolist() == [START, START + 60]


def test_a_third_column_that_looks_like_a_time_is_one(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "a.txt", f"7\t1\t5\t{START}\n8\t2\t3\t{START + 9}\n"), reading(), now=NOW)
    assert log.at.tolist() == [START, START + 9]
    assert log.weight.tolist() == [1, 1]
    assert "no header" in log.notes[0]


def test_weights_of_zero_and_less_are_left_out_and_counted(tmp_path: Path) -> None:
    log = read_log(
        write(tmp_path / "a.csv", "user,item,weight\n1,1,2\n1,2,0\n2,1,-1\n2,2,1\n3,1,1\n"),
        reading(),
        now=NOW,
    )
    assert log.weight.tolist() == [2, 1, 1]
    assert any("2 rows left out" in note for note in log.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("user,item\n", "no row"),
        ("user,item,weight\n1,1,0\n", "no row is left"),
        ("user,thing\n1,2\n", "--columns item=COLUMN"),
    ],
)
def test_files_that_cannot_be_used_say_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        pairs(write(tmp_path / "a.csv", text))


def test_candidates_in_three_forms(tmp_path: Path) -> None:
    forms = {
        "ncf.txt": "(7,99)\t1\t2\t3\t4\n(8,98)\t5\t6\t7\t8\n",
        "lists.txt": "7 1 2 3 4\n8 5 6 7 8\n",
        "pairs.csv": "user,item\n7,1\n7,2\n7,3\n7,4\n8,5\n8,6\n8,7\n8,8\n",
    }
    for name, text in forms.items():
        user, item = read_candidates(write(tmp_path / name, text), reading())
        found = [(user.values[u], item.values[i]) for u, i in zip(user.codes, item.codes, strict=True)]
        assert found == [*(("7", str(n)) for n in (1, 2, 3, 4)), *(("8", str(n)) for n in (5, 6, 7, 8))], name


def events(rows: list[tuple[int, int, float]]) -> Positives:
    user, item, at = zip(*rows, strict=True)
    return Positives(
        np.array(user, np.int32),
        np.array(item, np.int32),
        np.array(at, float),
        np.ones(len(rows), np.float32),
    )


ROWS = [(u, (u * 7 + n) % 11, float(START + 10 * n + u)) for u in range(8) for n in range(6)]


def test_splits_by_time() -> None:
    one = events(ROWS)
    part = divide(one, "time:0.5,0.75", None, timed=True, seed=0).part
    assert one.at[part == TRAIN].max() < one.at[part == VALID].min() <= one.at[part == VALID].max()
    assert one.at[part == VALID].max() < one.at[part == TEST].min()
    assert (part == TRAIN).sum() == pytest.approx(24, abs=2)
    by_date = divide(one, "date:2001-01-01", None, timed=True, seed=0).part
    assert (by_date == TEST).all()


def test_the_last_of_each_and_nothing_of_who_has_one() -> None:
    one = events([*ROWS, (99, 1, float(START))])
    part = divide(one, "last", None, timed=True, seed=0).part
    for user in range(8):
        mine = np.flatnonzero(one.user == user)
        assert part[mine].tolist().count(TEST) == 1
        assert part[mine[np.argmax(one.at[mine])]] == TEST
    assert part[-1] == TRAIN


def test_at_random_leaves_everybody_something_to_train_on() -> None:
    one = events(ROWS)
    part = divide(one, "random:0.4", None, timed=False, seed=3).part
    assert all((part[one.user == user] == TRAIN).any() for user in range(8))
    assert np.array_equal(part, divide(one, "random:0.4", None, timed=False, seed=3).part)


def test_as_marked() -> None:
    part = divide(events(ROWS[:4]), "marked", ["train", "Test", "valid", ""], timed=False, seed=0).part
    assert part.tolist() == [TRAIN, TEST, VALID, OUT]


@pytest.mark.parametrize(
    "how", ["time", "time:2", "time:0.9,0.5", "date:soon", "often", "random:x", "marked"]
)
def test_splits_that_cannot_be_done_say_so(how: str) -> None:
    with pytest.raises(DataError, match=r"Write time:0\.8"):
        divide(events(ROWS), how, None, timed=True, seed=0)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60), st.integers(2, 4))
def test_the_core_is_the_largest_part_where_all_have_partners(
    cells: list[tuple[int, int]], least: int
) -> None:
    one = events([(u, i, 0.0) for u, i in cells])
    kept = core(one, least)
    inside = {cell for cell, keep in zip(cells, kept.tolist(), strict=True) if keep}
    for place in (0, 1):
        for who in {cell[place] for cell in inside}:
            assert sum(cell[place] == who for cell in inside) >= least
    left = set(cells)
    while True:  # the plain definition
        bad = {
            c
            for c in left
            if sum(o[0] == c[0] for o in left) < least or sum(o[1] == c[1] for o in left) < least
        }
        if not bad:
            break
        left -= bad
    assert inside == left


def test_validation_is_cut_as_the_test_was() -> None:
    one = events(ROWS)
    later = events([(u, 1, START + 1e6) for u in range(8)])
    by_time = validation(one, later, timed=True, seed=0)
    assert one.at[by_time.part == VALID].min() >= one.at[by_time.part == TRAIN].max()
    one_each = validation(one, events([(u, 1, 0.0) for u in range(8)]), timed=False, seed=0)
    assert np.bincount(one.user[one_each.part == VALID]).tolist() == [1] * 8


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
