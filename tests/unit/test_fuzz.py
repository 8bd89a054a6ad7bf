"""The fuzzer's own hands: mutations differ, and what the bench found stays mended."""

from __future__ import annotations

import numpy as np
import zstandard

from serving import remembered
from training.bench.fuzz import _decoders, _page_ask, mutated, mutated_json
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
