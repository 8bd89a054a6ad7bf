"""Rates and quotas of keys: one count over replicas, within the bound that is told; open without a store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rates import Granted, MemoryRates, Rates, RateTerms
from features.store import StoreUnavailable
from serving.errors import Problem
from serving.front import Front
from serving.limits import VALID_S, Limits, lease_of
from serving.observe import Metrics
from serving.openapi import document
from serving.principals import local_identity
from serving.settings import Settings, SettingsError
from tests.shell import CONTEXT, Clock, run, running
from training.desk import Desk
from training.doctor_identity import limit_findings

FAST = RateTerms(100.0, 50)


class Away:
    async def lease(self, *asked: Any) -> Granted:
        raise StoreUnavailable("away")


def limits(rates: Rates, clock: Clock, terms: RateTerms = FAST, name: str = "*") -> Limits:
    return Limits({name: terms}, rates, Metrics(), clock=clock, monotonic=clock)


async def asked(one: Limits, name: str = "app") -> Problem | None:
    try:
        await one.admit(name)
    except Problem as problem:
        return problem
    return None


# --- replicas


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(0, 400)), max_size=40),
    st.floats(1.0, 300.0),
    st.integers(1, 80),
)
def test_all_replicas_together_stay_within_the_bound(
    waves: list[tuple[int, int, int]], per_s: float, burst: int
) -> None:
    """Waves of (replica, requests, milliseconds later): in every window, burst + rate * W + 3 leases."""
    terms = RateTerms(per_s, burst)
    admitted: list[float] = []

    async def story() -> None:
        clock = Clock(1000.0)
        rates = MemoryRates(clock)
        replicas = [limits(rates, clock, terms) for _ in range(3)]
        for which, count, later in waves:
            for _ in range(count):
                if await asked(replicas[which]) is None:
                    admitted.append(clock.now)
            await asyncio.sleep(0)  # what renews in the background
            clock.now += later / 1000

    run(story)
    for first, at in enumerate(admitted):
        for last in range(first, len(admitted)):
            most = burst + per_s * (admitted[last] - at) + 3 * lease_of(terms)
            assert last - first + 1 <= most + 1e-6


def test_the_store_is_asked_once_a_lease_and_not_once_a_request() -> None:
    class Counted(MemoryRates):
        calls = 0

        async def lease(self, *asked: Any) -> Granted:
            Counted.calls += 1
            return await super().lease(*asked)

    async def story() -> None:
        clock = Clock(1000.0)
        one = limits(Counted(clock), clock, RateTerms(1000.0, 1000))
        for number in range(1000):
            assert await asked(one) is None
            clock.now += 0.001 * (number % 2)
            await asyncio.sleep(0)

    run(story)
    assert Counted.calls <= 1000 / (lease_of(RateTerms(1000.0, 1000)) / 2) + 2


def test_requests_that_arrive_together_share_the_first_lease() -> None:
    async def story() -> None:
        clock = Clock(1000.0)
        one = limits(MemoryRates(clock), clock)
        answers = await asyncio.gather(*(asked(one) for _ in range(80)))
        assert sum(answer is None for answer in answers) == 50

    run(story)


def test_a_refusal_says_when_and_is_over_then() -> None:
    async def story() -> None:
        clock = Clock(1000.0)
        one = limits(MemoryRates(clock), clock, RateTerms(0.25, 1))
        assert await asked(one) is None
        refused = await asked(one)
        assert refused is not None and refused.code == "rate_limited" and refused.status == 429
        assert dict(refused.headers)[b"retry-after"] == b"4" and "0.25 times a second" in refused.detail
        clock.now += 4
        assert await asked(one) is None and await asked(one, "another") is None

    run(story)


def test_units_that_nobody_spent_go_back() -> None:
    async def story() -> None:
        clock = Clock(1000.0)
        rates = MemoryRates(clock)
        idle, busy = (limits(rates, clock, RateTerms(per_day=2000)) for _ in range(2))
        assert await asked(idle) is None
        clock.now += VALID_S
        assert await asked(idle) is None
        admitted = 2
        while await asked(busy) is None:
            admitted += 1
            await asyncio.sleep(0)
        refused = await asked(busy)
        assert refused is not None and refused.code == "quota_exceeded"
        assert 2000 - lease_of(RateTerms(per_day=2000)) <= admitted <= 2000

    run(story)


def test_without_the_store_each_replica_holds_to_the_limit_alone_and_says_so() -> None:
    async def story() -> None:
        clock = Clock(1000.0)
        one = limits(Away(), clock)
        answers = [await asked(one) for _ in range(60)]
        assert sum(answer is None for answer in answers) == 50
        told = one._metrics.exposition().decode()
        assert 'fenliu_limits_total{what="alone"}' in told and 'what="rate"} 10.0' in told

    run(story)


# --- settings, and the paths


@pytest.mark.parametrize(
    "text", ["app", "app=", "=5/s", "app=5", "app=0/s", "app=5/s,app=6/s", "app=burst=5", "app=9999999/s"]
)
def test_limits_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="FENLIU_RATES"):
        Settings.from_env({"FENLIU_RATES": text})


def test_limits_are_read() -> None:
    read = Settings.from_env(
        {"FENLIU_RATES": "app=2000/s burst=4000, oidc:x=1/s 9/day ,*=0.5/s,q=7/day"}
    ).rates
    assert read == {
        "app": RateTerms(2000, 4000), "oidc:x": RateTerms(1, 1, 9), "*": RateTerms(0.5, 1),
        "q": RateTerms(0, 0, 7),
    }  # fmt: skip


def test_pages_and_governance_are_limited_and_probes_are_not() -> None:
    async def story() -> None:
        rates = {"local": RateTerms(0.001, 2)}
        async with running(app=Front, settings={"rates": rates}) as shell:
            assert (await shell.get("/v1/plan")).status_code == 200
            await shell.page()
            body = {"user_id": "u1", "context": CONTEXT}
            for refused in (await shell.post("/v1/recommend", body), await shell.get("/v1/plan")):
                assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 900
                assert refused.json()["code"] == "rate_limited"
            assert (await shell.get("/readyz")).status_code == 200

    run(story)


def test_every_body_has_a_bound_in_size_and_depth() -> None:
    """Of all paths that take a body, by the contract itself."""

    async def story() -> None:
        paths = httpx.Response(200, content=document()).json()["paths"]
        taking = [
            (verb.upper(), path.replace("{id}", "x"))
            for path, methods in paths.items()
            for verb, told in methods.items()
            if "requestBody" in told
        ]
        assert len(taking) > 15
        async with running(app=Front) as shell:
            for method, path in taking:
                huge = await shell.send(method, path, b'{"a": "' + b"x" * (4 * 1024 * 1024) + b'"}')
                assert (huge.status_code, huge.json()["code"]) == (413, "body_too_large"), path
                for levels in (100, 1_000, 100_000):
                    for deep in (
                        b"[" * levels + b"]" * levels,
                        b'{"content":' * levels + b"1" + b"}" * levels,
                    ):
                        answer = await shell.send(method, path, b'{"content": ' + deep + b"}")
                        assert 400 <= answer.status_code < 500, (path, levels, answer.text[:200])

    run(story)


def test_both_app_keys_open_while_one_is_rotated(tmp_path: Path) -> None:
    new, old = "the-next-app-key-0001", "the-former-app-key-01"
    env = {"FENLIU_APP_KEY": new, "FENLIU_APP_KEY_BEFORE": old}
    with pytest.raises(SettingsError, match="set FENLIU_APP_KEY too"):
        Settings.from_env({"FENLIU_APP_KEY_BEFORE": old})

    async def story() -> None:
        keys = Settings.from_env(env)
        given = {"app_key": keys.app_key, "app_key_before": keys.app_key_before}
        async with running(settings=given) as shell:
            body = {"user_id": "u1", "context": CONTEXT}
            for key, status in ((new, 200), (old, 200), (new + "x", 401), (old[:-1], 401)):
                assert (await shell.post("/v1/recommend", body, x_api_key=key)).status_code == status

    run(story)


def test_the_doctor_finds_limits_of_nobody(tmp_path: Path) -> None:
    def found(text: str) -> list[tuple[str, str]]:
        settings = Settings.from_env({"FENLIU_RATES": text, "FENLIU_HOME": str(tmp_path)})
        return [(one.state, one.said) for one in limit_findings(settings, {})]

    assert list(limit_findings(Settings(home=tmp_path), {})) == []
    assert found("app=5/s, *=1/s, oidc:x=1/s") == [("ok", "limits of 3")]
    ((state, said),) = found("ap=5/s")
    assert state == "warn" and "nobody is called ap" in said
    Desk(Settings(home=tmp_path), {}).keys.issue(local_identity(), "ann", ["admin"])
    assert found("ann=5/s") == [("ok", "limits of 1, the others none")]
