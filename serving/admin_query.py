"""What the query and the headers of a governance request say, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping

from serving.errors import Problem


def revision(if_match: str | None) -> int | None:
    """The revision that an If-Match names. Raises Problem `stale_revision` for what can be none of ours."""
    if if_match is None:
        return None
    found = re.fullmatch(r'\s*(?:W/)?"?(\d{1,9})"?\s*', if_match)
    if found is None:
        raise Problem("stale_revision", 'If-Match: name a revision, such as "3"')
    return int(found[1])


def only(query: Mapping[str, str], *names: str) -> None:
    """A parameter that is misspelt would be passed over, and the answer be that of another question."""
    if unknown := sorted(query.keys() - {*names}):
        known = ", ".join(name for name in names if name != "id")
        raise Problem("bad_query", f"{unknown[0][:40]!r}: no such parameter; there are {known}")


def whole(query: Mapping[str, str], name: str, most: int = 999_999_999) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) > most:
        raise Problem("bad_query", f"{name}: must be a whole number, at most {most}")
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool:
    """A switch that is not understood is refused: it could be the one that makes an erasure whole."""
    text = query.get(name, "false")
    if text not in ("true", "false", "1", "0"):
        raise Problem("bad_query", f"{name}: must be true or false")
    return text in ("true", "1")
