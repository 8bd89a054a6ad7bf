"""The locked packages: each pinned, each with hashes, from nowhere in particular."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def entries(file: Path) -> list[str]:
    """Requirements with their hashes, each on one line."""
    return [line for line in file.read_text().replace("\\\n", " ").splitlines() if line.strip()]


def test_there_is_a_lock_for_each_environment() -> None:
    assert [file.name for file in LOCKS] == [
        "requirements-audit.lock", "requirements-fuzz.lock", "requirements-k8s.lock", "requirements.lock",
    ]  # fmt: skip


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_package_is_pinned_and_hashed_and_no_host_is_named(file: Path) -> None:
    found = entries(file)
    assert found and "://" not in file.read_text() and "--index" not in file.read_text()
    for line in found:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z,]+\])?==[\w.!+]+( ;|\s)", line), line[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), line[:80]
