"""Creatives under governance, and what is published or killed as control carries it out."""

from __future__ import annotations

import asyncio

import pytest

from serving.control import Kill, MemoryControl
from serving.errors import Problem
from serving.governance import Governance
from serving.office import Office
from tests.governed import creative, fragment, frame, person, refused

# --- creatives


def test_a_creative_goes_from_draft_to_live_and_is_withdrawn_by_one(bank):
    one = bank.propose("creative:v1", creative(until="2027-01-01T00:00:00Z"), bank.alice)
    refused("not_approved", bank.governance.publish, bank.alice, one.id)
    refused("missing_field", bank.governance.approve, bank.ann, one.id, content=one.content)
    bank.governance.approve(
        bank.ann, one.id, content=one.content, number="备-7", until="2026-12-01T00:00:00Z"
    )
    bank.governance.publish(bank.alice, one.id)
    live = bank.governance.creative("v1")
    assert (live["state"], live["approver"], live["approval_number"]) == ("live", "ann", "备-7")
    assert live["until"] == "2026-12-01T00:00:00Z" and live["item_id"] == "i1"
    assert bank.governance.state.release is None  # the plan is not touched
    bank.governance.withdraw(bank.alice, "v1", reason="misprint")
    assert bank.governance.creative("v1")["state"] == "withdrawn"
    refused("wrong_state", bank.governance.withdraw, bank.alice, "v1", reason="again")
    assert bank.governance.books.audit.records[-1].action == "withdrawn"


@pytest.mark.parametrize(
    "change",
    [{"state": "live"}, {"approver": "me"}, {"approval_number": "1"}, {"id": "v9"}, {"title": ""}, {"x": 1}],
)
def test_a_creative_does_not_approve_itself(bank, change):
    with pytest.raises(Problem) as caught:
        bank.propose("creative:v1", creative(**change), bank.alice)
    assert caught.value.status == 422


def test_a_creative_belongs_to_its_items_org(bank):
    refused("unknown_item", bank.propose, "creative:v1", creative(item_id="none"), bank.alice)
    refused("missing_field", bank.propose, "creative:v1", {"title": "x"}, bank.alice)
    refused("forbidden", bank.propose, "creative:v1", creative(), bank.bob)
    one = bank.propose("creative:v2", creative(item_id="i2"), bank.bob)
    refused("forbidden", bank.approve, one, bank.sid)
    bank.approve(one, bank.bea)
    bank.governance.publish(bank.bob, one.id)
    refused("forbidden", bank.propose, "creative:v2", creative(), bank.alice)  # whose it was has a say
    refused("forbidden", bank.governance.withdraw, bank.sam, "v2", reason="x")


# --- carried out in control


def test_publishing_points_control_and_coalesces(bank):
    class Control(MemoryControl):
        def __init__(self) -> None:
            super().__init__()
            self.plans = []

        async def set(self, field, value):
            self.plans.append(value)
            await super().set(field, value)

    async def story() -> None:
        control = Control()
        office = Office(bank.governance, control)
        bank_publish = []
        one = bank.propose("frame", frame(), bank.alice)
        bank.approve(one, bank.ann)
        await office.publish(bank.alice, one.id)
        for part, who in (("org:bj", bank.bob), ("org:sh", bank.sam)):
            one = bank.propose(part, fragment(part[-2:]), who)
            bank.approve(one, bank.ann)
            bank_publish.append(office.publish(who, one.id))
        await asyncio.gather(*bank_publish)
        newest = bank.governance.state.release.plan
        assert (await control.poll()).plan == newest
        assert len(control.plans) == 2 and control.plans[-1] == newest
        await control.set("plan", "000000000000")  # somebody wrote past governance, or the store was emptied
        assert await office.reconcile() and (await control.poll()).plan == newest
        assert not await office.reconcile()

    asyncio.run(story())


def test_a_creative_is_in_the_overlay_once_it_is_published(bank):
    async def story() -> None:
        control = MemoryControl()
        office = Office(bank.governance, control)
        one = bank.propose("creative:v1", creative(), bank.alice)
        bank.approve(one, bank.ann)
        assert await control.overlay_since(0) == []
        await office.publish(bank.alice, one.id)
        (entry,) = await control.overlay_since(0)
        assert (entry.kind, entry.id, entry.payload["state"]) == ("creative", "v1", "live")
        await control.overlay_put([("creative", "v1", {"item_id": "i1", "title": "changed since"})])
        assert await office.reconcile()
        assert (await control.overlay_since(0))[0].payload == bank.governance.creative("v1")
        await office.withdraw(bank.alice, "v1", reason="x")
        assert (await control.overlay_since(0))[0].payload["state"] == "withdrawn"

    asyncio.run(story())


def test_an_item_that_is_put_again_does_not_lose_its_creative(bank):
    """A whole item takes the place of what was put before it; what somebody withdrew stays withdrawn."""

    async def story() -> None:
        control = MemoryControl()
        office = Office(bank.governance, control)
        one = bank.propose("creative:v1", creative(), bank.alice)
        bank.approve(one, bank.ann)
        await office.publish(bank.alice, one.id)
        seq = await control.overlay_put([("item", "i1", {"kind": "product", "title": {"zh": "t"}})])
        assert await office.reconcile()
        entries = {(entry.kind, entry.id): entry for entry in await control.overlay_since(0)}
        assert entries["creative", "v1"].seq > seq == entries["item", "i1"].seq
        assert not await office.reconcile()
        await control.overlay_put([("item", "i1", None)])  # an item that is withdrawn needs none
        assert not await office.reconcile()
        await control.overlay_put([("creative", "v1", {**creative(), "state": "withdrawn"})])
        assert not await office.reconcile()

    asyncio.run(story())


def test_who_may_kill_what(going):
    async def tried(who, scope, name="", undo=False) -> str:
        try:
            await office.kill(who, Kill(scope, name), reason="incident", undo=undo)
        except Problem as problem:
            return problem.code
        return "done"

    control = MemoryControl()
    office = Office(going.governance, control)

    async def story() -> None:
        assert await tried(going.bob, "campaign", "c1") == "done"
        assert await tried(going.bob, "campaign", "c2") == "forbidden"
        assert await tried(going.bob, "campaign", "none") == "forbidden"
        for scope, name in (("item", "i1"), ("slot", "home.popup"), ("everything", "")):
            for who in (going.bob, going.bea, going.alice, person("eve", "engineer"), person("gw", "app")):
                assert await tried(who, scope, name) == "forbidden"
            assert await tried(going.root, scope, name) == "done"
            assert await tried(going.ann, scope, name, undo=True) == "done"
        assert await tried(going.ann, "campaign", "c1") == "done"
        assert await tried(going.bob, "campaign", "c1", undo=True) == "forbidden"  # not theirs any more
        assert await tried(going.bea, "campaign", "c1", undo=True) == "done"
        assert (await control.poll()).kills == ()
        assert await tried(going.root, "everything", "x") == "invalid_field"

    asyncio.run(story())
    said = [
        record for record in going.governance.books.audit.records if record.action in ("killed", "revived")
    ]
    assert len(said) == 9 and {record.reason for record in said} == {"incident"}


def test_a_kill_does_not_wait_for_the_registry_but_switching_on_does(going):
    async def story() -> None:
        control = MemoryControl()
        office = Office(going.governance, control)
        path = sorted((going.path / "audit" / "000000").iterdir())[-1]
        path.write_bytes(b"x")  # the log does not hold
        fresh = Office(Governance(str(going.path.parent)), control)
        done = await fresh.kill(going.root, Kill("everything"), reason="incident")
        assert not done.audited and (await control.poll()).kills == (Kill("everything"),)
        with pytest.raises(Problem):
            await fresh.kill(going.root, Kill("everything"), reason="over", undo=True)
        assert (await control.poll()).kills == (Kill("everything"),)
        assert office.governance is going.governance

    asyncio.run(story())
