"""The stores' users may do all that the product does in their role, and nothing that destroys or administers.

The contract suites of each role run as the very user whose rules k8s/stores/ROLE/users.acl gives.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from features.embedded import EmbeddedValkey
from features.rates import RateTerms
from features.redis_address import Refused, as_user
from features.redis_erase import rewrite
from features.redis_plain import opened
from features.stores import Stores, StoreUrls
from serving.front import Front
from serving.redis_control import RedisControl
from serving.settings import Settings
from tests.contract.test_control import ServerControlContract
from tests.contract.test_event_log import RedisLogContract
from tests.contract.test_feature_store import ServerStoreContract
from tests.contract.test_ledger import ServerLedgerContract
from tests.contract.test_ledger_caps import CapsContract
from tests.contract.test_live_store import ServerLiveContract
from tests.contract.test_rates import ServerRatesContract
from tests.k8s.manifests import K8S, built, pods
from tests.ledgers import OnServer
from tests.shell import ids, run, running
from tests.worlds import sold, tiny_plan
from training.erasure import ANEW, KEEPER, Places, Who, erase
from training.lake import Lake

pytestmark = pytest.mark.integration
PASSWORD, KEPT = "correct-horse", "battery-staple"
ROLES = ("features", "live", "log", "control", "all")
DESTROYS = (
    ["FLUSHALL"], ["FLUSHDB"], ["KEYS", "*"], ["CONFIG", "SET", "appendonly", "no"], ["CONFIG", "GET", "*"],
    ["SHUTDOWN", "NOSAVE"], ["ACL", "LIST"], ["MONITOR"], ["SWAPDB", "0", "1"],
    ["BGREWRITEAOF"], ["REPLICAOF", "NO", "ONE"], ["CLIENT", "KILL", "TYPE", "normal"], ["SCRIPT", "FLUSH"],
)  # fmt: skip
As = Callable[[str], str]


def users(role: str) -> dict[str, list[str]]:
    """Rules by user, the passwords filled in as the init container does."""
    text = (K8S / "stores" / role / "users.acl").read_text()
    text = text.replace("@PASSWORD_SHA256@", sha256(PASSWORD.encode()).hexdigest())
    text = text.replace("@KEEPER_SHA256@", sha256(KEPT.encode()).hexdigest())
    lines = [line.split() for line in text.splitlines()]
    assert all(words[0] == "user" for words in lines)
    return {words[1]: words[2:] for words in lines}


@pytest.fixture
def as_role(valkey_server: EmbeddedValkey, valkey_url: str) -> As:
    """The URL of the empty embedded store for the user of a role."""

    def made(role: str) -> str:
        with opened(valkey_server.url) as store:
            store.execute_command("ACL", "SETUSER", f"fenliu-{role}", "reset", *users(role)["fenliu"])
        return valkey_url.replace("unix://", f"unix://fenliu-{role}:{PASSWORD}@")

    return made


@pytest.fixture
def as_keeper(valkey_server: EmbeddedValkey, valkey_url: str) -> As:
    """The URL of the same store for the keeper of a role's server."""

    def made(role: str) -> str:
        with opened(valkey_server.url) as store:
            store.execute_command("ACL", "SETUSER", KEEPER, "reset", *users(role)[KEEPER])
        return as_user(valkey_url, KEEPER, KEPT)

    return made


READS = (
    ["GET", "x"], ["SET", "x", "1"], ["SCAN", "0"], ["XLEN", "log:{0}:stream"], ["EVAL", "return 1", "0"],
    ["DBSIZE"], ["BGSAVE"], ["SAVE"], ["SELECT", "1"], ["CLIENT", "LIST"], ["ACL", "WHOAMI"],
)  # fmt: skip


@pytest.mark.parametrize("role", [*ROLES, "gcs"])
def test_the_keeper_may_have_the_file_written_anew_and_nothing_else(role: str, as_keeper: As) -> None:
    url = as_keeper(role)
    assert rewrite(url)
    with opened(url) as store:
        for command in (*(one for one in DESTROYS if one != ["BGREWRITEAOF"]), *READS):
            with pytest.raises(ResponseError, match="no permissions"):
                store.execute_command(*command)


def test_erasure_ends_with_the_keeper_and_says_so_where_there_is_none(
    as_role: As, as_keeper: As, tmp_path: Path
) -> None:
    """By the very users of the role: its own may not, the keeper may; a wrong password is as good as none."""
    url, _ = as_role("all"), as_keeper("all")
    urls = {f"{role}_url": url for role in ("features", "live", "log", "control")}
    for password, anew in ((None, 0), ("wrong", 0), (KEPT, 1)):
        settings = Settings(home=tmp_path, keeper_password=password, **urls)
        done = erase(Places(settings, Lake(tmp_path / "lake")), Who(("u1",)))
        assert [one.many for one in done if one.what == ANEW] == [anew], password


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("command", DESTROYS, ids=lambda words: " ".join(words[:2]))
def test_nothing_is_destroyed_or_administered(role: str, command: list[str], as_role: As) -> None:
    url = as_role(role)
    with opened(url) as store:
        assert store.ping()
    with pytest.raises(Refused, match="NOPERM"), opened(url) as store:
        store.execute_command(*command)


def test_the_init_container_fills_in_the_hashes_of_both_passwords(tmp_path: Path) -> None:
    """Its script itself, as it stands in the manifest, on folders of ours."""
    (pod,) = [one for one in pods(built("prod")) if one.labels.get("fenliu/role") == "live"]
    *shell, script = pod.spec["initContainers"][0]["command"]
    for folder in ("/etc/valkey", "/run/valkey"):
        script = script.replace(folder, str(tmp_path / folder[1:4]))
        (tmp_path / folder[1:4]).mkdir()
    (tmp_path / "etc/users.acl").write_text((K8S / "stores/live/users.acl").read_text())
    passwords = {"PASSWORD": PASSWORD, "KEEPER": KEPT, "PATH": os.environ["PATH"]}
    subprocess.run([*shell, script], env=passwords, check=True, timeout=20)
    lines = [line.split() for line in (tmp_path / "run/users.acl").read_text().splitlines()]
    assert {words[1]: words[2:] for words in lines} == users("live")


def test_who_gives_no_password_gets_nothing(tmp_path: Path) -> None:
    """A server by the very file: nobody but the named users, and the probe's may only ping."""
    with EmbeddedValkey(tmp_path / "s") as server:
        with opened(server.url) as store:
            for name, rules in sorted(users("live").items(), key=lambda one: one[0] == "default"):
                store.execute_command("ACL", "SETUSER", name, "reset", *rules)
        with pytest.raises(Refused), opened(server.url) as store:
            store.get("x")
        probe = server.url.replace("unix://", "unix://probe:-@")
        with opened(probe) as store:
            assert store.ping()
        with pytest.raises(Refused), opened(probe) as store:
            store.get("x")


# Tests that administer the server themselves (KEYS, FLUSHALL, SCRIPT FLUSH, CONFIG SET) are left out by name.


class AsLive(OnServer):
    @pytest.fixture(autouse=True)
    def _url(self, as_role: As) -> None:
        self.url = as_role("live")


class TestLedgerAsLive(AsLive, ServerLedgerContract):
    test_everything_dies_by_itself = None


class TestCapsAsLive(AsLive, CapsContract): ...


class TestRatesAsLive(ServerRatesContract):
    @pytest.fixture(autouse=True)
    def _url(self, as_role: As) -> None:
        self.url = as_role("live")


class TestLiveAsLive(ServerLiveContract):
    test_forgetting_leaves_nothing_of_the_subject = None
    test_scripts_survive_a_store_that_forgot_them = None

    @pytest.fixture(autouse=True)
    def _url(self, as_role: As) -> None:
        self.url = as_role("live")


class TestStoreAsFeatures(ServerStoreContract):
    @pytest.fixture(autouse=True)
    def _url(self, as_role: As) -> None:
        self.url = as_role("features")


class TestControlAsControl(ServerControlContract):
    test_an_emptied_store_does_not_go_back_in_fences = None

    @pytest.fixture(autouse=True)
    def _url(self, as_role: As) -> None:
        self.url = as_role("control")


class TestLogAsLog(RedisLogContract):
    test_a_mark_runs_out = None
    test_a_mark_lives_for_two_days = None
    test_the_name_stays_until_the_store_is_wiped = None
    test_a_server_that_forgot_the_script_is_told_again = None
    test_a_server_without_memory_is_a_full_log = None

    @pytest.fixture
    def url(self, as_role: As) -> str:
        return as_role("log")


# --- and nothing that nobody uses

GREETING = {
    *("auth", "hello", "ping", "select", "client|setinfo", "client|setname", "client|no-evict"),
    *("client|info", "info", "time", "command|info"),
}  # of a connection, of the doctor, and of redis-py itself
SOURCES = {
    "features": (
        *("features/redis_store.py", "features/bulk.py", "features/redis_erase.py"),
        *("training/scores.py", "training/memberships.py"),
    ),
    "live": (
        *("features/redis_live.py", "features/redis_ledger.py", "features/redis_meters.py"),
        *("features/redis_rates.py", "features/redis_fill.py", "features/rebuild.py"),
        *("features/redis_erase.py", "features/redis_store.py", "features/redis_resp.py"),
    ),
    "log": ("features/redis_log.py", "features/redis_erase.py", "features/redis_resp.py"),
    "control": ("serving/redis_control.py", "features/redis_resp.py"),
}
SOURCES["all"] = tuple({path for paths in SOURCES.values() for path in paths})
CALLED = {"del": ("delete",), "scan": ("scan_iter",)}  # by redis-py under another name


def used(role: str) -> set[str]:
    """Commands that the modules of a role send: in scripts, on the link, or by redis-py."""
    text = "".join((K8S.parent / path).read_text() for path in SOURCES[role])
    found = set(re.findall(r"redis\.call\('(\w+)'|b\"([A-Z]{3,})\"|\.([a-z_]+)\(", text))
    words = {word.lower() for three in found for word in three if word}
    return words | {name for name, others in CALLED.items() if words & {*others}}


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_allowed_that_the_role_does_not_use(role: str) -> None:
    allowed = {word[1:] for word in users(role)["fenliu"] if word.startswith("+")}
    assert allowed - GREETING - used(role) == set()


def test_a_service_under_these_rules_is_refused_nothing(valkey_server: EmbeddedValkey, as_role: As) -> None:
    """A page with a cap and a quota, events, an outcome, a change, a plan published, a kill; by role."""
    urls = StoreUrls(**{role: as_role(role) for role in ("features", "live", "log", "control")})

    async def story() -> None:
        stores = Stores.open(urls, connect_s=2.0)
        assert stores.control_link is not None
        control = RedisControl(stores.control_link)
        caps, quotas = [{"most": 1, "window": "1d"}], [{"id": "q", "at_most": 50}]
        capped = sold(1, "i2", exclusive=True, values={"click": 100.0}, caps=caps, quotas=quotas)
        parts = {"stores": stores, "control": control, "clock": time.time}
        options = {"rates": {"*": RateTerms(1000.0, 1000)}, "write_timeout_s": 2.0, "read_timeout_s": 1.0}
        try:
            plan = tiny_plan(campaigns=[capped])
            async with running(app=Front, plan=plan, settings=options, **parts) as shell:
                shell.clock.now = time.time()
                await shell.service.granting.renew()
                page = await shell.page(request_id="r-1")
                assert "i2" in ids(page)  # so that the cap was reserved, and a unit of the quota leased
                assert await shell.page(request_id="r-1") == page and "store" not in page["degraded"]
                seen = shell.event("displayed", "e1", page_token=page["page_token"], seen=[0, 1])
                clicked = shell.event("clicked", "e2", page_token=page["page_token"], index=0)
                acted = shell.event("acted", "e3", user_id="u1", action="viewed", item_id="i1")
                told = await shell.post("/v1/events", {"events": [seen, clicked, acted]})
                assert told.json()["accepted"] == 3, told.text
                complaint = {
                    "outcome_id": "o1", "user_id": "u1", "kind": "complaint", "item_id": "i1",
                    "occurred_at": shell.clock.rfc3339(), "recorded_at": shell.clock.rfc3339(),
                }  # fmt: skip
                assert (await shell.post("/v1/outcomes", complaint)).status_code == 202
                assert (await shell.put("/v1/users/u1", {"profile": {"age": 30}})).status_code == 200
                assert (await shell.send("DELETE", "/v1/items/i9", b"")).status_code == 200
                frame = json.loads(plan.model_dump_json(by_alias=True))
                ask = {"part": "frame", "content": frame, "reason": "r"}
                made = (await shell.post("/v1/plan:propose", ask)).json()
                turn = {"proposal": made["id"], "alone": True}
                assert (await shell.post("/v1/plan:publish", turn)).status_code == 200
                kill = {"scope": "item", "id": "i3", "reason": "r"}
                assert (await shell.post("/v1/kill", kill)).status_code == 200
                await shell.service.publisher.flush()
                await shell.service.granting.renew()
        finally:
            await stores.close()

    with opened(valkey_server.url) as store:
        store.execute_command("ACL", "LOG", "RESET")
        run(story)
        assert store.execute_command("ACL", "LOG") == []
