"""The arguments of `fenliu replay`. Light: the command is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

REPLAY_EXAMPLES: Final = """  fenliu replay DECISION                                the trace, made again
  fenliu replay r-4711 --item p9 --item c12             why these items are not on the page
  fenliu replay --day 2026-11-22                        every decision of a day, compared bit for bit
  fenliu replay --day 2026-11-22 --plan next.yaml       what-if: slot shares, campaigns, value, caps
  fenliu replay --day 2026-11-22 --bundle 20261121-9f86d08188 --pages 20000 --json
"""


def add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("decision", nargs="?", help="a decision id")
    parser.add_argument("--subject", metavar="u:ID", help="of this customer (u:ID) or visitor (v:ID)")
    parser.add_argument(
        "--item", action="append", default=[], help="why is it not on the page; may be repeated"
    )
    parser.add_argument("--day", metavar="YYYY-MM-DD", help="all decisions of this UTC day")
    parser.add_argument("--plan", metavar="FILE|VERSION", help="decide that day under another plan")
    parser.add_argument("--bundle", metavar="VERSION", help="decide that day with another bundle")
    parser.add_argument("--pages", type=int, metavar="N", help="only every so many, N in all")
    parser.add_argument("--lake", type=Path, metavar="DIR", help="of the records (HOME/lake)")
    parser.add_argument("--lake-only", action="store_true", help="do not look into the event log's store")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from serving.settings import Settings
    from training.progress import wide_console
    from training.replay_commands import replay

    return replay(args, Settings.from_env(), wide_console())
