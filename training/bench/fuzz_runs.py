"""The parts of `fenliu bench fuzz` that others' tools make: Schemathesis over the contract, atheris."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from training.bench.tally import Tally
from training.progress import counting, wide_console


def contract(args: argparse.Namespace, tally: Tally) -> None:
    """Schemathesis, where it is installed; where not, that is said, and the figures are of our own part."""
    from training.bench import fuzz_contract

    if not fuzz_contract.available():
        note = "Schemathesis is not installed (a development dependency: make setup): our own part ran alone"
        tally.put("contract_requests", 0, "", note)
        return
    wanted = (1_000 if args.quick else 50_000) if args.contract is None else args.contract
    examples = 8 if args.quick else 100
    with _target(args) as (target, headers), counting(wide_console(), "requests by contract") as bar:
        tell = partial(_shown, bar, wanted)
        seen = fuzz_contract.fuzzed_to(target, wanted, args.seed, headers, examples, tell)
    phases = f"{dict(seen.phases)}, {dict(sorted(seen.statuses.items()))}"
    tally.put("contract_requests", seen.requests, "", phases, (">=", float(wanted)))
    tally.put("contract_5xx", seen.server_errors, "", "other than 503", ("<=", 0.0))
    told = "; ".join([*map(str, seen.violations.most_common(5)), *seen.told])
    tally.put("contract_violations", seen.violations.total(), "", told, ("<=", 0.0))


def _shown(bar: Callable[[int, int], None], wanted: int, requests: int) -> None:
    bar(min(requests, wanted), max(wanted, 1))


def guided(seconds: int, seed: int, tally: Tally) -> None:
    """Coverage-guided, where atheris is; where not, that is said and counted as missed."""
    from training.bench import fuzz_guided

    if not fuzz_guided.available():
        note = f"no {fuzz_guided.PYTHON.parent.parent.name} with atheris: make fuzz"
        tally.put("guided_inputs", 0, "", note, (">=", 1.0))
        return
    names, runs = fuzz_guided.names(), []
    with counting(wide_console(), "decoders") as tell:
        for number, name in enumerate(names):
            runs.append(fuzz_guided.guided(name, seconds, seed))
            tell(number + 1, len(names))
    told = ", ".join(f"{run.target} {run.inputs:,} ({run.covered} edges)" for run in runs)
    tally.put("guided_inputs", sum(run.inputs for run in runs), "", told, (">=", 1.0))
    crashed = [f"{run.target}: {run.crash}" for run in runs if run.crash]
    tally.put("guided_crashes", len(crashed), "", "; ".join(crashed), ("<=", 0.0))


@contextmanager
def _target(args: argparse.Namespace) -> Iterator[tuple[Any, dict[str, str]]]:
    """What Schemathesis asks, and with which headers."""
    key = os.environ.get("FENLIU_KEY", "")
    headers = {"x-api-key": key} if key else {}
    if args.url:
        yield args.url, headers
    elif args.ray:
        from rich.console import Console

        from serving.app import serve_ray
        from training.bench.serve_world import Sizes, opened

        sizes = Sizes(customers=200, items=200, campaigns=20, history=4)
        with opened(Console(quiet=True), sizes) as served, serve_ray(served.settings) as url:
            yield url, served.headers
    else:
        from training.bench.fuzz_contract import application

        folder = tempfile.TemporaryDirectory(prefix="fenliu-fuzz-", ignore_cleanup_errors=True)
        with folder as home, application(Path(home)) as app:
            yield app, {}
