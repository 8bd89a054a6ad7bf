"""What changes from one version of a part to another, as paths and values that a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from serving.audit import canonical

NAMES: Final = ("id", "name")  # how the entries of a list are told apart, where they have one
MOST: Final = 2_000  # changes that are listed
_GONE: Final = object()


class Change(NamedTuple):
    """`path` such as campaigns[c12].goals; `kind`: added, removed, changed or moved."""

    path: str
    kind: str
    before: Any = None
    after: Any = None

    def document(self) -> dict[str, Any]:
        """Only the sides that there are."""
        sides = {"added": ("after",), "removed": ("before",), "moved": (), "changed": ("before", "after")}
        return {"path": self.path, "kind": self.kind} | {
            side: getattr(self, side) for side in sides[self.kind]
        }


def differences(before: Any, after: Any) -> list[Change]:
    """The changes between two JSON values; entries of lists are matched by their id or name.

    At most MOST of them; an order that alone changed is one `moved`.
    """
    return [change for change, _ in zip(_walk("", before, after), range(MOST), strict=False)]


def _walk(path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _mapping(path, before, after, "." if path else "", "")
        return
    old, new = _named(before), _named(after)
    if old is not None and new is not None:
        yield from _mapping(path, old, new, "[", "]")
        if [name for name in old if name in new] != [name for name in new if name in old]:
            yield Change(path, "moved")
        return
    if not _same(before, after):
        yield Change(path, "changed", before, after)


def _mapping(
    path: str, before: Mapping[str, Any], after: Mapping[str, Any], opening: str, closing: str
) -> Iterator[Change]:
    for name in (*before, *(name for name in after if name not in before)):
        where = f"{path}{opening}{name}{closing}"
        old, new = before.get(name, _GONE), after.get(name, _GONE)
        if old is _GONE:
            yield Change(where, "added", after=new)
        elif new is _GONE:
            yield Change(where, "removed", before=old)
        else:
            yield from _walk(where, old, new)


def _named(value: Any) -> dict[str, Any] | None:
    """A list's entries by name; None when they have none, or share one."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    found: dict[str, Any] = {}
    for entry in value:
        name = next((entry[key] for key in NAMES if key in entry), None) if isinstance(entry, dict) else None
        if not isinstance(name, str) or name in found:
            return None
        found[name] = entry
    return found


def _same(before: Any, after: Any) -> bool:
    return canonical(before) == canonical(after)  # 1 and 1.0 and true are three things
