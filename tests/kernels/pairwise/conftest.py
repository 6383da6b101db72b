"""Samples and kernels shared by the tests of the pairwise statistics."""

from __future__ import annotations

import os

import pytest
import torch

from kantor_kernels import (
    Energy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplacian,
    Polynomial,
    RationalQuadratic,
    backends,
)

KERNELS: dict[str, Kernel] = {
    "energy": Energy(),
    "energy-1.5": Energy(1.5),
    "energy-0.5": Energy(0.5),
    "gaussian": Gaussian(1.3),
    "gaussian-mixture": Gaussian([0.5, 1.0, 4.0]),
    "laplacian": Laplacian([0.7, 2.0]),
    "rational": RationalQuadratic(),
    "multiquadric": InverseMultiquadric(1.1),
    "polynomial": Polynomial(3, 0.5),
}
# Numba compiles each for itself: the quick tests take one that bends where points meet, a smooth one and a sum of two.
QUICK = ("energy", "gaussian", "laplacian")
# Triton's interpreter takes over the whole process: test_triton.py starts one of its own for it.
BACKENDS = ["triton"] if os.environ.get("TRITON_INTERPRET") == "1" else ["torch"]
if BACKENDS == ["torch"] and backends.installed("numba"):
    BACKENDS.append("cpu")


@pytest.fixture(
    params=[
        pytest.param(kernel, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, kernel in KERNELS.items()
    ]
)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return request.param


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)
