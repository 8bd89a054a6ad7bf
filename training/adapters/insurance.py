"""Purchases of insurance products (Bruun et al. 2024): `purchase_events.csv.gz` and `users.csv.gz`.

A purchase has one or several products and no time; a customer's purchases are ordered by
`purchase_event_id` (`event_number` counts sessions). A product held is not sold again, so nobody is
recommended what they hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from serving.catalogue import Item, parse_item
from training.cells import arrow
from training.columns import Codes, Rows, ids, numbers, repeated
from training.event_rows import EventRows, Type, to_table
from training.reading import RawTable, digest_of, read_table
from training.source import MARKS, Quarantine, Source

NAME: Final = "insurance"


def load(folder: Path, *, now: float) -> Source:
    """Read the set; purchases get times one second apart, in their order, the last at `now`."""
    files = [folder / "purchase_events.csv.gz", folder / "users.csv.gz"]
    quarantine = Quarantine()
    bought = read_table(files[0], quarantine).having("purchase_event_id", "item_id")
    sessions = read_table(files[1], quarantine).having("user_id", "purchase_event_id")
    owner = _owners(sessions, quarantine)
    events = _purchases(bought, owner, quarantine, now)
    products = [events.item.values[code] for code in np.unique(events.item.codes).tolist()]
    notes = (
        "purchases have no time: they are ordered by purchase_event_id, and nothing decays among them",
        "sessions and conversations of users.csv only link purchases to customers here",
    )
    return Source(
        name=NAME,
        digest=digest_of(files, NAME),
        events=to_table(events, name=NAME, now=now),
        items=tuple(_product(product) for product in sorted(products, key=lambda text: (len(text), text))),
        notes=notes,
        quarantine=quarantine,
        protocol="leave_last_out",
    )


def _owners(table: RawTable, quarantine: Quarantine) -> pd.Series[str]:
    """The customer of each purchase event."""
    rows = Rows(table, quarantine)
    user, event = ids(rows, "user_id", "user"), ids(rows, "purchase_event_id", "purchase event")
    good = rows.finish()
    frame = pd.DataFrame({"user": user.codes[good], "event": event.codes[good]}).drop_duplicates("event")
    return pd.Series(
        [user.values[code] for code in frame["user"].tolist()],
        [event.values[code] for code in frame["event"].tolist()],
    )


def _purchases(table: RawTable, owner: pd.Series[str], quarantine: Quarantine, now: float) -> EventRows:
    rows = Rows(table, quarantine)
    event, item = ids(rows, "purchase_event_id", "purchase event"), ids(rows, "item_id", "item")
    number = numbers(rows, "purchase_event_id")
    rows.reject(~np.isfinite(number), "purchase_event_id", "not a number", "The number orders purchases")
    buyers = owner.reindex(list(event.values)).to_list()
    nobody = np.array([not isinstance(buyer, str) for buyer in buyers], np.bool_)[event.codes]
    rows.reject(
        nobody, "purchase_event_id", "no customer made this purchase", "users.csv.gz must name its customer"
    )
    again = repeated(rows, {"event": event.codes, "item": item.codes})
    rows.reject(again, None, "the row repeats an earlier one", "Remove it")
    good = rows.finish()
    _, rank = np.unique(number, return_inverse=True)
    buyer = arrow.array(buyers, arrow.string(), from_pandas=True).dictionary_encode()
    user = Codes(tuple(buyer.dictionary.to_pylist()), np.append(buyer.indices.fill_null(-1), -1)[event.codes])
    mark = np.full(len(table), MARKS.index("undated"), np.uint8)
    kind = np.zeros(len(table), np.int32)
    at = np.asarray(now - float(rank.max()) + rank, np.float64)
    return EventRows(user, item, (Type("acted", "purchased"),), kind, at, mark).take(good)


def _product(product: str) -> Item:
    title = {"en": f"Insurance product {product}", "zh": f"保险产品{product}"}
    return parse_item(
        {
            "id": product,
            "kind": "product",
            "title": title,
            "category": "insurance",
            "repeat": "after_maturity",
        }
    )
