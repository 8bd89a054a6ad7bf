"""LightGBM, imported in one place; and its boosters as the forests that serve.

Its wheel wants the system's OpenMP runtime, libgomp.so.1, which a fresh machine may lack. FAISS's wheel
brings the same runtime under another name; where the system has none, a copy of that with the name LightGBM
asks for is kept in the user's cache and loaded first.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np

from serving.forest import MOST_LEAVES, Forest

SONAME: Final = b"libgomp.so.1"
REMEDY: Final = "install the OpenMP runtime (Debian and Ubuntu: libgomp1; Fedora and RHEL: libgomp)"


class LearnerMissing(RuntimeError):
    """LightGBM cannot be loaded; says what to install."""


def lightgbm() -> Any:
    """The module. Raises LearnerMissing."""
    try:
        ctypes.CDLL(SONAME.decode(), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _load_copy()
    try:
        return importlib.import_module("lightgbm")
    except (OSError, ImportError) as error:
        raise LearnerMissing(f"LightGBM cannot be loaded ({error}): {REMEDY}") from error


def _load_copy() -> None:
    source = bundled()
    if source is None:
        raise LearnerMissing(f"{SONAME.decode()} is not on this machine: {REMEDY}")
    try:
        ctypes.CDLL(str(renamed(source)), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise LearnerMissing(f"a copy of {source.name} cannot be loaded ({error}): {REMEDY}") from error


def bundled() -> Path | None:
    """The runtime that FAISS's wheel brings; None where there is none."""
    found = importlib.util.find_spec("faiss")
    if found is None or found.origin is None:
        return None
    beside = Path(found.origin).parents[1] / "faiss_cpu.libs"
    return next(iter(sorted(beside.glob("libgomp-*.so*"))), None)


def renamed(source: Path, folder: Path | None = None) -> Path:
    """A copy whose SONAME is libgomp.so.1, made once and whole or not at all.

    The name's string is shortened in place, so no offset in the file moves. Raises LearnerMissing where the
    file holds no name of its own.
    """
    raw = source.read_bytes()
    own = source.name.encode()
    at = raw.find(own + b"\0")
    if at < 0 or len(own) < len(SONAME):
        raise LearnerMissing(f"{source.name} does not name itself, so it cannot be renamed: {REMEDY}")
    patched = raw[:at] + SONAME.ljust(len(own), b"\0") + raw[at + len(own) :]
    folder = folder if folder is not None else _cache()
    target = folder / f"libgomp-{blake2b(patched, digest_size=6).hexdigest()}.so.1"
    if not target.exists() or target.read_bytes() != patched:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as draft:
            draft.write(patched)
        Path(draft.name).chmod(0o700)
        Path(draft.name).replace(target)
    return target


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fenliu"


def forest_of(booster: Any) -> Forest:
    """A booster's trees as arrays that say the same of every f4 matrix, bit for bit of each leaf reached.

    Raises ValueError for trees of more than 16 leaves, or that test anything but `x <= threshold`.
    """
    feature: list[int] = []
    threshold: list[float] = []
    mask: list[int] = []
    starts, leaves = [0], []
    for one in booster.dump_model()["tree_info"]:
        values = [0.0] * MOST_LEAVES

        def walk(node: Mapping[str, Any], first: int, values: list[float] = values) -> int:
            """Number the leaves below from `first`; how many there are."""
            if "leaf_value" in node:
                if first >= MOST_LEAVES:
                    raise ValueError(f"a tree has more than {MOST_LEAVES} leaves")
                values[first] = float(node["leaf_value"])
                return 1
            if node["decision_type"] != "<=":
                raise ValueError("only splits by numbers can be served")
            left = walk(node["left_child"], first)
            right = walk(node["right_child"], first + left)
            feature.append(int(node["split_feature"]))
            threshold.append(float(node["threshold"]))
            mask.append(0xFFFF & ~(((1 << left) - 1) << first))
            return left + right

        walk(one["tree_structure"], 0)
        starts.append(len(feature))
        leaves.append(values)
    limit = np.array(threshold, np.float64)
    rounded = np.clip(limit, -3e38, 3e38).astype(np.float32)
    down = np.nextafter(rounded, np.float32(-np.inf))
    return Forest(
        np.array(feature, np.int32), np.where(rounded > limit, down, rounded).astype(np.float32),
        np.array(mask, np.uint16), np.array(starts, np.int32),
        np.array(leaves, np.float32).reshape(-1, MOST_LEAVES),
    )  # fmt: skip
