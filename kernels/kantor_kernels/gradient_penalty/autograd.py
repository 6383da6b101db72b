"""The penalty without a double backward: value and first derivative by forward mode through the critic.

With g the per-sample gradient and v = dGP/dg held fixed, grad_theta GP = grad_theta sum_b v_b . g_b, and
sum_b v_b . g_b is the directional derivative J of the critic's summed score along v: one forward-mode pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from kantor_kernels.gradient_penalty import reference


class _WrittenOut(TorchFunctionMode):
    """Functions whose forward-mode rule PyTorch cannot differentiate, written out in operations that it can.

    The rules of `layer_norm` and `group_norm` take mean and deviation for constants in the reverse pass, so their
    result is wrong without a word (PyTorch 2.13); that of `softmax` overwrites what its reverse needs.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    out = _standardised(input, tuple(range(-len(normalized_shape), 0)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    out = _standardised(input.reshape(input.shape[0], num_groups, -1), (-1,), eps).reshape(input.shape)
    return _affine(out, weight, bias)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    if running_mean is not None or not use_input_stats:
        return torch.instance_norm(
            input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled
        )
    return _affine(_standardised(input, tuple(range(2, input.ndim)), eps), weight, bias)


def _standardised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    delta = x - x.mean(dims, keepdim=True)
    return delta * (delta.square().mean(dims, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (x.ndim - 2))
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def _softmax(input: Tensor, dim: int | None = None, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Tensor:
    return _log_softmax(input, dim, dtype=dtype).exp()


def _log_softmax(input: Tensor, dim: int | None = None, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Tensor:
    if dim is None:
        raise ValueError("softmax in a penalised critic needs its dimension")
    input = input if dtype is None else input.to(dtype)
    input = input - input.detach().amax(dim, keepdim=True)
    return input - input.exp().sum(dim, keepdim=True).log()


_REPLACED = {
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.log_softmax: _log_softmax,
    torch.log_softmax: _log_softmax,
    Tensor.log_softmax: _log_softmax,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
}


class _OnceDifferentiable(torch.autograd.Function):
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
    if reference.is_transformed():
        # Inside of one graph the compiler differentiates a gradient like anything else; its forward mode multiplies by
        # matrices of zeros. Transforms nest gradients, but not forward mode in all places.
        return reference.gradient_penalty(critic, x_hat, conditions, coefficient_B, target, one_sided)
    random_state = _random_state(x_hat.device)
    point = x_hat.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(score(point).sum(), point)
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
    # Dropout and its like must be the same function in both passes.
    _restore(x_hat.device, random_state)
    _load_forward_mode()
    with forward_ad.dual_level(), _WrittenOut():
        dual = forward_ad.unpack_dual(score(forward_ad.make_dual(x_hat.detach(), v)))
    if dual.tangent is None or not dual.tangent.requires_grad:
        return value, norm_B
    tangent = _OnceDifferentiable.apply(dual.tangent.sum())
    assert isinstance(tangent, Tensor)
    # The difference is exactly zero, so the value is the penalty to the last bit.
    return value + (tangent - tangent.detach()), norm_B


@cache
def _load_forward_mode() -> None:
    # PyTorch scripts some decompositions at the first dual tensor and warns of its own deprecated function.
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
