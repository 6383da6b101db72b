"""What only a CUDA device can show: results there, no waiting for it, CUDA graphs, memory, determinism."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kantor_kernels import Energy, Gaussian, Kernel, Laplacian, energy_distance, explain, kernel_potential, mmd
from kantor_kernels.benchmark import CudaClock
from kantor_kernels.testing import assert_close

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
KERNELS: dict[str, Kernel] = {"energy": Energy(), "gaussian": Gaussian([1.0, 4.0]), "laplacian": Laplacian(2.0)}


def samples(n: int, m: int, d: int, case: str = "plain") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator) + 0.1
    close = n // 10
    if case == "near":
        y[:close] = x[:close] + 1e-3 * torch.randn(close, d, generator=generator)
    if case == "offset":
        x, y = x + 1e3, y + 1e3
    return x.cuda(), y.cuda()


@pytest.mark.parametrize("case", ["plain", "near", "offset"])
@pytest.mark.parametrize("d", [2, 8, 16, 20, 64, 100, 256])
@pytest.mark.parametrize("name", list(KERNELS))
def test_potentials_and_gradients(name: str, d: int, case: str) -> None:
    x, y = samples(517, 1031, d, case)
    weight = torch.randn(1031, generator=torch.Generator().manual_seed(6)).cuda()
    values, slopes = [], []
    for how, dtype in (("reference", torch.float64), ("reference", torch.float32), ("triton", torch.float32)):
        point = x.to(dtype, copy=True).requires_grad_()
        value = kernel_potential(
            point, y.to(dtype), weight.to(dtype), kernel=KERNELS[name], normalise=False, backend=how
        )
        slopes.append(torch.autograd.grad(value.sum(), point)[0])
        values.append(value.detach())
    for what, (exact, plain, ours) in (("value", values), ("gradient", slopes)):
        assert_close(what, ours, exact, baseline=plain, atol=2e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("d", [1, 8, 64])
@pytest.mark.parametrize("estimator", ["u", "v"])
def test_statistics_and_both_gradients(d: int, estimator: str) -> None:
    x, y = samples(700, 1100, d, "near")
    results = []
    for how, dtype in (("reference", torch.float64), ("reference", torch.float32), ("auto", torch.float32)):
        points = [t.to(dtype, copy=True).requires_grad_() for t in (x, y)]
        value = energy_distance(*points, estimator=estimator, backend=how)
        results.append((value.detach(), *torch.autograd.grad(value, points)))
    for what, exact, plain, ours in zip(("value", "by x", "by y"), *results, strict=True):
        atol = 1e-7 if what == "value" else 2e-6 * float(exact.abs().max())
        assert_close(what, ours, exact, baseline=plain, atol=atol)


@pytest.mark.parametrize("d", [3, 40])
def test_second_derivatives(d: int) -> None:
    x, y = samples(60, 70, d, "near")
    products = []
    for how, dtype in (("reference", torch.float64), ("triton", torch.float32)):
        points = [t.to(dtype, copy=True).requires_grad_() for t in (x, y)]
        value = energy_distance(*points, backend=how)
        slopes = torch.autograd.grad(value, points, create_graph=True)
        total = torch.cat(slopes)
        products.append(torch.autograd.grad(total, points, total.detach().sign()))
    for what, exact, ours in zip(("x", "y"), *products, strict=True):
        assert_close(what, ours, exact, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("d", [8, 64])
@pytest.mark.parametrize("name", list(KERNELS))
def test_a_step_becomes_a_graph_and_never_waits(name: str, d: int) -> None:
    x, y = samples(500, 700, d)
    x.requires_grad_()

    def step() -> Tensor:
        return torch.autograd.grad(mmd(x, y, kernel=KERNELS[name]), x)[0]

    expected = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again, expected)
    kept = torch.zeros_like(expected)
    replay = CudaClock(torch.device("cuda")).captured(lambda: kept.copy_(step()))
    assert replay is not None
    kept.zero_()
    replay()
    assert torch.equal(kept, expected)


def test_weights_are_checked_outside_of_a_graph_alone() -> None:
    x, y = samples(300, 200, 8)
    weight = torch.rand(200, device="cuda") + 0.1
    kept = torch.zeros((), device="cuda")
    replay = CudaClock(torch.device("cuda")).captured(lambda: kept.copy_(energy_distance(x, y, None, weight)))
    assert replay is not None
    kept.zero_()
    replay()
    assert kept.item() == energy_distance(x, y, None, weight).item()


def test_memory_grows_with_rows_alone() -> None:
    x, y = samples(60_000, 60_000, 8)
    x.requires_grad_()
    clock = CudaClock(torch.device("cuda"))
    needed = clock.peak_bytes(lambda: torch.autograd.grad(energy_distance(x, y), x))
    assert needed is not None
    # One 60,000 x 60,000 matrix takes 14.4 GB.
    assert needed < 500e6
    assert explain(x, y).backend == "triton"


@pytest.mark.parametrize("d", [8, 64])
def test_results_are_the_same_every_time(d: int) -> None:
    x, y = samples(3000, 5000, d)
    x.requires_grad_()
    first, second = (torch.autograd.grad(energy_distance(x, y), x)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_many_small_samples() -> None:
    x = torch.randn(70_000, 5, 3, device="cuda")
    ours, plain = (energy_distance(x, x + 1, backend=how) for how in ("triton", "torch"))
    assert_close("distances", ours, plain, atol=1e-5)
