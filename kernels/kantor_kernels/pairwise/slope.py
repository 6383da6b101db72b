"""The slope of a kernel potential, written out, so that autograd differentiates it once, cheaply.

Going through the second derivatives of the potential takes many times longer where the slope is what a loss is made of.
Shapes: N rows of x, M rows of y, D features, T rows of x in a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kantor_kernels.pairwise.kernels import Energy, Gaussian, InverseMultiquadric, Kernel, Laplacian, RationalQuadratic

# Pairs whose slopes are held in memory at once.
PAIRS = 2**22


def kernel_slope(x_ND: Tensor, y_MD: Tensor, weight_M: Tensor | None, kernel: Kernel, skip_diagonal: bool) -> Tensor:
    """sum_j w_j dk(x_i, y_j) / dx_i, (N, D); `skip_diagonal` leaves out j = i."""
    centre_D = y_MD.detach().mean(0)
    x_ND, y_MD = x_ND - centre_D, y_MD - centre_D

    def rows(x_TD: Tensor, first: int) -> Tensor:
        distance_TM = torch.cdist(x_TD, y_MD, compute_mode="donot_use_mm_for_euclid_dist")
        slope_TM = slope_over_distance(distance_TM, kernel)
        slope_TM = slope_TM if weight_M is None else weight_M * slope_TM
        on_diagonal = max(0, min(len(x_TD), len(y_MD) - first))
        if skip_diagonal and on_diagonal:
            slope_TM = torch.diagonal_scatter(slope_TM, x_TD.new_zeros(on_diagonal), first)
        return x_TD * slope_TM.sum(1, keepdim=True) - slope_TM @ y_MD

    tile = max(1, PAIRS // len(y_MD))
    if len(x_ND) <= tile:
        return rows(x_ND, 0)
    # A tile's pairs are computed again in the backward pass instead of held until then.
    parts = [checkpoint(rows, x_TD, k * tile, use_reentrant=False) for k, x_TD in enumerate(x_ND.split(tile))]
    return torch.cat(parts)  # pyright: ignore[reportArgumentType]


def slope_over_distance(d: Tensor, kernel: Kernel) -> Tensor:
    """k'(d) / d of a radial kernel, and 0 where it has a kink at d = 0."""
    together = d == 0
    inverse = torch.where(together, 0.0, 1 / torch.where(together, 1.0, d))
    match kernel:
        case Energy(exponent=1.0):
            return -inverse
        case Energy():
            power = torch.where(together, 1.0, d) ** (kernel.exponent - 1)
            return -kernel.exponent * power * inverse
        case Gaussian():
            terms = [-torch.exp(-d.square() / (2 * s * s)) / (s * s) for s in kernel.constants]
        case Laplacian():
            terms = [-torch.exp(-d / s) * inverse / s for s in kernel.constants]
        case InverseMultiquadric():
            terms = [-((1 + d.square() / (s * s)) ** -1.5) / (s * s) for s in kernel.constants]
        case RationalQuadratic():
            terms = [-((1 + d.square() / (2 * alpha)) ** (-alpha - 1)) for alpha in kernel.constants]
        case _:
            raise TypeError(f"{kernel} is not radial")
    return torch.stack(terms).mean(0)
