"""What a user would write without this library, and other libraries that are installed. Never a dependency."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kantor_kernels.pairwise.kernels import Energy, Gaussian, Kernel
from kantor_kernels.sliced.reference import factor


def eager_mmd(x_ND: Tensor, y_MD: Tensor, kernel: Kernel) -> Tensor:
    """Squared MMD from three whole matrices of `torch.cdist`."""
    return _of(x_ND, x_ND, kernel).mean() + _of(y_MD, y_MD, kernel).mean() - 2 * _of(x_ND, y_MD, kernel).mean()


def _of(x_ND: Tensor, y_MD: Tensor, kernel: Kernel) -> Tensor:
    d_NM = torch.cdist(x_ND, y_MD)
    if isinstance(kernel, Energy):
        return -d_NM
    (s,) = kernel.constants
    if isinstance(kernel, Gaussian):
        return torch.exp(-d_NM.square() / (2 * s * s))
    return torch.exp(-d_NM / s)


def eager_sliced(x_ND: Tensor, y_MD: Tensor, direction_PD: Tensor) -> Tensor:
    """The energy distance along each direction by `sort` and `cumsum`, differentiated by autograd."""
    n, m = len(x_ND), len(y_MD)
    total = x_ND.new_zeros((), dtype=torch.float64)
    for e_D in direction_PD.to(x_ND.dtype):
        z_K, order_K = (torch.cat([x_ND, y_MD]) @ e_D).sort()
        share_K = torch.where(order_K < n, z_K.new_tensor(1 / n).double(), z_K.new_tensor(-1 / m).double())
        total = total + 2 * (z_K.diff() * share_K.cumsum(0)[:-1].square()).sum()
    return total * (factor(x_ND.shape[1]) / len(direction_PD))


def eager_penalty(critic: nn.Module, real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """The gradient penalty by double backward, as in most public code."""
    x_hat = (eps * real + (1 - eps) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)
    return (slope.norm(2, dim=1) - 1).square().mean()


def eager_critic_loss(critic: nn.Module, real: Tensor, fake: Tensor, eps: Tensor, weight: float = 10.0) -> Tensor:
    """The loss of a WGAN-GP critic, real and generated rows in one pass, the penalty by double backward."""
    real_B, fake_B = critic(torch.cat([real, fake])).squeeze(-1).chunk(2)
    return fake_B.mean() - real_B.mean() + weight * eager_penalty(critic, real, fake, eps)


def geomloss_mmd(kernel: Kernel) -> tuple[Callable[[Tensor, Tensor], Tensor] | None, str]:
    """geomloss on KeOps, which needs no N x M matrix, as a function of (x, y); or None and why not."""
    missing = [name for name in ("geomloss", "pykeops") if importlib.util.find_spec(name) is None]
    if missing:
        return None, f"not installed: {', '.join(missing)}"

    @cache
    def loss() -> Callable[[Tensor, Tensor], Tensor]:
        geomloss: Any = importlib.import_module("geomloss")
        blur = 1.0 if isinstance(kernel, Energy) else kernel.constants[0]
        return geomloss.SamplesLoss(type(kernel).__name__.lower(), blur=blur, backend="online")

    # geomloss takes half of the squared MMD.
    return lambda x, y: 2 * loss()(x, y), ""
