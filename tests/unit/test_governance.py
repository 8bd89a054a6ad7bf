"""Nobody publishes alone, whatever they try; what is published is what was approved; undoing is fast."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serving.assembly import EMPTY
from serving.control import Kill, MemoryControl
from serving.errors import Problem
from serving.governance import Governance
from serving.office import Office
from serving.plan import PlanError
from serving.plan_diff import differences
from serving.principals import local_identity
from tests.governed import Bank, creative, fragment, frame, governed, person


@pytest.fixture
def bank(tmp_path) -> Bank:
    return governed(tmp_path)


@pytest.fixture
def going(bank) -> Bank:
    """With a frame, and a fragment of each branch."""
    bank.publish("frame", frame())
    bank.publish("org:bj", fragment("c1"))
    bank.publish("org:sh", fragment("c2"))
    return bank


def refused(code: str, call, *args, **options) -> Problem:
    with pytest.raises(Problem) as caught:
        call(*args, **options)
    assert caught.value.code == code, caught.value
    return caught.value


def plan(bank: Bank):
    return bank.governance.shelf.fetch(bank.governance.refresh().release.plan)


def campaigns(bank: Bank) -> list[str]:
    return sorted(one.id for one in plan(bank).campaigns)


# --- the way of a change


def test_proposed_approved_published(bank):
    one = bank.propose("frame", frame(), bank.alice)
    assert one.state == "proposed" and one.base == 0 and one.author == "alice"
    one = bank.governance.review(person("carl", "operator:head"), one.id, content=one.content)
    assert one.state == "reviewed"
    assert bank.approve(one, bank.ann).state == "approved"
    made = bank.governance.publish(bank.alice, one.id)
    assert (made.number, made.by, made.approved_by) == (1, "alice", "ann")
    assert plan(bank).version == bank.governance.state.release.plan
    actions = [record.action for record in bank.governance.books.audit.records]
    assert actions == ["keys", "keys", "proposed", "reviewed", "approved", "published"]
    assert bank.governance.books.audit.verify().ok


def test_the_plan_is_composed_of_what_each_org_published(going):
    assert campaigns(going) == ["c1", "c2"]
    assert going.governance.state.release.parts == {"frame": 1, "org:bj": 1, "org:sh": 1}
    assert [release.parent for release in going.governance.state.releases] == [0, 1, 2]


def test_another_process_sees_the_same(going, tmp_path):
    other = Governance(str(tmp_path / "registry"))
    assert vars(other.refresh()) == vars(going.governance.refresh())


def test_one_orgs_bad_draft_never_blocks_anothers(going):
    bad = refused("bad_plan", going.propose, "org:bj", fragment("c3", slot="home.grid"), going.bob)
    assert "bj" in bad.detail and "home.grid" in bad.detail
    waiting = going.propose("org:bj", fragment("c1", "c4"), going.bob)
    going.publish("org:sh", fragment("c2", "c5"))
    assert campaigns(going) == ["c1", "c2", "c5"]
    going.approve(waiting, going.bea)
    going.governance.publish(going.bob, waiting.id)  # the other org's revisions do not make it stale
    assert campaigns(going) == ["c1", "c2", "c4", "c5"]


def test_a_frame_that_an_org_no_longer_fits_sets_that_org_aside(going):
    slots = [{**slot, "shares": {"sh": 0.3}} if "shares" in slot else slot for slot in frame()["slots"]]
    going.publish("frame", frame(slots=slots))
    assert campaigns(going) == ["c2"] and going.governance.state.release.aside == ("bj",)
    going.publish("org:sh", fragment("c2", "c6"))
    assert campaigns(going) == ["c2", "c6"]


def test_a_fragment_needs_a_frame_and_a_change(bank):
    refused("bad_plan", bank.propose, "org:bj", fragment("c1"), bank.bob)
    bank.publish("frame", frame())
    assert "nothing changes" in refused("wrong_state", bank.propose, "frame", frame(), bank.alice).detail
    for part in ("", "org:", "org", "plan", "creative:", "org:" + "x" * 65):
        refused("invalid_field", bank.propose, part, {}, bank.alice)
    refused("bad_plan", bank.propose, "org:bj", {"org": "sh"}, bank.bob)


# --- nobody publishes alone


def test_not_by_approving_ones_own(bank):
    both = person("carl", "operator:head", "approver", "admin")
    one = bank.propose("frame", frame(), both)
    refused("same_person", bank.approve, one, both)
    refused("same_person", bank.governance.review, both, one.id, content=one.content)
    refused("not_approved", bank.governance.publish, both, one.id)
    refused("not_approved", bank.governance.publish, both, one.id, alone=True)


def test_not_by_two_keys_of_one_person(bank):
    one = bank.propose("frame", frame(), person("carl", "operator:head", "approver", key="k1"))
    refused("same_person", bank.approve, one, person("carl", "operator:head", "approver", key="k2"))


def test_not_by_publishing_what_is_not_approved(bank):
    one = bank.propose("frame", frame(), bank.alice)
    for who in (bank.alice, bank.ann, bank.root):
        refused("not_approved", bank.governance.publish, who, one.id)
    bank.governance.review(bank.ann, one.id, content=one.content)
    refused("not_approved", bank.governance.publish, bank.alice, one.id)
    bank.governance.reject(bank.ann, one.id, reason="no")
    refused("wrong_state", bank.approve, one, bank.ann)
    refused("wrong_state", bank.governance.publish, bank.alice, one.id)


def test_not_by_editing_after_the_approval(bank):
    one = bank.propose("frame", frame(), bank.alice)
    bank.approve(one, bank.ann)
    other = bank.propose("frame", frame(name="other"), bank.alice, replaces=one.id)
    assert other.state == "proposed" and other.content != one.content
    refused("not_approved", bank.governance.publish, bank.alice, other.id)
    refused("wrong_state", bank.governance.publish, bank.alice, one.id)
    refused("wrong_state", bank.approve, one, bank.ann)
    refused("wrong_state", bank.propose, "frame", frame(name="x"), bank.alice, replaces=one.id)


def test_not_by_having_something_else_approved(bank):
    one = bank.propose("frame", frame(), bank.alice)
    other = bank.propose("frame", frame(name="other"), bank.alice)
    refused("stale_revision", bank.governance.approve, bank.ann, one.id, content=other.content)
    refused("stale_revision", bank.governance.approve, bank.ann, one.id, content="")
    refused("stale_revision", bank.governance.approve, bank.ann, one.id, content=one.content[:7])


def test_not_by_changing_the_content_under_the_approval(bank):
    one = bank.propose("frame", frame(), bank.alice)
    bank.approve(one, bank.ann)
    path = bank.path / "contents" / f"{one.content}.json"
    path.write_bytes(path.read_bytes().replace(b"head", b"heaD", 1))
    refused("audit_broken", bank.governance.publish, bank.alice, one.id)
    path.unlink()
    refused("audit_broken", bank.governance.publish, bank.alice, one.id)


def test_not_by_writing_an_approval_into_the_log(bank):
    from serving.audit import Audit, canonical, digest

    one = bank.propose("frame", frame(), bank.alice)
    log = Audit(str(bank.path.parent))
    log.refresh()
    mine = log.records[-1]
    forged = {"seq": mine.seq + 1, "at": mine.at, "principal": "ann", "key": "", "action": "approved"}
    forged |= {"object": "frame", "reason": "", "prev": "0" * 64}
    forged["detail"] = {"proposal": one.id, "content": one.content, "approval": {}}
    line = canonical({**forged, "hash": digest(forged)}) + b"\n"
    (bank.path / "audit" / "000000" / f"{mine.seq + 1:010d}.json").write_bytes(line)
    refused("audit_broken", bank.governance.publish, bank.alice, one.id)


def test_not_from_a_stale_base(going):
    one = going.propose("frame", frame(name="a"), going.alice, base=1)
    other = going.propose("frame", frame(name="b"), going.alice, base=1)
    for each in (one, other):
        going.approve(each, going.ann)
    going.governance.publish(going.alice, one.id)
    refused("stale_revision", going.governance.publish, going.alice, other.id)
    refused("stale_revision", going.propose, "frame", frame(name="c"), going.alice, base=1)
    refused("stale_revision", going.propose, "frame", frame(name="c"), going.alice, base=3)


def test_not_by_replaying_an_old_approval(going):
    one = going.propose("org:bj", fragment("c3"), going.bob)
    going.approve(one, going.bea)
    going.governance.publish(going.bob, one.id)
    refused("wrong_state", going.governance.publish, going.bob, one.id)
    going.governance.undo.part(going.bea, "org:bj", reason="bad")
    refused("wrong_state", going.governance.publish, going.bob, one.id)
    refused("wrong_state", going.approve, one, going.bea)
    again = going.propose("org:bj", fragment("c3"), going.bob)  # the same text is a new proposal
    assert again.id != one.id
    refused("not_approved", going.governance.publish, going.bob, again.id)


def test_not_by_somebody_of_another_org(going):
    refused("forbidden", going.propose, "org:bj", fragment("c3"), going.sam)
    refused("forbidden", going.propose, "frame", frame(name="x"), going.bob)
    refused("forbidden", going.propose, "policy", {"approvals": "off"}, going.bob)
    one = going.propose("org:bj", fragment("c3"), going.bob)
    refused("forbidden", going.approve, one, going.sid)
    going.approve(one, going.bea)
    for who in (going.sam, going.sid, person("eve", "engineer"), person("gw", "app")):
        refused("forbidden", going.governance.publish, who, one.id)
    refused("forbidden", going.governance.reject, going.sid, one.id, reason="no")
    refused("forbidden", going.governance.undo.part, going.sid, "org:bj", reason="no")
    refused("forbidden", going.governance.undo.whole, going.bea, reason="no")


def test_not_as_a_person_who_has_no_key(bank):
    one = bank.propose("frame", frame(), bank.alice)
    refused("unauthorized", bank.approve, one, local_identity("ann"))
    refused("unauthorized", bank.propose, "frame", frame(name="x"), local_identity())


def test_not_by_an_approval_that_has_ended(bank):
    one = bank.propose("frame", frame(), bank.alice)
    refused("invalid_field", bank.governance.approve, bank.ann, one.id, content=one.content, until="soon")
    bank.governance.approve(bank.ann, one.id, content=one.content, until="2026-10-01T00:00:00Z")
    bank.clock.now += 86_400 * 30
    refused("not_approved", bank.governance.publish, bank.alice, one.id)


def test_not_by_turning_approvals_off_alone(bank, tmp_path):
    off = Governance(str(tmp_path / "registry"), approvals=False, clock=bank.clock)
    off.refresh()
    assert off.approvals == "required"  # FENLIU_APPROVALS=0 counts only while there are no principals
    one = bank.propose("policy", {"approvals": "off"}, bank.root)
    refused("not_approved", bank.governance.publish, bank.root, one.id)
    bank.approve(one, bank.ann)
    bank.governance.publish(bank.root, one.id)
    free = bank.propose("frame", frame(), bank.alice)
    assert bank.governance.publish(bank.alice, free.id).approved_by == ""
    assert bank.governance.books.audit.records[-1].detail["alone"] is True
    refused("wrong_state", bank.governance.undo.part, bank.ann, "policy", reason="x")
    refused("invalid_field", bank.propose, "policy", {"approvals": "maybe"}, bank.root)


def test_a_bare_laptop_says_that_it_is_alone(tmp_path):
    bank, me = governed(tmp_path, principals=False), local_identity("me")
    one = bank.propose("frame", frame(), me)
    refused("same_person", bank.approve, one, local_identity("somebody else"))
    assert "--alone" in refused("not_approved", bank.governance.publish, me, one.id).detail
    bank.governance.publish(me, one.id, alone=True)
    record = bank.governance.books.audit.records[-1]
    assert record.principal == "local" and record.key == "me" and record.detail["alone"] is True


def test_approvals_off_on_a_laptop(tmp_path):
    bank = governed(tmp_path, principals=False, approvals=False)
    one = bank.propose("frame", frame(), local_identity())
    bank.governance.publish(local_identity(), one.id)
    assert bank.governance.books.audit.records[-1].detail["approvals"] == "off"


def test_of_many_publishers_at_once_none_is_lost(going):
    parts = {"org:bj": going.bob, "org:sh": going.sam}
    ready = []
    for part, who in parts.items():
        one = going.propose(part, fragment(f"{part[-2:]}-new"), who)
        going.approve(one, going.ann)
        ready.append((who, one.id))
    threads = [threading.Thread(target=going.governance.publish, args=pair) for pair in ready]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert campaigns(going) == ["bj-new", "sh-new"]
    assert going.governance.books.audit.verify().ok


# --- undoing


def test_a_part_goes_back_by_one_person_and_further_each_time(going):
    going.publish("org:bj", fragment("c3"))
    going.publish("org:bj", fragment("c4"))
    made = going.governance.undo.part(going.bea, "org:bj", reason="wrong price")
    assert campaigns(going) == ["c2", "c3"] and made.number == 4
    going.governance.undo.part(going.bea, "org:bj", reason="still wrong")
    assert campaigns(going) == ["c1", "c2"]
    refused("wrong_state", going.governance.undo.part, going.bea, "org:bj", reason="more")
    going.governance.undo.part(going.ann, "org:bj", reason="it was right", to=3)
    assert campaigns(going) == ["c2", "c4"]
    refused("not_found", going.governance.undo.part, going.ann, "org:bj", reason="x", to=99)
    refused("forbidden", going.governance.undo.part, going.bob, "org:bj", reason="x")
    assert going.governance.books.audit.records[-1].detail["back"] == {"org:bj": 3}


def test_a_revision_that_no_longer_fits_is_passed_over(going):
    going.publish("org:bj", fragment("c3", slot="home.banner"))
    going.publish("org:bj", fragment("c4"))
    slots = [
        {**slot, "shares": {"sh": 0.3}} if slot["name"] == "home.banner" else slot
        for slot in frame()["slots"]
    ]
    going.publish("frame", frame(slots=slots))
    going.governance.undo.part(going.bea, "org:bj", reason="wrong")
    assert campaigns(going) == ["c1", "c2"]


def test_the_whole_goes_back(going):
    before = going.governance.state.release.plan
    going.publish("frame", frame(name="new"))
    release = going.governance.undo.whole(going.ann, reason="blank page")
    assert release.plan == before and campaigns(going) == ["c1", "c2"]
    assert going.governance.books.newest("frame")["name"] == "head"
    release = going.governance.undo.whole(going.ann, reason="further")
    assert campaigns(going) == ["c1"] and going.governance.books.newest("org:sh") is EMPTY
    going.governance.undo.whole(going.ann, reason="further")
    assert campaigns(going) == []
    refused("wrong_state", going.governance.undo.whole, going.ann, reason="further")
    going.publish("org:sh", fragment("c9"))  # from there it goes on
    assert campaigns(going) == ["c9"]


# --- the check


def test_what_does_not_fit_the_bundle_is_refused_when_proposed_and_when_published(tmp_path):
    wrong = False

    def check(plan, full):
        if wrong:
            raise PlanError("slots.0.fallback", "is not open", "name another")
        return {"bundle": "b1", "full": full}

    bank = governed(tmp_path, check=check)
    one = bank.propose("frame", frame(), bank.alice)
    assert bank.governance.books.content(one.checked) == {"bundle": "b1", "full": True}
    bank.approve(one, bank.ann)
    wrong = True
    assert (
        refused("bad_plan", bank.governance.publish, bank.alice, one.id).errors[0].field == "slots.0.fallback"
    )
    refused("bad_plan", bank.propose, "frame", frame(name="x"), bank.alice)
    assert bank.governance.state.release is None


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


# --- differences


def test_differences_are_told_by_name():
    before = {"a": 1, "list": [{"id": "x", "v": 1}, {"id": "y"}], "t": [1, 2], "gone": True}
    after = {"a": 1.0, "list": [{"id": "y"}, {"id": "x", "v": 2}, {"id": "z"}], "t": [1, 3], "new": None}
    found = [(one.kind, one.path) for one in differences(before, after)]
    assert found == [
        ("changed", "a"),
        ("changed", "list[x].v"),
        ("added", "list[z]"),
        ("moved", "list"),
        ("changed", "t"),
        ("removed", "gone"),
        ("added", "new"),
    ]
    assert differences(before, before) == []
    assert [one.document() for one in differences(None, {"a": 1})] == [
        {"path": "", "kind": "changed", "before": None, "after": {"a": 1}}
    ]
