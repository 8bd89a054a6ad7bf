"""`fenliu lifecycle …`: prospects, churn, swing customers, return, purchases, next function, benefits."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from training.verbs import Verbs, added, by_console, by_stores

EXAMPLES: Final = """\
  fenliu lifecycle train                    learn from the lake, judge on its last month, keep the models
  fenliu lifecycle train --days 14          foretell 14 days instead
  fenliu lifecycle report
  fenliu lifecycle score                    today's chances into the customers' table and the feature store
  fenliu plan audience likely_churners --count     the plan has {score: lifecycle_new_churn, at_least: 0.6}

A score is a column lifecycle_<model> of the customers' table: an audience names it, and a campaign or a lever
the audience. The next function becomes the imported scores `next_function`: a source of candidates, as
`fenliu scores` has it. An import of customers replaces the table: score again after it.
"""


def add_lifecycle(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="lifecycle_verb", metavar="VERB", required=True)
    learn = _verb(verbs, "train", "learn and judge every model the lake can bear", "learn")
    learn.add_argument("--days", type=float, metavar="N", help="the horizon (30, or a fifth of the lake)")
    learn.add_argument("--seed", type=int, default=7)
    added(verbs, "report", "what was trained, and how good it is", by_console(__name__, "report"))
    score = _verb(verbs, "score", "today's chances, for audiences and as a source", "score")
    score.add_argument("--force", action="store_true", help="although next_function looks wrong")


def _verb(verbs: Verbs, name: str, about: str, function: str) -> argparse.ArgumentParser:
    return added(verbs, name, about, by_stores(__name__, function))


def learn(args: argparse.Namespace, desk: Any, console: Any) -> int:
    from training.commands import lake_of
    from training.lifecycle import keep, train
    from training.lifecycle_past import past_of
    from training.lifecycle_report import show
    from training.study_progress import telling
    from training.workspace import alone

    with alone(desk.settings.home), telling(console) as begin:
        begin(1, "reading the lake")
        past = past_of(lake_of(desk.settings))
        made, when = train(past, span_days=args.days, seed=args.seed, told=lambda name: _tell(begin, name))
        path = keep(desk.settings.home, made, when, at=time.time())
    show(console, [one.to_json() for one in made], when.span / 86_400.0)
    console.print(f"models and report: {path.parent}", highlight=False, soft_wrap=True)
    return 0 if any(one.scorer for one in made) else 1


def _tell(begin: Any, name: str) -> None:
    begin(1, f"learning {name}")


def report(_args: argparse.Namespace, settings: Any, console: Any) -> int:
    from training.lifecycle import kept
    from training.lifecycle_report import show

    _, said = kept(settings.home)
    show(console, said["models"], said["span_days"])
    return 0


def score(args: argparse.Namespace, desk: Any, console: Any) -> int:
    from training.commands import lake_of
    from training.lifecycle_scores import write
    from training.scores_commands import may
    from training.study_progress import telling
    from training.workspace import alone

    may(desk)
    settings = desk.settings
    with alone(settings.home), telling(console) as begin:
        begin(1, "reading the lake, asking the models")
        done = write(
            lake_of(settings), settings.home, settings.features_url, now=time.time(), force=args.force
        )
    desk.governance.record(desk.who, "lifecycle_scored", "lifecycle", "", {"done": done})
    for line in done:
        console.print(line, highlight=False, soft_wrap=True)
    return 0
