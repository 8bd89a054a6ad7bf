"""The arguments of `fenliu bundle shadow`. Light: the command is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from training.verbs import Verbs, added, by_settings

EXAMPLES: Final = """examples:
  fenliu bundle shadow 20261122-3f2a1b0c9d --minutes 30           watch live traffic, then say
  fenliu bundle shadow 20261122-3f2a1b0c9d --once --json          what the log holds now
  fenliu bundle shadow V --minutes 60 --share 0.05 --out shadow   a twentieth of the pages; with a report
  fenliu bundle shadow V --minutes 30 && fenliu bundle promote V  a release that waits for it

Reads the log and changes no store. Exit status 1: a limit is not kept.
"""
LIMITS: Final = (
    ("pages", int, "N", "pages compared, at least (200)"),
    ("drift", float, "X", "stability index of pages' mean scores against the live bundle's, at most (0.25)"),
    ("calibration", float, "X", "expected over real clicks: into 1 ± X, or no farther off than live (0.03)"),
    ("loss", float, "X", "log loss worse than the live bundle's by this part, beyond doubt, stops (0.01)"),
    ("fill", float, "X", "of the places that the live bundle fills, at least (0.98)"),
    (
        "degraded",
        float,
        "X",
        "pages degraded where the live bundle's are not, as a part of all, at most (0.001)",
    ),
)
"""Defaults are those of `training.shadow_figures.Limits`."""


def add_shadow(verbs: Verbs) -> None:
    one = added(
        verbs, "shadow", "decide live traffic again by a candidate, off the request's path",
        by_settings("training.shadow_commands", "bundle_shadow"),
    )  # fmt: skip
    one.epilog, one.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    one.add_argument("version", help="a published bundle, live or not")
    one.add_argument("--once", action="store_true", help="the pages that the log holds now")
    one.add_argument("--minutes", type=float, metavar="N", help="pages decided from now on, for so long")
    one.add_argument("--share", type=float, default=1.0, metavar="X", help="of the pages, by their ids (1)")
    one.add_argument("--pages", type=int, default=20_000, metavar="N", help="so many at most (20,000)")
    ripe = "seconds until a page's displays and clicks are counted (180)"
    one.add_argument("--ripe", type=float, default=180.0, metavar="S", help=ripe)
    one.add_argument("--out", type=Path, metavar="DIR", help="write shadow.md, shadow.png, shadow.json there")
    one.add_argument("--json", action="store_true", help="print one JSON document at the end")
    limits = one.add_argument_group("limits")
    for name, kind, word, about in LIMITS:
        limits.add_argument(f"--limit-{name}", type=kind, metavar=word, help=about)
