"""`jit` and `unlocked`: loops over arrays compiled to machine code, with types that survive strict checking.

A page calls two dozen of them, a few microseconds each, in a process with many threads: to let go of the
interpreter's lock each time cost a replica 8 % of its pages. Only what runs for long lets go of it.

No fastmath and no parallelism: a kernel gives the same bits on every run. The compiled code is kept in a
folder of its own, so that a process pays for loading it, not for compiling; the folder's name is a digest of
every source that holds kernels, because Numba itself looks only at the file of the kernel that is called, and
would go on with the old code of one that it calls.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("features", "serving", "training")
FOLDER: Final = ".kernels"
_MARK: Final = b"features.compiled import"


def digest() -> str:
    """Of the sources that hold kernels, by path and content."""
    found = blake2b(digest_size=8)
    for path, text in _sources():
        found.update(f"{path}\0{len(text)}\0".encode())
        found.update(text)
    return found.hexdigest()


def _sources() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if _MARK in (text := path.read_bytes()):
                yield str(path.relative_to(ROOT)), text


def _folder() -> Path:
    """Where NUMBA_CACHE_DIR says, else beside the packages, else the user's cache.

    Never a folder that others can write: what lies there is run. Where nothing is ours, nothing is kept.
    """
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(given)
    if os.access(ROOT, os.W_OK):
        return ROOT / FOLDER
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        (home / "fenliu").mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="fenliu-kernels-"))
    return home / "fenliu" / FOLDER


setattr(numba.config, "CACHE_DIR", str(_folder() / digest()))  # noqa: B010 - made at run time, so untyped


def jit(kernel: F) -> F:
    """Compile at the first call with these argument types. `kernel.py_func` is the plain function."""
    return cast(F, numba.njit(cache=True)(kernel))


def unlocked(kernel: F) -> F:
    """As `jit`, for a kernel that runs for long, and in several threads: it runs without Python's lock."""
    return cast(F, numba.njit(cache=True, nogil=True)(kernel))


def loops(kernel: F) -> F:
    """As `jit`, for a kernel that makes no array: compiled without counting references to those it is given.

    Counting took a fifth of a page's time. A kernel that does make an array is refused by the compiler.
    """
    options: dict[str, Any] = {"cache": True, "_nrt": False}  # no public name for the last
    return cast(F, numba.njit(**options)(kernel))
