"""Settings: read whole or refused, with the variable and the remedy named, and no secret in any text."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.settings import Settings, SettingsError, is_loopback

KEY = "k" * 20
HEX = "ab" * 32


def test_nothing_set_is_a_laptop() -> None:
    settings = Settings.from_env({})
    assert settings.host == "127.0.0.1" and settings.loopback and settings.app_key is None
    assert settings.registry_url == str(Path(".fenliu") / "registry")
    assert set(settings.store_urls.values()) == {None}


def test_redis_url_serves_every_role_but_those_with_their_own() -> None:
    settings = Settings.from_env({"REDIS_URL": "redis://a:1/0", "FENLIU_LOG_URL": "redis://b:2/0"})
    assert settings.store_urls == {
        "features": "redis://a:1/0",
        "live": "redis://a:1/0",
        "log": "redis://b:2/0",
        "control": "redis://a:1/0",
    }


def test_the_embedded_store_fills_only_roles_without_a_url() -> None:
    settings = Settings.from_env({"FENLIU_LIVE_URL": "redis://a:1/0"}).with_store("unix:///tmp/x.sock")
    assert settings.live_url == "redis://a:1/0"
    assert settings.log_url == settings.control_url == settings.features_url == "unix:///tmp/x.sock"


def test_values_are_converted_and_overrides_win() -> None:
    env = {
        "FENLIU_HOME": "/data/f",
        "FENLIU_PORT": "9000",
        "FENLIU_READ_TIMEOUT_S": "0.02",
        "FENLIU_TOKEN_KEYS": f"k2:{HEX},k1:{HEX}",
        "FENLIU_PLAN": "plan.yaml",
    }
    settings = Settings.from_env(env, port=9100, host=None)
    assert settings.port == 9100 and settings.home == Path("/data/f") and settings.plan == Path("plan.yaml")
    assert settings.read_timeout_s == 0.02
    assert [name for name, _ in settings.token_keys] == ["k2", "k1"]
    assert settings.token_keys[0][1] == bytes.fromhex(HEX)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"FENLIU_PORT": "http"}, "FENLIU_PORT"),
        ({"FENLIU_PORT": "0"}, "FENLIU_PORT"),
        ({"FENLIU_PORT": "70000"}, "FENLIU_PORT"),
        ({"FENLIU_READ_TIMEOUT_S": "fast"}, "FENLIU_READ_TIMEOUT_S"),
        ({"FENLIU_READ_TIMEOUT_S": "nan"}, "FENLIU_READ_TIMEOUT_S"),
        ({"FENLIU_READ_TIMEOUT_S": "-1"}, "FENLIU_READ_TIMEOUT_S"),
        ({"FENLIU_DEADLINE_MS": "1"}, "FENLIU_DEADLINE_MS"),
        ({"FENLIU_POLL_S": "60"}, "FENLIU_POLL_S"),
        ({"FENLIU_MAX_IN_FLIGHT": "0"}, "FENLIU_MAX_IN_FLIGHT"),
        ({"FENLIU_REPLICAS": "two"}, "FENLIU_REPLICAS"),
        ({"FENLIU_APP_KEY": "short"}, "FENLIU_APP_KEY"),
        ({"FENLIU_APP_KEY": "with space " + KEY}, "FENLIU_APP_KEY"),
        ({"FENLIU_TOKEN_KEYS": "k1"}, "FENLIU_TOKEN_KEYS"),
        ({"FENLIU_TOKEN_KEYS": "k1:zz"}, "FENLIU_TOKEN_KEYS"),
        ({"FENLIU_TOKEN_KEYS": "k1:abcd"}, "FENLIU_TOKEN_KEYS"),
        ({"FENLIU_TOKEN_KEYS": f"toolongid:{HEX}"}, "FENLIU_TOKEN_KEYS"),
        ({"FENLIU_TOKEN_KEYS": f"k1:{HEX},k1:{HEX}"}, "FENLIU_TOKEN_KEYS"),
        ({"FENLIU_TOKEN_KEYS": f"a:{HEX},b:{HEX},c:{HEX}"}, "FENLIU_TOKEN_KEYS"),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL"),
        ({"FENLIU_LOG_URL": "http://x"}, "FENLIU_LOG_URL"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(env: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Settings.from_env(env)


def test_no_secret_in_repr_or_messages() -> None:
    settings = Settings.from_env({"FENLIU_APP_KEY": KEY, "FENLIU_TOKEN_KEYS": f"k1:{HEX}"})
    assert KEY not in repr(settings) and HEX not in repr(settings) and "xab" not in repr(settings)
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"FENLIU_APP_KEY": "hush hush"})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
