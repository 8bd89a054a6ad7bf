"""The ranker's features: what a logged page gives in training is what the served page was ranked by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.customer import Blobs, decode_customer
from features.events import served_to_log, unpack
from features.views import SCHEMAS
from serving.decide import decide
from serving.ranking import Signals
from serving.served import record
from serving.wire import ContextAsk, RecommendAsk
from tests.rankers import ranked_bundle
from tests.worlds import (
    NOW,
    contact_entries,
    customer,
    profile_blob,
    query,
    recent_entries,
    tiny_bundle,
    tiny_live,
)
from training.ranker_rows import page_matrix
from training.replay import query_of

LIVE = tiny_live(ranked_bundle(tiny_bundle()))


@pytest.mark.parametrize("number", range(6))
def test_training_sees_what_serving_saw(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(number)
    names = [f"i{one}" for one in rng.integers(0, 130, 24)]  # some are not in the catalogue
    told = list(enumerate(names))
    did = recent_entries(*((one, "clicked" if k % 3 else "converted", 60.0 + 9e4 * k) for k, one in told))
    met = contact_entries(*((one, "displayed" if k % 4 else "clicked", 30.0 + 5e4 * k) for k, one in told))
    profile = profile_blob(assets=10.0**number, star_level=number, tz=b"Asia/Shanghai", segment=number % 4)
    blobs = Blobs(profile if number else None, None, did.tobytes(), met.tobytes(), None)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    plain = Signals.matrix

    def watched(self: Signals, page: Any, candidates: Any) -> np.ndarray:
        made = plain(self, page, candidates)
        seen.append((candidates.rows, made))
        return made

    ask = RecommendAsk(surface="home", user_id="u1", context=ContextAsk(channel="app"))
    who = decode_customer(blobs, now=NOW, schemas=SCHEMAS)
    asked = query(LIVE, who, app_version=0, auth_level=0)
    with monkeypatch.context() as patched:
        patched.setattr(Signals, "matrix", watched)
        decision = decide(asked, LIVE)
    assert "Ranked" not in decision.degraded
    rows, served = seen[0]
    logged = unpack(served_to_log(record(decision, blobs, ask, LIVE)))
    some = np.sort(rng.choice(len(rows), len(rows) // 3, replace=False))
    ranker = LIVE.bundle.ranker
    assert ranker is not None
    signals = Signals(ranker.facts, LIVE.bundle.popular, ranker.scale)
    again = page_matrix(query_of(logged, LIVE), LIVE, rows[some], signals)
    assert np.array_equal(again, served[:, some])
    assert len(np.unique(served, axis=1).T) > 20  # and they do tell items apart


def test_a_customer_of_nothing_has_features() -> None:
    ranker = LIVE.bundle.ranker
    assert ranker is not None
    signals = Signals(ranker.facts, LIVE.bundle.popular, ranker.scale)
    bare = customer()
    found = page_matrix(query(LIVE, bare), LIVE, np.arange(9, dtype=np.int32), signals)
    assert np.isfinite(found).all()
