"""Tokens of an identity provider (JWT, RFC 7519) checked, and turned into who is asking.

A token counts when its signature holds by a key of the provider and an algorithm that is allowed, and its
issuer, audience and times are right. What it may do stands in one claim, as `fenliu:SCOPE` words
(`fenliu:app`, `fenliu:operator:bj`); words without that prefix are other systems' and mean nothing here.

A gateway sends the same token with many pages, so a good one is remembered (by its digest) until it expires
or the keys change: the check is paid once a token, not once a page.
"""

from __future__ import annotations

import math
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import jwt

from serving.errors import Header, Problem
from serving.jwks import Jwks
from serving.oidc_terms import PREFIX, OidcTerms
from serving.principals import Identity, PrincipalError, Scope, parse_scope

LONGEST: Final = 8192  # bytes of a token
REMEMBERED: Final = 4096
LONGEST_NAME: Final = 48  # bytes of a subject that stands in a principal's name as it is
BY_ORG: Final = ("operator", "approver")
_NEEDED: Final = {"require": ["exp", "iss", "aud", "sub"]}
_FORM: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_OWN_CLOCK: Final = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}


class _Known(NamedTuple):
    identity: Identity
    until: float


class Tokens:
    """Of one process. `clock`: POSIX seconds."""

    def __init__(self, terms: OidcTerms, keys: Jwks, clock: Callable[[], float] = time.time) -> None:
        self._terms, self._clock = terms, clock
        self.keys = keys
        self._known: dict[bytes, _Known] = {}
        self._version = keys.version

    def identify(self, token: bytes) -> Identity:
        """Raises Problem `unauthorized`, or `identity_unavailable` while no key of the provider is known."""
        if self._version != self.keys.version:
            self._known, self._version = {}, self.keys.version
        mark = blake2b(token, digest_size=16).digest()
        known = self._known.get(mark)
        if known is not None and self._clock() < known.until:
            return known.identity
        made = self._checked(token)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[mark] = made
        return made.identity

    def _checked(self, token: bytes) -> _Known:
        if not self.keys.keys:
            raise Problem("identity_unavailable", self.keys.problem or "no key of the provider is known")
        claims = self._signed(token)
        until = self._in_time(claims)
        return _Known(Identity(_name(claims["sub"]), self._scopes(claims), "token"), until)

    def _signed(self, token: bytes) -> dict[str, Any]:
        """The claims, once the signature, the issuer and the audience are right."""
        if len(token) > LONGEST:
            raise _refused(f"the token has more than {LONGEST} bytes")
        if not _whole(token):
            raise _refused("the token cannot be read")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _refused("the token cannot be read") from None
        name, kid = header.get("alg"), header.get("kid")
        if name not in self._terms.algorithms or "crit" in header:
            allowed = ", ".join(self._terms.algorithms)
            raise _refused(f"the token's algorithm is not allowed: sign by one of {allowed}")
        key = self.keys.find(kid if isinstance(kid, str) else None)
        if key is None:
            raise _refused("the token's key is not known: a new one is looked up within seconds")
        if name not in key.algorithms:
            raise _refused(f"the token's key does not sign by {name}")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.public,
                algorithms=[str(name)],
                audience=self._terms.audience,
                issuer=self._terms.issuer,
                options={**_NEEDED, **_OWN_CLOCK},  # type: ignore[arg-type]  # the stub's TypedDict is closed
            )
        except jwt.InvalidAudienceError:
            raise _refused("the token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise _refused("the token is of another issuer") from None
        except jwt.MissingRequiredClaimError as missing:
            raise _refused(f"the token has no claim {missing.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _refused("the token's signature does not hold") from None
        return claims

    def _in_time(self, claims: Mapping[str, Any]) -> float:
        """When the token ends, leeway included, POSIX seconds."""
        now, leeway = self._clock(), self._terms.leeway_s
        ends = _time(claims, "exp") + leeway
        if now >= ends:
            raise _refused("the token has expired: get a new one")
        for name in ("nbf", "iat"):
            if name in claims and _time(claims, name) - leeway > now:
                raise _refused(f"the token is of the future ({name}): are the clocks right?")
        return ends

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[Scope]:
        said = _claim(claims, self._terms.scopes_claim)
        listed = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        org = _claim(claims, self._terms.org_claim) if self._terms.org_claim else None
        made = (
            self._scope(one.removeprefix(PREFIX), org)
            for one in listed
            if isinstance(one, str) and one.startswith(PREFIX)
        )
        return frozenset(scope for scope in made if scope is not None)

    def _scope(self, word: str, org: object) -> Scope | None:
        """None for what is no scope, is not granted to tokens, or reaches beyond the org of the token."""
        role = word.partition(":")[0]
        if role not in self._terms.roles:
            return None
        bounded = bool(self._terms.org_claim) and role in BY_ORG
        if bounded and (not isinstance(org, str) or not org):
            return None
        if bounded and org != "*":
            if word not in (role, f"{role}:{org}"):
                return None
            word = f"{role}:{org}"
        try:
            return parse_scope(word)
        except PrincipalError:
            return None


def _whole(token: bytes) -> bool:
    """Three parts of base64url and nothing else, the signature written in its one way.

    Decoders skip what is no base64, so that many texts would be one token.
    """
    if _FORM.fullmatch(token) is None:
        return False
    signature = token.rpartition(b".")[2]
    try:
        raw = urlsafe_b64decode(signature + b"=" * (-len(signature) % 4))
    except ValueError:
        return False
    return urlsafe_b64encode(raw).rstrip(b"=") == signature


def _refused(why: str) -> Problem:
    said = f'Bearer realm="fenliu", error="invalid_token", error_description="{why}"'
    header: Header = (b"www-authenticate", said.encode("ascii", "replace"))
    return Problem("unauthorized", why, headers=(header,))


def _name(subject: object) -> str:
    """A principal's name that no key's principal can have: those have no colon."""
    if not isinstance(subject, str) or not subject:
        raise _refused("the token's subject is no text")
    raw = subject.encode("utf-8", "replace")
    if len(raw) <= LONGEST_NAME and subject.isprintable():
        return f"oidc:{subject}"
    return f"oidc:{blake2b(raw, digest_size=16).hexdigest()}"


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused(f"the token's {name} is no time")
    return float(value)


def _claim(claims: Mapping[str, Any], path: str) -> object:
    """`realm_access.roles` goes into objects; a claim of that very name goes before."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
