"""New items: what is known of them as tokens, and where that puts them."""

from __future__ import annotations

import numpy as np

from serving.catalogue import parse_item
from training.item_traits import APART, BLOCKS, Traits, traits_of
from training.model import Customers, Effort, Positives, TrainData
from training.placing import ALLOWANCE, WORTH, neighbours, place, placed

GROUPS = ("定期存款", "黄金基金", "旅行保险", "信用卡分期")


def item(n: int, **more: object):
    group = n % len(GROUPS)
    said = {"id": f"i{n}", "kind": "product", "title": {"zh": f"{GROUPS[group]}{n}号"}}
    return parse_item(said | {"category": f"shop/{group}", "attributes": {"term": "1y|2y"}} | more)


def test_chinese_titles_and_parted_values_speak() -> None:
    one, other, third = (set(traits_of(item(n))[0].tolist()) for n in (0, 4, 1))
    assert len(one & other) > len(one & third) + 3  # 定期存款 shares its characters and pairs
    years = set(traits_of(item(0, attributes={"year": "1994"}))[0].tolist())
    assert len(years & set(traits_of(item(0, attributes={"year": "1997"}))[0].tolist())) > len(
        years & set(traits_of(item(0, attributes={"year": "1987"}))[0].tolist())
    )
    tokens, grams = traits_of(item(3))
    assert np.all(np.diff(tokens.astype(np.int64)) > 0)
    assert 0 < grams.sum() < len(grams)


def world(n: int = 200) -> tuple[Traits, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    traits = Traits.of([item(k) for k in range(n)])
    centres = np.eye(len(GROUPS), 6)
    vectors = (centres[np.arange(n) % len(GROUPS)] + 0.1 * rng.standard_normal((n, 6))).astype(np.float32)
    users = np.where(np.arange(n) < n - 20, 60.0, 0.0)
    vectors[users == 0] = 0.0
    return traits, vectors, users


def test_new_items_come_to_lie_beside_their_like() -> None:
    traits, vectors, users = world()
    found = placed(vectors, users, traits)
    new = np.flatnonzero(users == 0)
    assert np.array_equal(found[users > 0], vectors[users > 0])
    assert np.array_equal(found[new].argmax(axis=1), new % len(GROUPS))
    assert np.array_equal(found, placed(vectors, users, traits))


def test_behaviour_takes_over_and_the_allowance_decays() -> None:
    traits, vectors, users = world()
    vectors[-1], users[-1] = [0, 0, 0, 0, 0, 5], 3.0
    alone = place(vectors, users, traits)
    assert alone is not None
    share = WORTH / (WORTH + 3.0)
    expected = vectors[-1] + share * (alone.vectors[-1] - vectors[-1])
    np.testing.assert_allclose(placed(vectors, users, traits)[-1], expected, rtol=1e-5)
    bold, plain = (
        place(vectors, users, traits, allowance=ALLOWANCE),
        place(vectors, users, traits, allowance=0),
    )
    assert bold is not None and plain is not None
    assert (np.linalg.norm(bold.vectors, axis=1) >= np.linalg.norm(plain.vectors, axis=1)).all()


def test_too_little_is_left_as_it_is() -> None:
    traits, vectors, users = world(40)
    assert placed(vectors, users, traits) is vectors
    assert placed(vectors, users, None) is vectors


def test_models_place_items_that_nobody_met() -> None:
    from training.config import TrainConfig

    rng = np.random.default_rng(1)
    n_users, n_items, n = 120, 120, 4_000
    user = rng.integers(0, n_users, n)
    item_row = (rng.integers(0, n_items // 4, n) * 4 + user % 4) % n_items
    kept = item_row < n_items - 8
    one = Positives(
        user[kept].astype(np.int32), item_row[kept].astype(np.int32),
        np.arange(kept.sum(), dtype=np.float64), np.ones(int(kept.sum()), np.float32),
    )  # fmt: skip
    traits = Traits.of([item(k) for k in range(n_items)])
    data = TrainData(one, Customers.unknown(n_users), np.zeros(n_items, np.uint8), float(n), traits)
    config = TrainConfig(models=("als", "ials"))
    for name in ("als", "ials"):
        model = config.build_models()[name]
        served = model.fit(data, {**model.trials()[0], "factors": 8.0}, Effort(7, 1))
        new = np.asarray(served.vectors)[-8:]
        like = np.asarray(served.vectors)[:-8]
        near = (new @ like.T).argmax(axis=1) % 4
        assert (near == np.arange(n_items - 8, n_items) % 4).mean() > 0.7, name


def test_ids_that_end_in_a_number_lie_in_its_order() -> None:
    names = ["i2", "i10", "f1", "gold", "i1", "f0003"]
    items = [parse_item({"id": name, "kind": "product", "title": {"zh": "存款"}}) for name in names]
    order = Traits.of(items).order
    assert np.isnan(order[3])
    assert [names[k] for k in np.argsort(order)[:5]] == ["f1", "f0003", "i1", "i2", "i10"]
    assert order[0] - order[4] == 1.0 and order[4] - order[5] == APART
    one, near, far = (set(traits_of(item(n))[0].tolist()) for n in (100, 108, 300))
    assert len(one & near) == len(one & far) + len(BLOCKS)  # 100 to 109, 100 to 199


def test_neighbours_are_the_known_items_near_by_without_the_item_itself() -> None:
    rng = np.random.default_rng(5)
    order = np.append(rng.permutation(40).astype(float), [np.nan, 5_000.0])
    known, target = np.sort(rng.choice(42, 30, replace=False)), rng.random(42)
    found = neighbours(order, target, known, 3.0)
    for i in range(42):
        worth = np.array([np.exp(-abs(order[i] - order[j]) / 3.0) if j != i else 0.0 for j in known])
        worth = np.nan_to_num(worth)
        if np.isnan(order[i]) or worth.sum() < 1e-6:
            assert np.isnan(found[i])
        else:
            np.testing.assert_allclose(found[i], worth @ target[known] / worth.sum(), rtol=1e-9)


def test_what_was_numbered_together_is_wanted_alike() -> None:
    rng = np.random.default_rng(6)
    traits, vectors, _ = world(400)
    wanted = np.where(np.arange(400) // 40 % 2 == 0, 200.0, 20.0) * rng.uniform(0.7, 1.4, 400)
    users = np.where(rng.random(400) < 0.1, 0.0, np.round(wanted))
    vectors = vectors * np.log1p(wanted)[:, None].astype(np.float32)
    vectors[users == 0] = 0.0
    found = place(vectors, users, traits)
    assert found is not None
    new = np.flatnonzero(users == 0)
    many = wanted[new] > 100
    assert found.level[new][many].min() > found.level[new][~many].max()
