"""Keys: shown once, hashed at rest, refused when they are not right; and nobody makes up a second person."""

from __future__ import annotations

import stat

import pytest

from serving.errors import Problem
from serving.keys import GovernedRing, Ring
from serving.principals import (
    PrincipalError,
    Principals,
    Scope,
    local_identity,
    parse_scope,
    read_principals,
)
from serving.security import ANYBODY, APP, Access
from serving.settings import Settings
from tests.governed import START, governed, person

NOW = "2026-09-01T00:00:00.000Z"
LATER = 1_800_000_000.0
ADMIN = person("root", "admin")


def made() -> tuple[Principals, str]:
    return Principals().issue("root", ["admin"], local_identity(), NOW)


@pytest.mark.parametrize("text", ["app", "operator:bj", "approver", "approver:bj", "engineer", "admin"])
def test_scopes_are_read_as_they_are_written(text):
    assert parse_scope(text).text == text


@pytest.mark.parametrize(
    "text", ["", "operator", "operator:", "approver:", "admin:bj", "app:x", "root", "Admin"]
)
def test_other_scopes_are_refused(text):
    with pytest.raises(PrincipalError, match="scopes are"):
        parse_scope(text)


def test_a_key_opens_and_says_who_it_is():
    known, text = made()
    who = known.identify(text.encode(), LATER)
    assert who is not None and (who.principal, who.scopes) == ("root", frozenset({Scope("admin")}))
    assert who.key in text


def test_what_is_at_rest_does_not_open():
    known, text = made()
    document = str(known.document())
    assert text not in document and text.rpartition("_")[2] not in document
    (key,) = known.people["root"].keys
    for guess in (key.hash, key.id, f"fl_{key.id}_{key.hash[:43]}", "", "fl_", text[:-1], text + "x"):
        assert known.identify(guess.encode(), LATER) is None
    other = text[:-1] + ("A" if text[-1] != "A" else "B")
    assert known.identify(other.encode(), LATER) is None


def test_two_lists_with_one_secret_share_no_hash():
    assert made()[0].salt != made()[0].salt


def test_it_comes_back_as_it_was_written():
    import json

    known, text = made()
    again = read_principals(json.dumps(known.document()))
    assert again == known and again.identify(text.encode(), LATER) is not None
    for bad in ("", "[]", "{}", '{"salt": "", "people": {"a": {}}}', '{"salt":"x","people":{"a":1}}'):
        with pytest.raises(PrincipalError, match="cannot be read"):
            read_principals(bad)


def test_expiry_is_kept():
    known, _ = made()
    known, text = known.issue("app1", ["app"], ADMIN, NOW, "2026-10-01T00:00:00Z")
    assert known.identify(text.encode(), START - 1e7) is not None
    assert known.identify(text.encode(), LATER) is None
    for bad in ("2020-01-01T00:00:00Z", "tomorrow", "2027-01-01T00:00:00"):
        with pytest.raises(PrincipalError, match="expire"):
            known.issue("app2", ["app"], ADMIN, NOW, bad)


def test_two_keys_rotate_without_a_gap():
    known, first = made()
    known, second = known.issue("root", (), ADMIN, NOW)
    with pytest.raises(PrincipalError, match="has 2 keys"):
        known.issue("root", (), ADMIN, NOW)
    known = known.revoke(first.split("_")[1], NOW)
    assert (
        known.identify(first.encode(), LATER) is None and known.identify(second.encode(), LATER) is not None
    )
    with pytest.raises(PrincipalError, match="last admin"):
        known.revoke(second.split("_")[1], NOW)


def test_the_first_is_an_admin_and_scopes_do_not_change():
    with pytest.raises(PrincipalError, match="must be an admin"):
        Principals().issue("bob", ["operator:bj"], local_identity(), NOW)
    known, _ = made()
    with pytest.raises(PrincipalError, match="has the scopes admin"):
        known.issue("root", ["approver"], ADMIN, NOW)
    for name in ("", "local", "a b", "x" * 65, "a/b"):
        with pytest.raises(PrincipalError):
            known.issue(name, ["app"], ADMIN, NOW)
    with pytest.raises(PrincipalError, match="say what"):
        known.issue("new", (), ADMIN, NOW)


def test_an_admin_cannot_make_up_a_second_person():
    known, _ = made()
    known, second = known.issue("ann", ["approver"], ADMIN, NOW)
    assert known.identify(second.encode(), LATER) is not None  # the second of all: nobody could confirm it
    known, third = known.issue("sock", ["approver"], ADMIN, NOW)
    assert known.identify(third.encode(), LATER) is None
    with pytest.raises(PrincipalError, match="yourself"):
        known.confirm(third.split("_")[1], ADMIN)
    known = known.confirm(third.split("_")[1], person("ann", "approver"))
    assert known.identify(third.encode(), LATER) is not None
    with pytest.raises(PrincipalError, match="already"):
        known.confirm(third.split("_")[1], person("ann", "approver"))


def test_an_admin_cannot_take_a_key_of_somebody_else():
    known, _ = made()
    known, _ = known.issue("ann", ["approver"], ADMIN, NOW)
    known, taken = known.issue("ann", (), ADMIN, NOW)
    assert known.identify(taken.encode(), LATER) is None
    known, own = known.revoke(taken.split("_")[1], NOW).issue("ann", (), person("ann", "approver"), NOW)
    assert known.identify(own.encode(), LATER) is not None


def test_the_app_needs_no_confirmation():
    known, _ = made()
    known, _ = known.issue("ann", ["approver"], ADMIN, NOW)
    known, text = known.issue("gateway", ["app"], ADMIN, NOW)
    assert known.identify(text.encode(), LATER) is not None


def test_revoking_first_does_not_bring_the_exception_back():
    known, _ = made()
    known, second = known.issue("ann", ["approver"], ADMIN, NOW)
    known = known.revoke(second.split("_")[1], NOW)
    known, third = known.issue("sock", ["approver"], ADMIN, NOW)
    assert known.identify(third.encode(), LATER) is None


# --- in the registry


def test_files_are_the_owners_alone(tmp_path):
    bank = governed(tmp_path)
    files = [bank.path / "principals.json", *(bank.path / "principals").iterdir()]
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert all(bank.texts["root"].rpartition("_")[2] not in path.read_text() for path in files)
    assert all(bank.texts["root"].rpartition("_")[2].encode() not in record.line()
               for record in bank.governance.books.audit.records)  # fmt: skip


def test_a_revoked_key_dies_at_the_next_look(tmp_path):
    bank = governed(tmp_path)
    ring = Ring(str(tmp_path / "registry"), bank.clock)
    assert ring.refresh() and not ring.refresh()
    text, counts = bank.keys.issue(bank.root, "gateway", ["app"])
    assert counts and ring.identify(text.encode()) is None
    assert ring.refresh() and ring.identify(text.encode()) is not None
    bank.keys.revoke(bank.root, text.split("_")[1], reason="lost")
    ring.refresh()
    assert ring.identify(text.encode()) is None


def test_only_admins_manage_keys_and_everybody_their_own(tmp_path):
    bank = governed(tmp_path)
    for who in (bank.ann, bank.alice, person("x", "engineer"), person("gw", "app")):
        with pytest.raises(Problem) as refused:
            bank.keys.issue(who, "new", ["approver"])
        assert refused.value.code == "forbidden"
    text, counts = bank.keys.issue(bank.ann, "ann", ())
    assert counts and bank.keys.identify(text.encode()) is not None
    with pytest.raises(Problem):
        bank.keys.revoke(bank.ann, bank.texts["root"].split("_")[1])
    bank.keys.revoke(bank.ann, bank.texts["ann"].split("_")[1])
    assert bank.keys.identify(bank.texts["ann"].encode()) is None
    with pytest.raises(Problem) as refused:
        bank.keys.issue(bank.alice, "alice", ["operator:head"])  # nobody of that name has a key yet
    assert refused.value.code == "forbidden"


def test_a_list_changed_or_removed_behind_the_log_opens_nothing(tmp_path):
    bank = governed(tmp_path)
    name = bank.governance.state.principals
    path = bank.path / "principals" / f"{name}.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"approver", b"adminxxx"))
    with pytest.raises(Problem, match="was changed"):
        bank.keys.identify(bank.texts["root"].encode())
    path.unlink()
    with pytest.raises(Problem, match="is missing"):
        bank.keys.current()
    path.write_bytes(whole)
    (bank.path / "principals.json").write_bytes(b"{}")  # the copy alone: made good
    assert bank.keys.current().people.keys() == {"root", "ann"}
    assert (bank.path / "principals.json").read_bytes() == whole


def test_a_ring_that_cannot_read_lets_nobody_new_in(tmp_path):
    bank = governed(tmp_path)
    ring = GovernedRing(str(tmp_path / "registry"), bank.keys, bank.clock)
    access = Access(Settings(), ring)
    assert ring  # nothing is known yet, so it is taken that there are principals
    assert access.identify("/v1/plan", None, None) == ANYBODY
    ring.refresh()
    (bank.path / "principals" / f"{bank.governance.state.principals}.json").unlink()
    assert not ring.refresh()
    assert access.identify("/v1/plan", None, bank.texts["root"].encode()).principal == "root"


# --- who is calling


def access(tmp_path, *, principals: bool, **settings) -> tuple[Access, str]:
    bank = governed(tmp_path, principals=principals)
    ring = Ring(str(tmp_path / "registry"), bank.clock)
    ring.refresh()
    return Access(Settings(**settings), ring), bank.texts.get("root", "")


def test_on_a_bare_laptop_whoever_calls_may_do_everything_as_one_person(tmp_path):
    door, _ = access(tmp_path, principals=False)
    who = door.identify("/v1/kill", None, None)
    assert who.has("admin") and who.principal == "local"
    assert door.identify("/v1/kill", b"Bearer whatever", None).principal == "local"


def test_beyond_loopback_the_app_key_is_the_apps(tmp_path):
    door, _ = access(tmp_path, principals=False, host="0.0.0.0", app_key="k" * 16)
    assert door.identify("/v1/recommend", None, b"k" * 16) == APP and not APP.has("admin")
    with pytest.raises(Problem):
        door.identify("/v1/recommend", None, None)


def test_with_principals_keys_decide(tmp_path):
    door, root = access(tmp_path, principals=True, app_key="k" * 16)
    assert door.identify("/v1/kill", f"Bearer {root}".encode(), None).principal == "root"
    assert door.identify("/v1/recommend", None, b"k" * 16) == APP
    assert not door.identify("/livez", None, None).scopes
    for authorization, api_key in ((None, None), (b"Bearer x", None), (None, root.encode()[:-1])):
        with pytest.raises(Problem) as refused:
            door.identify("/v1/kill", authorization, api_key)
        assert refused.value.code == "unauthorized"


def test_a_wrong_key_is_refused_where_no_key_would_do(tmp_path):
    door, _ = access(tmp_path, principals=True)
    assert door.identify("/v1/recommend", None, None) == ANYBODY
    with pytest.raises(Problem):
        door.identify("/v1/recommend", None, b"fl_000000000000_" + b"A" * 43)
