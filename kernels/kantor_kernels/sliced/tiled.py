"""Backend `torch`: blocks of directions, sorted at once; any device.

With the joined sample z sorted along a direction and A, B the running sums of the normalised weights of x and y,

    energy distance = 2 sum_k (z_(k+1) - z_(k)) [(A - B)^2 - e_x A (1 - A) - e_y B (1 - B)]_k

where e = 0 gives the V and e = sum w^2 / ((sum w)^2 - sum w^2) the U estimator. Nothing cancels in it. Its slopes are
differences of the bracket on either side of a row; rows that coincide share theirs, so they do not pull each other.
Shapes: K = N + M joined rows, P directions, R of them in a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
        weight_K = z_KD.new_full((k,), 1 / n, dtype=torch.float64)
        weight_K[n:] = 1 / (k - n)
    slope_KD = torch.zeros_like(z_KD) if want_slope else z_KD.new_empty(0)
    pull_K = z_KD.new_zeros(k if want_pull else 0, dtype=torch.float64)
    step = block(k, count, z_KD.device.type)
    for p0 in range(0, count, step):
        direction_RD = direction_PD[p0 : p0 + step]
        sorted_RK, order_RK = (direction_RD @ z_KD.mT).sort(dim=-1)
        first_RK = order_RK < n
        mass_RK = weight_K[order_RK]
        a_RK = torch.where(first_RK, mass_RK, 0.0).cumsum(-1)
        b_RK = torch.where(first_RK, 0.0, mass_RK).cumsum(-1)
        gap_RK = sorted_RK.double().diff(dim=-1)
        inner_a, inner_b = a_RK[:, :-1], b_RK[:, :-1]
        bend_a, bend_b = inner_a * (1 - inner_a), inner_b * (1 - inner_b)
        bracket = (inner_a - inner_b).square() - excess[0] * bend_a - excess[1] * bend_b
        values_P[p0 : p0 + step] = 2 * (gap_RK * bracket).sum(-1)
        spread -= 2 * torch.stack([(gap_RK * bend_a).sum(), (gap_RK * bend_b).sum()])
        if want_slope:
            below_RK, upto_RK = _ties(sorted_RK)
            a = _before(a_RK, below_RK) + a_RK.gather(-1, upto_RK)
            b = _before(b_RK, below_RK) + b_RK.gather(-1, upto_RK)
            pull_apart = torch.where(first_RK, excess[0] * (1 - a) - (a - b), excess[1] * (1 - b) + (a - b))
            slope_RK = torch.empty_like(sorted_RK).scatter_(-1, order_RK, (2 * mass_RK * pull_apart).to(z_KD.dtype))
            slope_KD.addmm_(slope_RK.mT, direction_RD)
        if want_pull:
            by_a = gap_RK * (2 * (inner_a - inner_b) - excess[0] * (1 - 2 * inner_a))
            by_b = gap_RK * (2 * (inner_b - inner_a) - excess[1] * (1 - 2 * inner_b))
            after_RK = torch.where(first_RK, _beyond(by_a), _beyond(by_b))
            pull_K += torch.empty_like(after_RK).scatter_(-1, order_RK, 2 * after_RK).sum(0)
    scale = factor(d)
    return values_P * scale, spread * (scale / count), slope_KD * (scale / count), pull_K * (scale / count)


def block(k: int, count: int, device: str) -> int:
    """How many directions are projected at once."""
    return max(1, min(count, BLOCK_ELEMENTS.get(device, BLOCK_ELEMENTS["cpu"]) // k))


def _ties(sorted_RK: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the index of the first and of the last row at the same place."""
    step_RK = sorted_RK.diff(dim=-1) != 0
    index_K = torch.arange(sorted_RK.shape[-1], device=sorted_RK.device)
    start_RK = torch.nn.functional.pad(step_RK, (1, 0), value=True)
    end_RK = torch.nn.functional.pad(step_RK, (0, 1), value=True)
    first_RK = torch.where(start_RK, index_K, 0).cummax(-1).values
    last_RK = torch.where(end_RK, index_K, len(index_K)).flip(-1).cummin(-1).values.flip(-1)
    return first_RK, last_RK


def _before(running_RK: Tensor, index_RK: Tensor) -> Tensor:
    """The running sum before a row."""
    return torch.nn.functional.pad(running_RK, (1, 0)).gather(-1, index_RK)


def _beyond(part_RK: Tensor) -> Tensor:
    """(R, K): the sum of the parts from each row on."""
    return torch.nn.functional.pad(part_RK.flip(-1).cumsum(-1).flip(-1), (0, 1))
