"""Backend `torch`: one pass over the pooled pairs serves many relabellings at once.

MMD^2 of a labelling is s^T K s with s = a - b, so tiles of K times the matrix S of all labellings' s give every
statistic; K is never whole in memory. Shapes: K pooled rows, P labellings, R x C one tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kantor_kernels.pairwise.kernels import Kernel
from kantor_kernels.pairwise.tiled import Tiles

LABEL_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 27}


def statistics(z_KD: Tensor, weight_K: Tensor, first_PK: Tensor, kernel: Kernel) -> Tensor:
    """MMD^2 (V) of {k: first} against the rest for every row of labels, as (P,) float64; weights in float64."""
    rows = z_KD.shape[0]
    chunk = max(1, LABEL_ELEMENTS.get(z_KD.device.type, LABEL_ELEMENTS["cpu"]) // rows)
    parts = [_pass(z_KD, weight_K, labels_PK, kernel.family, kernel.constants) for labels_PK in first_PK.split(chunk)]
    return torch.cat(parts)


def _pass(z_KD: Tensor, weight_K: Tensor, first_PK: Tensor, family: str, constants: Sequence[float]) -> Tensor:
    # Scaled by the number of rows the numbers are of order one, which keeps float32 products away from underflow.
    scale = z_KD.shape[0]
    s_KP = _contrast(weight_K, first_PK.to(z_KD.device)).mul_(scale).to(z_KD.dtype)
    total_P = z_KD.new_zeros(s_KP.shape[1], dtype=torch.float64)
    shift: Tensor | None = None
    for tile in Tiles(z_KD[None], z_KD[None], None, family, constants, False):
        k_RC = tile.profile(0)[0][0]
        # s sums to zero, so a constant may be taken from K; what is left is smaller and loses less to rounding.
        shift = k_RC.mean() if shift is None else shift
        product_RP = (k_RC - shift) @ s_KP[tile.columns]
        total_P += (s_KP[tile.row] * product_RP).sum(0, dtype=torch.float64)
    return total_P / scale**2


def _contrast(weight_K: Tensor, first_PK: Tensor) -> Tensor:
    """s = a - b of every labelling, (K, P) float64."""
    total = weight_K.sum()
    first_KP = first_PK.mT.to(weight_K.dtype) * weight_K.unsqueeze(1)
    a_P = first_KP.sum(0)
    b_P = total - a_P
    if bool((torch.minimum(a_P.abs(), b_P.abs()) <= 1e-12 * weight_K.abs().sum()).any()):
        raise ValueError(
            "the weights of a relabelled sample sum to zero: the permutation test is undefined; relabel other rows"
        )
    return first_KP * (1 / a_P + 1 / b_P) - weight_K.unsqueeze(1) / b_P
