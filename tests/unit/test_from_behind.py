"""The rung `fallback`: one page for all who may be shown the same, worked out once a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.ids import KIND_CODE
from features.views import withheld
from serving.control import Kill
from serving.decide import decide
from serving.texts import CreativeText, ItemText
from tests.worlds import NOW, customer, query, tiny_live


def fallback(live, **asked):
    return decide(query(live, customer(), **asked), live, "fallback").placements.columns


def test_it_is_worked_out_once_and_the_same_as_afresh():
    live, fresh = tiny_live(), tiny_live()
    first = fallback(live)
    assert len(live.behind) == 1
    (kept,) = live.behind.values()
    again = fallback(live, subject="u:2", decision_id="d2")
    assert again == first == fallback(fresh) and len(live.behind) == 1
    again.creative[0], again.row[0] = 99, 99  # whoever gets a page may change it
    assert next(iter(live.behind.values())) is kept and fallback(live) == first


def test_other_places_languages_and_seconds_are_other_pages():
    live = tiny_live()
    asked = query(live, customer())
    whole = fallback(live)
    few = replace(asked, slots=tuple(replace(one, count=1) for one in asked.slots[:2]))
    assert len(decide(few, live, "fallback").placements) == 2 < len(whole.slot)
    assert len(live.behind) == 2
    for now in (NOW + 0.4, NOW + 1.4):
        decide(replace(asked, now=now), live, "fallback")
    assert len(live.behind) == 3
    english = replace(asked, context=replace(asked.context, locale="en"))
    decide(english, live, "fallback")
    assert len(live.behind) == 4


def test_what_one_page_may_not_show_is_looked_for_afresh():
    live = tiny_live()
    asked = query(live, customer())
    first = fallback(live)
    out = replace(asked.slots[0], exclude=frozenset({first.key[0]}))
    page = decide(replace(asked, slots=(out, *asked.slots[1:])), live, "fallback")
    assert first.key[0] not in page.placements.columns.key[: first.slot.count(0)]
    assert fallback(live) == first


def test_a_view_with_something_stopped_has_pages_of_its_own():
    live = tiny_live()
    first = fallback(live)
    name = live.texts[first.row[0]].id
    stopped = tiny_live(kills=[Kill("item", name)])
    assert first.key[0] not in fallback(stopped).key


@pytest.mark.parametrize("effort", ["fallback", "popular", "cached"])
def test_who_may_be_shown_less_gets_a_page_of_their_own(effort):
    live = tiny_live()

    def decided(blocked):
        who = customer(blocked=blocked)
        return decide(query(live, who), live, effort, np.empty(0, np.int32)).placements.columns

    whole = decided(0)
    kinds = [live.kind_of[row] for row in whole.row]
    product = KIND_CODE["product"]
    assert product in kinds
    for _ in range(2):
        assert product not in [live.kind_of[row] for row in decided(withheld("product")).row]
        assert decided(0) == whole


def test_dates_within_a_second_are_known():
    def text(starts, until):
        one = CreativeText("a", 1, 1, "zh-CN", "t", "", "", "", None, True, starts, until)
        return ItemText("i", "x", "t", "t", "c", "a", (one,))

    assert text(0.0, None).by_seconds and text(NOW, NOW + 60).by_seconds
    assert not text(NOW + 0.5, None).by_seconds and not text(0.0, NOW + 0.25).by_seconds
    assert all(one.by_seconds for one in tiny_live().texts)
