"""Nobody publishes alone, whatever they try; what is published is what was approved."""

from __future__ import annotations

import threading

from serving.governance import Governance
from serving.principals import local_identity
from tests.governed import campaigns, fragment, frame, governed, person, refused


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
