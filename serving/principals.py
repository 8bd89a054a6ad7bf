"""Principals and their API keys: who somebody is, and what they may do.

A key is `fl_{id}_{secret}`: the id names it, the secret is 32 random bytes, shown once. At rest lies a
BLAKE2b keyed with a salt of the file's own: a fast hash is enough, because 256 random bits cannot be guessed
as a password can; the salt keeps two files from being compared. `Principals` is one immutable value; changes
make a new one, which governance records before anybody can use it.

Whoever may issue keys could make up a second person. So a key that another can use for more than the app
counts only once a second principal has confirmed it; the first two powerful principals of an installation
are excepted, as there is nobody yet to confirm them (the audit log says so).
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Final, NamedTuple

from features.ids import BadId, check_id

ROLES: Final = ("app", "core", "operator", "approver", "engineer", "admin")
HEAD_OFFICE: Final = "head"
KEYS_EACH: Final = 2  # the present and the next: enough to rotate without a gap
LOCAL: Final = "local"  # whoever sits at the machine, where no keys were ever made
SYSTEM: Final = "system"  # the service itself, which only takes away: nobody may be called so
_KEY: Final = re.compile(rb"fl_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class PrincipalError(ValueError):
    """A key or principal that cannot be as asked; says what to do."""


class Scope(NamedTuple):
    """What somebody may do, and for which org; an empty org means every org."""

    role: str
    org: str = ""

    @property
    def text(self) -> str:
        return f"{self.role}:{self.org}" if self.org else self.role


def parse_scope(text: str) -> Scope:
    """`app`, `core` (systems of the bank), `operator:ORG`, `approver`, `approver:ORG`, `engineer`, `admin`.

    Raises PrincipalError.
    """
    role, colon, org = text.strip().partition(":")
    known = "scopes are app, core, operator:ORG, approver, approver:ORG, engineer and admin"
    if role not in ROLES:
        raise PrincipalError(f"{text[:40]!r} is no scope: {known}")
    if (role == "operator" and not org) or (colon and (role not in ("operator", "approver") or not org)):
        raise PrincipalError(f"{text[:40]!r} is no scope: {known}")
    try:
        return Scope(role, check_id(org, "org") if org else "")
    except BadId as bad:
        raise PrincipalError(str(bad)) from None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking, once their key was checked."""

    principal: str
    scopes: frozenset[Scope]
    key: str = ""

    def has(self, *roles: str) -> bool:
        """Whether any scope is of one of the roles, for whatever org."""
        return any(scope.role in roles for scope in self.scopes)

    def acts_for(self, role: str, org: str) -> bool:
        """Whether they are `role` for this org, or for all of them."""
        return any(scope.role == role and scope.org in ("", org) for scope in self.scopes)

    @property
    def orgs(self) -> tuple[str, ...] | None:
        """The orgs whose plans they may read, by name; None: all."""
        if self.has("admin", "engineer") or Scope("approver") in self.scopes:
            return None
        return tuple(sorted({scope.org for scope in self.scopes if scope.org}))


THE_SYSTEM: Final = Identity(SYSTEM, frozenset())
EVERYTHING: Final = frozenset(Scope(role) for role in ROLES)


def local_identity(name: str = "") -> Identity:
    """Whoever sits at a machine without keys: may do everything, but is one person however often they call.

    `name` is what the operating system says; it proves nothing, so it never makes two of one.
    """
    return Identity(LOCAL, EVERYTHING, name)


@dataclass(frozen=True, slots=True)
class Key:
    """A key at rest. Times are RFC 3339. `confirmed_by` is empty while only its issuer stands for it."""

    id: str
    hash: str
    made: str
    issued_by: str
    confirmed_by: str = ""
    expires: str = ""
    revoked: str = ""

    def works(self, now: float) -> bool:
        return self.standing and self.confirmed_by != "" and (not self.expires or now < _posix(self.expires))

    @property
    def standing(self) -> bool:
        """Not revoked: it may still wait for its confirmation, or have expired."""
        return not self.revoked


@dataclass(frozen=True, slots=True)
class Principal:
    name: str
    scopes: tuple[str, ...]
    keys: tuple[Key, ...] = ()

    @property
    def powers(self) -> frozenset[Scope]:
        return frozenset(parse_scope(scope) for scope in self.scopes)

    @property
    def powerful(self) -> bool:
        """Whether it may do more than ask for pages."""
        return any(scope != "app" for scope in self.scopes)

    def works(self, now: float) -> bool:
        return any(key.works(now) for key in self.keys)


@dataclass(frozen=True)
class Principals:
    """Everybody there is. `salt`: hex."""

    salt: str = ""
    people: Mapping[str, Principal] = field(default_factory=dict)

    @cached_property
    def _by_key(self) -> dict[str, tuple[Principal, Key]]:
        return {key.id: (one, key) for one in self.people.values() for key in one.keys}

    def __bool__(self) -> bool:
        return bool(self.people)

    def identify(self, token: bytes, now: float) -> Identity | None:
        """Whose key this is; None when it is nobody's, has expired, is revoked or not confirmed yet."""
        parts = _KEY.fullmatch(token)
        key_id, secret = (parts[1].decode(), parts[2]) if parts else ("", b"")
        one, key = self._by_key.get(key_id, (None, None))
        kept = key.hash if key is not None else "0" * 64
        # Unknown ids are hashed and compared as well, so that the time says nothing about which ids exist.
        same = compare_digest(_hash(secret, self.salt), kept)
        if one is None or key is None or not same or not key.works(now):
            return None
        return Identity(one.name, one.powers, key.id)

    def issue(
        self, name: str, scopes: Iterable[str], by: Identity, now: str, expires: str = ""
    ) -> tuple[Principals, str]:
        """A key for a new principal, or another one for a known one; the text to be shown once.

        Raises PrincipalError: a bad name or scope, other scopes than it has, more than two keys, and the
        first principal of all not being an admin.
        """
        _check_name(name)
        wanted = tuple(sorted({parse_scope(scope).text for scope in scopes}))
        one = self.people.get(name) or Principal(name, wanted)
        if not one.scopes:
            raise PrincipalError(f"say what {name} may do: --scope operator:ORG, for instance")
        if wanted and wanted != one.scopes:
            has = ", ".join(one.scopes)
            raise PrincipalError(f"{name} has the scopes {has}: other ones need a principal of another name")
        if not self.people and "admin" not in one.scopes:
            raise PrincipalError("the first principal must be an admin: nobody else could add the next one")
        standing = [key for key in one.keys if key.standing and not _over(key, now)]
        if len(standing) >= KEYS_EACH:
            raise PrincipalError(f"{name} has {KEYS_EACH} keys already: revoke {standing[0].id} first")
        salt = self.salt or secrets.token_hex(32)
        key_id, secret = secrets.token_hex(6), base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=")
        confirmed = by.principal if self._needs_nobody(one, by) else ""
        key = Key(key_id, _hash(secret, salt), now, by.principal, confirmed, _checked_time(expires, now))
        grown = replace(one, keys=(*one.keys, key))
        return Principals(salt, {**self.people, name: grown}), f"fl_{key_id}_{secret.decode()}"

    def _needs_nobody(self, one: Principal, by: Identity) -> bool:
        """Whether a key counts at once: of the app, one's own next one, or of the first two with power."""
        if not one.powerful or by.principal == one.name:
            return True
        others = [other for other in self.people.values() if other.powerful and other.name != one.name]
        return not one.keys and len(others) < 2

    def confirm(self, key_id: str, by: Identity) -> Principals:
        """A second principal stands for a key. Raises PrincipalError, also for the one who issued it."""
        one, key = self._find(key_id)
        if key.confirmed_by:
            raise PrincipalError(f"key {key_id} of {one.name} is confirmed already, by {key.confirmed_by}")
        if key.issued_by == by.principal:
            raise PrincipalError(f"you issued key {key_id} yourself: somebody else has to confirm it")
        return self._with(one, replace(key, confirmed_by=by.principal))

    def revoke(self, key_id: str, now: str) -> Principals:
        """For ever. Raises PrincipalError when nobody could manage keys afterwards."""
        one, key = self._find(key_id)
        left = self._with(one, replace(key, revoked=now))
        if not any("admin" in p.scopes and p.works(_posix(now)) for p in left.people.values()):
            raise PrincipalError(f"{key_id} is the last admin's last key: add another admin's first")
        return left

    def owner(self, key_id: str) -> Principal:
        """Raises PrincipalError when there is no such key that stands."""
        return self._find(key_id)[0]

    def _find(self, key_id: str) -> tuple[Principal, Key]:
        found = self._by_key.get(key_id)
        if found is None or not found[1].standing:
            raise PrincipalError(f"there is no key {key_id[:40]!r} that is not revoked: see fenliu keys list")
        return found

    def _with(self, one: Principal, key: Key) -> Principals:
        keys = tuple(key if old.id == key.id else old for old in one.keys)
        return replace(self, people={**self.people, one.name: replace(one, keys=keys)})

    def document(self) -> dict[str, Any]:
        """As JSON values; `read_principals` is the way back."""
        return {"salt": self.salt, "people": {name: asdict(one) for name, one in self.people.items()}}


def read_principals(raw: bytes | str) -> Principals:
    """Raises PrincipalError when the text is not what `document` says."""
    try:
        body = json.loads(raw)
        people = {name: _principal(name, one) for name, one in body["people"].items()}
        return Principals(str(body["salt"]), people)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"the list of principals cannot be read ({str(error)[:80]})"
        raise PrincipalError(f"{problem}: restore it from a copy") from None


def _principal(name: str, raw: Mapping[str, Any]) -> Principal:
    one = Principal(raw["name"], tuple(raw["scopes"]), tuple(Key(**key) for key in raw["keys"]))
    if one.name != name or not one.powers:
        raise PrincipalError(f"principal {name[:40]!r} is not whole")
    return one


def _hash(secret: bytes, salt: str) -> str:
    return blake2b(secret, key=bytes.fromhex(salt), digest_size=32, person=b"fenliu-key").hexdigest()


def _check_name(name: str) -> None:
    try:
        check_id(name, "principal")
    except BadId as bad:
        raise PrincipalError(str(bad)) from None
    if name in (LOCAL, SYSTEM) or not re.fullmatch(r"[\w.@-]+", name):
        raise PrincipalError(
            f"{name!r} is no principal's name: letters, digits, . _ - and @, not `local` or `system`"
        )


def _checked_time(text: str, now: str) -> str:
    if not text:
        return ""
    try:
        late = _posix(text) > _posix(now)
    except ValueError:
        raise PrincipalError(f"a key expires at an RFC 3339 time, not at {text[:40]!r}") from None
    if not late:
        raise PrincipalError(f"a key cannot expire in the past ({text[:40]})")
    return text


def _over(key: Key, now: str) -> bool:
    return bool(key.expires) and _posix(key.expires) <= _posix(now)


def _posix(text: str) -> float:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time needs a zone")
    return at.timestamp()
