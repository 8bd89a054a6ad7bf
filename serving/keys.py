"""Keys kept in the registry and governed: who there is, issued, confirmed and revoked on the record.

    governance/principals/{digest}.json   a list of principals that was once in force; never changed
    governance/principals.json            the newest, for replicas that only need to know who is calling

The audit log says which list is in force, so a file that was changed or removed behind it opens nothing: it
is not read (the digest is another), or nobody gets in. Files are readable by their owner only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any, Final

from serving import permits
from serving.append_only import Files
from serving.audit import Entry, canonical, digest, rfc3339
from serving.books import Books
from serving.errors import Problem
from serving.principals import (
    LOCAL,
    Identity,
    PrincipalError,
    Principals,
    read_principals,
)
from serving.proposals import State
from serving.settings import Settings, SettingsError

LOG: Final = logging.getLogger("fenliu.keys")
PLAN_FILE: Final = (
    "FENLIU_PLAN is a file that nobody approves, and there are principals: unset it, and publish the plan"
    " (fenliu plan propose FILE, then approve and publish by another principal)"
)
NEWEST: Final = "principals.json"


class Ring:
    """The newest principals as a replica knows them; `refresh` is called every second or so, from a thread.

    What was known stays when the file cannot be read or is gone: a registry away locks nobody out, and
    a file that was removed lets nobody in. Before the first answer it is taken that there are principals.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._files, self._clock = Files(url, "governance"), clock
        self._read: bytes | None = None
        self._asked = False
        self.principals = Principals()

    def refresh(self) -> bool:
        """Whether somebody was added or revoked. Raises nothing."""
        try:
            raw = self._raw()
            if raw is not None and raw != self._read:
                self.principals, self._read = read_principals(raw), raw
                self._asked = True
                return True
            self._asked = True
        except (OSError, PrincipalError, Problem) as problem:
            LOG.warning("the principals could not be read, so those known before stay: %s", problem)
        return False

    def _raw(self) -> bytes | None:
        return self._files.read(NEWEST)

    def identify(self, token: bytes) -> Identity | None:
        return self.principals.identify(token, self._clock())

    def __bool__(self) -> bool:
        return bool(self.principals) or not self._asked


def check_plan_file(settings: Settings) -> None:
    """A plan file would pass the approvals by. Raises SettingsError where there are principals.

    While the registry is away nobody knows; the reloader asks again before it takes the file up.
    """
    if settings.plan is not None:
        ring = Ring(settings.registry_url)
        ring.refresh()
        if ring.principals:
            raise SettingsError(PLAN_FILE)


class Keys:
    """Changes to who there is, as records of the audit log. Blocking. Raises Problem."""

    def __init__(self, url: str, books: Books) -> None:
        self._files, self._books = Files(url, "governance"), books

    def current(self) -> Principals:
        """By the log. Raises Problem `audit_broken` when the list is missing or was changed."""
        raw = self.raw()
        return Principals() if raw is None else read_principals(raw)

    def raw(self) -> bytes | None:
        """The list's bytes; None while there are no principals. Raises Problem."""
        name = self._books.refresh().principals
        if not name:
            return None
        raw = self._files.read(f"principals/{name}.json")
        if raw is None or sha256(raw).hexdigest() != name:
            wrong = "is missing" if raw is None else "was changed"
            path = f"governance/principals/{name}.json"
            raise Problem("audit_broken", f"{path} {wrong}: restore it from a copy")
        if self._files.read(NEWEST) != raw:  # a writer that died may have left the former
            self._files.replace(NEWEST, raw)
        return raw

    def identify(self, token: bytes) -> Identity | None:
        """By the log itself: for the command line and the admin application."""
        return self.current().identify(token, self._books.clock())

    def __bool__(self) -> bool:
        return bool(self._books.refresh().principals)

    def issue(
        self, who: Identity, name: str, scopes: Iterable[str], *, expires: str = "", reason: str = ""
    ) -> tuple[str, bool]:
        """The key's text, to be shown once, and whether it counts already. Raises Problem."""
        made = ""

        def change(known: Principals) -> Principals:
            nonlocal made
            first = not known and who.principal == LOCAL
            if not first and not (who.principal == name and name in known.people):
                permits.may_manage_keys(who)
            grown, made = known.issue(name, scopes, who, rfc3339(self._books.clock()), expires)
            return grown

        principals = self._change(who, "issued", name, reason, change, lambda: _key_id(made))
        return made, principals.identify(made.encode(), self._books.clock()) is not None

    def confirm(self, who: Identity, key_id: str, *, reason: str = "") -> Principals:
        """By an admin, an approver of every org, or the principal itself by an older key. Raises Problem."""

        def change(known: Principals) -> Principals:
            if known.owner(key_id).name != who.principal and not who.acts_for("approver", ""):
                permits.may_manage_keys(who)
            return known.confirm(key_id, who)

        return self._change(who, "confirmed", "", reason, change, lambda: key_id)

    def revoke(self, who: Identity, key_id: str, *, reason: str = "") -> Principals:
        """By an admin, or by whom it belongs to. Raises Problem."""

        def change(known: Principals) -> Principals:
            if known.owner(key_id).name != who.principal:
                permits.may_manage_keys(who)
            return known.revoke(key_id, rfc3339(self._books.clock()))

        return self._change(who, "revoked", "", reason, change, lambda: key_id)

    def _change(
        self,
        who: Identity,
        act: str,
        name: str,
        reason: str,
        change: Callable[[Principals], Principals],
        key_id: Callable[[], str],
    ) -> Principals:
        made = Principals()

        def decide(_state: State) -> Entry:
            nonlocal made
            try:
                made = change(self.current())
                owner = made.people[name] if name else next(_owners(made, key_id()))
            except PrincipalError as bad:
                raise Problem("bad_principal", str(bad)) from None
            document = made.document()
            listed = digest(document)
            self._files.create(f"principals/{listed}.json", canonical(document))
            detail: dict[str, Any] = {"principals": listed, "act": act, "key": key_id()}
            detail |= {"scopes": list(owner.scopes)}
            return Entry(who.principal, "keys", owner.name, reason, detail, who.key)

        self._books.commit(decide)
        self.current()
        return made


class GovernedRing(Ring):
    """A ring that follows the audit log instead of the copy: for the admin application.

    It goes on with whom it knew while the registry is away, so that kills still work.
    """

    def __init__(self, url: str, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        super().__init__(url, clock)
        self._keys = keys

    def _raw(self) -> bytes | None:
        return self._keys.raw()


def _owners(known: Principals, key_id: str) -> Any:
    return (one for one in known.people.values() if any(key.id == key_id for key in one.keys))


def _key_id(text: str) -> str:
    return text.split("_", 2)[1]
