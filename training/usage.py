"""What a command says when it cannot be carried out as given."""

from __future__ import annotations


class UsageError(ValueError):
    """Arguments that do not go together, or something is missing; the text says what to do."""
