"""What is asked about customers and takes seconds, by the command line in its own process: traces, erasure.

`GET /v1/decisions/{id}` is `fenliu replay ID --json`, asked with the caller's own key: the command line too
checks scopes, and the audit log names who it was. It builds the bundle, plan and prices of that moment anew
and reads the log and the lake: seconds of work that no page waits for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from serving.errors import Problem
from serving.own_process import OwnProcess
from serving.settings import Settings

LIMIT_S: Final = 60.0
ERASE_S: Final = 900.0
MOST_ITEMS: Final = 20
_REPLAY: Final = ("-m", "fenliu", "replay", "--json")
_ERASE: Final = ("-m", "fenliu", "customer", "erase", "--json")


class Tracer(Protocol):
    """Blocking. Raises Problem: `not_found`, `overloaded`, `not_ready`."""

    def __call__(
        self, decision_id: str, subject: str | None, items: Sequence[str], *, key: str = ""
    ) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


class TraceProcess(Tracer):
    def __init__(
        self, settings: Settings, *, limit_s: float = LIMIT_S, command: tuple[str, ...] = _REPLAY
    ) -> None:
        self._process = OwnProcess(settings, "trace", limit_s, command)

    def __call__(
        self, decision_id: str, subject: str | None, items: Sequence[str], *, key: str = ""
    ) -> Mapping[str, Any]:
        asked = [f"--item={item}" for item in items]
        if subject is not None:
            asked.append(f"--subject={subject}")
        out = self._process.said(*asked, "--", decision_id, good=(0, 1, 2), key=key)
        try:
            said: Mapping[str, Any] = json.loads(out)
        except ValueError:
            raise Problem("not_ready", "the trace's process said nothing that can be read") from None
        if said.get("error") == "not_found":
            raise Problem("not_found", str(said["detail"]))
        if "error" in said:
            raise Problem("not_ready", str(said["detail"]))
        return said

    def close(self) -> None:
        self._process.close()


class Eraser(Protocol):
    """Blocking. Raises Problem: `overloaded`, `not_ready`."""

    def __call__(self, user_id: str, reason: str, *, devices: bool, key: str = "") -> Mapping[str, Any]: ...

    def close(self) -> None: ...


class EraseProcess(Eraser):
    """`DELETE /v1/users/{id}` by `fenliu customer erase`: it looks through every store and file."""

    def __init__(
        self, settings: Settings, *, limit_s: float = ERASE_S, command: tuple[str, ...] = _ERASE
    ) -> None:
        self._process = OwnProcess(settings, "erasure", limit_s, command)

    def __call__(self, user_id: str, reason: str, *, devices: bool, key: str = "") -> Mapping[str, Any]:
        more = ("--devices",) if devices else ()
        out = self._process.said(f"--reason={reason}", *more, "--", user_id, key=key)
        try:
            said: Mapping[str, Any] = json.loads(out)
        except ValueError:
            raise Problem("not_ready", "the erasure's process said nothing that can be read") from None
        return said

    def close(self) -> None:
        self._process.close()
