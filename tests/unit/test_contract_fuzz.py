"""A small part of `fenliu bench fuzz`: each rule of the contract's schemas kept and broken, in process."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from training.bench import fuzz_contract
from training.bench.fuzz_contract import Seen, application, fuzzed
from training.bench.fuzz_runs import contract
from training.bench.tally import Tally

PAGES = ("/v1/recommend", "/v1/items/{id}/similar", "/readyz", "/livez")
REPORTS = ("/v1/events", "/v1/outcomes", "/v1/creatives/{id}")
GOVERNED = ("/v1/plan", "/v1/plan:diff", "/v1/audit", "/v1/kill", "/v1/plan:approve", "/v1/plan:rollback")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with application(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.mark.parametrize(("paths", "least"), [(PAGES, 300), (REPORTS, 200), (GOVERNED, 200)])
def test_every_answer_is_one_that_the_contract_allows(app: Any, paths: tuple[str, ...], least: int) -> None:
    seen = Seen()
    fuzzed(app, seen, phases=("examples", "coverage"), only=paths)
    assert (seen.violations.total(), seen.server_errors) == (0, 0), seen.told
    assert seen.requests >= least and 422 in seen.statuses and {200, 202} & seen.statuses.keys()


def test_random_pages_and_events_too(app: Any) -> None:
    seen = Seen()
    fuzzed(app, seen, phases=("fuzzing",), only=("/v1/recommend/homepage", "/v1/events"), examples=15)
    assert (seen.violations.total(), seen.server_errors) == (0, 0), seen.told
    assert seen.requests >= 20


def test_a_wrong_answer_is_found(app: Any) -> None:
    """An application that says what the contract does not: a status, a body, a crash."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] == "/openapi.json":
            await app(scope, receive, send)
            return
        status, body = {"/livez": (500, b"{}"), "/readyz": (200, b"[1]")}.get(scope["path"], (200, b"{}"))
        await send({"type": "http.response.start", "status": status,
                    "headers": [(b"content-type", b"application/json")]})  # fmt: skip
        await send({"type": "http.response.body", "body": body})

    seen = Seen()
    fuzzed(wrong, seen, phases=("coverage",), only=("/livez", "/readyz", "/v1/kill"))
    assert seen.server_errors > 0
    found = {said.split()[0] for said in seen.violations}
    assert {"not_a_server_error", "response_schema_conformance", "negative_data_rejection"} <= found


def test_without_schemathesis_the_bench_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_contract, "available", lambda: False)
    tally = Tally()
    contract(argparse.Namespace(), tally)
    assert tally.figures == {"contract_requests": 0} and "make setup" in tally.notes["contract_requests"]
