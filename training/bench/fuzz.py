"""`fenliu bench fuzz`: everything that reads what others wrote, on mutations of good inputs.

Decoders of records, patches, logs, tokens, prices, plans, key spaces, events and requests: each may refuse
with its own error and nothing else, and no forged token may pass. Then requests against the whole service,
in process: every answer is a page, a problem document of a known code, or a 503 with Retry-After. Then
Schemathesis over the OpenAPI document (fuzz_contract.py): in process, against Ray Serve, or any URL.

  fenliu bench fuzz --quick
  fenliu bench fuzz --ray --inputs 1000 --requests 1000
  FENLIU_KEY=… fenliu bench fuzz --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson

from training.bench.fuzz_runs import contract, guided
from training.bench.harness import Result
from training.bench.tally import Tally

if TYPE_CHECKING:
    import httpx

ABOUT = "decoders, requests and the whole contract (Schemathesis, atheris): refused, and nothing else"
ODD: Final[tuple[Any, ...]] = (
    None, True, -1, 0, 1e308, -1e308, 2**63, 2**70, "", "\0", "\ud7ff", "e\u0301", "x" * 70,
    "../../etc/passwd", [], {}, [[]], {"a": {}}, "2026-13-45T99:99:99Z", "NaN", [None] * 600, "' OR 1=1 --",
)  # fmt: skip
DEEP: Final = b"[" * 100_000
WHEN: Final = "2026-09-21T14:13:20Z"
SIGNED: Final = ("token", "identity token")
_EXAMPLES: Final = 5  # of crashes that are told


class Target(NamedTuple):
    """`read` gets a mutation of one of `good`; what it raises must be one of `refuses`."""

    name: str
    good: tuple[bytes, ...]
    read: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    weight: int = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inputs", type=int, help="of decoders (1,000,000; with --quick 40,000)")
    parser.add_argument("--requests", type=int, help="to the service (50,000; with --quick 1,500)")
    parser.add_argument("--contract", type=int, help="requests by Schemathesis (50,000; with --quick 1,000)")
    parser.add_argument("--url", help="Schemathesis asks what serves there (its key: FENLIU_KEY)")
    parser.add_argument("--ray", action="store_true", help="Schemathesis asks Ray Serve, started for it")
    parser.add_argument("--guided", type=int, default=0, help="seconds a decoder by atheris (make fuzz)")
    parser.add_argument("--seed", type=int, default=2026)


def run(args: argparse.Namespace) -> Result:
    inputs = args.inputs or (40_000 if args.quick else 1_000_000)
    requests = args.requests or (1_500 if args.quick else 50_000)
    tally, rng = Tally(), np.random.default_rng([args.seed, 41])
    _decoders(inputs, rng, tally)
    logging.getLogger("fenliu").setLevel(logging.CRITICAL)
    if args.url is None:
        asyncio.run(_service(requests, rng, tally))
    contract(args, tally)
    if args.guided:
        guided(args.guided, args.seed, tally)
    return tally.result()


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """One to four edits: flips, cuts, insertions, repeats, bytes of another place."""
    raw = bytearray(good)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, len(raw) + 1))
        kind = int(rng.integers(0, 6))
        if kind == 0 and raw:
            raw[at % len(raw)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del raw[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            raw[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 3:
            raw[at:at] = raw[: int(rng.integers(0, 33))]
        elif kind == 4:
            raw[at : at + 8] = int(rng.integers(0, 2**63)).to_bytes(8, "little")
        else:
            del raw[at:]
    return bytes(raw)


def mutated_json(good: Any, rng: np.random.Generator) -> Any:
    """The value with one place of it replaced, removed, doubled or renamed."""
    if isinstance(good, dict) and good and rng.random() < 0.85:
        names = list(good)
        name = names[int(rng.integers(len(names)))]
        made = dict(good)
        draw = rng.random()
        if draw < 0.12:
            del made[name]
        elif draw < 0.2:
            made[name + "x"] = made.pop(name)
        else:
            made[name] = mutated_json(made[name], rng)
        return made
    if isinstance(good, list) and good and rng.random() < 0.85:
        at = int(rng.integers(len(good)))
        if rng.random() < 0.15:
            return [*good, *good]
        return [*good[:at], mutated_json(good[at], rng), *good[at + 1 :]]
    return ODD[int(rng.integers(len(ODD)))]


def _decoders(inputs: int, rng: np.random.Generator, tally: Tally) -> None:
    targets = _targets(rng)
    total = sum(target.weight for target in targets)
    crashes: Counter[str] = Counter()
    examples: list[str] = []
    forged = read = 0
    began = time.perf_counter()
    for target in targets:
        for _ in range(inputs * target.weight // total + 1):
            good = target.good[int(rng.integers(len(target.good)))]
            raw = mutated(good, rng)
            read += 1
            try:
                target.read(raw)
                forged += target.name in SIGNED and raw not in target.good
            except target.refuses:
                continue
            except Exception as crash:
                crashes[f"{target.name}: {type(crash).__name__}"] += 1
                if len(examples) < _EXAMPLES:
                    examples.append(f"{target.name} {raw[:60]!r}: {crash!r}"[:300])
    tally.put("decoder_inputs", read, "", ", ".join(target.name for target in targets))
    tally.put("crashes", crashes.total(), "", "; ".join([*map(str, crashes.items()), *examples]), ("<=", 0.0))
    said = "mutations of a signed page token, and of an identity provider's"
    tally.put("forged_tokens_taken", forged, "", said, ("<=", 0.0))
    tally.put("decoder_us", (time.perf_counter() - began) / read * 1e6, "µs", "an input, mutation included")


def _targets(rng: np.random.Generator) -> list[Target]:
    from features.customer import Blobs, decode_customer
    from features.events import Rejected, parse_event, unpack
    from features.ids import keys64
    from features.keyspace import KeySpaceError, parse_keyspace
    from features.patch import decode_patch, patched
    from features.schema import SchemaMismatch
    from features.token import TokenError, TokenSigner
    from features.views import PROFILE
    from serving import remembered, wire
    from serving.errors import Problem
    from serving.plan import PlanError, parse_plan
    from serving.prices import Prices, PricesError, decode_prices
    from training.bench.decide_world import NOW, blobs_of, world_of
    from training.bench.fuzz_identity import provider

    keys = keys64(f"i{number}" for number in range(50))
    people = [blobs_of(keys, 4, rng) for _ in range(4)]
    patch = patched(None, {"age": 40}, NOW)
    signer = TokenSigner((("k1", bytes(range(32))),))
    token = _token(signer, NOW).encode()
    identities, known = provider(NOW)
    _, plan = world_of(200, 8, 6, 1)
    event = orjson.dumps({
        "event_id": "e1", "type": "clicked", "occurred_at": WHEN,
        "page_token": token.decode(), "index": 1, "value": {"amount": 1.5, "currency": "CNY"},
    })  # fmt: skip

    def customer(raw: bytes) -> object:
        which = raw[0] % 5 if raw else 0
        parts: list[bytes | None] = [*people[0][:4], patch]
        parts[which] = raw
        return decode_customer(Blobs(*parts), now=NOW)

    def an_event(raw: bytes) -> object:
        return parse_event(wire.parse_json(raw), received_at=NOW, verify=signer.verify)

    def a_request(raw: bytes) -> object:
        return wire.parse(wire.RecommendAsk, wire.parse_json(raw))

    ask = orjson.dumps(_page_ask(0))
    records = tuple(one.profile or b"" for one in people)
    plans = (
        plan.model_dump_json(by_alias=True)[:6000].encode(),
        b'{"name": "p", "surfaces": {"home": ["b"]}}',
    )
    spaces = (b'{"version": "k1", "views": {"profile": {"as_of": 1, "count": 2, "fingerprint": 3}}}',)
    return [
        Target("record", records, PROFILE.decode, (SchemaMismatch,), 4),
        Target("customer", (people[0].profile or b"", people[0].recent or b"", patch), customer, (), 3),
        Target("patch", (patch,), lambda raw: decode_patch(raw), (SchemaMismatch,), 2),
        Target("token", (token,), lambda raw: signer.verify(raw.decode("latin-1")), (TokenError,), 3),
        Target("identity token", (known,), identities.identify, (Problem,), 1),
        Target("prices", (Prices(1, NOW, {"c1": 0.5}).encode(),), decode_prices, (PricesError,), 2),
        Target("plan", plans, lambda raw: parse_plan(raw, "fuzz"), (PlanError,), 1),
        Target("key space", spaces, lambda raw: parse_keyspace(raw.decode("latin-1")), (KeySpaceError,), 2),
        Target("log entry", (patch, b"\x81\xa1t\xa6served"), unpack, (ValueError,), 2),
        Target("remembered page", (b"\x28\xb5\x2f\xfd", rng.bytes(200)), remembered.decode, (), 1),
        Target("event", (event,), an_event, (Rejected, Problem), 2),
        Target("request", (ask,), a_request, (Problem,), 3),
    ]  # fmt: skip


def _token(signer: Any, now: float) -> str:
    n = 5
    signed: str = signer.sign(
        "d1", "u:u1", now, now + 600, 1, [1, 2], np.zeros(n, np.uint8), np.arange(n, dtype=np.uint64) + 9,
        np.zeros(n, np.uint32), np.zeros(n, np.uint32), np.zeros(n, np.uint8), device="", org=0,
    )  # fmt: skip
    return signed


def _page_ask(number: int) -> dict[str, Any]:
    return {
        "user_id": f"u{number % 50}", "surface": "home", "session_id": "s1",
        "slots": [{"slot": "home.feed", "count": 3, "exclude": ["i3"]}, {"slot": "home.banner"}],
        "context": {"channel": "app", "app_version": "9.2.0", "locale": "zh-CN", "city": "310000",
                    "location": "wtw3s", "auth_level": "face", "anchor_item": "i5", "entry": "scan"},
        "events": [{"event_id": f"v{number}", "type": "acted", "action": "viewed", "item_id": "i9",
                    "occurred_at": WHEN}],
        "options": {"profiling": True, "explain": False, "dry_run": False, "deadline_ms": 500},
    }  # fmt: skip


async def _service(requests: int, rng: np.random.Generator, tally: Tally) -> None:
    import httpx

    from serving.errors import CODES
    from serving.web import App
    from training.bench.decide_world import NOW, world_of
    from training.bench.in_process import in_process

    bundle, plan = world_of(200, 8, 6, 1)
    statuses: Counter[int] = Counter()
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fenliu-fuzz-") as folder:
        async with in_process(Path(folder), bundle, plan, NOW) as bench:
            app = App(bench.service.settings, bench.service)
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://fuzz") as client:
                page = (await client.post("/v1/recommend", json=_page_ask(0))).json()
                for number in range(requests):
                    answer = await client.send(_request(client, number, page.get("page_token", ""), rng))
                    statuses[answer.status_code] += 1
                    if problem := _unlike(answer, CODES):
                        wrong[problem] += 1
    tally.put("requests", sum(statuses.values()), "", str(dict(sorted(statuses.items()))))
    bad = sum(count for status, count in statuses.items() if status >= 500 and status != 503)
    tally.put("answered_5xx", bad, "", "other than 503", ("<=", 0.0))
    tally.put("not_by_contract", wrong.total(), "", str(dict(wrong.most_common(3))), ("<=", 0.0))


def _request(client: httpx.AsyncClient, number: int, token: str, rng: np.random.Generator) -> httpx.Request:
    """One of the paths, its good body mutated as JSON or as bytes; some methods, headers, paths too."""
    bodies: tuple[tuple[str, str, Any], ...] = (
        ("POST", "/v1/recommend", _page_ask(number)),
        ("POST", "/v1/recommend/homepage", {"user_id": "u1", "context": {"channel": "app"}}),
        ("POST", "/v1/recommend/banner", {"visitor_id": "d1", "options": {"explain": True}}),
        ("POST", "/v1/events", {"events": [
            {"event_id": f"e{number}", "type": "clicked", "occurred_at": WHEN,
             "page_token": token, "index": 1},
            {"event_id": f"f{number}", "type": "displayed", "occurred_at": WHEN,
             "page_token": token, "seen": [0, 1]}]}),
        ("POST", "/v1/outcomes", {
            "outcome_id": f"o{number}", "user_id": "u1", "kind": "purchase", "item_id": "i1",
            "value": {"amount": 5, "currency": "CNY"}, "occurred_at": WHEN, "recorded_at": WHEN}),
        ("PUT", f"/v1/users/u{number % 50}", {"profile": {"age": 30, "risk_level": 3, "city": "310000"}}),
        ("GET", f"/v1/items/i{number % 250}/similar", None),
    )  # fmt: skip
    method, path, body = bodies[int(rng.integers(len(bodies)))]
    headers = {"content-type": "application/json"}
    draw = rng.random()
    if draw < 0.03:
        method = ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")[int(rng.integers(5))]
    elif draw < 0.06:
        path += ("/", "%00", "/../..", "?x=1", "%ff")[int(rng.integers(5))]
    elif draw < 0.09:
        headers["content-type"] = ("text/plain", "", "application/json; charset=utf-16")[int(rng.integers(3))]
    elif draw < 0.1:
        headers["x-request-id"] = "r" * int(rng.integers(0, 200))
    if body is None:
        return client.build_request(method, path, params={"k": str(ODD[int(rng.integers(len(ODD)))])[:80]})
    if rng.random() < 0.002:
        return client.build_request(method, path, content=DEEP, headers=headers)
    for _ in range(int(rng.integers(0, 3))):
        body = mutated_json(body, rng)
    raw = orjson.dumps(body, default=str) if not _too_big(body) else repr(body).encode()
    if rng.random() < 0.3:
        raw = mutated(raw, rng)
    return client.build_request(method, path, content=raw, headers=headers)


def _too_big(body: Any) -> bool:
    """Whether JSON's integers of 64 bits cannot say it."""
    try:
        orjson.dumps(body)
    except (TypeError, orjson.JSONEncodeError):
        return True
    return False


def _unlike(answer: httpx.Response, codes: Any) -> str:
    """What of an answer is not as the contract says; empty: nothing."""
    kind = answer.headers.get("content-type", "")
    if answer.status_code < 400:
        return "" if kind.startswith("application/json") else f"{answer.status_code} {kind}"
    if not kind.startswith("application/problem+json"):
        return f"{answer.status_code} {kind}"
    said = answer.json()
    code = said.get("code")
    if code not in codes or codes[code].status != answer.status_code or not said.get("detail"):
        return f"{answer.status_code} {code}"
    if answer.status_code in (429, 503) and "retry-after" not in answer.headers:
        return f"{code} without Retry-After"
    return ""
