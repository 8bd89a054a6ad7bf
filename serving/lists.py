"""The lists that audiences may name: uploads, look-alikes, evaluated scores, batch audiences.

`lists.json` in the registry, beside the plans: what each list is and its number, never who is in it. A number
belongs to a name for as long as the name exists and to nobody afterwards, since older key spaces may hold it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import fsspec

from features.ids import check_id
from serving.predicates import COMPUTED_FROM, LISTS_FROM

Kind = Literal["upload", "lookalike", "score", "batch"]
_KINDS: Final = ("upload", "lookalike", "score", "batch")
_END: Final = 65_536


class ListError(ValueError):
    """A list that cannot be written or found; says what to do."""


@dataclass(frozen=True, slots=True)
class ListEntry:
    """`version` counts uploads that ended; `writing`: one has begun and not ended. `at`: POSIX seconds."""

    name: str
    number: int
    kind: Kind
    owner: str
    version: int = 0
    size: int = 0
    at: float = 0.0
    writing: bool = False
    note: str = ""


class ListShelf:
    """`url`: the registry's fsspec URL or folder. One writer at a time: whoever holds the home's lock."""

    def __init__(self, url: str) -> None:
        self._files, root = fsspec.core.url_to_fs(url)
        self._folder = str(root).rstrip("/")
        self._path = f"{self._folder}/lists.json"

    def entries(self) -> dict[str, ListEntry]:
        """By name, in the order in which they were made. Raises ListError for a damaged file."""
        return {name: ListEntry(**one) for name, one in self._read()["lists"].items()}

    def numbers(self) -> dict[str, int]:
        """What `compile_audiences` takes as `lists`: every list that was written whole at least once."""
        return {name: one.number for name, one in self.entries().items() if one.version > 0}

    def begin(self, name: str, kind: Kind, owner: str) -> ListEntry:
        """The entry of a list that is about to be written; a new one takes the next number of its kind.

        Raises ListError for a name that is no id, or that a list of another kind or owner has, or when no
        number is left.
        """
        try:
            check_id(name, "the list's name")
        except ValueError as bad:
            raise ListError(str(bad)) from None
        if kind not in _KINDS:
            raise ListError(f"list {name}: kind {kind!r} is not one of {', '.join(_KINDS)}")
        raw = self._read()
        held = raw["lists"].get(name)
        if held is not None and (held["kind"], held["owner"]) != (kind, owner):
            told = f"is the {held['kind']} list of {held['owner']}"
            raise ListError(f"list {name} {told}; choose another name, or remove that one first")
        if held is None:
            entry = ListEntry(name, _next_number(raw, kind), kind, owner, writing=True)
        else:
            entry = replace(ListEntry(**held), writing=True)
        self._put(raw, entry)
        return entry

    def finish(self, entry: ListEntry, size: int, at: float, note: str = "") -> ListEntry:
        """The list is written: its next version."""
        done = replace(entry, version=entry.version + 1, size=size, at=at, writing=False, note=note)
        self._put(self._read(), done)
        return done

    def remove(self, name: str) -> None:
        """Forget a list; its number is not used again."""
        raw = self._read()
        raw["lists"].pop(name, None)
        self._write(raw)

    def _put(self, raw: dict[str, Any], entry: ListEntry) -> None:
        raw["lists"][entry.name] = asdict(entry)
        span = "computed" if entry.number >= COMPUTED_FROM else "uploaded"
        raw["next"][span] = max(raw["next"][span], entry.number + 1)
        self._write(raw)

    def _read(self) -> dict[str, Any]:
        try:
            raw = json.loads(self._files.cat_file(self._path))
        except FileNotFoundError:
            return {"format": 1, "next": {"uploaded": LISTS_FROM, "computed": COMPUTED_FROM}, "lists": {}}
        except ValueError as error:
            raise ListError(f"{self._path} is damaged ({error}); restore it from a copy") from None
        if not isinstance(raw, dict) or raw.get("format") != 1:
            raise ListError(f"{self._path} is of another format; use the version that wrote it")
        return raw

    def _write(self, raw: Mapping[str, Any]) -> None:
        self._files.makedirs(self._folder, exist_ok=True)
        draft = f"{self._path}.draft"
        self._files.pipe_file(draft, json.dumps(raw, indent=1, ensure_ascii=False).encode())
        self._files.mv(draft, self._path)


def _next_number(raw: Mapping[str, Any], kind: Kind) -> int:
    span, end = ("uploaded", COMPUTED_FROM) if kind == "upload" else ("computed", _END)
    number = int(raw["next"][span])
    if number >= end:
        raise ListError(f"no number is left for another {kind} list; replace a list instead of adding one")
    return number
