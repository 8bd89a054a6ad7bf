"""The body of a page, its token and its record by columns, against their twins place by place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.token import TokenSigner
from serving.decide import decide
from serving.placed import Columns, packed
from serving.writing import page_bytes
from tests.plain_bytes import plain_page_bytes
from tests.worlds import NOW, query, sold, tiny_bundle, tiny_live, tiny_plan

LIVE = tiny_live()
SOLD = tiny_live(tiny_bundle(), tiny_plan(campaigns=[sold(1, "i14", values={"click": 100.0})]))
ODD = [float("nan"), float("inf"), -float("inf"), 1e30, -0.0, 1e-9, 12345.67895]


def same(decision, live, **also):
    asked = {"page_token": "tok", "valid_until": NOW + 600, "campaigns": live.plan.campaigns.ids, **also}
    written = page_bytes(decision, live.texts, **asked)
    assert written == plain_page_bytes(decision, live.texts, **asked)
    assert written == page_bytes(decision, live.texts, columns=Columns.of(decision.placements), **asked)
    return written


@pytest.mark.parametrize("live", [LIVE, SOLD])
@pytest.mark.parametrize("locale", ["zh-CN", "en-GB"])
def test_pages_are_written_as_their_twin_writes_them(live, locale):
    asked = query(live)
    decision = decide(replace(asked, context=replace(asked.context, locale=locale)), live)
    same(decision, live)
    same(decision, live, extra={"effort": "full"}, explained=[{"n": np.float32(1.5)}] * len(asked.slots))
    same(replace(decision, placements=(), degraded=("live",)), live)


def test_odd_numbers_and_mixed_slots_are_written_alike():
    decision = decide(query(SOLD), SOLD)
    assert any(place.campaign >= 0 for place in decision.placements)
    odd = [
        place._replace(score=ODD[i % len(ODD)], propensity=(1.0, 0.125, 0.3333333)[i % 3])
        for i, place in enumerate(decision.placements)
    ]
    same(replace(decision, placements=tuple(odd)), SOLD)
    same(replace(decision, placements=tuple(reversed(odd))), SOLD)  # slots need not come in order


def test_a_token_signed_from_bytes_is_the_one_signed_from_arrays():
    signer = TokenSigner([("k1", b"s" * 32)])
    columns = Columns.of(decide(query(SOLD), SOLD).placements)
    rest = ("d1", "u:u1"), (1, [7, 8, 9, 10, 11, 12])
    arrays = columns.slot, columns.key, columns.campaign_key, columns.creative_key, columns.flags
    own = (packed("Q", columns.key), packed("I", columns.campaign_key), packed("I", columns.creative_key),
           bytes(columns.flags))  # fmt: skip
    plain = signer.sign(*rest[0], NOW, NOW + 60, *rest[1], *arrays, device="v:d", org=3)
    assert (
        signer.sign_packed(*rest[0], (NOW, NOW + 60), *rest[1], bytes(columns.slot), own, device="v:d", org=3)
        == plain
    )


@pytest.mark.parametrize(
    ("code", "dtype", "column"),
    [
        ("Q", "<u8", (0, 1, 2**64 - 1)), ("I", "<u4", (7, 2**32 - 1)), ("B", "u1", (0, 255)),
        ("f", "<f4", (1.5, float("nan"), 1e39, -1e39)), ("f", "<f4", ()),
    ],
)  # fmt: skip
def test_columns_are_packed_as_arrays_are(code, dtype, column):
    with np.errstate(over="ignore"):
        assert packed(code, column) == np.array(column, dtype).tobytes()
