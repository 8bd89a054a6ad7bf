"""Coverage-guided fuzzing of each decoder by atheris, in an environment of its own (`make fuzz`).

libFuzzer ends its process, so each target has one: `python -m training.bench.fuzz_guided TARGET SECONDS
SEED FOLDER`, run by an interpreter that has atheris and is told where everything else lies.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = ROOT / ".venv-fuzz" / "bin" / "python"
LONGEST: Final = 8192  # bytes of an input
START_S: Final = 120
TRACED: Final = (
    *("features.customer", "features.schema", "features.patch", "features.events", "features.token"),
    *("features.keyspace", "features.fields", "features.ids", "features.outcomes", "serving.wire"),
    *("serving.plan_read", "serving.prices", "serving.remembered", "serving.oidc"),
)
_DONE: Final = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+)")


class Run(NamedTuple):
    """`covered`: edges; `crash` is empty where there was none."""

    target: str
    inputs: int
    covered: int
    crash: str


def available() -> bool:
    """Whether the environment was made."""
    return PYTHON.exists()


def guided(target: str, seconds: int, seed: int) -> Run:
    """One target, for so many seconds, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fenliu-guided-") as folder:
        path = os.pathsep.join([str(ROOT), *(part for part in sys.path if part)])
        quiet = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [str(PYTHON), "-m", __name__, target, str(seconds), str(seed), folder]
        done = subprocess.run(
            command, env={**os.environ, **quiet}, capture_output=True, text=True, errors="replace",
            timeout=seconds + START_S, cwd=ROOT,
        )  # fmt: skip
        return read(target, done.returncode, done.stdout + done.stderr)


def read(target: str, status: int, said: str) -> Run:
    """What a process said at its end."""
    found = _DONE.search(said)
    inputs, covered = (int(found[1]), int(found[2])) if found else (0, 0)
    if status == 0 and found:
        return Run(target, inputs, covered, "")
    lines = [line for line in said.splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or "Base64" in line or "exception" in line]
    return Run(target, inputs, covered, "; ".join((told or lines)[:3])[:300] or f"exit {status}")


def names() -> list[str]:
    """Of every target."""
    import numpy as np

    from training.bench.fuzz import _targets

    return [target.name for target in _targets(np.random.default_rng(0))]


def main(arguments: list[str]) -> None:
    """In the environment that has atheris. Does not return."""
    atheris: Any = importlib.import_module("atheris")
    name, seconds, seed, folder = arguments[0], *map(int, arguments[1:3]), Path(arguments[3])
    with atheris.instrument_imports(include=list(TRACED)):
        import numpy as np

        from training.bench.fuzz import SIGNED, _targets

        (target,) = [one for one in _targets(np.random.default_rng(seed)) if one.name == name]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number, good in enumerate(target.good):
        (corpus / str(number)).write_bytes(good)

    def once(raw: bytes) -> None:
        try:
            target.read(raw)
        except target.refuses:
            return
        if name in SIGNED and raw not in target.good:
            raise AssertionError("a forged token was taken")

    options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={LONGEST}", "-timeout=5"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
