"""Booking in a process of its own: half a minute of arithmetic over the replay sample delays no page.

The process is the command line itself (`fenliu plan check FILE --whole --json`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving.errors import Problem
from serving.own_process import OwnProcess
from serving.plan import Plan, PlanError
from serving.settings import Settings

SAMPLE: Final = "sample/manifest.json"  # in the home, once there is a replay sample to decide again
NO_SAMPLE: Final = {"missing": "there is no replay sample in this home: fenliu plan sample"}
LIMIT_S: Final = 180.0
_FORECAST: Final = ("-m", "fenliu", "plan", "check", "--whole", "--json")


class CheckProcess:
    """A `plan_fit.Booking`. Blocking: called from a thread; `close` ends what is running."""

    def __init__(
        self, settings: Settings, *, limit_s: float = LIMIT_S, command: tuple[str, ...] = _FORECAST
    ) -> None:
        self._settings, self._process = settings, OwnProcess(settings, "forecast", limit_s, command)

    def __call__(self, plan: Plan) -> Mapping[str, Any]:
        """The forecast. Raises Problem `overloaded` while another is made, `not_ready` when none comes of it,
        PlanError for what the process finds wrong with the plan.
        """
        if not (self._settings.home / SAMPLE).exists():
            return NO_SAMPLE
        with tempfile.TemporaryDirectory(prefix="fenliu-check-") as folder:
            file = Path(folder) / "plan.json"
            file.write_text(plan.model_dump_json(by_alias=True), encoding="utf-8")
            return _read(self._process.said(str(file)))

    def close(self) -> None:
        """What is being made is given up. Safe to call twice."""
        self._process.close()


def _read(out: str) -> Mapping[str, Any]:
    """What `fenliu plan check --whole --json` printed last."""
    try:
        said = json.loads(out)
    except ValueError:
        raise Problem("not_ready", "the forecast's process said nothing that can be read") from None
    if "error" in said:
        raise PlanError(*(str(said["error"][name]) for name in ("path", "problem", "remedy")))
    booked: Mapping[str, Any] = said.get("report", {}).get("booking") or {}
    return booked
