"""The slope of the potential: its definition, its first derivatives, its tiles, what it refuses."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kantor_kernels import Energy, Gaussian, Kernel, Laplacian, Polynomial, kernel_potential, kernel_slope
from kantor_kernels.testing import AWKWARD_SIZES, assert_close, poisoned_memory


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(9, 9), (5, 12), (12, 5)])
def test_it_is_the_derivative_of_the_potential(
    shape: tuple[int, int], weighted: bool, normalise: bool, skip: bool, kernel: Kernel
) -> None:
    if not kernel.radial:
        return
    n, m = shape
    x, y = draw(2, n, 3, seed=1), draw(2, m, 3, seed=2)
    y[:, :2] = x[:, :2]
    weight = draw(2, m, seed=3) + 2 if weighted else None
    options = {"kernel": kernel, "normalise": normalise, "skip_diagonal": skip}
    results = []
    compiled = ("cpu",) if isinstance(kernel, Energy) and kernel.exponent == 1 else ()
    for how in (*compiled, "torch", "reference", "potential"):
        leaves = [t.clone().requires_grad_() for t in (x, y, *(() if weight is None else (weight,)))]
        if how == "potential":
            total = kernel_potential(*leaves, **options, backend="torch").sum()
            (slope,) = torch.autograd.grad(total, leaves[0], create_graph=True)
        else:
            with poisoned_memory():
                slope = kernel_slope(*leaves, **options, backend=how)
        results.append((slope, *torch.autograd.grad(slope.square().sum(), leaves)))
    for name, ours, *others in zip(("slope", "by x", "by y", "by weight"), *results, strict=False):
        for other in others:
            assert_close(name, ours.detach(), other.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("skip", [False, True])
def test_derivatives_are_those_of_finite_differences(skip: bool) -> None:
    x, y, weight = (t.requires_grad_() for t in (draw(4, 2, seed=1), draw(5, 2, seed=2), draw(5, seed=3) + 2))
    for kernel in (Energy(), Laplacian([0.7, 2.0])):
        for how in ("auto", "torch"):
            slope = partial(kernel_slope, kernel=kernel, skip_diagonal=skip, backend=how)
            assert gradcheck(slope, (x, y, weight), fast_mode=True)
    definition = partial(kernel_slope, kernel=Gaussian(1.2), skip_diagonal=skip, backend="reference")
    assert gradgradcheck(definition, (x, y, weight), fast_mode=True)


@pytest.mark.parametrize("m", [3, 64])
def test_tiles_do_not_show(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the diagonal leaves the tiles before their last one."""
    for n in AWKWARD_SIZES:
        x, y = draw(n, 3, seed=n).float().requires_grad_(), draw(m, 3, seed=m + 1).float().requires_grad_()
        results = []
        for pairs in (2**22, 20 * m):
            monkeypatch.setattr("kantor_kernels.pairwise.slope.PAIRS", pairs)
            slope = kernel_slope(x, y, skip_diagonal=True, normalise=False, backend="torch")
            results.append((slope, *torch.autograd.grad(slope.square().sum(), (x, y))))
        for name, tiled, whole in zip(("slope", "by x", "by y"), *reversed(results), strict=True):
            atol = 1e-5 * float(whole.detach().abs().max())
            assert_close(name, tiled.detach(), whole.detach(), atol=atol)


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("how", ["cpu", "torch"])
def test_close_pairs_keep_their_digits(how: str, d: int) -> None:
    """Of a product in float32 nothing would be left of their distance; coincident ones count nothing."""
    y = draw(40, d, seed=2) + 3
    apart = torch.tensor([0.0, 1e-4, 1e-2, 1.0]).repeat(10)[:, None]
    x = (y + apart * draw(40, d, seed=1)).float()
    y, v = y.float(), draw(40, d, seed=3).float()
    x[::4] = y[::4]

    def found(how: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.to(dtype).requires_grad_() for t in (x, y, draw(40, seed=4))]
        slope = kernel_slope(*leaves, normalise=False, backend=how)
        return slope.detach(), *torch.autograd.grad((slope * v.to(dtype)).sum(), leaves)

    exact, plain, ours = found("torch", torch.float64), found("torch", torch.float32), found(how, torch.float32)
    for name, mine, theirs, single in zip(("slope", "by x", "by y", "by weight"), ours, exact, plain, strict=True):
        scale = float(theirs.abs().max())
        assert_close(name, mine, theirs, baseline=single, factor=2, atol=3e-6 * scale)


def test_autocast_and_half_precision_are_computed_in_float32() -> None:
    x, y = draw(20, 4, seed=1).bfloat16(), draw(30, 4, seed=2).bfloat16()
    expected = kernel_slope(x.float(), y.float())
    assert torch.equal(kernel_slope(x, y), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kernel_slope(x.float(), y.float()), expected)


def test_bad_input_is_refused() -> None:
    x = draw(5, 2, seed=1)
    for kernel in (Polynomial(), Gaussian("median"), Gaussian(torch.ones(2))):
        with pytest.raises(ValueError, match="radial kernels whose bandwidths are numbers"):
            kernel_slope(x, x, kernel=kernel)
    with pytest.raises(ValueError, match="kernel_slope has no backend 'numpy'; it has: auto, cpu, torch, reference"):
        kernel_slope(x, x, backend="numpy")
    with pytest.raises(ValueError, match="agree in D"):
        kernel_slope(x, x[:, :1])
