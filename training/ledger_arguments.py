"""The arguments of `fenliu plan audience`, `list` and `ledger`. Light: commands are imported when run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from training.verbs import Verbs, added, by_stores

AUDIENCE_EXAMPLES: Final = """\
  fenliu plan audience winback                    its rule, as the live plan has it
  fenliu plan audience winback --count
  fenliu plan audience winback --count --org bj --sample 10
"""
LIST_EXAMPLES: Final = """\
  fenliu list upload vip2026 customers.csv        one user id a line, or a column user_id
  fenliu list lookalike vip-like vip2026 --top 50000
  fenliu list evaluate --batch winback            scores that audiences name, and whole audiences, as lists
  fenliu list show
  fenliu list remove vip2026
"""
LEDGER_EXAMPLES: Final = """\
  fenliu ledger status                            quotas, and what every campaign delivered
  fenliu ledger rebuild                           after the live store was lost: from the log and the lake
"""


def add_audience(verbs: Verbs) -> None:
    """`fenliu plan audience`, beside the other verbs of `fenliu plan`."""
    one = _verb(verbs, "audience", "an audience's rule, or its size over the whole base", "audience")
    one.formatter_class = argparse.RawDescriptionHelpFormatter
    one.epilog = f"examples:\n{AUDIENCE_EXAMPLES}"
    one.add_argument("name")
    one.add_argument("--count", action="store_true", help="count it, with a breakdown")
    one.add_argument("--org", metavar="ORG", help="only customers of this org and those below it")
    one.add_argument("--sample", type=int, default=5, metavar="N", help="masked ids to show (5)")
    one.add_argument("--seed", type=int, default=0, help="of the sample")


def add_list(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="list_verb", metavar="VERB", required=True)
    upload = _verb(verbs, "upload", "write a file of user ids as a list; replaces it", "list_upload")
    upload.add_argument("name")
    upload.add_argument("file", type=Path)
    upload.add_argument("--whole", action="store_true", help="write everybody, not only who comes or goes")
    like = _verb(verbs, "lookalike", "the customers most like those of a list, as a list", "list_lookalike")
    like.add_argument("name")
    like.add_argument("seeds", metavar="LIST", help="whom they are to be like")
    like.add_argument("--top", type=int, default=10_000, metavar="N")
    like.add_argument("--seed", type=int, default=0, help="of what is held out to measure the likeness")
    offline = _verb(verbs, "evaluate", "evaluate the plan's scores, and audiences, as lists", "list_evaluate")
    offline.add_argument("--batch", action="append", default=[], metavar="AUDIENCE", help="may be repeated")
    show = _verb(verbs, "show", "the lists there are, or one of them", "list_show")
    show.add_argument("name", nargs="?")
    remove = _verb(verbs, "remove", "take a list away, memberships and all", "list_remove")
    remove.add_argument("name")
    for one in (upload, like, offline, remove):
        one.add_argument("--reason", default="", help="for the audit log")


def add_ledger(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="ledger_verb", metavar="VERB", required=True)
    module = "training.ledger_commands"
    status = _verb(verbs, "status", "the epoch, quotas, and what was delivered", "ledger_status", module)
    status.add_argument("--json", action="store_true")
    rebuild = _verb(
        verbs, "rebuild", "count everything again, from the log and the lake", "ledger_rebuild", module
    )
    rebuild.add_argument("--yes", action="store_true", help="although counts are there: they are thrown away")


def _verb(
    verbs: Verbs, name: str, about: str, function: str, module: str = "training.list_commands"
) -> argparse.ArgumentParser:
    return added(verbs, name, about, by_stores(module, function))
