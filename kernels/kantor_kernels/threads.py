"""Threads for compiled kernels: PyTorch's own, so that no two sets of threads want the same cores.

PyTorch's OpenMP threads wait for the next parallel region by spinning, which would steal the cores from any others.
Asked through the same OpenMP library, they are the ones that do our work, and they start in microseconds. Inside of it
PyTorch and its matrix library see that they are in a parallel region and stay on one thread each.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

# Less work than this many pairs of points is not worth waking a thread.
PAIRS_PER_THREAD = 50_000
# Several tasks a thread even out a busy machine.
TASKS_PER_THREAD = 4

_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@dataclass(frozen=True)
class Work:
    """Rows that can be worked in any order.

    Attributes:
        run: run(first, last) works these rows; without the GIL, if it is to run at the same time as others.
        rows: how many there are.
        pairs: what a row costs, in pairs of points.
    """

    run: Callable[[int, int], None]
    rows: int
    pairs: float


def share(*works: Work) -> None:
    """Do all of this, on as many threads as PyTorch uses, the caller's among them.

    Raises:
        Exception: the first one that a piece of work raised.
    """
    total = sum(work.rows * work.pairs for work in works)
    threads = min(torch.get_num_threads(), max(1, int(total / PAIRS_PER_THREAD)))
    parallel = _parallel()
    if threads == 1 or parallel is None or _forked:
        for work in works:
            work.run(0, work.rows)
        return
    tasks = []
    for work in works:
        step = max(1, round(total / (TASKS_PER_THREAD * threads) / work.pairs))
        tasks += [(work.run, first, min(first + step, work.rows)) for first in range(0, work.rows, step)]
    remaining = iter(tasks)
    errors: list[BaseException] = []

    def drain(_: object) -> None:
        try:
            # next() on a list's iterator is atomic under the GIL.
            for run, first, last in remaining:
                run(first, last)
        except BaseException as error:
            errors.append(error)

    parallel(_Region(drain), None, threads, 0)
    if errors:
        raise errors[0]


@cache
def _parallel() -> Any:
    """GOMP_parallel(function, data, threads, flags) of the OpenMP library that PyTorch is linked with, or None.

    Every OpenMP library for Linux has this entry, GNU's because GCC compiles `#pragma omp parallel` to it, LLVM's and
    Intel's for its sake. A symbol is looked for in a library and in those it needs.
    """
    if not torch.backends.openmp.is_available():
        return None
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = (_Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return function


# OpenMP's threads do not survive a fork, and the child would wait for them for ever.
_forked: list[bool] = []
os.register_at_fork(after_in_child=lambda: _forked.append(True))
