"""The public keys of an identity provider: a JSON Web Key Set (RFC 7517), from a file or a URL.

Requests never wait for it. `refresh` is called each second from a thread: a file is read when it changed, a
URL asked when its answer is old, or when a token named a key that is not known; but never more often than
`FLOOR_S`, so that forged key ids fetch nothing. What was known stays while the source is away, for
`HELD_S`; then nobody's token is taken.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK, PyJWTError

from serving.oidc_terms import RSA, OidcTerms

LOG: Final = logging.getLogger("fenliu.jwks")
FRESH_S: Final = 300.0
FLOOR_S: Final = 10.0
HELD_S: Final = 86_400.0
TIMEOUT_S: Final = 3.0
LIMIT: Final = 256 * 1024
MOST: Final = 64  # keys of a set
LEAST_RSA_BITS: Final = 2048
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}


class JwksError(ValueError):
    """Not a set of public keys that could be used."""


class Key(NamedTuple):
    """A public key, and the algorithms by which it may have signed."""

    public: Any
    algorithms: tuple[str, ...]


class Jwks:
    """`read` replaces the source in tests: the raw set, or None for "as before"."""

    def __init__(
        self,
        terms: OidcTerms,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        read: Callable[[], bytes | None] | None = None,
    ) -> None:
        self._terms, self._monotonic = terms, monotonic
        self._read = read or (self._fetched if terms.remote else self._file)
        self._seen: tuple[int, int] | None = None  # of the file: modified, size
        self._good = self._tried = -float("inf")
        self._missed = self._failing = False
        self.keys: Mapping[str, Key] = {}
        self.version = 0  # another one: a verdict of before means nothing
        self.problem = "the keys were not read yet"

    def find(self, kid: str | None) -> Key | None:
        """The key of that id; without one, the only key there is."""
        if kid is None:
            return next(iter(self.keys.values())) if len(self.keys) == 1 else None
        key = self.keys.get(kid)
        if key is None:
            self._missed = True
        return key

    def refresh(self) -> bool:
        """Whether the keys are others now. Blocking; raises nothing."""
        now = self._monotonic()
        if not self._due(now):
            return False
        self._tried, self._missed = now, False
        try:
            raw = self._read()
            found = None if raw is None else parse_jwks(raw)
        except (OSError, HTTPException, JwksError) as problem:
            self.problem = f"the identity provider's keys could not be read: {problem}"[:300]
            if not self._failing:
                LOG.warning("%s; those known before stay", self.problem)
            self._failing = True
            return now - self._good > HELD_S and self._hold({})
        self._good, self._failing, self.problem = now, False, ""
        return found is not None and self._hold(found)

    def _due(self, now: float) -> bool:
        if not self._terms.remote:
            return True
        if now - self._tried < FLOOR_S:
            return False
        return self._missed or self._failing or now - self._good >= FRESH_S

    def _hold(self, found: Mapping[str, Key]) -> bool:
        if {kid: _digest(key) for kid, key in found.items()} == {
            kid: _digest(key) for kid, key in self.keys.items()
        }:
            return False
        self.keys = found
        self.version += 1
        return True

    def _file(self) -> bytes | None:
        path = Path(self._terms.keys)
        stat = path.stat()
        seen = stat.st_mtime_ns, stat.st_size
        if seen == self._seen:
            return None
        if stat.st_size > LIMIT:
            raise JwksError(f"{path} has more than {LIMIT} bytes")
        raw = path.read_bytes()
        parse_jwks(raw)  # a bad file is tried again, and told, until it is mended
        self._seen = seen
        return raw

    def _fetched(self) -> bytes:
        asked = Request(self._terms.keys, headers={"accept": "application/json"})  # noqa: S310 - checked: https
        with _OPENER.open(asked, timeout=TIMEOUT_S) as answer:
            raw: bytes = answer.read(LIMIT + 1)
        if len(raw) > LIMIT:
            raise JwksError(f"the set has more than {LIMIT} bytes")
        return raw


class _Straight(HTTPRedirectHandler):
    """Nobody sends us elsewhere for keys."""

    def redirect_request(self, *_asked: Any) -> None:
        return None


_OPENER: Final = build_opener(_Straight)


def parse_jwks(raw: bytes) -> dict[str, Key]:
    """By key id; what is not a public key for signatures is left out. Raises JwksError when none is left."""
    try:
        listed = json.loads(raw)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise JwksError('not a JSON Web Key Set: {"keys": [...]}') from None
    if not isinstance(listed, list) or len(listed) > MOST:
        raise JwksError(f"`keys` is not a list of up to {MOST} keys")
    found = {}
    for number, one in enumerate(listed):
        if isinstance(one, dict) and (key := _key(one)) is not None:
            found[str(one.get("kid", f"#{number}"))] = key
    if not found:
        raise JwksError(
            "no public key for signatures in it (RSA of 2048 bits or more, P-256 to 521, Ed25519)"
        )
    return found


def _key(one: Mapping[str, Any]) -> Key | None:
    kind, use, told = one.get("kty"), one.get("use", "sig"), one.get("alg")
    if kind not in ("RSA", "EC", "OKP") or use != "sig" or "d" in one:  # `d`: a private key, published
        return None
    possible = RSA if kind == "RSA" else tuple(filter(None, (_CURVES.get(str(one.get("crv"))),)))
    algorithms = tuple(name for name in possible if told in (None, name))
    if not algorithms:
        return None
    try:
        public = PyJWK(dict(one), algorithms[0]).key
    except (PyJWTError, ValueError, TypeError):
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < LEAST_RSA_BITS:
        return None
    return Key(public, algorithms)


def _digest(key: Key) -> bytes:
    raw: bytes = key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw + ",".join(key.algorithms).encode()
