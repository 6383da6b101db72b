"""The WGAN gradient penalty without a double backward."""

from kantor_kernels.gradient_penalty.functional import GradientPenalty, gradient_penalty

__all__ = ["GradientPenalty", "gradient_penalty"]
