"""The command line of Fenliu. Every command imports what it needs when it runs, so `--help` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

    from serving.bundle import Bundle
    from serving.control import Control
    from serving.registry import Registry
    from serving.settings import Settings

T = TypeVar("T")
Run = Callable[[argparse.Namespace], int]

EPILOG = """examples:
  fenliu demo                              a synthetic bank, end to end, in about two minutes
  fenliu train --source ml-1m              train on MovieLens 1M found under $FENLIU_DATA
  fenliu train --events e.csv --items i.csv --users u.csv --map user=cust_id,item=product
  fenliu serve --local                     one process on http://127.0.0.1:8000
  fenliu bundle list                       what was trained, and which one serves

Everything lives in one folder, --home (or FENLIU_HOME, default ./.fenliu): registry, lake, store, reports.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0 done, 1 not good enough (a gate, a bar), 2 could not be done."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.home:
        os.environ["FENLIU_HOME"] = args.home
    run: Run = args.run
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) went away
        sys.stderr.close()
        return 0
    except Exception as problem:
        if not _is_ours(problem) or os.environ.get("FENLIU_DEBUG"):
            raise
        print(f"fenliu: {problem}", file=sys.stderr)
        return 2


def _is_ours(problem: Exception) -> bool:
    """Whether an error is one that we raise on purpose, with a message that says what to do."""
    ours = type(problem).__module__.partition(".")[0] in {"features", "serving", "training", "fenliu"}
    return ours or isinstance(problem, FileNotFoundError | PermissionError | IsADirectoryError)


class UsageError(ValueError):
    """The command cannot be carried out as given; the message says what to do."""


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="fenliu", description=__doc__, epilog=EPILOG, formatter_class=raw, allow_abbrev=False
    )
    parser.add_argument("--home", metavar="DIR", help="where everything is kept (FENLIU_HOME, ./.fenliu)")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)

    def verb(name: str, about: str, run: Run | None, examples: str = "") -> argparse.ArgumentParser:
        one = verbs.add_parser(
            name,
            help=about,
            description=about,
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=raw,
            allow_abbrev=False,
        )
        if run is not None:
            one.set_defaults(run=run)
        return one

    demo = verb("demo", "the whole loop on a synthetic bank", _demo, "  fenliu demo --once\n")
    demo.add_argument("--once", action="store_true", help="end by itself instead of staying up")
    demo.add_argument("--customers", type=int, default=50_000)
    demo.add_argument("--items", type=int, default=3_000)
    demo.add_argument("--days", type=int, default=14, help="days of history to simulate")
    demo.add_argument("--seed", type=int, default=7)
    demo.add_argument("--port", type=int, default=8000)
    demo.add_argument("--local", action="store_true", help="one process instead of Ray Serve")

    _train_arguments(verb("train", "train, gate and publish a bundle", _train, TRAIN_EXAMPLES))

    studies = _studies()
    evaluate = verb("evaluate", "compare models on any interactions", _evaluate, studies.EVALUATE_EXAMPLES)
    studies.add_evaluate(evaluate)
    studies.add_tune(verb("tune", "search hyper-parameters, resumable", _tune, studies.TUNE_EXAMPLES))

    serve = verb("serve", "answer requests, on Ray Serve or in one process", _serve, SERVE_EXAMPLES)
    serve.add_argument("--local", action="store_true", help="one process (uvicorn) instead of Ray Serve")
    serve.add_argument("--host", help="address to listen on (FENLIU_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (FENLIU_PORT, 8000)")
    serve.add_argument("--replicas", type=int, default=1, help="replicas on Ray Serve")

    _operators(verb)

    bundle = verb("bundle", "list, show, promote or roll back bundles", None, BUNDLE_EXAMPLES)
    bundles = bundle.add_subparsers(dest="bundle_verb", metavar="VERB", required=True)
    bundles.add_parser("list", help="all bundles, newest first").set_defaults(run=_bundle_list)
    one = bundles.add_parser("show", help="one bundle's manifest")
    one.add_argument("version", nargs="?", help="the live one unless given")
    one.set_defaults(run=_bundle_show)
    promote = bundles.add_parser("promote", help="make a bundle live")
    promote.add_argument("version")
    promote.add_argument("--reason", default="by hand")
    promote.add_argument("--force", action="store_true", help="although its gate said no (recorded)")
    promote.set_defaults(run=_bundle_promote)
    rollback = bundles.add_parser("rollback", help="make the one before live again")
    rollback.add_argument("--reason", default="rolled back by hand")
    rollback.set_defaults(run=_bundle_rollback)

    events = verb("events", "move events from the log into the lake", None, "  fenliu events ingest\n")
    kinds = events.add_subparsers(dest="events_verb", metavar="VERB", required=True)
    kinds.add_parser("ingest", help="log -> Parquet, exactly once").set_defaults(run=_events_ingest)
    kinds.add_parser("status", help="what the log and the lake hold").set_defaults(run=_events_status)

    report = verb("report", "where the latest training report is, and its main figures", _report)
    report.add_argument("--path", action="store_true", help="print its path only")

    bench = verb("bench", "the benchmarks", None, "  fenliu bench loop --quick\n  fenliu bench serve\n")
    if _asks_for(bench, "bench"):  # each benchmark declares its own sizes: imported only when asked for
        from training.bench.harness import register

        register(bench, _bench)
    return parser


def _operators(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """What operators and whoever approves their changes do."""
    from training import governance_arguments as governance
    from training import ledger_arguments as ledger

    plan = verb("plan", "propose, approve and publish the operators' plan", None, governance.PLAN_EXAMPLES)
    plans = governance.add_plan(plan)
    plans.add_parser("show", help="print the live plan").set_defaults(run=_plan_show)
    schema = plans.add_parser("schema", help="print the JSON Schema of a plan, for editors")
    schema.set_defaults(run=_plan_schema)
    ledger.add_audience(plans)
    governance.add_kill(
        verb("kill", "switch something off everywhere within 2 s", None, governance.KILL_EXAMPLES)
    )
    governance.add_keys(verb("keys", "principals and their API keys", None, governance.KEYS_EXAMPLES))
    governance.add_audit(verb("audit", "the log of who did what", None, governance.AUDIT_EXAMPLES))
    ledger.add_list(verb("list", "lists of customers that audiences name", None, ledger.LIST_EXAMPLES))
    ledger.add_ledger(verb("ledger", "caps, quotas and what was delivered", None, ledger.LEDGER_EXAMPLES))


def _asks_for(_parser: argparse.ArgumentParser, verb: str) -> bool:
    return verb in sys.argv[1:] or "PYTEST_CURRENT_TEST" in os.environ


TRAIN_EXAMPLES = """  fenliu train                             learn from the lake: what the service took in
  fenliu train --source ml-1m              one of the public sets under $FENLIU_DATA (default ../shared/data)
  fenliu train --events purchases.parquet --map user=cust,item=sku,at=ts --type converted
  fenliu train --config job.yaml --force   promote although the gate says no (recorded)
"""
SERVE_EXAMPLES = """  fenliu serve --local                     laptop, debugging
  FENLIU_APP_KEY=$(openssl rand -hex 16) fenliu serve
"""
BUNDLE_EXAMPLES = """  fenliu bundle list
  fenliu bundle show
  fenliu bundle promote 20261122-101500-3f2a1b --reason "manual check passed"
  fenliu bundle rollback
"""


def _train_arguments(parser: argparse.ArgumentParser) -> None:
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
    job.add_argument("--force", action="store_true", help="promote although the gate says no (recorded)")


def _console() -> Console:
    from rich.console import Console

    return Console()


def _settings() -> Settings:
    from serving.settings import Settings

    return Settings.from_env()


def _print(text: str) -> None:
    _console().print(text, highlight=False, soft_wrap=True)


def _demo(args: argparse.Namespace) -> int:
    from training.demo import run_demo

    return run_demo(args, _console())


def _train(args: argparse.Namespace) -> int:
    from serving.backing import backed
    from serving.plan import load_plan
    from training.commands import source_of, train
    from training.config import read_config

    config = read_config(args.config)
    if args.seed is not None:
        config = config.model_copy(update={"seed": args.seed})
    plan = load_plan(args.plan) if args.plan else None
    source = source_of(args, os.environ, Path(__file__).parent)
    if args.force:
        from serving.security import needs
        from training.desk import desk_of

        needs(desk_of(_settings()).who, "engineer", "admin")
    with backed(_settings()) as settings:
        report = train(
            settings,
            source,
            config,
            plan=plan,
            fresh=args.fresh,
            force=args.force,
            by=_who(),
            console=_console(),
        )
    if args.force and report.promoted and not report.verdict.passed and report.version is not None:
        _forced(report.version, "fenliu train --force")
    return 0 if report.promoted else 1


def _studies() -> Any:
    from training import study_arguments

    return study_arguments


def _evaluate(args: argparse.Namespace) -> int:
    from training.study_commands import run

    return run(args, os.environ, Path(__file__).parent, _settings().home, _console())


def _tune(args: argparse.Namespace) -> int:
    from training.tune_commands import tune

    return tune(args, os.environ, Path(__file__).parent, _settings().home, _console())


def _forced(version: str, reason: str) -> None:
    """On the record, and only by whom it is up to. Raises Problem `forbidden`."""
    from training.desk import desk_of
    from training.plan_commands import record_forced

    record_forced(desk_of(_settings()), version, reason)


def _serve(args: argparse.Namespace) -> int:
    import signal
    import threading

    from serving.settings import Settings

    settings = Settings.from_env(host=args.host, port=args.port, replicas=args.replicas)
    if args.local:
        from serving.local import serve_local as serving
    else:
        from serving.app import serve_ray as serving
    over = threading.Event()
    with serving(settings) as url:
        for sign in (signal.SIGINT, signal.SIGTERM):  # now: Ray puts its own handler in while it starts
            signal.signal(sign, lambda *_: over.set())
        _print(f"serving on {url}  (try {url}/readyz; Ctrl-C ends)")
        over.wait()
        _print("stopping")
    return 0


def _plan_show(_args: argparse.Namespace) -> int:
    from serving.plan import default_plan
    from serving.plans import PlanShelf

    version = _with_control(lambda control: control.poll()).plan
    if version is not None:
        plan = PlanShelf(_settings().registry_url).fetch(version)
    elif (bundle := _live_bundle()) is not None:
        plan = default_plan(bundle.kind_counts())
        print("no plan was published: this is the one that fits the live bundle", file=sys.stderr)
    else:
        raise UsageError("neither a plan nor a bundle is live yet: fenliu train, or fenliu plan publish FILE")
    print(plan.model_dump_json(indent=2))
    return 0


def _plan_schema(_args: argparse.Namespace) -> int:
    import json

    from serving.plan import Plan

    print(json.dumps(Plan.model_json_schema(), indent=2, ensure_ascii=False))
    return 0


def _bundle_list(_args: argparse.Namespace) -> int:
    from rich.table import Table

    registry = _registry()
    live = registry.live()
    table = Table(title=f"bundles in {_settings().registry_url}")
    for column in ("", "version", "items", "model", "gate"):
        table.add_column(column)
    for version in reversed(registry.list()):
        manifest = registry.show(version)
        gate = manifest.get("gate", {})
        table.add_row(
            "live" if version == live else "",
            version,
            str(manifest.get("data", {}).get("items", "")),
            str(manifest.get("model", {}).get("name", "")),
            "passed" if gate.get("passed") else "forced" if gate.get("forced") else "no",
        )
    _console().print(table)
    return 0


def _bundle_show(args: argparse.Namespace) -> int:
    import json

    registry = _registry()
    version = args.version or registry.live()
    if version is None:
        raise UsageError(
            "no bundle is live yet: `fenliu train` makes the first, or name one: fenliu bundle show V"
        )
    print(json.dumps(registry.show(version), indent=2, ensure_ascii=False))
    return 0


def _bundle_promote(args: argparse.Namespace) -> int:
    registry = _registry()
    gate = registry.show(args.version).get("gate", {})
    if not gate.get("passed") and not args.force:
        raise UsageError(
            f"the gate said no to {args.version} ({_why(gate)}); --force promotes it all the same"
        )
    if args.force:
        _forced(args.version, args.reason)
    registry.promote(args.version, by=_who(), forced=args.force, reason=args.reason)
    _point_at_bundle(args.version)
    return 0


def _bundle_rollback(args: argparse.Namespace) -> int:
    _point_at_bundle(_registry().rollback(by=_who(), reason=args.reason))
    return 0


def _point_at_bundle(version: str) -> None:
    _with_control(lambda control: control.set("bundle", version))
    _print(f"bundle {version} is live")


def _why(gate: dict[str, Any]) -> str:
    return "; ".join(one["text"] for one in gate.get("refusals", ())) or "no reason recorded"


def _who() -> str:
    import getpass

    return getpass.getuser()


def _registry() -> Registry:
    from serving.registry import Registry

    return Registry(_settings().registry_url)


def _live_bundle() -> Bundle | None:
    """The bundle in service by the registry; None before the first."""
    from serving.bundle import load

    registry = _registry()
    version = registry.live()
    return None if version is None else load(registry.fetch(version, _settings().bundles))


def _events_ingest(_args: argparse.Namespace) -> int:
    from serving.backing import backed
    from training.commands import ingest_now
    from training.progress import counting

    console = _console()
    with backed(_settings()) as settings, counting(console, "ingest") as tick:
        taken = ingest_now(settings, progress=tick)
    _print(
        f"{taken.accepted:,} events taken in, {taken.duplicates:,} were there already,"
        f" {taken.quarantined:,} set aside, in {taken.seconds:.1f} s"
    )
    return 0


def _events_status(_args: argparse.Namespace) -> int:
    from serving.backing import backed
    from training.commands import lake_of, waiting

    with backed(_settings()) as settings:
        for name, files in lake_of(settings).manifest().files.items():
            _print(f"lake  {name}: {sum(one['rows'] for one in files):,} rows in {len(files):,} files")
        _print(f"log   {waiting(settings):,} entries wait for ingest")
    return 0


def _report(args: argparse.Namespace) -> int:
    from training.commands import latest_report

    report = latest_report(_settings().home)
    if report is None:
        raise UsageError("there is no report yet: `fenliu train` writes one")
    if args.path:
        print(report)
        return 0
    from rich.markdown import Markdown

    _console().print(Markdown(report.read_text(encoding="utf-8")))
    _print(f"\nreport and plots: {report.parent}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from training.bench.harness import load, report

    return report(args.bench, load(args.bench).run(args), _console())


def _with_control(act: Callable[[Control], Awaitable[T]]) -> T:
    """Run one call on the control store, the embedded one where none is configured."""
    import asyncio

    from serving.backing import backed
    from serving.redis_control import RedisControl

    async def run(url: str) -> T:
        control = RedisControl.at(url)
        try:
            return await act(control)
        finally:
            await control.close()

    with backed(_settings()) as settings:
        return asyncio.run(run(settings.control_url or ""))


if __name__ == "__main__":
    sys.exit(main())
