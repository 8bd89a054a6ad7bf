"""`fenliu spool` and what the doctor says of it, on folders that a dead process left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest

import fenliu
from features.events import input_to_log
from features.file_spool import FileSpool
from features.log import Entry
from serving.settings import Settings, SettingsError
from training.doctor_spool import spool as examined


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A spool of five events, nobody's."""
    spool = FileSpool(tmp_path / "spool", 1 << 20)
    spool.put([Entry(f"e{n}", "u:a", input_to_log("x", str(n), 1.0, b"")) for n in range(5)], 1.0)
    spool.close()
    return tmp_path / "spool"


def said(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> tuple[int, str]:
    done = fenliu.main(["--home", str(home), "spool", *words])
    return done, capsys.readouterr().out


def test_what_waits_is_told_and_shown(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = left.parent
    done, text = said(capsys, home, "status", "--json")
    (segment,) = json.loads(text)["segments"]
    assert done == 0 and segment["events"] == 5 and not segment["held"] and segment["damaged"] == 0
    assert said(capsys, home, "status")[0] == 0
    done, text = said(capsys, home, "verify", str(left), "--show")
    assert done == 0 and [json.loads(line)["event_id"] for line in text.splitlines()] == [
        f"e{n}" for n in range(5)
    ]
    (path,) = left.rglob("*.seg")
    raw = bytearray(path.read_bytes())
    raw[20] ^= 255
    path.write_bytes(bytes(raw))
    done, text = said(capsys, home, "verify")
    assert done == 1 and "4 whole records" in text
    assert said(capsys, home, "verify", str(left / "none"))[0] == 2


def test_what_nobody_holds_is_drained_once(
    left: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.spool_commands.log_of", lambda _: _Log())
    for role in ("FEATURES", "LIVE", "LOG", "CONTROL"):
        monkeypatch.setenv(f"FENLIU_{role}_URL", "memory://x")
    done, text = said(capsys, left.parent, "drain")
    assert done == 0 and "5 events drained, 0" in text and _Log.held == [f"e{n}" for n in range(5)]
    assert "nothing waits" in said(capsys, left.parent, "drain")[1]


class _Log:
    held: ClassVar[list[str]] = []

    async def forgotten(self, _: object) -> dict[str, float]:
        return {}

    async def append(self, entries: list[Entry]) -> list[bool]:
        self.held += [one.event_id for one in entries]
        return [True] * len(entries)

    async def close(self) -> None: ...


def test_the_doctor_looks_into_it(left: Path, tmp_path: Path) -> None:
    def found(**given: object) -> dict[str, tuple[str, str]]:
        settings = Settings(home=tmp_path, **given)  # type: ignore[arg-type]
        return {about: (state, text) for about, state, text, _ in examined(settings, lambda: 86_401.0)}

    assert found()["spool"] == ("warn", "5 events of processes that ended, the oldest 1.0 days old")
    assert found(spool=tmp_path / "other")["spool"][0] == "ok"
    assert found(spool=tmp_path / "other", replicas=200, spool_mb=60_000)["spool"][0] == "warn"
    assert found(spool_mb=0)["spool"][0] == found(durability="memory")["durability"][0] == "warn"
    (path,) = left.rglob("*.seg")
    raw = bytearray(path.read_bytes())
    raw[20] ^= 255
    path.write_bytes(bytes(raw))
    assert next(examined(Settings(home=tmp_path), lambda: 0.0))[1] == "bad"
    with pytest.raises(SettingsError, match="FENLIU_DURABILITY is one of memory, stream"):
        Settings(durability="fsync")
