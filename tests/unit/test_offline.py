"""Lists decided offline: the pages that the service would give, from files, by parts."""

from __future__ import annotations

import argparse
import gzip
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from serving.offline import Offline, parts, public
from serving.settings import Settings
from serving.wire import BatchAsk, parse
from tests.shell import CONTEXT, run, running, without_ids
from tests.worlds import NOW
from training import decide_commands as commands
from training.decide_arguments import add_decide


def asked(*users: str, **more: Any) -> BatchAsk:
    return parse(BatchAsk, {"user_ids": list(users), "context": CONTEXT, **more})


def test_offline_pages_are_the_pages_of_the_service() -> None:
    users = ["u1", "u2", "u3"]

    async def story() -> None:
        async with running() as shell:
            await shell.know("u1", risk_level=1)
            offline = Offline(shell.service.holder.live, shell.stores, frozenset())
            lines = [orjson.loads(one) for one in (await offline.lines(asked(*users), NOW)).splitlines()]
            assert [line["user_id"] for line in lines] == users
            for user, line in zip(users, lines, strict=True):
                page = without_ids(line["page"])
                assert page == without_ids(await shell.page(user)) and line["page"]["page_token"] is None
            assert shell.logged("served") == [] or len(shell.logged("served")) <= len(users)

    run(story)


def test_a_list_in_parts_is_the_list() -> None:
    users = [f"u{number}" for number in range(25)]
    some = list(parts(asked("u0", surface="home"), users, 10))
    assert [len(one.user_ids) for one in some] == [10, 10, 5]
    assert [user for one in some for user in one.user_ids] == users and some[2].surface == "home"


def test_workers_get_no_secrets() -> None:
    told = public(Settings(app_key="a" * 20, token_keys=(("k1", b"s" * 16),)))
    assert told.app_key is None and told.token_keys == ()


def arguments(folder: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_decide(parser)
    return parser.parse_args(["--customers", str(folder / "ids.txt"), "--out", str(folder / "out"), *more])


def test_the_command_writes_a_line_a_customer_and_spreads_the_parts(tmp_path, monkeypatch) -> None:
    (tmp_path / "ids.txt").write_text("user_id,name\n" + "".join(f"u{n},x\n" for n in range(2_500)))
    told: list[tuple[Settings, BatchAsk]] = []

    def deciding(settings: Settings, ask: BatchAsk) -> bytes:
        told.append((settings, ask))
        return b"".join(b"%b\n" % user.encode() for user in ask.user_ids)

    monkeypatch.setattr(commands, "decided", deciding)
    urls = {f"{role}_url": "memory://x" for role in ("features", "live", "log", "control")}
    settings = replace(Settings(home=tmp_path), **urls)
    many: list[int] = []

    @contextmanager
    def spread(processes: int):
        many.append(processes)
        yield lambda function, calls: (function(*call) for call in calls)

    for args in (arguments(tmp_path, "--slot", "home.feed=3"), arguments(tmp_path, "--processes", "4")):
        assert commands.run(args, settings, spread, Console(quiet=True)) == 0
        assert (tmp_path / "out").read_text() == "".join(f"u{n}\n" for n in range(2_500))
    assert many == [4] and [len(ask.user_ids) for _, ask in told] == [1_000, 1_000, 500] * 2
    assert told[0][1].slots is not None and told[0][1].slots[0].count == 3


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("u1\n\n" + "x" * 65 + "\n", (), "line 3"),
        ("\n", (), "no customer"),
        ("u1\n", ("--context", "{"), "--context"),
        ("u1\n", ("--slot", "a=b"), "NAME=COUNT"),
    ],
)
def test_what_cannot_be_used_is_said(content, more, said, tmp_path) -> None:
    (tmp_path / "ids.txt").write_text(content)
    with pytest.raises(commands.ListError, match=said):
        commands.run(arguments(tmp_path, *more), Settings(home=tmp_path), None, Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_lists_may_be_gzipped(tmp_path) -> None:
    path = tmp_path / "ids.csv.gz"
    with gzip.open(path, "wt") as out:
        out.write('"u1",7\nu2\n')
    assert commands.read_ids(path) == ["u1", "u2"]
    with pytest.raises(commands.ListError, match="is no file: --customers"):
        commands.read_ids(tmp_path / "missing.txt")
