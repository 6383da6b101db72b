"""Energy distance and maximum mean discrepancy between weighted samples, in memory linear in their size."""

from kantor_kernels.pairwise.functional import (
    MMDLoss,
    explain,
    kernel_potential,
    kernel_slope,
    mmd,
    self_energy,
)
from kantor_kernels.pairwise.kernels import (
    Energy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplacian,
    Polynomial,
    RationalQuadratic,
)
from kantor_kernels.pairwise.witness import Witness, kernel_witness

__all__ = [
    "Energy",
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Laplacian",
    "MMDLoss",
    "Polynomial",
    "RationalQuadratic",
    "Witness",
    "explain",
    "kernel_potential",
    "kernel_slope",
    "kernel_witness",
    "mmd",
    "self_energy",
]
