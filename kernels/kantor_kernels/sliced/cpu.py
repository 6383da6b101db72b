"""Backend `cpu`: one direction per thread, sorted by digits and walked once (`pairwise/cpu_line.py`).

Projections of a block of directions are one matrix product; the slopes take their place, and a second product turns
them into gradients. Double precision, and more rows than 32 bits can count, are sorted as in `tiled.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kantor_kernels.pairwise import cpu_line
from kantor_kernels.sliced import tiled
from kantor_kernels.sliced.reference import factor

# Bounds the memory; no fewer directions than this, to keep several threads busy.
BLOCK_ELEMENTS, BLOCK_DIRECTIONS = 1 << 22, 8


def energy(
    z_KD: Tensor,
    n: int,
    weight_K: Tensor | None,
    excess: Tensor,
    direction_PD: Tensor,
    want_slope: bool,
    want_pull: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `tiled.energy`."""
    k, d = z_KD.shape
    if not cpu_line.has_digits(z_KD):
        return tiled.energy(z_KD, n, weight_K, excess, direction_PD, want_slope, want_pull)
    count = len(direction_PD)
    values_P = torch.empty(count, dtype=torch.float64)
    spread_P2 = torch.empty(count, 2, dtype=torch.float64)
    slope_KD = torch.zeros_like(z_KD) if want_slope else z_KD.new_empty(0)
    pull_K = torch.zeros(k if want_pull else 0, dtype=torch.float64)
    step = min(count, max(BLOCK_DIRECTIONS, BLOCK_ELEMENTS // k))
    for p0 in range(0, count, step):
        direction_RD = direction_PD[p0 : p0 + step]
        line_RK = direction_RD @ z_KD.mT
        rows = slice(p0, p0 + step)
        pull_RK = cpu_line.walk(line_RK, n, weight_K, excess, values_P[rows], spread_P2[rows], want_slope, want_pull)
        if want_slope:
            slope_KD.addmm_(line_RK.mT, direction_RD)
        if want_pull:
            pull_K += pull_RK.sum(0)
    scale = factor(d)
    spread = spread_P2.sum(0)
    return values_P * scale, spread * (scale / count), slope_KD * (scale / count), pull_K * (scale / count)
