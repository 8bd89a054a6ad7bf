"""The command line of Fenliu. Every command imports what it needs when it runs, so `--help` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Run = Callable[[argparse.Namespace], int]

EPILOG = """examples:
  fenliu demo                              a synthetic bank, end to end; the first page after about a minute
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

    from training import work_arguments as work

    work.add_train(verb("train", "train, gate and publish a bundle", None, work.TRAIN_EXAMPLES))

    from training import study_arguments as studies

    evaluate = verb("evaluate", "compare models on any interactions", _evaluate, studies.EVALUATE_EXAMPLES)
    studies.add_evaluate(evaluate)
    studies.add_tune(verb("tune", "search hyper-parameters, resumable", _tune, studies.TUNE_EXAMPLES))

    serve = verb("serve", "answer requests, on Ray Serve or in one process", _serve, SERVE_EXAMPLES)
    serve.add_argument("--local", action="store_true", help="one process (uvicorn) instead of Ray Serve")
    serve.add_argument("--host", help="address to listen on (FENLIU_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (FENLIU_PORT, 8000)")
    serve.add_argument("--replicas", type=int, default=1, help="replicas on Ray Serve")

    from training import decide_arguments as lists

    lists.add_decide(verb("decide", "the pages of a list of customers, offline", _decide, lists.EXAMPLES))

    _operators(verb)

    work.add_bundle(verb("bundle", "list, show, promote or roll back bundles", None, work.BUNDLE_EXAMPLES))
    work.add_events(verb("events", "move events from the log into the lake", None, work.EVENTS_EXAMPLES))
    from training import customer_arguments as customers
    from training import replay_arguments as replays
    from training import spool_arguments as spools

    spools.add_spool(verb("spool", "events that wait while the log is away", None, spools.EXAMPLES))

    customers.add_customer(
        verb("customer", "export, erase, explain; retention", None, customers.CUSTOMER_EXAMPLES)
    )
    replays.add_replay(
        verb("replay", "why a page was as it was, and would be", None, replays.REPLAY_EXAMPLES)
    )
    doctor = verb("doctor", "is everything there, and what to do where it is not", _doctor, DOCTOR_EXAMPLES)
    doctor.add_argument("--json", action="store_true", help="print one JSON document")
    work.add_report(verb("report", "where the latest training report is, and its main figures", None))

    bench = verb("bench", "the benchmarks", None, "  fenliu bench loop --quick\n  fenliu bench serve\n")
    if _asks_for(bench, "bench"):  # each benchmark declares its own sizes: imported only when asked for
        from training.bench.harness import register

        register(bench, _bench)
    return parser


def _operators(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """What operators and whoever approves their changes do."""
    from training import experiment_arguments as experiments
    from training import governance_arguments as governance
    from training import ledger_arguments as ledger
    from training import lifecycle_commands as lifecycle
    from training import scores_commands as scores
    from training import work_arguments as work

    plan = verb("plan", "propose, approve and publish the operators' plan", None, governance.PLAN_EXAMPLES)
    plans = governance.add_plan(plan)
    work.add_plan_shown(plans)
    ledger.add_audience(plans)
    governance.add_kill(
        verb("kill", "switch something off everywhere within 2 s", None, governance.KILL_EXAMPLES)
    )
    governance.add_keys(verb("keys", "principals and their API keys", None, governance.KEYS_EXAMPLES))
    governance.add_audit(verb("audit", "the log of who did what", None, governance.AUDIT_EXAMPLES))
    ledger.add_list(verb("list", "lists of customers that audiences name", None, ledger.LIST_EXAMPLES))
    experiments.add_bandit(verb("bandit", "which creatives work for whom", None, experiments.BANDIT_EXAMPLES))
    experiments.add_experiment(
        verb("experiment", "assignment, planning, reports", None, experiments.EXPERIMENT_EXAMPLES)
    )
    experiments.add_ope(
        verb("ope", "what another plan or bundle would have earned", None, experiments.OPE_EXAMPLES)
    )
    scores.add_scores(verb("scores", "scores of the bank's own models", None, scores.EXAMPLES))
    lifecycle.add_lifecycle(
        verb("lifecycle", "prospects, churn, return, purchases, next function", None, lifecycle.EXAMPLES)
    )
    ledger.add_ledger(verb("ledger", "caps, quotas and what was delivered", None, ledger.LEDGER_EXAMPLES))


def _asks_for(_parser: argparse.ArgumentParser, verb: str) -> bool:
    return verb in sys.argv[1:] or "PYTEST_CURRENT_TEST" in os.environ


SERVE_EXAMPLES = """  fenliu serve --local                     laptop, debugging
  FENLIU_APP_KEY=$(openssl rand -hex 16) fenliu serve
"""


DOCTOR_EXAMPLES = """  fenliu doctor                            what is there, and what to do
  fenliu doctor --json                     for a probe or a ticket; secrets are cut out
"""


def _demo(args: argparse.Namespace) -> int:
    from training.demo import run_demo
    from training.progress import wide_console

    return run_demo(args, wide_console())


def _evaluate(args: argparse.Namespace) -> int:
    from serving.settings import Settings
    from training.progress import wide_console
    from training.study_commands import run

    return run(args, os.environ, Path(__file__).parent, Settings.from_env().home, wide_console())


def _tune(args: argparse.Namespace) -> int:
    from serving.settings import Settings
    from training.progress import wide_console
    from training.tune_commands import tune

    return tune(args, os.environ, Path(__file__).parent, Settings.from_env().home, wide_console())


def _serve(args: argparse.Namespace) -> int:
    import signal
    import threading

    from serving.json_log import set_up
    from serving.settings import Settings

    settings = Settings.from_env(host=args.host, port=args.port, replicas=args.replicas)
    set_up(os.environ)
    if args.local:
        from serving.local import serve_local as serving
    else:
        from serving.app import serve_ray as serving
    over = threading.Event()
    with serving(settings) as url:
        for sign in (signal.SIGINT, signal.SIGTERM):  # now: Ray puts its own handler in while it starts
            signal.signal(sign, lambda *_: over.set())
        print(f"serving on {url}  (try {url}/readyz; Ctrl-C ends)", flush=True)
        over.wait()
        print("stopping", flush=True)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from training.doctor_command import doctor
    from training.progress import wide_console

    return doctor(args, wide_console())


def _decide(args: argparse.Namespace) -> int:
    from rich.console import Console

    from serving.app import spread
    from serving.settings import Settings
    from training.decide_commands import run

    return run(args, Settings.from_env(), spread, Console(stderr=True))


def _bench(args: argparse.Namespace) -> int:
    from training.bench.harness import load, report
    from training.progress import wide_console

    return report(args.bench, load(args.bench).run(args), wide_console())


if __name__ == "__main__":
    sys.exit(main())
