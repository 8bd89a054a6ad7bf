"""Plans in the registry: `plans/{version}.json` beside the bundles. The pointer `plan` in control names
one.
"""

from __future__ import annotations

import re
from typing import Any

import fsspec

from serving.plan import Plan, PlanError, parse_plan


class PlanShelf:
    """`url`: the registry's fsspec URL or folder. Versions are content hashes, so writing twice is
    harmless.
    """

    def __init__(self, url: str) -> None:
        self._files, root = fsspec.core.url_to_fs(url)
        self._folder = f"{str(root).rstrip('/')}/plans"

    def put(self, plan: Plan) -> str:
        """Keep a plan; returns its version, for `control.set("plan", version)`."""
        path = self._path(plan.version)
        if not self._files.exists(path):
            self._files.makedirs(self._folder, exist_ok=True)
            draft = f"{path}.draft"
            self._files.pipe_file(draft, plan.model_dump_json(indent=1).encode())
            self._files.mv(draft, path)
        return plan.version

    def fetch(self, version: str) -> Plan:
        """Raises PlanError when there is none, or it is not what its name says."""
        where = f"plan {version}"
        try:
            text: Any = self._files.cat_file(self._path(version))
        except (OSError, KeyError) as error:
            raise PlanError(where, f"is not in the registry ({error})", "publish it again") from error
        plan = parse_plan(text, where)
        if plan.version != version:
            raise PlanError(where, f"holds version {plan.version}", "publish it again")
        return plan

    def published(self, version: str) -> float | None:
        """When the plan was first put here, POSIX seconds; None where the storage does not tell. Raises
        PlanError for what is no version."""
        try:
            at: Any = self._files.modified(self._path(version))
            return float(at.timestamp())
        except (OSError, KeyError, NotImplementedError, AttributeError):
            return None

    def _path(self, version: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{12}", version):
            raise PlanError(f"plan {version[:40]!r}", "is no plan version", "name 12 hex digits")
        return f"{self._folder}/{version}.json"
