"""From served records in a lake to a sample, a forecast and its table: the whole way, in process."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from serving.plans import PlanShelf
from tests.shell import run, running
from tests.worlds import DAY, NOW, tiny_bundle, tiny_live, tiny_plan
from training import sample as sampling
from training.booking_commands import draw, forecast, show, stocked
from training.booking_delivered import over, score_due
from training.booking_record import Forecasts, document
from training.ingest import ingest
from training.lake import Lake
from training.sample import refresh
from training.sample_columns import SampleError, load

FLIGHT = {"from": "2026-09-20", "until": "2026-10-20"}
OLD = {
    "id": "old", "items": ["i2"], "slots": ["home.banner"], "tier": "guaranteed", "flight": FLIGHT,
    "goals": [{"unit": "displayed", "at_least": 40}],
}  # fmt: skip
NEW = OLD | {"id": "new", "items": ["i8"], "goals": [{"unit": "displayed", "at_least": 1_000_000}]}


async def served(lake, plan, count):
    async with running(tiny_bundle(), plan=plan) as shell:
        for n in range(count):
            body = {"user_id": f"u{n % 17}", "context": {"channel": "app"}}
            if n % 3 == 0:
                body["slots"] = [{"slot": "home.banner"}, {"slot": "home.feed", "count": 4}]
            shell.clock.now += 601.0
            answer = await shell.post("/v1/recommend", body)
            assert answer.status_code == 200, answer.text
        log, now = shell.stores.log, shell.clock.now
    ingest(log, lake, now=now)
    return now


@pytest.fixture(scope="module")
def served_lake(tmp_path_factory):
    lake = Lake(tmp_path_factory.mktemp("lake"))
    now = run(lambda: served(lake, tiny_plan(campaigns=[OLD]), 60))
    return lake, now


def test_a_lake_becomes_a_sample_and_a_stopped_run_goes_on(served_lake, tmp_path, monkeypatch):
    lake, now = served_lake
    live = tiny_live(plan=tiny_plan(campaigns=[OLD]))
    folder, whole = tmp_path / "sample", tmp_path / "whole"
    monkeypatch.setattr(sampling, "BLOCK", 16)
    steps: list[int] = []

    def stop(done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 2:
            raise KeyboardInterrupt

    options = {"now": now + 1.0, "items": ["i8"], "pages": 50}
    with pytest.raises(KeyboardInterrupt):
        refresh(lake, live, folder, progress=stop, **options)
    monkeypatch.setattr(sampling.Gatherer, "pages", _counted(sampling.Gatherer.pages, made := []))
    sample = refresh(lake, live, folder, **options)
    assert len(made) == 2  # of four blocks, two were there
    assert len(sample) == 50 and sample.population == 60 and sample.weight.sum() == pytest.approx(60)
    assert len(sample.shapes) == 2 and len(sample.bookable) == 2 and sample.earlier.max() >= 1
    again = refresh(lake, live, whole, **options)
    for name in ("at", "p", "option", "permitted", "subject", "weight"):
        assert (getattr(again, name) == getattr(load(folder), name)).all(), name
    with pytest.raises(SampleError, match="no page view"):
        refresh(Lake(tmp_path / "empty"), live, tmp_path / "none", now=now)


def test_a_plan_is_forecast_from_it_and_told(served_lake, tmp_path):
    lake, now = served_lake
    before = tiny_live(plan=tiny_plan(campaigns=[OLD]))
    after = tiny_live(plan=tiny_plan(campaigns=[OLD, NEW]))
    sample = refresh(lake, before, tmp_path / "sample", now=now + 1.0, items=["i8"])
    forecasts = Forecasts(str(tmp_path))
    booking = forecast(stocked(after), stocked(before), sample, NOW + DAY, forecasts.track())
    goals = {goal.campaign: goal for goal in booking.goals}
    assert not booking.fits and not goals["new"].fits and goals["old"].fits
    assert 0 < goals["new"].most < 1_000_000 and goals["new"].cause is not None
    assert booking.relax and booking.pages and not booking.notes
    assert np.isfinite(document(booking)["value"]["after"])
    forecasts.keep(booking, NOW)
    told = io.StringIO()
    show(booking, forecasts.track(), Console(file=told, width=200))
    for word in ("new/displayed", "what would make it fit", "by org", "track record", "NO"):
        assert word in told.getvalue()
    draw(booking, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_a_forecast_is_scored_by_what_the_lake_says_was_delivered(tmp_path):
    """Units as the meters count them, once a placement; only of plans that were in force; once a forecast."""
    lake = Lake(tmp_path / "lake")
    plan = tiny_plan(campaigns=[OLD | {"values": {"click": 100.0}, "exclusive": True}])

    async def seen():
        async with running(tiny_bundle(), plan=plan) as shell:
            for n in range(4):
                page = await shell.page(f"u{n}")
                where = [one["index"] for slot in page["slots"] for one in slot["items"]]
                for event_id in (f"e{n}", f"again{n}"):  # told twice
                    event = shell.event("displayed", event_id, page_token=page["page_token"], seen=where)
                    await shell.post("/v1/events", {"events": [event]})
            await shell.service.publisher.flush()
            meters = await shell.stores.meters.read(["old"])
            ingest(shell.stores.log, lake, now=shell.clock.now)
            return meters["old"]["displayed"].total, shell.clock.now

    total, now = run(seen)
    assert total == 4
    assert over(lake, ["old", "other"], now - DAY, now + 1.0) == {("old", "displayed"): total}
    assert over(lake, ["old"], now + 1.0, now + DAY) == {}
    live = tiny_live(plan=plan)
    sample = refresh(lake, live, tmp_path / "sample", now=now + 1.0)
    forecasts = Forecasts(str(tmp_path))
    booking = forecast(stocked(live), stocked(live), sample, NOW, forecasts.track())
    forecasts.keep(replace(booking, span=(now - DAY, now + 1.0)), now)
    assert score_due(str(tmp_path), lake, now + 2.0) == 0  # the plan was never in force
    PlanShelf(str(tmp_path)).put(plan)
    assert score_due(str(tmp_path), lake, now) == 0  # its time is not over
    assert score_due(str(tmp_path), lake, now + 2.0) == 1
    assert score_due(str(tmp_path), lake, now + 2.0) == 0
    assert forecasts.track().goals == 1


def test_items_put_since_the_sample_are_noted(served_lake, tmp_path):
    lake, now = served_lake
    before = tiny_live(plan=tiny_plan(campaigns=[OLD]))
    after = tiny_live(plan=tiny_plan(campaigns=[OLD, NEW]))
    sample = refresh(lake, before, tmp_path / "sample", now=now + 1.0)  # i8 is not bookable yet
    booking = forecast(stocked(after), stocked(before), sample, NOW + DAY, Forecasts(str(tmp_path)).track())
    assert any("i8 is not in the sample" in note for note in booking.notes)
    assert {goal.campaign: goal for goal in booking.goals}["new"].most > 0


def _counted(step, made):
    def pages(self, *args):
        made.append(1)
        return step(self, *args)

    return pages
