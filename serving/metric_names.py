"""The metrics that a plan may name, and which way is better: what guards watch and what reports compute.

Names only, so that a plan is checked without either. The guard's statistics (`guard_statistics.RATES`) and
the reports' metrics (`training.experiment.metrics.METRICS`) are of these names, and mean the same by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Direction = Literal["higher", "lower"]

BETTER: Final[Mapping[str, Direction]] = {
    "value": "higher",
    "clicks": "higher",
    "conversions": "higher",
    "ctr": "higher",
    "cvr": "higher",
    "nps": "higher",
    "fill": "higher",
    "dismissals": "lower",
    "dismissal_rate": "lower",
    "complaints": "lower",
    "lower_rungs": "lower",
    "errors": "lower",
    "latency": "lower",
}
"""Every metric, and the direction that is better."""


def harm(metric: str) -> Direction:
    """The direction that is worse."""
    return "lower" if BETTER[metric] == "higher" else "higher"
