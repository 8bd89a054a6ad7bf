from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from features.ids import KIND_CODE, KINDS, Vocabulary
from serving.catalogue import compile_items
from serving.filters import rules_of
from serving.plan import Stock, compile_plan, default_plan
from training.lake import EVENT_COLUMNS, OUTCOME_COLUMNS, Lake
from training.profiles import profile_records
from training.world import HOME, Layout, Slot, World
from training.world.catalogue import geohash
from training.world.needs import DAY, HORIZON, STRATA, Needs
from training.world.respondent import DELAYED, LOST, RENDERED, STALE, draw
from training.world.rows import ACTED, CLICKED, CONVERTED, DISMISSED, DISPLAYED, OUTCOME
from training.world.traffic import permitted

Z = 4.5  # standard errors that a frequency may be away from its probability


@cache
def world() -> World:
    return World.create(11, customers=3_000, items=900, visits_per_day=0.4)


@cache
def past():
    """(rows, respondent, days) of twelve days."""
    respondent = world().respondent()
    days = list(world().history(12, respondent=respondent))
    return np.concatenate([day.rows for day in days]), respondent, days


def random_pages(rng: np.random.Generator, count: int, w: World | None = None) -> np.ndarray:
    """Pages of items that fit their slots, none twice in a slot."""
    w = w or world()
    pages = np.empty((count, HOME.places), np.int64)
    for index, slot in enumerate(HOME.slots):
        pool = np.flatnonzero(np.isin(w.catalogue.kind, [KIND_CODE[kind] for kind in slot.kinds]))
        pages[:, HOME.columns(index)] = pool[
            np.argsort(rng.random((count, len(pool))), axis=1)[:, : slot.size]
        ]
    return pages


def close(hits: np.ndarray | float, chances: np.ndarray) -> bool:
    """Whether a number of hits agrees with the sum of its chances, within Z standard errors."""
    spread = np.sqrt((chances * (1 - chances)).sum())
    return bool(abs(float(np.sum(hits)) - chances.sum()) <= Z * spread + 1e-9)


class TestCreation:
    def test_same_seed_gives_the_same_bytes(self) -> None:
        one, two = (World.create(3, customers=400, items=200) for _ in range(2))
        assert one.event_rows(4).tobytes() == two.event_rows(4).tobytes()
        assert [i.model_dump_json() for i in one.items()] == [i.model_dump_json() for i in two.items()]
        assert one.users().equals(two.users())

    def test_another_seed_gives_another_world(self) -> None:
        one, two = (World.create(seed, customers=400, items=200) for seed in (3, 4))
        assert one.event_rows(2).tobytes() != two.event_rows(2).tobytes()
        assert one.parameters.between != two.parameters.between

    def test_history_does_not_change_the_world(self) -> None:
        small = World.create(3, customers=400, items=200)
        assert small.event_rows(3).tobytes() == small.event_rows(3).tobytes()

    @pytest.mark.parametrize("sizes", [{"customers": 0}, {"items": 50}, {"start": 1.5}])
    def test_refuses_nonsense(self, sizes) -> None:
        with pytest.raises(ValueError, match=r"at least|midnight"):
            World.create(1, **sizes)

    def test_one_customer_is_a_world(self) -> None:
        lonely = World.create(1, customers=1, items=120, visits_per_day=2.0)
        assert len(lonely.event_rows(5))


class TestCatalogue:
    def test_titles_are_unique_in_both_languages(self) -> None:
        items = World.create(7, customers=1, items=3_000).items()
        assert len(items) == 3_000
        for language in ("zh", "en"):
            assert len({item.title[language] for item in items}) == 3_000
        assert not any("{" in title for item in items for title in item.title.values())

    def test_every_kind_and_attribute_is_there(self) -> None:
        items = world().items()
        assert {item.kind for item in items} == set(KINDS)
        for has in (
            "risk_class",
            "min_amount",
            "regions",
            "ends",
            "starts",
            "rate",
            "cost",
            "location",
            "consents",
        ):
            assert any(getattr(item, has) for item in items), has
        assert all(item.location is None or item.kind == "service" for item in items)

    def test_columns_say_what_the_items_say(self) -> None:
        compiled, catalogue = compile_items(world().items()), world().catalogue
        assert compiled.ids == catalogue.ids
        assert (compiled.table["kind"] == catalogue.kind).all()
        assert (compiled.table["risk_class"] == catalogue.risk_class).all()
        assert (compiled.table["key"] == catalogue.keys).all()
        assert (catalogue.rows_of(catalogue.keys[::-1]) == np.arange(len(catalogue))[::-1]).all()

    def test_a_plan_of_the_canonical_homepage_compiles(self) -> None:
        compiled = compile_items(World.create(5, customers=1, items=3_000).items())
        kinds = compiled.table["kind"]
        plan = default_plan({kind: int((kinds == code).sum()) for code, kind in enumerate(KINDS)})
        assert {slot.name: slot.size for slot in plan.slots} == {slot.name: slot.size for slot in HOME.slots}
        row = Vocabulary(compiled.ids).row
        everything = np.arange(len(compiled), dtype=np.int32)
        compile_plan(plan, Stock(row, kinds, compiled.layouts, rules_of(compiled.table), everything))

    def test_geohash(self) -> None:
        assert geohash(31.23, 121.47, 5) == "wtw3s"  # Shanghai
        assert geohash(57.64911, 10.40744, 11) == "u4pruydqqvj"  # the example of the format's author


class TestCustomers:
    def test_users_fill_a_profile_without_problems(self) -> None:
        users, problems = world().users(), []
        records, known = profile_records(users, world().customers.ids, problems=problems)
        assert problems == []
        assert (known == known[0]).all()
        assert (records["age"] == world().customers.age).all()
        assert set(np.unique(records["risk_level"])) == {0, 1, 2, 3, 4, 5}
        assert records["attributes"].any()

    def test_holdings_come_from_what_was_bought(self) -> None:
        rows, respondent, _ = past()
        held = world().users(respondent=respondent)["holdings"].to_pylist()
        bought = rows[(rows["item"] >= 0) & np.isin(rows["what"], [CONVERTED, OUTCOME])]
        bought = bought[world().catalogue.kind[bought["item"]] == KIND_CODE["product"]]
        assert len(bought) > 20
        for row in bought[:20]:
            assert world().catalogue.ids[row["item"]] in held[row["customer"]].split("|")

    def test_activity_has_a_long_tail(self) -> None:
        counts = sum(np.bincount(world().visits(day).customers, minlength=3_000) for day in range(28))
        top = np.sort(counts)[::-1]
        assert top[:300].sum() > 0.4 * top.sum()
        assert (counts == 0).mean() > 0.05


class TestVisits:
    def test_payday_brings_payroll_customers(self) -> None:
        people = world().customers
        paid = np.flatnonzero(people.payroll & (people.payday == 10) & (people.trend < 0.02))
        counts = [np.isin(world().visits(day).customers, paid).sum() for day in range(28)]
        payday = np.mean(counts[9:12])  # 10 to 12 March
        ordinary = np.mean(counts[2:6] + counts[15:19])
        assert payday > 1.5 * ordinary

    def test_weekends_are_quieter_and_evenings_busier(self) -> None:
        weeks = [len(world().visits(day).at) for day in range(28)]  # 1 March 2026 is a Sunday
        weekend = np.mean([n for day, n in enumerate(weeks) if day % 7 in (0, 6)])
        assert weekend < 0.95 * np.mean([n for day, n in enumerate(weeks) if day % 7 not in (0, 6)])
        visited = world().visits(2)
        local = (visited.at + world().customers.offset_s[visited.customers]) % DAY // 3600
        assert np.isin(local, [19, 20, 21]).sum() > 5 * np.isin(local, [2, 3, 4]).sum()

    def test_visits_are_ordered_within_the_day_and_start_with_a_first_page(self) -> None:
        visited = world().visits(3)
        assert (np.diff(visited.at) >= 0).all()
        assert (visited.at >= world().start + 3 * DAY).all()
        assert visited.first.mean() == pytest.approx(0.7, abs=0.05)

    def test_nobody_comes_before_joining(self) -> None:
        people = world().customers
        later = np.flatnonzero(people.joined_at > world().start + 20 * DAY)
        assert len(later) and not np.isin(later, world().visits(5).customers).any()
        assert np.isin(np.concatenate([world().visits(d).customers for d in range(62, 80)]), later).any()


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


class TestUplift:
    def pairs(self, kind: str, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(6)
        items = np.flatnonzero(world().catalogue.kind == KIND_CODE[kind])
        return rng.integers(0, 3_000, count), rng.choice(items, count)

    def test_strata(self) -> None:
        uplift = world().uplift(*self.pairs("benefit"))
        by = {name: uplift.stratum == row for row, name in enumerate(STRATA)}
        assert all(mask.any() for mask in by.values())
        assert (uplift.delta[by["persuadable"]] >= 0.05).all()
        sure = by["sure_thing"]
        assert (uplift.base[sure] >= 0.5).all() and np.abs(uplift.delta[sure]).mean() < 0.02
        assert np.abs(uplift.delta[uplift.base > 0.8][uplift.delta[uplift.base > 0.8] >= 0]).max() < 0.01
        assert (uplift.delta[by["put_off"]] < 0).all()
        assert np.abs(uplift.delta[by["lost_cause"]]).mean() < 0.05
        assert ((uplift.treated >= 0) & (uplift.treated <= 1)).all()

    def test_thrift_and_offer_matter(self) -> None:
        who, items = self.pairs("benefit")
        gain = world().uplift(who, items).delta
        thrifty = world().customers.thrift[who] > 0.6
        offer = world().catalogue.pull[items] > np.median(world().catalogue.pull[items])
        fine = gain >= 0
        assert gain[thrifty & fine].mean() > 1.5 * gain[~thrifty & fine].mean()
        assert gain[offer & fine].mean() > 1.2 * gain[~offer & fine].mean()

    def test_other_kinds_have_no_base(self) -> None:
        content = np.flatnonzero(world().catalogue.kind == KIND_CODE["content"])[:1]
        with pytest.raises(ValueError, match="family of needs"):
            world().uplift(np.array([0]), content)

    def test_both_arms_of_a_trial_show_the_true_uplift(self) -> None:
        """Randomised: the same customers, some of whom click a benefit; count purchases in the horizon."""
        who, items = np.arange(3_000), self.pairs("benefit", 3_000)[1]
        truth = world().uplift(who, items)
        family = world().catalogue.family[items]
        delta = np.where(
            truth.delta < 0, truth.delta / np.maximum(truth.base, 1e-12), truth.delta / (1 - truth.base)
        )
        at = np.full(3_000, world().start)
        hits = {True: 0, False: 0}
        runs = 40
        for run in range(runs):
            for treated in (True, False):
                rng = np.random.default_rng([run, treated])
                needs = Needs(rng, world().rates, world().start)
                bought = np.zeros(3_000, bool)
                if treated:
                    bought, _ = needs.answer(rng, who, family, delta.astype(np.float32), at)
                buyers, families, _ = needs.own_purchases(rng, who, at + HORIZON)
                # a purchase that was pulled into the placement is one, not two: look at the first only
                bought[buyers[families == family[buyers]]] = True
                hits[treated] += int(bought.sum())
        assert close(hits[True], np.tile(truth.treated, runs))
        assert close(hits[False], np.tile(truth.base, runs))

    def test_a_page_place_is_worth_its_clicks_uplift(self) -> None:
        who, items = self.pairs("benefit", 500)
        page = np.full((500, HOME.places), -1)
        page[:, HOME.columns(4).start] = items
        p = world().probabilities(who, page, world().start)
        place = HOME.columns(4).start
        truth = world().uplift(who, items)
        clicked = p.click[:, place] * truth.delta
        assert (np.abs(p.uplift[:, place]) >= np.abs(clicked) * 0.999 - 1e-6).all()
        assert p.uplift[:, place].sum() == pytest.approx(clicked.sum(), rel=0.6)
        assert (p.uplift <= p.click * p.convert + 0.05).all()

    def test_what_has_shown_itself_changes_the_chances(self) -> None:
        needs = Needs(np.random.default_rng(0), world().rates, world().start)
        who, family, none = np.arange(3_000), np.full(3_000, 8), np.zeros(3_000, np.float32)
        at = np.full(3_000, world().start)
        before, _ = needs.chances(who, family, none, at)
        bought, _ = needs.answer(np.random.default_rng(1), who, family, none, at)
        again, _ = needs.chances(who, family, none, at)
        assert close(bought.sum(), before)
        assert (again[~bought] == 0).all()  # no purchase of their own is to come within the horizon
        later, _ = needs.chances(who, family, none, at + 7 * DAY)
        assert (later[~bought] > 0).all() and (later[~bought] < before[~bought]).all()


class TestReporting:
    @cache
    def rows(self):
        """One page each of 3,000 customers, four times; all that ever arrives; the number of pages."""
        parts = []
        for run in range(4):
            respondent = world().respondent(run=run)
            at = np.full(3_000, world().start + 3600.0)
            respondent.respond(np.arange(3_000), random_pages(np.random.default_rng(run), 3_000), at)
            rows = respondent.due(np.inf)
            rows["page"][rows["page"] >= 0] += run * 3_000
            parts.append(rows)
        return np.concatenate(parts), 12_000

    def test_displays_are_lost_late_and_stale_at_their_rates(self) -> None:
        rows, pages = self.rows()
        shown = rows[rows["what"] == DISPLAYED]
        number, first = np.unique(shown["page"], return_index=True)
        assert close(len(number), np.full(pages, RENDERED * (1 - LOST)))
        one = shown[first]
        wait = one["received_at"] - one["occurred_at"]
        assert close((wait > 600).sum(), np.full(len(one), DELAYED * 0.992))
        assert close(one["late"].sum(), np.full(len(one), STALE))
        assert np.quantile(wait[wait > 600], 0.5) == pytest.approx(3 * 3600, rel=0.4)
        assert wait.max() < 7 * DAY

    def test_a_lost_display_may_still_be_clicked(self) -> None:
        rows, _ = self.rows()
        clicked = rows["page"][rows["what"] == CLICKED]
        assert 0 < (~np.isin(clicked, rows["page"][rows["what"] == DISPLAYED])).mean() < 0.1

    def test_delays_run_from_seconds_to_weeks(self) -> None:
        rows, _, _ = past()
        placed = rows[(rows["page"] >= 0) & np.isin(rows["what"], [CONVERTED, OUTCOME])]
        delay = placed["occurred_at"] - placed["decided_at"]
        kind = world().catalogue.kind[placed["item"]]
        assert (delay > 0).all()
        content, benefit = delay[kind == KIND_CODE["content"]], delay[kind == KIND_CODE["benefit"]]
        assert np.median(content) < 600 < 3600 < np.median(benefit)
        assert delay.max() > 4 * DAY
        waiting = past()[1].outbox
        assert len(waiting)  # some have not arrived when the history ends

    def test_part_of_the_conversions_is_seen_by_the_banks_systems_only(self) -> None:
        rows, _, _ = past()
        clicks = rows[rows["what"] == CLICKED]
        assert len(clicks) > 500
        for kind, share in (("content", 0.0), ("benefit", 0.6)):
            mine = rows[(rows["page"] >= 0) & (rows["item"] >= 0)]
            mine = mine[world().catalogue.kind[mine["item"]] == KIND_CODE[kind]]
            outside = (mine["what"] == OUTCOME).sum()
            inside = (mine["what"] == CONVERTED).sum()
            assert outside / (outside + inside) == pytest.approx(share, abs=0.15)

    def test_rows_arrive_in_their_day_in_order(self) -> None:
        _, _, days = past()
        for day in days:
            assert (np.diff(day.rows["received_at"]) >= 0).all()
            assert (day.rows["received_at"] < day.begins + DAY).all()
            assert (day.rows["received_at"] >= day.begins).mean() > 0.999

    def test_the_past_is_permitted_and_learnable(self) -> None:
        rows, respondent, days = past()
        w = world()
        last = days[-1]
        fine = permitted(w.catalogue, w.customers, last.visits.customers, last.pages, last.visits.at)
        assert (fine | (last.pages < 0)).all()
        assert all(len(set(page[page >= 0].tolist())) == (page >= 0).sum() for page in last.pages)
        shown, clicked = (rows[rows["what"] == what] for what in (DISPLAYED, CLICKED))
        like = [
            np.log(
                respondent.tastes.affinity(w.themes, part["customer"], part["item"][:, None].astype(np.int64))
            ).mean()
            for part in (shown, clicked)
        ]
        assert like[1] > like[0] + 0.5

    def test_the_policy_learns_and_explores(self) -> None:
        _, _, days = past()
        seen = np.unique(np.concatenate([day.pages[day.pages >= 0] for day in days]))
        assert len(seen) > 0.9 * len(world().catalogue)

    def test_visits_and_own_doings_do_not_depend_on_what_is_shown(self) -> None:
        class Blank:
            def decide(self, rng, customers, at):
                return np.full((len(customers), HOME.places), -1)

            def learn(self, rows):
                pass

        def own(rows):
            return rows[(rows["what"] == ACTED) & np.isin(rows["action"], [1, 2, 3])]

        blank = np.concatenate([day.rows for day in world().history(3, policy=Blank())])
        assert not np.isin(blank["what"], [DISPLAYED, CLICKED, DISMISSED]).any()
        ours = past()[0]
        ours = ours[ours["received_at"] < world().start + 3 * DAY]
        assert own(blank).tobytes() == own(ours).tobytes()


class TestLake:
    def test_history_fits_the_lake(self, tmp_path) -> None:
        small = World.create(3, customers=600, items=240, visits_per_day=0.5)
        lake, steps = Lake(tmp_path / "lake"), []
        written = small.write(lake, 5, progress=lambda day, rows: steps.append((day, rows)))
        events, outcomes = lake.events(), lake.outcomes()
        assert events.schema.equals(EVENT_COLUMNS) and outcomes.schema.equals(OUTCOME_COLUMNS)
        assert (events.num_rows, outcomes.num_rows) == (written.events, written.outcomes)
        assert [day for day, _ in steps] == [1, 2, 3, 4, 5] and steps[-1][
            1
        ] == events.num_rows + outcomes.num_rows
        table = events.to_pydict()
        for row in range(events.num_rows):
            kind = table["type"][row]
            assert kind in ("displayed", "clicked", "dismissed", "converted", "acted")
            placed = kind != "acted"
            for name in ("decision_id", "slot", "position"):
                assert (table[name][row] is not None) == placed
            assert (table["action"][row] is not None) == (kind == "acted")
            assert table["subject"][row] == "u:" + table["user_id"][row]
            assert table["at"][row] <= table["received_at"][row]
        shown = {
            (e, p, s)
            for e, p, s, k in zip(*(table[n] for n in ("event_id", "position", "slot", "type")), strict=True)
            if k == "displayed"
        }
        assert len(shown) == table["type"].count("displayed")
        single = [e for e, k in zip(table["event_id"], table["type"], strict=True) if k != "displayed"]
        assert len(set(single)) == len(single)
        assert all(
            (a is None) != (b is None)
            for a, b in zip(outcomes["item_id"].to_pylist(), outcomes["family"].to_pylist(), strict=True)
        )
        assert lake.read_users().num_rows == 600
        assert len(lake.read_items()) == 240
        small.write(lake, 5)
        assert lake.events().num_rows == written.events
