"""An identity provider for the fuzzer: a key of its own, and one good token to be forged."""

from __future__ import annotations

import json

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from serving.jwks import Jwks
from serving.oidc import Tokens
from serving.oidc_terms import OidcTerms


def provider(now: float) -> tuple[Tokens, bytes]:
    """What checks its tokens at that time, POSIX seconds, and a token that holds then."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": "k1", "use": "sig"}
    terms = OidcTerms(issuer="https://id.example", audience="fenliu", keys="https://id.example/jwks")
    keys = Jwks(terms, read=json.dumps({"keys": [public]}).encode)
    keys.refresh()
    claims = {"iss": terms.issuer, "aud": terms.audience, "sub": "s", "exp": now + 60, "scope": "fenliu:app"}
    token = jwt.encode(claims, private, "EdDSA", headers={"kid": "k1"}).encode()
    made = Tokens(terms, keys, lambda: now)
    made.identify(token)
    return made, token
