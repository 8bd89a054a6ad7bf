from __future__ import annotations

import json
import threading

import fsspec
import pytest

from serving.bundle import BundleError, load, save
from serving.registry import Registry, RegistryError
from tests.worlds import tiny_bundle


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.fixture(params=["folder", "memory"])
def registry(request, tmp_path):
    if request.param == "folder":
        yield Registry(tmp_path / "registry", Clock())
        return
    yield Registry("memory://registry", Clock())
    files = fsspec.filesystem("memory")
    if files.exists("/registry"):
        files.rm("/registry", recursive=True)


def made(tmp_path, version, **manifest):
    return save(tiny_bundle(30, version=version, **manifest), tmp_path / version)


def test_a_bundle_comes_back_as_it_was_put(registry, tmp_path):
    folder = made(tmp_path, "b1")
    assert registry.put(folder) == "b1" and registry.list() == ["b1"]
    there = registry.fetch("b1", tmp_path / "cache")
    assert load(there).version == "b1"
    assert registry.fetch("b1", tmp_path / "cache") == there
    assert registry.show("b1")["files"] == json.loads((folder / "manifest.json").read_text())["files"]


def test_versions_are_listed_oldest_first(registry, tmp_path):
    for version in ("z", "a", "m"):
        registry.put(made(tmp_path, version))
    assert registry.list() == ["z", "a", "m"]


def test_a_version_is_put_once(registry, tmp_path):
    registry.put(made(tmp_path, "b1"))
    registry.put(tmp_path / "b1")  # the same again is no harm
    other = save(tiny_bundle(24, version="b1"), tmp_path / "other")
    with pytest.raises(RegistryError, match="other content"):
        registry.put(other)


def test_a_damaged_bundle_is_not_published(registry, tmp_path):
    folder = made(tmp_path, "b1")
    (folder / "stats.npy").write_bytes(b"x")
    with pytest.raises(BundleError):
        registry.put(folder)
    assert registry.list() == []


def test_nothing_is_live_before_the_first_promotion(registry, tmp_path):
    assert registry.live() is None and list(registry.history()) == []
    registry.put(made(tmp_path, "b1"))
    assert registry.live() is None
    with pytest.raises(RegistryError, match="roll back"):
        registry.rollback()


def test_promote_and_roll_back_step_by_step(registry, tmp_path):
    for version in ("b1", "b2", "b3"):
        registry.put(made(tmp_path, version))
        registry.promote(version, by="ann")
    assert registry.live() == "b3"
    assert registry.rollback(by="bob", reason="worse") == "b2"
    assert registry.rollback() == "b1" and registry.live() == "b1"
    with pytest.raises(RegistryError, match="only one"):
        registry.rollback()
    registry.promote("b3", by="ann", forced=True, reason="tested by hand")
    assert registry.live() == "b3" and registry.rollback() == "b1"
    told = [(e["action"], e["version"], e["was"]) for e in registry.history()]
    assert told == [
        ("promote", "b1", None),
        ("promote", "b2", "b1"),
        ("promote", "b3", "b2"),
        ("rollback", "b2", "b3"),
        ("rollback", "b1", "b2"),
        ("promote", "b3", "b1"),
        ("rollback", "b1", "b3"),
    ]
    forced = registry.history()[5]
    assert forced["forced"] is True and forced["reason"] == "tested by hand" and forced["at"] > 1000


def test_what_was_rolled_back_is_known_until_it_is_promoted_again(registry, tmp_path):
    for version in ("b1", "b2"):
        registry.put(made(tmp_path, version))
        registry.promote(version)
    assert not registry.taken_back("b1") and not registry.taken_back("b2")
    registry.rollback()
    assert registry.taken_back("b2") and not registry.taken_back("b1") and not registry.taken_back("b3")
    registry.promote("b2")
    assert not registry.taken_back("b2")


def test_promoting_what_is_live_changes_nothing_below_it(registry, tmp_path):
    for version in ("b1", "b2"):
        registry.put(made(tmp_path, version))
        registry.promote(version)
    registry.promote("b2")
    assert registry.rollback() == "b1"


def test_an_unknown_version_is_refused_and_the_known_are_named(registry, tmp_path):
    registry.put(made(tmp_path, "b1"))
    for call in (registry.promote, registry.show, lambda v: registry.fetch(v, tmp_path / "c")):
        with pytest.raises(RegistryError, match="latest are b1"):
            call("b9")
    assert registry.live() is None


@pytest.mark.parametrize("version", ["../up", "a/b", ".hidden", "", "a*", "x" * 65])
def test_a_version_may_not_wander_through_folders(registry, version, tmp_path):
    with pytest.raises(RegistryError):
        registry.show(version)


def test_a_file_that_changed_in_the_registry_is_not_fetched(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.put(made(tmp_path, "b1"))
    (tmp_path / "registry/bundles/b1/stats.npy").write_bytes(b"x")
    with pytest.raises(BundleError, match="differs"):
        registry.fetch("b1", tmp_path / "cache")
    (tmp_path / "registry/bundles/b1/stats.npy").unlink()
    with pytest.raises(BundleError, match="is missing"):
        registry.fetch("b1", tmp_path / "cache")
    assert not (tmp_path / "cache" / "b1").exists() and list((tmp_path / "cache").iterdir()) == []


def test_a_bundle_without_its_manifest_is_not_there_yet(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.put(made(tmp_path, "b1"))
    (tmp_path / "registry/bundles/b1/manifest.json").unlink()
    assert registry.list() == []
    with pytest.raises(RegistryError):
        registry.fetch("b1", tmp_path / "cache")
    assert registry.put(tmp_path / "b1") == "b1" and registry.list() == ["b1"]


def test_a_damaged_pointer_says_what_to_do(tmp_path):
    registry = Registry(tmp_path / "registry")
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry/LIVE.json").write_text("{")
    with pytest.raises(RegistryError, match="promote a bundle again"):
        registry.live()


def test_many_fetch_at_once(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.put(made(tmp_path, "b1"))
    found, failed = [], []

    def fetch():
        try:
            found.append(registry.fetch("b1", tmp_path / "cache"))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and set(found) == {tmp_path / "cache" / "b1"}
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["b1"]
