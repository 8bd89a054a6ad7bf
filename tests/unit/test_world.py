"""The synthetic bank: what it is made of, and who comes when."""

from __future__ import annotations

import numpy as np
import pytest

from features.ids import KIND_CODE, KINDS, Vocabulary
from serving.catalogue import compile_items
from serving.filters import rules_of
from serving.plan import Stock, compile_plan, default_plan
from tests.synthetic import past, world
from training.profiles import profile_records
from training.world import HOME, World
from training.world.catalogue import geohash
from training.world.needs import DAY
from training.world.rows import CONVERTED, OUTCOME


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
