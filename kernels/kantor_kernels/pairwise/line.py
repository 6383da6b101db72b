"""The energy kernel on a line in O((N + M) log(N + M)): sorting replaces the pairs. Any device, plain PyTorch.

Potentials: with y sorted and B the running sums of its weights, sum_j b_j |x - y_j| = x (B_< - B_>) - (S_< - S_>), S
being the running sums of b y; the slope is B_< - B_>, and rows that coincide with x take part in neither (slope 0).

Distances: with the joined sample z sorted and A, B the running sums of the normalised weights of x and y,

    energy distance = 2 sum_k (z_(k+1) - z_(k)) [(A - B)^2 - e_x A (1 - A) - e_y B (1 - B)]_k

where e = 0 gives the V and e = sum w^2 / ((sum w)^2 - sum w^2) the U estimator. Nothing cancels in it. Its slopes are
differences of the bracket on either side of a row; rows that coincide have one slope, so they do not pull each other.
Shapes: K = N + M joined rows, R lines.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Bytes beside the points that sorting takes for each row, at most: sorted copies, their order and running sums.
BYTES_PER_ROW = 220


def applies(d: int, family: str, constants: object) -> bool:
    """Whether the sums of this kernel on D features can be taken by sorting."""
    return d == 1 and family == "energy" and constants[0] == 1.0  # pyright: ignore[reportIndexIssue]


def potential(x_BN1: Tensor, y_BM1: Tensor, b_BM: Tensor | None, skip_diagonal: bool) -> tuple[Tensor, Tensor]:
    """(U, G) of k = -|x - y|: (B, N) float64 and (B, N, 1) in the dtype of x."""
    y_BM, order_BM = y_BM1.squeeze(-1).sort(dim=-1)
    # Sorted queries walk through memory in order, which is several times faster than random ones.
    x_BN, origin_BN = x_BN1.squeeze(-1).sort(dim=-1)
    below_BN = torch.searchsorted(y_BM, x_BN)
    upto_BN = torch.searchsorted(y_BM, x_BN, right=True)
    centre_B1 = y_BM.mean(-1, keepdim=True, dtype=torch.float64)
    far_BM = y_BM.double() - centre_B1
    if b_BM is None:
        less_BN, more_BN = below_BN.double(), (y_BM.shape[-1] - upto_BN).double()
    else:
        weight_BM = b_BM.double().gather(-1, order_BM)
        far_BM = far_BM * weight_BM
        mass_BM = _running_sum(weight_BM)
        less_BN = mass_BM.gather(-1, below_BN)
        more_BN = mass_BM[:, -1:] - mass_BM.gather(-1, upto_BN)
    moment_BM = _running_sum(far_BM)
    slope_BN = less_BN - more_BN
    moment_BN = moment_BM.gather(-1, below_BN) + moment_BM.gather(-1, upto_BN) - moment_BM[:, -1:]
    value_BN = moment_BN - slope_BN * (x_BN.double() - centre_B1)
    value_BN = torch.empty_like(value_BN).scatter_(-1, origin_BN, value_BN)
    slope_BN = torch.empty_like(slope_BN).scatter_(-1, origin_BN, -slope_BN)
    if skip_diagonal:
        count = min(x_BN.shape[-1], y_BM.shape[-1])
        delta = (x_BN1[:, :count, 0] - y_BM1[:, :count, 0]).double()
        weight = 1.0 if b_BM is None else b_BM[:, :count].double()
        value_BN[:, :count] += weight * delta.abs()
        slope_BN[:, :count] += weight * delta.sign()
    return value_BN, slope_BN.unsqueeze(-1).to(x_BN1.dtype)


def _running_sum(value_BM: Tensor) -> Tensor:
    """(B, M + 1): the sums of the first 0, 1, ..., M values."""
    return torch.cat([value_BM.new_zeros(value_BM.shape[0], 1), value_BM.cumsum(-1)], dim=-1)


def distances(
    line_RK: Tensor, n: int, weight_K: Tensor, excess: Tensor, want_slope: bool, want_pull: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(values, spread, slope, pull): the energy distances of one joined sample along several lines.

    Args:
        line_RK: places along each line, those of x in the first n columns.
        weight_K: float64, normalised in each of the two samples.
        excess: (2,) float64, e_x and e_y.

    Returns:
        values: (R,) float64.
        spread: (2,) float64, derivative of their sum by e_x and e_y.
        slope: (R, K), derivative of the values by the places; empty unless wanted.
        pull: (K,) float64, derivative of their sum by the weights; empty unless wanted.
    """
    sorted_RK, order_RK = line_RK.sort(dim=-1)
    first_RK = order_RK < n
    mass_RK = weight_K[order_RK]
    a_RK = torch.where(first_RK, mass_RK, 0.0).cumsum(-1)
    b_RK = torch.where(first_RK, 0.0, mass_RK).cumsum(-1)
    gap_RK = sorted_RK.double().diff(dim=-1)
    inner_a, inner_b = a_RK[:, :-1], b_RK[:, :-1]
    bend_a, bend_b = inner_a * (1 - inner_a), inner_b * (1 - inner_b)
    bracket = (inner_a - inner_b).square() - excess[0] * bend_a - excess[1] * bend_b
    values_R = 2 * (gap_RK * bracket).sum(-1)
    spread = -2 * torch.stack([(gap_RK * bend_a).sum(), (gap_RK * bend_b).sum()])
    slope_RK = line_RK.new_empty(0)
    if want_slope:
        below_RK, upto_RK = _ties(sorted_RK)
        a = _before(a_RK, below_RK) + a_RK.gather(-1, upto_RK)
        b = _before(b_RK, below_RK) + b_RK.gather(-1, upto_RK)
        pull_apart = torch.where(first_RK, excess[0] * (1 - a) - (a - b), excess[1] * (1 - b) + (a - b))
        slope_RK = torch.empty_like(sorted_RK).scatter_(-1, order_RK, (2 * mass_RK * pull_apart).to(line_RK.dtype))
    pull_K = gap_RK.new_empty(0)
    if want_pull:
        by_a = gap_RK * (2 * (inner_a - inner_b) - excess[0] * (1 - 2 * inner_a))
        by_b = gap_RK * (2 * (inner_b - inner_a) - excess[1] * (1 - 2 * inner_b))
        after_RK = torch.where(first_RK, _beyond(by_a), _beyond(by_b))
        pull_K = torch.empty_like(after_RK).scatter_(-1, order_RK, 2 * after_RK).sum(0)
    return values_R, spread, slope_RK, pull_K


def equal_weights(k: int, n: int, like: Tensor) -> Tensor:
    """(K,) float64: normalised weights of samples of n and of k - n rows, on the device of `like`."""
    weight_K = like.new_full((k,), 1 / n, dtype=torch.float64)
    weight_K[n:] = 1 / (k - n)
    return weight_K


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
