"""Small files of interactions for tests of `fenliu evaluate`."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from training.model import Positives
from training.study_files import Reading

NOW = 1_800_000_000.0


START = 1_700_000_000


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def reading(**given: object) -> Reading:
    return Reading(**({"columns": {}} | given))


def events(rows: list[tuple[int, int, float]]) -> Positives:
    user, item, at = zip(*rows, strict=True)
    return Positives(
        np.array(user, np.int32),
        np.array(item, np.int32),
        np.array(at, float),
        np.ones(len(rows), np.float32),
    )
