"""Histories into the lake: a day's rows as EVENT_COLUMNS and OUTCOME_COLUMNS, in one commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from features.events import ACTIONS, WHAT
from training.lake import EVENT_COLUMNS, OUTCOME_COLUMNS, Lake
from training.world.catalogue import FAMILIES
from training.world.layout import HOME, Layout
from training.world.policy import Policy
from training.world.rows import ACTED, DISPLAYED, OUTCOME, Rows

if TYPE_CHECKING:
    from training.world.history import World, Written

pc: Any = pyarrow.compute
arrow: Any = pa  # as untyped: the stubs know fewer argument types than the library takes
SOURCE = "world"
_TYPES = ("", *WHAT)


def write_history(
    world: World,
    lake: Lake,
    days: int,
    progress: Callable[[int, int], None] | None = None,
    policy: Policy | None = None,
) -> Written:
    """See World.write."""
    from training.world.history import Written

    lake.write_items(item.model_dump(mode="json", exclude_defaults=True) for item in world.items())
    respondent = world.respondent()
    columns = Columns(world)
    name = f"{SOURCE}-{world.seed}-{len(world.customers)}-{len(world.catalogue)}-{world.start:.0f}"
    events = outcomes = 0
    for day in world.history(days, policy, respondent):
        told, known = columns.events(day.rows, f"{day.number}"), columns.outcomes(day.rows, f"{day.number}")
        append(lake, told, known, f"{name}-{day.number}")
        events, outcomes = events + told.num_rows, outcomes + known.num_rows
        if progress is not None:
            progress(day.number + 1, events + outcomes)
    until = world.start + days * 86_400.0
    lake.write_users(world.users(until, respondent))
    return Written(events, outcomes, respondent.pages, until, respondent)


def append(lake: Lake, events: pa.Table, outcomes: pa.Table, batch: str) -> bool:
    """Events and outcomes in one commit; False when `batch` is there already."""
    with lake.writing():
        manifest = lake.manifest()
        if batch in manifest.batches:
            return False
        manifest.files["events"] += lake.write_parts("events", events, batch)
        manifest.files["outcomes"] += lake.write_parts("outcomes", outcomes, batch)
        manifest.batches[batch] = events.num_rows + outcomes.num_rows
        lake.commit(manifest)
    return True


class Columns:
    """Turns rows of one world into tables of the lake. `layout`: that of the pages they came from."""

    def __init__(self, world: World, layout: Layout = HOME) -> None:
        self._users = pa.array(world.customers.ids)
        self._subjects = pa.array(["u:" + user for user in world.customers.ids])
        self._items = pa.array(world.catalogue.ids)
        self._keys = world.catalogue.keys
        self._channels = world.customers.channel.astype(np.uint8)
        self._slots = layout.slot_keys[layout.slot_of]
        self._positions = layout.position_of.astype(np.int16)
        self._run = f"w{world.seed}"

    def events(self, rows: Rows, mark: str) -> pa.Table:
        """EVENT_COLUMNS of all rows but outcomes. `mark` (such as the day) makes ids of one call its own."""
        rows = rows[rows["what"] != OUTCOME]
        n, what = len(rows), rows["what"]
        placed = rows["page"] >= 0
        placed &= (
            what != ACTED
        )  # purchases after a mere look: the simulation knows the page, nobody else does
        place = np.maximum(rows["place"], 0)
        with_item = rows["item"] >= 0
        decision = self._joined("d", rows["page"])
        decided = np.where(placed, rows["decided_at"], -np.inf)
        bought = ~np.isnan(rows["amount"])
        table = {
            "event_id": self._event_ids(rows, placed, mark),
            "type": self._coded(what, _TYPES),
            "occurred_at": rows["occurred_at"],
            "received_at": rows["received_at"],
            "at": np.minimum(np.maximum(rows["occurred_at"], decided), rows["received_at"]),
            "subject": self._subjects.take(pa.array(rows["customer"])),
            "user_id": self._users.take(pa.array(rows["customer"])),
            "visitor_id": arrow.nulls(n, pa.string()),
            "device": arrow.nulls(n, pa.string()),
            "decision_id": pc.if_else(placed, decision, None),
            "slot": arrow.array(self._slots[place], mask=~placed),
            "position": arrow.array(self._positions[place], mask=~placed),
            "item_key": arrow.array(self._keys[rows["item"]], mask=~with_item),
            "item_id": self._items.take(arrow.array(rows["item"], mask=~with_item)),
            "campaign": arrow.nulls(n, pa.uint32()),
            "creative": arrow.nulls(n, pa.uint32()),
            "action": arrow.array(np.array(["", *ACTIONS])[rows["action"]], pa.string(), mask=what != ACTED),
            "amount": arrow.array(rows["amount"], mask=~bought),
            "currency": self._currency(bought),
            "channel": self._channels[rows["customer"]],
            "late": rows["late"],
            "weight": arrow.nulls(n, pa.float32()),
            "source": arrow.repeat(SOURCE, n),
        }
        return _table(table, EVENT_COLUMNS)

    def outcomes(self, rows: Rows, mark: str) -> pa.Table:
        """OUTCOME_COLUMNS of the outcomes among rows: with the item where it is known, else the family."""
        rows = rows[rows["what"] == OUTCOME]
        n, with_item = len(rows), rows["item"] >= 0
        bought = ~np.isnan(rows["amount"])
        families = np.array(["", *FAMILIES])[rows["family"] + 1]
        table = {
            "outcome_id": self._joined(f"o{mark}-", np.arange(n)),
            "user_id": self._users.take(pa.array(rows["customer"])),
            "kind": arrow.repeat("purchase", n),
            "item_id": self._items.take(arrow.array(rows["item"], mask=~with_item)),
            "item_key": arrow.array(self._keys[rows["item"]], mask=~with_item),
            "family": arrow.array(families, pa.string(), mask=with_item | (rows["family"] < 0)),
            "amount": arrow.array(rows["amount"], mask=~bought),
            "currency": self._currency(bought),
            "occurred_at": rows["occurred_at"],
            "recorded_at": rows["received_at"] - 1.0,
            "received_at": rows["received_at"],
            "channel": arrow.repeat("core", n),
        }
        return _table(table, OUTCOME_COLUMNS)

    def _event_ids(self, rows: Rows, placed: NDArray[np.bool_], mark: str) -> Any:
        """One id a page for its displays, one a place for what was done with it, one a row for the rest."""
        what = rows["what"]
        shown = self._joined("s", rows["page"])
        number = rows["page"] * 256 + rows["place"]
        single = self._joined("e", number * 8 + what)
        other = self._joined(f"a{mark}-", np.arange(len(rows)))
        return pc.if_else(what == DISPLAYED, shown, pc.if_else(placed, single, other))

    def _joined(self, prefix: str, numbers: NDArray[Any]) -> Any:
        digits = pc.cast(pa.array(numbers), pa.string())
        return pc.binary_join_element_wise(pa.scalar(f"{self._run}{prefix}"), digits, "")

    def _coded(self, codes: NDArray[np.uint8], names: tuple[str, ...]) -> Any:
        return arrow.DictionaryArray.from_arrays(arrow.array(codes.astype(np.int32)), arrow.array(names))

    def _currency(self, bought: NDArray[np.bool_]) -> Any:
        return pc.if_else(bought, "CNY", arrow.scalar(None, pa.string()))


def _table(columns: dict[str, Any], schema: Any) -> pa.Table:
    table: pa.Table = arrow.Table.from_arrays(
        [_fits(columns[field.name], field.type) for field in schema], schema=schema
    )
    return table


def _fits(column: Any, kind: Any) -> Any:
    return arrow.array(column, kind) if isinstance(column, np.ndarray) else column.cast(kind)
