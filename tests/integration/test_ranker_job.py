"""`fenliu train` learns a ranker from logged pages: it serves, and is told why not where there is none."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from features.customer import Blobs, decode_customer
from features.events import served_to_log, unpack
from features.external import ENTRY, pack
from features.ids import key32
from features.views import CONTACT, RECENT, SCHEMAS
from serving.bundle import load
from serving.decide import decide
from serving.domain import Context, Query, SlotRequest
from serving.live import build_live
from serving.plan import default_plan
from serving.registry import Registry
from serving.score_drift import KEY, ScoreDrift, references
from serving.served import record
from serving.wire import ContextAsk, RecommendAsk
from tests.integration.test_training_job import CONFIG, DAY, NOW, START, shop
from training.config import RankerGrid
from training.job import run_training
from training.lake import Lake
from training.log_rows import served_table
from training.score_reference import score_reference
from training.tables import EVENT_COLUMNS

PAGES, UNTIL = 420, START + 60 * DAY
SMALL = RankerGrid(fewest_displays=500, fewest_clicks=20, trees=10, leaves=8, pages=300)


def pages_served(lake: Lake, bundle, seed: int = 3) -> None:
    """Pages of the live bundle over the windows that are held out, clicked by place and taste of kind."""
    rng = np.random.default_rng(seed)
    live = build_live(bundle, (), default_plan(bundle.kind_counts()))
    slots = tuple(SlotRequest(slot, slot.size) for slot in live.plan.surfaces["home"])
    ask = RecommendAsk(surface="home", user_id="c1", context=ContextAsk(channel="app"))
    served, events = [], []
    for number, at in enumerate(np.sort(UNTIL - rng.uniform(60, 22 * DAY, PAGES)).tolist()):
        who = f"c{rng.integers(0, 220)}"
        did = np.zeros(4, RECENT)
        did["item"], did["what"] = live.keys[rng.integers(0, len(live), 4)], 2
        did["event"], did["at"] = np.arange(4), at - rng.uniform(60, 5 * DAY, 4)
        told = np.zeros(30, ENTRY)
        told["item"], told["model"] = rng.choice(live.keys, 30, replace=False), key32("bank")
        told["score"], told["expires"] = rng.normal(0, 1, 30), int(NOW + 60 * DAY)
        blobs = Blobs(None, None, did.tobytes(), np.zeros(0, CONTACT).tobytes(), None, external=pack(told))
        customer = decode_customer(blobs, now=at, schemas=SCHEMAS)
        query = Query(f"d{number}", f"u:{who}", "home", slots, Context(channel=1), customer, at)
        decision = decide(query, live)
        entry = served_to_log(record(decision, blobs, ask, live))
        served.append(unpack(entry) | {"record": entry})
        for place in decision.placements:
            row = (query.subject, query.decision_id, place, at + 1.0, slots[place.slot].spec.name)
            events.append(("displayed", *row))
            chance = 0.5 / (1 + place.position) * (1.6 if live.kind_of[place.row] in (2, 3) else 0.3)
            chance *= 1.6 if place.key in told["item"] else 0.8
            if rng.random() < chance:
                events.append(("clicked", *row))
    table = pa.table(
        {
            "event_id": [f"r{number}" for number in range(len(events))],
            "type": pa.array([one[0] for one in events]).dictionary_encode(),
            **{name: [one[4] for one in events] for name in ("occurred_at", "received_at", "at")},
            "subject": [one[1] for one in events],
            "user_id": [one[1][2:] for one in events],
            "decision_id": [one[2] for one in events],
            "item_key": pa.array([one[3].key for one in events], pa.uint64()),
            "item_id": [live.texts[one[3].row].id for one in events],
            "slot": pa.array([key32(one[5]) for one in events], pa.uint32()),
            "position": pa.array([one[3].position for one in events], pa.int16()),
            "channel": np.ones(len(events), np.uint8),
            "late": np.zeros(len(events), bool),
            "source": ["online"] * len(events),
        }
    )
    for name in set(EVENT_COLUMNS.names) - set(table.column_names):
        table = table.append_column(name, pa.nulls(len(events), EVENT_COLUMNS.field(name).type))
    with lake.writing():
        manifest = lake.manifest()
        told = table.select(EVENT_COLUMNS.names).cast(EVENT_COLUMNS)
        manifest.files["events"] += lake.write_parts("events", told, "pages")
        manifest.files["served"] += lake.write_parts("served", served_table(served), "pages")
        manifest.batches["pages"] = len(events)
        lake.commit(manifest)


@pytest.fixture(scope="module", autouse=True)
def a_month_of_scores():
    """The pages here are spread over three weeks, too few of them in one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.job.score_reference", partial(score_reference, days=30))
        yield


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    home = tmp_path_factory.mktemp("ranked")
    first = run_training(home, shop(), CONFIG, now=NOW)
    assert first.version is not None
    registry = Registry(home / "registry")
    before = load(registry.fetch(first.version, home / "bundles"))
    pages_served(Lake(home / "lake"), before)
    asked = partial(
        run_training, home, None, CONFIG.model_copy(update={"ranker": SMALL}), now=NOW, force=True
    )
    report = asked()
    return before, report, load(report.folder), asked


def test_without_displays_there_is_none_and_the_manifest_says_why(learned) -> None:
    before = learned[0]
    assert before.ranker is None and "logged pages" in before.manifest["ranker"]["why_not"]


def test_logged_pages_make_a_ranker_that_beats_the_blend_and_serves(learned) -> None:
    _, report, bundle, _ = learned
    said = bundle.manifest["ranker"]
    assert bundle.ranker is not None, said
    assert said["log_loss"] < said["blend_log_loss"] < said["constant_log_loss"]
    assert 0.8 < said["expected_over_clicks"] < 1.25
    assert "ranker" in report.seconds
    place = bundle.ranker.click.place[bundle.ranker.code("home.shelf")]
    assert place[0] > place[2]  # by the clicks the first place draws most
    live = build_live(bundle, (), default_plan(bundle.kind_counts()))
    assert [one.name for one in live.pipelines["full"].scorers].count("Ranked") == 1


def test_the_bundle_says_what_scores_it_gives_once_pages_were_logged(learned) -> None:
    before, _, bundle, _ = learned
    assert KEY not in before.manifest
    found = references(bundle.manifest)
    assert found.keys() == {"home"} and sum(found["home"].counts) == PAGES
    drift = ScoreDrift()
    drift.expect(bundle.version, bundle.manifest)
    cuts = found["home"].cuts
    for one in np.repeat([*cuts, 2 * cuts[-1]], 100).tolist():  # as many of each decile
        drift.add(bundle.version, "home", one)
    (family,) = drift.collect()
    assert [one.value < 0.05 for one in family.samples] == [True]


def test_the_banks_own_model_is_believed_as_its_displays_bear_out(learned) -> None:
    _, _, bundle, _ = learned
    assert bundle.ranker is not None
    trust = bundle.ranker.trust
    assert trust.models.tolist() == [key32("bank")]
    assert bundle.manifest["ranker"]["external"][str(key32("bank"))]["displays"] >= 300
    assert trust.level[0] == pytest.approx(np.log(2.0), abs=0.25)  # twice the clicks; of other displays 0.37


def test_a_second_run_takes_the_step_over_and_gives_the_same_bytes(learned) -> None:
    _, report, _, asked = learned
    again = asked()
    assert next(step for step in again.steps if step.name == "ranker").skipped
    assert again.version == report.version
    assert asked(fresh=True).version == report.version
