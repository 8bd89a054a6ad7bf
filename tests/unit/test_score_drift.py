"""Drift of scores: from the bundle's own deciles, of the last hour, and silent where nothing can be said."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.customer import Blobs, decode_customer
from features.events import unpack
from features.log import MemoryLog
from serving.bundle import load, save
from serving.decide import decide
from serving.domain import Effort
from serving.observe import Metrics
from serving.placed import Columns
from serving.score_drift import KEY, LEAST, LEAST_SEEN, PART_S, PARTS, Reference, ScoreDrift, references
from serving.served import served_entry
from serving.wire import RecommendAsk
from tests.shell import run, running
from tests.shell_looks import flushed
from tests.worlds import NOW, SLOTS, query, recent_entries, tiny_bundle, tiny_live, tiny_plan
from training.ingest import ingest
from training.lake import Lake
from training.score_reference import DAY_S, _evenly, score_reference


def drawn(n: int, mean: float = 0.1, seed: int = 0) -> list[float]:
    made: list[float] = np.random.default_rng(seed).gamma(4.0, mean / 4.0, n).tolist()
    return made


def reference(scores: list[float]) -> Reference:
    made = Reference.of(scores)
    assert made is not None
    return made


def drift(scores: list[float], said: Any = None, clock: Any = lambda: 0.0) -> ScoreDrift:
    made = ScoreDrift(clock)
    made.expect("b1", {KEY: {"home": reference(scores).to_json()} if said is None else said})
    return made


def distances(made: ScoreDrift) -> dict[str, float]:
    (family,) = made.collect()
    return {one.labels["surface"]: one.value for one in family.samples}


def shown(made: ScoreDrift, scores: list[float], bundle: str = "b1", surface: str = "home") -> None:
    for one in scores:
        made.add(bundle, surface, one)


def test_the_same_scores_are_near_and_others_far() -> None:
    same, other = drift(drawn(4000)), drift(drawn(4000))
    shown(same, drawn(3000, seed=1))
    shown(other, drawn(3000, mean=0.2, seed=1))
    assert 0 <= distances(same)["home"] < 0.02
    assert distances(other)["home"] > 0.5


def test_the_further_they_move_the_greater_it_is() -> None:
    found = []
    for mean in (0.1, 0.12, 0.15, 0.2):
        made = drift(drawn(4000))
        shown(made, drawn(3000, mean=mean, seed=1))
        found.append(distances(made)["home"])
    assert found == sorted(found) and found[2] > 0.25


def test_the_index_is_that_of_its_formula() -> None:
    made = Reference((0.1, 0.2), (99, 199, 99))
    p, q = np.array([300.5, 100.5, 0.5]), np.array([99.5, 199.5, 99.5])
    p, q = p / p.sum(), q / q.sum()
    assert made.distance([300, 100, 0]) == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert made.distance([99, 199, 99]) == 0


def test_pages_that_are_all_alike_stay_where_they_were() -> None:
    """Strangers all get one page: most deciles are one number, and its last bit may differ elsewhere."""
    alike = [0.123456789] * 900 + drawn(100)
    made = drift(alike)
    shown(made, [0.123456789 * (1 + 1e-9)] * 450 + [0.123456789 * (1 - 1e-9)] * 450 + drawn(100, seed=1))
    assert distances(made)["home"] < 0.05


def test_the_window_is_the_last_hour() -> None:
    now = [0.0]
    made = drift(drawn(4000), clock=lambda: now[0])
    shown(made, drawn(1000, mean=0.3))
    far = distances(made)["home"]
    now[0] = (PARTS - 1) * PART_S
    shown(made, drawn(1000, seed=2))
    assert 0.1 < distances(made)["home"] < far
    now[0] = PARTS * PART_S
    assert distances(made)["home"] < 0.05  # the first part is gone
    now[0] = 3 * PARTS * PART_S
    assert distances(made) == {}


def test_too_few_pages_and_other_surfaces_and_bundles_say_nothing() -> None:
    made = drift(drawn(4000))
    shown(made, drawn(LEAST_SEEN - 1, mean=0.3))
    shown(made, drawn(2000, mean=0.3), surface="other")
    shown(made, drawn(2000, mean=0.3), bundle="b0")
    assert distances(made) == {}
    made.add("b1", "home", 0.3)
    assert distances(made).keys() == {"home"}


def test_another_bundle_begins_anew_and_the_same_goes_on() -> None:
    made = drift(drawn(4000))
    shown(made, drawn(1000))
    made.expect("b1", {})  # only the plan is another one
    assert distances(made)
    made.expect("b2", {KEY: {"home": reference(drawn(4000, mean=0.3)).to_json()}})
    assert distances(made) == {}
    shown(made, drawn(1000, mean=0.3), bundle="b2")
    assert distances(made)["home"] < 0.05


@pytest.mark.parametrize(
    "said",
    [
        {}, None, [], "no", {"home": None}, {"home": {"cuts": [0.1]}}, {"home": {"cuts": [], "counts": [5]}},
        {"home": {"cuts": [0.2, 0.1], "counts": [100, 100, 100]}},
        {"home": {"cuts": [0.1, "x"], "counts": [100, 100, 100]}},
        {"home": {"cuts": [0.1, float("nan")], "counts": [100, 100, 100]}},
        {"home": {"cuts": [0.1], "counts": [float("inf"), 400]}},
        {"home": {"cuts": [0.1], "counts": [-1, 400]}}, {"home": {"cuts": [0.1], "counts": [400]}},
    ],
)  # fmt: skip
def test_a_bundle_without_a_reference_that_can_be_read_exports_nothing(said: Any) -> None:
    made = ScoreDrift(lambda: 0.0)
    made.expect("b1", {} if said is None else {KEY: said})
    shown(made, drawn(1000))
    assert distances(made) == {}


def test_too_few_pages_make_no_reference() -> None:
    assert Reference.of(drawn(LEAST - 1)) is None
    made = reference(drawn(LEAST))
    assert sum(made.counts) == LEAST and Reference.read(json.loads(json.dumps(made.to_json()))) == made


LIVE = tiny_live()
SERVED = 400  # pages in the lake of the test


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return served(tmp_path_factory.mktemp("lake"))


def served(root: Path, effort: Effort = "full") -> Lake:
    """Four days of homepages of customers who like different things, ingested."""
    log, made = MemoryLog(lambda: NOW), Lake(str(root))
    entries = []
    for number in range(SERVED):
        recent = recent_entries((f"i{number % 97}", "clicked", 60.0), (f"i{number % 13}", "clicked", 30.0))
        blobs = Blobs(None, None, recent.tobytes(), None, None)
        at = NOW - 4 * DAY_S * (SERVED - number) / SERVED
        asked = query(LIVE, decode_customer(blobs, now=at), decision_id=f"d{number}", now=at)
        entries.append(served_entry(decide(asked, LIVE, effort), blobs, RecommendAsk(user_id="u1"), LIVE, 0))
    asyncio.run(log.append(entries))
    ingest(log, made, now=NOW)
    return made


def test_the_reference_is_what_the_bundle_gives_logged_pages(lake: Lake) -> None:
    (said,) = (found := score_reference(lake, LIVE, NOW + 1)).values()
    assert found.keys() == {"home"} and sum(said["counts"]) == SERVED
    logged = [unpack(one.as_py()) for one in lake.served()["record"]]
    means = [float(np.frombuffer(one["scores"], "<f4").mean()) for one in logged]
    inside = np.searchsorted(said["cuts"], np.float64(means))
    assert np.abs(np.bincount(inside, minlength=len(said["counts"])) - said["counts"]).sum() <= 4  # 32 bits
    assert max(said["counts"]) < SERVED / 5  # they are deciles


def test_another_bundle_is_told_by_its_own_scores(lake: Lake) -> None:
    other = tiny_live(tiny_bundle(seed=5))
    one, two = (Reference.read(score_reference(lake, live, NOW + 1)["home"]) for live in (LIVE, other))
    assert one != two and score_reference(lake, LIVE, NOW + 1)["home"] == one.to_json()


def test_pages_that_were_cut_short_are_decided_whole(lake: Lake, tmp_path: Path) -> None:
    """The service holds only whole ones against it."""
    short = served(tmp_path, "fallback")
    (effort,) = {unpack(one.as_py())["effort"] for one in short.served()["record"]}
    assert effort == "fallback"
    assert score_reference(short, LIVE, NOW + 1) == score_reference(lake, LIVE, NOW + 1)


def test_pages_are_taken_evenly_and_no_more_than_asked(lake: Lake) -> None:
    times = [one["at"] for one in _evenly(lake, NOW + 1, 100, 7)]
    assert len(times) == 100
    assert np.abs(np.diff(times) / (4 * DAY_S / 100) - 1).max() < 0.01
    assert len(list(_evenly(lake, NOW + 1, 10_000, 7))) == SERVED
    assert len(list(_evenly(lake, NOW, 10_000, 2))) == SERVED // 2
    for pages in range(1, SERVED, 7):  # also where the step is no whole number
        assert len(list(_evenly(lake, NOW + 1, pages, 7))) == pages
    assert score_reference(lake, LIVE, NOW + 1, pages=100) == {}  # too few for deciles
    assert score_reference(lake, LIVE, NOW - 30 * DAY_S) == {}


def test_a_surface_that_the_plan_lost_is_left_out(lake: Lake) -> None:
    slots = [{**slot, "name": f"new.{number}"} for number, slot in enumerate(SLOTS)]
    plan = tiny_plan(slots=slots, surfaces={"elsewhere": [one["name"] for one in slots]})
    assert score_reference(lake, tiny_live(plan=plan), NOW + 1) == {}


def test_a_bundle_keeps_its_reference_and_a_service_holds_its_pages_against_it(tmp_path: Path) -> None:
    said = {"home": reference(drawn(1000)).to_json()}
    bundle = load(save(tiny_bundle(**{KEY: said}), tmp_path / "b"))
    assert references(bundle.manifest) == {"home": Reference.read(said["home"])}

    async def story() -> None:
        async with running(bundle) as shell:
            for number in range(3):
                await shell.page(f"u{number}")
            await flushed(shell)
            made = shell.service.metrics.drift
            assert sum(made._counts["home"]) == 3
            for _ in range(LEAST_SEEN):
                made.add(bundle.version, "home", 9.0)
            told = shell.service.metrics.registry.get_sample_value
            found = told("fenliu_score_drift", {"surface": "home"})
            assert found is not None and found > 1

    run(story)


def test_a_page_cut_short_is_not_held_against_whole_ones() -> None:
    metrics = Metrics()
    metrics.drift.expect("b-tiny", {KEY: {"home": reference(drawn(1000)).to_json()}})
    for effort in ("full", "light", "fallback"):
        page = decide(query(LIVE), LIVE, effort)
        metrics.recorded(page, "home", Columns.of(page.placements).score)
    assert sum(metrics.drift._counts["home"]) == 1
