"""Compilation by Numba: kept on disk for the next process, and of one function at a time."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.caching import FunctionCache

# The files of this package whose code ends up in compiled functions.
SOURCES = ("compiling.py", "threads.py", "cpu*.py", "*/cpu*.py")

# Bytes of a vector register: there are 32 of 64 with AVX-512, else 16 of at most 32.
VECTOR = 64 if llvm.get_host_cpu_features().get("avx512f", False) else 32

_compiling = threading.RLock()


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As `numba.njit`, and without the GIL; what is compiled is kept beside the function's file.

    Where that is not writable, in the user's cache (or NUMBA_CACHE_DIR); where there is none, among temporary files.

    Args:
        **options: of `numba.njit`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(function, nogil=True, **options)
        dispatcher._cache = _cache_of(function, dispatcher._cache)
        return _one_at_a_time(dispatcher)

    return decorate


def _cache_of(function: Callable[..., Any], none: Any) -> Any:
    """The function's cache; `none`, with which each process compiles it again, where there is no place for one."""
    try:
        return _Cache(function)
    except RuntimeError:
        place = _temporary_place()
        if place is None:
            return none
        numba.config.CACHE_DIR = str(place)  # type: ignore[attr-defined]
        return _Cache(function)


def _temporary_place() -> Path | None:
    """A directory of this user's alone: what is found there will be run."""
    place = Path(tempfile.gettempdir(), f"kantor-kernels-{os.getuid()}")
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        state = place.lstat()
    except OSError:
        return None
    alone = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o077
    return place if alone else None


class _Cache(FunctionCache):
    """Numba itself looks whether the function's own file has changed, but not at those of what it calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # Now, as of what is imported: the files may change before anything is compiled.
        self._sources = _state_of_sources()

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), self._sources


@cache
def _state_of_sources() -> str:
    here = Path(__file__).parent
    files = sorted(path for pattern in SOURCES for path in here.glob(pattern))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _one_at_a_time(dispatcher: Any) -> Any:
    """Numba locks single passes of a compilation; where those of two threads alternate, one may miss what the other has
    looked up (KeyError in `get_impl_key`, Numba 0.68).
    """
    compile_for = dispatcher._compile_for_args

    def compile_alone(*args: Any, **options: Any) -> Any:
        with _compiling:
            return compile_for(*args, **options)

    dispatcher._compile_for_args = compile_alone
    return dispatcher
