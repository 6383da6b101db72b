"""Kernels of critic-heavy generative training, usable alone: pairwise statistics, gradient penalty, two-sample test."""

from kantor_kernels.backends import Choice, Explanation
from kantor_kernels.critic_step import (
    Comparison,
    CriticStep,
    Perceptron,
    mlp_critic_step,
    mlp_forward,
)
from kantor_kernels.distance import EnergyDistanceLoss, energy_distance
from kantor_kernels.gradient_penalty import GradientPenalty, explain_penalty, gradient_penalty
from kantor_kernels.pairwise import (
    Energy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplacian,
    MMDLoss,
    Polynomial,
    RationalQuadratic,
    Witness,
    explain,
    kernel_potential,
    kernel_slope,
    kernel_witness,
    mmd,
    self_energy,
)
from kantor_kernels.permutation import TwoSampleResult, two_sample_test
from kantor_kernels.sliced import sliced_energy_distance

__all__ = [
    "Choice",
    "Comparison",
    "CriticStep",
    "Energy",
    "EnergyDistanceLoss",
    "Explanation",
    "Gaussian",
    "GradientPenalty",
    "InverseMultiquadric",
    "Kernel",
    "Laplacian",
    "MMDLoss",
    "Perceptron",
    "Polynomial",
    "RationalQuadratic",
    "TwoSampleResult",
    "Witness",
    "energy_distance",
    "explain",
    "explain_penalty",
    "gradient_penalty",
    "kernel_potential",
    "kernel_slope",
    "kernel_witness",
    "mlp_critic_step",
    "mlp_forward",
    "mmd",
    "self_energy",
    "sliced_energy_distance",
    "two_sample_test",
]
