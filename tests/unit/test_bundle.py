from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from serving.blend import TERMS, Blend, columns_of
from serving.bundle import MANIFEST, BundleError, check_files, load, save
from serving.decide import decide
from serving.models import Neighbours
from tests.worlds import customer, item, query, recent_entries, tiny_bundle, tiny_live


@pytest.fixture
def folder(tmp_path):
    return save(
        tiny_bundle(event_weights={"clicked": 2.0}, metrics={"recall@20": np.float32(0.5)}), tmp_path / "b"
    )


@pytest.mark.parametrize("model", ["als", "popular"])
def test_what_is_loaded_decides_as_what_was_saved(tmp_path, model):
    made = tiny_bundle(model=model)
    back = load(save(made, tmp_path / "b"))
    who = customer(recent=recent_entries(("i3", "clicked", 60), ("i8", "converted", 30)), segment=2)
    one, other = tiny_live(made), tiny_live(back)
    assert decide(query(one, who), one).placements == decide(query(other, who), other).placements
    assert back.version == made.version and back.items.ids == made.items.ids
    assert np.array_equal(back.compiled.table, made.compiled.table)
    assert np.array_equal(back.compiled.known, made.compiled.known)
    assert list(back.compiled.texts) == list(made.compiled.texts)
    assert len(back) == 120 and back.kind_counts() == dict.fromkeys(back.kind_counts(), 20)
    assert [view.name for view in back.schemas] == [view.name for view in made.schemas]


def test_large_arrays_are_mapped_and_not_read(folder):
    bundle = load(folder)
    assert isinstance(bundle.compiled.table, np.memmap) and not bundle.compiled.table.flags.writeable


def test_the_manifest_names_every_file_and_what_training_said(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    assert set(manifest["files"]) == files and manifest["version"] == "b-tiny"
    assert manifest["metrics"] == {"recall@20": 0.5}
    assert load(folder).weights.clicked == 2.0
    assert "files" not in load(folder).manifest


def test_the_same_bundle_gives_the_same_digests(tmp_path):
    one, other = save(tiny_bundle(), tmp_path / "a"), save(tiny_bundle(), tmp_path / "b")
    assert (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()


def names(folder):
    return sorted(json.loads((folder / MANIFEST).read_text())["files"])


def test_every_file_is_guarded(folder):
    for name in names(folder):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BundleError, match="differs from what was published") as caught:
            load(folder)
        assert caught.value.file == str(path) and "again" in caught.value.remedy
        path.unlink()
        with pytest.raises(BundleError, match="is missing"):
            load(folder)
        path.write_bytes(whole)
    load(folder)


def test_a_file_cut_short_is_refused_even_when_digests_are_not_compared(folder):
    for name in ("items/table.npy", "stats.npy", "model/vectors.npy", "popular/shares.npy", "ids.txt"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BundleError):
            load(folder, verify=False)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "does not describe a bundle"),
        ("{}", "does not describe a bundle"),
        ('{"files": {}, "version": "x", "format": 99}', "is of format 99"),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder, text, problem):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=problem):
        load(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"manifest\.json: is missing"):
        load(tmp_path)


def test_other_columns_are_refused_and_not_guessed(folder):
    table = np.load(folder / "items" / "table.npy")
    fewer = table[[name for name in table.dtype.names if name != "risk_class"]].copy()
    np.save(folder / "items" / "table.npy", fewer)
    with pytest.raises(BundleError, match="other columns"):
        load(folder, verify=False)


def test_items_in_another_order_are_refused(folder):
    ids = (folder / "ids.txt").read_text().splitlines()
    (folder / "ids.txt").write_text("\n".join([ids[1], ids[0], *ids[2:], ""]))
    with pytest.raises(BundleError, match="keys are not those"):
        load(folder, verify=False)


def test_parts_of_different_fits_do_not_go_together():
    made = tiny_bundle()
    for part in ("model", "popular", "neighbours"):
        with pytest.raises(BundleError, match="60 items"):
            replace(made, **{part: getattr(tiny_bundle(60), part)})


def test_a_bundle_is_never_written_over_another(folder):
    with pytest.raises(BundleError, match="not empty"):
        save(tiny_bundle(), folder)


def test_files_that_the_manifest_does_not_name_are_ignored(folder):
    (folder / "notes.txt").write_text("hello")
    check_files(folder, json.loads((folder / MANIFEST).read_text()))
    assert load(folder).version == "b-tiny"


def test_nothing_in_a_bundle_names_a_customer(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"u:" not in path.read_bytes() or path.suffix == ".npy"


def test_no_neighbours_is_a_valid_table():
    assert (
        len(
            Neighbours(np.zeros(4, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
            .similar(1, 5)
            .rows
        )
        == 0
    )


def test_the_blend_is_finite_whatever_is_unknown():
    nan = np.full(3, np.nan, np.float32)
    blend = Blend.neutral()
    score = blend.score(np.array([0, 1, 5], np.uint8), nan, nan, np.zeros(3, np.float32))
    assert np.isfinite(score).all() and ((score > 0) & (score < 1)).all()
    assert columns_of(nan, nan, np.zeros(3, np.float32)).shape == (3, len(TERMS))


def test_the_terms_of_the_blend_add_up_to_its_logit():
    rng = np.random.default_rng(0)
    blend = Blend(rng.normal(size=(6, len(TERMS))).astype(np.float32))
    kinds = rng.integers(0, 6, 20).astype(np.uint8)
    inputs = [rng.normal(size=20).astype(np.float32) for _ in range(3)]
    terms, logit = blend.terms(kinds, *inputs), blend.logit(kinds, *inputs)
    assert np.allclose(terms.sum(axis=1), logit, atol=1e-5)
    assert np.allclose(blend.score(kinds, *inputs), 1 / (1 + np.exp(-logit)), atol=1e-6)


@pytest.mark.parametrize("coefficients", [np.zeros((6, 4)), np.full((6, 5), np.nan)])
def test_a_blend_of_another_shape_or_not_finite_is_refused(coefficients):
    with pytest.raises(ValueError, match="blend"):
        Blend(coefficients.astype(np.float32))


def test_a_blend_for_other_terms_is_refused(tmp_path):
    Blend.neutral().save(tmp_path)
    body = json.loads((tmp_path / "blend.json").read_text())
    body["terms"][1] = "other"
    (tmp_path / "blend.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match="train again"):
        Blend.load(tmp_path)


def test_ids_may_hold_any_printable_text(tmp_path):
    items = [item(n) for n in range(119)] + [item(200, id="物品/一 #1:é")]
    back = load(save(tiny_bundle(items=items), tmp_path / "b"))
    assert back.items.row("物品/一 #1:é") == 119 and back.compiled.texts[119].id == "物品/一 #1:é"
