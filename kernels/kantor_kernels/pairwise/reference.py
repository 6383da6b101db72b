"""The definition of the pairwise statistics: plain PyTorch on the full N x M matrix, any dtype, differentiable.

Formulas as in README.md beside this file. Slow and hungry on purpose; tests, benchmarks and readers use it.
Shapes: B batch, N rows of x, M rows of y, D features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kantor_kernels.pairwise.kernels import (
    Energy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplacian,
    Polynomial,
    RationalQuadratic,
    median_distance,
)


def kernel_matrix(x_ND: Tensor, y_MD: Tensor, kernel: Kernel) -> Tensor:
    """k(x_i, y_j) as (..., N, M); at coincident points value and derivatives as documented for the kernel."""
    if isinstance(kernel, Polynomial):
        return (x_ND @ y_MD.mT / x_ND.shape[-1] + kernel.offset) ** int(kernel.degree)
    delta_NMD = x_ND.unsqueeze(-2) - y_MD.unsqueeze(-3)
    d2_NM = delta_NMD.square().sum(-1)
    # So that a NaN is not taken for coincidence.
    together_NM = d2_NM == 0
    # The inner `where` keeps the root's infinite slope at 0 out of the backward pass.
    d_NM = torch.where(together_NM, 0.0, torch.where(together_NM, 1.0, d2_NM).sqrt())
    if isinstance(kernel, Energy):
        return -torch.where(together_NM, 0.0, torch.where(together_NM, 1.0, d_NM) ** kernel.exponent)
    if isinstance(kernel, RationalQuadratic):
        return torch.stack([(1 + d2_NM / (2 * a)) ** -a for a in kernel.constants]).mean(0)
    assert isinstance(kernel, Gaussian | Laplacian | InverseMultiquadric)
    terms = []
    for s in _bandwidths(kernel, x_ND, y_MD):
        if isinstance(kernel, Gaussian):
            terms.append(torch.exp(-d2_NM / (2 * s * s)))
        elif isinstance(kernel, Laplacian):
            terms.append(torch.exp(-d_NM / s))
        else:
            terms.append((1 + d2_NM / (s * s)).rsqrt())
    return torch.stack(terms).mean(0)


def kernel_potential(
    x_ND: Tensor, y_MD: Tensor, weight_M: Tensor | None, kernel: Kernel, normalise: bool, skip_diagonal: bool
) -> Tensor:
    """sum_j b_j k(x_i, y_j) as (..., N)."""
    b_M = _weights(weight_M, y_MD)
    if normalise:
        b_M = b_M / b_M.sum(-1, keepdim=True)
    k_NM = kernel_matrix(x_ND, y_MD, kernel)
    if skip_diagonal:
        k_NM = k_NM * (1 - torch.eye(*k_NM.shape[-2:], dtype=k_NM.dtype, device=k_NM.device))
    return (k_NM @ b_M.unsqueeze(-1)).squeeze(-1)


def kernel_slope(
    x_ND: Tensor, y_MD: Tensor, weight_M: Tensor | None, kernel: Kernel, normalise: bool, skip_diagonal: bool
) -> Tensor:
    """The derivative of `kernel_potential` by x, (..., N, D)."""

    def total(x_ND: Tensor) -> Tensor:
        # No row's potential depends on another row of x.
        return kernel_potential(x_ND, y_MD, weight_M, kernel, normalise, skip_diagonal).sum()

    return torch.func.grad(total)(x_ND)


def kernel_witness(
    x_MD: Tensor,
    y_MD: Tensor,
    a_M: Tensor | None,
    b_M: Tensor | None,
    at_PD: Tensor,
    rows: int,
    kernel: Kernel,
    potential: Callable[..., Tensor] = kernel_potential,
    slope: Callable[..., Tensor] = kernel_slope,
) -> tuple[Tensor, Tensor]:
    """(MMD^2's share of the first rows, slope of the witness at the points) as of the function of this name.

    Args:
        potential, slope: `kernel_potential` and `kernel_slope`, by whichever backend.
    """
    a_M, b_M = _weights(a_M, x_MD), _weights(b_M, x_MD)
    options = {"kernel": kernel, "normalise": False, "skip_diagonal": True}

    def mean(own_MD: Tensor, other_MD: Tensor, u_M: Tensor, w_M: Tensor) -> Tensor:
        sums_R = potential(own_MD[:rows], other_MD.detach(), w_M, **options)
        return (u_M[:rows] * sums_R).sum() / (u_M.sum() * w_M.sum() - (u_M * w_M).sum())

    value = mean(x_MD, x_MD, a_M, a_M) + mean(y_MD, y_MD, b_M, b_M)
    value = value - mean(x_MD, y_MD, a_M, b_M) - mean(y_MD, x_MD, b_M, a_M)
    # A pair's other end is held constant where it is met, so what flows back here is half of the gradient.
    value = 2 * value - value.detach()
    if len(at_PD) == 0:
        return value, torch.zeros_like(at_PD)

    def pull(other_MD: Tensor, w_M: Tensor) -> Tensor:
        return slope(at_PD, other_MD, w_M, **options) / (w_M.sum() - w_M[:rows]).unsqueeze(-1)

    return value, pull(x_MD, a_M) - pull(y_MD, b_M)


def self_energy(y_MD: Tensor, weight_M: Tensor | None, kernel: Kernel, estimator: str) -> Tensor:
    """sum_jk b_j b_k k(y_j, y_k), without j = k and divided by (sum w)^2 - sum w^2 for the U estimator."""
    w_M = _weights(weight_M, y_MD)
    k_MM = kernel_matrix(y_MD, y_MD, kernel)
    w_MM = w_M.unsqueeze(-1) * w_M.unsqueeze(-2)
    if estimator == "u":
        w_MM = w_MM * (1 - torch.eye(w_MM.shape[-1], dtype=w_MM.dtype, device=w_MM.device))
    return (w_MM * k_MM).sum((-2, -1)) / w_MM.sum((-2, -1))


def mmd(
    x_ND: Tensor, y_MD: Tensor, weight_N: Tensor | None, weight_M: Tensor | None, kernel: Kernel, estimator: str
) -> Tensor:
    """MMD^2 = sum aa k(x, x) + sum bb k(y, y) - 2 sum ab k(x, y)."""
    a_N, b_M = _weights(weight_N, x_ND), _weights(weight_M, y_MD)
    ab_NM = a_N.unsqueeze(-1) * b_M.unsqueeze(-2)
    cross = (ab_NM * kernel_matrix(x_ND, y_MD, kernel)).sum((-2, -1)) / ab_NM.sum((-2, -1))
    return self_energy(x_ND, weight_N, kernel, estimator) + self_energy(y_MD, weight_M, kernel, estimator) - 2 * cross


def _weights(weight_N: Tensor | None, x_ND: Tensor) -> Tensor:
    return torch.ones_like(x_ND[..., 0]) if weight_N is None else weight_N.to(x_ND.dtype)


def _bandwidths(kernel: Gaussian | Laplacian | InverseMultiquadric, x_ND: Tensor, y_MD: Tensor) -> list[Tensor]:
    if isinstance(kernel.bandwidths, str):
        if x_ND.ndim != 2:
            raise ValueError("the reference takes a median bandwidth for unbatched points only")
        return [median_distance(x_ND[None], y_MD[None])[0]]
    if isinstance(kernel.bandwidths, Tensor):
        return list(kernel.bandwidths.reshape(-1).to(x_ND.dtype))
    return [x_ND.new_tensor(s) for s in kernel.constants]
