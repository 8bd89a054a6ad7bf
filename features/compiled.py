"""`jit`: loops over arrays compiled to machine code, with types that survive strict checking.

No fastmath and no parallelism: a kernel gives the same bits on every run. The compiled code is kept beside
the source (or where NUMBA_CACHE_DIR says), so that a process pays for loading it, not for compiling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def jit(kernel: F) -> F:
    """Compile at the first call with these argument types. `kernel.py_func` is the plain function."""
    return cast(F, numba.njit(cache=True, nogil=True)(kernel))
