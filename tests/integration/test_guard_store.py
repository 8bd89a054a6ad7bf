"""The guard over the real store: from entries in the log to the plan that control names, by the audit log."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from features.redis_address import parse_address
from features.redis_log import RedisLog
from features.redis_resp import RespLink
from fenliu import main
from serving.governance import Governance
from serving.guard import GUARD, Guard
from serving.observe import Metrics
from serving.office import Office
from serving.principals import local_identity
from serving.redis_control import RedisControl
from tests.exposed import RUNNING, fill
from tests.governed import frame


def published(url: str) -> Governance:
    governance, me = Governance(url, approvals=False), local_identity()
    one = governance.propose(me, "frame", frame(experiments=RUNNING), base=0, reason="first")
    governance.publish(me, one.id)
    return governance


@pytest.mark.integration
def test_the_pointer_moves_and_the_audit_log_holds(valkey_url, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FENLIU_HOME", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", valkey_url)
    governance = published(str(tmp_path / "registry"))
    now = time.time()

    async def story() -> tuple[list[str], str | None, int | None]:
        control, link = RedisControl.at(valkey_url), RespLink(parse_address(valkey_url))
        log = RedisLog(valkey_url, link=link)
        try:
            office = Office(governance, control)
            await office.point()
            plan = governance.shelf.fetch((await control.poll()).plan or "")
            guard = Guard(control, log, office, lambda: plan, Metrics(), "r1")
            rows = fill(900, 0.4, at=now)
            await log.append(rows)
            gone = [f"{one.experiment}/{one.arm}" for one in await guard.step()]
            assert await control.lead(GUARD, "r2", 5.0) is None
            await guard.stop()
            return gone, (await control.poll()).plan, await control.lead(GUARD, "r2", 5.0)
        finally:
            await log.close()
            await control.close()
            await link.close()

    gone, version, fence = asyncio.run(story())
    assert gone == ["e/a"] and fence is not None and version is not None
    arms = governance.shelf.fetch(version).experiments.layers[0].experiments[0].arms
    assert [arm.state for arm in arms] == ["live", "off", "live"]
    assert main(["audit", "verify"]) == 0
    capsys.readouterr()
    assert main(["audit", "show", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["principal"], last["action"]) == ("system", "switched_off")
    assert main(["experiment", "watch", "--json"]) == 0  # what is off is watched no more
    (told,) = json.loads(capsys.readouterr().out)["arms"]
    assert told["arm"] == "b" and not any(one["breached"] for one in told["guards"])


@pytest.mark.integration
def test_by_hand_in_ones_own_name(valkey_url, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FENLIU_HOME", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", valkey_url)
    governance = published(str(tmp_path / "registry"))

    async def story() -> None:
        control, link = RedisControl.at(valkey_url), RespLink(parse_address(valkey_url))
        log = RedisLog(valkey_url, link=link)
        await Office(governance, control).point()
        await log.append(fill(900, 0.4, at=time.time()))
        await log.close()
        await control.close()
        await link.close()

    asyncio.run(story())
    assert main(["experiment", "watch"]) == 1
    assert "BREACHED" in capsys.readouterr().out and governance.refresh().number("frame") == 1
    assert main(["experiment", "watch", "--act"]) == 1
    assert "e/a is switched off" in capsys.readouterr().out
    assert governance.refresh().number("frame") == 2
    assert governance.books.audit.records[-1].principal == "local"
