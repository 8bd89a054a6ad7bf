"""Schemathesis over the OpenAPI document: every path, good and bad input, in its four phases.

`examples`, `coverage` (each rule of each schema kept and broken), `fuzzing` (Hypothesis) and `stateful`
(answers of one path asked of another) against the ASGI application in this process, or against whatever
serves at a URL. A violation is an answer that the document does not allow: its status, headers, type or body,
bad input that was taken, or a 5xx other than 503. Schemathesis is a development dependency: `available`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import orjson

PHASES: Final = ("examples", "coverage", "fuzzing", "stateful")
CHECKS: Final = (
    *("status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection"),
)
ALLOWED: Final = ("2xx", "3xx", "4xx", "503")
SLOW: Final = ("/v1/decisions/{id}", "/v1/users/{id}")
"""Answered by a process of its own that starts for seconds: a trace, and an erasure."""
SLOW_METHODS: Final = {"/v1/decisions/{id}": "GET", "/v1/users/{id}": "DELETE"}
LONGEST_S: Final = 200  # for an answer: those processes are of the lowest priority
TOLD: Final = 5
ROUNDS: Final = 200


def available() -> bool:
    """Whether Schemathesis is installed: `pip install schemathesis`, or `make setup`."""
    return find_spec("schemathesis") is not None


@dataclass(slots=True)
class Seen:
    """What a run met. `phases`: requests by phase; `told`: the first violations in words."""

    phases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.phases.total()

    @property
    def server_errors(self) -> int:
        """5xx other than 503; requests that nobody answered count."""
        return sum(count for status, count in self.statuses.items() if status >= 500 and status != 503)

    def take(self, event: Any) -> None:
        """One event of the engine."""
        recorder = getattr(event, "recorder", None)
        if recorder is None:
            if type(event).__name__ in ("NonFatalError", "FatalError"):
                self._violated("engine", getattr(event, "label", ""), str(getattr(event, "value", event)))
            return
        self.phases[getattr(event.phase, "value", str(event.phase))] += len(recorder.interactions)
        for one in recorder.interactions.values():
            self.statuses[599 if one.response is None else one.response.status_code] += 1
        for nodes in recorder.checks.values():
            for node in nodes:
                if node.failure_info is not None:
                    failure = node.failure_info.failure
                    self._violated(node.name, event.label, f"{failure.title}: {failure.message}")

    def _violated(self, check: str, label: str | None, said: str) -> None:
        self.violations[f"{check} {label or 'stateful'}"] += 1
        if len(self.told) < TOLD:
            self.told.append(f"{check} {label}: {' '.join(said.split())}"[:300])


def fuzzed(
    target: Any,
    seen: Seen,
    *,
    phases: Collection[str] = PHASES,
    examples: int = 50,
    seed: int = 1,
    only: Collection[str] = (),
    headers: dict[str, str] | None = None,
    tell: Callable[[int], None] = lambda _requests: None,
) -> None:
    """One run of the engine against an ASGI application, or the base URL of what serves. Adds to `seen`.

    `examples`: Hypothesis' at most for a path and phase; `only`: these paths; else all but the slow ones.
    """
    import schemathesis
    from schemathesis import engine
    from schemathesis.config import SchemathesisConfig

    checks: dict[str, Any] = {"enabled": False, **{name: {"enabled": True} for name in CHECKS}}
    checks["not_a_server_error"] = {"enabled": True, "expected-statuses": list(ALLOWED)}
    config = SchemathesisConfig.from_dict({
        "seed": seed, "workers": 1, "headers": headers or {}, "request-timeout": LONGEST_S,
        "generation": {"max-examples": examples, "no-shrink": True, "database": "none"},
        "checks": checks, "phases": {name: {"enabled": name in phases} for name in PHASES},
    })  # fmt: skip
    if isinstance(target, str):
        url = f"{target.rstrip('/')}/openapi.json"
        schema: Any = schemathesis.openapi.from_url(url, config=config, headers=headers)
    else:
        schema = schemathesis.openapi.from_asgi("/openapi.json", target, config=config)
    if only:
        schema = schema.include(path=list(only))
    else:
        for path, method in SLOW_METHODS.items():
            schema = schema.exclude(path=path, method=method)
    for event in engine.from_schema(schema).execute():
        if type(event).__name__ == "Interrupted":  # the engine caught Ctrl-C, and would go on with the next
            raise KeyboardInterrupt
        seen.take(event)
        tell(seen.requests)


def fuzzed_to(
    target: Any,
    requests: int,
    seed: int,
    headers: dict[str, str] | None = None,
    examples: int = 100,
    tell: Callable[[int], None] = lambda _requests: None,
) -> Seen:
    """Rounds of all phases, each by another seed, until so many requests were made; the slow paths once.

    `tell` hears how many there were so far.
    """
    seen = Seen()
    for number in range(ROUNDS):
        if seen.requests >= requests:
            break
        # What coverage tries does not depend on the seed: once.
        phases: tuple[str, ...] = PHASES if number == 0 else ("fuzzing", "stateful")
        fuzzed(target, seen, phases=phases, examples=examples, seed=seed + number, headers=headers, tell=tell)
    if requests >= 10_000:
        phases = ("examples", "coverage")
        fuzzed(target, seen, phases=phases, only=SLOW, seed=seed, headers=headers, tell=tell)
    return seen


@contextmanager
def application(home: Path) -> Iterator[Any]:
    """The whole service over memory stores as an ASGI application; the engine starts and stops it."""
    from features.stores import Stores, StoreUrls
    from serving.control import MemoryControl
    from serving.front import Front
    from serving.service import Service
    from serving.settings import Settings
    from training.bench.decide_world import NOW, world_of
    from training.bench.in_process import Clock, OneBundle

    bundle, plan = world_of(200, 8, 6, 1)
    file = home / "plan.json"
    file.write_bytes(orjson.dumps(plan.model_dump(mode="json", by_alias=True)))
    settings = Settings(home=home, plan=file, deadline_ms=2000, read_timeout_s=1.0, write_timeout_s=5.0)
    clock = Clock(NOW)
    stores = Stores.open(StoreUrls.one("memory://fuzz"), clock=clock)
    control, bundles = MemoryControl(clock), OneBundle(bundle)
    log = logging.getLogger("fenliu")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield Front(settings, Service(settings, stores=stores, control=control, bundles=bundles, clock=clock))
    finally:
        log.setLevel(before)
        if available():
            from schemathesis.python.asgi import shutdown_lifespans

            shutdown_lifespans()
