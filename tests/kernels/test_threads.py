"""Every part of some work is done once, whoever starts the threads."""

from __future__ import annotations

import subprocess
import sys
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
def _all(starter: int, count: int, seen: Any, numbers: Any) -> None:
    threads.run_parts(starter, count, len(seen), _work, (seen, numbers, 0.5, True))


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 1_000])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("started", [False, True])
def test_every_part_is_done_once(started: bool, count: int, parts: int) -> None:
    seen, numbers = np.zeros(parts, np.int64), np.zeros((parts, 3), np.float32)
    _all(threads.starter() if started else 0, count, seen, numbers)
    assert (seen == 1).all()
    assert (numbers == -0.5 * np.arange(parts)[:, None]).all()


def test_pytorch_has_threads_to_start() -> None:
    assert threads.starter() != 0


def test_little_work_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert threads.how_many(0) == 1
    assert threads.how_many(2.5 * threads.PAIRS_PER_THREAD) == 2
    assert threads.how_many(1e9) == 4


FORK = """
import os, signal, torch
from torch import nn
from kantor_kernels import energy_distance, mlp_critic_step
torch.set_num_threads(2)
x, y = torch.randn(2000, 4, requires_grad=True), torch.randn(2000, 4)
critic = nn.Sequential(nn.Linear(4, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

def compiled():
    energy_distance(x, y).backward()
    mlp_critic_step(critic, x, y)

def products():
    energy_distance(x, y, backend="torch")

compiled(), products()
for work in (compiled, products):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        if work is products:
            torch.set_num_threads(1)
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, work.__name__
"""


@pytest.mark.slow
def test_a_fork_computes_on() -> None:
    """What is compiled as it is, what PyTorch computes on one thread."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
