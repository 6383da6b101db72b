"""The definition of the permutation test: the statistic of every relabelling on the full kernel matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from kantor_kernels.pairwise.kernels import Kernel
from kantor_kernels.pairwise.reference import kernel_matrix


def statistics(z_KD: Tensor, weight_K: Tensor, first_PK: Tensor, kernel: Kernel) -> Tensor:
    """MMD^2 (V) of {k: first} against the rest for every row of labels, as (P,)."""
    k_KK = kernel_matrix(z_KD, z_KD, kernel)
    values = []
    for first_K in first_PK.to(z_KD.device):
        a_K, b_K = weight_K * first_K, weight_K * ~first_K
        s_K = a_K / a_K.sum() - b_K / b_K.sum()
        values.append(s_K @ k_KK @ s_K)
    return torch.stack(values)
