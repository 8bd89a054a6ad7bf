from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from features.views import ITEM
from serving.domain import Candidates, ContractError, Facts, Proposal
from serving.filters import rules_of
from serving.permission import Permission
from serving.pipeline import (
    Filter,
    Hydrator,
    Page,
    Pipeline,
    Scorer,
    Source,
    Trace,
    Understanding,
    best_first,
)
from serving.reasons import DROP_TEXTS, REASON_TEXTS, STATIC, Drop, Reason
from tests.worlds import query, tiny_live

N = 50


def page():
    return Page(query(tiny_live()), ((0, 5),), 0, 0, ())


@dataclass(frozen=True)
class Fixed(Source):
    rows: tuple[int, ...]
    top: float = 1.0

    def propose(self, page):
        score = np.linspace(self.top, 0, len(self.rows), dtype=np.float32)
        return Proposal(np.array(self.rows, np.int32), score)


class BrokenSource(Source):
    def propose(self, page):
        raise TimeoutError


class BrokenUnderstanding(Understanding):
    def understand(self, page):
        raise KeyError


class BrokenFilter(Filter):
    rule = Drop.RISK

    def denies(self, page, items):
        raise KeyError


class BrokenHydrator(Hydrator):
    def columns(self, page, candidates):
        raise KeyError


class Nan(Scorer):
    def score(self, page, candidates):
        score = candidates.score.copy()
        score[:1] = np.nan
        return score


class Short(Scorer):
    def score(self, page, candidates):
        return candidates.score[:-1]


@dataclass(frozen=True)
class Answers(Filter):
    answer: object
    rule = Drop.RISK

    def denies(self, page, items):
        return self.answer


def built(sources, filters=(), hydrators=(), scorers=(), understanding=(), rules=None):
    columns = {name: np.ascontiguousarray(ITEM.blank(N)[name]) for name in ITEM.names}
    rules = np.zeros(N, np.uint32) if rules is None else rules
    numbered = tuple(enumerate(sources))
    permission = Permission(filters, columns, rules)
    return Pipeline(understanding, numbered, permission, tuple(hydrators), tuple(scorers))


def run(pipeline):
    trace = Trace()
    kept, found, drops = pipeline.run(page(), trace)
    return kept, found, drops, trace


def test_merge_sorts_by_row_and_keeps_the_best_score_and_every_origin():
    kept, *_ = run(built([Fixed((7, 3)), Fixed((3, 9), 2.0)]))
    assert kept.rows.tolist() == [3, 7, 9] and kept.origin.tolist() == [0b11, 0b01, 0b10]
    assert kept.score.tolist() == [2.0, 1.0, 0.0]


def test_merge_prefers_a_number_to_not_a_number():
    parts = [
        (0, Proposal(np.array([4], np.int32), np.array([np.nan], np.float32))),
        (1, Proposal(np.array([4], np.int32), np.array([0.5], np.float32))),
    ]
    assert built([]).merge(parts).score.tolist() == [0.5]


def test_stages_of_relevance_fail_open_and_are_named():
    kept, _, _, trace = run(
        built(
            [BrokenSource(), Fixed((1, 2))],
            hydrators=[BrokenHydrator()],
            understanding=[BrokenUnderstanding()],
        )
    )
    assert kept.rows.tolist() == [1, 2]
    assert trace.failed == ["BrokenUnderstanding", "BrokenSource", "BrokenHydrator"]


def test_permission_fails_closed():
    rules = np.full(N, Drop.RISK.bit, np.uint32)
    with pytest.raises(KeyError):
        run(built([Fixed((1,))], filters=[BrokenFilter()], rules=rules))


def test_a_filter_is_not_asked_where_nobody_is_under_its_rule():
    kept, *_ = run(built([Fixed((1,))], filters=[BrokenFilter()]))
    assert kept.rows.tolist() == [1]


@pytest.mark.parametrize(
    ("answer", "left"),
    [(True, [2]), (False, [1, 2, 3]), (np.array([True, False]), [2, 3])],
)
def test_a_rule_says_nothing_of_rows_that_are_not_under_it(answer, left):
    rules = np.zeros(N, np.uint32)
    rules[[1, 3]] = Drop.RISK.bit
    kept, found, drops, _ = run(built([Fixed((1, 2, 3))], filters=[Answers(answer)], rules=rules))
    assert kept.rows.tolist() == left and found.rows.tolist() == [1, 2, 3]
    assert set(drops[drops != 0].tolist()) <= {Drop.RISK.bit}


def test_static_rules_deny_without_a_filter():
    rules = np.zeros(N, np.uint32)
    rules[1], rules[2], rules[3] = Drop.STOCK.bit, Drop.KILLED.bit, Drop.WITHDRAWN.bit
    kept, *_ = run(built([Fixed((1, 2, 3, 4))], rules=rules))
    assert kept.rows.tolist() == [4]
    assert set(Drop) > {d for d in Drop if STATIC & d.bit} == {Drop.STOCK, Drop.KILLED, Drop.WITHDRAWN}


@pytest.mark.parametrize(
    "pipeline",
    [
        lambda: built([Fixed((1, 2))], scorers=[Short()]),
        lambda: built([Fixed((1, N))]),
        lambda: built([Fixed((-1,))]),
        lambda: built(
            [Fixed((1, 2))], filters=[Answers(np.ones(1, bool))], rules=np.full(N, Drop.RISK.bit, np.uint32)
        ),
    ],
)
def test_a_stage_that_breaks_its_contract_is_a_bug(pipeline):
    with pytest.raises(ContractError):
        run(pipeline())


def test_not_a_number_never_wins_and_ties_go_to_the_lower_row():
    score = np.array([0.5, np.nan, 0.9, np.inf, 0.9], np.float32)
    assert best_first(score).tolist() == [2, 4, 0, 1, 3]
    kept, *_ = run(built([Fixed((5, 6, 7))], scorers=[Nan()]))
    assert kept.rows[best_first(kept.score)].tolist()[-1] == 5


def test_nothing_proposed_is_an_empty_page():
    kept, found, drops, _ = run(built([]))
    assert len(kept) == len(found) == len(drops) == 0


def test_a_timer_gives_the_cost_of_each_stage_and_changes_nothing():
    ticks = iter(range(1000))
    trace = Trace(lambda: float(next(ticks)))
    kept, *_ = built([Fixed((1, 2))]).run(page(), trace)
    assert [name for name, *_ in trace.steps] == ["Fixed", "merge", "permit"] and kept.rows.tolist() == [1, 2]
    assert all(seconds > 0 for *_, seconds in trace.steps)


def test_columns_must_be_as_long_as_the_candidates():
    columns = {name: ITEM.blank(3)[name] for name in ITEM.names}
    rows = np.arange(3, dtype=np.int32)
    c = Candidates(rows, np.zeros(3, np.uint32), np.zeros(3, np.float32), Facts(columns, rows))
    with pytest.raises(ContractError):
        c.widened({"x": np.zeros(2)})
    with pytest.raises(ContractError):
        c.take(np.ones(2, np.bool_))
    assert len(c.take(np.array([True, False, True]))) == 2


def test_every_reason_has_a_code_and_two_texts():
    for texts, enum in ((DROP_TEXTS, Drop), (REASON_TEXTS, Reason)):
        assert set(texts) == set(enum)
        assert all(zh and en and zh != en for zh, en in texts.values())
    assert Drop.APP_VERSION.code == "app_version" and Drop.RISK.text("en") != Drop.RISK.text("zh")
    assert Reason.NEW_ITEM.text("en-US") == "New"


def test_blank_items_are_open():
    assert rules_of(_approved(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("field", "value", "rules"),
    [
        ("channels", 1, Drop.CHANNEL.bit),
        ("min_app", 1, Drop.APP_VERSION.bit),
        ("regions", [1, 0, 0, 0, 0, 0, 0, 0], Drop.REGION.bit),
        ("starts", 5.0, Drop.DATES.bit),
        ("sold_out", 1, Drop.STOCK.bit),
        ("stock", 0, Drop.STOCK.bit),
        ("withdrawn", 1, Drop.WITHDRAWN.bit),
        ("auth_level", 1, Drop.AUTH_LEVEL.bit),
        ("approved", 0, Drop.CREATIVE.bit),
        ("creative_until", 9.0, Drop.CREATIVE.bit),
        ("risk_class", 1, Drop.RISK.bit | Drop.BLOCKED.bit),
        ("min_age", 18, Drop.AGE.bit | Drop.BLOCKED.bit),
        ("consents", 1, Drop.CONSENT.bit | Drop.BLOCKED.bit),
        ("needs", [5, 0, 0, 0], Drop.NEEDS.bit | Drop.BLOCKED.bit),
        ("excludes", [5, 0, 0, 0], Drop.EXCLUDES.bit | Drop.BLOCKED.bit),
        ("repeat", 2, Drop.REPEAT.bit | Drop.BLOCKED.bit),
        ("audience", 2, Drop.AUDIENCE.bit | Drop.BLOCKED.bit),
        ("cooling", 1, Drop.COOLING.bit | Drop.BLOCKED.bit),
    ],
)
def test_each_fact_puts_its_row_under_its_rule_and_no_other(field, value, rules):
    table = _approved(2)
    table[field][1] = value
    assert rules_of(table).tolist() == [0, rules]


def _approved(n):
    table = ITEM.blank(n)
    table["approved"] = 1
    return table
