"""The arguments of `fenliu spool`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from training.verbs import Verbs, added, by_console

EXAMPLES: Final = """\
  fenliu spool status                      how much waits, since when, whose process lives
  fenliu spool verify /mnt/old/spool       is every record whole; exit status 1 where one is not
  fenliu spool verify --show | head        the records themselves, one JSON object a line
  fenliu spool drain /mnt/old/spool        to the log: of processes that ended, in their order
"""


def add_spool(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="spool_verb", metavar="VERB", required=True)
    _verb(verbs, "status", "what waits, by process", "status").add_argument("--json", action="store_true")
    verify = _verb(verbs, "verify", "read every record; exit status 1 when one is damaged", "verify")
    verify.add_argument("--show", action="store_true", help="print each record as a line of JSON")
    _verb(verbs, "drain", "what ended processes left, to the log", "drain")


def _verb(verbs: Verbs, name: str, about: str, function: str) -> argparse.ArgumentParser:
    one = added(verbs, name, about, by_console("training.spool_commands", function))
    one.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="FENLIU_SPOOL, else home/spool")
    return one
