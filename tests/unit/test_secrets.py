"""Every secret of the settings through every error path: none of it in a log, an answer or a `repr`."""

from __future__ import annotations

import asyncio
import io
import logging
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from serving import json_log
from serving.front import Front
from serving.json_log import redacted, secrets_in, set_up
from serving.service import Service
from serving.settings import Settings, SettingsError
from serving.stepping import at_once
from tests.shell import CONTEXT, run, running
from training.doctor import examined

HEX, OLD = "5e" * 32, "0d" * 16
SECRETS = {
    "app key": "correct-horse!battery", "former app key": "staple-former-0001",
    "password": "hunter2-live", "quoted password": "p@ss-word/x", "api key": f"fl_0123456789ab_{'s' * 43}",
    "signs tokens": HEX, "signed tokens": OLD, "registry": "s3cr3t-bucket",
    "jwt": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl", "collector": "Bearer collector-t0ken",
    "keeper": "of-the-stores-0001",
}  # fmt: skip
ENV = {
    "FENLIU_APP_KEY": SECRETS["app key"],
    "FENLIU_APP_KEY_BEFORE": SECRETS["former app key"],
    "FENLIU_KEY": SECRETS["api key"],
    "FENLIU_KEEPER_PASSWORD": SECRETS["keeper"],
    "FENLIU_TOKEN_KEYS": f"k2:{HEX},k1:{OLD}",
    "FENLIU_LIVE_URL": f"redis://fenliu:{SECRETS['password']}@127.0.0.1:1/0",
    "REDIS_URL": "redis://fenliu:p%40ss-word%2Fx@127.0.0.1:1/0",
    "FENLIU_REGISTRY": f"s3://key:{SECRETS['registry']}@bucket/registry",
    "OTEL_EXPORTER_OTLP_HEADERS": SECRETS["collector"],
}


@pytest.fixture(params=["json", "text"])
def written(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What is logged, in both forms; loggers are as they were afterwards."""
    logs = [logging.getLogger(name) for name in ("fenliu", "asyncio", "uvicorn.error")]
    before = [(one.handlers[:], one.propagate) for one in logs]
    out = io.StringIO()
    set_up({**ENV, "FENLIU_LOG": request.param}, out)
    yield out
    for one, (handlers, propagate) in zip(logs, before, strict=True):
        one.handlers[:], one.propagate = handlers, propagate
    json_log.know_secrets({})


def told(text: str) -> list[str]:
    """The names of the secrets in a text."""
    return [name for name, secret in SECRETS.items() if secret in text or quote(secret, safe="") in text]


def test_the_environments_secrets_are_known_by_their_text() -> None:
    found = secrets_in(ENV)
    assert {secret for name, secret in SECRETS.items() if name != "jwt"} <= found
    assert "p%40ss-word%2Fx" in found and secrets_in({"FENLIU_KEY": "abc"}) == set()


def test_no_secret_is_shown_by_the_settings() -> None:
    settings = Settings.from_env(ENV)
    assert told(repr(settings)) == [] and told(str(settings.as_env().keys())) == []
    for name, value in ENV.items():
        broken = {**ENV, name: value + " broken value", "FENLIU_PORT": "http"}
        with pytest.raises(SettingsError) as refused:
            Settings.from_env(broken)
        assert told("".join(traceback.format_exception(refused.value))) == []


def test_what_is_raised_with_a_secret_in_it_is_neither_logged_nor_answered(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: an error whose text is all of the secrets, in a handler, a rung and a stray task."""
    everything = " ".join(SECRETS.values())

    def broken(*_given: Any, **_named: Any) -> Any:
        raise RuntimeError(everything)

    async def stray() -> None:
        broken()

    async def story() -> str:
        keys = Settings.from_env(ENV)
        given = {
            "app_key": keys.app_key,
            "app_key_before": keys.app_key_before,
            "token_keys": keys.token_keys,
        }
        async with running(app=Front, settings=given, deciding=at_once(broken)) as shell:
            body, answers = {"user_id": "u1", "context": CONTEXT}, []
            for name in ("jwt", "api key", "password"):
                answers.append(await shell.post("/v1/recommend", body, x_api_key=SECRETS[name]))
            good = {"x_api_key": SECRETS["app key"]}
            answers.append(await shell.post("/v1/recommend", body, **good))
            monkeypatch.setattr(Service, "events", broken)
            answers.append(await shell.post("/v1/events", {"events": [{}]}, **good))
            answers.append(await shell.post("/v1/nothing-here", everything, **good))
            answers.append(await shell.get("/metrics", **good))
            assert [one.status_code for one in answers] == [401, 401, 401, 503, 500, 404, 200]
            task = asyncio.create_task(stray())
            await asyncio.sleep(0)
            del task
            return " ".join(one.text + str(one.headers) for one in answers)

    said = run(story)
    logged = written.getvalue()
    assert told(said) == [] and told(logged) == []
    assert logged.count("RuntimeError") >= 3 and "never retrieved" in logged and "***" in logged


def test_a_store_that_is_away_is_named_without_its_password(
    written: io.StringIO, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {name: value for name, value in ENV.items() if name != "FENLIU_REGISTRY"}
    settings = Settings.from_env({**env, "FENLIU_HOME": str(tmp_path), "FENLIU_POLL_S": "0.05"})

    async def story() -> None:
        service = Service(settings)
        await service.start()
        await asyncio.sleep(0.1)
        await service.stop()

    run(story)
    found = examined(env, settings)
    assert [one for one in found if one.about == "store live" and one.state == "bad"]
    everything = repr(found) + written.getvalue() + "".join(capsys.readouterr())
    assert told(everything) == [] and "127.0.0.1:1" in everything


def test_what_only_looks_like_a_secret_is_cut_out_too() -> None:
    foreign = "https://user:pa55word@host/x and Bearer abcdefgh and fl_0123456789ab_" + "q" * 43
    assert not {"pa55word", "abcdefgh", "q" * 43} & {*redacted(foreign).replace(":", " ").split()}
