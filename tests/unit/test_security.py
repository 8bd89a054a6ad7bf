"""The app key, the refusal to listen beyond loopback without one, and the secrets of page tokens."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import pytest

from serving.errors import Problem
from serving.security import AppKey, check_binding, pseudonym, token_keys
from serving.settings import Settings, SettingsError

KEY = "correct-horse-battery"


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (f"Bearer {KEY}".encode(), None),
        (f"bearer  {KEY} ".encode(), None),
        (None, KEY.encode()),
        (b"Basic abc", KEY.encode()),
    ],
)
def test_the_key_opens(authorization: bytes | None, api_key: bytes | None) -> None:
    AppKey(KEY).check("/v1/recommend", authorization, api_key)


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (None, None),
        (b"", b""),
        (b"Bearer", None),
        (b"Bearer wrong", None),
        (f"Basic {KEY}".encode(), None),
        (None, KEY.encode()[:-1]),
        (b"Bearer wrong", KEY.encode()),
        ("Bearer é".encode(), None),
    ],
)
def test_anything_else_does_not(authorization: bytes | None, api_key: bytes | None) -> None:
    with pytest.raises(Problem) as refused:
        AppKey(KEY).check("/v1/recommend", authorization, api_key)
    assert refused.value.status == 401 and refused.value.code == "unauthorized"
    assert any(name == b"www-authenticate" for name, _ in refused.value.headers)
    assert KEY not in refused.value.detail


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json"])
def test_probes_and_the_contract_are_open(path: str) -> None:
    AppKey(KEY).check(path, None, None)


def test_metrics_are_not_open() -> None:
    with pytest.raises(Problem):
        AppKey(KEY).check("/metrics", None, None)


def test_without_a_key_everybody_on_this_machine_may_call() -> None:
    AppKey(None).check("/v1/recommend", None, None)


def test_beyond_loopback_only_with_a_key() -> None:
    check_binding(Settings())
    check_binding(Settings(host="0.0.0.0", app_key=KEY))
    with pytest.raises(SettingsError, match="FENLIU_APP_KEY"):
        check_binding(Settings(host="0.0.0.0"))


def test_a_pseudonym_is_told_by_nobody_without_the_secret() -> None:
    """One customer has one name, until the secret is rotated; the source alone makes none."""
    one, other, next_one = ("k1", b"a" * 32), ("k2", b"b" * 32), ("k1", b"c" * 32)
    name = pseudonym((one,), "u:u42")
    assert name == pseudonym((one, other), "u:u42") and len(name) == 12 and int(name, 16) >= 0
    others = {pseudonym((key,), "u:u42") for key in (other, next_one)} | {pseudonym((one,), "u:u4")}
    assert len(others | {name}) == 4
    unkeyed = {blake2b(b"u:u42", digest_size=6, key=key).hexdigest() for key in (b"", b"trace", one[1])}
    assert name not in unkeyed


def test_token_keys_are_made_once_on_loopback(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with ThreadPoolExecutor(8) as several:
        found = set(several.map(lambda _: token_keys(settings), range(16)))
    assert len(found) == 1
    ((name, secret),) = found.pop()
    assert name == "k1" and len(secret) == 32
    path = tmp_path / "home" / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["secrets.json"]


def test_damaged_secrets_are_named(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(SettingsError, match=r"secrets\.json is damaged"):
        token_keys(Settings(home=tmp_path))


def test_beyond_loopback_token_keys_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FENLIU_TOKEN_KEYS"):
        token_keys(Settings(home=tmp_path, host="0.0.0.0", app_key=KEY))
    given = Settings(home=tmp_path, host="0.0.0.0", app_key=KEY, token_keys=(("k9", b"s" * 32),))
    assert token_keys(given) == (("k9", b"s" * 32),)
    assert not list(tmp_path.iterdir())
