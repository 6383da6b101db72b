"""The penalty without a double backward: value and first derivative by forward mode through the critic.

With g the per-sample gradient and v = dGP/dg held fixed, grad_theta GP = grad_theta sum_b v_b . g_b, and
sum_b v_b . g_b is the directional derivative J of the critic's summed score along v: one forward-mode pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


class _FirstOrder(torch.autograd.Function):
    """The identity, refusing to be differentiated twice: v is a constant, so a second derivative would be wrong."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "kantor gradient_penalty is differentiable once; create_graph asks for more (backend='reference')"
            )
        return cotangents[0]


def gradient_penalty(
    critic: Callable[..., Tensor],
    x_hat: Tensor,
    conditions: Tensor | None,
    coefficient_B: Tensor,
    target: float,
    one_sided: bool,
) -> tuple[Tensor, Tensor]:
    """(penalty, norms) as the reference; the penalty is differentiable once, in the critic's parameters."""

    def score(x: Tensor) -> Tensor:
        return critic(x) if conditions is None else critic(x, conditions)

    # The score of sample b depends on sample b alone, so the gradient of the sum holds every per-sample gradient.
    random_state = _random_state(x_hat.device)
    if torch.compiler.is_compiling():
        with torch.no_grad():
            grad = torch.func.grad(lambda x: score(x).sum())(x_hat)
    else:
        point = x_hat.detach().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(score(point).sum(), point)
    grad = grad.detach()
    norm_B = grad.flatten(1).to(coefficient_B.dtype).norm(dim=1)
    excess_B = norm_B - target
    if one_sided:
        excess_B = excess_B.clamp_min(0.0)
    value = (coefficient_B * excess_B.square()).sum()
    if not torch.is_grad_enabled():
        return value, norm_B
    # A vanishing gradient has no direction: v = 0 there, never NaN.
    slope_B = torch.where(norm_B > 0, 2 * coefficient_B * excess_B / torch.where(norm_B > 0, norm_B, 1.0), 0.0)
    v = grad * slope_B.to(grad.dtype).view(-1, *[1] * (grad.ndim - 1))
    if torch.compiler.is_compiling():
        tangent = torch.func.jvp(score, (x_hat,), (v,))[1].sum()
        return value + (tangent - tangent.detach()), norm_B
    # Dropout and its like must be the same function in both passes.
    _restore(x_hat.device, random_state)
    _load_forward_mode()
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(score(forward_ad.make_dual(x_hat.detach(), v)))
    if dual.tangent is None or not dual.tangent.requires_grad:
        return value, norm_B
    tangent = _FirstOrder.apply(dual.tangent.sum())
    assert isinstance(tangent, Tensor)
    # The difference is exactly zero, so the value is the penalty to the last bit.
    return value + (tangent - tangent.detach()), norm_B


@cache
def _load_forward_mode() -> None:
    # PyTorch scripts some decompositions at the first dual tensor and warns of its own deprecated function.
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None] | None:
    if torch.compiler.is_compiling():
        return None
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore(device: torch.device, state: tuple[Tensor, Tensor | None] | None) -> None:
    if state is None:
        return
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
