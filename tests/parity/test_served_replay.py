"""A page decided again from its `served` record, read back from the lake: the same placements, bit for bit.

The service runs in process over memory stores; its log is ingested into a lake; every record there is made
into a query again and decided by a Live that is built afresh from the same bundle, plan, overlay and kills.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.customer import LATE
from features.store import MemoryStore, feature_key
from features.views import MEMBERSHIP
from serving.catalogue import parse_item
from serving.control import Kill, MemoryControl, OverlayEntry
from serving.decide import decide
from serving.domain import Decision, Effort, Query, Rows
from serving.live import Live, build_live
from serving.stepping import at_once
from tests.shell import SPACE, Shell, run, running
from tests.worlds import membership_blob, tiny_bundle, tiny_items, tiny_plan
from training.ingest import ingest
from training.lake import Lake
from training.replay import Record, ReplayError, decided_again, placed_by, placed_in, records

CONTEXTS: tuple[dict[str, Any], ...] = (
    {"channel": "app", "app_version": "9.2.0", "auth_level": "face"},
    {"channel": "h5", "locale": "en", "city": "310000"},
    {"channel": "app", "app_version": "8.0.1", "location": "wtw3s", "entry": "scan"},
    {},
)


EXPERIMENTS: dict[str, Any] = {
    "holdout": 0.3,
    "layers": [
        {
            "name": "feed",
            "experiments": [
                {
                    "name": "longer",
                    "ramp": [{"at": "2026-01-01T00:00:00Z", "enrolled": 0.8}],
                    "arms": [
                        {"name": "control"},
                        {"name": "six", "changes": {"slots": {"home.feed": {"size": 5, "explore": 0.3}}}},
                        {"name": "plain", "changes": {"ranker": "popularity"}},
                    ],
                }
            ],
        }
    ],
}


def bundle() -> Any:
    """A catalogue with restrictions, creatives and places, so that most of a query matters."""
    items = tiny_items(160)
    odd: list[dict[str, Any]] = [
        {"risk_class": 3},
        {"channels": ["app"], "min_app_version": "9.0.0"},
        {"regions": ["310000"]},
        {"auth_level": "password"},
        {"audience": 7},
        {"location": "wtw3sj"},
        {"min_age": 50},
    ]
    for number in range(0, 140, 2):
        raw = items[number].model_dump(mode="json", by_alias=True, exclude_defaults=True)
        raw |= odd[number // 2 % len(odd)]
        if number % 5 == 0:
            raw["creatives"] = [{"id": f"v{number}", "title": f"C {number}", "locale": "en", "state": "live"}]
        items[number] = parse_item(raw)
    return tiny_bundle(items=items)


async def customers_known(shell: Shell) -> None:
    store = shell.stores.features
    assert isinstance(store, MemoryStore)
    for n in range(30):
        if n % 5:
            facts = {"age": 20 + 2 * n, "risk_level": n % 6, "star_level": n % 8, "segment": n % 4}
            await shell.know(f"u{n}", **facts, profiling=int(n % 7 != 3))
        if n % 4 == 0:
            key = feature_key(SPACE.version, MEMBERSHIP.name, f"u{n}")
            store.blobs.set(key, membership_blob(7, as_of=shell.clock.now - 60), 1e6)


def asks(n: int, page: dict[str, Any] | None) -> dict[str, Any]:
    """The n-th request: users, visitors and both, contexts, slots, exclusions, events, an anchor."""
    body: dict[str, Any] = {"user_id": f"u{n % 30}", "context": dict(CONTEXTS[n % len(CONTEXTS)])}
    if n % 6 == 1:
        body["visitor_id"] = f"d{n % 10}"
    if n % 11 == 5:
        del body["user_id"]
        body["visitor_id"] = f"d{n % 10}"
    if n % 4 == 2:
        body["slots"] = [{"slot": "home.feed", "count": 4, "exclude": ["i3", "i9"]}, {"slot": "home.grid"}]
    if n % 9 == 4:
        body["context"]["anchor_item"] = "i7"
    if n % 8 == 6:
        body["options"] = {"profiling": False}
    if n % 10 == 3:
        body |= {"request_id": f"r{n}", "session_id": f"s{n}"}
    if page is not None and page.get("page_token") and n % 3 == 0:
        body["_click"] = {"page_token": page["page_token"], "index": n % 4}
    return body


async def pages(shell: Shell, count: int, start: int = 0) -> None:
    page: dict[str, Any] | None = None
    for n in range(start, start + count):
        body = asks(n, page)
        if click := body.pop("_click", None):
            body["events"] = [shell.event("clicked", f"e{n}", **click)]
        shell.clock.now += 7.125
        answer = await shell.post("/v1/recommend", body)
        assert answer.status_code == 200, answer.text
        page = answer.json()


class Story:
    """What the service left behind, with what each stretch of it was decided by."""

    def __init__(self) -> None:
        self.lives: list[tuple[int, tuple[Kill, ...], list[OverlayEntry]]] = []
        self.records: list[Record] = []
        self.units: list[dict[str, Any]] = []  # what reports read of the same pages


async def lived(lake: Lake) -> tuple[Story, Any, Any]:
    story, made = Story(), bundle()
    async with running(made, plan=tiny_plan(experiments=EXPERIMENTS)) as shell:
        control = shell.control
        assert isinstance(control, MemoryControl)
        await customers_known(shell)
        await pages(shell, 60)
        story.lives.append((0, (), []))
        fresh = {"kind": "product", "title": {"en": "Fresh"}, "category": "wealth/new", "action": "app://x"}
        await shell.put("/v1/items/fresh", fresh)
        await shell.send("DELETE", "/v1/items/i12", {})
        kills = (Kill("item", "i8"), Kill("slot", "home.popup"))
        for kill in kills:
            await control.kill(kill)
        await shell.service.reloader.poll()  # what changed is in force from here on
        live = shell.service.holder.live
        await pages(shell, 60, start=60)
        story.lives.append((live.overlay_seq, kills, await control.overlay_since(0)))
        plan, log, now = live.plan.plan, shell.stores.log, shell.clock.now
    ingest(log, lake, now=now)  # the service has ended: its last records are in the log
    story.records = list(records(lake))
    story.units = lake.served(columns=["id", "unit", "arms", "campaigns", "ghosts"]).to_pylist()
    return story, made, plan


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, dict[int, Live]]:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    story, made, plan = run(lambda: lived(lake))
    lives = {
        seq: build_live(made, entries, plan, kills, overlay_seq=seq) for seq, kills, entries in story.lives
    }
    return story, lives


def test_the_record_says_what_was_killed(replayed: tuple[Story, dict[int, Live]]) -> None:
    story, lives = replayed
    said = {tuple(map(tuple, record["kills"])) for record in story.records}
    assert said == {live.thrown for live in lives.values()}
    assert any(("item", "i8") in kills for kills in said) and () in said


def test_every_page_is_decided_again_bit_for_bit(replayed: tuple[Story, dict[int, Live]]) -> None:
    story, lives = replayed
    assert len(story.records) == 120 and len(lives) == 2
    efforts, degraded = set(), set()
    for record in story.records:
        again = decided_again(record, lives[record["overlay"]])
        assert placed_by(again) == placed_in(record), record["id"]
        assert list(again.degraded) == record["degraded"]
        assert again.query.profiling == record["profiling"]
        assert {one.layer: one.name for one in again.arms} == record["arms"]
        efforts.add(record["effort"])
        degraded |= set(record["degraded"])
    assert "full" in efforts
    assert "profile" in degraded  # some were strangers
    assert {record["profiling"] for record in story.records} == {True, False}
    kinds = {name for record in story.records for name in record["context"]}
    assert {"channel", "city", "location", "anchor_item", "exclude", "session_id", "entry"} <= kinds
    arms = {name for record in story.records for name in record["arms"].values()}
    assert arms == {"holdout", "longer/control", "longer/six", "longer/plain"}
    assert {record["unit"][:2] for record in story.records} == {"u:", "v:"}
    assert any(record["blobs"][2] for record in story.records)  # what they did came along


def test_reports_read_the_units_and_arms_of_the_records(replayed: tuple[Story, dict[int, Live]]) -> None:
    story, _ = replayed
    told = [(record["id"], record["unit"], sorted(record["arms"].values())) for record in story.records]
    assert [(row["id"], row["unit"], sorted(row["arms"])) for row in story.units] == told
    assert all(row["campaigns"] == [] == row["ghosts"] for row in story.units)


def test_each_input_of_the_record_matters(replayed: tuple[Story, dict[int, Live]]) -> None:
    """The comparison can fail: with one input taken away, some page is another."""
    story, lives = replayed
    changes: dict[str, Any] = {
        "no profile": lambda r: {**r, "blobs": [None, *r["blobs"][1:]]},
        "no membership": lambda r: {**r, "blobs": [r["blobs"][0], None, *r["blobs"][2:]]},
        "no history": lambda r: {**r, "blobs": [*r["blobs"][:2], None, None, r["blobs"][4]]},
        "no context": lambda r: {**r, "context": {}},
        "late": lambda r: {**r, "blobs": list(LATE)},
        "another rung": lambda r: {**r, "effort": "fallback"},
    }
    for name, change in changes.items():
        other = [
            placed_by(decided_again(change(record), lives[record["overlay"]])) != placed_in(record)
            for record in story.records
        ]
        assert any(other), name


def test_another_bundle_plan_or_overlay_is_refused(replayed: tuple[Story, dict[int, Live]]) -> None:
    story, lives = replayed
    record = story.records[0]
    live = lives[record["overlay"]]
    for other in (
        replace(live, bundle=replace(live.bundle, version="b2")),
        replace(live, overlay_seq=99),
        replace(live, thrown=(*live.thrown, ("item", "i1"))),
    ):
        with pytest.raises(ReplayError, match="was made by"):
            decided_again(record, other)


def test_the_cached_rung_is_decided_again_from_the_page_before(tmp_path: Path) -> None:
    lake, tiring = Lake(tmp_path), False

    def failing(query: Query, live: Live, effort: Effort = "full", cached: Rows | None = None) -> Decision:
        if tiring and effort in ("full", "light"):
            raise RuntimeError("too tired for this rung")
        return decide(query, live, effort, cached)

    async def story() -> tuple[Any, Any]:
        nonlocal tiring
        async with running(bundle(), deciding=at_once(failing)) as shell:
            await customers_known(shell)
            await shell.page("u1")
            tiring = True
            shell.clock.now += 5
            await shell.page("u1")
            live = shell.service.holder.live
        ingest(shell.stores.log, lake, now=shell.clock.now)
        return live, None

    live, _ = run(story)
    first, second = sorted(records(lake), key=lambda record: record["at"])
    assert (first["effort"], second["effort"]) == ("full", "cached")
    assert second["cached"] == first["items"] and first["cached"] is None
    again = decided_again(second, live)
    assert placed_by(again) == placed_in(second)
    assert list(again.degraded) == [name for name in second["degraded"] if name not in ("full", "light")]
