"""From the files of a request to a study: one numbering of users and items, times, parts, candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.columns import Codes
from training.config import TrainConfig
from training.evaluate import Lists
from training.model import Positives
from training.study import Rules, Study, prepare
from training.study_attributes import customers_from, shelves_from
from training.study_files import Log, Reading, read_attributes, read_candidates, read_log
from training.study_split import TEST, TRAIN, VALID, core, divide


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be evaluated: the files by role, and everything else as the command line has it."""

    files: Mapping[str, Path]
    reading: Reading
    rules: Rules
    split: str | None
    core: int
    segment: str | None
    item_group: str | None
    metric: str | None
    ks: tuple[int, ...]
    models: tuple[str, ...]
    seeds: int
    learn_valid: bool
    rank_valid: bool
    config: TrainConfig
    trials: int
    curve: tuple[int, ...] = ()


def load(request: Request, *, now: float) -> Study:
    """The files as a study. Raises DataError."""
    files, how = request.files, request.reading
    notes: list[str] = []
    roles = [role for role in ("data", "train", "valid", "known", "test") if role in files]
    logs = {role: read_log(files[role], how, now=now) for role in roles}
    for log in logs.values():
        notes += log.notes
    users = Codes.joined([log.user for log in logs.values()])
    items = Codes.joined([log.item for log in logs.values()])
    user_names, item_names = users.values, items.values
    lengths = [len(log) for log in logs.values()]
    cuts = np.cumsum(lengths)[:-1]
    every = list(zip(logs, np.split(users.codes, cuts), np.split(items.codes, cuts), strict=True))
    at = np.concatenate([log.at for log in logs.values()])
    timed, times = _times(at, [logs[role] for role in roles], notes)
    parts: dict[str, Positives] = {}
    for (role, user, item), when in zip(every, np.split(times, cuts), strict=True):
        whole = Positives(user, item, when, logs[role].weight)
        parts[role] = whole
    if "data" in parts:
        parts = _divided(parts["data"], logs["data"], request, timed, notes)
    elif request.core > 1:
        kept = core(parts["train"], request.core)
        notes.append(f"{request.core}-core of the training part: {int(kept.sum()):,} of {len(kept):,} rows")
        parts["train"] = parts["train"].take(kept)
    ordered = {role: one.take(np.argsort(one.at, kind="stable")) for role, one in parts.items()}
    _count_repeats(ordered, len(item_names), notes)
    candidates = None
    if "candidates" in files:
        candidates = _candidates(files["candidates"], how, user_names, item_names, notes)
    customers, segments = customers_from(
        user_names,
        read_attributes(files["users"], how, "user") if "users" in files else None,
        request.segment,
    )
    shelves = shelves_from(
        item_names,
        read_attributes(files["items"], how, "item") if "items" in files else None,
        request.item_group,
    )
    return prepare(
        user_names, item_names, ordered["train"], ordered["test"], request.rules,
        timed=timed, customers=customers, valid=ordered.get("valid"), learn_valid=request.learn_valid,
        mask_valid=not request.rank_valid, also_known=ordered.get("known"), candidates=candidates,
        segments=segments, shelves=shelves, tuning_customers=request.config.evaluation.tuning_customers,
        notes=tuple(notes),
    )  # fmt: skip


def _times(
    at: NDArray[np.float64], logs: Sequence[Log], notes: list[str]
) -> tuple[bool, NDArray[np.float64]]:
    """Whether decay makes sense, and a time for every row: its own, or its place in the files."""
    known = np.isfinite(at)
    trained = np.concatenate([np.isfinite(log.at) for log in logs[:-1] or logs])
    if known.any() and trained.mean() >= 0.99 and float(np.median(at[known])) > 1e7:
        first = float(at[known].min())
        if not known.all():
            late = float(at[known].max())
            filled = np.where(known, at, first)
            if len(logs) > 1 and not np.isfinite(logs[-1].at).all():
                filled[-len(logs[-1]) :] = np.where(known[-len(logs[-1]) :], at[-len(logs[-1]) :], late)
            return True, filled
        return True, at
    order = np.arange(len(at), dtype=np.float64)
    if known.all():
        order = at
    elif known.any():
        notes.append("less than 99 % of the rows have a time: times are not used")
    return False, order


def _divided(
    events: Positives, log: Log, request: Request, timed: bool, notes: list[str]
) -> dict[str, Positives]:
    marks = None
    if log.part is not None:
        names = np.array([*log.part.values, ""], object)
        marks = names[log.part.codes].tolist()
    if request.core > 1:
        kept = core(events, request.core)
        notes.append(f"{request.core}-core: {int(kept.sum()):,} of {len(kept):,} rows")
        events = events.take(kept)
        marks = [mark for mark, keep in zip(marks, kept.tolist(), strict=True) if keep] if marks else None
    ordered = bool(np.any(np.diff(events.at) < 0)) or timed
    how = request.split or ("marked" if marks is not None else "time:0.8" if timed else "random:0.2")
    parts = divide(events, how, marks, timed=timed or (ordered and how == "last"), seed=request.rules.seed)
    notes.append(f"split: {parts.said}")
    found = {
        name: events.take(parts.part == code)
        for name, code in (("train", TRAIN), ("valid", VALID), ("test", TEST))
    }
    return {name: one for name, one in found.items() if len(one) or name != "valid"}


def _count_repeats(parts: Mapping[str, Positives], n_items: int, notes: list[str]) -> None:
    for role, one in parts.items():
        once = len(np.unique(one.user.astype(np.int64) * n_items + one.item))
        if once < len(one):
            notes.append(
                f"{role}: {len(one) - once:,} of {len(one):,} rows repeat a user and an item: weights add up"
            )


def _candidates(
    path: Path, how: Reading, users: tuple[str, ...], items: tuple[str, ...], notes: list[str]
) -> Lists:
    user, item = read_candidates(path, how)
    user_row, item_row = ({name: row for row, name in enumerate(names)} for names in (users, items))
    owner = np.array([user_row.get(name, -1) for name in user.values], np.int64)[user.codes]
    what = np.array([item_row.get(name, -1) for name in item.values], np.int64)[item.codes]
    good = (owner >= 0) & (what >= 0)
    if not good.all():
        notes.append(
            f"candidates: {int((~good).sum()):,} rows name a user or an item that is in no other file"
        )
    return Lists.group(owner[good], what[good].astype(np.int32), len(users))
