"""The energy kernel on lines, compiled: each line is sorted by digits and walked once, by one thread.

Formulas as in `line.py`, which also takes double precision and more rows than 32 bits can count.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kantor_kernels.compiling import jit
from kantor_kernels.pairwise import line
from kantor_kernels.threads import Work, run_all

# Sorting and walking a row costs about as much as this many pairs of the pairwise sums.
PAIRS_PER_ROW = 30
# Digits of 11 bits: three make a float, and their counters fit into the first cache.
DIGIT = 11
# c_1 of the sliced distance as floating point has it: an exact 1 would change the last bit of recorded figures.
_ONE = math.sqrt(math.pi) * math.exp(-math.lgamma(0.5))


def mmd(
    x_BN1: Tensor,
    y_BM1: Tensor,
    a_BN: Tensor | None,
    b_BM: Tensor | None,
    factor_B3: Tensor,
    want_yy: bool,
    want_x: bool,
    want_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(value, by_x, by_y) as `autograd.mmd` of the energy kernel, without pairs."""
    n, m = x_BN1.shape[1], y_BM1.shape[1]
    weight_BK = None
    total_x, total_y = factor_B3.new_full((1, 1), n), factor_B3.new_full((1, 1), m)
    if a_BN is not None or b_BM is not None:
        a_BN, b_BM = (
            torch.ones_like(points[..., 0], dtype=torch.float64) if weight is None else weight.double()
            for points, weight in ((x_BN1, a_BN), (y_BM1, b_BM))
        )
        total_x, total_y = a_BN.sum(-1, keepdim=True), b_BM.sum(-1, keepdim=True)
        weight_BK = torch.cat([a_BN / total_x, b_BM / total_y], -1)
    # What the self terms have beyond those of the V estimator; -1 leaves a term out.
    excess_B2 = torch.cat([factor_B3[:, :1] * total_x**2, factor_B3[:, 2:] * total_y**2], -1) - 1
    if not want_yy:
        excess_B2[:, 1] = -1
    values, slopes = [], []
    for s in range(len(x_BN1)):
        z_K1 = torch.cat([x_BN1[s], y_BM1[s]])
        weight_K = None if weight_BK is None else weight_BK[s]
        value_1, slope_1K = _distance(z_K1.mT, n, weight_K, excess_B2[s], want_x or want_y)
        values.append(value_1.squeeze(0) * _ONE)
        slopes.append(slope_1K.mT * _ONE)
    slope_BK1 = torch.stack(slopes)
    nothing = x_BN1.new_empty(0)
    by_x = slope_BK1[:, :n].clone() if want_x else nothing
    return torch.stack(values), by_x, slope_BK1[:, n:].clone() if want_y else nothing.clone()


def has_digits(z_KD: Tensor) -> bool:
    """Whether `walk` sorts such points."""
    return z_KD.dtype == torch.float32 and len(z_KD) < 1 << 32


def walk(
    line_RK: Tensor,
    n: int,
    weight_K: Tensor | None,
    excess: Tensor,
    values_R: Tensor,
    spread_R2: Tensor,
    want_slope: bool,
    want_pull: bool,
) -> Tensor:
    """As `line.distances`, writing the values, their derivatives by e_x and e_y, and the slopes over the places.

    Args:
        weight_K: None means equal weights.

    Returns:
        (R, K) float64, the derivatives by the weights; empty unless wanted.
    """
    rows, k = line_RK.shape
    weight = np.empty(0) if weight_K is None else weight_K.contiguous().numpy()
    pull_RK = torch.empty(rows if want_pull else 0, k, dtype=torch.float64)
    walk_rows = partial(
        _walk, line_RK.numpy(), n, weight, *excess.tolist(), values_R.numpy(), spread_R2.numpy(), pull_RK.numpy(),
        want_slope, want_pull,
    )  # fmt: skip
    run_all(Work(walk_rows, rows, k * PAIRS_PER_ROW))
    return pull_RK


def _distance(
    line_1K: Tensor, n: int, weight_K: Tensor | None, excess: Tensor, want_slope: bool
) -> tuple[Tensor, Tensor]:
    """(value, slope) of one line, (1,) and (1, K); the places are overwritten."""
    k = line_1K.shape[1]
    if not has_digits(line_1K.mT):
        weight_K = line.equal_weights(k, n, line_1K) if weight_K is None else weight_K
        value_1, _, slope_1K, _ = line.distances(line_1K, n, weight_K, excess, want_slope, False)
        return value_1, slope_1K.view(-1, k)
    value_1, spread_12 = torch.empty(1, dtype=torch.float64), torch.empty(1, 2, dtype=torch.float64)
    walk(line_1K, n, weight_K, excess, value_1, spread_12, want_slope, False)
    return value_1, line_1K


@jit(error_model="numpy")
def _walk(
    line: Any,
    n: int,
    weight: Any,
    e_x: float,
    e_y: float,
    values: Any,
    spread: Any,
    pull: Any,
    want_slope: bool,
    want_pull: bool,
    first: int,
    last: int,
) -> None:
    """Directions first to last: values, spread and pulls; the slopes take the place of the projections."""
    k = line.shape[1]
    keys, place = np.empty((2, k), np.uint64), np.empty(k, np.float32)
    order = np.empty(k, np.uint32)
    share_x, share_y = 1.0 / n, 1.0 / (k - n)
    equal = weight.size == 0
    for r in range(first, last):
        _sort(line[r].view(np.uint32), keys, place.view(np.uint32), order)
        value, bend_x, bend_y, a, b = 0.0, 0.0, 0.0, 0.0, 0.0
        q = 0
        while q < k:
            if q > 0:
                gap = np.float64(place[q]) - np.float64(place[q - 1])
                part_x, part_y = a * (1 - a), b * (1 - b)
                value += gap * ((a - b) * (a - b) - e_x * part_x - e_y * part_y)
                bend_x += gap * part_x
                bend_y += gap * part_y
            a_sum, b_sum, start = a, b, q
            # Rows at one place are passed together; a NaN equals nothing, not even itself.
            while q == start or (q < k and place[q] == place[start]):
                i = order[q]
                if i < n:
                    a += share_x if equal else weight[i]
                else:
                    b += share_y if equal else weight[i]
                q += 1
            if want_slope:
                a_sum, b_sum = a_sum + a, b_sum + b
                slope_x = 2 * (e_x * (1 - a_sum) - (a_sum - b_sum))
                slope_y = 2 * (e_y * (1 - b_sum) + (a_sum - b_sum))
                for p in range(start, q):
                    i = order[p]
                    if i < n:
                        line[r, i] = slope_x * (share_x if equal else weight[i])
                    else:
                        line[r, i] = slope_y * (share_y if equal else weight[i])
        values[r] = 2 * value
        spread[r, 0], spread[r, 1] = -2 * bend_x, -2 * bend_y
        if want_pull:
            _pull(place, order, n, weight, e_x, e_y, a, b, pull[r])


@jit(error_model="numpy")
def _pull(place: Any, order: Any, n: int, weight: Any, e_x: float, e_y: float, a: float, b: float, out: Any) -> None:
    """The derivatives by the weights, from the far end on, where the running sums are a and b."""
    after_x, after_y = 0.0, 0.0
    for q in range(place.shape[0] - 1, -1, -1):
        i = order[q]
        out[i] = after_x if i < n else after_y
        if i < n:
            a -= weight[i]
        else:
            b -= weight[i]
        if q > 0:
            gap = 2 * (np.float64(place[q]) - np.float64(place[q - 1]))
            after_x += gap * (2 * (a - b) - e_x * (1 - 2 * a))
            after_y += gap * (2 * (b - a) - e_y * (1 - 2 * b))


@jit()
def _sort(bits: Any, keys: Any, place: Any, order: Any) -> None:
    """Sort float32 numbers given by their bits: `place` gets theirs in order, `order` where they came from."""
    k = bits.shape[0]
    radix = 1 << DIGIT
    low, top, mask = np.uint64(0xFFFFFFFF), np.uint64(1 << 31), np.uint64(radix - 1)
    count = np.zeros((3, radix), np.int64)
    # Positive numbers gain the top bit and negative ones are turned over: then they sort as unsigned integers.
    for i in range(k):
        key = np.uint64(bits[i])
        key = (~key & low) if key & top else (key | top)
        for digit in range(3):
            count[digit, (key >> np.uint64(DIGIT * digit)) & mask] += 1
        keys[0, i] = (key << np.uint64(32)) | np.uint64(i)
    for digit in range(3):
        total = 0
        for value in range(radix):
            here = count[digit, value]
            count[digit, value] = total
            total += here
        source, target = keys[digit % 2], keys[1 - digit % 2]
        shift = np.uint64(32 + DIGIT * digit)
        for i in range(k):
            value = (source[i] >> shift) & mask
            target[count[digit, value]] = source[i]
            count[digit, value] += 1
    for i in range(k):
        key = keys[1, i] >> np.uint64(32)
        place[i] = np.uint32((key ^ top) if key & top else (~key & low))
        order[i] = np.uint32(keys[1, i] & low)
