"""Every quick way of the decision beside the plain one: same answers, whoever asks, in whatever order."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.customer import LATE_BLOB, Blobs, decode_customer
from features.events import WHAT
from features.ids import KINDS, key32, key64
from features.transforms import EventWeights, fatigue, fatigue_of, history
from features.views import CONTACT, HOLDINGS_KEPT, RECENT
from serving.blend import TERMS, Blend
from serving.catalogue import REPEATS
from serving.decide import page_of
from serving.domain import Candidates, Facts
from serving.filters import FILTERS
from serving.live import Live
from serving.scorers import LAST, Blended, HeldLast
from serving.sources import NearestToCustomer, PopularInCity, PopularInSegment, Taste
from serving.vector_model import VectorModel
from tests.worlds import (
    DAY,
    NOW,
    contact_entries,
    customer,
    item,
    membership_blob,
    profile_blob,
    query,
    recent_entries,
    stranger,
    tiny_bundle,
    tiny_live,
)

N = 96


def restricted(n: int) -> dict[str, object]:
    """Rules over the catalogue so that every one of them has rows, alone and with others."""
    rng = np.random.default_rng(n)
    choices: dict[str, tuple[object, ...]] = {
        "risk_class": (1, 3, 5),
        "min_age": (18, 60),
        "max_age": (17, 65),
        "needs": (["i3"], ["i3", "i4"]),
        "excludes": (["i4"], ["i9"]),
        "repeat": ("never", "after_maturity"),
        "channels": (["app"], ["web", "h5"]),
        "min_app_version": ("1", "9.2.0", "99"),
        "regions": (["310000"], ["110000", "310000"]),
        "stock": (0, 3),
        "auth_level": ("device", "face"),
        "consents": (["marketing"], ["marketing", "third_party"]),
        "audience": (5, 6),
        "cooling": (True,),
        "starts": ("2026-09-01T00:00:00Z", "2026-09-30T00:00:00Z"),
        "ends": ("2026-10-02T00:00:00Z", "2026-11-01T00:00:00Z"),
        "creatives": (
            [{"id": f"c{n}", "title": "c", "from": "2026-09-10T00:00:00Z", "until": "2026-09-25T00:00:00Z"}],
            [{"id": f"c{n}", "title": "c", "state": "draft"}],
        ),
    }
    names = rng.permutation(sorted(choices))[: rng.integers(0, 4)].tolist()
    return {name: choices[name][rng.integers(len(choices[name]))] for name in names}


@pytest.fixture(scope="module")
def live() -> Live:
    return tiny_live(tiny_bundle(items=[item(n, **restricted(n)) for n in range(N)], seed=3), strict=False)


entries = st.lists(
    st.tuples(
        st.integers(0, N + 3).map(lambda n: f"i{n}"),
        st.sampled_from(("clicked", "dismissed", "converted", "displayed", "acted")),
        st.floats(0, 40 * DAY),
    ),
    max_size=12,
)


@st.composite
def customers(draw):
    held = [key64(f"i{n}") for n in draw(st.sets(st.integers(0, N - 1), max_size=HOLDINGS_KEPT))]
    blobs = Blobs(
        profile_blob(
            age=draw(st.sampled_from((0, 17, 18, 40, 59, 60, 65, 66))),
            risk_level=draw(st.integers(0, 5)),
            consents=draw(st.integers(0, 7)),
            blocked=draw(st.sampled_from((0, 1, 4, 32, 36))),
            holdings=held,
            city=draw(st.sampled_from((0, key32("310000"), key32("330000")))),
            segment=draw(st.integers(0, 4)),
            known=draw(st.sampled_from((None, ("age", "holdings"), ("risk_level", "consents", "blocked")))),
        ),
        membership_blob(*draw(st.sets(st.sampled_from((5, 6, 7))))),
        recent_entries(*draw(entries)).tobytes(),
        contact_entries(*draw(entries)).tobytes(),
        None,
    )
    for view in draw(st.sets(st.sampled_from(("profile", "membership", "contact")))):
        blobs = blobs._replace(**{view: draw(st.sampled_from((None, LATE_BLOB)))})
    return decode_customer(blobs, now=NOW)


asks = st.fixed_dictionaries(
    {
        "channel": st.integers(0, 5),
        "app_version": st.sampled_from((0, 1_000_000, 9_001_999, 9_002_000, 99_000_000)),
        "auth_level": st.integers(0, 4),
        "city": st.sampled_from((0, key32("310000"), key32("110000"), key32("440300"))),
        "now": st.sampled_from([NOW + days * DAY for days in (-60, -20, -10, 0, 3.5, 10, 60)]),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(customers(), asks), min_size=1, max_size=4))
def test_rules_looked_up_answer_as_rules_asked(live, pages):
    """On one Live, so that what one page left behind is what the next one meets."""
    permission = live.pipelines["full"].permission
    assert len(permission._tabled) + len(permission._listed) + len(permission._asked) == len(FILTERS)
    some = np.random.default_rng(0).permutation(N)[:40].astype(np.int32)
    for who, ask in pages:
        page = page_of(query(live, who, **ask), live)
        for rows in (np.arange(N, dtype=np.int32), some, some[:0]):
            assert permission.drops(page, rows).tolist() == permission.drops_asked(page, rows).tolist()


SWEEPS = {
    "age": [{"age": age} for age in (0, 16, 17, 18, 19, 59, 60, 61, 64, 65, 66)],
    "risk_level": [{"risk_level": level} for level in range(6)],
    "consents": [{"consents": bits} for bits in range(8)],
    "blocked": [{"blocked": bits} for bits in (0, 1, 4, 8, 32, 44)],
    "city": [{"city": key32(code)} for code in ("310000", "110000", "440300")] + [{"city": 0}],
}
STEPS = ("2026-09-01", "2026-09-10", "2026-09-25", "2026-09-30", "2026-10-02", "2026-11-01")
ASKED = {
    "channel": range(6),
    "app_version": (0, 999_999, 1_000_000, 9_001_999, 9_002_000, 98_999_999, 99_000_000),
    "auth_level": range(5),
    "now": [datetime.fromisoformat(f"{day}T00:00:00Z").timestamp() + s for day in STEPS for s in (-1, 0, 1)],
}


@pytest.mark.parametrize("fact", [*SWEEPS, *ASKED])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_table_is_not_used_beyond_where_a_rule_changes_its_mind(live, fact, backwards):
    """Pages that differ in one fact, across each of its steps, in both directions, over the same tables."""
    whole = live.pipelines["full"].permission
    fresh, rows = type(whole)(FILTERS, whole.columns, whole.rules), np.arange(N, dtype=np.int32)
    if fact in SWEEPS:
        pages = [query(live, customer(**{"risk_level": 5, "consents": 7} | one)) for one in SWEEPS[fact]]
    else:
        pages = [query(live, customer(risk_level=5, consents=7), **{fact: value}) for value in ASKED[fact]]
    answers = set()
    for asked in reversed(pages) if backwards else pages:
        found = fresh.drops(page_of(asked, live), rows).tolist()
        assert found == fresh.drops_asked(page_of(asked, live), rows).tolist()
        answers.add(tuple(found))
    assert len(answers) > 1


def test_tables_are_let_go_when_they_are_many(live):
    whole = live.pipelines["full"].permission
    small = type(whole)(FILTERS, whole.columns, whole.rules, kept=0)
    rows = np.arange(N, dtype=np.int32)
    for risk in (0, 1, 3, 5, 2, 0):
        for age in (0, 17, 40, 70):
            page = page_of(query(live, customer(risk_level=risk, age=age)), live)
            assert small.drops(page, rows).tolist() == small.drops_asked(page, rows).tolist()
            assert len(small._tables) <= 4


@settings(deadline=None)  # the first example loads compiled loops
@given(entries, st.floats(-3 * DAY, 3 * DAY))
def test_the_history_is_the_sum_of_what_is_known_by_the_latest(events, later):
    log, weights, now = recent_entries(*events), EventWeights(), NOW + later
    known = {key64(f"i{n}"): n for n in range(N)}
    gain = weights.decayed(log["what"], log["action"], log["at"], now)
    order = sorted(range(len(log)), key=lambda i: (log["at"][i], i))
    total, last = {}, {}
    for place, i in enumerate(order):
        row = known.get(int(log["item"][i]))
        if row is not None:
            total[row], last[row] = total.get(row, 0.0) + float(gain[i]), place
    wanted = [row for row in sorted(total, key=lambda row: last[row]) if total[row] > 0]
    found = history(
        log, lambda keys: np.array([known.get(k, -1) for k in keys.tolist()], np.int32), now, weights
    )
    assert found.rows.tolist() == wanted and found.rows.dtype == np.int32
    assert found.weights.tolist() == [np.float32(total[row]) for row in wanted]


def test_fatigue_by_place_is_fatigue_by_key():
    rng = np.random.default_rng(4)
    keys = np.array([key64(f"i{n}") for n in range(9)], np.uint64)
    for size in (0, 1, 5, 60, 256):
        log = np.zeros(size, CONTACT)
        log["item"] = rng.choice(np.append(keys, keys[:2] + np.uint64(1)), size)
        log["what"] = rng.choice([1, 1, 1, 2, 3, 4, 5], size)
        log["at"] = NOW - rng.integers(-100, 10 * DAY, size)
        rows = np.arange(2, 2 + len(keys), dtype=np.int32)
        row_of = dict(zip(keys.tolist(), rows.tolist(), strict=True))

        def lookup(items: np.ndarray, row_of: dict[int, int] = row_of) -> np.ndarray:
            return np.array([row_of.get(one, -1) for one in items.tolist()], np.int32)

        quick = fatigue_of(log, rows, lookup, NOW)
        assert quick == pytest.approx(fatigue(log, keys, NOW), rel=1e-6)
        assert quick.any() or size < 60


def everything(live: Live, page, **columns) -> Candidates:
    rows = np.arange(len(live), dtype=np.int32)
    facts = Facts(live.pipelines["full"].permission.columns, rows)
    score = np.linspace(0.9, 0.1, len(rows), dtype=np.float32)
    return Candidates(rows, np.ones(len(rows), np.uint32), score, facts, columns)


@pytest.mark.parametrize("segment", [0, 2, 99])
@pytest.mark.parametrize("have", [(), ("model",), ("model", "fatigue"), ("fatigue",)])
def test_the_blend_by_rows_is_the_blend_by_terms(live, segment, have):
    rng, n = np.random.default_rng(1), len(live)
    blend = Blend(rng.normal(size=(len(KINDS), len(TERMS))).astype(np.float32))
    columns = {name: rng.normal(size=n).astype(np.float32) for name in have}
    if "model" in columns:
        columns["model"][::7] = np.nan
    page = page_of(query(live, customer(segment=segment)), live)
    kinds, popular = live.table["kind"], live.bundle.popular
    candidates = everything(live, page, **columns)
    plain = blend.score(
        kinds,
        columns.get("model", np.full(n, np.nan, np.float32)),
        popular.log_share(segment, candidates.rows),
        columns.get("fatigue", np.zeros(n, np.float32)),
    )
    scorer = Blended(blend, popular, np.ascontiguousarray(kinds))
    assert scorer.score(page, candidates) == pytest.approx(plain, abs=2e-7)
    told = sum(scorer.terms(page, candidates).values())
    assert 1 / (1 + np.exp(-told)) == pytest.approx(plain, abs=1e-6)


def test_what_is_held_comes_last_by_number_as_by_looking_at_each(live):
    again = live.table["repeat"] == REPEATS.index("after_maturity")
    mine = [f"i{row}" for row in np.flatnonzero(again)[:2].tolist()]
    assert len(mine) == 2
    who = customer(
        holdings=[key64(mine[0]), key64("i0")], contact=contact_entries((mine[1], "converted", 60))
    )
    page = page_of(query(live, who), live)
    candidates = everything(live, page)
    owned = again & np.isin(live.keys, [key64(name) for name in (*mine, "i0")])
    found = HeldLast.of(live.table["repeat"], live.keys).score(page, candidates)
    assert owned.sum() == 2
    assert found.tolist() == np.where(owned, candidates.score * LAST, candidates.score).tolist()


def by_kind(live: Live) -> tuple[np.ndarray, ...]:
    return tuple(np.flatnonzero(live.table["kind"] == kind).astype(np.int32) for kind in range(len(KINDS)))


def personal(live: Live, **fields):
    page = page_of(query(live, customer(star_level=3, **fields)), live)
    bundle = live.bundle
    Taste(bundle.model, bundle.weights, live.items.rows_of_keys).understand(page)
    return page


@pytest.mark.parametrize("places", [1, 3, 8, 200])
def test_one_pass_finds_what_the_index_of_each_kind_finds(live, places):
    """The model's own index (FAISS, exact here), and ranking kind by kind."""
    source = NearestToCustomer(live.bundle.model, by_kind(live))
    page = personal(live, recent=recent_entries(("i5", "clicked", 60)))
    page = replace(page, demand=tuple((kind, places) for kind in (0, 2, 3, 5)))
    found = source.propose(page)
    best = {
        row: score
        for kind, k in page.demand
        for row, score in zip(*live.bundle.model.nearest(page.taste, k, kind))
    }
    assert set(found.rows.tolist()) == set(best)
    assert found.score == pytest.approx([best[row] for row in found.rows.tolist()], rel=1e-5)


def test_ties_and_unknown_scores_are_ranked_kind_by_kind(live):
    model = live.bundle.model
    vectors = model.vectors.copy()
    vectors[::2] = 0  # nobody met them: no score
    vectors[1::2] = vectors[1]  # and the others are all alike
    blank = VectorModel(vectors, model.kinds.codes, model.prior, regularization=1.0, tau=2.0, alpha=20.0)
    source = NearestToCustomer(blank, by_kind(live))
    page = replace(personal(live), demand=((1, 4), (2, 6)))
    page.taste = blank.represent(page.history, np.zeros(0, np.uint32), 0)
    found = source.propose(page)
    kinds = live.table["kind"][found.rows]
    assert np.bincount(kinds, minlength=6).tolist() == [0, 4, 6, 0, 0, 0]
    assert np.isfinite(found.score[kinds == 1]).all() and len(set(found.rows.tolist())) == 10


def test_a_head_cut_once_is_the_head_cut_again(live):
    popular = live.bundle.popular
    inside, around = PopularInSegment(popular), PopularInCity(popular)
    for _ in range(2):
        for segment in (0, 1, 3, 77):
            page = page_of(query(live, customer(segment=segment, city=key32("310000"))), live)
            found = inside.propose(page)
            for kind, k in page.demand:
                mine = live.table["kind"][found.rows] == kind
                top = popular.top(segment, 0, kind, max(4, round(k * inside.share)))
                assert found.rows[mine].tolist() == top.rows.tolist()
                assert found.score[mine].tolist() == top.score.tolist()
            assert around.enabled(page) and len(around.propose(page).rows)
    assert not around.enabled(page_of(query(live, stranger(), city=key32("999999")), live))


def test_no_event_of_the_logs_is_told_by_a_code_of_another():
    """Bytes of a log's codes are searched for one code: so a code has to be one byte."""
    assert CONTACT["what"].itemsize == RECENT["what"].itemsize == 1
    assert all(0 < code < 256 for code in WHAT.values()) and math.isfinite(NOW)
