"""Backend `separate` of `kernel_witness`: sums over pairs one by one, each by the backend that is best for it.

Shapes: M rows of x and of y, of which the first R are this call's, P points, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kantor_kernels.pairwise.functional import kernel_potential, kernel_slope
from kantor_kernels.pairwise.kernels import Kernel
from kantor_kernels.pairwise.reference import pair_totals


def kernel_witness(
    x_MD: Tensor, y_MD: Tensor, a_M: Tensor | None, b_M: Tensor | None, at_PD: Tensor, rows: int, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    xx, yy, xy, a_M, b_M = pair_totals(x_MD, a_M, b_M)

    def mean(own_RD: Tensor, other_MD: Tensor, u_R: Tensor, w_M: Tensor, total: Tensor) -> Tensor:
        sums_R = kernel_potential(
            own_RD, other_MD.detach(), w_M, kernel=kernel, normalise=False, skip_diagonal=True
        )  # fmt: skip
        return (u_R * sums_R).sum() / total

    x_RD, y_RD, a_R, b_R = x_MD[:rows], y_MD[:rows], a_M[:rows], b_M[:rows]
    value = mean(x_RD, x_MD, a_R, a_M, xx) + mean(y_RD, y_MD, b_R, b_M, yy)
    value = value - mean(x_RD, y_MD, a_R, b_M, xy) - mean(y_RD, x_MD, b_R, a_M, xy)
    # A pair's other end is held constant where it is met, so what flows back here is half of the gradient.
    value = 2 * value - value.detach()
    if len(at_PD) == 0:
        return value, torch.zeros_like(at_PD)

    def slope(other_MD: Tensor, w_M: Tensor) -> Tensor:
        sums_PD = kernel_slope(at_PD, other_MD, w_M, kernel=kernel, normalise=False, skip_diagonal=True)
        return sums_PD / (w_M.sum() - w_M[:rows]).unsqueeze(-1)

    return value, slope(x_MD, a_M) - slope(y_MD, b_M)
