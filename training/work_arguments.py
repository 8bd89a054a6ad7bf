"""The arguments of `fenliu train`, `bundle`, `events`, `report` and of what shows a plan.

Light: commands are imported when they run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from training.shadow_arguments import add_shadow
from training.verbs import Verbs, added, by_settings

TRAIN_EXAMPLES: Final = """\
  fenliu train                             learn from the lake: what the service took in
  fenliu train --source ml-1m              one of the public sets under $FENLIU_DATA (default ../shared/data)
  fenliu train --events purchases.parquet --map user=cust,item=sku,at=ts --type converted
  fenliu train --hold                      publish, do not make live: fenliu bundle shadow V, then promote V
  fenliu train --config job.yaml --force   promote although the gate says no (recorded)
"""
BUNDLE_EXAMPLES: Final = """  fenliu bundle list
  fenliu bundle show
  fenliu bundle card --out card.md
  fenliu bundle shadow 20261122-101500-3f2a1b --minutes 30
  fenliu bundle promote 20261122-101500-3f2a1b --reason "manual check passed"
  fenliu bundle rollback
"""
EVENTS_EXAMPLES: Final = "  fenliu events ingest\n"


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=by_settings("training.lake_commands", "train_now"))
    data = parser.add_argument_group("data (none: the lake alone)")
    data.add_argument("--source", metavar="NAME", help="ml-1m, insurance, lastfm, complete-journey")
    data.add_argument("--events", type=Path, metavar="FILE", help="interactions, CSV or Parquet")
    data.add_argument("--items", type=Path, metavar="FILE", help="item attributes, CSV or Parquet")
    data.add_argument("--users", type=Path, metavar="FILE", help="customer attributes, CSV or Parquet")
    data.add_argument("--map", metavar="FIELD=COLUMN,…", help="column names that are not found by themselves")
    data.add_argument("--type", metavar="TYPE", help="event type where the file has no such column")
    data.add_argument("--kind", metavar="KIND", help="item kind where the file has no such column")
    data.add_argument("--types", metavar="NAME=TYPE,…", help="what event types mean: buy=converted")
    data.add_argument("--min-rating", type=float, metavar="N", help="ratings below are left out")
    data.add_argument("--keep-repeats", action="store_true", default=None, help="equal rows count each")
    data.add_argument("--encoding", help="of the text files (utf-8)")
    data.add_argument("--delimiter", help="of the text files, where it is not found by itself")
    job = parser.add_argument_group("job")
    job.add_argument("--config", type=Path, metavar="FILE", help="the job's configuration, YAML")
    job.add_argument("--seed", type=int, help="seed of everything random")
    job.add_argument("--fresh", action="store_true", help="do every step again instead of resuming")
    job.add_argument("--plan", type=Path, metavar="FILE", help="check the bundle against this plan")
    job.add_argument("--hold", action="store_true", help="publish what passes and let somebody promote it")
    job.add_argument("--force", action="store_true", help="promote although the gate says no (recorded)")


def add_bundle(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="bundle_verb", metavar="VERB", required=True)
    _verb(verbs, "list", "all bundles, newest first", "bundle_list")
    one = _verb(verbs, "show", "one bundle's manifest", "bundle_show")
    one.add_argument("version", nargs="?", help="the live one unless given")
    card = _verb(verbs, "card", "one bundle's model card, Markdown", "bundle_card")
    card.add_argument("version", nargs="?", help="the live one unless given")
    card.add_argument("--out", type=Path, metavar="FILE")
    add_shadow(verbs)
    promote = _verb(verbs, "promote", "make a bundle live", "bundle_promote")
    promote.add_argument("version")
    promote.add_argument("--reason", default="by hand")
    promote.add_argument("--force", action="store_true", help="although its gate said no (recorded)")
    rollback = _verb(verbs, "rollback", "make the one before live again", "bundle_rollback")
    rollback.add_argument("--reason", default="rolled back by hand")


def add_plan_shown(verbs: Verbs) -> None:
    """Beside what `training.governance_arguments` adds to `fenliu plan`."""
    _verb(verbs, "show", "print the live plan", "plan_show")
    _verb(verbs, "schema", "print the JSON Schema of a plan, for editors", "plan_schema")


def add_events(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="events_verb", metavar="VERB", required=True)
    module = "training.lake_commands"
    _verb(verbs, "ingest", "log -> Parquet, exactly once", "events_ingest", module)
    _verb(verbs, "status", "what the log and the lake hold", "events_status", module)


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=by_settings("training.lake_commands", "report"))
    parser.add_argument("--path", action="store_true", help="print its path only")


def _verb(
    verbs: Verbs, name: str, about: str, function: str, module: str = "training.bundle_commands"
) -> argparse.ArgumentParser:
    return added(verbs, name, about, by_settings(module, function))
