"""What is peculiar to the compiled backend: threads, NaN, the line, and the accuracy of long sums."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch

from kantor_kernels import Laplacian, energy_distance, explain, kernel_potential, mmd, self_energy
from kantor_kernels.testing import assert_close
from kantor_kernels.threads import Work, run_all


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


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_threads_are_those_of_pytorch(threads: Callable[[int], None]) -> None:
    """As many, the caller's among them."""
    seen: set[int] = set()

    def work(first: int, last: int) -> None:
        seen.add(threading.get_ident())
        time.sleep(0.01)

    for count in (3, 5):
        seen.clear()
        threads(count)
        run_all(Work(work, 1000, 1000))
        assert len(seen) == count
        assert torch.get_num_threads() == count
        assert threading.get_ident() in seen


def test_every_row_is_worked_once(threads: Callable[[int], None]) -> None:
    threads(3)
    for rows in (1, 2, 7, 1001):
        count = np.zeros((2, rows), int)

        def work(kind: int, first: int, last: int, count: np.ndarray = count) -> None:
            count[kind, first:last] += 1

        run_all(Work(partial(work, 0), rows, 100_000), Work(partial(work, 1), rows, 10))
        assert (count == 1).all()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_works_alone(threads: Callable[[int], None]) -> None:
    """The threads of its parent are not there, and waiting for them would take for ever."""
    threads(2)
    run_all(Work(lambda first, last: None, 1000, 1000))
    child = os.fork()
    if child == 0:
        done: list[tuple[int, int]] = []
        run_all(Work(lambda first, last: done.append((first, last)), 1000, 1000))
        os._exit(0 if done == [(0, 1000)] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_without_openmp_one_thread_does_it_all(threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    threads(2)
    monkeypatch.setattr("kantor_kernels.threads._parallel", lambda: None)
    done: list[tuple[int, int]] = []
    run_all(Work(lambda first, last: done.append((first, last)), 1000, 1000))
    assert done == [(0, 1000)]


def test_what_a_thread_raises_comes_out(threads: Callable[[int], None]) -> None:
    def work(first: int, last: int) -> None:
        raise ValueError("row 7")

    threads(3)
    with pytest.raises(ValueError, match="row 7"):
        run_all(Work(work, 1000, 1000))


@pytest.mark.parametrize("d", [1, 6, 40])
def test_values_do_not_depend_on_the_threads(d: int, threads: Callable[[int], None]) -> None:
    x, y = torch.randn(1, 700, d), torch.randn(1, 500, d)
    x.requires_grad_()
    results = []
    for count in (1, 2, 5):
        threads(count)
        value = energy_distance(x, y, backend="cpu")
        results.append((kernel_potential(x, y, backend="cpu"), value, torch.autograd.grad(value.sum(), x)[0]))
    for other in results[1:]:
        for ours, again in zip(results[0], other, strict=True):
            assert torch.equal(ours, again)


@pytest.mark.parametrize("d", [1, 5, 30])
def test_nan_comes_out_as_nan(d: int) -> None:
    x, y = torch.randn(20, d), torch.randn(30, d)
    x[3, 0] = float("nan")
    potential = kernel_potential(x, y, backend="cpu")
    assert potential[3].isnan()
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", ["u", "v"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reused", [False, True])
def test_the_energy_distance_on_a_line(dtype: torch.dtype, estimator: str, weighted: bool, reused: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(0, 60, (2, 70, 1), generator=generator).to(dtype) / 16
    y = torch.randint(0, 60, (2, 50, 1), generator=generator).to(dtype) / 16
    weight_x = torch.rand(2, 70, generator=generator).to(dtype) - 0.1
    results = []
    for backend, kind in (("cpu", dtype), ("reference", torch.float64)):
        points = [tensor.to(kind, copy=True).requires_grad_() for tensor in (x, y)]
        weight = weight_x.to(kind) if weighted else None
        yy = torch.tensor([0.5, 0.25], dtype=torch.float64) if reused else None
        value = energy_distance(points[0], points[1], weight, estimator=estimator, yy=yy, backend=backend)
        slopes = torch.autograd.grad(value.sum(), points, create_graph=True)
        curves = torch.autograd.grad(torch.cat(slopes, 1).square().sum(), points, allow_unused=True)
        results.append((value, *slopes, *curves))
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    for index, (ours, exact) in enumerate(zip(*results, strict=True)):
        ours, exact = (torch.zeros(()) if tensor is None else tensor for tensor in (ours, exact))
        assert_close(f"result {index}", ours, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("d", [1, 3, 40])
@pytest.mark.parametrize("sides", ["x", "y", "xy", ""])
@pytest.mark.parametrize("estimator", ["u", "v"])
def test_all_sums_at_once_equal_each_alone(d: int, sides: str, estimator: str) -> None:
    """A derivative by a weight is taken from operators of their own, everything else from one."""
    generator = torch.Generator().manual_seed(9)
    x, y = (torch.randn(2, n, d, generator=generator, dtype=torch.float64) for n in (40, 30))
    weight = torch.rand(2, 30, generator=generator, dtype=torch.float64)
    results = []
    for weighs in (False, True):
        points = [point.clone().requires_grad_(side in sides) for side, point in (("x", x), ("y", y))]
        known = weight.clone().requires_grad_(weighs)
        leaves = [point for point in points if point.requires_grad]
        for yy in (None, torch.ones(2, dtype=torch.float64)):
            value = mmd(
                points[0],
                points[1],
                None,
                known,
                kernel=Laplacian([0.7, 2.0]),
                estimator=estimator,
                yy=yy,
                backend="cpu",
            )
            results.append(value)
            if leaves:
                results += torch.autograd.grad(value.sum(), leaves)
    half = len(results) // 2
    for once, alone in zip(results[:half], results[half:], strict=True):
        assert_close("once", once.detach(), alone.detach(), rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("d", [4, 40])
def test_memory_grows_with_the_rows_alone(d: int) -> None:
    """Value and gradient in a process of its own, after a first call has loaded everything."""
    rows = 40_000 if d == 4 else 20_000
    script = f"""
import resource, torch
from kantor_kernels import energy_distance
x, y = torch.randn({rows}, {d}, requires_grad=True), torch.randn({rows}, {d})
energy_distance(x[:2000], y[:2000], backend="cpu").backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
energy_distance(x, y, backend="cpu").backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # Sixteen numbers for each coordinate and tiles of threads; a matrix of all pairs would be gigabytes.
    assert int(found.stdout) < 2 * rows * (d + 4) * 64 + (16 << 20)


def test_a_million_points_on_a_line() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1_000_000, 1, generator=generator)
    # E|X - X'| = 2 / sqrt(pi) for a normal variable.
    assert self_energy(x, estimator="u").item() == pytest.approx(-2 / torch.pi**0.5, rel=3e-3)
    assert explain(x[:10], x[:10]).pairs == 0


@pytest.mark.parametrize("d", [3, 8, 16, 24, 40])
def test_means_have_no_bias(d: int) -> None:
    x = torch.randn(3000, d, generator=torch.Generator().manual_seed(4))
    exact = self_energy(x, precision="float64", backend="cpu").item()
    assert self_energy(x, backend="cpu").item() == pytest.approx(exact, rel=3e-9)
