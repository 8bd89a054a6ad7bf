"""The arguments of `fenliu experiment`. Light: commands are imported when they run."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Final

from training.verbs import by_settings

EXPERIMENT_EXAMPLES: Final = """\
  fenliu experiment list
  fenliu experiment who u42 u43
  fenliu experiment plan shorter-feed --effect 0.02
  fenliu experiment plan --mean 0.31 --deviation 1.4 --effect 0.02 --daily 200000 --correlation 0.6
  fenliu experiment lift c12
  fenliu experiment holdout ranking        what its experiments did together, to who is not held out
  fenliu experiment watch                  every guardrail of every running arm, as evidence stands
  fenliu experiment watch --every 5 --act  by hand what the service does by itself
  fenliu experiment off shorter-feed short --reason "dismissals up"
  fenliu experiment promote shorter-feed short --reason "value +1.2 % (0.4 to 2.0)"
  fenliu experiment report shorter-feed --segments city,star_level
"""


OPE_EXAMPLES: Final = """\
  fenliu ope --plan candidate.yaml --days 14       another plan, on the pages of two weeks
  fenliu ope --bundle 20261122-101500-3f2a1b       another bundle under the live plan
  fenliu ope --open-bandit random-bts              Bernoulli-TS from the uniform-random log of the public data
"""


def add_ope(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", type=Path, metavar="FILE", help="the candidate's plan (the live one)")
    parser.add_argument("--bundle", metavar="V", help="the candidate's bundle (the live one)")
    parser.add_argument("--days", type=float, default=14.0, help="of logged pages, up to now (14)")
    parser.add_argument("--pages", type=int, default=100_000, help="at most so many (100,000)")
    parser.add_argument("--value", action="store_true", help="CNY of conversions instead of clicks")
    both = ("random-bts", "bts-random")
    parser.add_argument("--open-bandit", choices=both, help="the public data under $FENLIU_DATA instead")
    parser.add_argument("--bootstrap", type=int, default=1_000, metavar="N", help="rounds (1,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="for plot and JSON ($FENLIU_HOME/ope)")
    parser.add_argument("--json", action="store_true", help="print the verdict for machines")
    parser.set_defaults(run=by_settings("training.ope.commands", "ope"))


BANDIT_EXAMPLES: Final = """\
  fenliu bandit status                    creatives of each item: posterior and share, over everybody
  fenliu bandit status --item a7 --segments
"""


def add_bandit(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="bandit_verb", metavar="VERB", required=True)
    about = "creatives of items in slots that explore: displays, clicks, posterior, share"
    one = verbs.add_parser("status", help=about, description=about, allow_abbrev=False)
    one.add_argument("--item", metavar="ID", help="this one only")
    one.add_argument("--segments", action="store_true", help="by segment of customers")
    one.add_argument("--most", type=int, default=20, help="items, those with the most displays first (20)")
    one.add_argument("--version", metavar="V", help="an earlier version (the one in force)")
    one.add_argument("--json", action="store_true")
    one.set_defaults(run=by_settings("training.bandit_commands", "status"))


def add_experiment(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="experiment_verb", metavar="VERB", required=True)

    def verb(name: str, about: str, function: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        module = {"plan_ahead": "ahead", "holdout": "holdouts"}.get(function, "commands")
        one.set_defaults(run=by_settings(f"training.experiment.{module}", function))
        return one

    def with_plan(one: argparse.ArgumentParser) -> argparse.ArgumentParser:
        one.add_argument("--plan", type=Path, metavar="FILE", help="instead of the live plan")
        return one

    with_plan(verb("list", "the plan's experiments, and how much of each is enrolled", "listed"))
    one = with_plan(verb("who", "the arms that ids are in, by their hash", "who"))
    one.add_argument("ids", nargs="+", metavar="ID")
    one.add_argument("--visitor", action="store_true", help="ids are of visitors, not of users")
    _add_report(with_plan(verb("report", "what an experiment says: HTML, Markdown, plots, JSON", "report")))
    one = with_plan(verb("lift", "what a campaign made customers do, by its ghost placements", "lift"))
    _add_reading(one)
    one.add_argument("campaign", metavar="CAMPAIGN")
    about = "what a layer's experiments, or all, did together: against who is held out from them"
    one = with_plan(verb("holdout", about, "holdout"))
    one.add_argument("layer", nargs="?", metavar="LAYER", help="(all: the global holdout)")
    one.add_argument(
        "--since", type=datetime.fromisoformat, metavar="DATE", help="UTC (the first experiment's start)"
    )
    _add_reading(one, before=False)
    for name, about in (
        ("off", "propose the plan with an arm switched off: nobody else moves"),
        ("promote", "propose the plan with an arm's changes in it, and the experiment ended"),
    ):
        one = verb(name, about, name)
        one.add_argument("name", metavar="NAME")
        one.add_argument("arm", metavar="ARM")
        one.add_argument("--reason", required=True)
    one = verb(
        "watch", "guardrails of running arms, from the event log; the service acts on them itself", "watch"
    )
    one.set_defaults(run=by_settings("training.experiment.watching", "watch"))
    one.add_argument(
        "--every", type=float, metavar="S", help="look again every S seconds, until Ctrl-C (once)"
    )
    one.add_argument("--back", type=float, default=3600.0, metavar="S", help="count from so long ago (3600)")
    one.add_argument("--act", action="store_true", help="switch off what breaches, in your name, audited")
    one.add_argument("--json", action="store_true", help="a line of JSON a look")
    about = "how many units and days an experiment needs, from the lake's past or from figures"
    _add_plan(with_plan(verb("plan", about, "plan_ahead")))


def _add_report(one: argparse.ArgumentParser) -> None:
    one.add_argument("name", metavar="NAME", help="of an experiment in the plan")
    one.add_argument("--segments", type=_names, metavar="A,B", help="columns of the customers, such as city")
    one.add_argument(
        "--mature", type=int, default=7, metavar="DAYS",
        help="after its end, for what comes of the last pages: conversions, value, complaints (7)",
    )  # fmt: skip
    _add_reading(one)


def _add_reading(one: argparse.ArgumentParser, *, before: bool = True) -> None:
    one.add_argument("--metrics", type=_names, metavar="A,B", help="besides the criterion and the guardrails")
    if before:
        one.add_argument(
            "--pre-days", type=int, default=14, help="days before the start that adjust (14; 0 none)"
        )
    one.add_argument("--days", type=int, help="planned length (until the plan's end; 14, lift 28)")
    one.add_argument("--memory", type=float, default=2.0, help="GB that the database may take (2)")
    one.add_argument("--out", type=Path, metavar="DIR", help="where the report goes (below $FENLIU_HOME)")
    one.add_argument("--json", action="store_true", help="print the answer for machines")


def _add_plan(one: argparse.ArgumentParser) -> None:
    one.add_argument("name", nargs="?", metavar="NAME", help="of an experiment in the plan (everybody)")
    one.add_argument("--metric", metavar="A", help="from the lake (the experiment's criterion, or clicks)")
    one.add_argument("--enrolled", type=float, help="part of all units (the experiment's, or 1)")
    one.add_argument("--past", type=int, default=14, metavar="DAYS", help="of the lake to plan by (14)")
    one.add_argument("--pre-days", type=int, default=14, help="days before these that adjust (14; 0 none)")
    one.add_argument("--memory", type=float, default=2.0, help="GB that the database may take (2)")
    one.add_argument("--mean", type=float, help="of the criterion, a unit: in place of the lake's past")
    one.add_argument("--deviation", type=float, help="its standard deviation, over units")
    one.add_argument("--effect", type=float, required=True, help="relative change to find: 0.02 is 2 %%")
    one.add_argument("--power", type=float, default=0.8)
    one.add_argument("--arms", type=int, default=2)
    one.add_argument(
        "--correlation", type=float, default=0.0, help="of the criterion with itself before (CUPED)"
    )
    one.add_argument("--looks", type=int, help="how often somebody looks, by figures (14)")
    one.add_argument("--daily", type=float, help="units met a day, all arms together")
    one.add_argument(
        "--returning", type=float, default=0.0, help="part of a day's units that were met before"
    )
    one.add_argument("--json", action="store_true")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
