"""Who may call: one app key, and no address beyond loopback without it; and the secrets that sign page
tokens.
"""

from __future__ import annotations

import json
import os
import secrets
from hmac import compare_digest
from pathlib import Path
from typing import Final

from serving.errors import Problem
from serving.settings import Settings, SettingsError, TokenKey

OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/openapi.json"})
_BEARER: Final = b"bearer "
_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="fenliu"'),)


class AppKey:
    """Checks `Authorization: Bearer KEY` or `X-Api-Key: KEY` in constant time. Without a key everyone may
    call.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key.encode() if key else None

    def check(self, path: str, authorization: bytes | None, api_key: bytes | None) -> None:
        """Raises Problem `unauthorized`; probes and the contract are open."""
        if self._key is None or path in OPEN_PATHS:
            return
        given = api_key
        if authorization is not None and authorization[: len(_BEARER)].lower() == _BEARER:
            given = authorization[len(_BEARER) :].strip()
        if given is None:
            raise Problem("unauthorized", "send the app key as Authorization: Bearer KEY", headers=_CHALLENGE)
        if not compare_digest(given, self._key):
            raise Problem("unauthorized", "this is not the app key of this service", headers=_CHALLENGE)


def check_binding(settings: Settings) -> None:
    """Refuses to listen where others can reach us without an app key. Raises SettingsError."""
    if not settings.loopback and settings.app_key is None:
        raise SettingsError(
            f"FENLIU_HOST={settings.host} can be reached from other machines: set FENLIU_APP_KEY to a secret"
            " of 16 or more characters, or leave FENLIU_HOST at 127.0.0.1"
        )


def token_keys(settings: Settings) -> tuple[TokenKey, ...]:
    """The keys that sign page tokens: from the environment; on loopback else made once and kept in `home`.

    Raises SettingsError: beyond loopback several machines must share them, so they must be given.
    """
    if settings.token_keys:
        return settings.token_keys
    if not settings.loopback:
        raise SettingsError(
            "FENLIU_TOKEN_KEYS is needed beyond loopback, since all replicas must share it; make one with:"
            " python -c 'import secrets; print(\"k1:\" + secrets.token_hex(32))'"
        )
    return (_kept(settings.home / "secrets.json"),)


def _kept(path: Path) -> TokenKey:
    """The key kept in a file that only its owner may read; two processes that start at once agree on one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump({"token_keys": {"k1": secrets.token_hex(32)}}, out)
    try:
        os.link(draft, path)  # fails when the file is there: whoever was first has written it whole
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    try:
        ((key_id, secret),) = json.loads(path.read_text())["token_keys"].items()
        return str(key_id), bytes.fromhex(secret)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SettingsError(
            f"{path} is damaged: delete it (page tokens signed with it become void)"
        ) from None
