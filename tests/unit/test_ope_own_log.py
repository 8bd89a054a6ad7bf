"""The plan in force put to its own log: prices, item changes, kills, the bandit and refusals as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.log import EventLog
from features.store import StoreUnavailable
from serving.bandit import Learned
from serving.control import Kill
from serving.plan import Plan
from serving.prices import Prices, version_of
from tests.shell import run, running
from tests.worlds import SLOTS, sold, tiny_bundle, tiny_plan
from training.ingest import ingest
from training.lake import Lake
from training.logged import Logged
from training.ope.candidate import Views, candidate
from training.ope.diagnostics import diagnose
from training.ope.estimators import dr, ips, snips
from training.ope.policies import as_logged, as_slates, replayed, rewards, rounds_of, told
from training.ope.release import appraised
from training.replay import ReplayError

CUSTOMERS = 40


def plan_of(**feed: Any) -> Plan:
    slots = [{**slot, "explore": 0.4, "explore_new": 0.3, **feed} if slot["name"] == "home.feed" else slot
             for slot in SLOTS]  # fmt: skip
    capped = {"most": 1, "window": "1d"}
    sales = [
        sold(1, "i2", slots=["home.banner", "home.feed"], values={"click": 50.0}, caps=[capped]),
        sold(2, "i8", "home.feed"),
        sold(3, "i14", "home.feed"),
    ]
    return tiny_plan(slots=slots, campaigns=sales)


async def away(*_: Any) -> Any:
    raise StoreUnavailable("cut on purpose")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    async def story() -> tuple[EventLog, float]:
        async with running(tiny_bundle(), plan=plan_of()) as shell:
            holder = shell.service.holder
            for n in range(CUSTOMERS):
                await shell.know(f"u{n}", star_level=n % 7 + 1)
            for turn, price in enumerate((3.0, -2.0, 0.5)):
                prices = Prices(
                    version_of((1 << 31) - 1, turn + 1), shell.clock.now, {"c2": price, "c3": -price}
                )
                holder.take_prices(prices, shell.clock.now)
                keys = holder.live.keys[[4 + turn, 11 + turn, 30]].tolist()
                fresh = {int(key): (40.0, 4.0 + 30 * turn) for key in keys}
                holder.teach(Learned(bundle="b-tiny", fresh=fresh, version=f"{turn:012d}"))
                for n in range(CUSTOMERS):
                    shell.clock.now += 3
                    with pytest.MonkeyPatch.context() as cut:
                        if n % 9 == 8:
                            cut.setattr(shell.stores.ledger, "reserve", away)
                        page = await shell.page(f"u{n}")
                    seen = shell.event("clicked", f"e{turn}-{n}", page_token=page["page_token"], index=n % 20)
                    await shell.post("/v1/events", {"events": [seen]})
                await shell.put(f"/v1/items/new{turn}", {
                    "kind": "product", "title": {"en": "Fresh"}, "category": "wealth/new", "action": "app://x"
                })  # fmt: skip
                if turn == 1:
                    await shell.control.kill(Kill("item", "i9"))
                await shell.service.reloader.poll()
            return shell.stores.log, shell.clock.now

    log, now = run(story)
    made = Lake(tmp_path_factory.mktemp("lake"))
    ingest(log, made, now=now)
    return made


def under(lake: Lake, plan: Plan) -> Views:
    return candidate(lake, lambda _: tiny_bundle(), plan, tiny_bundle())


def test_the_plan_in_force_is_itself_on_its_own_log(lake: Lake) -> None:
    records = list(Logged(lake).between(0, 4e9)[1])
    assert len({one["prices"] for one in records}) == len({one["learned"] for one in records}) == 3
    assert len({one["content"] for one in records}) == 3 and any(one["refused"] for one in records)
    found = replayed(lake, under(lake, plan_of()), 0, 4e9)
    assert found.pages == len(records) == 3 * CUSTOMERS and not found.left_out and not found.fixed
    assert len(set(found.units)) == CUSTOMERS
    assert told(found)["creatives_drawn"] == sum(len(one["draws"]) for one in records)
    seen = as_logged(found, np.random.default_rng(0))
    assert seen.weight == pytest.approx(np.ones(len(seen)), abs=1e-12) and seen.reward.sum() > 3
    assert ips(seen).value == pytest.approx(seen.reward.mean()) == snips(seen).value
    assert not diagnose(seen).warnings
    for slot in as_slates(found, np.random.default_rng(0)):
        assert slot.chain == pytest.approx(np.ones(slot.chain.shape))


def test_without_what_was_in_force_it_is_another(lake: Lake) -> None:
    """Why the above is no tautology: one view for all pages, as it would be built now, weighs otherwise."""
    views = under(lake, plan_of())
    last = views(list(Logged(lake).between(0, 4e9)[1])[-1])
    found = rounds_of(Logged(lake).between(0, 4e9)[1], lambda _: last, {})
    weight = as_logged(found, np.random.default_rng(0)).weight
    assert (np.abs(weight - 1) > 0.01).mean() > 0.05


@pytest.mark.parametrize("left", [0, 2])
def test_a_place_left_empty_earns_nothing(lake: Lake, left: int) -> None:
    """A slot cut to two places, or gone, is worth what those two are: the others count as 0, known to be."""
    plan = plan_of(size=2) if left else _without("home.feed")
    earned = rewards(lake, 0, 4e9)
    records = list(Logged(lake).between(0, 4e9)[1])
    whole = rounds_of(records, under(lake, plan_of()), earned)
    found = rounds_of(records, under(lake, plan), earned)
    assert len(found.rounds) == len(whole.rounds) and not found.left_out
    seen = as_logged(found, np.random.default_rng(0))
    places = np.array([one.position for one in found.rounds])
    assert seen.nothing is not None and seen.nothing.tolist() == (places >= left).tolist()
    assert not seen.weight[places >= left].any()
    known = diagnose(seen)
    assert known.nothing == pytest.approx((places >= left).mean()) and known.support > 0.5
    assert dr(seen).value <= seen.reward.mean() and snips(seen).value <= seen.reward.mean()
    if not left:
        assert not diagnose(seen).refused and dr(seen).value == snips(seen).value == ips(seen).value == 0.0


def _without(slot: str) -> Plan:
    home = [one["name"] for one in SLOTS if one["name"] != slot]
    return tiny_plan(surfaces={"home": home})


def test_what_was_lost_is_said(tmp_path: Path, lake: Lake) -> None:
    nowhere = candidate(Lake(tmp_path), lambda _: tiny_bundle(), plan_of(), tiny_bundle())
    records = list(Logged(lake).between(0, 4e9)[1])
    with pytest.raises(ReplayError, match=r"item changes|prices"):
        nowhere(records[-1])
    found = rounds_of(records, nowhere, {})
    assert (
        found.left_out == len(records)
        and not found.rounds
        and "neither the log nor the lake" in str(found.why)
    )
    release = appraised(records, nowhere, {})
    assert release is not None and release.stopped() == [] and "neither the log" in str(release.warnings)
