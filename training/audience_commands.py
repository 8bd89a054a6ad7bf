"""`fenliu plan audience`: count an audience, upload or remove a list, find look-alikes, and say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from features.keyspace import KeySpace, parse_keyspace
from features.tags import TagDictionary
from serving.audience import NO_TAGS, CompiledAudiences, Rule
from serving.audience_rules import AllOf, AnyOf, Named, Not
from serving.lists import Kind, ListShelf
from serving.plan import Plan
from serving.settings import Settings
from training.audiences import (
    AudienceCountError,
    Count,
    compiled_for,
    count,
    write_batch,
    write_scores,
)
from training.base_columns import Base, newest
from training.commands import lake_of, live_plan
from training.id_sets import Ids
from training.lists import Lists, Upload, read_ids
from training.lookalike import Lookalikes, lookalikes
from training.materialize import pointers
from training.progress import counting
from training.workspace import alone


@dataclass(frozen=True, slots=True)
class Counted:
    """What `count_audience` found, and how long the base took to map."""

    count: Count
    mapping_s: float
    base: str


def count_audience(
    settings: Settings,
    name: str,
    *,
    org: str | None = None,
    sample: int = 5,
    seed: int = 0,
    plan: Plan | None = None,
    tags: TagDictionary = NO_TAGS,
    console: Console | None = None,
) -> Counted:
    """Count an audience of the plan (by default the live one) over the whole base, and print the table.

    Raises AudienceCountError, AudienceError, BaseError, PlanError.
    """
    plan = plan or _plan(settings)
    started = time.perf_counter()
    base = newest(settings.home / "base", _version(settings))
    columns = base.columns  # maps every file
    mapping = time.perf_counter() - started
    assert columns.n == base.n
    rules: Mapping[str, Rule] = plan.audiences
    if name not in rules:
        known = ", ".join(rules) or "none"
        raise AudienceCountError(f"the plan has no audience {name!r}; it has: {known}")
    lists = ListShelf(settings.registry_url).numbers()
    audiences = compiled_for(base, _needed(rules, name), lists, tags=tags, actions=plan.actions)
    orgs = {one.id: one.parent for one in plan.orgs}
    found = count(base, audiences, name, orgs=orgs, org=org, sample=sample, seed=seed)
    if console is not None:
        print_count(found, mapping, org, console)
    return Counted(found, mapping, base.version)


def upload(
    settings: Settings,
    name: str,
    file: Path,
    *,
    owner: str,
    whole: bool = False,
    console: Console | None = None,
) -> Upload:
    """Write a file of user ids as a list; a list of that name is replaced. Prints what was done.

    Raises ListError, StoreUnavailable, TrainingBusy while a training is at work in this home.
    """
    return _written(settings, name, read_ids(file), "upload", owner, f"from {file.name}", whole, console)


def remove(settings: Settings, name: str, *, console: Console | None = None) -> Upload:
    """Take a list away, memberships and all. Raises as `upload`."""
    with alone(settings.home), _progress(console, "memberships", 1) as told:
        done = _lists(settings).remove(name, told)
    if console is not None:
        console.print(f"list {name} is removed: {done.removed:,} memberships taken away", highlight=False)
    return done


def lookalike(
    settings: Settings,
    name: str,
    seeds: str,
    top: int,
    *,
    owner: str,
    seed: int = 0,
    console: Console | None = None,
) -> tuple[Lookalikes, Upload]:
    """Find the `top` customers most like those of the list `seeds`, and write them as the list `name`.

    Raises LookalikeError, ListError, BaseError, StoreUnavailable, TrainingBusy.
    """
    lists = _lists(settings)
    base = lists.base or newest(settings.home / "base")
    rows = base.rows(lists.members(lists.entry(seeds).number))
    found = lookalikes(base, rows[rows >= 0], top, np.random.default_rng(seed))
    low, high = found.interval
    note = f"like {seeds}: lift {found.lift:.2f} ({low:.2f} to {high:.2f}) on {found.held_out} held-out seeds"
    done = _written(
        settings, name, np.asarray(base.ids)[found.rows], "lookalike", owner, note, False, console
    )
    if console is not None:
        console.print(note, highlight=False)
    return found, done


def evaluate_offline(
    settings: Settings,
    *,
    owner: str,
    batch: tuple[str, ...] = (),
    plan: Plan | None = None,
    tags: TagDictionary = NO_TAGS,
    console: Console | None = None,
) -> list[Upload]:
    """Evaluate the scores that the plan's audiences name, and the audiences `batch`, into lists.

    To be done after each materialisation, before a plan that names new thresholds is published. Raises
    AudienceCountError, ListError, BaseError, StoreUnavailable, TrainingBusy.
    """
    plan = plan or _plan(settings)
    with alone(settings.home):
        lists = _lists(settings)
        base = lists.base or newest(settings.home / "base")

        def compiled() -> CompiledAudiences:
            numbers = lists.shelf.numbers()
            return compiled_for(base, plan.audiences, numbers, tags=tags, actions=plan.actions, strict=False)

        done = write_scores(base, compiled().scores, lists, owner=owner, at=time.time())
        for name in batch:
            done.append(write_batch(base, compiled(), name, lists, owner=owner, at=time.time()))
    if console is not None:
        for one in done:
            console.print(f"list {one.entry.name}: {one.entry.size:,} customers", highlight=False)
    return done


def print_count(found: Count, mapping_s: float, org: str | None, console: Console) -> None:
    """The count, its breakdown and a masked sample, as tables."""
    share = found.members / found.among if found.among else 0.0
    of = f"customers of {org} and below" if org else "customers"
    most = "at most " if found.upper_bound else ""
    console.print(
        f"audience {found.name}: {most}{found.members:,} of {found.among:,} {of} ({share:.2%}); counted in "
        f"{found.seconds:.3f} s, base mapped in {mapping_s:.3f} s",
        highlight=False,
    )
    if found.not_counted:
        console.print(f"not counted, live: {'; '.join(found.not_counted)}", highlight=False)
    table = Table(box=None)
    for column in ("field", "value", "in it", "of", "share"):
        table.add_column(column, justify="left" if column in ("field", "value") else "right")
    for name, shares in found.breakdown.items():
        for i, one in enumerate(shares):
            rate = f"{one.members / one.among:.1%}" if one.among else "-"
            table.add_row("" if i else name, one.label, f"{one.members:,}", f"{one.among:,}", rate)
    console.print(table)
    if found.sample:
        console.print("for example " + ", ".join(found.sample), highlight=False)


def _written(
    settings: Settings,
    name: str,
    ids: Ids,
    kind: Kind,
    owner: str,
    note: str,
    whole: bool,
    console: Console | None,
) -> Upload:
    with alone(settings.home), _progress(console, "memberships", len(ids)) as told:
        done = _lists(settings).write(
            name, ids, kind=kind, owner=owner, at=time.time(), note=note, whole=whole, progress=told
        )
    if console is not None:
        entry = done.entry
        said = f"list {name} (number {entry.number}, version {entry.version}): {entry.size:,} customers, "
        said += f"{done.added:,} put in, {done.removed:,} taken out"
        said += f"; {done.full:,} are in too many audiences already" if done.full else ""
        said += f"; {done.strangers:,} are not in the base" if done.strangers else ""
        console.print(said, highlight=False)
    return done


def _lists(settings: Settings) -> Lists:
    space = _space(settings)
    base: Base | None = None
    if space is not None and (settings.home / "base" / space.version / "manifest.json").exists():
        base = newest(settings.home / "base", space.version)
    shelf = ListShelf(settings.registry_url)
    return Lists(shelf, lake_of(settings), settings.features_url, space, base)


def _plan(settings: Settings) -> Plan:
    plan = live_plan(settings)
    if plan is None:
        raise AudienceCountError("no plan is published, and the default one has no audiences; name a plan")
    return plan


def _space(settings: Settings) -> KeySpace | None:
    if not settings.control_url:
        return None
    told = pointers(settings.control_url).features
    return None if told is None else parse_keyspace(told)


def _version(settings: Settings) -> str | None:
    space = _space(settings)
    return None if space is None else space.version


def _needed(rules: Mapping[str, Rule], name: str) -> dict[str, Rule]:
    """An audience and those that it names: another one's unknown list is no reason not to count this one."""
    found, waiting = {name: rules[name]}, [rules[name]]
    while waiting:
        rule = waiting.pop()
        waiting += _parts(rule)
        if isinstance(rule, Named) and rule.audience in rules and rule.audience not in found:
            found[rule.audience] = rules[rule.audience]
            waiting.append(rules[rule.audience])
    return found


def _parts(rule: Rule) -> tuple[Rule, ...]:
    if isinstance(rule, AllOf):
        return rule.all
    if isinstance(rule, AnyOf):
        return rule.any
    return (rule.not_,) if isinstance(rule, Not) else ()


@contextmanager
def _progress(console: Console | None, what: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """Calls with how many were just done, shown as a bar."""
    if console is None:
        yield None
        return
    done = 0
    with counting(console, what) as show:

        def step(more: int) -> None:
            nonlocal done
            done += more
            show(done, max(total, done))

        yield step
