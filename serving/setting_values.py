"""What the settings of every part are read by: values of the environment, refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

SHOWN: Final = 40  # characters of a value, in a message: enough to recognise it


class SettingsError(ValueError):
    """A setting that cannot be used; the message says what to set."""


def number_within(given: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    """A number of the environment, from `low` to `high`. Raises SettingsError."""
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise SettingsError(f"{name} must be a number, not {text[:SHOWN]!r}") from None
    if not math.isfinite(value) or not low <= value <= high:
        raise SettingsError(f"{name} must lie from {low:g} to {high:g}, not {text[:SHOWN]}")
    return value


def words(given: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """A list joined by commas; the default where nothing is given."""
    return tuple(one.strip() for one in given[name].split(",") if one.strip()) if name in given else default
