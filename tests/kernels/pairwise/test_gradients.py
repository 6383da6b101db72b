"""First and second derivatives: against finite differences, the definition, and at coincident points."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from kantor_kernels import (
    Energy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplacian,
    energy_distance,
    kernel_potential,
    mmd,
    self_energy,
)
from kantor_kernels.testing import assert_close


def leaves(generator: torch.Generator, d: int = 3, n: int = 5, m: int = 4) -> tuple[torch.Tensor, ...]:
    make = partial(torch.randn, generator=generator, dtype=torch.float64)
    tensors = make(n, d), make(m, d) + 0.2, make(n) + 2.0, make(m) + 2.0
    return tuple(tensor.requires_grad_() for tensor in tensors)


def test_mmd_is_differentiable_twice(kernel: Kernel, backend: str, generator) -> None:
    function = partial(mmd, kernel=kernel, backend=backend)
    inputs = leaves(generator)
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


def test_the_unbiased_estimator_is_differentiable_twice(backend: str, generator) -> None:
    function = partial(mmd, kernel=Gaussian(1.3), estimator="u", backend=backend)
    inputs = leaves(generator)
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("d", [1, 20])
def test_potential_is_differentiable_twice(kernel: Kernel, d: int, backend: str, generator) -> None:
    x, y, _, weight = leaves(generator, d)
    function = partial(kernel_potential, kernel=kernel, backend=backend)
    assert gradcheck(function, (x, y, weight), fast_mode=True)
    assert gradgradcheck(function, (x, y, weight), fast_mode=True)


@pytest.mark.parametrize("family", [Gaussian, Laplacian, InverseMultiquadric])
def test_bandwidths_are_differentiable_twice(family: type, backend: str, generator) -> None:
    x, y, *_ = leaves(generator)
    bandwidths = torch.tensor([0.8, 1.7], dtype=torch.float64, requires_grad=True)

    def function(s: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        return mmd(point, y, kernel=family(s), backend=backend)

    assert gradcheck(function, (bandwidths, x), fast_mode=True)
    assert gradgradcheck(function, (bandwidths, x), fast_mode=True)


def test_gradients_equal_the_definition_in_float32(kernel: Kernel, backend: str, generator) -> None:
    # Past a block in either direction; Triton's interpreter takes seconds for more.
    n, m = (70, 34) if backend == "triton" else (130, 70)
    x, y, a, b = (tensor.detach() for tensor in leaves(generator, 6, n, m))
    grads = {}
    for name, dtype, how in (
        ("exact", torch.float64, "reference"),
        ("plain", torch.float32, "reference"),
        ("ours", torch.float32, backend),
    ):
        inputs = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (x, y, a, b)]
        mmd(*inputs, kernel=kernel, backend=how).backward()
        grads[name] = [tensor.grad for tensor in inputs]
    for index, name in enumerate(("x", "y", "weight_x", "weight_y")):
        exact, plain, ours = (grads[key][index] for key in ("exact", "plain", "ours"))
        # The derivative by a weight is a small difference of potentials.
        atol = (1e-5 if name.startswith("weight") else 2e-6) * float(exact.abs().max())
        assert_close(f"d/d{name}", ours, exact, baseline=plain, atol=atol)


def test_one_pass_and_recomputed_gradients_agree(kernel: Kernel, backend: str, generator) -> None:
    x, y, a, b = leaves(generator, 3, 40, 30)
    value = mmd(x, y, a, b, kernel=kernel, backend=backend)
    saved = torch.autograd.grad(value, (x, y, a, b), retain_graph=True)
    again = torch.autograd.grad(value, (x, y, a, b), create_graph=True)
    for name, first, second in zip(("x", "y", "a", "b"), saved, again, strict=True):
        assert_close(name, first, second, rtol=1e-12, atol=1e-14)


def test_gradients_by_y_alone_come_out_right(backend: str, generator) -> None:
    x, y, a, b = leaves(generator, 3, 40, 30)
    (alone,) = torch.autograd.grad(energy_distance(x.detach(), y, a, b, backend=backend), y)
    (both,) = torch.autograd.grad(energy_distance(x, y, a, b, backend=backend), y)
    assert_close("y", alone, both, rtol=1e-12, atol=1e-14)


def test_hessian_vector_products_in_float32_near_coincidence(backend: str, generator) -> None:
    x, y, *_ = (tensor.detach().float() for tensor in leaves(generator, 3, 40, 30))
    y[:5] = x[:5] + 1e-4
    v = torch.randn(x.shape, generator=generator)
    products = []
    for dtype, how in ((torch.float64, "reference"), (torch.float32, backend)):
        point = x.to(dtype, copy=True).requires_grad_()
        (slope,) = torch.autograd.grad(
            kernel_potential(point, y.to(dtype), backend=how).sum(), point, create_graph=True
        )
        products.append(torch.autograd.grad(slope, point, v.to(dtype))[0])
    assert_close("hvp", products[1], products[0], rtol=1e-5, atol=1e-5)


def test_a_third_derivative_is_refused(backend: str, generator) -> None:
    x, y, *_ = leaves(generator)
    slope, *_ = torch.autograd.grad(mmd(x, y, kernel=Gaussian(1.3), backend=backend), x, create_graph=True)
    curve, *_ = torch.autograd.grad(slope.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="kantor::pairwise_hvp"):
        torch.autograd.grad(curve.sum(), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coincident_points(kernel: Kernel, dtype: torch.dtype, backend: str, generator) -> None:
    """Energy and Laplacian have derivative 0 there; the smooth kernels are exact, as in the definition."""
    x = torch.randn(9, 2, generator=generator).to(dtype)
    x[4:7] = x[0]
    weight = torch.rand(9, generator=generator).to(dtype)
    v = torch.randn(9, 2, generator=generator).to(dtype)
    results = []
    for how, kind in (("reference", torch.float64), (backend, dtype)):
        point = x.to(kind, copy=True).requires_grad_()
        value = mmd(point, x.to(kind), None, weight.to(kind), kernel=kernel, backend=how)
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
        (product,) = torch.autograd.grad(slope, point, v.to(kind))
        results.append((value, slope, product))
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    for name, ours, exact in zip(("value", "gradient", "hvp"), results[1], results[0], strict=True):
        scale = max(1.0, float(exact.detach().abs().max()))
        assert_close(name, ours, exact, atol=tolerance * scale)


@pytest.mark.parametrize(
    "kernel, curvature", [(Energy(), 0.0), (Laplacian(2.0), 0.0), (Gaussian(2.0), -0.25)], ids=["e", "l", "g"]
)
def test_two_coincident_points_by_hand(kernel: Kernel, curvature: float, backend: str) -> None:
    x = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    value = kernel_potential(x, torch.ones(1, 2, dtype=torch.float64), kernel=kernel, backend=backend)
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    (product,) = torch.autograd.grad(slope[0, 0], x)
    assert value.item() == kernel.diagonal
    assert slope.tolist() == [[0.0, 0.0]]
    assert product.tolist() == [[curvature, 0.0]]


def test_identical_samples_have_zero_distance_and_gradient(backend: str, generator) -> None:
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    point = x.clone().requires_grad_()
    value = energy_distance(point, x, backend=backend)
    value.backward()
    assert abs(value.item()) < 1e-14
    assert point.grad is not None
    assert float(point.grad.abs().max()) < 1e-15


def test_self_energy_is_differentiable_twice(kernel: Kernel, backend: str, generator) -> None:
    _, y, _, b = leaves(generator)
    function = partial(self_energy, kernel=kernel, backend=backend)
    assert gradcheck(function, (y, b), fast_mode=True)
    assert gradgradcheck(function, (y, b), fast_mode=True)


def test_torch_compile_sees_the_operators(backend: str, generator) -> None:
    x, y, a, _ = leaves(generator, 3, 40, 30)
    compiled = torch.compile(partial(energy_distance, backend=backend), backend="aot_eager", fullgraph=True)
    value = compiled(x, y, a)
    expected = energy_distance(x, y, a, backend=backend)
    assert_close("compiled", value, expected, rtol=1e-12)
    inputs = (x, y, a)
    for ours, plain in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert_close("compiled gradient", ours, plain, rtol=1e-11, atol=1e-14)


def test_the_operators_keep_their_contracts(kernel: Kernel, backend: str, generator) -> None:
    x, y, _, b = (tensor[None] for tensor in leaves(generator))
    setting = kernel.family, kernel.constants, True
    ops = torch.ops.kantor
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.pairwise_potential.default, (x, y, b, *setting, True, backend), test_utils=checks)
    torch.library.opcheck(ops.pairwise_grad.default, (x, y, b, *setting, backend), test_utils=checks)
    torch.library.opcheck(ops.pairwise_hvp.default, (x, y, b, x, None, *setting, backend), test_utils=checks)
    torch.library.opcheck(ops.pairwise_self.default, (y, b, *setting[:2], True, True, backend), test_utils=checks)
    if backend == "cpu" and kernel.radial:
        factor = torch.rand(1, 3, dtype=torch.float64, generator=generator)
        for wanted in ((True, True, True), (False, True, False), (True, False, False)):
            args = x, y, None, b, factor, *setting[:2], wanted, backend
            torch.library.opcheck(ops.pairwise_mmd.default, args, test_utils=checks)


def test_autocast_leaves_the_distances_alone(backend: str, generator) -> None:
    x, y = (torch.randn(30, 40, generator=generator) for _ in range(2))
    expected = energy_distance(x, y, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert energy_distance(x, y, backend=backend).item() == expected.item()
