"""The WGAN gradient penalty."""

from kantor_kernels.gradient_penalty.functional import GradientPenalty, explain_penalty, gradient_penalty

__all__ = ["GradientPenalty", "explain_penalty", "gradient_penalty"]
