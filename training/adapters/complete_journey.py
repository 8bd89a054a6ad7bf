"""84.51° The Complete Journey 2.0 (CC0): purchases of products, and coupons (benefits) with validity,
audience and redemption.

Transactions become `acted: purchased` on products, redemptions `converted` on benefits. A coupon is valid
while a campaign that carries it runs; when that is a single campaign, the households it was sent to are its
audience (campaign number = audience id).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from serving.catalogue import Item, parse_item
from training.cells import arrow
from training.columns import Codes, Rows, ids, numbers, repeated, times
from training.event_rows import EventRows, Type, to_table
from training.profiles import USER_ID
from training.reading import RawTable, digest_of, read_table
from training.source import Quarantine, Source

NAME: Final = "complete-journey"
_FILES: Final = {  # and the columns that are read
    "transactions_sample": ("household_id", "product_id", "transaction_timestamp", "sales_value"),
    "coupon_redemptions": ("household_id", "coupon_upc", "redemption_date"),
    "products": ("product_id", "department", "brand", "product_category", "product_type", "package_size"),
    "coupons": ("coupon_upc", "campaign_id"),
    "campaign_descriptions": ("campaign_id", "campaign_type", "start_date", "end_date"),
    "campaigns": ("campaign_id", "household_id"),
    "demographics": ("household_id", "age", "income"),
}
_TYPES: Final = (Type("acted", "purchased"), Type("converted"))


def load(folder: Path, *, now: float) -> Source:
    """Read the set; products that the sample of transactions does not name are left out."""
    files = [folder / f"{name}.csv.gz" for name in _FILES]
    quarantine = Quarantine()
    tables = {
        name: read_table(path, quarantine).having(*columns)
        for (name, columns), path in zip(_FILES.items(), files, strict=True)
    }
    bought = _events(tables["transactions_sample"], quarantine, now, "product_id", "transaction_timestamp", 0)
    redeemed = _events(tables["coupon_redemptions"], quarantine, now, "coupon_upc", "redemption_date", 1)
    products = {bought.item.values[code] for code in np.unique(bought.item.codes).tolist()}
    redeemed = _named_as_coupons(redeemed)
    items = (*_products(_frame(tables["products"]), products), *_coupons(tables))
    known = len(tables["products"])
    return Source(
        name=NAME,
        digest=digest_of(files, NAME),
        events=to_table(_both(bought, redeemed), name=NAME, now=now),
        items=items,
        users=_users(tables),
        notes=(
            f"{known - len(products):,} of {known:,} products are in no transaction of the sample: left out",
            "coupons ended with their campaigns in 2017 to 2018: permitted only at times within",
        ),
        quarantine=quarantine,
        protocol="temporal",
    )


def _frame(table: RawTable) -> pd.DataFrame:
    return pd.DataFrame({name: column.to_pylist() for name, column in table.columns.items()})


def _events(
    table: RawTable, quarantine: Quarantine, now: float, item: str, time: str, kind: int
) -> EventRows:
    rows = Rows(table, quarantine)
    user, items = ids(rows, "household_id", "user"), ids(rows, item, "item")
    at, _ = times(rows, time, now)
    keys: dict[str, NDArray[Any]] = {"user": user.codes, "item": items.codes, "at": at}
    rows.reject(repeated(rows, keys), None, "the row repeats an earlier one", "Remove it")
    amount = numbers(rows, "sales_value") if "sales_value" in table.columns else np.full(len(table), np.nan)
    n = len(table)
    events = EventRows(
        user, items, _TYPES, np.full(n, kind, np.int32), at, np.zeros(n, np.uint8), amount=amount
    )
    return events.take(rows.finish())


def _named_as_coupons(events: EventRows) -> EventRows:
    """Coupon ids apart from product ids, which are numbers as well."""
    item = Codes(tuple(f"c{value}" for value in events.item.values), events.item.codes)
    return EventRows(
        events.user, item, events.kinds, events.kind, events.at, events.mark, amount=events.amount
    )


def _both(first: EventRows, second: EventRows) -> EventRows:
    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(first, name), getattr(second, name)])

    user, item = Codes.joined([first.user, second.user]), Codes.joined([first.item, second.item])
    return EventRows(
        user, item, _TYPES, joined("kind"), joined("at"), joined("mark"), amount=joined("amount")
    )


def _products(frame: pd.DataFrame, wanted: set[str]) -> list[Item]:
    frame = frame[frame["product_id"].isin(wanted)].drop_duplicates("product_id")
    return [_product(row) for row in frame.to_dict("records")]


def _product(row: Mapping[Any, str]) -> Item:
    title = row["product_type"] or row["product_category"] or row["department"] or row["product_id"]
    path = [
        part.replace("/", "-").strip().casefold()
        for part in (row["department"], row["product_category"])
        if part
    ]
    attributes = {name: row[name] for name in ("brand", "package_size") if row[name]}
    return parse_item(
        {
            "id": row["product_id"],
            "kind": "product",
            "title": {"en": title},
            "category": "/".join(path),
            "attributes": attributes,
        }
    )


def _coupons(tables: dict[str, RawTable]) -> list[Item]:
    campaigns = _frame(tables["campaign_descriptions"]).set_index("campaign_id")
    pairs = _frame(tables["coupons"])[["coupon_upc", "campaign_id"]].drop_duplicates()
    pairs = pairs[pairs["campaign_id"].isin(campaigns.index)]
    items = []
    for coupon, group in pairs.groupby("coupon_upc", sort=True)["campaign_id"]:
        runs = campaigns.loc[group.tolist()]
        only = group.iloc[0] if len(group) == 1 else None
        items.append(
            parse_item(
                {
                    "id": f"c{coupon}",
                    "kind": "benefit",
                    "title": {"en": f"Coupon {coupon}"},
                    "category": "coupon/" + str(runs["campaign_type"].iloc[0]).casefold(),
                    "starts": f"{runs['start_date'].min()}T00:00:00Z",
                    "ends": f"{runs['end_date'].max()}T23:59:59Z",
                    "audience": int(only) if only is not None else 0,
                }
            )
        )
    return items


def _users(tables: dict[str, RawTable]) -> pa.Table:
    """Demographics as attributes, and the campaigns a household was sent as its audiences."""
    people = _frame(tables["demographics"]).rename(
        columns={"household_id": USER_ID, "age": "age_group", "income": "income_group"}
    )
    sent = _frame(tables["campaigns"]).groupby("household_id")["campaign_id"].agg("|".join)
    every = sorted({*people[USER_ID], *sent.index})
    people = people.drop_duplicates(USER_ID).set_index(USER_ID).reindex(every)
    people["audiences"] = sent.reindex(every)
    columns = {str(name): arrow.array(people[name], arrow.string(), from_pandas=True) for name in people}
    return pa.table({USER_ID: pa.array(every, pa.string()), **columns})
