"""The locked packages: each pinned, each with hashes, from nowhere in particular."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def entries(file: Path) -> list[str]:
    """Requirements with their hashes, each on one line."""
    return [line for line in file.read_text().replace("\\\n", " ").splitlines() if line.strip()]


def test_there_is_a_lock_for_each_environment() -> None:
    assert [file.name for file in LOCKS] == [
        "requirements-audit.lock", "requirements-fuzz.lock", "requirements-image.lock",
        "requirements-k8s.lock", "requirements.lock",
    ]  # fmt: skip


def pins(name: str) -> dict[str, str]:
    """Versions by package, extras left out."""
    found = (re.match(r"([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", line) for line in entries(ROOT / name))
    return {one[1]: one[2] for one in found if one is not None}


def test_the_image_has_what_was_tested_and_not_what_tests_need() -> None:
    image, tested = pins("requirements-image.lock"), pins("requirements.lock")
    assert {name: version for name, version in image.items() if tested.get(name) != version} == {}
    agent = [one for one in requires("ray") or () if re.search(r"extra == ['\"]default['\"]", one)]
    needed = {re.split(r"[^A-Za-z0-9._-]", one)[0].lower().replace("_", "-") for one in agent}
    assert len(needed) > 5 and needed - image.keys() == set(), "KubeRay's probes ask the dashboard's agent"
    assert {"ray", "numba", "uvicorn"} <= image.keys() and not {"pytest", "mypy", "ruff"} & image.keys()


def unhashed(dockerfile: str) -> list[str]:
    """Installs of packages without hashes."""
    whole = dockerfile.replace("\\\n", " ")
    return [step for step in re.findall(r"pip install[^&\n]*", whole) if "--require-hashes" not in step]


def test_nothing_gets_into_the_image_without_a_hash_or_past_the_audit() -> None:
    dockerfile, makefile = (ROOT / "k8s/Dockerfile").read_text(), (ROOT / "Makefile").read_text()
    assert "pip install" in dockerfile and unhashed(dockerfile) == []
    assert unhashed(dockerfile + 'RUN /opt/venv/bin/pip install "ray[default]==2.60.0"\n') != []
    assert "ARG LOCK=requirements-image.lock" in dockerfile
    audited = makefile.split("\naudit:")[1].split("\n\n")[0]
    assert "-r requirements.lock" in audited and "-r requirements-image.lock" in audited


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_package_is_pinned_and_hashed_and_no_host_is_named(file: Path) -> None:
    found = entries(file)
    assert found and "://" not in file.read_text() and "--index" not in file.read_text()
    for line in found:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z,]+\])?==[\w.!+]+( ;|\s)", line), line[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), line[:80]
