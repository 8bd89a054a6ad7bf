"""Whose tokens are taken, and for what: the settings of an identity provider (OpenID Connect).

Nothing is taken by default. Tokens may ask for pages only, unless FENLIU_OIDC_ROLES says more: a person with
a token and a key of their own is two principals, and could approve what they proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from serving.principals import ROLES
from serving.setting_values import SettingsError, number_within, words

RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS: Final = (*RSA, "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key. Never `none`, never a secret both sides know (HS256): who may verify such a
token may make one, and a public key taken for a secret is known to everybody.
"""
DEFAULT: Final = ("RS256", "PS256", "ES256", "EdDSA")
PREFIX: Final = "fenliu:"


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcTerms:
    """`keys`: a JWKS file, or an https URL; `scopes_claim`, `org_claim`: names of claims, dots go deeper.

    `org_claim`, where there is one, bounds operators and approvers to the org it names.
    """

    issuer: str
    audience: str
    keys: str
    algorithms: tuple[str, ...] = DEFAULT
    scopes_claim: str = "scope"
    org_claim: str = ""
    roles: tuple[str, ...] = ("app",)
    leeway_s: float = 30.0

    @property
    def remote(self) -> bool:
        """Whether the keys are fetched over a network."""
        return "://" in self.keys

    @property
    def powerful(self) -> bool:
        """Whether a token may do more than ask for pages."""
        return set(self.roles) != {"app"}


def oidc_terms(given: Mapping[str, str]) -> OidcTerms | None:
    """From FENLIU_OIDC_*; None where nothing is set. Raises SettingsError."""
    names = {name for name in given if name.startswith("FENLIU_OIDC_")}
    if not names:
        return None
    needed = ("FENLIU_OIDC_ISSUER", "FENLIU_OIDC_AUDIENCE", "FENLIU_OIDC_JWKS")
    if missing := [name for name in needed if name not in given]:
        raise SettingsError(f"{', '.join(missing)} must be set too: whose tokens, for whom, and their keys")
    return OidcTerms(
        issuer=given["FENLIU_OIDC_ISSUER"],
        audience=given["FENLIU_OIDC_AUDIENCE"],
        keys=_keys(given["FENLIU_OIDC_JWKS"]),
        algorithms=_among(given, "FENLIU_OIDC_ALGORITHMS", DEFAULT, ALGORITHMS),
        scopes_claim=given.get("FENLIU_OIDC_CLAIM", "scope"),
        org_claim=given.get("FENLIU_OIDC_ORG_CLAIM", ""),
        roles=_among(given, "FENLIU_OIDC_ROLES", ("app",), ROLES),
        leeway_s=number_within(given, "FENLIU_OIDC_LEEWAY_S", 30.0, 0.0, 300.0),
    )


def _among(
    given: Mapping[str, str], name: str, default: tuple[str, ...], known: tuple[str, ...]
) -> tuple[str, ...]:
    found = words(given, name, default)
    if not found or (unknown := [one for one in found if one not in known]):
        wrong = ", ".join(unknown)[:60] if found else "nothing"
        raise SettingsError(f"{name} is one or more of {', '.join(known)}, joined by commas, not {wrong}")
    return found


def _keys(text: str) -> str:
    if "://" not in text:
        return text
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise SettingsError("FENLIU_OIDC_JWKS: a JWKS is public, so its URL has no user or password in it")
    if parts.scheme == "https" or (parts.scheme == "http" and _own(parts.hostname or "")):
        return text
    raise SettingsError("FENLIU_OIDC_JWKS is a file, or an https:// URL (http:// on loopback only)")


def _own(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
