"""The stores' users may do all that the product does in their role, and nothing that destroys or administers.

The contract suites of each role run as the very user whose rules k8s/stores/ROLE/users.acl gives.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from features.embedded import EmbeddedValkey
from features.redis_address import Refused
from features.redis_plain import opened
from tests.contract.test_control import ServerControlContract
from tests.contract.test_event_log import RedisLogContract
from tests.contract.test_feature_store import ServerStoreContract
from tests.contract.test_ledger import ServerLedgerContract
from tests.contract.test_ledger_caps import CapsContract
from tests.contract.test_live_store import ServerLiveContract
from tests.contract.test_rates import ServerRatesContract
from tests.k8s.manifests import K8S
from tests.ledgers import OnServer

pytestmark = pytest.mark.integration
PASSWORD = "correct-horse"
ROLES = ("features", "live", "log", "control", "all")
DESTROYS = (
    ["FLUSHALL"], ["FLUSHDB"], ["KEYS", "*"], ["CONFIG", "SET", "appendonly", "no"], ["CONFIG", "GET", "*"],
    ["SHUTDOWN", "NOSAVE"], ["ACL", "LIST"], ["MONITOR"], ["SWAPDB", "0", "1"],
    ["BGREWRITEAOF"], ["REPLICAOF", "NO", "ONE"], ["CLIENT", "KILL", "TYPE", "normal"], ["SCRIPT", "FLUSH"],
)  # fmt: skip
As = Callable[[str], str]


def users(role: str) -> dict[str, list[str]]:
    """Rules by user, the password filled in as the init container does."""
    text = (K8S / "stores" / role / "users.acl").read_text()
    text = text.replace("@PASSWORD_SHA256@", sha256(PASSWORD.encode()).hexdigest())
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


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("command", DESTROYS, ids=lambda words: " ".join(words[:2]))
def test_nothing_is_destroyed_or_administered(role: str, command: list[str], as_role: As) -> None:
    url = as_role(role)
    with opened(url) as store:
        assert store.ping()
    with pytest.raises(Refused, match="NOPERM"), opened(url) as store:
        store.execute_command(*command)


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
