"""Uplift: what is served is what was fitted, and what was fitted is what is true."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from features.customer import NOTHING, Customer, decode_customer
from features.ids import KIND_CODE, KINDS, key32, key64
from features.transforms import DAY, EventWeights
from features.views import PROFILE
from serving import bundle as bundles
from serving.catalogue import compile_items, parse_item
from serving.uplift import COLUMNS, FILE, Uplift, columns_of
from tests.worlds import NOW, tiny_bundle
from training import uplift as fitting
from training.dataset import build_dataset
from training.lake import Lake
from training.profiles import Profiles, as_served
from training.results import OutcomeRules
from training.uplift import (
    Study,
    click_model,
    first_of,
    fit_uplift,
    logistic,
    sigmoid,
    standardised,
    standards,
    with_telling_tags,
)
from training.uplift_study import last_before, study_of, within
from training.world import World

BENEFIT = KIND_CODE["benefit"]
GROUPS = np.array(sorted([key32("dining"), key32("travel")]), np.uint32)
TAGS = np.array([3, 70])


def profiles(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    records = PROFILE.blank(n)
    for name, high in (
        ("age_band", 6),
        ("star_level", 8),
        ("payroll", 2),
        ("city_tier", 4),
        ("gender", 3),
        ("lifecycle", 6),
    ):
        records[name] = rng.integers(0, high, n)
    for name in (
        "assets",
        "income",
        "tenure_days",
        "clicks_30d",
        "displays_30d",
        "conversions_90d",
        "active_days_30d",
    ):
        records[name] = rng.gamma(1, 20, n)
    records["kind_affinity"] = rng.dirichlet(np.ones(len(KINDS)), n)
    records["tags"] = rng.integers(0, 256, (n, 16))
    known = np.full(n, PROFILE.mask(PROFILE.names), np.uint64)
    return records, known


def model(rng: np.random.Generator, tags: np.ndarray = TAGS) -> Uplift:
    width = 1 + len(COLUMNS) + len(tags)
    kind_bias = np.full(len(KINDS), np.nan, np.float32)
    kind_bias[BENEFIT] = -1.5
    return Uplift(
        tags=tags, centre=rng.normal(size=width - 1).astype(np.float32),
        scale=rng.uniform(0.5, 2, width - 1).astype(np.float32), groups=GROUPS,
        base=rng.normal(0, 0.3, (3, width)).astype(np.float32), shift=0.25,
        persuaded=rng.normal(0, 0.3, width).astype(np.float32), slope=-0.4,
        item_keys=np.sort(np.array([key64("a"), key64("b")], np.uint64)),
        item_bias=np.array([0.5, -0.5], np.float32), kind_bias=kind_bias,
    )  # fmt: skip


def test_columns_are_the_fields_and_what_is_not_known_is_nan() -> None:
    records, known = profiles(np.random.default_rng(1), 50)
    known[1] &= ~np.uint64(PROFILE.mask(("assets", "tags", "lifecycle")))
    x = columns_of(records, known, TAGS)
    assert x.shape == (50, len(COLUMNS) + 2)
    place = {name: at for at, name in enumerate(COLUMNS)}
    assert x[0, place["log_assets"]] == pytest.approx(np.log1p(records["assets"][0]), rel=1e-6)
    assert x[0, place[f"lifecycle_{records['lifecycle'][0]}"]] == 1
    assert x[0, place["likes_benefit"]] == records["kind_affinity"][0][BENEFIT]
    bits = np.unpackbits(records["tags"], axis=1, bitorder="little")
    assert (x[0, -2:] == bits[0, TAGS]).all() and (x[2, -2:] == bits[2, TAGS]).all()
    unknown = np.isnan(x[1])
    assert {COLUMNS[at] for at in np.flatnonzero(unknown[: len(COLUMNS)])} == {
        "log_assets", *(f"lifecycle_{code}" for code in range(6))
    }  # fmt: skip
    assert unknown[-2:].all() and np.isfinite(x[0]).all()


def replace_known(customer: Customer, unknown: tuple[str, ...]) -> Customer:
    assert customer.profile is not None
    known = customer.profile.known & ~PROFILE.mask(unknown)
    return replace(customer, profile=customer.profile._replace(known=known))


def test_one_customer_is_a_row_of_the_batch() -> None:
    rng = np.random.default_rng(2)
    stored = Profiles(*profiles(rng, 3))
    records, known = as_served(stored)  # what training learns from: a field under a consent only with it
    served, made = model(rng), columns_of(records, known, TAGS)
    packed = PROFILE.pack(stored.records, as_of=NOW, known=stored.known)
    customer = decode_customer(NOTHING._replace(profile=bytes(packed[1])), now=NOW)
    assert customer.profile is not None
    np.testing.assert_allclose(served.of(customer), served.standard(made)[1], rtol=1e-6, atol=1e-6)
    some = replace_known(customer, ("assets", "tags"))
    made[1, COLUMNS.index("log_assets")] = made[1, len(COLUMNS) :] = np.nan
    np.testing.assert_allclose(served.of(some), served.standard(made)[1], rtol=1e-6, atol=1e-6)
    stranger = decode_customer(NOTHING, now=NOW)
    assert served.of(stranger).tolist() == [1.0] + [0.0] * (len(COLUMNS) + 2)


def test_what_is_used_is_bought_anyway_or_gained() -> None:
    """The plain twin, row by row; p0 + delta = p1 in [0, 1]."""
    rng = np.random.default_rng(3)
    served = model(rng)
    keys = np.array([key64(name) for name in ("a", "x", "b", "y", "z")], np.uint64)
    kinds = np.array([BENEFIT, 1, BENEFIT, BENEFIT, BENEFIT], np.uint8)
    tops = np.array([GROUPS[1], GROUPS[0], GROUPS[0], key32("other"), GROUPS[0]], np.uint32)
    rows = served.bound(keys, kinds, tops)
    assert rows.rows.tolist() == [0, 2, 3, 4] and rows.at.tolist() == [0, -1, 1, 2, 3]
    bias = dict(zip(served.item_keys.tolist(), served.item_bias.tolist(), strict=True))
    for _ in range(20):
        x = np.append(1, rng.normal(0, 3, len(COLUMNS) + 2)).astype(np.float32)
        found = rows.per_click(x)
        for at, row in enumerate(rows.rows.tolist()):
            group = {int(GROUPS[0]): 0, int(GROUPS[1]): 1}.get(int(tops[row]), 2)
            z = float(served.base[group] @ x)
            anyway = 1 / (1 + np.exp(-(z + served.shift)))
            own = bias.get(int(keys[row]), -1.5)
            delta = (1 - anyway) / (1 + np.exp(-(own + served.slope * z + float(served.persuaded @ x))))
            assert found.delta[at] == pytest.approx(delta, abs=2e-6)
            assert found.use[at] == pytest.approx(anyway + delta, abs=2e-6)
            assert 0 <= found.delta[at] <= found.use[at] <= 1 + 1e-6


def test_a_model_is_written_and_read_whole(tmp_path) -> None:
    made = model(np.random.default_rng(4))
    assert Uplift.load(tmp_path) is None
    made.save(tmp_path)
    again = Uplift.load(tmp_path)
    assert again is not None
    for name in Uplift.__slots__:
        one, other = np.asarray(getattr(made, name)), np.asarray(getattr(again, name))
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name
    body = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**body, "columns": ["height"]}))
    with pytest.raises(ValueError, match="other columns"):
        Uplift.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"base": np.zeros((2, 3), np.float32)}, "base"),
        ({"slope": float("nan")}, "slope"),
        ({"item_bias": np.array([1, np.nan], np.float32)}, "item_bias"),
        ({"groups": GROUPS[::-1]}, "groups"),
    ],
)
def test_a_model_that_cannot_be_is_refused(change, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(model(np.random.default_rng(5)), **change)


def test_a_bundle_has_it_or_has_none(tmp_path) -> None:
    plain = tiny_bundle()
    bundles.save(plain, tmp_path / "plain")
    assert bundles.load(tmp_path / "plain").uplift is None
    made = model(np.random.default_rng(6))
    bundles.save(replace(plain, uplift=made), tmp_path / "measured")
    loaded = bundles.load(tmp_path / "measured").uplift
    assert loaded is not None and loaded.base.tobytes() == made.base.tobytes()
    (tmp_path / "measured" / FILE).write_text("{}")
    with pytest.raises(bundles.BundleError, match="uplift"):
        bundles.load(tmp_path / "measured")


def randomised(seed: int, n: int, shift: float) -> tuple[Study, np.ndarray, np.ndarray]:
    """Pages of whom the truth is known: tag 3 says who buys dining anyway, clickers more so by `shift`.

    Returns the study, the true delta per click (n, 2) and P(buys anyway | clicks) (n, 2).
    """
    rng = np.random.default_rng(seed)
    records, known = profiles(rng, n)
    columns = columns_of(records, known, np.arange(128))
    z = np.stack([-2.5 + 2.5 * columns[:, len(COLUMNS) + 3], np.full(n, -1.5)], axis=1)
    item = rng.integers(-1, 2, n)
    wish = rng.random(n) < 0.4
    anyway = sigmoid(np.where(wish[:, None], z + shift, z - shift / 2))
    of = np.maximum(item, 0)
    clicked = (item >= 0) & wish
    buys = rng.random((n, 2)) < anyway
    gained = rng.random(n) < np.array([0.15, 0.3])[of]
    used = clicked & (buys[np.arange(n), of] | gained)
    bought = buys.copy()
    bought[used, of[used]] = True
    delta = (1 - sigmoid(z + shift)) * np.array([0.15, 0.3])
    study = Study(
        columns=columns, interest=np.zeros((n, 2), np.float32), tags=np.arange(128), item=item,
        clicked=clicked, used=used, fresh=clicked, bought=bought,
        chance=np.full((n, 2), 1 / 3, np.float32), quiet=np.ones(n, np.bool_),
        keys=np.array([key64("a"), key64("b")], np.uint64), kinds=np.full(2, BENEFIT, np.uint8),
        group=np.arange(2), groups=GROUPS,
    )  # fmt: skip
    return study, delta, sigmoid(z + shift)


def test_the_truth_is_found_from_randomised_pages() -> None:
    study, delta, anyway = randomised(7, 20_000, shift=0.5)
    learned = fit_uplift(study)
    assert learned is not None and learned.randomised == 20_000
    made = learned.uplift
    assert 3 in made.tags.tolist() and np.isfinite(made.kind_bias).tolist() == [
        k == BENEFIT for k in range(len(KINDS))
    ]
    told = with_telling_tags(study)
    x = made.standard(told.columns[:500])
    rows = made.bound(study.keys, study.kinds, study.groups)
    found = [rows.per_click(one) for one in x]
    got = np.array([one.delta for one in found])
    assert abs(got.mean(axis=0) - delta[:500].mean(axis=0)).max() < 0.05
    base = np.array([one.use - one.delta for one in found])
    assert np.corrcoef(base[:, 0], anyway[:500, 0])[0, 1] > 0.9
    assert json.loads(json.dumps(learned.to_json()))["kinds"] == ["benefit"]


def test_of_clicks_again_and_again_the_first_teaches() -> None:
    """After a click without a purchase none is due, which says nothing of who is persuaded."""
    study, delta, _ = randomised(7, 20_000, shift=0.5)
    again, none = np.flatnonzero(study.clicked), np.zeros(int(study.clicked.sum()), np.bool_)
    more = study.take(again)._replace(used=none, fresh=none, quiet=none)
    columns = ("columns", "interest", "item", "clicked", "used", "fresh", "bought", "chance", "quiet")
    both = {name: np.concatenate([getattr(study, name), getattr(more, name)]) for name in columns}
    learned = fit_uplift(study._replace(**both)._replace(chance=None))
    assert learned is not None
    rows = learned.uplift.bound(study.keys, study.kinds, study.groups)
    told = with_telling_tags(study._replace(**both)).columns[:500]
    got = np.array([rows.per_click(one).delta for one in learned.uplift.standard(told)])
    assert abs(got.mean(axis=0) - delta[:500].mean(axis=0)).max() < 0.05


def test_a_first_click_is_one_that_none_precedes_by_less_than_the_horizon() -> None:
    cell, at = np.array([1, 2, 1, 1, 2, 1]), np.array([30.0, 5.0, 10.0, 14.0, 10.0, 19.0])
    assert first_of(cell, at, 10.0).tolist() == [True, True, True, False, False, False]
    assert first_of(cell[:0], at[:0]).tolist() == []


def test_chance_tells_how_much_of_the_model_came_true() -> None:
    study, *_ = randomised(8, 20_000, shift=0.0)
    learned = fit_uplift(study)
    assert learned is not None
    assert abs(learned.lift_ratio - 1) < 3 * learned.lift_sd < 1
    logged = fit_uplift(study._replace(chance=None))
    assert logged is not None and np.isnan(logged.lift_ratio) and logged.to_json()["randomised"] is None


def test_clicks_follow_interest_at_their_own_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most displays without a click are left out: the level must not feel it."""
    monkeypatch.setattr(fitting, "MOST_PAGES", 3_000)
    study, *_ = randomised(12, 30_000, shift=0.0)
    rng = np.random.default_rng(13)
    interest = rng.normal(0, 1, (30_000, 2)).astype(np.float32)
    truth = sigmoid(np.array([-4.0, -3.0]) + 0.8 * interest)
    item = np.maximum(study.item, 0)
    clicked = (study.item >= 0) & (rng.random(30_000) < truth[np.arange(30_000), item])
    study = with_telling_tags(study._replace(interest=interest, clicked=clicked))
    x = standardised(study.columns, *standards(study.columns))
    made = click_model(study, x)
    assert abs(made.slope - 0.8) < 0.15
    chances = made.chances(x, interest)
    assert np.abs(chances.mean(axis=0) / truth.mean(axis=0) - 1).max() < 0.15


def test_who_is_persuaded_is_told_as_finely_as_unseen_uses_bear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where columns say nothing of it, the strongest ridge is chosen; where they say much, a weaker one."""
    chosen: list[float] = []
    real = fitting._telling_ridge
    monkeypatch.setattr(fitting, "_telling_ridge", lambda *of: chosen.append(real(*of)) or chosen[-1])
    plain, *_ = randomised(14, 20_000, shift=0.0)
    young = plain.columns[:, 0] < np.nanmedian(plain.columns[:, 0])
    told = plain._replace(used=plain.clicked & young)
    for study in (plain, told):
        assert fit_uplift(study) is not None
    assert chosen[0] == fitting.PERSUADED_RIDGES[-1] and chosen[1] < chosen[0]


def test_too_little_is_not_measured() -> None:
    study, *_ = randomised(9, 20_000, shift=0.0)
    few = study.take(np.arange(600))
    assert few.used.sum() < 150 and fit_uplift(few) is None


def test_the_same_pages_give_the_same_model() -> None:
    study, *_ = randomised(10, 6_000, shift=0.0)
    one, other = fit_uplift(study, seed=3), fit_uplift(study, seed=3)
    assert one is not None and other is not None
    assert one.uplift.base.tobytes() == other.uplift.base.tobytes()
    assert one.uplift.persuaded.tobytes() == other.uplift.persuaded.tobytes()


def test_the_logistic_is_the_penalised_maximum() -> None:
    rng = np.random.default_rng(11)
    x = np.column_stack([np.ones(400), rng.normal(size=(400, 2))])
    label = (rng.random(400) < sigmoid(x @ np.array([-1.0, 1.0, 0.0]))).astype(np.float64)
    ridge = np.array([0.0, 5.0, 5.0])
    found = logistic(x, label, ridge)
    gradient = x.T @ (label - sigmoid(x @ found)) - ridge * found
    assert np.abs(gradient).max() < 1e-2 and abs(found[1]) > abs(found[2])
    assert standardised(np.full((1, 2), np.nan, np.float32), *(np.ones(2, np.float32),) * 2).tolist() == [
        [1, 0, 0]
    ]


def test_the_last_display_before_is_credited_and_horizons_are_half_open() -> None:
    cells, times = np.array([1, 1, 2]), np.array([10.0, 20.0, 5.0])
    found = last_before(cells, times, np.array([1, 1, 1, 2, 3]), np.array([9.0, 15.0, 30.0, 5.0, 30.0]))
    assert found.tolist() == [-1, 0, 1, 2, -1]
    got = within(
        np.array([1, 1, 1, 2]), np.array([0.0, 10.0, 4.9, 0.0]), np.array([1]), np.array([10.0]), 5.0
    )
    assert got.tolist() == [False, False, False, False]
    assert within(np.array([1, 1]), np.array([5.0, 10.0]), np.array([1]), np.array([10.0]), 5.0).tolist() == [
        True,
        False,
    ]


def test_a_lake_is_a_study(tmp_path) -> None:
    """Clicks and what followed, one quiet row a customer, columns that know nothing of what comes later."""
    lake = Lake(tmp_path)
    world = World.create(5, 1_200, 200)
    world.write(lake, 20)
    items = compile_items([parse_item(raw) for raw in lake.read_items()])
    now = world.start + 20 * DAY
    dataset = build_dataset(lake, items, now=now, weights=EventWeights())
    study = study_of(lake, dataset, OutcomeRules())
    assert study is not None and study.chance is None
    people = int((study.item < 0).sum())
    assert people == dataset.n_users and not study.clicked[:people].any() and study.clicked[people:].all()
    assert (study.quiet == (study.item < 0)).all() and (study.used <= study.clicked).all()
    assert 0 < study.used.sum() < study.clicked.sum() and (study.kinds == BENEFIT).all()
    assert ((study.bought.mean(axis=0) > 0.005) & (study.bought.mean(axis=0) < 0.5)).all()
    of_items = study.group[study.item[study.used]]
    assert study.bought[study.used, of_items].mean() > 0.9, "a use is a purchase of the group"
    clicks = study.columns[:, COLUMNS.index("log_clicks_30d")]
    assert np.nanmax(clicks) < 1, "the study begins with the lake: hardly anything came before"
    assert fit_uplift(study) is None
    assert study_of(lake, replace(dataset, now=now - 8 * DAY), OutcomeRules()) is None
