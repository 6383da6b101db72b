"""Backend `torch`: blocks of directions, projected and sorted at once (`pairwise/line.py`); any device.

Shapes: K = N + M joined rows, P directions, R of them in a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kantor_kernels.pairwise import line
from kantor_kernels.sliced.reference import factor

# Projections held at once: a bound on the memory that still lets short samples fill the machine.
BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 25}


def energy(
    z_KD: Tensor,
    n: int,
    weight_K: Tensor | None,
    excess: Tensor,
    direction_PD: Tensor,
    want_slope: bool,
    want_pull: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(values, spread, slope, pull) of one joined sample.

    Args:
        z_KD: the joined sample, x in the first n rows.
        weight_K: float64, normalised in each of the two samples; None means equal weights.
        excess: (2,) float64, e_x and e_y.

    Returns:
        values: (P,) float64, c_d times the energy distance along each direction.
        spread: (2,) float64, derivative of the mean of values by e_x and e_y.
        slope: (K, D), derivative of the mean by the points; empty unless wanted.
        pull: (K,) float64, derivative of the mean by the weights; empty unless wanted.
    """
    k, d = z_KD.shape
    count = len(direction_PD)
    values_P = z_KD.new_empty(count, dtype=torch.float64)
    spread = z_KD.new_zeros(2, dtype=torch.float64)
    if weight_K is None:
        weight_K = line.equal_weights(k, n, z_KD)
    slope_KD = torch.zeros_like(z_KD) if want_slope else z_KD.new_empty(0)
    pull_K = z_KD.new_zeros(k if want_pull else 0, dtype=torch.float64)
    step = block(k, count, z_KD.device.type)
    for p0 in range(0, count, step):
        direction_RD = direction_PD[p0 : p0 + step]
        projected_RK = direction_RD @ z_KD.mT
        values_R, by_excess, slope_RK, by_weight_K = line.distances(
            projected_RK, n, weight_K, excess, want_slope, want_pull
        )
        values_P[p0 : p0 + step] = values_R
        spread += by_excess
        if want_slope:
            slope_KD.addmm_(slope_RK.mT, direction_RD)
        if want_pull:
            pull_K += by_weight_K
    scale = factor(d)
    return values_P * scale, spread * (scale / count), slope_KD * (scale / count), pull_K * (scale / count)


def block(k: int, count: int, device: str) -> int:
    """How many directions are projected at once."""
    return max(1, min(count, BLOCK_ELEMENTS.get(device, BLOCK_ELEMENTS["cpu"]) // k))
