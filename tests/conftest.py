"""Fixtures of every suite: one embedded store a session, emptied before each test that asks for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.embedded import EmbeddedValkey
from features.redis_plain import opened


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: EmbeddedValkey) -> str:
    """The embedded Valkey, empty."""
    return emptied(valkey_server.url)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """The machine's own redis-server; skips, saying so, where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on PATH")
    with EmbeddedValkey(tmp_path_factory.mktemp("redis"), binary=Path(binary)) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedValkey) -> str:
    """The machine's own redis-server, empty."""
    return emptied(redis_server.url)


def emptied(url: str) -> str:
    with opened(url) as store:
        store.flushall()
    return url
