"""Plans read: from a file, from text, from data; checked field by field, then as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from serving.plan_checks import check_whole
from serving.plan_error import PlanError
from serving.plan_text import Plan

T = TypeVar("T", bound=BaseModel)
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_plan(path: str | Path) -> Plan:
    """A plan from a YAML (or JSON) file. Raises PlanError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(str(path), f"cannot be read ({error})", "name a readable UTF-8 file") from error
    return parse_plan(text, str(path))


def parse_plan(text: str | bytes, where: str = "text") -> Plan:
    """A plan from YAML (or JSON) text. Raises PlanError."""
    try:
        raw = yaml.load(text, _LOADER)  # noqa: S506  # the safe one, in C where it was built
    except yaml.YAMLError as error:
        raise PlanError(where, f"is not YAML ({' '.join(str(error).split())})", "correct the text") from None
    return check_plan(raw)


def check_plan(raw: Any) -> Plan:
    """A plan from JSON-like data. Raises PlanError."""
    plan = check_fields(Plan, raw)
    check_whole(plan)
    return plan


def check_fields(model: type[T], raw: Any) -> T:
    """A model from JSON-like data, field by field. Raises PlanError."""
    try:
        return model.model_validate(raw)
    except ValidationError as bad:
        first = bad.errors(include_url=False, include_context=False, include_input=False)[0]
        remedies = {"extra_forbidden": "remove it or correct its name", "missing": "add it"}
        path = _path(first["loc"], raw)
        raise PlanError(path, first["msg"], remedies.get(first["type"], "correct the value")) from None


def _path(loc: Sequence[int | str], raw: Any) -> str:
    """ "campaigns.3.flight.from (c12)": with the id of the listed thing, where it has one."""
    path = ".".join(str(part) for part in loc) or "the whole"
    if len(loc) > 1 and isinstance(loc[1], int) and isinstance(raw, Mapping):
        listed = raw.get(str(loc[0]))
        thing = listed[loc[1]] if isinstance(listed, Sequence) and loc[1] < len(listed) else None
        name = thing.get("id", thing.get("name")) if isinstance(thing, Mapping) else None
        if isinstance(name, str):
            return f"{path} ({name[:64]})"
    return path
