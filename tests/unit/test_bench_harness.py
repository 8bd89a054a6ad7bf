"""What benchmarks share: bars, the table, the closing JSON line, the exit status; and their own arithmetic.

No figure is timed here.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter

import hiredis
import numpy as np
import pytest
from rich.console import Console

from features.store import feature_key
from features.views import PROFILE
from training.bench import harness
from training.bench.harness import BENCHES, Bar, Result, meets, report
from training.bench.load import Outcome
from training.bench.serve_rounds import EMPTY, OURS, Rounds
from training.bench.store_load import PIPELINED, _commands
from training.bench.tally import Tally


@pytest.mark.parametrize(
    ("figure", "bar", "met"),
    [
        (1.3, ("<=", 1.3), True),
        (1.3000001, ("<=", 1.3), False),
        (0.0, ("<=", 0.0), True),
        (100_000.0, (">=", 100_000.0), True),
        (99_999.9, (">=", 100_000.0), False),
        (math.nan, ("<=", 1.0), False),
        (math.nan, (">=", 1.0), False),
        (math.inf, ("<=", 1.0), False),
    ],
)
def test_a_bar_is_met_or_not(figure: float, bar: Bar, met: bool) -> None:
    assert meets(figure, bar) is met


def test_a_result_is_ok_when_every_bar_is_met() -> None:
    figures = {"fast": 5.0, "failed": 0.0, "free": math.nan}
    assert Result(figures).ok
    assert Result(figures, {"fast": (">=", 5.0), "failed": ("<=", 0.0)}).ok
    assert not Result(figures, {"fast": (">=", 5.1), "failed": ("<=", 0.0)}).ok
    assert not Result(figures, {"never_measured": ("<=", 1e9)}).ok


def test_the_last_line_is_json_and_the_status_follows_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.put("pages_per_s", 1234.5678912, "pages/s", "a note", (">=", 1000.0))
    tally.put("p99_ms", math.nan, "ms")
    assert report("loop", tally.result(), Console(file=sys.stdout, width=200)) == 0
    table, _, last = capsys.readouterr().out.rstrip("\n").rpartition("\n")
    assert json.loads(last) == {
        "bench": "loop",
        "figures": {"pages_per_s": 1234.567891, "p99_ms": None},
        "bars": {"pages_per_s": [">=", 1000.0]},
        "ok": True,
    }
    assert ">= 1000 met" in table and "a note" in table and "1,235" in table

    missed = Result({"failed": 2.0}, {"failed": ("<=", 0.0)})
    assert report("serve", missed, Console(file=sys.stdout, width=200)) == 1
    table, _, last = capsys.readouterr().out.rstrip("\n").rpartition("\n")
    assert json.loads(last)["ok"] is False and "MISSED" in table


def test_a_figure_is_measured_once() -> None:
    tally = Tally()
    tally.put("swap_s", 0.4)
    with pytest.raises(ValueError, match="swap_s"):
        tally.put("swap_s", 0.3)
    assert tally.result().figures == {"swap_s": 0.4}


def test_every_benchmark_has_the_shape() -> None:
    parser = argparse.ArgumentParser()
    harness.register(parser, lambda args: 0)
    for name in BENCHES:
        assert harness.load(name).ABOUT
        args = parser.parse_args([name, "--quick"])
        assert args.bench == name and args.quick and args.run(args) == 0
    assert parser.parse_args(["loop", "--local", "--trials", "7"]).trials == 7
    with pytest.raises(SystemExit):
        parser.parse_args(["nothing"])


def outcome(rate: float, latency: float, failed: int = 0) -> Outcome:
    statuses = Counter({200: int(rate * 2), 503: failed})
    return Outcome([latency] * statuses.total(), statuses, 2.0)


def test_rounds_compare_within_a_round() -> None:
    """A round in which the machine was slow for both does not move the ratio."""
    rounds = Rounds()
    for speed in (1.0, 1.0, 0.1):
        rounds.add(EMPTY, 1, outcome(1000 * speed, 0.001 / speed))
        rounds.add(OURS, 1, outcome(500 * speed, 0.002 / speed, failed=3))
    assert rounds.ratio(1) == pytest.approx(0.5)
    assert rounds.rate(OURS, 1) == 500 and rounds.p50_ms(EMPTY, 1) == pytest.approx(1.0)
    assert rounds.failed == {OURS: 9, EMPTY: 0} and rounds.asked == 2 * 3150 + 9


def test_the_knee_is_of_pages_made_with_full_effort() -> None:
    rounds = Rounds()
    for connections, rate, poor in ((1, 300, 0), (16, 400, 1), (64, 900, 60)):
        rounds.add(OURS, connections, outcome(rate, 0.01))
        rounds.efforts[connections] = Counter(full=100 - poor, popular=poor)
    assert rounds.full(64) == 0.4
    assert rounds.knee() == 400
    rounds.unread[16] = 90
    assert rounds.full(16) == pytest.approx(0.09) and rounds.knee() == 300


def test_the_plain_client_sets_what_ours_sets() -> None:
    """Same number of commands, keys and values of the same lengths, as RESP that a server can read."""
    ids = [f"c{number:08d}" for number in range(PIPELINED + 3)]
    blobs = PROFILE.pack(PROFILE.blank(len(ids)), as_of=np.arange(len(ids), dtype=np.float64))
    pieces = list(_commands(ids, blobs))
    assert len(pieces) == 2
    reader = hiredis.Reader()
    for piece in pieces:
        reader.feed(piece)
    for one, blob in zip(ids, blobs, strict=True):
        name, key, value, ex, ttl = reader.gets()
        assert (name, ex) == (b"SET", b"EX") and int(ttl) > 0
        assert value == blob.tobytes()
        assert len(key) == len(feature_key("v0", PROFILE.name, one, PROFILE.entity))
    assert reader.gets() is False
