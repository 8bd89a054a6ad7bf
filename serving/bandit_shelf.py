"""Versions of the bandit in the registry: `bandit/{version}.json`. The pointer `bandit` in control names one.

A version lies there while replicas may still take it up; the log keeps what decisions read of it for longer.
"""

from __future__ import annotations

import re
from typing import Final

from serving.append_only import Files
from serving.bandit import BanditError, Learned, decode_learned, version_of

_NAME: Final = re.compile(r"[0-9a-f]{12}")


class BanditShelf:
    """`url`: the registry's. Raises OSError when it is away."""

    def __init__(self, url: str) -> None:
        self._files = Files(url, "bandit")

    def put(self, learned: Learned) -> str:
        """Returns the version, for `control.set("bandit", version)`."""
        body = learned.encode()
        version = version_of(body)
        self._files.create(f"{version}.json", body)
        return version

    def fetch(self, version: str) -> Learned:
        """Raises BanditError when there is none, or it is not what its name says."""
        body = self._files.read(f"{version}.json") if _NAME.fullmatch(version) else None
        if body is None:
            raise BanditError(f"version {version[:40]!r} of the bandit is not in the registry")
        if version_of(body) != version:
            raise BanditError(f"version {version} of the bandit was changed")
        return decode_learned(body)

    def drop(self, version: str) -> None:
        """One that nobody needs any more; nothing happens when it is gone."""
        self._files.remove(f"{version}.json")
