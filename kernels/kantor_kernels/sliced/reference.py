"""The definition of the sliced energy distance: plain PyTorch on the full matrix of every direction, any order.

Formulas as in README.md beside this file. Shapes: N rows of x, M rows of y, D features, P directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kantor_kernels.pairwise import reference
from kantor_kernels.pairwise.kernels import Energy


def factor(d: int) -> float:
    """c_d: the energy distance in D dimensions over the mean of those along random directions.

    Source: Hertrich et al., arXiv:2305.11463, Theorem 1 (for r = 1).
    """
    return math.sqrt(math.pi) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))


def slices(
    x_ND: Tensor, y_MD: Tensor, weight_N: Tensor | None, weight_M: Tensor | None, direction_PD: Tensor, estimator: str
) -> Tensor:
    """c_d times the one-dimensional energy distance along each direction, as (..., P)."""
    values = [
        reference.mmd((x_ND @ e_D).unsqueeze(-1), (y_MD @ e_D).unsqueeze(-1), weight_N, weight_M, Energy(), estimator)
        for e_D in direction_PD.to(x_ND.dtype)
    ]
    return factor(x_ND.shape[-1]) * torch.stack(values, dim=-1)
