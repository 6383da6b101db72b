"""Threads for compiled kernels: our own, as many as PyTorch uses, so that any thread may call.

Inside them PyTorch runs on one thread each. Its own ones spin for a while after every call, which steals the cores from
ours, and a busy machine makes them wait for each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch

# Less work than this many pairs of points is not worth waking a thread.
PAIRS_PER_THREAD = 50_000
# Several tasks a thread even out a busy machine.
TASKS_PER_THREAD = 4


@dataclass(frozen=True)
class Work:
    """Rows that can be worked in any order.

    Attributes:
        run: run(first, last) works these rows; without the GIL, if it is to run at the same time as others.
        rows: how many there are.
        pairs: what a row costs, in pairs of points.
        calls_torch: whether it calls PyTorch, which must then not run on threads of its own.
    """

    run: Callable[[int, int], None]
    rows: int
    pairs: float
    calls_torch: bool = False


def share(*works: Work) -> None:
    """Do all of this, on as many threads as PyTorch uses.

    Raises:
        Exception: the first one that a piece of work raised.
    """
    total = sum(work.rows * work.pairs for work in works)
    available = torch.get_num_threads()
    threads = min(available, max(1, int(total / PAIRS_PER_THREAD)))
    if threads == 1:
        for work in works:
            work.run(0, work.rows)
        return
    tasks = []
    for work in works:
        step = max(1, round(total / (TASKS_PER_THREAD * threads) / work.pairs))
        tasks += [(work.run, first, min(first + step, work.rows)) for first in range(0, work.rows, step)]
    remaining = iter(tasks)

    def drain() -> None:
        # next() on a list's iterator is atomic under the GIL.
        for run, first, last in remaining:
            run(first, last)

    # The caller helps, unless its PyTorch would wake threads of its own.
    helpers = threads if any(work.calls_torch for work in works) else threads - 1
    waiting = [_pool(available).submit(drain) for _ in range(helpers)]
    if helpers < threads:
        drain()
    for helper in waiting:
        helper.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, "kantor", initializer=_alone)
    everyone = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(everyone.wait)
    everyone.wait()
    # What the helpers set for themselves is also what threads to come would start with.
    torch.set_num_threads(threads)
    return pool


def _alone() -> None:
    # A thread takes over the number of threads at its first question, which must not come later.
    torch.get_num_threads()
    torch.set_num_threads(1)


# Threads do not survive a fork; the child makes its own.
os.register_at_fork(after_in_child=_pool.cache_clear)
