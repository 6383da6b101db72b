"""Backend `separate` of `kernel_witness`: sums over pairs one by one, each by the backend that is best for it.

Shapes: M rows of x and of y, of which the first R are this call's, P points, D features.
"""

from __future__ import annotations

from torch import Tensor

from kantor_kernels.pairwise import reference
from kantor_kernels.pairwise.functional import kernel_potential, kernel_slope
from kantor_kernels.pairwise.kernels import Kernel


def kernel_witness(
    x_MD: Tensor, y_MD: Tensor, a_M: Tensor | None, b_M: Tensor | None, at_PD: Tensor, rows: int, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    return reference.kernel_witness(x_MD, y_MD, a_M, b_M, at_PD, rows, kernel, kernel_potential, kernel_slope)
