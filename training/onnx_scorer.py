"""The port for the bank's own models as ONNX: what one says of every customer, as imported scores.

    inputs    one (n, F) float tensor, its F fields named by the model's metadata `fields` (or --fields);
              or one (n,) or (n, 1) tensor each, named like its field
    output    the first: (n, k) float, a column for each item of the metadata `items` (or --items)

Fields are numbers of PROFILE that serve profiling, and columns of the customers' table that PROFILE does not
declare, both as a decision sees them: what is not known, or refused, is NaN. What permission rests on cannot
be asked for, and who refuses profiling is not asked about. The scores then go the way of all imported ones
(`training.scores`): versioned, gated, a source `external(M)`, believed by `serving.trust`. A model that fails
changes nothing: the live version stays until it expires, and pages do without.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.external import ENTRY, KEPT
from features.ids import key32, keys64
from features.views import PROFILE
from training.base_columns import Base
from training.scores import DAYS, LEAST_KNOWN, Imported, ScoresError

EXTRA: Final = "onnx"  # what `pip install` must be asked for
FIELDS: Final = "fields"  # keys of the model's metadata, values parted by commas
ITEMS: Final = "items"
ROWS: Final = 8_192  # customers asked about at once
LEAST_FINITE: Final = 0.8  # share of the answers that must be numbers
PROFILE_FIELDS: Final = tuple(
    one.name for one in PROFILE.fields
    if one.purpose == "profiling" and one.shape == () and one.name != "segment"
)  # fmt: skip

F4 = NDArray[np.float32]


class OnnxScorer:
    """One model, loaded. `fields` in the order of its inputs' columns, `items` of its output's."""

    def __init__(self, blob: bytes, *, fields: Sequence[str] = (), items: Sequence[str] = ()) -> None:
        """Raises ScoresError where it cannot be loaded, or does not say what it reads and answers."""
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the same bits on every machine
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            session = runtime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ScoresError(f"the model cannot be loaded: {_first_line(error)}") from error
        self._session: Any = session
        self.digest: str = blake2b(blob, digest_size=8).hexdigest()
        said: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
        self._inputs: list[Any] = list(session.get_inputs())
        wide = len(self._inputs) == 1 and len(self._inputs[0].shape) == 2 and self._inputs[0].shape[1] != 1
        named = [one.name for one in self._inputs]
        self.fields = tuple(fields) or _parted(said.get(FIELDS)) or (() if wide else tuple(named))
        self.items = tuple(items) or _parted(said.get(ITEMS))
        self._whole = len(self._inputs) == 1 and (wide or bool(_parted(said.get(FIELDS)) or fields))
        if not self._whole and (strange := sorted(set(self.fields) ^ set(named))):
            raise ScoresError(f"fields and inputs do not agree: {', '.join(strange)}")
        if not self.fields:
            raise ScoresError(
                f"the model does not say what it reads: give it metadata {FIELDS!r}, or --fields"
            )
        if not self.items or len(set(self.items)) < len(self.items):
            raise ScoresError(f"name each item of the output once: by metadata {ITEMS!r}, or --items")
        for one in self._inputs:
            if one.type not in ("tensor(float)", "tensor(double)"):
                raise ScoresError(f"input {one.name!r} is {one.type}: only floats are given")
        if not str(session.get_outputs()[0].type).startswith("tensor("):
            raise ScoresError("the first output is no tensor (of a scikit-learn classifier: zipmap=False)")

    def score(self, columns: F4) -> F4:
        """(n, items) f4 for customers (n, fields); raises ScoresError where the model fails or answers
        something of another shape.
        """
        try:
            answer = np.asarray(self._session.run(None, self._fed(columns))[0])
            found = answer.astype(np.float32)
        except Exception as error:
            raise ScoresError(f"the model failed: {_first_line(error)}") from error
        if found.ndim == 1:
            found = found[:, None]
        if found.shape != (len(columns), len(self.items)):
            raise ScoresError(
                f"the model answers {found.shape} for {len(columns):,} customers and {len(self.items)} items"
            )
        return found

    def _fed(self, columns: F4) -> dict[str, NDArray[Any]]:
        def typed(one: Any, values: F4) -> NDArray[Any]:
            return values.astype(np.float64 if one.type == "tensor(double)" else np.float32)

        if self._whole:
            return {self._inputs[0].name: typed(self._inputs[0], np.ascontiguousarray(columns))}
        at = {name: place for place, name in enumerate(self.fields)}
        return {
            one.name: typed(one, columns[:, at[one.name]].reshape(-1, *([1] * (len(one.shape) - 1))))
            for one in self._inputs
        }


def kept_name(digest: str) -> str:
    """Of the model's file beside its scores in the lake."""
    return f"{digest}.onnx"


def asked(
    model: OnnxScorer, base: Base, name: str, known: NDArray[np.uint64], *, now: float, days: float = DAYS
) -> Imported:
    """What the model says of every customer who allows profiling, the KEPT best of each; `known`: keys of
    the catalogue's items, `days` that a score counts. Raises ScoresError.
    """
    keys = keys64(list(model.items))
    there = np.isin(keys, known)
    if there.mean() < LEAST_KNOWN:
        missing = [item for item, found in zip(model.items, there.tolist(), strict=True) if not found]
        raise ScoresError(f"the catalogue does not know {len(missing)} of the model's items: {missing[0]}, …")
    columns = columns_of(base, model.fields)
    people = np.flatnonzero(np.asarray(base.fields["profiling"]) != 0)
    users: list[str] = []
    counts: list[NDArray[np.int64]] = []
    parts: list[NDArray[np.void]] = []
    strange = 0
    for first in range(0, len(people), ROWS):
        some = people[first : first + ROWS]
        score = model.score(np.stack([column(some) for column in columns], axis=1))[:, there]
        strange += int((~np.isfinite(score)).sum())
        held, entries = _best(score, keys[there])
        entries["model"] = key32(name)
        entries["expires"] = min(now + days * 86_400.0, np.iinfo(np.uint32).max)
        parts.append(entries)
        counts.append(held[held > 0])
        users += [one.decode() for one in np.asarray(base.ids)[some[held > 0]].tolist()]
    answers = len(people) * int(there.sum())
    if not users or strange > (1.0 - LEAST_FINITE) * answers:
        raise ScoresError(f"{strange:,} of {answers:,} answers are no numbers: nothing was imported")
    notes = [f"{strange:,} of {answers:,} answers are no numbers and left out"] if strange else []
    if not there.all():
        notes.append(f"{int((~there).sum())} items of the model are not in the catalogue")
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return Imported(tuple(users), indptr, np.concatenate(parts), tuple(notes))


def columns_of(base: Base, fields: Sequence[str]) -> list[Any]:
    """For each field a function of rows (n,) to values (n,) f4, NaN where they are not known. Raises
    ScoresError for fields that there are not, or that a model may not ask for.
    """

    def of_profile(name: str) -> Any:
        values, bit = base.fields[name], np.uint64(PROFILE.bit(name))

        def column(rows: NDArray[np.intp]) -> F4:
            told = (base.known[rows] & bit) != 0
            return np.where(told, values[rows], np.nan).astype(np.float32)

        return column

    def of_table(name: str) -> Any:
        def column(rows: NDArray[np.intp]) -> F4:
            return np.asarray(base.scores[name][rows], np.float32)

        return column

    found = []
    for name in fields:
        if name in PROFILE_FIELDS:
            found.append(of_profile(name))
        elif name in PROFILE.names:
            raise ScoresError(f"a model may not ask for {name!r}: it is no number, or permission rests on it")
        elif name in base.scores:
            found.append(of_table(name))
        else:
            there = ", ".join([*PROFILE_FIELDS, *sorted(base.scores)])
            raise ScoresError(f"the base knows no {name!r}; there are {there}")
    return found


def _best(score: F4, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """How many entries each customer has, and those, the best first; equal ones by their keys."""
    by_key = np.argsort(keys)
    ranked = np.where(np.isfinite(score), score, -np.inf)[:, by_key]
    order = np.argsort(-ranked, axis=1, kind="stable")[:, :KEPT]
    value = np.take_along_axis(ranked, order, axis=1)
    good = np.isfinite(value)
    found = np.zeros(int(good.sum()), ENTRY)
    found["item"] = keys[by_key][order[good]]
    found["score"] = value[good]
    return good.sum(axis=1).astype(np.int64), found


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ScoresError(f"ONNX models need onnxruntime: pip install 'fenliu[{EXTRA}]'") from error


def _parted(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
