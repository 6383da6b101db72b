"""MMD^2 over pairs of different rows and its witness's slope: definition, derivatives, close pairs, shares of ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from kantor_kernels import Energy, Gaussian, Kernel, Polynomial, RationalQuadratic, kernel_witness
from kantor_kernels.pairwise.reference import kernel_matrix
from kantor_kernels.testing import assert_close, poisoned_memory

BACKENDS = ("cpu", "separate")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(m: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two samples and points, with coincident rows in and between them."""
    x, y = draw(m, d, seed=1), draw(m, d, seed=2) + 0.5
    y[1], x[2], y[2] = y[0], y[1], x[0]
    at = 0.3 * x + 0.7 * y
    at[1] = x[0]
    return x, y, at


def with_derivatives(x: Tensor, y: Tensor, at: Tensor, **options: Any) -> dict[str, Tensor]:
    """Value, slope, and derivatives of a sum of both."""
    leaves = [t.clone().requires_grad_() for t in (x, y, at)]
    with poisoned_memory():
        found = kernel_witness(*leaves[:2], at=leaves[2], **options)
        total = 1.7 * found.mmd + (found.slope * draw(*at.shape, seed=3).to(at.dtype)).sum()
        gradients = torch.autograd.grad(total, leaves)
    named = dict(zip(("by x", "by y", "by the points"), gradients, strict=True))
    return {"mmd": found.mmd.detach(), "slope": found.slope.detach(), **named}


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_what_it_says(weighted: bool, kernel: Kernel) -> None:
    if not kernel.radial or isinstance(getattr(kernel, "bandwidths", None), str | Tensor):
        return
    x, y, at = samples(6, 3)
    weights = (draw(6, seed=4) + 2, draw(6, seed=5) - 3) if weighted else (None, None)
    a, b = (torch.ones(6, dtype=torch.float64) if w is None else w for w in weights)
    value = 0.0
    for u, v, p, q, sign in ((a, a, x, x, 1), (b, b, y, y, 1), (a, b, x, y, -2)):
        k = kernel_matrix(p, q, kernel)
        pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
        value += sign * sum(u[i] * v[j] * k[i, j] for i, j in pairs) / sum(u[i] * v[j] for i, j in pairs)
    slopes = []
    for i in range(6):
        p = at[i].clone().requires_grad_()
        others = [j for j in range(6) if j != i]
        near, far = ((w[others] @ kernel_matrix(p[None], s[others], kernel)[0]) for w, s in ((a, x), (b, y)))
        slopes += torch.autograd.grad(near / a[others].sum() - far / b[others].sum(), p)
    for how in ("auto", "separate", "reference"):
        found = kernel_witness(x, y, *weights, at=at, kernel=kernel, backend=how)
        assert_close("mmd", found.mmd, torch.as_tensor(value), rtol=1e-10, atol=1e-12)
        assert_close("slope", found.slope, torch.stack(slopes), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize(("m", "d"), [(3, 2), (40, 16), (130, 17), (257, 3), (300, 64)])
@pytest.mark.parametrize("how", BACKENDS)
def test_derivatives_are_those_of_the_definition(how: str, m: int, d: int, rows: int | None, weighted: bool) -> None:
    """Whatever the tiles, with rows of other ranks and without."""
    x, y, at = samples(m, d)
    weights = {"weight_x": draw(m, seed=4) + 3, "weight_y": draw(m, seed=5).abs() + 1} if weighted else {}
    options = {"at": at[:rows], "rows": rows, **weights}
    ours, exact = (with_derivatives(x, y, **options, backend=backend) for backend in (how, "reference"))
    for name, value in ours.items():
        assert_close(name, value, exact[name], rtol=1e-9, atol=1e-10 * max(1.0, float(exact[name].abs().max())))


def test_the_definition_s_derivatives_are_those_of_finite_differences() -> None:
    def both(x: Tensor, y: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(kernel_witness(x, y, at=at, backend="reference"))  # type: ignore[return-value]

    leaves = [draw(4, 2, seed=seed).requires_grad_() for seed in (1, 2, 3)]
    assert gradcheck(both, leaves)


@pytest.mark.parametrize("how", BACKENDS)
def test_shares_of_ranks_add_up(how: str) -> None:
    x, y, at = samples(12, 3)
    weights = draw(12, seed=4) + 3, draw(12, seed=5) + 3
    whole = with_derivatives(x, y, at, weight_x=weights[0], weight_y=weights[1], backend=how)
    shares: dict[str, Tensor] = {}
    for first in (0, 4, 8):
        x_own, y_own, at_own, a, b = (t.roll(-first, 0) for t in (x, y, at, *weights))
        share = with_derivatives_of(x_own, y_own, at_own[:4], a, b, first, how)
        shares = {name: shares.get(name, 0.0) + value for name, value in share.items()}
    for name, value in shares.items():
        assert_close(name, value, whole[name], rtol=1e-10, atol=1e-11)


def with_derivatives_of(
    x: Tensor, y: Tensor, at: Tensor, a: Tensor, b: Tensor, first: int, how: str
) -> dict[str, Tensor]:
    """As `with_derivatives` on all rows, for a rank whose rows come first and stand at `first` in the batch."""
    leaves = [t.clone().requires_grad_() for t in (x, y, at)]
    found = kernel_witness(leaves[0], leaves[1], a, b, at=leaves[2], rows=len(at), backend=how)
    cotangent = draw(len(x), at.shape[1], seed=3).roll(-first, 0)[: len(at)]
    gradients = torch.autograd.grad(1.7 * found.mmd + (found.slope * cotangent).sum(), leaves)
    back = [t.roll(first, 0) for t in gradients[:2]]
    return {"mmd": found.mmd.detach(), "by x": back[0], "by y": back[1]}


@pytest.mark.parametrize("d", [2, 16, 64])
def test_close_pairs_keep_their_digits(d: int) -> None:
    """Far from the origin, 1e-6 to 1 apart, as if differences were taken in float32; coincident ones count nothing."""
    y = (draw(40, d, seed=2) + 3).float()
    apart = torch.tensor([0.0, 1e-6, 1e-4, 1e-2, 1.0]).repeat(8)[:, None]
    x = y.roll(1, 0) + apart * draw(40, d, seed=1).float()
    at = y.roll(2, 0) + apart * draw(40, d, seed=4).float()
    exact = with_derivatives(*(t.double() for t in (x, y, at)), backend="reference")
    plain, ours = (with_derivatives(x, y, at, backend=how) for how in ("reference", "cpu"))
    for name, value in ours.items():
        # A pair at the limit of what counts as close loses 10 of 24 bits of its direction.
        assert_close(name, value, exact[name], baseline=plain[name], atol=1e-4 * float(exact[name].abs().max()))


def test_neither_threads_nor_a_second_call_change_more_than_rounding() -> None:
    x, y, at = (t.float() for t in samples(400, 16))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = with_derivatives(x, y, at)
    torch.set_num_threads(max(2, threads))
    once, again = with_derivatives(x, y, at), with_derivatives(x, y, at)
    for name, value in once.items():
        assert torch.equal(value, again[name]), name
        assert_close(name, value, alone[name], atol=1e-5 * float(value.abs().max()))


def test_what_is_asked_for_alone() -> None:
    """A value without points, and a derivative by one of both."""
    x, y, at = samples(30, 4)
    leaf = y.clone().requires_grad_()
    found = kernel_witness(x, leaf)
    assert found.slope.shape == (0, 4)
    (by_y,) = torch.autograd.grad(found.mmd, leaf)
    (exact,) = torch.autograd.grad(kernel_witness(x, leaf, backend="reference").mmd, leaf)
    assert_close("by y", by_y, exact, rtol=1e-10, atol=1e-12)
    point = at.clone().requires_grad_()
    (by_at,) = torch.autograd.grad(kernel_witness(x, y, at=point).slope.square().sum(), point)
    (exact,) = torch.autograd.grad(kernel_witness(x, y, at=point, backend="reference").slope.square().sum(), point)
    assert_close("by the points", by_at, exact, rtol=1e-9, atol=1e-10)


def test_a_nan_comes_out_as_a_nan() -> None:
    x, y, at = samples(30, 4)
    x[7, 1] = math.nan
    found = with_derivatives(x, y, at, backend="cpu")
    assert found["mmd"].isnan()
    assert found["slope"].isnan().all(1).sum() >= 29  # that of the row itself is not compared with it
    assert found["by y"].isnan().any()


def test_half_precision_is_computed_in_float32() -> None:
    x, y, at = (t.bfloat16() for t in samples(20, 4))
    found, wide = kernel_witness(x, y, at=at), kernel_witness(x.float(), y.float(), at=at.float())
    assert torch.equal(found.mmd, wide.mmd)
    assert torch.equal(found.slope, wide.slope)


def test_bad_input_is_refused() -> None:
    x, y, at = samples(6, 3)
    for kernel in (Polynomial(), Gaussian("median"), Gaussian(torch.ones(2))):
        with pytest.raises(ValueError, match="radial kernels whose bandwidths are numbers"):
            kernel_witness(x, y, kernel=kernel)
    with pytest.raises(ValueError, match="the U estimator needs two rows"):
        kernel_witness(x[:1], y[:1])
    with pytest.raises(ValueError, match=r"must both be \(M, D\)"):
        kernel_witness(x, y[:5])
    with pytest.raises(ValueError, match="rows must be at most 6, got 7"):
        kernel_witness(x, y, rows=7)
    with pytest.raises(ValueError, match=r"at must be \(4, 3\)"):
        kernel_witness(x, y, at=at, rows=4)
    with pytest.raises(ValueError, match="sums to zero"):
        kernel_witness(x, y, torch.tensor([1.0, -1, 1, -1, 1, -1], dtype=torch.float64))
    for kernel in (Energy(1.5), RationalQuadratic()):
        with pytest.raises(ValueError, match="it is for the energy kernel with exponent 1"):
            kernel_witness(x, y, kernel=kernel, backend="cpu")
    leaf = x.clone().requires_grad_()
    (once,) = torch.autograd.grad(kernel_witness(leaf, y, backend="reference").mmd, leaf, create_graph=True)
    assert once.requires_grad
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(kernel_witness(leaf, y, backend="cpu").mmd, leaf, create_graph=True)
