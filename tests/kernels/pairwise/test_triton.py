"""The Triton backend: the tests of this folder on its interpreter, and what it refuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kantor_kernels import Energy, Gaussian, Kernel, Polynomial, energy_distance, kernel_potential, mmd
from kantor_kernels.testing import assert_close, poisoned_memory

GRADIENTS, VALUES, HERE = (Path(__file__).with_name(f"test_{name}.py") for name in ("gradients", "values", "triton"))
# What the process with the interpreter runs, by file.
GROUPS: dict[str, dict[Path, tuple[str, ...]]] = {
    "quick": {
        GRADIENTS: ("test_two_coincident_points_by_hand",),
        VALUES: ("test_non_contiguous_input",),
        HERE: ("test_products_small", "test_products_small_as_newer_devices_take_them"),
    },
    "all": {
        GRADIENTS: (
            "test_mmd_is_differentiable_twice",
            "test_the_unbiased_estimator_is_differentiable_twice",
            "test_gradients_equal_the_definition_in_float32",
            "test_one_pass_and_recomputed_gradients_agree",
            "test_a_third_derivative_is_refused",
            "test_gradients_by_y_alone_come_out_right",
            "test_hessian_vector_products_in_float32_near_coincidence",
            "test_self_energy_is_differentiable_twice",
            "test_coincident_points",
            "test_two_coincident_points_by_hand",
        ),
        VALUES: (
            "test_a_nan_comes_out",
            "test_batches_are_independent",
            "test_non_contiguous_input",
            "test_potential_without_the_diagonal",
            "test_sizes_on_either_side_of_a_block",
        ),
    },
    "products": {
        HERE: (
            "test_products_of_every_kernel",
            "test_products_flush_their_sums_and_split_columns",
            "test_products_keep_slopes_of_any_size",
            "test_products_are_independent_over_batches",
            "test_it_refuses_what_it_cannot_run",
        )
    },
    "shapes": {HERE: ("test_products_at_shapes_that_break",)},
}
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="runs in the process with the interpreter that a test above starts",
)


@pytest.mark.parametrize(
    "group", ["quick", *(pytest.param(name, marks=pytest.mark.slow) for name in GROUPS if name != "quick")]
)
@pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="this is the interpreter's own process")
def test_the_interpreter_passes_the_tests_of_this_folder(group: str, elsewhere: Callable[..., None]) -> None:
    elsewhere(GROUPS[group], "-k", "not polynomial", TRITON_INTERPRET="1")


def test_every_interpreted_test_is_in_a_group() -> None:
    marked = {name for name, test in globals().items() if interpreted.mark in getattr(test, "pytestmark", [])}
    assert marked
    assert marked <= {name for group in GROUPS.values() for name in group.get(HERE, ())}


def test_it_refuses_what_it_cannot_run() -> None:
    x = torch.randn(4, 2)
    if os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(ValueError, match="cannot run on cpu"):
            energy_distance(x, x, backend="triton")
        return
    many, more = torch.randn(4, 17).double(), torch.randn(4, 257)
    for points in (many, more):
        with pytest.raises(ValueError, match="at most 16 features, or 256 in float32"):
            energy_distance(points, points, backend="triton")
    with pytest.raises(ValueError, match="radial"):
        mmd(x, x, kernel=Polynomial(), backend="triton")


def check_products(
    n: int, m: int, d: int, generator: torch.Generator, *, case: str = "plain", kernel: Kernel | None = None
) -> None:
    """Potential and gradient against the definition in float64: no worse than twice the error of float32."""
    kernel = Energy() if kernel is None else kernel
    x, y = torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator) + 0.1
    if case == "self":
        y = x.clone()
    weight = torch.randn(len(y), generator=generator)
    close = max(1, min(n, m) // 10)
    if case == "near":
        y[:close] = x[:close] + 1e-3 * torch.randn(close, d, generator=generator)
    if case == "coincident":
        y[:close] = x[:close]
    if case == "offset":
        x, y = x + 1e3, y + 1e3
    cotangent = torch.randn(n, generator=generator)
    values, slopes = [], []
    for how, dtype in (("reference", torch.float64), ("reference", torch.float32), ("triton", torch.float32)):
        point = x.to(dtype, copy=True).requires_grad_()
        with poisoned_memory():
            value = kernel_potential(
                point, y.to(dtype), weight.to(dtype), kernel=kernel, normalise=False,
                skip_diagonal=case == "self", backend=how,
            )  # fmt: skip
            slopes.append(torch.autograd.grad(value @ cotangent.to(dtype), point)[0])
        values.append(value.detach())
    for name, (exact, plain, ours) in (("value", values), ("gradient", slopes)):
        assert_close(name, ours, exact, baseline=plain, atol=2e-6 * float(exact.detach().abs().max()))


@interpreted
@pytest.mark.parametrize("n, m, d", [(1, 3, 17), (3, 1, 31), (63, 65, 64), (5, 67, 100)])
def test_products_small(n: int, m: int, d: int, generator) -> None:
    check_products(n, m, d, generator)


@interpreted
@pytest.mark.parametrize("d", [20, 64])
def test_products_small_as_newer_devices_take_them(d: int, generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from kantor_kernels.pairwise import triton_products

    monkeypatch.setattr(triton_products, "capability", lambda device: 100)
    check_products(63, 65, d, generator, case="near")


@interpreted
@pytest.mark.parametrize("case", ["plain", "offset", "near", "coincident", "self"])
@pytest.mark.parametrize("d", [17, 31, 64, 100, 128, 256])
def test_products_at_shapes_that_break(d: int, case: str, generator) -> None:
    n, m = (131, 257) if d == 31 else (67, 131)
    check_products(n, m, d, generator, case=case)


@interpreted
@pytest.mark.parametrize("d", [20, 70])
def test_products_of_every_kernel(kernel: Kernel, d: int, generator) -> None:
    check_products(65, 67, d, generator, kernel=kernel, case="near")


@interpreted
def test_products_flush_their_sums_and_split_columns(generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from kantor_kernels.pairwise import triton_products

    monkeypatch.setattr(triton_products, "COLUMNS", 128)
    check_products(3, 300, 33, generator, case="near")
    monkeypatch.setattr(triton_products, "RESIDENT", 3)
    check_products(3, 600, 33, generator, case="near")


@interpreted
def test_products_keep_slopes_of_any_size(generator) -> None:
    """Slopes are halves for the matrix unit: neither weights, bandwidths, units nor one far point may overflow them."""
    x, y = torch.randn(40, 20, generator=generator), torch.randn(70, 20, generator=generator)
    far = x.clone()
    far[0] *= 1e4
    for points, others, kernel, factor in (
        (x * 1e-4, y * 1e-4, Energy(), 1e6), (x * 1e5, y * 1e5, Energy(0.5), 1e-6),
        (x, y, Gaussian(3.0), 1e6), (far, y, Energy(), 1.0), (x * 0, y * 0, Energy(), 1.0),
    ):  # fmt: skip
        slopes = []
        for how, dtype in (("reference", torch.float64), ("triton", torch.float32)):
            point = points.to(dtype, copy=True).requires_grad_()
            weight = torch.full((70,), factor, dtype=dtype)
            value = kernel_potential(point, others.to(dtype), weight, kernel=kernel, normalise=False, backend=how)
            slopes.append(torch.autograd.grad(value.sum(), point)[0])
        assert_close("gradient", slopes[1], slopes[0], atol=3e-6 * float(slopes[0].abs().max()))


@interpreted
def test_products_are_independent_over_batches(generator) -> None:
    x, y = torch.randn(2, 30, 40, generator=generator), torch.randn(2, 50, 40, generator=generator)
    x[1] *= 100
    together = energy_distance(x, y, backend="triton")
    alone = torch.stack([energy_distance(x[k], y[k], backend="triton") for k in range(2)])
    assert torch.equal(together, alone)
