"""`fenliu scores …`: the bank's own models as a source of candidates."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from training.usage import UsageError
from training.verbs import Verbs, added, by_stores

EXAMPLES: Final = """\
  fenliu scores import wealth.parquet --model wealth_v3      user_id, item_id, score[, expires]
  fenliu scores onnx propensity.onnx --model wealth_v3      asked about every customer; kept in the lake
  fenliu scores onnx --model wealth_v3                      the kept one again, of today's customers
  fenliu scores show
  fenliu scores report --days 1
  fenliu scores rollback wealth_v3
  fenliu scores remove wealth_v3
"""


def add_scores(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="scores_verb", metavar="VERB", required=True)
    bring = _verb(verbs, "import", "a file of scores, in place of the model's last", "bring")
    bring.add_argument("file", type=Path)
    bring.add_argument("--model", required=True, metavar="M", help="whose scores they are")
    ask = _verb(verbs, "onnx", "a model's scores of all customers, in place of its last", "ask")
    ask.add_argument("file", type=Path, nargs="?", help="the model; without it the one that was asked last")
    ask.add_argument("--model", required=True, metavar="M", help="whose scores they are")
    reads = "what the input's columns are, parted by commas; else by the model's metadata `fields`"
    ask.add_argument("--fields", default="", metavar="F,…", help=reads)
    says = "whose scores the output's columns are; else by the model's metadata `items`"
    ask.add_argument("--items", default="", metavar="I,…", help=says)
    ask.add_argument("--days", type=float, default=30.0, metavar="N", help="how long a score counts (30)")
    under = "used only of customers who gave it: marketing, data_sharing, third_party; may be repeated"
    for one in (bring, ask):
        one.add_argument("--consent", action="append", default=[], metavar="C", help=under)
        one.add_argument(
            "--force", action="store_true", help="although it looks wrong beside the live version"
        )
    _verb(verbs, "show", "every model, its live version and what lies in it", "show")
    told = _verb(verbs, "report", "displays, clicks and lift of what each model proposed", "report")
    told.add_argument("--days", type=float, default=7.0, metavar="N", help="the last so many (7)")
    back = _verb(verbs, "rollback", "the version before the live one again", "rollback")
    remove = _verb(verbs, "remove", "take a model's scores from every customer", "remove")
    for one in (back, remove):
        one.add_argument("model")
    for one in (bring, ask, back, remove):
        one.add_argument("--reason", default="", help="for the audit log")


def _verb(verbs: Verbs, name: str, about: str, function: str) -> argparse.ArgumentParser:
    return added(verbs, name, about, by_stores(__name__, function))


def bring(args: argparse.Namespace, desk: Any, console: Any) -> int:
    from features.ids import keys64
    from training.scores import read_scores

    may(desk)
    _consents(args)
    scores = _scores(desk)
    known = keys64([item["id"] for item in scores.lake.read_items()])
    return _put(args, desk, console, scores, read_scores(args.file, args.model, known, now=time.time()))


def ask(args: argparse.Namespace, desk: Any, console: Any) -> int:
    from features.ids import keys64
    from training.base_columns import newest
    from training.onnx_scorer import OnnxScorer, asked, kept_name
    from training.scores import check_name

    may(desk)
    _consents(args)
    check_name(args.model)
    if not 0 < args.days <= 3650:
        raise UsageError(f"--days {args.days:g}: more than 0 and at most 3650")
    if args.file is not None and not args.file.is_file():
        raise UsageError(f"{args.file}: there is no such file")
    scores = _scores(desk)
    last = scores.index(args.model).get("onnx") if args.file is None else None
    said = {"fields": _parted(args.fields), "items": _parted(args.items)}
    if args.file is None:
        if last is None:
            raise UsageError(f"no ONNX model was asked as {args.model} before: name the file")
        said = {name: mine or last[name] for name, mine in said.items()}
        args.consent = args.consent or last["consents"]
    blob = scores.kept(args.model, kept_name(last["digest"])) if last else args.file.read_bytes()
    scorer = OnnxScorer(blob, **said)
    known = keys64([item["id"] for item in scores.lake.read_items()])
    base = newest(desk.settings.home / "base")
    found = asked(scorer, base, args.model, known, now=time.time(), days=args.days)
    if args.file is not None:
        scores.keep(args.model, kept_name(scorer.digest), blob)
    made_by = {"digest": scorer.digest, "consents": args.consent, **said, "base": base.version}
    return _put(args, desk, console, scores, found, made_by)


def _put(
    args: argparse.Namespace, desk: Any, console: Any, scores: Any, found: Any,
    onnx: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """In place of the model's last scores; `onnx`: what made them."""
    from training.progress import counting
    from training.workspace import alone

    for note in found.notes:
        console.print(f"  {note}", highlight=False, markup=False)
    done = [0]
    with alone(desk.settings.home), counting(console, f"{len(found):,} customers") as tick:

        def told(n: int) -> None:
            done[0] += n
            tick(min(done[0], len(found)), len(found))

        said = scores.put(
            args.model, found, at=time.time(), consents=args.consent, force=args.force, progress=told,
            onnx=onnx,
        )  # fmt: skip
    detail = {"version": said["version"], "customers": said["customers"], "consents": args.consent}
    if onnx is not None:
        detail["onnx"] = onnx["digest"]
    _record(desk, "scores_imported", args, detail)
    console.print(
        f"{args.model} version {said['version']}: {said['rows']:,} scores of {said['items']:,} items for "
        f"{said['customers']:,} customers; they are proposed from the next page on",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _consents(args: argparse.Namespace) -> None:
    from features.views import CONSENTS

    if unknown := [one for one in args.consent if one not in CONSENTS]:
        raise UsageError(f"--consent {unknown[0]}: consents are {', '.join(CONSENTS)}")


def _parted(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def show(_args: argparse.Namespace, desk: Any, console: Any) -> int:
    from rich.table import Table

    scores = _scores(desk)
    table = Table(box=None)
    for column in ("model", "version", "customers", "scores", "items", "mean", "imported", "expires"):
        table.add_column(column)
    for model in scores.models():
        index = scores.index(model)
        for one in index["versions"]:
            mark = " (live)" if one["version"] == index["live"] else ""
            table.add_row(
                model, f"{one['version']}{mark}", f"{one['customers']:,}", f"{one['rows']:,}",
                f"{one['items']:,}", f"{one['mean']:.4g}", _day(one["at"]), _day(one["expires"]),
            )  # fmt: skip
    console.print(table)
    return 0


def report(args: argparse.Namespace, desk: Any, console: Any) -> int:
    from rich.table import Table

    from features.ids import key32
    from training.scores_report import origins

    scores = _scores(desk)
    names = {key32(model): model for model in scores.models()}
    table = Table(box=None, title=f"external(M), the last {args.days:g} days")
    for column in ("model", "displays", "by it alone", "clicks", "rate", "beside it", "lift", "95 %"):
        table.add_column(column)
    for model, one in origins(scores.lake, names, since=time.time() - args.days * 86_400.0).items():
        low, high = one.interval
        table.add_row(
            model, f"{one.displays:,}", f"{one.alone:,}", f"{one.clicks:,}", f"{one.rate:.4f}",
            f"{one.others:.4f}", f"{one.lift:.2f}", f"{low:.2f} to {high:.2f}",
        )  # fmt: skip
    console.print(table)
    console.print("lift against the other places of the same slots and pages: no experiment")
    return 0


def rollback(args: argparse.Namespace, desk: Any, console: Any) -> int:
    from training.workspace import alone

    may(desk)
    with alone(desk.settings.home):
        version = _scores(desk).rollback(args.model)
    _record(desk, "scores_rolled_back", args, {"version": version})
    console.print(f"{args.model}: version {version} is live", highlight=False)
    return 0


def remove(args: argparse.Namespace, desk: Any, console: Any) -> int:
    from training.workspace import alone

    may(desk)
    with alone(desk.settings.home):
        _scores(desk).remove(args.model)
    _record(desk, "scores_removed", args, {})
    console.print(f"{args.model}: no customer has its scores any more", highlight=False)
    return 0


def _scores(desk: Any) -> Any:
    from training.commands import lake_of
    from training.scores import Scores

    return Scores(lake_of(desk.settings), desk.settings.features_url)


def may(desk: Any) -> None:
    """Raises where the caller is neither engineer nor administrator."""
    from serving.security import needs

    needs(desk.who, "engineer", "admin")


def _record(desk: Any, action: str, args: argparse.Namespace, said: dict[str, Any]) -> None:
    desk.governance.record(desk.who, action, f"scores:{args.model}", args.reason, said)


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}Z"
