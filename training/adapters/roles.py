"""Which column of a file plays which role: as the mapping says, else by the names that are common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from training.reading import RawTable
from training.source import DataError

EVENT_ROLES: Final = {
    "user": "user_id userid user uid customer_id customerid customer cust_id custid client_id clientid "
    "client member_id household_id householdid person_id visitorid account_id 客户号 客户id 用户id 用户",
    "item": "item_id itemid item iid product_id productid product movie_id movieid movie sku sku_id "
    "content_id article_id goods_id offer_id coupon_id artist_id track_id book_id "
    "business_id asin isin 产品id 商品id 商品",
    "type": "type event_type eventtype event action behavior behaviour behavior_type event_name 事件",
    "at": "timestamp ts time at datetime date event_time eventtime occurred_at created_at purchase_date "
    "transaction_timestamp unix_time 时间",
    "weight": "weight",
    "rating": "rating stars",
    "amount": "amount sales_value revenue",
    "event_id": "event_id eventid",
    "split": "split fold",
    "order": "",
}
ITEM_ROLES: Final = {"id": "id " + EVENT_ROLES["item"]}
USER_ROLES: Final = {"user_id": EVENT_ROLES["user"] + " id"}


def parse_columns(text: str) -> dict[str, str]:
    """`user=cust_id,item=product` -> {"user": "cust_id", "item": "product"}. Raises DataError."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        role, mark, column = part.partition("=")
        if not mark or not role.strip() or not column.strip():
            raise DataError(
                "the column mapping",
                None,
                None,
                f"'{part}' is not ROLE=COLUMN",
                "Write user=cust_id,item=product",
            )
        found[role.strip()] = column.strip()
    return found


def assign(table: RawTable, roles: Mapping[str, str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Role -> column for every role that a column plays. Raises DataError when the mapping names what is
    not there.
    """
    for role, column in mapping.items():
        if role not in roles:
            raise DataError(
                table.file,
                None,
                None,
                f"there is no role '{role}' in the mapping",
                f"Roles are {', '.join(roles)}",
            )
        if column not in table.columns:
            raise table.error(
                column,
                None,
                f"there is no such column; there are {_names(table)}",
                f"Correct {role}={column}",
            )
    normal = {_normal(column): column for column in reversed(table.columns) if column not in mapping.values()}
    found = dict(mapping)
    for role, names in roles.items():
        if role not in found:
            columns = (normal.get(_normal(name)) for name in names.split())
            if free := next((c for c in columns if c is not None and c not in found.values()), None):
                found[role] = free
    return found


def require(table: RawTable, found: Mapping[str, str], role: str) -> str:
    """The column of a role that a file cannot do without."""
    if role in found:
        return found[role]
    what = "item id" if role == "id" else role.removesuffix("_id")
    problem = f"no column is the {what}; there are {_names(table)}"
    remedy = f"Name it: {role}=COLUMN"
    if len(table.columns) == 1:
        remedy += ", or the delimiter, if this is not the columns' own name"
    raise table.error(None, None, problem, remedy)


def _normal(name: str) -> str:
    plain = re.sub(r":(token|float)(_seq)?$", "", name)  # RecBole's atomic files say a column's type
    return re.sub(r"[\W_]", "", plain).casefold()


def _names(table: RawTable) -> str:
    names = [name[:40] for name in table.columns][:20]
    return ", ".join(names) + (" …" if len(table.columns) > len(names) else "")
