"""What is published is composed of what each org published, and checked; undoing is fast."""

from __future__ import annotations

from serving.assembly import EMPTY
from serving.governance import Governance
from serving.plan import PlanError
from serving.plan_diff import differences
from tests.governed import campaigns, fragment, frame, governed, person, plan, refused

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
