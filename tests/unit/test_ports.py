"""A port nobody else takes: outside of what outgoing connections are given, free, and found somehow."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from features import ports


@pytest.fixture
def callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "range"
    path.write_text("32768\t60999\n")
    monkeypatch.setattr(ports, "CALLERS", path)
    return path


def test_it_is_not_one_that_an_outgoing_connection_may_be_given(callers: Path) -> None:
    assert all(ports.FIRST <= ports.free_port() <= ports.LAST for _ in range(20))


def test_what_is_taken_is_not_given(callers: Path) -> None:
    first = ports.free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        assert ports.free_port(first, first) != first


@pytest.mark.parametrize("said", ["1024 65535", "25000 26000"])
def test_where_callers_are_given_ours_the_kernel_chooses(
    callers: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers.write_text(said)
    monkeypatch.setattr(ports, "_free", lambda port: pytest.fail(f"{port} was chosen here"))
    with socket.socket() as server:
        server.bind(("127.0.0.1", ports.free_port()))


@pytest.mark.parametrize("said", [None, "no numbers"])
def test_a_system_that_does_not_say_has_the_usual_range(callers: Path, said: str | None) -> None:
    callers.unlink() if said is None else callers.write_text(said)
    assert ports.FIRST <= ports.free_port() <= ports.LAST
