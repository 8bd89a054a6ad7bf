"""Who may call: the app's key, principals' keys, and no address beyond loopback without one; and the secrets
that sign page tokens.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from serving.errors import Problem
from serving.principals import Identity, Scope, local_identity
from serving.settings import Settings, SettingsError, TokenKey

if TYPE_CHECKING:
    from serving.oidc import Tokens

OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/openapi.json"})
_BEARER: Final = b"bearer "
JWT: Final = b"eyJ"  # how every signed token begins, and no key of ours: {" in base64url
_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="fenliu"'),)


class AppKey:
    """Checks `Authorization: Bearer KEY` or `X-Api-Key: KEY` in constant time. Without a key everyone may
    call. `before`: the former key, taken too while it is rotated.
    """

    def __init__(self, key: str | None, before: str | None = None) -> None:
        self._key = key.encode() if key else None
        self._before = before.encode() if before else self._key

    def check(self, path: str, authorization: bytes | None, api_key: bytes | None) -> None:
        """Raises Problem `unauthorized`; probes and the contract are open."""
        if self._key is None or self._before is None or path in OPEN_PATHS:
            return
        given = token_of(authorization, api_key)
        if given is None:
            raise Problem("unauthorized", "send the app key as Authorization: Bearer KEY", headers=_CHALLENGE)
        if not (compare_digest(given, self._key) | compare_digest(given, self._before)):  # both, always
            raise Problem("unauthorized", "this is not the app key of this service", headers=_CHALLENGE)


def token_of(authorization: bytes | None, api_key: bytes | None) -> bytes | None:
    """What was sent as a key: a bearer token goes before X-Api-Key."""
    if authorization is not None and authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    return api_key


class Keyring(Protocol):
    """`serving.keys.Ring`: the principals as they are now."""

    def identify(self, token: bytes) -> Identity | None: ...
    def __bool__(self) -> bool: ...


NOBODY: Final = Identity("nobody", frozenset())  # of the probes: they say who they are to no one
APP: Final = Identity("app", frozenset({Scope("app")}), "FENLIU_APP_KEY")
ANYBODY: Final = Identity("anybody", frozenset({Scope("app")}))  # on this machine, where no app key is set


class Access:
    """Who is calling. Constant time over the secrets; what they may do is the handlers' question.

    An identity provider's tokens (FENLIU_OIDC_*) are taken beside keys; see `serving.oidc`.

    Without principals whoever gets in on loopback may do everything, as one person; beyond loopback the app
    key asks for pages and nothing else. With principals, keys decide; FENLIU_APP_KEY remains the app's.
    """

    def __init__(self, settings: Settings, ring: Keyring) -> None:
        self._app = AppKey(settings.app_key, settings.app_key_before)
        self._settings, self._ring = settings, ring
        self._alone = local_identity() if settings.loopback else APP
        self._tokens = tokens_of(settings)

    def identify(self, path: str, authorization: bytes | None, api_key: bytes | None) -> Identity:
        """Raises Problem `unauthorized`; probes and the contract are open."""
        if path in OPEN_PATHS:
            return NOBODY
        tokens = self._tokens
        if tokens is None and not self._ring:
            self._app.check(path, authorization, api_key)
            return self._alone
        token = token_of(authorization, api_key)
        if tokens is not None and token is not None and token.startswith(JWT):
            return tokens.identify(token)
        if token is not None and (known := self._ring.identify(token)) is not None:
            return known
        if token is None and self._settings.loopback and self._settings.app_key is None:
            return ANYBODY
        if self._settings.app_key is None:
            raise Problem("unauthorized", "this key is not known, or no longer valid", headers=_CHALLENGE)
        self._app.check(path, authorization, api_key)
        return APP

    @property
    def governed(self) -> bool:
        """Whether somebody says who people are: keys were made, or an identity provider is named."""
        return self._tokens is not None or bool(self._ring)

    def refresh(self) -> None:
        """Look after the identity provider's keys: each second or so, from a thread. Raises nothing."""
        if self._tokens is not None:
            self._tokens.keys.refresh()


def tokens_of(settings: Settings) -> Tokens | None:
    """What checks an identity provider's tokens; None where none is named, and nothing is imported."""
    if settings.oidc is None:
        return None
    from serving.jwks import Jwks
    from serving.oidc import Tokens

    return Tokens(settings.oidc, Jwks(settings.oidc))


def needs(who: Identity, *roles: str) -> None:
    """Raises Problem `forbidden` unless somebody has one of the roles."""
    if not who.has(*roles):
        held = ", ".join(sorted(scope.text for scope in who.scopes)) or "no scope"
        raise Problem(
            "forbidden", f"{who.principal} may not do this: it needs {' or '.join(roles)}, and has {held}"
        )


def check_creative_state(who: Identity, approvals: str, state: object) -> None:
    """Creatives go live by an approved proposal only, where approvals are required. Raises Problem.

    For what writes creatives past governance (`PUT /v1/creatives/{id}`, the creatives inside an item): what
    is not shown yet or no more may always be written; `state` None means live.
    """
    if approvals == "required" and state not in ("draft", "reviewed", "withdrawn"):
        raise Problem(
            "not_approved",
            f"{who.principal} may write drafts here; to make a creative live, propose it as creative:ID"
            " (POST /v1/plan:propose) and have it approved",
        )


def check_binding(settings: Settings) -> None:
    """Refuses to listen where others can reach us without an app key or tokens. Raises SettingsError."""
    if not settings.loopback and settings.app_key is None and settings.oidc is None:
        raise SettingsError(
            f"FENLIU_HOST={settings.host} can be reached from other machines: set FENLIU_APP_KEY to a secret"
            " of 16 or more characters, or FENLIU_OIDC_* to an identity provider, or leave FENLIU_HOST at"
            " 127.0.0.1"
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


def pseudonym(keys: Sequence[TokenKey], subject: str) -> str:
    """How a trace names a customer (12 hex digits): one customer by one name, and nobody tells who it is, or
    whether it is a certain one, without the newest of the secrets that sign page tokens. Another name after
    that was rotated; none that can be told again once it is forgotten.
    """
    _, secret = keys[0]
    key = blake2b(b"pseudonym of a customer", key=secret, person=b"fenliu-derive", digest_size=32).digest()
    return blake2b(subject.encode(), key=key, digest_size=6).hexdigest()


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
