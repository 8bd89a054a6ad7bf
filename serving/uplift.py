"""What an offer adds to what the customer would have done anyway: the uplift that training measured, served.

After a click on an item it is used by those who would have bought anyway, and by some of the others, who are
persuaded: `use` = a + (1 - a)·d is what the bank pays for, `delta` = (1 - a)·d is what it gains, and all lie
where probabilities may. Per display both are multiplied by P(clicked | displayed), which the page's own
scorer knows best.

A customer's columns are few (`columns_of`). Each group of items (top category) has a logistic model of buying
in it anyway; all items share one of being persuaded, with a bias each. See training.uplift.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import log1p, nan
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.customer import Customer
from features.ids import KINDS
from features.schema import Record
from features.views import PROFILE
from serving.domain import Scores

FILE: Final = "uplift.json"
PLAIN: Final = ("age_band", "star_level", "payroll", "city_tier")
LOGGED: Final = ("assets", "income", "tenure_days", "clicks_30d", "displays_30d", "conversions_90d",
                 "active_days_30d")  # fmt: skip
STAGES: Final = 6  # lifecycle codes with a column of their own
COLUMNS: Final = (
    *PLAIN,
    *(f"log_{name}" for name in LOGGED),
    "woman",
    *(f"lifecycle_{code}" for code in range(STAGES)),
    *(f"likes_{kind}" for kind in KINDS),
)
_NAMES: Final = (*PLAIN, *LOGGED, "gender", "lifecycle", "kind_affinity")
_KNOWN: Final = {name: PROFILE.bit(name) for name in (*_NAMES, "tags")}
_BITS: Final = {name: np.uint64(bit) for name, bit in _KNOWN.items()}
_EVERY: Final = PROFILE.mask(tuple(_KNOWN))


def columns_of(
    records: NDArray[np.void], known: NDArray[np.uint64], tags: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(n, COLUMNS + tags) of n profiles; NaN where a field is not known. `tags`: bits of the dictionary."""
    x = np.full((len(records), len(COLUMNS) + len(tags)), np.nan, np.float32)
    for at, name in enumerate(PLAIN):
        x[:, at] = records[name]
    first = len(PLAIN)
    for at, name in enumerate(LOGGED):
        x[:, first + at] = np.log1p(np.maximum(records[name].astype(np.float64), 0))
    first += len(LOGGED)
    x[:, first] = records["gender"] == 2
    x[:, first + 1 : first + 1 + STAGES] = records["lifecycle"][:, None] == np.arange(STAGES)
    x[:, first + 1 + STAGES : len(COLUMNS)] = records["kind_affinity"]
    x[:, len(COLUMNS) :] = (records["tags"][:, tags >> 3] >> (tags & 7).astype(np.uint8)) & 1
    for field, places in _PLACES.items():
        x[(known & _BITS[field]) == 0, places] = np.nan
    if len(tags):
        x[(known & _BITS["tags"]) == 0, len(COLUMNS) :] = np.nan
    return x


def _columns_of_one(profile: Record, tags: list[int]) -> list[float]:
    """`columns_of` for one customer: plain numbers are five times as fast there as arrays of length one."""
    values, known = profile.values, profile.known
    row: list[float] = [values[name] for name in PLAIN]
    row += [log1p(max(values[name], 0.0)) for name in LOGGED]
    row.append(values["gender"] == 2)
    stage = values["lifecycle"]
    row += [stage == code for code in range(STAGES)]
    row += values["kind_affinity"].tolist()
    bits = int.from_bytes(values["tags"].tobytes(), "little")
    row += [bits >> tag & 1 for tag in tags]
    if known & _EVERY == _EVERY:
        return row
    for field, places in _PLACES.items():
        if not known & _KNOWN[field]:
            row[places] = [nan] * (places.stop - places.start)
    if not known & _KNOWN["tags"]:
        row[len(COLUMNS) :] = [nan] * len(tags)
    return row


def _places() -> dict[str, slice]:
    """The columns that each field gives."""
    found, at = {}, 0
    for name in _NAMES:
        width = {"lifecycle": STAGES, "kind_affinity": len(KINDS)}.get(name, 1)
        found[name] = slice(at, at + width)
        at += width
    return found


_PLACES: Final = _places()


class PerClick(NamedTuple):
    """(b,) f4 each, of the measured rows in their order."""

    use: Scores  # P(used | clicked)
    delta: Scores  # P(used | clicked) − P(would have bought anyway | clicked)


@dataclass(frozen=True, slots=True, eq=False)
class Uplift:
    """The measured uplift: D = 1 + COLUMNS + tags coefficients a model, the first the constant.

    Raises ValueError where the parts disagree in shape or are not finite (`kind_bias` may be NaN: that kind
    was not measured).
    """

    tags: NDArray[np.int64]  # (T,) bits of the tag dictionary
    centre: NDArray[np.float32]  # (D − 1,) what stands for "not known"
    scale: NDArray[np.float32]  # (D − 1,)
    groups: NDArray[np.uint32]  # (G,) key32 of top categories, ascending
    base: NDArray[np.float32]  # (G + 1, D) logit of buying in the group anyway; the last of any other group
    shift: float  # of that logit among those who click
    persuaded: NDArray[np.float32]  # (D,) logit of being persuaded by a click
    slope: float  # … for each unit of the base logit
    item_keys: NDArray[np.uint64]  # (I,) ascending
    item_bias: NDArray[np.float32]  # (I,)
    kind_bias: NDArray[np.float32]  # (kinds,) of items without a bias of their own

    def __post_init__(self) -> None:
        width = 1 + len(COLUMNS) + len(self.tags)
        shapes = {
            "centre": (width - 1,), "scale": (width - 1,), "base": (len(self.groups) + 1, width),
            "persuaded": (width,), "item_bias": (len(self.item_keys),), "kind_bias": (len(KINDS),),
        }  # fmt: skip
        for name, shape in shapes.items():
            part = getattr(self, name)
            if part.shape != shape:
                raise ValueError(f"uplift: {name} is {part.shape}, not {shape}: train again")
            if name != "kind_bias" and not np.isfinite(part).all():
                raise ValueError(f"uplift: {name} is not finite: train again")
        if not (np.isfinite([self.slope, self.shift]).all() and (self.scale > 0).all()):
            raise ValueError("uplift: slope and shift must be finite and scales above zero: train again")
        for name in ("groups", "item_keys"):
            if (np.diff(getattr(self, name).astype(np.float64)) < 0).any():
                raise ValueError(f"uplift: {name} are not in order: train again")

    def standard(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, D): columns centred and scaled behind a constant; what is not known counts as the mean."""
        x = np.empty((len(columns), len(self.centre) + 1), np.float32)
        x[:, 0] = 1
        np.subtract(columns, self.centre, out=x[:, 1:])
        x[:, 1:] /= self.scale
        x[np.isnan(x)] = 0
        return x

    def of(self, customer: Customer) -> NDArray[np.float32]:
        """(D,) the customer's columns; of one without a profile the mean customer's."""
        if customer.profile is None:
            return self._nobody()
        x = np.empty(len(self.centre) + 1, np.float32)
        x[0] = 1
        x[1:] = _columns_of_one(customer.profile, self.tags.tolist())
        own = x[1:]
        own -= self.centre
        own /= self.scale
        x[x != x] = 0
        return x

    def _nobody(self) -> NDArray[np.float32]:
        x = np.zeros(len(self.centre) + 1, np.float32)
        x[0] = 1
        return x

    def bound(
        self, keys: NDArray[np.uint64], kinds: NDArray[np.uint8], tops: NDArray[np.uint32]
    ) -> MeasuredRows:
        """The measured rows of a catalogue (n): key64, kind code and key32 of the top category of each."""
        kinds = np.minimum(kinds, len(KINDS) - 1)
        rows = np.flatnonzero(np.isfinite(self.kind_bias[kinds])).astype(np.int32)
        at = np.full(len(keys), -1, np.int32)
        at[rows] = np.arange(len(rows), dtype=np.int32)
        own, place = _found(self.item_keys, keys[rows])
        kind = kinds[rows]
        bias = self.kind_bias[kind].copy()
        bias[own] = self.item_bias[place[own]]
        mine, group = _found(self.groups, tops[rows])
        group[~mine] = len(self.groups)
        return MeasuredRows(self, rows, at, group, bias)

    def save(self, folder: Path) -> None:
        body: dict[str, Any] = {name: _plain(getattr(self, name)) for name in _PARTS}
        (folder / FILE).write_text(json.dumps({"columns": COLUMNS, "kinds": KINDS, **body}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Uplift | None:
        """None where the folder holds none. Raises ValueError when it was made for other columns or kinds."""
        path = folder / FILE
        if not path.exists():
            return None
        body: dict[str, Any] = json.loads(path.read_text())
        if body.pop("columns") != list(COLUMNS) or body.pop("kinds") != list(KINDS):
            raise ValueError(f"{path} was made for other columns than this version's: train again")
        types = {"tags": np.int64, "groups": np.uint32, "item_keys": np.uint64}
        parts: dict[str, Any] = {
            name: body[name] if name in _NUMBERS else np.array(body[name], types.get(name, np.float32))
            for name in _PARTS
        }
        return cls(**parts)


_PARTS: Final = ("tags", "centre", "scale", "groups", "base", "shift", "persuaded", "slope", "item_keys",
                 "item_bias", "kind_bias")  # fmt: skip
_NUMBERS: Final = ("shift", "slope")


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredRows:
    """A model bound to a catalogue: `rows` (b,) ascending, `at` (n,) a row's place among them or −1."""

    model: Uplift
    rows: NDArray[np.int32]
    at: NDArray[np.int32]
    group: NDArray[np.int64]
    bias: NDArray[np.float32]

    def per_click(self, x: NDArray[np.float32]) -> PerClick:
        """Of one customer (`Uplift.of`) and all measured rows."""
        model = self.model
        base = model.base @ x
        z = base[self.group]
        anyway = _sigmoid(base + np.float32(model.shift))[self.group]
        wins = _sigmoid(self.bias + np.float32(model.slope) * z + np.float32(model.persuaded @ x))
        delta = (1 - anyway) * wins
        return PerClick(anyway + delta, delta)


def _found(sought: NDArray[Any], keys: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each key is among `sought` (ascending), and where."""
    if not len(sought):
        return np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.int64)
    place = np.minimum(np.searchsorted(sought, keys), len(sought) - 1).astype(np.int64)
    return sought[place] == keys, place


def _sigmoid(z: NDArray[np.float32]) -> Scores:
    made: Scores = np.reciprocal(1 + np.exp(np.minimum(np.maximum(-z, -30), 30)))
    return made


def _plain(part: Any) -> Any:
    """JSON has no NaN: a kind that was not measured is null."""
    if isinstance(part, float):
        return part
    return [None if isinstance(one, float) and one != one else one for one in part.tolist()]
