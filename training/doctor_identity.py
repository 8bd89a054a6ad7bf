"""`fenliu doctor` on who calls: an identity provider's keys, people who are two by it, limits of nobody."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from serving.oidc_terms import OidcTerms
from serving.principals import LOCAL
from serving.rate_terms import OTHERS
from serving.security import ANYBODY, APP, tokens_of
from serving.settings import Settings
from training.desk import Desk
from training.finding import Finding

ABOUT: Final = "identity provider"
NAMES: Final = (APP.principal, ANYBODY.principal, LOCAL, OTHERS)  # who is no principal of a key
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def identity_findings(settings: Settings, env: Mapping[str, str]) -> Iterator[Finding]:
    """Nothing where no provider is named; else asks for its keys once, as a replica does."""
    terms, tokens = settings.oidc, tokens_of(settings)
    if terms is None or tokens is None:
        return
    tokens.keys.refresh()
    if tokens.keys.problem:
        remedy = "is FENLIU_OIDC_JWKS right, and reached from here? Until then every token is refused"
        yield Finding(ABOUT, "bad", tokens.keys.problem, remedy)
        return
    usable = [kid for kid, key in tokens.keys.keys.items() if set(key.algorithms) & set(terms.algorithms)]
    if not usable:
        remedy = f"the provider signs by none of {', '.join(terms.algorithms)}: set FENLIU_OIDC_ALGORITHMS"
        yield Finding(ABOUT, "bad", f"{len(tokens.keys.keys)} keys, none that is allowed", remedy)
        return
    said = f"{terms.issuer}: {len(usable)} keys, for {', '.join(terms.roles)}"
    yield Finding(ABOUT, "ok", said)
    yield from _writable(terms)
    if terms.powerful:
        yield from _twice(settings, env)


def limit_findings(settings: Settings, env: Mapping[str, str]) -> Iterator[Finding]:
    """Limits of names that nobody has: a slip there leaves somebody without a limit."""
    if not settings.rates:
        return
    known = {*Desk(settings, env).keys.current().people, *NAMES}
    unknown = sorted(name for name in settings.rates if name not in known and not name.startswith("oidc:"))
    told = f"limits of {len(settings.rates)}"
    if unknown:
        remedy = "correct FENLIU_RATES, or add the principal: fenliu keys list"
        yield Finding("limits", "warn", f"{told}; nobody is called {', '.join(unknown[:5])}", remedy)
        return
    yield Finding("limits", "ok", told if OTHERS in settings.rates else f"{told}, the others none")


def _writable(terms: OidcTerms) -> Iterator[Finding]:
    """Whoever may write the keys may be anybody."""
    if not terms.remote and os.name == "posix" and Path(terms.keys).stat().st_mode & _OTHERS:
        yield Finding(ABOUT, "warn", f"{terms.keys} can be written by others", f"chmod go-w {terms.keys}")


def _twice(settings: Settings, env: Mapping[str, str]) -> Iterator[Finding]:
    """One person with a key and a token is two principals, and could approve their own change."""
    keyed = [one.name for one in Desk(settings, env).keys.current().people.values() if one.powerful]
    if keyed:
        said = f"{len(keyed)} principals hold keys beyond `app` ({', '.join(keyed[:5])}), and so may tokens"
        remedy = "give each person a key or a token, never both; or leave FENLIU_OIDC_ROLES at app"
        yield Finding(ABOUT, "warn", said, remedy)
