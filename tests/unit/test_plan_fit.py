"""What the live bundle says of a plan and of items, and the admin application put together over it."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from serving.admin_build import admin_app
from serving.control import MemoryControl
from serving.errors import Problem
from serving.holder import Holder
from serving.live import build_live
from serving.plan import PlanError
from serving.plan_fit import Fit, item_orgs, orgs_in
from serving.security import check_creative_state
from serving.settings import Settings
from tests.governed import frame, person
from tests.worlds import item, tiny_bundle, tiny_items, tiny_plan


def without(plan, name: str):
    """A plan whose popup falls back on an item that the bundle does not have."""
    slots = [
        one.model_copy(update={"fallback": (name,)}) if one.layout == "popup" else one for one in plan.slots
    ]
    return plan.model_copy(update={"slots": tuple(slots)})


def test_a_plan_that_does_not_fit_is_refused_with_its_path():
    fit = Fit(tiny_bundle, lambda: None)
    assert fit(tiny_plan(), True) == {"bundle": "b-tiny", "problems": []}
    with pytest.raises(PlanError, match="is not in the catalogue") as caught:
        fit(without(tiny_plan(), "gone"), True)
    assert caught.value.path.startswith("slots.3.fallback")


def test_what_was_wrong_before_keeps_nobody_from_publishing():
    broken = without(tiny_plan(), "gone")
    fit = Fit(tiny_bundle, lambda: broken, booking=lambda plan: {"of": plan.name})
    report = fit(broken.model_copy(update={"name": "changed elsewhere"}), True)
    assert len(report["problems"]) == 1 and report["booking"] == {"of": "changed elsewhere"}
    assert "booking" not in fit(broken, False)
    with pytest.raises(PlanError, match="other"):
        fit(without(tiny_plan(), "other"), False)


def test_before_a_bundle_any_plan_goes():
    assert Fit(lambda: None, lambda: None)(tiny_plan(), True)["bundle"] is None


def test_whose_an_item_is():
    items = [item(0, org="bj"), item(1), item(2, org="elsewhere"), *tiny_items()[3:]]
    bundle = tiny_bundle(items=items)
    live = build_live(bundle, (), tiny_plan(), strict=False)
    for view in (bundle, live):
        org_of = item_orgs(lambda view=view: view, lambda: orgs_in(frame()))
        assert [org_of(f"i{n}") for n in range(3)] == ["bj", "head", "head"] and org_of("none") is None
    assert item_orgs(lambda: None, tuple)("i0") == "head" and orgs_in(None) == ()


def test_put_together_over_a_running_service(tmp_path):
    async def story() -> None:
        holder, control = Holder(), MemoryControl()
        holder.swap(build_live(tiny_bundle(), (), tiny_plan()))
        app = admin_app(Settings(home=tmp_path), control, holder)
        await app.startup()
        try:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fenliu") as client:
                body = {"part": "frame", "content": frame(), "reason": "first"}
                one = (await client.post("/v1/plan:propose", json=body)).json()
                assert one["report"] == {"bundle": "b-tiny", "problems": []}
                ask = {"proposal": one["id"], "alone": True}
                made = (await client.post("/v1/plan:publish", json=ask)).json()
            assert (await control.poll()).plan == made["plan"]
        finally:
            await app.shutdown()

    asyncio.run(story())


def test_creatives_go_live_by_proposals_only_where_approvals_are_required():
    gateway = person("gw", "app")
    for state in ("draft", "reviewed", "withdrawn"):
        check_creative_state(gateway, "required", state)
    for state in (None, "live", "approved"):
        check_creative_state(gateway, "alone", state)
        with pytest.raises(Problem, match="propose it as"):
            check_creative_state(gateway, "required", state)
