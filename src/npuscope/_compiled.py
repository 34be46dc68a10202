"""Compilation of loops that NumPy would do in many passes, or not at all, by numba."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function, signature: str | None = None) -> _Function:
    """Compile `function` at its first call; machine code is kept on disk for the next process.

    Args:
        function: A loop over arrays and numbers.
        signature: Its types, as numba writes them: it is compiled at once then, and no timed call pays for it.
    """
    if "NUMBA_CACHE_DIR" not in os.environ and not os.access(Path(__file__).parent, os.W_OK):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        os.environ["NUMBA_CACHE_DIR"] = str(cache / "npuscope" / "numba")
    import numba

    make = numba.njit(signature, cache=True, nogil=True, error_model="numpy")
    return cast(_Function, make(function))
