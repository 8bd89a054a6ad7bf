"""The fuzzer's own hands: mutations differ, and what the bench found stays mended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zstandard

from serving import remembered
from training.bench import fuzz_guided
from training.bench.fuzz import _decoders, _page_ask, mutated, mutated_json
from training.bench.fuzz_runs import guided
from training.bench.tally import Tally


def test_mutations_differ_and_repeat_with_the_seed() -> None:
    good = b"0123456789" * 5
    first = [mutated(good, np.random.default_rng([1, n])) for n in range(200)]
    assert first == [mutated(good, np.random.default_rng([1, n])) for n in range(200)]
    assert len(set(first)) > 150 and sum(one != good for one in first) > 190
    ask, rng = _page_ask(1), np.random.default_rng(2)
    assert sum(mutated_json(ask, rng) != ask for _ in range(100)) > 90 and ask == _page_ask(1)


def test_a_page_that_claims_to_be_huge_is_not_unpacked() -> None:
    """Found by `fenliu bench fuzz`: the size in the frame's head was allocated as it stood."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(2000)))
    claims = b"\x28\xb5\x2f\xfd\xe0" + (1 << 45).to_bytes(8, "little") + bytes(frame[6:])
    assert zstandard.frame_content_size(claims) == 1 << 45
    assert remembered.decode(claims) is None and remembered.decode(bytes(frame)) is None


def test_the_decoders_refuse_with_their_own_errors() -> None:
    tally = Tally()
    _decoders(1_200, np.random.default_rng(3), tally)
    assert tally.figures["decoder_inputs"] >= 1_200
    assert (tally.figures["crashes"], tally.figures["forged_tokens_taken"]) == (0, 0), tally.notes["crashes"]


def test_what_a_guided_run_said_is_read() -> None:
    fine = fuzz_guided.read(
        "record", 0, "INFO: x\n#200000\tDONE   cov: 15 ft: 15 corp: 5/862b\nDone 200000 runs"
    )
    assert fine == fuzz_guided.Run("record", 200_000, 15, "")
    crash = fuzz_guided.read("token", 77, " === Uncaught Python exception: ===\nKeyError: 7\n#900\n")
    assert crash.inputs == 0 and "KeyError: 7" in crash.crash
    assert fuzz_guided.read("token", 1, "").crash == "exit 1"


def test_without_atheris_that_is_said_and_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzz_guided, "PYTHON", tmp_path / ".venv-fuzz" / "bin" / "python")
    tally = Tally()
    guided(5, 1, tally)
    assert not tally.result().ok and "make fuzz" in tally.notes["guided_inputs"]
