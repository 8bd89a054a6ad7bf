"""The arguments of `fenliu customer`. Light: commands are imported when they run."""

from __future__ import annotations

import argparse
from typing import Final

from training.verbs import Verbs, added, by_console

CUSTOMER_EXAMPLES: Final = """  fenliu customer export u42 > u42.json              what is kept
  fenliu customer erase u42 --reason "request 4711"     from stores, log, lake, lists, base, sample, copies
  fenliu customer erase u42 --devices --reason "..."    and the devices that were linked to the customer
  fenliu customer find u42                              every place that names the customer still
  fenliu customer why DECISION --lang en                why am I seeing this, in plain words
  fenliu customer retain --days 400                     drop older partitions of the lake
"""


def add_customer(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="customer_verb", metavar="VERB", required=True)
    export = _verb(verbs, "export", "what is kept about a customer, as JSON")
    export.add_argument("user")
    erase = _verb(verbs, "erase", "delete a customer everywhere, and say what was deleted")
    erase.add_argument("user", nargs="+")
    erase.add_argument("--devices", action="store_true", help="the visitors linked to them as well")
    erase.add_argument("--reason", required=True, help="for the audit log, which does not name the customer")
    erase.add_argument("--json", action="store_true", help="the report as JSON")
    find = _verb(verbs, "find", "places that name a customer; exit status 1 when there are some")
    find.add_argument("user", nargs="+")
    why = _verb(verbs, "why", "why am I seeing this: each place of a page in plain words")
    why.add_argument("decision")
    why.add_argument("--index", type=int, metavar="N", help="only this place of the page")
    why.add_argument("--lang", choices=["zh", "en"], default="zh")
    retain = _verb(verbs, "retain", "drop the lake's partitions that are older than is allowed")
    retain.add_argument(
        "--days", type=int, required=True, help="of events, records, outcomes, inputs that stay"
    )
    retain.add_argument("--dry-run", action="store_true", help="only say what would go")


def _verb(verbs: Verbs, name: str, about: str) -> argparse.ArgumentParser:
    return added(verbs, name, about, by_console("training.customer_commands", f"customer_{name}"))
