"""Every part of some work is done once, whoever starts the threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
import torch

from kantor_kernels import threads


@numba.njit(nogil=True)
def _work(part: int, seen: Any, numbers: Any, scale: float, negative: bool) -> None:
    seen[part] += 1
    numbers[part, :] = -scale * part if negative else scale * part


@numba.njit(nogil=True)
def _all(entry: int, count: int, seen: Any, numbers: Any) -> None:
    threads.run_parts(entry, count, len(seen), _work, (seen, numbers, 0.5, True))


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 1_000])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("started", [False, True])
def test_every_part_is_done_once(started: bool, count: int, parts: int) -> None:
    seen, numbers = np.zeros(parts, np.int64), np.zeros((parts, 3), np.float32)
    _all(threads.entry() if started else 0, count, seen, numbers)
    assert (seen == 1).all()
    assert (numbers == -0.5 * np.arange(parts)[:, None]).all()


def test_pytorch_has_threads_to_start() -> None:
    assert threads.entry() != 0


def test_little_work_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert threads.how_many(0) == 1
    assert threads.how_many(2.5 * threads.PAIRS_PER_THREAD) == 2
    assert threads.how_many(1e9) == 4


def test_two_threads_do_not_compile_at_once() -> None:
    """They report KeyError now and then."""
    inside, most = 0, 0

    class Slow:
        def _compile_for_args(self, *args: Any) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    functions = [threads.one_at_a_time(Slow()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda function: function._compile_for_args(1), functions))
    assert most == 1


def test_numba_asks_for_compilation_where_it_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[bool] = []
    lock = threads._compiling

    class Seen:
        def __enter__(self) -> None:
            entered.append(True)
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    monkeypatch.setattr(threads, "_compiling", Seen())
    double = threads.one_at_a_time(numba.njit(lambda x: 2 * x))
    assert (double(2), double(2), double(1.5)) == (4, 4, 3.0)
    assert len(entered) == 2  # once for each type
