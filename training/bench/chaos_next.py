"""What the chaos benchmark rolls out over the running pages: the same by another name."""

from __future__ import annotations

from serving.app import Pages


class NextPages(Pages):
    """To Ray Serve another version of the code: every replica is replaced."""
