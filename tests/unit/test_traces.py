"""Traces: one span a recorded request, its stages below it; nothing of a customer, and nothing when off."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving.front import Front
from serving.recommender import Recommender
from serving.settings import Settings, SettingsError
from serving.trace_terms import TraceTerms
from serving.traces import MOST_PER_S, TracedRecommender, Traces
from tests.shell import Shell, run, running
from training.doctor_traces import trace_findings

TERMS = TraceTerms("http://nowhere.invalid:4318/v1/traces", 1.0)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traced(shell: Shell, ratio: float = 1.0, draw: float = 0.0) -> InMemorySpanExporter:
    """The spans of a shell whose traces go to memory."""
    found = InMemorySpanExporter()
    assert shell.service.traces is not None
    shell.service.traces.close()
    terms = TERMS._replace(ratio=ratio)
    made = Traces(terms, processor=SimpleSpanProcessor(found), draw=lambda: draw, monotonic=lambda: 0.0)
    shell.service.traces = made
    return found


def roots(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [one for one in spans.get_finished_spans() if one.kind.name == "SERVER"]


def test_a_page_is_one_span_with_its_stages_below_it() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"traces": TERMS}) as shell:
            spans = traced(shell)
            await shell.know("u1")
            page = await shell.page(events=[shell.event("acted", "e1", user_id="u1", action="viewed")])
            again = await shell.page(request_id="r-1")
            assert again["decision_id"] == "r-1"
            first, second = roots(spans)
            assert first.name == "POST /v1/recommend" and first.attributes is not None
            assert dict(first.attributes) == {
                "http.request.method": "POST", "http.route": "/v1/recommend",
                "http.response.status_code": 200, "fenliu.decision_id": page["decision_id"],
            }  # fmt: skip
            below = {
                one.name: one
                for one in spans.get_finished_spans()
                if one.parent is not None and one.parent.span_id == first.context.span_id
            }
            assert list(below) == ["events", "store read", "decide", "reserve", "write"]
            told = below["decide"].attributes
            assert told is not None and told["fenliu.effort"] == "full" and told["fenliu.places"]
            names = [
                o.name for o in spans.get_finished_spans() if o.context.trace_id == second.context.trace_id
            ]
            assert "remember" in names and second.attributes["fenliu.decision_id"] == "r-1"  # type: ignore[index]

    run(story)


def test_nothing_of_a_customer_is_recorded() -> None:
    async def story() -> None:
        async with running(app=Front, settings={"traces": TERMS}) as shell:
            spans = traced(shell)
            await shell.put("/v1/users/secret-user", {"profile": {"age": 31}}, x_forwarded_for="203.0.113.9")
            await shell.page(user="secret-user", visitor_id="secret-device")
            await shell.get("/v1/plan:diff?part=org:secret-org")
            await shell.get("/v1/users-of-secret/x")
            await shell.send("DELETE", "/v1/users/secret-user?devices=maybe", b"")
            assert [one.name for one in roots(spans)] == [
                "PUT /v1/users/{id}", "POST /v1/recommend", "GET governance", "GET unknown",
                "DELETE governance",
            ]  # fmt: skip
            everything = "".join(one.to_json() for one in spans.get_finished_spans())
            assert "secret" not in everything and "203.0.113.9" not in everything

    run(story)


@pytest.mark.parametrize(
    ("flags", "ratio", "recorded"), [("01", 0.0, True), ("00", 1.0, False), ("zz", 0.0, False)]
)
def test_the_caller_decides_where_it_has_decided(flags: str, ratio: float, recorded: bool) -> None:
    async def story() -> None:
        async with running(settings={"traces": TERMS}) as shell:
            spans = traced(shell, ratio, 0.5)
            await shell.get("/livez", traceparent=f"00-{TRACE}-{PARENT}-{flags}", tracestate="a=b")
            assert len(roots(spans)) == recorded
            if recorded:
                (one,) = roots(spans)
                assert one.parent is not None and f"{one.parent.span_id:016x}" == PARENT
                assert f"{one.context.trace_id:032x}" == TRACE

    run(story)


def test_of_the_others_the_ratio_is_drawn_and_callers_cannot_flood() -> None:
    async def story() -> None:
        async with running(settings={"traces": TERMS}) as shell:
            spans = traced(shell, 0.3, 0.31)
            await shell.page()
            assert spans.get_finished_spans() == ()
            spans = traced(shell, 0.3, 0.29)
            for _ in range(MOST_PER_S + 20):
                await shell.get("/livez")
            assert len(roots(spans)) == MOST_PER_S

    run(story)


def test_a_failure_is_an_error_and_says_nothing_of_what_failed() -> None:
    async def story() -> None:
        async with running(settings={"traces": TERMS}, start=False) as shell:
            shell.service.traces = Traces(TERMS)
            spans = traced(shell)
            assert (await shell.post("/v1/recommend", {"user_id": "u1"})).status_code == 503
            (one,) = roots(spans)
            assert one.status.status_code.name == "ERROR" and not one.events

    run(story)


def test_off_there_is_no_tracer_and_nothing_is_imported() -> None:
    assert Settings.from_env({}).traces is None
    code = (
        "import sys, tempfile; from serving.service import Service; from serving.settings import Settings;"
        "s = Service(Settings(home=__import__('pathlib').Path(tempfile.mkdtemp())));"
        "assert s._recommender_class().__name__ == 'Recommender' and s.traces is None;"
        "print([m for m in sys.modules if m in ('serving.traces', 'opentelemetry.sdk.trace')"
        " or m.startswith('opentelemetry.exporter')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_the_stages_are_the_recommenders_own() -> None:
    """A stage that is renamed there would be traced no more."""
    own = [name for name in vars(TracedRecommender) if not name.startswith("__")]
    assert len(own) >= 6 and all(name in vars(Recommender) for name in own)


@pytest.mark.parametrize(
    "env",
    [
        {"FENLIU_TRACES": "collector:4318"}, {"FENLIU_TRACES": "http://u:hunter2@c:4318/v1/traces"},
        {"FENLIU_TRACES": "http://c:4318/v1/traces", "FENLIU_TRACES_RATIO": "2"},
    ],
)  # fmt: skip
def test_a_collector_is_named_whole_or_refused(env: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="FENLIU_TRACES") as refused:
        Settings.from_env(env)
    assert "hunter2" not in str(refused.value)


def test_a_collector_that_is_away_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very exporter: pages are answered, and the service stops."""
    monkeypatch.setattr("serving.traces.EXPORT_S", 0.1)

    async def story() -> None:
        terms = TERMS._replace(endpoint="http://127.0.0.1:9/v1/traces")
        async with running(settings={"traces": terms}) as shell:
            assert (await shell.page())["slots"]

    run(story)


def test_the_doctor_says_whether_the_collector_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = TraceTerms(f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces")
        assert [one.state for one in trace_findings(Settings(traces=there))] == ["ok"]
    assert [one.state for one in trace_findings(Settings(traces=there))] == ["warn"]
    assert list(trace_findings(Settings())) == []
