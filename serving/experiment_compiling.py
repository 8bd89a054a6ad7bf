"""Experiments of a checked plan compiled: arms by number, audiences of their own, what each may change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

import numpy as np

from features.ids import user_subject, visitor_subject
from features.tags import TagDictionary
from serving.audience import NO_AUDIENCES, NO_TAGS, compile_audiences
from serving.audience_facts import NO_LOOKUPS, Lookups
from serving.audience_rules import AllOf, AnyOf, Named, Not, Rule
from serving.experiment import Experiment, Layer
from serving.experiment_checks import parameters
from serving.experiments import (
    DOMAIN_SALT,
    EVERYWHERE,
    GLOBAL_SALT,
    NO_EXPERIMENTS,
    Adaptive,
    Assigned,
    CompiledArm,
    CompiledExperiment,
    CompiledExperiments,
    CompiledLayer,
)
from serving.plan_text import Plan
from serving.splitting import salt_of


def compile_experiments(
    plan: Plan,
    slot_bits: Mapping[str, int],
    lookups: Lookups = NO_LOOKUPS,
    *,
    lists: Mapping[str, int] | None = None,
    tags: TagDictionary = NO_TAGS,
) -> CompiledExperiments:
    """Of a checked plan. `slot_bits`: slot -> its bit; `lookups`, `lists`, `tags`: what audiences read."""
    text = plan.experiments
    if text is None or not text.layers:
        return NO_EXPERIMENTS
    named = [one.audience for layer in text.layers for one in layer.experiments if one.audience is not None]
    audiences = NO_AUDIENCES
    if named:  # those that experiments need, by themselves: pages that meet no such experiment ask for none
        rules = {name: plan.audiences[name] for name in _closure(plan.audiences, named)}
        audiences = compile_audiences(rules, lists=lists or {}, tags=tags, actions=plan.actions, strict=False)
    arms: list[str] = []
    layers, low = [], 0.0
    salts = [salt_of(text.salt, "holdout"), salt_of(text.salt, "domain")]
    ranges: dict[str | None, tuple[float, float] | None] = {None: None}
    for domain in text.domains:
        ranges[domain.name] = (low, low + domain.share)
        low += domain.share
    campaign_slots = {one.id: sum(slot_bits.get(slot, 0) for slot in one.slots) for one in plan.campaigns}
    for layer in text.layers:
        salt, at = salt_of(text.salt, "layer", layer.name), len(salts)
        salts.append(salt)
        made = tuple(
            _compiled(plan, layer, one, slot_bits, campaign_slots, audiences.index, arms, salts)
            for one in _running(layer)
        )
        layers.append(CompiledLayer(layer.name, salt, at, ranges[layer.domain], 1.0 - layer.holdout, made))
    compiled = CompiledExperiments(
        tuple(layers),
        tuple(arms),
        salts[GLOBAL_SALT],
        text.holdout,
        salts[DOMAIN_SALT],
        {},
        audiences,
        lookups,
        {
            one.name: Adaptive.of([arm.assigned for arm in made.arms if arm.live])
            for layer, compiled_layer in zip(text.layers, layers, strict=True)
            for one, made in zip(_running(layer), compiled_layer.experiments, strict=True)
            if one.adaptive
        },
        {
            one.name: places
            for layer in text.layers
            for one in _running(layer)
            if (places := _campaigns_only(plan, one)) is not None
        },
        np.array(salts, np.uint64),
    )
    return _with_testers(compiled, text.testers)


def _running(layer: Layer) -> list[Experiment]:
    return [one for one in layer.experiments if one.state == "running"]


def _compiled(
    plan: Plan,
    layer: Layer,
    one: Experiment,
    slot_bits: Mapping[str, int],
    campaign_slots: Mapping[str, int],
    audiences: Mapping[str, int],
    names: list[str],
    salts: list[int],
) -> CompiledExperiment:
    """Its arms' names go to `names`, its salts to `salts`."""
    salt = plan.experiments.salt if plan.experiments is not None else ""
    total, below, slots = sum(arm.weight for arm in one.arms), 0.0, 0
    arms: list[CompiledArm] = []
    for arm in one.arms:
        below += arm.weight / total
        number, name = -1, f"{one.name}/{arm.name}"
        if any(parameters(arm.changes)):
            number = len(names)
            names.append(name)
            slots |= _touched(arm.changes, slot_bits, campaign_slots)
        arms.append(CompiledArm(Assigned(layer.name, name, number), below, arm.state == "live"))
    arms[-1] = CompiledArm(arms[-1].assigned, inf, arms[-1].live)  # whatever the sum of the weights rounds to
    enrolled, by_arm = salt_of(salt, "enrolled", one.name, one.salt), salt_of(salt, "arm", one.name, one.salt)
    salts += [enrolled, by_arm]
    return CompiledExperiment(
        *one.range,
        tuple(step.at.timestamp() for step in one.ramp),
        tuple(step.enrolled for step in one.ramp),
        one.until.timestamp() if one.until is not None else inf,
        audiences[one.audience] if one.audience is not None else -1,
        one.unit == "device",
        enrolled,
        by_arm,
        len(salts) - 2,
        tuple(arms),
        slots or EVERYWHERE,  # nothing is changed: an A/A test, counted everywhere
    )


def _touched(changes: object, slot_bits: Mapping[str, int], campaign_slots: Mapping[str, int]) -> int:
    """Bits of the slots where an arm may make a difference; a value table, a ranker, a source: all."""
    bits = 0
    for parameter in parameters(changes):  # type: ignore[arg-type]
        if parameter[0] == "slots":
            bits |= slot_bits.get(parameter[1], 0)
        elif parameter[0] in ("levers", "creatives", "paused"):
            bits |= campaign_slots.get(parameter[1], 0)
        else:
            return EVERYWHERE
    return bits


def campaigns_changed(one: Experiment) -> frozenset[str] | None:
    """Ids of the campaigns that its arms change; None where they change anything else, or nothing at all."""
    changes = [each for arm in one.arms for each in parameters(arm.changes)]
    if not changes or any(what not in ("levers", "creatives", "paused") for what, *_ in changes):
        return None
    return frozenset([of for _, of in changes])


def _campaigns_only(plan: Plan, one: Experiment) -> tuple[int, ...] | None:
    names = campaigns_changed(one)
    if names is None:
        return None
    live = [campaign.id for campaign in plan.campaigns if campaign.state == "live"]
    return tuple([at for at, name in enumerate(live) if name in names])


def _closure(rules: Mapping[str, Rule], names: Iterable[str]) -> list[str]:
    """Names of audiences and of those that their rules name, each once."""
    found: dict[str, None] = {}
    waiting: list[Rule] = [Named(audience=name) for name in names]
    while waiting:
        rule = waiting.pop()
        if isinstance(rule, Named) and rule.audience not in found:
            found[rule.audience] = None
            waiting.append(rules[rule.audience])
        elif isinstance(rule, AllOf):
            waiting += rule.all
        elif isinstance(rule, AnyOf):
            waiting += rule.any
        elif isinstance(rule, Not):
            waiting.append(rule.not_)
    return list(found)


def _with_testers(
    compiled: CompiledExperiments, testers: Mapping[str, Mapping[str, str]]
) -> CompiledExperiments:
    known = {
        (layer.name, arm.assigned.name): arm.assigned._replace(forced=True)
        for layer in compiled.layers
        for one in layer.experiments
        for arm in one.arms
    }
    for tester, forced in testers.items():
        mine = {layer: known[layer, name] for layer, name in forced.items() if (layer, name) in known}
        for subject in (user_subject(tester), visitor_subject(tester)):
            compiled.testers[subject] = mine  # type: ignore[index]  # filled while it is made
    return compiled
