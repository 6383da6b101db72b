"""Energy distance and maximum mean discrepancy between weighted samples, in memory linear in their size."""

from kantor_kernels.pairwise.functional import (
    EnergyDistanceLoss,
    MMDLoss,
    energy_distance,
    explain,
    kernel_potential,
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

__all__ = [
    "Energy",
    "EnergyDistanceLoss",
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Laplacian",
    "MMDLoss",
    "Polynomial",
    "RationalQuadratic",
    "energy_distance",
    "explain",
    "kernel_potential",
    "mmd",
    "self_energy",
]
