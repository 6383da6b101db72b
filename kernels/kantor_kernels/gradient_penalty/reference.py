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
    real: Tensor,
    fake: Tensor,
    eps: Tensor,
    conditions: Tensor | None,
    coefficient_B: Tensor | None,
    target: float,
    one_sided: bool,
) -> tuple[Tensor, Tensor]:
    """(sum_b c_b (|g_b| - target)^2, |g|), g the gradient of the critic's scalar by x_hat = eps x + (1 - eps) x~.

    eps is of a shape that broadcasts; without coefficients, the mean. The penalty is differentiable by whatever the
    critic depends on, to any order.

    Raises:
        ValueError: the critic does not return one score a sample.
    """
    x_hat = torch.lerp(fake, real, eps).detach()

    def score(x: Tensor) -> Tensor:
        found = critic(x) if conditions is None else critic(x, conditions)
        b = len(x)
        if found.shape != (b,) and found.shape != (b, 1):
            raise ValueError(f"the critic must return ({b},) or ({b}, 1), got {tuple(found.shape)}")
        return found

    if transforms.traced():  # where gradients are transforms, too
        grad = torch.func.grad(lambda x: score(x).sum())(x_hat)
        return of_gradients(grad, coefficient_B, target, one_sided)
    x_hat.requires_grad_()
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        score_B = score(x_hat)
        # Sample b's score depends on sample b alone, so this is the gradient of each.
        (grad,) = torch.autograd.grad(score_B, x_hat, torch.ones_like(score_B), create_graph=wanted)
    return of_gradients(grad, coefficient_B, target, one_sided)


def of_gradients(grad: Tensor, coefficient_B: Tensor | None, target: float, one_sided: bool) -> tuple[Tensor, Tensor]:
    """The penalty and the norms of given gradients (B, ...), differentiable by them: where one vanishes, by 0."""
    dtype = torch.float64 if grad.dtype == torch.float64 else torch.float32
    norm_B = torch.linalg.vector_norm(grad.flatten(1), dim=1, dtype=dtype)
    excess_B = norm_B - target
    if one_sided:
        excess_B = excess_B.clamp_min(0.0)
    square_B = excess_B.square()
    return square_B.mean() if coefficient_B is None else torch.dot(coefficient_B, square_B), norm_B
