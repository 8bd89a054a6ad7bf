"""The bank's ONNX models asked about every customer: what they may read, and what becomes of the answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from features.external import KEPT
from features.ids import key32, keys64
from features.keyspace import ViewBatch
from features.views import PROFILE
from tests.onnx_files import expected, model
from training import scores_commands as commands
from training.base_columns import Base, BaseCopy
from training.lake import Lake
from training.onnx_scorer import OnnxScorer, asked, kept_name
from training.scores import Scores, ScoresError
from training.usage import UsageError

NOW, N = 1.7e9, 60
ITEMS = [f"i{n}" for n in range(4)]
KNOWN = keys64(ITEMS)
WEIGHT = np.array([[1e-4, -1e-4, 2e-4, 0.0], [0.5, 0.2, -0.3, 0.1]], np.float32)
BIAS = np.array([0.1, 0.0, -0.1, 0.2], np.float32)
SAID = {"fields": "assets,churn", "items": ",".join(ITEMS)}


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """c00 … c59: assets by number, unknown of every seventh; every tenth refuses profiling; `churn` is the
    bank's own column.
    """
    ids = np.array([f"c{n:02}".encode() for n in range(N)], np.bytes_)
    number = np.arange(N)
    records = PROFILE.blank(N)
    records["assets"], records["age"] = number * 1000.0, 20 + number % 50
    records["profiling"] = number % 10 != 0
    known = np.full(N, PROFILE.all_known, np.uint64)
    known[number % 7 == 1] &= ~np.uint64(PROFILE.bit("assets"))
    users = pa.table({"user_id": [f"c{n:02}" for n in range(N)], "churn": (number / N).tolist()})
    batch = ViewBatch(PROFILE, ids, PROFILE.pack(records, as_of=NOW, known=known), NOW)
    return Base(BaseCopy(tmp_path / "base", users).write("v1", [batch]))


def test_every_customer_who_allows_it_is_scored(base: Base) -> None:
    found = asked(OnnxScorer(model(WEIGHT, BIAS, said=SAID)), base, "m", KNOWN, now=NOW, days=2.0)
    scored = [n for n in range(N) if n % 10 and n % 7 != 1]  # of unknown assets the answer is no number
    assert found.users == tuple(f"c{n:02}" for n in scored)
    assert "no numbers" in found.notes[0]
    columns = np.stack([np.arange(N) * 1000.0, (np.arange(N) / N).astype(np.float32)], axis=1)
    truth = expected(WEIGHT, BIAS, columns.astype(np.float32))
    for place, n in enumerate(scored):
        mine = found.of(place)
        order = np.argsort(-truth[n], kind="stable")
        np.testing.assert_allclose(mine["score"], truth[n][order], rtol=1e-5)
        assert set(mine["item"].tolist()) == set(KNOWN.tolist())
    assert set(found.entries["model"].tolist()) == {key32("m")}
    assert set(found.entries["expires"].tolist()) == {int(NOW + 2 * 86_400)}


def test_inputs_by_name_say_the_same_in_any_order(base: Base) -> None:
    one = asked(OnnxScorer(model(WEIGHT, BIAS, said=SAID)), base, "m", KNOWN, now=NOW)
    blob = model(WEIGHT, BIAS, inputs=("assets", "churn"))
    other = asked(OnnxScorer(blob, items=ITEMS), base, "m", KNOWN, now=NOW)
    assert np.array_equal(one.entries, other.entries)
    turned = OnnxScorer(model(WEIGHT[::-1].copy(), BIAS, inputs=("churn", "assets")), items=ITEMS)
    other = asked(turned, base, "m", KNOWN, now=NOW)
    np.testing.assert_allclose(other.entries["score"], one.entries["score"], rtol=1e-4)


def test_only_a_customers_best_are_kept(base: Base) -> None:
    items = [f"i{n}" for n in range(KEPT + 20)]
    weight = np.zeros((1, len(items)), np.float32)
    scorer = OnnxScorer(
        model(weight, np.arange(len(items), dtype=np.float32) / 10, inputs=("churn",)), items=items
    )
    found = asked(scorer, base, "m", keys64(items), now=NOW)
    assert len(found.of(0)) == KEPT and (np.diff(found.of(0)["score"]) <= 0).all()
    assert int(found.of(0)["item"][0]) == int(keys64(items)[-1])


@pytest.mark.parametrize("field", ["age", "risk_level", "holdings", "consents", "segment", "tz"])
def test_what_permission_rests_on_cannot_be_asked_for(base: Base, field: str) -> None:
    scorer = OnnxScorer(model(WEIGHT[:1], BIAS, inputs=(field,)), items=ITEMS)
    with pytest.raises(ScoresError, match="may not ask"):
        asked(scorer, base, "m", KNOWN, now=NOW)


def test_what_cannot_be_asked_says_why(base: Base) -> None:
    with pytest.raises(ScoresError, match="cannot be loaded"):
        OnnxScorer(b"no model at all", items=ITEMS, fields=["assets"])
    with pytest.raises(ScoresError, match="what it reads"):
        OnnxScorer(model(WEIGHT, BIAS), items=ITEMS)
    with pytest.raises(ScoresError, match="name each item"):
        OnnxScorer(model(WEIGHT, BIAS, said={"fields": "assets,churn"}))
    with pytest.raises(ScoresError, match="the base knows no"):
        strange = OnnxScorer(model(WEIGHT[:1], BIAS, inputs=("heart_rate",)), items=ITEMS)
        asked(strange, base, "m", KNOWN, now=NOW)
    with pytest.raises(ScoresError, match="4\\) for 5 customers and 2 items"):
        OnnxScorer(model(WEIGHT, BIAS, said=SAID), items=ITEMS[:2]).score(np.ones((5, 2), np.float32))
    with pytest.raises(ScoresError, match="does not know"):
        asked(OnnxScorer(model(WEIGHT, BIAS, said=SAID)), base, "m", keys64(["x"]), now=NOW)


def test_answers_that_are_no_numbers_are_refused(base: Base) -> None:
    bad = BIAS.copy()
    bad[:2] = np.nan
    with pytest.raises(ScoresError, match="nothing was imported"):
        asked(OnnxScorer(model(WEIGHT, bad, said=SAID)), base, "m", KNOWN, now=NOW)


def test_without_the_runtime_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ScoresError, match="pip install"):
        OnnxScorer(model(WEIGHT, BIAS, said=SAID))


def test_a_failing_model_leaves_the_live_version(base: Base, tmp_path: Path) -> None:
    scores, blob = Scores(Lake(tmp_path / "lake"), None), model(WEIGHT, BIAS, said=SAID)
    scorer = OnnxScorer(blob)
    scores.keep("m", kept_name(scorer.digest), blob)
    made = {"digest": scorer.digest, "fields": [], "items": [], "consents": []}
    scores.put("m", asked(scorer, base, "m", KNOWN, now=NOW), at=NOW, onnx=made)
    again = OnnxScorer(scores.kept("m", kept_name(scores.index("m")["onnx"]["digest"])))
    assert again.digest == scorer.digest
    with pytest.raises(ScoresError, match=r"moved by|equal"):  # the gate of all imported scores
        steep = OnnxScorer(model(WEIGHT * 0, BIAS * 0 - 9, said=SAID))
        scores.put("m", asked(steep, base, "m", KNOWN, now=NOW), at=NOW)
    with pytest.raises(ScoresError, match="not kept"):
        scores.kept("m", "other.onnx")
    assert scores.index("m")["live"] == 1 and scores.models() == ["m"]


def test_the_command_asks_again_what_it_has_kept(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, told = Lake(tmp_path / "lake"), []
    monkeypatch.setattr(lake, "read_items", lambda: [{"id": item} for item in ITEMS])
    scores = Scores(lake, None)
    monkeypatch.setattr(commands, "_scores", lambda _: scores)
    monkeypatch.setattr(commands, "may", lambda _: None)
    record = SimpleNamespace(record=lambda *said: told.append(said))
    desk = SimpleNamespace(settings=SimpleNamespace(home=tmp_path), governance=record, who="ann")
    parser = argparse.ArgumentParser()
    commands.add_scores(parser)
    file = tmp_path / "m.onnx"
    file.write_bytes(model(WEIGHT, BIAS, said=SAID))
    console = Console(quiet=True)

    def run(*words: str) -> int:
        return commands.ask(parser.parse_args(["onnx", *words, "--model", "m"]), desk, console)

    with pytest.raises(UsageError, match="before"):
        run()
    with pytest.raises(ScoresError, match="knows no 'x'"):
        run(str(file), "--fields", "x,y")
    assert run(str(file), "--consent", "marketing") == 0
    file.unlink()
    with pytest.raises(UsageError, match="no such file"):
        run(str(file))
    assert run() == 0
    index = scores.index("m")
    assert index["live"] == 2 and [one["consents"] for one in index["versions"]] == [["marketing"]] * 2
    assert np.array_equal(scores.read("m", 1).entries["item"], scores.read("m", 2).entries["item"])
    assert [said[4]["onnx"] for said in told] == [index["onnx"]["digest"]] * 2
