"""A whole training run on a small made-up shop: publish, resume, repeat, refuse, force, materialise, swap."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import redis
from rich.console import Console

from features.bulk import count_held
from features.ids import key32, key64, keys64
from features.keyspace import parse_keyspace
from features.redis_store import RedisStore
from features.views import PROFILE, SCHEMAS
from serving.bundle import load
from serving.catalogue import parse_item
from serving.control import MemoryControl
from serving.registry import Registry
from serving.settings import Settings
from training import job
from training.base_columns import Base
from training.config import parse_config
from training.erasure import Places, Who, erase
from training.job import run_training
from training.lake import Lake, LakeError
from training.source import Source, import_source
from training.tables import OUTCOME_COLUMNS, pc
from training.workspace import TrainingBusy, alone

START = 1_780_000_000.0
DAY = 86_400.0
NOW = START + 100 * DAY
KINDS = ("function", "product", "activity", "content", "benefit", "service")
CONFIG = parse_config(
    {
        "threads": 1,
        "als": {"factors": 8, "iterations": 4, "settings": [[3.0, 1.0]], "half_lives": [30.0]},
        "neighbours": {"half_lives": [30.0], "pseudos": [1.0]},
        "popular": {"half_lives": [30.0]},
    }
)


def shop(seed=1, customers=220, items=180, events=7000, days=60, taste=True, noise=0.1) -> Source:
    """Customers of four tastes, each with its own fifth of the catalogue; or, without taste, of none."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, customers, events)
    popular = (rng.beta(0.7, 3, events) * items).astype(int)
    own = (user % 4) * (items // 4) + (rng.beta(1, 2, events) * (items // 4)).astype(int)
    item = np.where((rng.random(events) < noise) | (not taste), popular, own) % items
    at = np.sort(START + rng.random(events) * days * DAY)
    what = np.where(rng.random(events) < 0.7, "clicked", "converted")
    table = pa.table(
        {
            "event_id": [f"e{seed}-{n}" for n in range(events)],
            "type": pa.array(what).dictionary_encode(),
            "occurred_at": at,
            "received_at": at,
            "at": at,
            "subject": [f"u:c{one}" for one in user],
            "user_id": [f"c{one}" for one in user],
            "item_key": keys64(f"i{one}" for one in item),
            "item_id": [f"i{one}" for one in item],
            "channel": np.ones(events, np.uint8),
            "late": np.zeros(events, bool),
            "source": ["shop"] * events,
        }
    )
    catalogue = tuple(
        parse_item(
            {
                "id": f"i{number}",
                "kind": KINDS[number % 6],
                "title": {"en": f"Thing {number}"},
                "category": f"c/{number % 5}",
            }
        )
        for number in range(items)
    )
    people = pa.table(
        {
            "user_id": [f"c{one}" for one in range(customers)],
            "segment": pa.array([1 + one // 4 % 3 for one in range(customers)], pa.uint16()),
            "risk_level": pa.array([1 + one % 5 for one in range(customers)], pa.uint8()),
        }
    )
    return Source("shop", f"digest{seed}{events}{taste}", table, catalogue, people)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("shop")
    console = Console(file=io.StringIO(), width=200)
    return home, run_training(home, shop(), CONFIG, now=NOW, console=console), console


def test_the_first_run_is_published_and_told(trained):
    home, report, console = trained
    assert report.promoted and report.verdict.passed
    assert [step.name for step in report.steps] == [
        "ingest",
        "dataset",
        "models",
        "index",
        "evaluate",
        "ranker",
        "materialise",
        "publish",
    ]
    assert Registry(home / "registry").live() == report.version
    assert report.chosen in ("als", "neighbours")
    assert report.metrics[report.chosen]["recall@20"] > 1.5 * report.metrics["popular"]["recall@20"]
    said = console.file.getvalue()
    assert f"bundle {report.version} is live" in said and "models (" in said


def test_the_bundle_says_where_it_comes_from_and_holds_no_customer(trained):
    home, report, _ = trained
    bundle = load(Registry(home / "registry").fetch(report.version, home / "cache"))
    said = bundle.manifest
    assert said["model"]["name"] == report.chosen and said["seed"] == 7 and said["threads"] == 1
    assert said["evaluation"]["denominators"]["recall@k"].endswith("|held out|")
    assert set(said["evaluation"]["models"]) == {"als", "neighbours", "popular"}
    assert said["gate"]["passed"] and not said["gate"]["forced"]
    assert bundle.weights.half_life_days == said["model"]["params"]["half_life_days"]
    assert bundle.model.name == report.chosen and len(bundle) == 180
    assert bundle.stats["interactions"].sum() == 7000
    for path in (home / "registry").rglob("*"):
        if path.is_file() and path.suffix in (".json", ".txt"):
            text = path.read_text()
            assert '"c1"' not in text and "u:c" not in text


def test_the_report_has_numbers_and_pictures(trained):
    _, report, _ = trained
    text = report.report.read_text()
    for part in (
        "min(k, held out)",
        "all held-out items",
        "recall@20",
        "as served",
        "The gate",
        report.version,
    ):
        assert part in text
    for picture in ("metrics.png", "popularity.png"):
        assert (report.report.parent / picture).read_bytes().startswith(b"\x89PNG")
        assert picture in text


def test_the_same_again_does_nothing_and_says_so(trained):
    home, report, _ = trained
    again = run_training(home, shop(), CONFIG, now=NOW + 5 * DAY)
    assert again.version == report.version and again.promoted
    skipped = {step.name for step in again.steps if step.skipped}
    assert {"ingest", "dataset", "models", "index", "evaluate"} <= skipped
    assert len(Registry(home / "registry").history()) == 1
    assert any("live already" in note for note in again.steps[-1].notes)


def test_another_home_gives_the_same_bytes(trained, tmp_path):
    home, report, _ = trained
    other = run_training(tmp_path, shop(), CONFIG, now=NOW + 9 * DAY)
    assert other.version == report.version
    first, second = (Registry(place / "registry").show(report.version)["files"] for place in (home, tmp_path))
    assert first == second


def test_the_next_bundle_knows_nothing_of_who_was_erased_however_often_they_come_back(trained, tmp_path):
    """Trained after an erasure; after the events were added anew and erased again: byte for byte the same."""
    source, made = shop(), []
    theirs = source.events.filter(pc.equal(source.events["user_id"], "c7"))
    assert len(theirs) > 10
    for name, times in (("once", 1), ("again", 3)):
        home = tmp_path / name
        lake = Lake(home / "lake")
        import_source(source, lake, quarantine_folder=home / "quarantine")
        for turn in range(times):
            if turn:
                back = theirs.set_column(
                    0, "event_id", pa.array([f"back{turn}-{n}" for n in range(len(theirs))])
                )
                assert lake.append_events(back, f"back{turn}") == len(theirs)
                assert len(lake.events()) == len(source.events)
            erase(Places(Settings(home=home), lake), Who(("c7",)))
            assert len(lake.events()) == len(source.events) - len(theirs)
        report = run_training(home, None, CONFIG, now=NOW)
        made.append((report.version, Registry(home / "registry").show(report.version)["files"]))
    assert made[0] == made[1]
    home, report, _ = trained
    with_them = Registry(home / "registry").show(report.version)["files"]
    assert made[0][0] != report.version and made[0][1] != with_them  # they had been learnt from


@pytest.mark.parametrize("broken", ["fit_all", "index_final", "appraise", "write_and_judge"])
def test_a_run_that_was_killed_goes_on_where_it_stopped(trained, tmp_path, monkeypatch, broken):
    _, report, _ = trained

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, broken, killed)
        with pytest.raises(KeyboardInterrupt):
            run_training(tmp_path, shop(), CONFIG, now=NOW)
    assert Registry(tmp_path / "registry").live() is None
    resumed = run_training(tmp_path, shop(), CONFIG, now=NOW)
    assert resumed.version == report.version
    order = ["dataset", "models", "index", "evaluate", "publish"]
    stopped = {"fit_all": 1, "index_final": 2, "appraise": 3, "write_and_judge": 4}[broken]
    skipped = [step.name for step in resumed.steps if step.skipped and step.name in order]
    assert skipped == order[:stopped]


def test_new_events_make_a_new_bundle_held_against_the_live_one(trained, tmp_path):
    run_training(tmp_path, shop(), CONFIG, now=NOW)
    report = run_training(tmp_path, shop(2, events=3000, days=70), CONFIG, now=NOW)
    assert report.promoted
    live = [one for one in report.evaluation["comparisons"] if one["other"] == "live"]
    assert len(live) == 1 and live[0]["customers"] > 50
    assert len(Registry(tmp_path / "registry").history()) == 2


def test_what_was_rolled_back_does_not_come_back_by_itself(tmp_path):
    first = run_training(tmp_path, shop(), CONFIG, now=NOW)
    newer = shop(2, events=3000, days=70)
    assert run_training(tmp_path, newer, CONFIG, now=NOW).promoted
    registry = Registry(tmp_path / "registry")
    assert registry.rollback() == first.version
    again = run_training(tmp_path, newer, CONFIG, now=NOW)
    assert not again.promoted and [one.code for one in again.verdict.refusals] == ["rolled_back"]
    assert registry.live() == first.version
    assert run_training(tmp_path, newer, CONFIG, now=NOW, force=True).promoted


def worse(monkeypatch):
    """Makes the candidate choose popularity, whatever is better."""
    monkeypatch.setattr("training.appraise.choose", lambda measured, metric: "popular")


def test_a_worse_bundle_is_not_promoted_unless_forced(trained, tmp_path, monkeypatch):
    first = run_training(tmp_path, shop(), CONFIG, now=NOW)
    worse(monkeypatch)
    control = MemoryControl()
    report = run_training(tmp_path, shop(2, events=500), CONFIG, now=NOW, control=control)
    assert not report.promoted and report.version is not None
    assert [one.code for one in report.verdict.refusals] == ["worse_than_live"]
    registry = Registry(tmp_path / "registry")
    assert registry.live() == first.version
    assert registry.show(report.version)["gate"]["refusals"][0]["code"] == "worse_than_live"
    assert "not promoted" in report.report.read_text()
    forced = run_training(
        tmp_path, shop(2, events=500), CONFIG, now=NOW, force=True, by="an operator", control=control
    )
    assert forced.promoted and registry.live() == forced.version != report.version
    assert registry.show(forced.version)["gate"] == {
        "passed": False,
        "forced": True,
        "refusals": registry.show(report.version)["gate"]["refusals"],
    }
    assert registry.history()[-1]["forced"] and registry.history()[-1]["by"] == "an operator"


def test_of_customers_without_taste_popularity_serves(tmp_path):
    report = run_training(tmp_path, shop(taste=False), CONFIG, now=NOW)
    values = {name: one["recall@20"] for name, one in report.metrics.items()}
    assert report.chosen == max(values, key=lambda name: (values[name], name == "popular"))
    assert values["als"] < 1.3 * values["popular"]
    assert report.verdict.passed


@pytest.mark.integration
def test_features_are_written_verified_and_pointed_at(valkey_url, tmp_path):
    control = MemoryControl()
    report = run_training(tmp_path, shop(), CONFIG, now=NOW, features_url=valkey_url, control=control)

    async def look():
        state = await control.poll()
        store = RedisStore.at(valkey_url)
        try:
            asked = ["c0", "c7", "nobody"]
            then = START + 61 * DAY
            read = await store.read(PROFILE, asked, version=report.features, now=then, schemas=SCHEMAS)
        finally:
            await store.close()
        return state, read

    state, read = asyncio.run(look())
    assert state.bundle == report.version
    space = parse_keyspace(state.features)
    assert space.version == report.features
    assert space.views["profile"].count == 220 and space.views["membership"].count == 0
    assert read.present.tolist() == [True, True, False]
    assert read.records["risk_level"][:2].tolist() == [1, 3]
    assert read.records["segment"][:2].tolist() == [1, 2]
    assert (read.records["last_active"][:2] > START).all()
    again = run_training(tmp_path, shop(), CONFIG, now=NOW, features_url=valkey_url, control=control)
    assert next(step for step in again.steps if step.name == "materialise").skipped


@pytest.mark.integration
def test_the_columns_of_the_base_are_written_and_written_again(valkey_url, tmp_path):
    control = MemoryControl()
    first = run_training(tmp_path, shop(), CONFIG, now=NOW, features_url=valkey_url, control=control)
    folder = tmp_path / "base" / first.features
    assert Base(folder).n == 220
    shutil.rmtree(folder)
    again = run_training(tmp_path, shop(), CONFIG, now=NOW, features_url=valkey_url, control=control)
    step = next(step for step in again.steps if step.name == "materialise")
    assert not step.skipped and any("columnar copy was missing" in note for note in step.notes)
    assert Base(folder).n == 220 and again.features == first.features


@pytest.mark.integration
@pytest.mark.parametrize("lost", ["records", "pointer", "a record"])
def test_what_the_store_has_lost_is_written_again(trained, valkey_url, tmp_path, lost):
    control = MemoryControl()
    first = run_training(tmp_path, shop(), CONFIG, now=NOW, features_url=valkey_url, control=control)
    with redis.Redis.from_url(valkey_url) as client:
        keys = client.keys("fs:*")
        assert len(keys) == 220
        if lost == "records":
            client.flushall()
        elif lost == "a record":
            client.delete(keys[7])
    if lost == "pointer":
        control = MemoryControl()
    again = run_training(tmp_path, shop(), CONFIG, now=NOW, features_url=valkey_url, control=control)
    step = next(step for step in again.steps if step.name == "materialise")
    assert not step.skipped and any("written again" in note for note in step.notes)
    assert count_held(valkey_url, PROFILE, first.features, [f"c{n}" for n in range(220)]) == 220
    state = asyncio.run(control.poll())
    assert parse_keyspace(state.features).version == first.features
    assert state.bundle == first.version
    third = run_training(tmp_path, shop(), CONFIG, now=NOW, features_url=valkey_url, control=control)
    assert next(step for step in third.steps if step.name == "materialise").skipped


def test_control_that_forgot_the_bundle_is_told_although_nothing_new_is_promoted(
    trained, tmp_path, monkeypatch
):
    first = run_training(tmp_path, shop(), CONFIG, now=NOW)
    worse(monkeypatch)
    control = MemoryControl()
    report = run_training(tmp_path, shop(2, events=500), CONFIG, now=NOW, control=control)
    assert not report.promoted
    assert asyncio.run(control.poll()).bundle == first.version


def test_two_trainings_in_one_home_are_one_too_many(trained, tmp_path):
    with alone(tmp_path), pytest.raises(TrainingBusy, match=r"another training is at work in .*--home"):
        run_training(tmp_path, shop(), CONFIG, now=NOW)
    assert not (tmp_path / "lake").exists()
    assert run_training(tmp_path, shop(), CONFIG, now=NOW).promoted


def test_items_of_the_api_are_learnt_at_the_next_training(trained, tmp_path):
    control = MemoryControl()
    new = {"kind": "product", "title": {"en": "Fresh"}, "category": "c/new"}
    changed = {"kind": "product", "title": {"en": "Thing 7, renamed"}, "category": "c/changed"}
    asyncio.run(
        control.overlay_put(
            [("item", "fresh", new), ("item", "i7", changed), ("item", "i8", None), ("creative", "v", None)]
        )
    )
    source = shop()
    table = source.events.to_pylist()
    bought = [
        {**row, "event_id": f"n{n}", "item_id": "fresh", "item_key": key64("fresh"), "at": row["at"] + 1}
        for n, row in enumerate(table[::40])
    ]
    more = pa.Table.from_pylist(bought, schema=source.events.schema)
    source = replace(source, events=pa.concat_tables([source.events, more]), digest="with-fresh")
    report = run_training(tmp_path, source, CONFIG, now=NOW, control=control)
    assert any("2 items new or changed by the API" in note for note in report.steps[0].notes)
    bundle = load(Registry(tmp_path / "registry").fetch(report.version, tmp_path / "cache"))
    assert len(bundle) == 181
    fresh, renamed = bundle.items.rows_of_keys(keys64(["fresh", "i7"])).tolist()
    assert bundle.stats["interactions"][fresh] == len(bought)
    assert bundle.compiled.table["category"][renamed] == key32("c/changed")
    again = run_training(tmp_path, source, CONFIG, now=NOW, control=control)
    assert again.version == report.version
    assert not any("by the API" in note for note in again.steps[0].notes)


def test_an_outcome_makes_another_bundle(trained, tmp_path):
    first = run_training(tmp_path, shop(), CONFIG, now=NOW)
    lake = Lake(tmp_path / "lake")
    times = {"occurred_at": START + 3 * DAY, "recorded_at": NOW, "received_at": NOW}
    named = {"outcome_id": "o", "user_id": "c3", "kind": "purchase", "item_id": "i9", "item_key": key64("i9")}
    with lake.writing():
        manifest = lake.manifest()
        told = pa.Table.from_pylist([named | times], schema=OUTCOME_COLUMNS)
        manifest.files["outcomes"] += lake.write_parts("outcomes", told, "bank")
        lake.commit(manifest)
    again = run_training(tmp_path, None, CONFIG, now=NOW)
    assert again.numbers["positives"] == first.numbers["positives"] + 1
    assert not next(step for step in again.steps if step.name == "models").skipped


@pytest.mark.integration
def test_the_bulk_load_shows_how_far_it_is(trained, valkey_url, tmp_path, monkeypatch):
    monkeypatch.setattr("features.bulk.PIECE_BYTES", 20_000)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    run_training(tmp_path, shop(), CONFIG, now=NOW, features_url=valkey_url, console=console)
    assert "of 220 records" in screen.getvalue()


def test_a_run_leaves_few_work_folders(trained):
    home, _, _ = trained
    assert len(list((home / "work").iterdir())) <= job.KEPT_RUNS
    marker = next((home / "work").glob("*/models.done.json"))
    assert json.loads(marker.read_text())["key"] == marker.parent.name


def test_a_lake_without_a_catalogue_is_told(tmp_path):
    with pytest.raises(LakeError, match="catalogue"):
        run_training(tmp_path, None, CONFIG, now=NOW)
    assert Lake(tmp_path / "lake").manifest().version == 0
