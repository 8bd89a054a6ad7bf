"""The synthetic bank: what is reported of what happened, and the lake that it leaves."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from features.ids import KIND_CODE
from tests.synthetic import close, past, random_pages, world
from training.lake import EVENT_COLUMNS, OUTCOME_COLUMNS, Lake
from training.world import HOME, World
from training.world.needs import DAY
from training.world.respondent import DELAYED, LOST, RENDERED, STALE
from training.world.rows import ACTED, CLICKED, CONVERTED, DISMISSED, DISPLAYED, OUTCOME
from training.world.traffic import permitted


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
