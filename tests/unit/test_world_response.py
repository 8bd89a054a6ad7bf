"""The synthetic bank: what its customers do with a page, against the chances it was drawn by."""

from __future__ import annotations

import numpy as np
import pytest

from features.ids import KIND_CODE, KINDS
from tests.synthetic import close, random_pages, world
from training.world import HOME, Layout, Slot
from training.world.needs import DAY
from training.world.respondent import draw
from training.world.rows import CLICKED, CONVERTED, OUTCOME


class TestResponse:
    def test_attention_falls_with_the_position(self) -> None:
        p = world().probabilities(np.arange(50), random_pages(np.random.default_rng(0), 50), world().start)
        for index in range(len(HOME.slots)):
            part = HOME.columns(index)
            for curve in (p.displayed[0, part], p.examination[0, part]):
                assert (np.diff(curve) <= 0).all()
        clicks = (p.displayed * p.click).mean(0)
        for index in (0, 1, 5):
            part = clicks[HOME.columns(index)]
            assert part[:2].mean() > part[-2:].mean()

    def test_trust_bias_lends_and_takes(self) -> None:
        curves = world().response().curves
        assert (curves.eta > 0).all() and (curves.theta < 1).all()
        banner = HOME.columns(0)
        assert (np.diff(curves.eta[banner]) < 0).all() and (np.diff(curves.theta[banner]) < 0).all()

    def test_frequencies_agree_with_the_probabilities(self) -> None:
        rng = np.random.default_rng(1)
        who = np.arange(100)
        pages = random_pages(rng, 100)
        pages[rng.random(pages.shape) < 0.1] = -1
        p = world().probabilities(who, pages, world().start + 9.5 * 3600)
        times = 600
        totals = {name: np.zeros(pages.shape) for name in ("displayed", "clicked", "dismissed")}
        for _ in range(times):
            answer = draw(rng, p, HOME.slot_of, pages >= 0)
            for name in totals:
                totals[name] += getattr(answer, name)
        chances = {
            "displayed": p.displayed,
            "clicked": p.displayed * p.click,
            "dismissed": p.displayed * p.dismiss,
        }
        for name, chance in chances.items():
            for place in range(HOME.places):
                column = np.repeat(chance[:, place].astype(np.float64), times)
                assert close(totals[name][:, place], column), (name, place)
        assert not any(total[pages < 0].any() for total in totals.values())

    def test_what_is_on_screen_is_a_prefix_of_each_slot(self) -> None:
        rng = np.random.default_rng(2)
        pages = random_pages(rng, 200)
        p = world().probabilities(np.arange(200), pages, world().start)
        shown = draw(rng, p, HOME.slot_of, pages >= 0).displayed
        for index in range(len(HOME.slots)):
            part = shown[:, HOME.columns(index)].astype(int)
            assert (np.diff(part, axis=1) <= 0).all()

    def test_conversions_agree_with_the_probabilities(self) -> None:
        found = {kind: [0, []] for kind in range(6)}
        at = np.full(3_000, world().start + 12 * 3600)
        who = np.arange(3_000)
        for run in range(6):
            respondent = world().respondent(run=run)
            pages = random_pages(np.random.default_rng(run), 3_000)
            respondent.needs.own_purchases(np.random.default_rng(99 + run), who, at)
            p = respondent.probabilities(who, pages, at)
            respondent.respond(who, pages, at)
            rows = respondent.due(np.inf)
            clicks = rows[rows["what"] == CLICKED]
            chance = p.convert[clicks["page"], clicks["place"]]
            done = rows[np.isin(rows["what"], [CONVERTED, OUTCOME]) & (rows["page"] >= 0)]
            marks = set(zip(done["page"].tolist(), done["place"].tolist(), strict=True))
            for row, one in zip(clicks, chance, strict=True):
                total = found[int(world().catalogue.kind[row["item"]])]
                total[0] += (int(row["page"]), int(row["place"])) in marks
                total[1].append(float(one))
        for kind, (hits, chances) in found.items():
            assert len(chances) > 30 and close(hits, np.array(chances)), KINDS[kind]

    def test_fatigue_lowers_clicks_and_fades(self) -> None:
        respondent = world().respondent()
        who, pages = np.arange(100), random_pages(np.random.default_rng(4), 100)
        now = np.full(100, world().start)
        before = respondent.probabilities(who, pages, now).click
        for _ in range(3):
            respondent.memory.remember_displays(
                who, pages, np.tile(HOME.slot_of == 0, (100, 1)).astype(np.int64), now
            )
        after = respondent.probabilities(who, pages, now + 60).click
        banner, feed = HOME.columns(0), HOME.columns(5)
        assert (after[:, banner] < before[:, banner]).all()
        assert after[:, banner].sum() < 0.75 * before[:, banner].sum()
        later = respondent.probabilities(who, pages, now + 30 * DAY)
        fresh = world().respondent().probabilities(who, pages, now + 30 * DAY)
        assert later.click[:, banner].sum() == pytest.approx(fresh.click[:, banner].sum(), rel=0.02)
        assert np.median(after[:, feed] / before[:, feed]) > 0.95

    def test_a_click_ends_an_items_fatigue(self) -> None:
        memory = world().respondent().memory
        who, at = np.array([5]), np.array([world().start])
        items = np.array([[3, 4]])
        memory.remember_displays(who, items, np.array([[1, 3]]), at)
        assert memory.fatigue(who, items, at).tolist() == [[1.0, 3.0]]
        memory.remember_clicks(who, np.array([4]), world().catalogue.topic[[4]], at)
        assert memory.fatigue(who, items, at).tolist() == [[1.0, 0.0]]

    def test_satiation_within_a_topic(self) -> None:
        respondent, catalogue = world().respondent(), world().catalogue
        content = np.flatnonzero(catalogue.kind == KIND_CODE["content"])
        topic = catalogue.topic[content[0]]
        one = content[catalogue.topic[content] == topic][0]
        other = content[catalogue.topic[content] != topic][0]
        page = np.full((1, HOME.places), -1)
        page[0, 0], page[0, 30] = one, other
        who, now = np.array([7]), np.array([world().start])
        before = respondent.probabilities(who, page, now).perceived[0]
        for _ in range(4):
            respondent.memory.remember_clicks(who, np.array([-2]), np.array([topic]), now)
        after = respondent.probabilities(who, page, now).perceived[0]
        assert after[0] < before[0]
        assert after[30] == pytest.approx(before[30])

    def test_items_of_an_area_take_from_each_other_between_slots(self) -> None:
        catalogue = world().catalogue
        benefit = np.flatnonzero(catalogue.kind == KIND_CODE["benefit"])
        area = np.bincount(catalogue.area[benefit]).argmax()
        inside = benefit[catalogue.area[benefit] == area][:3]
        content = np.flatnonzero((catalogue.kind == KIND_CODE["content"]) & (catalogue.area != area))[0]
        popup, banner, shelf = HOME.columns(3).start, HOME.columns(0).start, HOME.columns(4).start

        def click(rival: int, place: int) -> float:
            page = np.full((300, HOME.places), -1)
            page[:, shelf], page[:, place] = inside[0], rival
            return float(world().probabilities(np.arange(300), page, world().start).perceived[:, shelf].sum())

        assert click(inside[1], banner) < click(content, banner)  # another slot, same area
        assert click(inside[1], shelf + 1) < click(content, shelf + 1)  # same slot
        page = np.full((1, HOME.places), -1)
        page[0, shelf] = inside[0]
        alone = world().probabilities(np.array([0]), page, world().start).examination[0, shelf]
        page[0, popup] = content
        assert world().probabilities(np.array([0]), page, world().start).examination[0, shelf] < alone

    def test_means_and_place_count(self) -> None:
        response, catalogue = world().response(), world().catalogue
        dear = np.flatnonzero(catalogue.min_amount >= 100_000)[:1]
        people = world().customers
        rich, poor = np.flatnonzero(people.assets > 1e6)[:1], np.flatnonzero(people.assets < 1e3)[:1]
        assert response.fit(poor, dear[None])[0, 0] < 0.5 * response.fit(rich, dear[None])[0, 0]

    def test_payday_raises_interest_in_saving(self) -> None:
        catalogue, people = world().catalogue, world().customers
        item = np.flatnonzero(catalogue.topic == 5)[0]  # saving/deposit
        who = np.flatnonzero(people.payday == 10)[:100]
        page = np.full((len(who), HOME.places), -1)
        page[:, 0] = item
        noon = world().start + DAY / 2
        ordinary, payday = (
            world().probabilities(who, page, noon + day * DAY).perceived.sum() for day in (3, 10)
        )
        assert payday > 1.2 * ordinary

    def test_tastes_drift(self) -> None:
        respondent = world().respondent()
        who = np.arange(200)
        items = np.tile(np.arange(0, 900, 9), (200, 1))
        first = respondent.tastes.affinity(world().themes, who, items)
        likeness = []
        for day in range(60):
            respondent.tastes.drift(np.random.default_rng(day))
            if day in (0, 59):
                now = respondent.tastes.affinity(world().themes, who, items)
                likeness.append(np.corrcoef(np.log(first).ravel(), np.log(now).ravel())[0, 1])
        assert likeness[0] > 0.97 and likeness[1] < likeness[0] - 0.1
        assert respondent.tastes.weights.sum(1) == pytest.approx(1, abs=1e-5)

    def test_another_layout_has_curves_of_its_own_size(self) -> None:
        layout = Layout(
            (Slot("wealth.shelf", "shelf", 20, ("product",)), Slot("wealth.push", "push", 1, ("activity",)))
        )
        respondent = world().respondent(layout)
        products = np.flatnonzero(world().catalogue.kind == KIND_CODE["product"])[:20]
        pages = np.tile(np.append(products, -1), (10, 1))
        assert respondent.probabilities(np.arange(10), pages, world().start).click.shape == (10, 21)
        with pytest.raises(ValueError, match="pages must be"):
            respondent.respond(np.arange(10), pages[:, :5], np.zeros(10))
