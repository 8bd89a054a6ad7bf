"""The books of governance: its log, the state folded from it, and the contents that both speak of by digest.

Every act is one record of the audit log, written only if the log still ends where the act was decided: so
acts are in one order over all processes. Contents lie beside the log under their SHA-256 and are checked
against it whenever they are read. Blocking: the shell calls from a thread.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from serving.append_only import Files
from serving.audit import Audit, AuditError, Entry, Moved, Record, canonical, digest
from serving.errors import Problem
from serving.principals import LOCAL
from serving.proposals import POLICY, Revision, State


class Books:
    """`url`: the registry's. Safe to share between threads."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self.audit, self.clock = Audit(url, clock), clock
        self.state = State()
        self._contents = Files(url, "governance/contents")
        self._lock = threading.RLock()

    def refresh(self) -> State:
        """The state with everything that others did. Raises Problem when the log does not hold or is away."""
        with self._lock:
            try:
                self.audit.refresh()
            except AuditError as broken:
                raise Problem("audit_broken", str(broken)) from None
            except OSError as away:
                raise Problem("registry_unavailable", f"the registry did not answer: {away}") from away
            for record in self.audit.records[self.state.head.seq :]:
                self.state.apply(record)
            return self.state

    def commit(self, decide: Callable[[State], Entry]) -> Record:
        """Decide on the newest state and write; again when somebody was faster."""
        with self._lock:
            while True:
                self.refresh()
                entry = decide(self.state)
                if entry.principal == LOCAL and self.state.principals:
                    raise Problem("unauthorized", "there are principals now: name yourself by a key")
                try:
                    record = self.audit.append(entry, self.state.head)
                except Moved:
                    continue
                except AuditError as broken:
                    raise Problem("audit_broken", str(broken)) from None
                except OSError as away:
                    raise Problem("registry_unavailable", f"nothing was written: {away}") from away
                self.refresh()
                return record

    def content(self, name: str) -> Any:
        """What lies under a digest. Raises Problem when it is missing or was changed."""
        raw = self._contents.read(f"{name}.json")
        if raw is None or sha256(raw).hexdigest() != name:
            wrong = "is missing" if raw is None else "was changed"
            raise Problem("audit_broken", f"governance/contents/{name}.json {wrong}: restore it from a copy")
        return json.loads(raw)

    def keep(self, content: Any) -> str:
        """Under its digest, which is returned. Written before the record that names it."""
        name = digest(content)
        self._contents.create(f"{name}.json", canonical(content))
        return name

    def newest(self, part: str) -> Any:
        """The content of a part as last published; None before."""
        held = self.state.revision(part)
        return None if held is None else self.content(held.content)

    def last(self, part: str) -> Revision:
        """Raises Problem `not_found` before the first."""
        return self.state.at(part, self.state.number(part))

    def approvals(self, setting: bool | None) -> str:
        """`required`: always a second person; `alone`: unless somebody says they are alone; `off`.

        `setting` (FENLIU_APPROVALS) counts while there are no principals; then the policy part decides.
        """
        held = self.state.revision(POLICY)
        if held is not None:
            return str(self.content(held.content)["approvals"])
        if self.state.principals or setting is True:
            return "required"
        return "alone" if setting is None else "off"
