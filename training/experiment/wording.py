"""Numbers as people read them."""

from __future__ import annotations

from math import isfinite


def shown(value: float, form: str) -> str:
    """A number as `form` has it; none where there is nothing to divide by."""
    return format(value, form) if isfinite(value) else "none"


def between(low: float, high: float, to: str = "…") -> str:
    """An interval of relative changes; it may have no upper end."""
    if not isfinite(low):
        return "none"
    return f"{low:+.2%} {to} {high:+.2%}" if isfinite(high) else f"{low:+.2%} or more"
