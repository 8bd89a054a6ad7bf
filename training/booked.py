"""A plan's forecast as governance keeps it: `book(settings, plan)`, over the replay sample in the home."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from serving.arm_bundles import only
from serving.bundle import load as load_bundle
from serving.lists import ListShelf
from serving.live import build_live
from serving.plan import Plan, PlanError, default_plan
from serving.registry import Registry
from serving.settings import Settings
from training.booking_commands import FOLDER, forecast, stocked
from training.booking_record import Forecasts, document
from training.commands import live_plan
from training.sample_columns import SampleError, load


def book(settings: Settings, plan: Plan) -> Mapping[str, Any]:
    """What it would deliver, as JSON values; `missing` says why there is none. Raises PlanError."""
    registry = Registry(settings.registry_url)
    version = registry.live()
    try:
        sample = load(settings.home / FOLDER)
    except SampleError as bad:
        return {"missing": str(bad)}
    if version is None:
        return {"missing": "no bundle is live"}
    bundle = load_bundle(registry.fetch(version, settings.bundles))
    lists = ListShelf(settings.registry_url).numbers()
    try:
        running = live_plan(settings)
    except PlanError:  # what is in force cannot be read: compared with what fits the bundle
        running = None
    before = running or default_plan(bundle.kind_counts())
    after, now = (
        stocked(build_live(bundle, (), one, lists=lists, strict=False, bundles=only(bundle)))
        for one in (plan, before)
    )
    forecasts, moment = Forecasts(settings.registry_url), time.time()
    booking = forecast(after, now, sample, moment, forecasts.track())
    forecasts.keep(booking, moment)
    return document(booking)
