"""The experiments of a plan checked as a whole: names, ranges, ramps, who may change what together.

The first defect is raised, with its path and what to do. Needs no catalogue and no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations, pairwise, product
from math import prod
from typing import TYPE_CHECKING, Final

from serving.experiment import Arm, Changes, Experiment, Experiments, Layer
from serving.metric_names import BETTER
from serving.plan_error import PlanError

if TYPE_CHECKING:
    from serving.plan_text import Plan

MOST_VARIANTS: Final = 32
MOST_BUNDLES: Final = 4  # beside the one that runs: each is mapped whole
GLOBAL: Final = "*"  # the layer that the global holdout is logged as
HOLDOUT: Final = "holdout"
SHAPE: Final = frozenset(("layout", "size", "kinds", "kinds_least", "kinds_most", "display_rates"))
"""Fields of a slot that have to fit each other: set in one layer only."""
Parameter = tuple[str, ...]


def check_experiments(plan: Plan) -> None:
    """Raises PlanError."""
    for at, campaign in enumerate(plan.campaigns):
        if campaign.ghost and campaign.tier == "mandatory":
            path = f"campaigns.{at}.ghost ({campaign.id})"
            raise PlanError(path, "a mandatory campaign is held out from nobody", "remove it")
    if plan.experiments is None:
        return
    text = plan.experiments
    _check_names("experiments.domains", [one.name for one in text.domains])
    if sum(one.share for one in text.domains) > 1 + 1e-9:
        raise PlanError("experiments.domains", "their shares add up to more than 1", "lower a share")
    _check_names("experiments.layers", [one.name for one in text.layers])
    every = [one.name for layer in text.layers for one in layer.experiments]
    _check_names("experiments", every)
    for at, layer in enumerate(text.layers):
        path = f"experiments.layers.{at}"
        if layer.name == GLOBAL:
            raise PlanError(f"{path}.name", "stands for the global holdout", "choose another name")
        if layer.domain is not None and layer.domain not in {one.name for one in text.domains}:
            raise PlanError(f"{path}.domain ({layer.name})", f"{layer.domain!r} is no domain", "declare it")
        for place, one in enumerate(layer.experiments):
            _check_experiment(f"{path}.experiments.{place}", one, layer, plan)
        _check_ranges(path, layer)
    _check_ownership(text)
    _check_variants(text)
    _check_bundles(text)
    _check_testers(text)


def arm_bundles(text: Experiments) -> dict[str, str]:
    """Version -> the path of the first live arm that is served from that bundle."""
    found: dict[str, str] = {}
    for at, layer in enumerate(text.layers):
        for place, one in enumerate(layer.experiments):
            for number, arm in enumerate(one.arms):
                if arm.changes.bundle is not None and arm.state == "live":
                    path = f"experiments.layers.{at}.experiments.{place}.arms.{number}.changes.bundle"
                    found.setdefault(arm.changes.bundle, f"{path} ({one.name}/{arm.name})")
    return found


def parameters(changes: Changes) -> Iterator[Parameter]:
    """What an arm sets, each as (what, of which, …): two layers of one unit may not set the same."""
    for slot, change in changes.slots.items():
        yield from dict.fromkeys(("slots", slot, "shape" if one in SHAPE else one) for one in change.said)
    for what in ("levers", "creatives", "paused"):
        yield from ((what, name) for name in getattr(changes, what))
    for what in ("values", "ranker", "sources_off", "bundle"):
        if getattr(changes, what):
            yield (what,)


def variants_in(layer: Layer) -> list[tuple[Experiment, Arm]]:
    """The arms of a layer that change anything."""
    return [(one, arm) for one in layer.experiments for arm in one.arms if any(parameters(arm.changes))]


def parts(text: Experiments) -> list[list[Layer]]:
    """The layers that one unit may meet together: of no domain, and of each domain."""
    wide = [layer for layer in text.layers if layer.domain is None]
    of = [[layer for layer in text.layers if layer.domain == domain.name] for domain in text.domains]
    return [[*wide, *own] for own in of] + [wide]


def combinations_in(text: Experiments) -> Iterator[tuple[tuple[Experiment, Arm], ...]]:
    """Every set of arms with changes that one unit can be in, at least one; each once, in a fixed order."""
    seen: set[tuple[tuple[str, str], ...]] = set()
    for layers in parts(text):
        for chosen in product(*([None, *variants_in(layer)] for layer in layers)):
            some = tuple(one for one in chosen if one is not None)
            names = tuple((one.name, arm.name) for one, arm in some)
            if names and names not in seen:
                seen.add(names)
                yield some


def _check_names(path: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PlanError(path, f"{name!r} is there twice", "rename one of them")
        if "/" in name:
            raise PlanError(path, f"{name!r} holds a slash", "use a dash")


def _check_experiment(path: str, one: Experiment, layer: Layer, plan: Plan) -> None:
    def wrong(field: str, problem: str, remedy: str) -> PlanError:
        return PlanError(f"{path}.{field} ({one.name})", problem, remedy)

    low, high = one.range
    if not low < high:
        raise wrong("range", f"[{low:g}, {high:g}) is empty", "let it end after it begins")
    if high > 1 - layer.holdout + 1e-12:
        raise wrong("range", f"ends in the holdout of {layer.name}", f"end it at {1 - layer.holdout:g}")
    for before, after in pairwise(one.ramp):
        if after.at <= before.at:
            raise wrong("ramp", "its steps are not in the order of time", "sort them")
        if after.enrolled < before.enrolled:
            problem = f"falls from {before.enrolled:g} to {after.enrolled:g}: who is in would go out"
            raise wrong("ramp", problem, "keep or raise the share; `until` or `state: paused` ends it")
    if one.until is not None and one.until <= one.ramp[0].at:
        raise wrong("until", "is not after its start", "end it later")
    known = f"name one of {', '.join(BETTER)}"
    if one.criterion not in BETTER:
        raise wrong("criterion", f"{one.criterion!r} is no metric", known)
    watched = [each.metric for each in one.guardrails]
    for number, each in enumerate(one.guardrails):
        if each.metric not in BETTER:
            raise wrong(f"guardrails.{number}.metric", f"{each.metric!r} is no metric", known)
        if watched.count(each.metric) > 1:  # tests are kept by metric: each would take what is seen twice
            raise wrong("guardrails", f"{each.metric!r} is there twice", "keep the stricter one")
        if each.worse not in (None, each.harm):
            problem = f"{each.worse} {each.metric} is better: the arm that does well would be switched off"
            raise wrong(f"guardrails.{number}.worse", problem, f"remove it, or write {each.harm}")
    if one.audience is not None and one.audience not in plan.audiences:
        raise wrong("audience", f"{one.audience!r} is no audience", "declare it in `audiences`")
    _check_names(f"{path}.arms ({one.name})", [arm.name for arm in one.arms])
    for at, arm in enumerate(one.arms):
        if arm.name == HOLDOUT:
            raise wrong(f"arms.{at}.name", "stands for the holdout", "choose another name")
        _check_changes(f"{path}.arms.{at}.changes", one.name, arm.changes, plan)


def _check_changes(path: str, name: str, changes: Changes, plan: Plan) -> None:
    slots = {slot.name for slot in plan.slots}
    campaigns = {one.id: one for one in plan.campaigns}
    asked: list[tuple[str, Collection[str], Collection[str], str]] = [
        ("slots", changes.slots, slots, "slot"),
        ("levers", changes.levers, campaigns, "campaign"),
        ("creatives", changes.creatives, campaigns, "campaign"),
        ("paused", changes.paused, campaigns, "campaign"),
    ]
    for field, named, known, what in asked:
        for each in named:
            if each not in known:
                raise PlanError(
                    f"{path}.{field}.{each} ({name})",
                    f"is no {what} of the plan",
                    f"name a {what} of the plan",
                )
    for campaign, by_item in changes.creatives.items():
        for item in by_item:
            if item not in campaigns[campaign].items:
                where = f"{path}.creatives.{campaign}.{item} ({name})"
                raise PlanError(where, "is no item of the campaign", "name one of its items")
    for slot, change in changes.slots.items():
        if not change.said:
            raise PlanError(f"{path}.slots.{slot} ({name})", "changes nothing", "remove it")


def _check_ranges(path: str, layer: Layer) -> None:
    """Units exclude each other: at no moment may two experiments of a layer have the same range."""
    for one, other in combinations(layer.experiments, 2):
        apart = one.range[1] <= other.range[0] or other.range[1] <= one.range[0]
        after = (one.until is not None and one.until <= other.ramp[0].at) or (
            other.until is not None and other.until <= one.ramp[0].at
        )
        if not (apart or after):
            problem = f"{one.name!r} and {other.name!r} have a part of the layer in common"
            raise PlanError(f"{path}.experiments ({layer.name})", problem, "part their ranges or their times")


def _check_ownership(text: Experiments) -> None:
    for layers in parts(text):
        owner: dict[Parameter, str] = {}
        for layer in layers:
            for one, arm in variants_in(layer):
                for parameter in parameters(arm.changes):
                    held = owner.setdefault(parameter, layer.name)
                    if held != layer.name:
                        what = ".".join(parameter)
                        raise PlanError(
                            f"experiments ({one.name}/{arm.name})",
                            f"{what} is set in the layers {held!r} and {layer.name!r}, which share units",
                            "move one experiment into the other's layer, or part the layers by domains",
                        )


def _check_variants(text: Experiments) -> None:
    count = sum(prod(1 + len(variants_in(layer)) for layer in layers) for layers in parts(text))
    if count - 1 > MOST_VARIANTS:
        raise PlanError(
            "experiments",
            f"{count - 1} combinations of arms are each a plan held in memory, of at most {MOST_VARIANTS}",
            "put experiments into one layer or into domains, or remove what has ended",
        )


def _check_bundles(text: Experiments) -> None:
    found = arm_bundles(text)
    if len(found) > MOST_BUNDLES:
        raise PlanError(
            list(found.values())[MOST_BUNDLES],
            f"is the bundle number {MOST_BUNDLES + 1} beside the live one, of at most {MOST_BUNDLES}",
            "compare fewer bundles at a time",
        )


def _check_testers(text: Experiments) -> None:
    known = {
        layer.name: {f"{one.name}/{arm.name}" for one in layer.experiments for arm in one.arms}
        for layer in text.layers
    }
    domain_of = {layer.name: layer.domain for layer in text.layers}
    for tester, forced in text.testers.items():
        domains = {domain_of[layer] for layer in forced if domain_of.get(layer) is not None}
        if len(domains) > 1:
            path = f"experiments.testers.{tester}"
            raise PlanError(
                path, "asks for layers of two domains", "nobody is in two: name one domain's layers"
            )
        for layer, name in forced.items():
            path = f"experiments.testers.{tester}.{layer}"
            if layer not in known:
                raise PlanError(path, "is no layer", f"name one of {', '.join(known) or 'none declared'}")
            if name not in known[layer]:
                raise PlanError(path, f"{name!r} is no arm of the layer", "write EXPERIMENT/ARM")
