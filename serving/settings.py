"""What an operator may set, read once from the environment: nothing else is configured anywhere.

Every refusal names the variable and says what to set. Secrets never appear in a message or in `repr`.
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from features.rates import RateTerms
from serving.oidc_terms import OidcTerms, oidc_terms
from serving.rate_terms import rate_terms
from serving.setting_values import SettingsError as SettingsError
from serving.trace_terms import TraceTerms, trace_terms

ROLES: Final = ("features", "live", "log", "control")
PARTS: Final = ("all", "pages", "admin")
MEMORY_LEVEL: Final = "memory"
SYNCED_LEVEL: Final = "stream+fsync"
LEVELS: Final = (MEMORY_LEVEL, "stream", SYNCED_LEVEL)
MIN_APP_KEY_CHARS: Final = 16
TokenKey = tuple[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One value for the whole process. Times in seconds unless the name says ms. URLs may hold passwords."""

    home: Path = Path(".fenliu")
    features_url: str | None = field(default=None, repr=False)  # None: the embedded store
    live_url: str | None = field(default=None, repr=False)
    log_url: str | None = field(default=None, repr=False)
    control_url: str | None = field(default=None, repr=False)
    registry: str = field(default="", repr=False)  # an fsspec URL or a folder; "" means home/registry
    plan: Path | None = None  # a plan file that wins over the registry's pointer
    keeper_password: str | None = field(default=None, repr=False)  # of the stores' user `keeper`: erasure
    app_key: str | None = field(default=None, repr=False)
    app_key_before: str | None = field(default=None, repr=False)  # still taken, until everybody has the next
    token_keys: tuple[TokenKey, ...] = field(default=(), repr=False)
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    read_timeout_s: float = 0.015
    write_timeout_s: float = 0.25
    deadline_ms: int = 80
    poll_s: float = 0.5
    max_in_flight: int = 100
    served_queue: int = 20_000
    durability: str = "stream"  # what an acknowledged event has reached: one of LEVELS
    spool: Path | None = None  # where events wait while the log is away; None means home/spool
    spool_mb: int = 256  # MiB that they may take, of each replica; 0: none, events get 503 then
    approvals: bool | None = None  # whether a second person must approve, while there are no principals
    role: str = "all"  # what this application answers: one of PARTS
    metrics_ports: range = range(0)  # /metrics also answers on the first free one of them, without a key
    oidc: OidcTerms | None = None  # whose tokens are taken beside keys
    traces: TraceTerms | None = None  # where traces go; None: nothing is recorded
    rates: Mapping[str, RateTerms] = field(default_factory=dict)  # by principal; `*`: everybody else

    def __post_init__(self) -> None:
        _check(self)

    @property
    def registry_url(self) -> str:
        return self.registry or str(self.home / "registry")

    @property
    def bundles(self) -> Path:
        """Where bundles fetched from the registry are kept on this machine."""
        return self.home / "bundles"

    @property
    def spool_folder(self) -> Path:
        return self.spool or self.home / "spool"

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def must_approve(self) -> bool | None:
        """`approvals`; always where an identity provider says who somebody is: there are people then."""
        return True if self.oidc is not None else self.approvals

    @property
    def store_urls(self) -> dict[str, str | None]:
        """URL by role; None where the embedded store is meant."""
        return {role: getattr(self, f"{role}_url") for role in ROLES}

    def with_store(self, url: str) -> Settings:
        """The same with every role that has no URL of its own at `url` (the embedded store, once started)."""
        urls: dict[str, Any] = {f"{role}_url": known or url for role, known in self.store_urls.items()}
        return replace(self, **urls)

    def as_env(self) -> dict[str, str]:
        """The variables by which a command started from here finds the same stores, registry and keys."""
        found = {"FENLIU_HOME": str(self.home), "FENLIU_REGISTRY": self.registry_url}
        found |= {f"FENLIU_{role.upper()}_URL": url for role, url in self.store_urls.items() if url}
        return found if self.approvals is None else {**found, "FENLIU_APPROVALS": str(int(self.approvals))}

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """From `FENLIU_*` and `REDIS_URL`; keyword arguments that are not None win. Raises SettingsError."""
        found = _read(os.environ if env is None else env)
        found.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**found)


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(env: Mapping[str, str]) -> dict[str, Any]:
    given = {name: value.strip() for name, value in env.items() if value.strip()}
    found: dict[str, Any] = {}
    default = given.get("REDIS_URL")
    for role in ROLES:
        name = f"FENLIU_{role.upper()}_URL"
        if url := given.get(name, default):
            found[f"{role}_url"] = _store_url(name if name in given else "REDIS_URL", url)
    for field_name, (variable, convert) in _VARIABLES.items():
        if variable in given:
            found[field_name] = convert(variable, given[variable])
    found["oidc"], found["rates"], found["traces"] = oidc_terms(given), rate_terms(given), trace_terms(given)
    return found


def _store_url(name: str, url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://", "memory://")):
        raise SettingsError(
            f"{name} must be a store's URL, such as redis://127.0.0.1:6379/0 or unix:///run/v.sock"
        )
    return url


def _path(_name: str, text: str) -> Path:
    return Path(text)


def _text(_name: str, text: str) -> str:
    return text


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{name} must be a whole number, not {text[:40]!r}") from None


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{name} must be a number, not {text[:40]!r}") from None


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise SettingsError(f"{name} must be 0 or 1, not {text[:40]!r}")
    return text == "1"


def _ports(name: str, text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdecimal() or not last.isdecimal() or not 1024 <= int(first) <= int(last) <= 65_535:
        raise SettingsError(f"{name} must be FIRST-LAST, ports from 1024 to 65535, not {text[:40]!r}")
    return range(int(first), int(last) + 1)


def _token_keys(name: str, text: str) -> tuple[TokenKey, ...]:
    keys = []
    for part in text.split(","):
        key_id, colon, secret = part.strip().partition(":")
        try:
            value = bytes.fromhex(secret)
        except ValueError:
            value = b""
        if not colon or not 1 <= len(key_id) <= 8 or not key_id.isascii() or not 16 <= len(value) <= 64:
            raise SettingsError(
                f"{name} must be one or two of ID:HEX joined by a comma, the ID of 1 to 8 characters, HEX of"
                " 32 to 128 digits; make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
            )
        keys.append((key_id, value))
    return tuple(keys)


_VARIABLES: Final = {
    "home": ("FENLIU_HOME", _path),
    "registry": ("FENLIU_REGISTRY", _text),
    "plan": ("FENLIU_PLAN", _path),
    "keeper_password": ("FENLIU_KEEPER_PASSWORD", _text),
    "app_key": ("FENLIU_APP_KEY", _text),
    "app_key_before": ("FENLIU_APP_KEY_BEFORE", _text),
    "token_keys": ("FENLIU_TOKEN_KEYS", _token_keys),
    "host": ("FENLIU_HOST", _text),
    "port": ("FENLIU_PORT", _whole),
    "replicas": ("FENLIU_REPLICAS", _whole),
    "read_timeout_s": ("FENLIU_READ_TIMEOUT_S", _number),
    "write_timeout_s": ("FENLIU_WRITE_TIMEOUT_S", _number),
    "deadline_ms": ("FENLIU_DEADLINE_MS", _whole),
    "poll_s": ("FENLIU_POLL_S", _number),
    "max_in_flight": ("FENLIU_MAX_IN_FLIGHT", _whole),
    "served_queue": ("FENLIU_SERVED_QUEUE", _whole),
    "durability": ("FENLIU_DURABILITY", _text),
    "spool": ("FENLIU_SPOOL", _path),
    "spool_mb": ("FENLIU_SPOOL_MB", _whole),
    "approvals": ("FENLIU_APPROVALS", _flag),
    "role": ("FENLIU_ROLE", _text),
    "metrics_ports": ("FENLIU_METRICS_PORTS", _ports),
}

_RANGES: Final = {
    "port": (1, 65_535),
    "replicas": (1, 256),
    "read_timeout_s": (0.001, 1.0),
    "write_timeout_s": (0.01, 5.0),
    "deadline_ms": (5, 2_000),
    "poll_s": (0.05, 10.0),
    "max_in_flight": (1, 10_000),
    "served_queue": (1, 1_000_000),
    "spool_mb": (0, 65_536),
}


def _check(settings: Settings) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(settings, name)
        if not math.isfinite(value) or not low <= value <= high:
            raise SettingsError(f"{_VARIABLES[name][0]} must lie from {low} to {high}, not {value}")
    if settings.durability not in LEVELS:
        raise SettingsError(
            f"FENLIU_DURABILITY is one of {', '.join(LEVELS)}, not {settings.durability[:40]!r}"
        )
    if settings.role not in PARTS:
        raise SettingsError(f"FENLIU_ROLE is one of {', '.join(PARTS)}, not {settings.role[:40]!r}")
    for name in ("app_key", "app_key_before"):
        key = getattr(settings, name)
        if key is not None and (
            len(key) < MIN_APP_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key
        ):
            raise SettingsError(
                f"{_VARIABLES[name][0]} must have at least {MIN_APP_KEY_CHARS} printable ASCII characters"
                " without spaces"
            )
    if settings.app_key_before is not None and settings.app_key is None:
        raise SettingsError("FENLIU_APP_KEY_BEFORE is the former of two keys: set FENLIU_APP_KEY too")
    if len(settings.token_keys) > 2 or len({name for name, _ in settings.token_keys}) < len(
        settings.token_keys
    ):
        raise SettingsError(
            "FENLIU_TOKEN_KEYS holds at most two keys, with different ids: the present and the former"
        )
