"""A plan against logged traffic, before it is proposed: part of what `plan check` and `plan propose` say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from serving.bundle import load
from serving.plan import Plan, PlanError
from serving.registry import Registry
from serving.settings import Settings
from training.commands import lake_of
from training.ope.candidate import candidate
from training.ope.release import MARGIN, released, told
from training.usage import UsageError

PAGES: Final = 2_000  # some seconds: somebody waits
ENV: Final = "FENLIU_RELEASE_MARGIN"  # how much less is not worse yet, such as 0.05; `off`: not asked


def margin_of(env: Mapping[str, str]) -> float | None:
    """None: not asked. Raises UsageError."""
    text = env.get(ENV, "").strip()
    if text == "off":
        return None
    try:
        found = float(text) if text else MARGIN
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise UsageError(f"{ENV} is a part between 0 and 1, or `off`, not {text[:20]!r}")
    return found


def off_policy(settings: Settings, plan: Plan, env: Mapping[str, str]) -> Mapping[str, Any]:
    """What logged pages say of a plan under the bundle in service. Raises PlanError where it is worse."""
    margin, lake = margin_of(env), lake_of(settings)
    if margin is None or not lake.manifest().files["served"]:
        return {"missing": "not asked" if margin is None else "no served page is in the lake"}
    registry = Registry(settings.registry_url)
    version = registry.live()
    if version is None:
        return {"missing": "no bundle is live"}
    bundle = load(registry.fetch(version, settings.bundles), verify=False)
    views = candidate(lake, registry.loader(settings.bundles), plan, bundle)
    found = released(lake, views, time.time(), most=PAGES)
    if found is not None and (stopped := found.stopped(margin)):
        remedy = f"compare it by `fenliu ope`, or in an experiment; {ENV} says how much less is accepted"
        raise PlanError("the whole", stopped[0], remedy)
    return told(found, margin)
