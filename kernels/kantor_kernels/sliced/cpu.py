"""Backend `cpu`: one direction per thread, sorted by digits and walked once, compiled by Numba on first use.

Formulas as in `tiled.py`. Projections of a block of directions are one matrix product; the slopes take their place, and
a second product turns them into gradients. Double precision, and more rows than 32 bits can count, are sorted as in
`tiled.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kantor_kernels.compiling import compiled
from kantor_kernels.sliced import tiled
from kantor_kernels.sliced.reference import factor
from kantor_kernels.threads import Work, share

# Bounds the memory; no fewer directions than this, to keep several threads busy.
BLOCK_ELEMENTS, BLOCK_DIRECTIONS = 1 << 22, 8
# Sorting and walking a row costs about as much as this many pairs of the pairwise sums.
PAIRS_PER_ROW = 30
# Digits of 11 bits: three make a float, and their counters fit into the first cache.
DIGIT = 11


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
    if z_KD.dtype != torch.float32 or k >= 1 << 32:
        return tiled.energy(z_KD, n, weight_K, excess, direction_PD, want_slope, want_pull)
    count = len(direction_PD)
    weight = np.empty(0) if weight_K is None else weight_K.contiguous().numpy()
    e_x, e_y = excess.tolist()
    values_P = torch.empty(count, dtype=torch.float64)
    spread_P2 = torch.empty(count, 2, dtype=torch.float64)
    slope_KD = torch.zeros_like(z_KD) if want_slope else z_KD.new_empty(0)
    pull_K = torch.zeros(k if want_pull else 0, dtype=torch.float64)
    step = min(count, max(BLOCK_DIRECTIONS, BLOCK_ELEMENTS // k))
    for p0 in range(0, count, step):
        direction_RD = direction_PD[p0 : p0 + step]
        line_RK = direction_RD @ z_KD.mT
        rows = len(line_RK)
        pull_RK = torch.empty(rows if want_pull else 0, k, dtype=torch.float64)
        values, spread = values_P[p0:].numpy(), spread_P2[p0:].numpy()
        walk = partial(
            _walk, line_RK.numpy(), n, weight, e_x, e_y, values, spread, pull_RK.numpy(), want_slope, want_pull
        )
        share(Work(walk, rows, k * PAIRS_PER_ROW))
        if want_slope:
            slope_KD.addmm_(line_RK.mT, direction_RD)
        if want_pull:
            pull_K += pull_RK.sum(0)
    scale = factor(d)
    spread = spread_P2.sum(0)
    return values_P * scale, spread * (scale / count), slope_KD * (scale / count), pull_K * (scale / count)


@compiled(error_model="numpy")
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


@compiled(error_model="numpy")
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


@compiled()
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
