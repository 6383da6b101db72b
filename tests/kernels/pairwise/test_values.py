"""Values against the float64 definition: every kernel, estimator and backend, at sizes that break kernels."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from kantor_kernels import (
    Energy,
    EnergyDistanceLoss,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplacian,
    MMDLoss,
    Polynomial,
    energy_distance,
    explain,
    kernel_potential,
    kernel_slope,
    mmd,
    self_energy,
)
from kantor_kernels.testing import AWKWARD_SIZES, assert_close, poisoned_memory


def draw(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("estimator", ["u", "v"])
@pytest.mark.parametrize("d", [1, 3, 24])
def test_mmd_is_its_definition(kernel: Kernel, estimator: str, d: int, backend: str, generator) -> None:
    x, y = draw(67, d, generator=generator), draw(41, d, generator=generator) + 0.3
    weight_x, weight_y = draw(67, generator=generator) + 0.8, torch.rand(41, generator=generator)
    args = x, y, weight_x, weight_y
    with poisoned_memory():
        value = mmd(*args, kernel=kernel, estimator=estimator, backend=backend)
    expected = mmd(*args, kernel=kernel, estimator=estimator, backend="reference")
    assert_close("mmd", value, expected, rtol=1e-11, atol=1e-13)


def test_mmd_by_hand(backend: str) -> None:
    x, y = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[3.0]]).double()
    # 2 (3 + 2) / 2 - 2 * 1 / 4 - 0
    assert energy_distance(x, y, backend=backend).item() == pytest.approx(4.5)
    gauss = mmd(x, y, kernel=Gaussian(1.0), backend=backend).item()
    assert gauss == pytest.approx((2 + 2 * math.exp(-0.5)) / 4 + 1 - (math.exp(-4.5) + math.exp(-2)))
    poly = mmd(x, y, kernel=Polynomial(2, 1.0), backend=backend).item()
    assert poly == pytest.approx((1 + 1 + 1 + 4) / 4 + 100 - (1 + 16))
    unbiased = mmd(torch.cat([x, x]), torch.cat([y, y]), kernel=Laplacian(2.0), estimator="u", backend=backend)
    # Coincident rows count as pairs: k = 1.
    expected = (2 + 4 * math.exp(-0.5)) / 6 + 1 - (math.exp(-1.5) + math.exp(-1.0))
    assert unbiased.item() == pytest.approx(expected)


def test_energy_distance_agrees_with_scipy_in_one_dimension(backend: str, generator) -> None:
    x, y = draw(50, 1, generator=generator), draw(70, 1, generator=generator) + 1
    weight = torch.rand(50, generator=generator).double()
    expected = stats.energy_distance(x[:, 0], y[:, 0], u_weights=weight) ** 2
    assert energy_distance(x, y, weight, backend=backend).item() == pytest.approx(expected, rel=1e-10)


def test_mmd_of_the_energy_kernel_is_the_energy_distance(backend: str, generator) -> None:
    x, y = draw(30, 4, generator=generator), draw(20, 4, generator=generator)
    a = energy_distance(x, y, exponent=1.2, backend=backend)
    assert a.item() == mmd(x, y, kernel=Energy(1.2), backend=backend).item()
    assert EnergyDistanceLoss(1.2, backend=backend)(x, y).item() == a.item()
    b = mmd(x, y, kernel=Gaussian("median"), backend=backend)
    assert MMDLoss(backend=backend)(x, y).item() == b.item()


@pytest.mark.parametrize("d", [2, 8, 40])
def test_awkward_sizes_in_float32(d: int, backend: str, generator) -> None:
    for n in AWKWARD_SIZES:
        for m in (1, 64, 131):
            x, y = draw(n, d, generator=generator), draw(m, d, generator=generator)
            expected = kernel_potential(x, y, backend="reference")
            baseline = kernel_potential(x.float(), y.float(), backend="reference")
            with poisoned_memory():
                value = kernel_potential(x.float(), y.float(), backend=backend)
            assert_close(f"potential {n}x{m}x{d}", value, expected, baseline=baseline, rtol=2e-7)


def test_sizes_on_either_side_of_a_block(backend: str, generator) -> None:
    for n, m, d in ((1, 1, 2), (511, 3, 2), (513, 5, 3), (2, 259, 16)):
        x, y = draw(n, d, generator=generator), draw(m, d, generator=generator)
        with poisoned_memory():
            value = kernel_potential(x, y, backend=backend)
        assert_close(f"{n}x{m}x{d}", value, kernel_potential(x, y, backend="reference"), rtol=1e-12)


@pytest.mark.parametrize("layout", ["shifted by 1e3", "near duplicates"])
@pytest.mark.parametrize("d", [3, 8, 64])
def test_float32_errs_no_more_than_plain_pytorch(kernel: Kernel, layout: str, d: int, backend: str, generator):
    x, y = (draw(n, d, generator=generator, dtype=torch.float32) for n in (301, 257))
    if layout == "shifted by 1e3" and not isinstance(kernel, Polynomial):
        x, y = x + 1e3, y + 1e3
    else:
        y[:30] = x[:30] + 1e-3 * draw(30, d, generator=generator, dtype=torch.float32)
    results = {}
    for name, dtype, how in (
        ("exact", torch.float64, "reference"),
        ("plain", torch.float32, "reference"),
        ("ours", torch.float32, backend),
    ):
        point = x.to(dtype, copy=True).requires_grad_()
        value = kernel_potential(point, y.to(dtype), kernel=kernel, backend=how)
        (slope,) = torch.autograd.grad(value.sum(), point)
        results[name] = value.detach(), slope
    for index, name in enumerate(("value", "gradient")):
        exact, plain, ours = (results[key][index] for key in ("exact", "plain", "ours"))
        atol = 2e-7 * float(exact.abs().max())
        assert_close(f"{name}, {layout}", ours, exact, baseline=plain, atol=atol)


def test_batches_are_independent(kernel: Kernel, backend: str, generator) -> None:
    x, y = draw(2, 3, 11, 5, generator=generator), draw(2, 3, 7, 5, generator=generator)
    weight = torch.rand(2, 3, 7, generator=generator).double()
    value = mmd(x, y, None, weight, kernel=kernel, backend=backend)
    potential = kernel_potential(x, y, weight, kernel=kernel, backend=backend)
    assert value.shape == (2, 3)
    assert potential.shape == (2, 3, 11)
    for i in range(2):
        for j in range(3):
            one = mmd(x[i, j], y[i, j], None, weight[i, j], kernel=kernel, backend=backend)
            assert_close("batch", value[i, j], one, rtol=1e-12, atol=1e-14)


def test_non_contiguous_input(backend: str, generator) -> None:
    x, y = draw(5, 60, generator=generator).mT[::2], draw(40, 10, generator=generator)[:, ::2]
    value = energy_distance(x, y, backend=backend)
    assert value.item() == energy_distance(x.contiguous(), y.contiguous(), backend=backend).item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, backend: str, generator) -> None:
    x, y = draw(50, 6, generator=generator).to(dtype), draw(50, 6, generator=generator).to(dtype)
    point = x.clone().requires_grad_()
    value = energy_distance(point, y, backend=backend)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(energy_distance(x.float(), y.float(), backend=backend).item(), rel=1e-5)
    value.backward()
    assert point.grad is not None
    assert point.grad.dtype == dtype


def test_precision_is_obeyed(backend: str, generator) -> None:
    x, y = draw(50, 6, generator=generator).float(), draw(50, 6, generator=generator).float()
    exact = energy_distance(x.double(), y.double(), backend=backend)
    assert energy_distance(x, y, precision="float64", backend=backend).item() == exact.float().item()
    single = energy_distance(x.double(), y.double(), precision="float32", backend=backend)
    assert single.dtype == torch.float64
    assert single.item() == pytest.approx(exact.item(), rel=1e-4)


def test_self_energy_is_reused_to_the_last_bit(kernel: Kernel, backend: str, generator) -> None:
    x, y = draw(20, 3, generator=generator).float(), draw(30, 3, generator=generator).float()
    weight = torch.rand(30, generator=generator)
    for estimator in ("u", "v"):
        yy = self_energy(y, weight, kernel=kernel, estimator=estimator, backend=backend)
        assert yy.dtype == torch.float64
        reused = mmd(x, y, None, weight, kernel=kernel, estimator=estimator, yy=yy, backend=backend)
        whole = mmd(x, y, None, weight, kernel=kernel, estimator=estimator, backend=backend)
        assert_close("yy", reused, whole, rtol=3e-7, atol=1e-9)
        brute = mmd(
            x.double(), y.double(), None, weight, kernel=kernel, estimator=estimator, yy=yy, backend="reference"
        )
        assert_close("yy in the reference", brute, whole.double(), rtol=1e-4, atol=1e-6)


def test_potential_weights_as_they_are(backend: str, generator) -> None:
    x, y = draw(20, 3, generator=generator), draw(30, 3, generator=generator)
    weight = draw(30, generator=generator)
    value = kernel_potential(x, y, weight, normalise=False, backend=backend)
    assert_close("raw weights", value, -torch.cdist(x, y) @ weight, rtol=1e-12)
    assert_close(
        "no weights", kernel_potential(x, y, normalise=False, backend=backend), -torch.cdist(x, y).sum(1), rtol=1e-12
    )


def test_potential_without_the_diagonal(kernel: Kernel, backend: str, generator) -> None:
    x, y = draw(23, 3, generator=generator), draw(31, 3, generator=generator)
    y[5] = x[5]
    value = kernel_potential(x, y, kernel=kernel, skip_diagonal=True, backend=backend)
    expected = kernel_potential(x, y, kernel=kernel, skip_diagonal=True, backend="reference")
    assert_close("skip_diagonal", value, expected, rtol=1e-12, atol=1e-14)


def test_tensor_bandwidths_equal_numbers(backend: str, generator) -> None:
    x, y = draw(20, 3, generator=generator), draw(30, 3, generator=generator)
    for family in (Gaussian, Laplacian, InverseMultiquadric):
        numbers = mmd(x, y, kernel=family([0.5, 2.0]), backend=backend)
        tensor = mmd(x, y, kernel=family(torch.tensor([0.5, 2.0]).double()), backend=backend)
        assert_close(family.__name__, tensor, numbers, rtol=1e-12)


def test_median_bandwidth_is_the_median_distance(backend: str, generator) -> None:
    x, y = draw(20, 3, generator=generator), draw(31, 3, generator=generator)
    median = float(torch.pdist(torch.cat([x, y])).median())
    value, expected = (mmd(x, y, kernel=Gaussian(s), backend=backend) for s in ("median", median))
    assert_close("median", value, expected, rtol=1e-12)


def test_median_bandwidth_is_drawn_by_the_generator(backend: str, generator) -> None:
    x, y = draw(1500, 2, generator=generator), draw(1500, 2, generator=generator)
    first, again, other = (
        mmd(x, y, generator=torch.Generator().manual_seed(seed), backend=backend).item() for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.slow
def test_means_are_accurate_at_a_hundred_thousand_rows(generator) -> None:
    x = draw(100_000, 3, generator=generator, dtype=torch.float32)
    exact = self_energy(x, precision="float64").item()
    assert self_energy(x).item() == pytest.approx(exact, rel=1e-8)


def test_explain_counts_passes_and_says_why(generator) -> None:
    x, y = draw(100, 3, generator=generator), draw(50, 3, generator=generator).requires_grad_()
    plan = explain(x, y)
    assert (plan.passes, plan.pairs) == (4, 2 * 100 * 50 + 100 * 100 + 50 * 50)
    assert plan.peak_bytes > 0
    assert plan.backend in ("cpu", "torch")
    assert explain(x, y.detach(), yy=torch.zeros(()), backend="torch").passes == 2
    assert explain(x, y, backend="torch").reason == "asked for"


def test_explain_counts_no_pairs_on_a_line(generator) -> None:
    x, y = draw(100, 1, generator=generator), draw(50, 1, generator=generator)
    plan = explain(x, y, backend="torch")
    assert (plan.passes, plan.pairs, plan.reason) == (0, 0, "asked for; sorted")
    assert plan.peak_bytes < explain(x, y, backend="reference").peak_bytes
    assert explain(x, y, backend="reference").pairs > 0
    assert explain(x, y, kernel=Energy(1.5)).pairs > 0
    assert explain(x, y, kernel=Gaussian(1.0)).pairs > 0


def test_bandwidths_of_a_module_are_its_own(generator) -> None:
    x, y = draw(30, 3, generator=generator), draw(20, 3, generator=generator)
    loss = MMDLoss(Gaussian(nn.Parameter(torch.tensor([0.5, 2.0]))))
    assert [name for name, _ in loss.named_parameters()] == ["bandwidths"]
    loss(x, y).backward()
    assert loss.bandwidths is not None
    assert float(loss.bandwidths.grad.abs().max()) > 0  # pyright: ignore[reportOptionalMemberAccess]
    other = {"bandwidths": torch.tensor([3.0])}
    expected = mmd(x, y, kernel=Gaussian(3.0))
    assert_close("functional", torch.func.functional_call(loss, other, (x, y)), expected, rtol=1e-6)
    constant = MMDLoss(Gaussian(torch.tensor(3.0)))
    assert not list(constant.parameters())
    assert not constant.state_dict()
    assert_close("constant", constant(x, y), expected, rtol=1e-6)
    moved = constant.to("meta").bandwidths
    assert moved is not None
    assert moved.device.type == "meta"
    assert MMDLoss(Gaussian(1.0)).bandwidths is None


# Triton's interpreter computes with NumPy, which warns.
@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN slice|overflow) encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("how", ["ours", "reference"])
@pytest.mark.parametrize("d", [1, 3, 20])
def test_a_nan_comes_out(kernel: Kernel, d: int, how: str, bad: float, backend: str, generator) -> None:
    """A NaN in every value that it takes part in; an infinity never as a finite distance."""
    how = backend if how == "ours" else how
    whole, rest = torch.randn(6, d, generator=generator), torch.randn(5, d, generator=generator)
    broken = whole.clone()
    broken[2, -1] = bad
    values = {
        "x": mmd(broken, rest, kernel=kernel, backend=how),
        "y": mmd(rest, broken, kernel=kernel, backend=how),
        "self": self_energy(broken, kernel=kernel, backend=how),
        "potential by y": kernel_potential(rest, broken, kernel=kernel, backend=how),
        "potential by x": kernel_potential(broken, rest, kernel=kernel, backend=how)[2],
    }
    if kernel.radial and how in ("torch", "reference"):
        values["slope"] = kernel_slope(rest, broken, kernel=kernel, backend=how)[:, -1]
    for name, value in values.items():
        if math.isnan(bad):
            assert value.isnan().all(), name
        elif kernel.family in ("energy", "polynomial") and name != "slope":
            assert not value.isfinite().any(), name
    if d < 20:  # matrix products are taken of centred points, whose centre is lost
        others = kernel_potential(broken, rest, kernel=kernel, backend=how)
        assert others[[0, 1, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize("d", [3, 20])
@pytest.mark.parametrize("exponent", [1.0, 1.5])
def test_numbers_beyond_float32_are_zero_or_not_finite_and_need_float64(
    exponent: float, d: int, backend: str, generator
) -> None:
    x, y = torch.randn(40, d, generator=generator), torch.randn(30, d, generator=generator) + 0.5
    expected = energy_distance(x, y, exponent=exponent, precision="float64", backend=backend).double()
    for size in (1e-22, 1e-15, 1e15, 1e20):
        narrow = energy_distance(size * x, size * y, exponent=exponent, backend=backend)
        if size == 1e20:
            assert not narrow.isfinite()
        elif size == 1e-22:
            assert narrow < 0.1 * size**exponent
        else:
            assert_close("float32", narrow.double() / size**exponent, expected, rtol=1e-4)
        wide = energy_distance((size * x).double(), (size * y).double(), exponent=exponent, backend=backend)
        assert_close("float64", wide / size**exponent, expected, rtol=1e-5)
