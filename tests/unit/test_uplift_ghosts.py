"""Ghosts of benefits' campaigns are a trial, and move what clicks say of uplift towards the truth."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.ids import key32, key64
from features.transforms import DAY, EventWeights
from serving.catalogue import compile_items, parse_item
from serving.kept import PLAN, plan_body
from serving.plan import check_plan
from tests.worlds import item, sold
from training.dataset import Dataset, build_dataset
from training.lake import INPUT_COLUMNS, SERVED_COLUMNS, Lake
from training.results import OutcomeRules
from training.tables import EVENT_COLUMNS
from training.uplift import fit_uplift
from training.uplift_ghosts import SHOWN_PER_GHOST
from training.uplift_study import study_of

START = 1_790_000_000.0
SHARE = 0.05
BENEFITS = ("b0", "b1", "b2")
SLOTS = [{"name": "home.benefits", "layout": "shelf", "size": 4, "kinds": ["benefit"]}]
ANYWAY = {True: 0.7, False: 0.25}  # buy anyway: of those who would click, and of others
GAINED = 0.4  # of those who click and would not have bought
TRUE_DELTA = (1 - ANYWAY[True]) * GAINED


def _table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({one.name: pa.array([row.get(one.name) for row in rows], one.type) for one in schema})


def _lake(folder: Path, people: int, ghosts: float, seed: int = 1, refusers: int = 0) -> tuple[Lake, Dataset]:
    """Everybody reads something on day 0; on day 2 they meet one of three campaigns, or would have; newcomers
    are heard of by a click on the campaign alone."""
    rng = np.random.default_rng(seed)
    raw = {"name": "p", "surfaces": {"home": ["home.benefits"]}, "slots": SLOTS}
    campaigns = [sold(n, name, "home.benefits", flight={}, ghost=ghosts) for n, name in enumerate(BENEFITS)]
    two = sold(9, "b0", "home.benefits", flight={}, ghost=ghosts) | {"items": ["b0", "b1"]}
    plan = check_plan({**raw, "campaigns": [*campaigns, two]})
    events: list[dict[str, Any]] = []
    served: list[dict[str, Any]] = []

    def happened(who: int, what: str, name: str, at: float) -> None:
        seen = {"event_id": f"e{len(events)}", "type": what, "subject": f"u:c{who}", "item_key": key64(name)}
        events.append(seen | {"item_id": name, "late": False, "channel": 1, "weight": 1.0} | dict.fromkeys(
            ("at", "occurred_at", "received_at"), START + at
        ))  # fmt: skip

    for who in range(people):
        benefit, held, wish = who % 3, rng.random() < ghosts, rng.random() < 0.5
        clicks = wish and not held
        if newcomer := who % 10 == 9:
            wish = clicks = not held
        else:
            happened(who, "clicked", "read", 60.0 + who % 7)
        anyway, gained = rng.random() < ANYWAY[wish], rng.random() < GAINED
        if clicks:
            happened(who, "clicked", BENEFITS[benefit], 2 * DAY + 30)
        if clicks and (anyway or gained):
            happened(who, "converted", BENEFITS[benefit], 3 * DAY)
        elif anyway and not newcomer:
            happened(who, "converted", "other", 3 * DAY)
        keys = [key32(f"c{benefit}"), key32("c9")]
        for at in (2 * DAY, 2.5 * DAY):  # the second page is not another draw
            page = {"id": f"d{who}-{at}", "subject": f"u:c{who}", "unit": f"u:c{who}", "plan": plan.version,
                    "surface": "home", "effort": "full", "arms": [], "record": b"", "at": START + at,
                    "received_at": START + at, "lifts": True}  # fmt: skip
            served.append(page | {"campaigns": [] if held else keys, "ghosts": keys if held else []})
    for who in range(people, people + refusers):  # shown whatever the hash says
        happened(who, "clicked", "read", 60.0)
        served.append({**served[0], "id": f"d{who}", "subject": f"u:c{who}", "unit": f"u:c{who}",
                       "campaigns": [key32("c0")], "ghosts": [], "lifts": False})  # fmt: skip
    happened(0, "clicked", "read", 20 * DAY)
    made = [item(n, "benefit", id=name) for n, name in enumerate((*BENEFITS, "other"))]
    made.append(item(9, "content", id="read"))
    lake = Lake(folder)
    lake.write_items(one.model_dump(mode="json", by_alias=True, exclude_defaults=True) for one in made)
    lake.append_events(_table(EVENT_COLUMNS, events), "b")
    body = {"kind": PLAN, "version": plan.version, "body": zlib.compress(plan_body(plan))}
    with lake.writing():
        manifest = lake.manifest()
        manifest.files["served"] += lake.write_parts("served", _table(SERVED_COLUMNS, served), "s")
        logged = _table(INPUT_COLUMNS, [body | {"at": START, "received_at": START}])
        manifest.files["inputs"] += lake.write_parts("inputs", logged, "i")
        lake.commit(manifest)
    items = compile_items([parse_item(one) for one in lake.read_items()])
    return lake, build_dataset(lake, items, now=START + 20 * DAY, weights=EventWeights())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Dataset]:
    return _lake(tmp_path_factory.mktemp("lake"), 12_000, SHARE)


def test_ghosts_are_a_trial_of_the_first_page_with_a_campaign(told: tuple[Lake, Dataset]) -> None:
    lake, dataset = told
    study = study_of(lake, dataset, OutcomeRules())
    assert study is not None and study.chance is None and study.trial is not None
    trial, rows = study.trial, np.arange(len(study.trial.item))
    assert trial.chance is not None and ((trial.chance > 0).sum(axis=1) == 1).all()
    shown, meant = trial.item >= 0, trial.chance.argmax(axis=1)
    assert (trial.item[shown] == meant[shown]).all() and set(meant.tolist()) == {0, 1, 2}
    assert 400 < (~shown).sum() < 680, "one in twenty of 10,800, each once"
    fair = SHARE * SHOWN_PER_GHOST / (1 - SHARE)
    among = 1 - SHARE if fair >= 1 else SHOWN_PER_GHOST / (SHOWN_PER_GHOST + 1)
    assert trial.chance[rows, meant] == pytest.approx(among)
    assert shown.mean() == pytest.approx(among, abs=0.01)
    assert not trial.clicked[~shown].any() and trial.clicked[shown].mean() == pytest.approx(0.5, abs=0.03)
    anyway, gain = (ANYWAY[True] + ANYWAY[False]) / 2, 0.5 * TRUE_DELTA
    assert trial.bought[~shown, 0].mean() == pytest.approx(anyway, abs=0.07)
    assert trial.bought[shown, 0].mean() == pytest.approx(anyway + gain, abs=0.03)
    assert not (trial.used.any() or trial.fresh.any() or trial.quiet.any())


def test_who_could_not_be_held_out_is_in_no_trial(tmp_path: Path) -> None:
    plain, more = (
        study_of(*_lake(tmp_path / str(n), 2_000, SHARE, refusers=n), OutcomeRules()) for n in (0, 1_500)
    )
    assert plain is not None and more is not None and plain.trial is not None and more.trial is not None
    assert more.trial.item.tolist() == plain.trial.item.tolist()


def test_a_true_lift_moves_what_is_learned_towards_it(told: tuple[Lake, Dataset]) -> None:
    """Clickers would have bought anyway more often than others, which clicks alone cannot say."""
    lake, dataset = told
    study = study_of(lake, dataset, OutcomeRules())
    assert study is not None
    informed, alone = fit_uplift(study), fit_uplift(study._replace(trial=None))
    assert informed is not None and alone is not None

    def delta(learned: Any) -> float:
        made = learned.uplift
        x = np.zeros(made.base.shape[1], np.float32)
        x[0] = 1
        return float(
            made.bound(study.keys, study.kinds, study.groups[study.group]).per_click(x).delta[:3].mean()
        )

    assert abs(delta(informed) - TRUE_DELTA) < 0.65 * abs(delta(alone) - TRUE_DELTA)
    assert delta(alone) > delta(informed) > 0
    assert study.trial is not None and informed.randomised == len(study.trial.item) and alone.randomised == 0
    assert (informed.clicks, informed.uses) == (alone.clicks, alone.uses)
    assert abs(informed.lift_ratio - 1) < 2 * informed.lift_sd < 1


def test_without_ghosts_nothing_is_learned_otherwise(tmp_path: Path) -> None:
    lake, dataset = _lake(tmp_path, 1_500, 0.0)
    study = study_of(lake, dataset, OutcomeRules())
    assert study is not None and study.trial is None and study.chance is None
    learned = fit_uplift(study)
    assert learned is not None and learned.randomised == 0 and learned.to_json()["randomised"] is None
