"""Any logged decision is made again and explained from the log, or from the lake after a restart."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fenliu
from features.log import EventLog
from features.store import StoreUnavailable
from serving.bundle import save
from serving.control import Kill, OverlayEntry
from serving.kept import CHAIN, content_body, content_of, kept_entry
from serving.live import build_live
from serving.prices import Prices, version_of
from serving.registry import Registry
from serving.security import pseudonym
from tests.governed import governed
from tests.parity.test_served_replay import bundle, customers_known, pages
from tests.shell import run, running
from tests.worlds import NOW, item, sold, tiny_bundle, tiny_plan
from training.ingest import ingest
from training.lake import Lake
from training.lives import Lives
from training.logged import Logged, told_by
from training.plain_words import told
from training.replay import ReplayError, decided_again, differing
from training.trace import trace_of, traced, why_not
from training.whatif import ORGANIC, what_if

KEYS = (("k2", b"s" * 32), ("k1", b"t" * 32))
DAILY = {"most": 1, "window": "1d"}


def campaigns() -> list[dict[str, Any]]:
    dear = {"click": 50.0}
    return [
        sold(1, "i2", slots=["home.banner"], values=dear, exclusive=True, caps=[DAILY]),
        sold(2, "i8", slots=["home.banner"]),
        sold(
            3, "i14", slots=["home.banner"], quotas=[{"id": "q", "at_most": 6, "per": "flight"}], values=dear
        ),
    ]


async def away(*_: Any) -> Any:
    raise StoreUnavailable("cut on purpose")


class Lived(NamedTuple):
    lake: Lake
    log: EventLog
    bundle: Any
    plan: Any
    ids: list[str]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    made, plan = bundle(), tiny_plan(campaigns=campaigns())

    async def story() -> tuple[EventLog, float]:
        async with running(made, plan=plan) as shell:
            await customers_known(shell)
            holder = shell.service.holder
            for part, price in enumerate((0.5, -0.25, 0.125)):
                prices = Prices(
                    version_of((1 << 31) - 1, part + 1), shell.clock.now, {"c2": price}, {"c1": 0.75}
                )
                holder.take_prices(prices, shell.clock.now)
                await pages(shell, 12, start=16 * part)
                with pytest.MonkeyPatch.context() as cut:
                    cut.setattr(shell.stores.ledger, "reserve", away)
                    await pages(shell, 4, start=16 * part + 12)
                await shell.put(f"/v1/items/new{part}", {
                    "kind": "product", "title": {"en": "Fresh"}, "category": "wealth/new", "action": "app://x"
                })  # fmt: skip
                if part == 1:
                    await shell.control.kill(Kill("item", "i9"))
                await shell.service.reloader.poll()
            return shell.stores.log, shell.clock.now

    log, now = run(story)
    waiting = Lake(tmp_path_factory.mktemp("empty"))
    lake = Lake(tmp_path_factory.mktemp("lake"))
    before = {one["id"] for one in Logged(waiting, log).between(0, 4e9)[1]}
    ingest(log, lake, now=now)
    total, records = Logged(lake).between(0, 4e9)
    ids = [one["id"] for one in records]
    assert total == len(ids) == 48 and set(ids) == before  # in the log first, in the lake then
    return Lived(lake, log, made, plan, ids)


def again(lived: Lived, *, days: bool = True) -> Lives:
    """As after a restart: nothing but the lake and the registry's bundle."""
    return Lives(Logged(lived.lake), lambda _: lived.bundle, days=days)


def test_every_decision_is_made_again_after_a_restart(lived: Lived) -> None:
    lives, versions, contents, refused = again(lived), set(), set(), 0
    for record in Logged(lived.lake).between(0, 4e9)[1]:
        live = lives.of(record)
        assert differing(record, decided_again(record, live), live) == []
        versions.add(record["prices"])
        contents.add(record["content"])
        refused += len(record["refused"])
    assert len(versions) >= 3 and len(contents) == 3 and refused > 0


def test_a_record_that_was_changed_differs(lived: Lived) -> None:
    record = dict(Logged(lived.lake).found(lived.ids[0])[0])
    live = again(lived).of(record)
    record["values"] = bytes(len(record["values"]))
    assert differing(record, decided_again(record, live), live) == ["values"]


def test_what_is_lost_is_named(lived: Lived, tmp_path: Path) -> None:
    record = Logged(lived.lake).found(lived.ids[-1])[0]
    nowhere = Lives(Logged(Lake(tmp_path)), lambda _: lived.bundle)
    with pytest.raises(ReplayError, match=r"plan .*: neither the log nor the lake has it"):
        nowhere.of(record)
    with pytest.raises(ReplayError, match="item changes"):
        nowhere.of(record, plan=lived.plan)


def test_the_trace_says_what_became_of_every_item(lived: Lived) -> None:
    record = next(one for one in Logged(lived.lake).between(0, 4e9)[1] if not one["refused"] and one["kills"])
    one = traced(record, again(lived, days=False))
    document = trace_of(one, KEYS, items=["nobody"])
    assert document["customer"] == pseudonym(KEYS, record["subject"])
    assert document["reproduced"] and document["versions"]["prices"] == record["prices"]
    assert document["why_not"][0]["code"] == "unknown_item"
    shown = [place["item"] for slot in document["slots"] for place in slot["places"]]
    assert shown == record["item_ids"]
    for place in (place for slot in document["slots"] for place in slot["places"]):
        assert place["words"] == told(place, profiling=record["profiling"])
        assert place["words"]["en"].startswith("Why: ") and "推荐理由" in place["words"]["zh"]
    assert why_not(one, shown[0])["code"] == "placed"
    assert why_not(one, "i9")["dropped_by"][0]["code"] == "killed"
    met = document["candidates"]
    assert met["met"] == met["permitted"] + sum(1 for c in one.drops.tolist() if c)
    codes = {why_not(one, f"i{n}")["code"] for n in range(160)}
    assert {"placed", "not_permitted", "outranked", "not_proposed"} <= codes <= {
        "placed", "not_permitted", "outranked", "not_proposed", "excluded", "no_slot", "no_creative"
    }  # fmt: skip
    assert {one["state"] for one in document["campaigns"]} <= {
        "placed", "not_running", "capped", "lost", "quota_spent", "not_permitted"
    }  # fmt: skip
    assert "u:" not in str(document)


def test_a_refused_item_says_so(lived: Lived) -> None:
    record = next(one for one in Logged(lived.lake).between(0, 4e9)[1] if one["refused"])
    one = traced(record, again(lived))
    place, _, why = record["refused"][0]
    said = why_not(one, one.live.texts[one.first[place]].id)
    assert said["code"] == f"refused_{why}"


def test_a_day_under_another_plan(lived: Lived) -> None:
    without = tiny_plan(campaigns=campaigns()[1:])
    total, records = Logged(lived.lake).between(0, 4e9)
    found = what_if(records, again(lived), plan=without, bundle=None, total=total).document()
    assert found["pages"] == 48 and found["skipped"] == {}
    before, after = found["before"], found["after"]
    assert before["campaigns"]["c1"]["displays"] > 0 and "c1" not in after["campaigns"]
    assert found["places_changed"] > 0
    for side in (before, after):
        for slot in side["slots"].values():
            assert sum(slot["shares"].values()) == pytest.approx(1)
    assert set(after["slots"]["home.feed"]["shares"]) == {ORGANIC}


def test_the_same_plan_changes_what_was_refused_only(lived: Lived) -> None:
    _, records = Logged(lived.lake).between(0, 4e9)
    plain = [one for one in records if not one["refused"] and one["cached"] is None]
    assert what_if(plain, again(lived), plan=None, bundle=None).document()["places_changed"] == 0.0


def test_contents_are_kept_as_differences() -> None:
    """Any chain of changes is put together again; what vanished begins a new one."""
    made, plan = tiny_bundle(), tiny_plan()
    bodies: dict[str, bytes] = {}
    views = []
    steps: list[list[int]] = [[1], [1, 2], [1, 2, 3], [2], [2, 4]]
    before = None
    for seqs in steps:
        raw = item(7).model_dump(mode="json", by_alias=True, exclude_defaults=True)
        entries = [OverlayEntry(seq, "item", f"x{seq}", raw | {"id": f"x{seq}"}) for seq in seqs]
        live = build_live(made, entries, plan, lists={"vip": len(seqs)})
        bodies[live.content] = zlib.compress(content_body(live, before))
        views.append(live)
        before = live
    for live in views:
        found = content_of(live.content, bodies)
        assert sorted(found.changes.values()) == sorted(live.changes) and found.lists == live.lists
    assert len({live.content for live in views}) == len(steps) and CHAIN > 1


def test_ids_tell_their_time() -> None:
    assert told_by("01932f6e-7b1a-7c3e-9f00-8a5b6c7d8e9f") == pytest.approx(0x01932F6E7B1A / 1000)
    assert told_by("r-4711") is None and told_by("6ba7b810-9dad-11d1-80b4-00c04fd430c8") is None


def test_what_is_kept_is_written_once_a_day() -> None:
    first, same, next_day = (
        kept_entry("plan", "p", at, lambda: b"{}") for at in (86_400.0, 86_500.0, 172_800.0)
    )
    assert first.event_id == same.event_id != next_day.event_id


def test_the_command_line_tells_a_decision_and_a_day(
    lived: Lived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Registry(tmp_path / "registry").put(save(lived.bundle, tmp_path / "made"))
    lake = ["--lake", str(lived.lake.root), "--lake-only", "--json"]
    home = ["--home", str(tmp_path), "replay"]
    assert fenliu.main([*home, *lake, "--item", "i9", lived.ids[-1]]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reproduced"] and told["why_not"][0]["item"] == "i9"
    assert fenliu.main([*home, *lake, "nobody"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "not_found"
    day = f"{datetime.fromtimestamp(NOW, UTC):%Y-%m-%d}"
    assert fenliu.main([*home, *lake, "--day", day]) == 0
    assert json.loads(capsys.readouterr().out)["same"] == 48
    plan = tmp_path / "other.json"
    plan.write_text(tiny_plan(campaigns=campaigns()[2:]).model_dump_json(by_alias=True))
    assert fenliu.main([*home, *lake[:3], "--day", day, "--plan", str(plan), "--pages", "24"]) == 0
    assert "value without prices" in capsys.readouterr().out
    assert fenliu.main([*home, "--plan", "x", lived.ids[0]]) == 2  # a plan re-decides a day


def test_a_trace_needs_a_scope_on_the_command_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = governed(tmp_path, principals=True)
    app, _ = bank.keys.issue(bank.root, "gateway", ["app"])
    home = ["--home", str(tmp_path)]
    asked = (["replay", "d1"], ["replay", "--day", "2026-09-21"], ["customer", "why", "d1"])
    for key, refusal in (("", "set FENLIU_KEY"), (app, "admin, engineer or approver")):
        monkeypatch.setenv("FENLIU_KEY", key)
        for command in asked:
            assert fenliu.main([*home, *command]) != 0
            assert refusal in " ".join("".join(capsys.readouterr()).split())
