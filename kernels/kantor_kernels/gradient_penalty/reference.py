"""The definition of the gradient penalty, by double backward.

Source: Gulrajani et al., "Improved training of Wasserstein GANs", arXiv:1704.00028, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kantor_kernels import transforms


def gradient_penalty(
    critic: Callable[..., Tensor],
    x_hat: Tensor,
    conditions: Tensor | None,
    coefficient_B: Tensor,
    target: float,
    one_sided: bool,
) -> tuple[Tensor, Tensor]:
    """(sum_b c_b (|g_b| - target)^2, |g|), g the gradient of the critic's scalar by each sample of x_hat."""

    def total(x: Tensor) -> Tensor:
        return (critic(x) if conditions is None else critic(x, conditions)).sum()

    if is_transformed():
        return of_gradients(torch.func.grad(total)(x_hat), coefficient_B, target, one_sided)
    x_hat = x_hat.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(total(x_hat), x_hat, create_graph=True)
        return of_gradients(grad, coefficient_B, target, one_sided)


def is_transformed() -> bool:
    """Whether the call is compiled, or inside of a transform of `torch.func`, where gradients are transforms, too."""
    return torch.compiler.is_compiling() or transforms.active()


def of_gradients(grad: Tensor, coefficient_B: Tensor, target: float, one_sided: bool) -> tuple[Tensor, Tensor]:
    """The penalty and the norms of given gradients (B, ...), differentiable by them: by 0 where one vanishes."""
    norm2_B = grad.flatten(1).to(coefficient_B.dtype).square().sum(1)
    positive_B = norm2_B > 0
    # The inner `where` keeps the root's infinite slope at 0 out of the backward pass.
    norm_B = torch.where(positive_B, torch.where(positive_B, norm2_B, 1.0).sqrt(), 0.0)
    excess_B = norm_B - target
    if one_sided:
        excess_B = excess_B.clamp_min(0.0)
    return (coefficient_B * excess_B.square()).sum(), norm_B
