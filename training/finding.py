"""What a check of `fenliu doctor` says."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "warn", "bad"]


class Finding(NamedTuple):
    """`remedy` is empty where there is nothing to do."""

    about: str
    state: State
    said: str
    remedy: str = ""
