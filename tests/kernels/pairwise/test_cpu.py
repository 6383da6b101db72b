"""What is peculiar to the compiled backend: threads, NaN, the line, and the accuracy of long sums."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from kantor_kernels import energy_distance, explain, kernel_potential, self_energy
from kantor_kernels.pairwise import cpu
from kantor_kernels.testing import assert_close


def test_it_is_the_choice_on_a_processor() -> None:
    x = torch.randn(3, 2)
    assert explain(x, x).backend == "cpu"


@pytest.mark.parametrize("d", [8, 40])
def test_many_threads_may_call_at_once(d: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(700, d, generator=generator), torch.randn(600, d, generator=generator)
    expected = energy_distance(x, y, backend="cpu").item()
    results: list[float] = []

    def call() -> None:
        results.extend(energy_distance(x, y, backend="cpu").item() for _ in range(5))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 30


def test_the_number_of_threads_is_that_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def work(first: int, last: int) -> None:
        seen.add(threading.current_thread().name)
        time.sleep(0.01)

    for threads in (1, 3):
        seen.clear()
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        cpu._share(work, 1000, 1000)
        assert len(seen) == threads


def test_every_row_is_worked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for rows in (1, 2, 7, 1001):
        count = [0] * rows

        def work(first: int, last: int, count: list[int] = count) -> None:
            for row in range(first, last):
                count[row] += 1

        cpu._share(work, rows, 100_000)
        assert count == [1] * rows


def test_values_do_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(400, 6), torch.randn(500, 6)
    values = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        values.append(kernel_potential(x, y, backend="cpu"))
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


@pytest.mark.parametrize("d", [1, 5, 30])
def test_nan_comes_out_as_nan(d: int) -> None:
    x, y = torch.randn(20, d), torch.randn(30, d)
    x[3, 0] = float("nan")
    potential = kernel_potential(x, y, backend="cpu")
    assert potential[3].isnan()
    if d > 1:
        assert energy_distance(x, y, backend="cpu").isnan()


def test_the_line_with_ties_weights_and_an_offset() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 9, (2, 40, 1), generator=generator).double() + 1e6
    y = torch.randint(0, 9, (2, 30, 1), generator=generator).double() + 1e6
    weight = torch.randn(2, 30, generator=generator).double()
    for skip in (False, True):
        point, again = x.clone().requires_grad_(), x.clone().requires_grad_()
        ours = kernel_potential(point, y, weight, skip_diagonal=skip, normalise=False, backend="cpu")
        exact = kernel_potential(again, y, weight, skip_diagonal=skip, normalise=False, backend="reference")
        assert_close("value", ours, exact, atol=1e-9)
        (slope,) = torch.autograd.grad(ours.sum(), point)
        (expected,) = torch.autograd.grad(exact.sum(), again)
        assert_close("slope", slope, expected, atol=1e-12)


def test_a_million_points_on_a_line() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1_000_000, 1, generator=generator)
    # E|X - X'| = 2 / sqrt(pi) for a normal variable.
    assert self_energy(x, estimator="u").item() == pytest.approx(-2 / torch.pi**0.5, rel=3e-3)
    assert explain(x[:10], x[:10]).passes == 3


@pytest.mark.parametrize("d", [3, 8, 40])
def test_means_have_no_bias(d: int) -> None:
    x = torch.randn(3000, d, generator=torch.Generator().manual_seed(4))
    exact = self_energy(x, precision="float64", backend="cpu").item()
    assert self_energy(x, backend="cpu").item() == pytest.approx(exact, rel=3e-9)
