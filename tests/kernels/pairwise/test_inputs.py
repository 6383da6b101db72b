"""Bad input is refused with a message that names it; memory stays bounded."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kantor_kernels import (
    Energy,
    Gaussian,
    InverseMultiquadric,
    Laplacian,
    Polynomial,
    RationalQuadratic,
    energy_distance,
    kernel_potential,
    mmd,
    self_energy,
)


def test_disagreeing_arguments_are_refused() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="agree in D"):
        energy_distance(x, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="agree in D and batch"):
        energy_distance(x, torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match="one dtype"):
        energy_distance(x, torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="one device"):
        energy_distance(x, torch.zeros(3, 2, device="meta"))
    with pytest.raises(ValueError, match=r"x must have shape \(..., N, D\)"):
        energy_distance(torch.zeros(3), x)
    with pytest.raises(ValueError, match="floating"):
        energy_distance(torch.zeros(3, 2, dtype=torch.int64), x)


def test_empty_and_single_samples_are_refused() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="y is empty"):
        energy_distance(x, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="x is empty"):
        energy_distance(torch.zeros(3, 0), torch.zeros(3, 0))
    with pytest.raises(ValueError, match="U estimator needs two rows"):
        energy_distance(x, torch.zeros(1, 2), estimator="u")
    with pytest.raises(ValueError, match="at least two rows"):
        self_energy(torch.zeros(1, 2), kernel=Gaussian("median"))


def test_bad_weights_are_refused() -> None:
    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match="weight_y sums to zero"):
        energy_distance(x, x, None, torch.tensor([1.0, -2.0, 1.0]))
    with pytest.raises(ValueError, match="weight_x must have shape"):
        energy_distance(x, x, torch.ones(4))
    with pytest.raises(ValueError, match="weight_x must be floating"):
        energy_distance(x, x, torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="U estimator is undefined"):
        energy_distance(x, x, torch.tensor([1.0, 0.0, 0.0]), estimator="u")
    # Unnormalised potentials may have any weights.
    assert kernel_potential(x, x, torch.tensor([1.0, -2.0, 1.0]), normalise=False).shape == (3,)


def test_unknown_options_are_refused() -> None:
    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match='"u" or "v"'):
        energy_distance(x, x, estimator="w")
    with pytest.raises(ValueError, match="pairwise has no backend 'fortran'"):
        energy_distance(x, x, backend="fortran")
    with pytest.raises(ValueError, match="precision must be"):
        energy_distance(x, x, precision="tf32")
    with pytest.raises(ValueError, match="yy cannot be reused with a median"):
        mmd(x, x, yy=torch.zeros(()))
    with pytest.raises(ValueError, match="yy must have the batch shape"):
        energy_distance(x, x, yy=torch.zeros(2))
    with pytest.raises(ValueError, match="cannot serve as a bandwidth"):
        mmd(torch.zeros(5, 2), torch.zeros(5, 2))


@pytest.mark.parametrize("exponent", [0.0, 2.0, -1.0, float("nan")])
def test_exponents_outside_the_open_interval_are_refused(exponent: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 2\)"):
        Energy(exponent)


def test_bad_kernels_are_refused() -> None:
    for family in (Gaussian, Laplacian, InverseMultiquadric):
        for bad in (0.0, -1.0, [], [1.0, -1.0], float("inf")):
            with pytest.raises(ValueError, match="positive and finite"):
                family(bad)
        with pytest.raises(ValueError, match="median"):
            family("mean")
        with pytest.raises(ValueError, match="shape"):
            family(torch.ones(2, 2))
        with pytest.raises(ValueError, match="bandwidths must be positive"):
            mmd(torch.randn(3, 2), torch.randn(3, 2), kernel=family(torch.tensor([1.0, -1.0])))
    with pytest.raises(ValueError, match="alphas must be positive"):
        RationalQuadratic(0.0)
    with pytest.raises(ValueError, match="positive integer"):
        Polynomial(1.5)  # pyright: ignore[reportArgumentType]


MEMORY = """
import resource, torch
from kantor_kernels import Energy, Gaussian, mmd
torch.set_num_threads(1)
x, y = torch.randn({n}, {d}, requires_grad=True), torch.randn({n}, {d})
kernel = {kernel}
mmd(x[:100], y[:100], kernel=kernel, backend="{backend}").backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mmd(x, y, kernel=kernel, backend="{backend}").backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kernel, d", [("Energy()", 4), ("Gaussian([1.0, 2.0])", 24)])
def test_memory_is_bounded(kernel: str, d: int, backend: str) -> None:
    """An 8,000 x 8,000 float32 matrix takes 256 MB; value and gradient must stay far below one."""
    program = MEMORY.format(n=8_000, d=d, kernel=kernel, backend=backend)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 60e6
