"""What a click would add for this customer, before anything is valued: `serving.uplift` as a stage.

Relevance, so it fails open: without it an offer is worth what its items' own counts say.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.pipeline import Page, Understanding
from serving.uplift import MeasuredRows


@dataclass(frozen=True)
class Persuasion(Understanding):
    """Sets `page.measured`. Not without profiling: it is read from the whole profile."""

    rows: MeasuredRows

    def enabled(self, page: Page) -> bool:
        return page.query.profiling

    def understand(self, page: Page) -> None:
        page.measured = self.rows.per_click(self.rows.model.of(page.query.customer))
