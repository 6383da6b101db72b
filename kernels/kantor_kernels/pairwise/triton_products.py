"""The part of backend `triton` for more than 16 features: distances from matrix products of split operands.

Points are centred, scaled by a power of two and split into two half-precision parts, 22 bits together, so that three
products on matrix units give x . y to about the accuracy of float32; the gradient x sum_j r_j - sum_j r_j y_j takes
three more, with r scaled row by row and split in the same way. Rows of near pairs, whose distance the expanded square
loses, are known by one minimum a pair: a tile that has any is computed again from differences of the points as they
came, gradient included. The same rarely taken branch leaves out the diagonal and the columns behind the last one.
Launches: the extremes and sums of the features, the halves, a sample of distances, the pairs, the sum of the parts.
"""

# Jitted functions are not the Python that they look like.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kantor_kernels.pairwise.tiled import NEAR
from kantor_kernels.pairwise.triton_profile import ABOVE, capability, cdiv, profile, scales, split_columns
from kantor_kernels.pairwise.triton_sums import Sums

# A matrix unit truncates its sums: they leave float32 before that shows.
COLUMNS = 1024
# Halves reach 65504; scaled slopes stay below 2^14, scaled coordinates below 2^6.
SLOPE_EXPONENT, POINT_EXPONENT = 14, 6
# |y|^2 <= (|x| + d)^2: what is near by NEAR (|x|^2 + |y|^2) is near by REACH |x|^2 as well.
REACH = 2.2 * NEAR
# Nearer than this, in squared units of the scaled points, the ends of the halves show.
FLOOR = 2.0**-8
# Points of a sample whose least distance tells how steep slopes are.
SAMPLE, SAMPLE_ROWS = 256, 64
ROWS, TILE, WARPS = 128, 64, 8
# Chunks of 64 features whose gradient fits into registers; further ones take a pass of their own.
HELD = 2
# Programs of this kernel that one processor holds.
RESIDENT = 1
# Blocks of a sample whose extremes and sums are taken apart.
BLOCKS, BLOCK_ROWS = 64, 32


@triton.jit(do_not_specialize=["n", "m", "n_blocks", "m_blocks"])
def extent_kernel(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    extent_ptr,
    largest_ptr,
    n,
    m,
    n_blocks,
    m_blocks,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    A_WEIGHTED: tl.constexpr,
    B_WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """extent (S, B, 3, D) in float64, B = n_blocks + m_blocks blocks of rows: sums, minima and maxima of each feature
    of x (S, n, D) and then y (S, m, D); largest (S, B): of |a| (S, n) and |b| (S, m), 1 without weights."""
    blocks = n_blocks + m_blocks
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    place = sample * blocks + block
    points = x_ptr + sample * n * D
    weights = a_ptr + sample * n
    rows = n
    own_blocks = n_blocks
    weighted = A_WEIGHTED
    if block >= n_blocks:
        points = y_ptr + sample * m * D
        weights = b_ptr + sample * m
        rows = m
        block -= n_blocks
        own_blocks = m_blocks
        weighted = B_WEIGHTED
    per_block = tl.cdiv(rows, own_blocks)
    first = block * per_block
    last = tl.minimum(first + per_block, rows)
    offs_r = tl.arange(0, ROWS)
    offs_w = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float64)
    least = tl.full((WIDTH,), float("inf"), tl.float32)
    most = tl.full((WIDTH,), float("-inf"), tl.float32)
    for start in range(first, last, ROWS):
        row = (start + offs_r).to(tl.int64)
        mask = (row < last)[:, None] & (offs_w < D)[None, :]
        point = tl.load(points + row[:, None] * D + offs_w[None, :], mask=mask, other=0.0)
        total += tl.sum(point.to(tl.float64), axis=0)
        least = tl.minimum(least, tl.min(tl.where(mask, point, float("inf")), axis=0))
        most = tl.maximum(most, tl.max(tl.where(mask, point, float("-inf")), axis=0))
    out = extent_ptr + place * 3 * D + offs_w
    tl.store(out, total, mask=offs_w < D)
    tl.store(out + D, least.to(tl.float64), mask=offs_w < D)
    tl.store(out + 2 * D, most.to(tl.float64), mask=offs_w < D)
    largest = tl.full((ROWS,), 1.0, tl.float32)
    if weighted:
        largest = tl.zeros((ROWS,), tl.float32)
        for start in range(first, last, ROWS):
            row = (start + offs_r).to(tl.int64)
            largest = tl.maximum(largest, tl.abs(tl.load(weights + row, mask=row < last, other=0.0)))
    tl.store(largest_ptr + place, tl.max(largest, axis=0))


@triton.jit(do_not_specialize=["n", "m", "n_blocks", "m_blocks", "n_padded", "m_padded"])
def halves_kernel(
    x_ptr,
    y_ptr,
    extent_ptr,
    largest_ptr,
    high_ptr,
    low_ptr,
    square_ptr,
    unit_ptr,
    n,
    m,
    n_blocks,
    m_blocks,
    n_padded,
    m_padded,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNKS: tl.constexpr,
    POINT_EXPONENT: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The operands of `product_kernel` from the extents: halves and squares of x and then y; the unit and the largest
    weight, unit (S, 2).

    The centre is the middle between the two means, the unit the power of two that takes the largest centred coordinate
    to 2^POINT_EXPONENT. Rows and features are zero-padded; the squares are those of the points that the products see.
    """
    padded = n_padded + m_padded
    sample = (tl.program_id(0) // (padded // ROWS)).to(tl.int64)
    first = (tl.program_id(0) % (padded // ROWS)) * ROWS
    offs_r = first + tl.arange(0, ROWS)
    out = sample * padded + offs_r
    of_y = first >= n_padded
    points = x_ptr + sample * n * D
    rows = n
    if of_y:
        points = y_ptr + sample * m * D
        rows = m
        offs_r -= n_padded
    mask_r = offs_r < rows
    points += offs_r.to(tl.int64)[:, None] * D
    offs_w = tl.arange(0, WIDTH)
    offs_b = tl.arange(0, BLOCKS)
    extent_ptr += sample * (n_blocks + m_blocks) * 3 * D
    rows_x = extent_ptr + offs_b[:, None] * 3 * D
    rows_y = rows_x + n_blocks * 3 * D
    in_x = (offs_b < n_blocks)[:, None]
    in_y = (offs_b < m_blocks)[:, None]
    extreme = tl.zeros((WIDTH,), tl.float32)
    for chunk in tl.static_range(CHUNKS):
        w = (chunk * WIDTH + offs_w)[None, :]
        mean_x = tl.sum(tl.load(rows_x + w, mask=in_x & (w < D), other=0.0), axis=0) / n
        mean_y = tl.sum(tl.load(rows_y + w, mask=in_y & (w < D), other=0.0), axis=0) / m
        centre = ((mean_x + mean_y) / 2).to(tl.float32)
        least_x = tl.min(tl.load(rows_x + D + w, mask=in_x & (w < D), other=float("inf")), axis=0)
        least_y = tl.min(tl.load(rows_y + D + w, mask=in_y & (w < D), other=float("inf")), axis=0)
        most_x = tl.max(tl.load(rows_x + 2 * D + w, mask=in_x & (w < D), other=float("-inf")), axis=0)
        most_y = tl.max(tl.load(rows_y + 2 * D + w, mask=in_y & (w < D), other=float("-inf")), axis=0)
        below = centre - tl.minimum(least_x, least_y).to(tl.float32)
        above = tl.maximum(most_x, most_y).to(tl.float32) - centre
        extreme = tl.maximum(extreme, tl.where(chunk * WIDTH + offs_w < D, tl.maximum(below, above), 0.0))
    most = tl.maximum(tl.max(extreme, axis=0), 1e-15)
    unit = tl.exp2(tl.ceil(tl.log2(most)) - POINT_EXPONENT)
    squares = tl.zeros((ROWS,), tl.float32)
    for chunk in tl.static_range(CHUNKS):
        w = (chunk * WIDTH + offs_w)[None, :]
        mean_x = tl.sum(tl.load(rows_x + w, mask=in_x & (w < D), other=0.0), axis=0) / n
        mean_y = tl.sum(tl.load(rows_y + w, mask=in_y & (w < D), other=0.0), axis=0) / m
        centre = ((mean_x + mean_y) / 2).to(tl.float32)
        mask = mask_r[:, None] & (w < D)
        point = tl.load(points + w, mask=mask, other=0.0)
        scaled = tl.where(mask, (point - centre[None, :]) / unit, 0.0)
        high = scaled.to(tl.float16)
        low = (scaled - high.to(tl.float32)).to(tl.float16)
        seen = (high.to(tl.float32) + low.to(tl.float32)) * unit
        squares += tl.sum(seen * seen, axis=1)
        half = out[:, None] * (CHUNKS * WIDTH) + w
        tl.store(high_ptr + half, high)
        tl.store(low_ptr + half, low)
    tl.store(square_ptr + out, squares)
    if first == 0:
        largest = largest_ptr + sample * (n_blocks + m_blocks) + offs_b
        weight_x = tl.max(tl.load(largest, mask=offs_b < n_blocks, other=0.0), axis=0)
        weight_y = tl.max(tl.load(largest + n_blocks, mask=offs_b < m_blocks, other=0.0), axis=0)
        tl.store(unit_ptr + sample * 2, unit)
        tl.store(unit_ptr + sample * 2 + 1, tl.maximum(weight_x, weight_y))


@triton.jit(do_not_specialize=["n", "m", "n_padded", "m_padded"])
def floor_kernel(
    high_ptr,
    square_ptr,
    unit_ptr,
    floor_ptr,
    n,
    m,
    n_padded,
    m_padded,
    WIDTH: tl.constexpr,
    CHUNKS: tl.constexpr,
    NEAR: tl.constexpr,
    SAMPLE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """floor (S, SAMPLE / ROWS): half the least squared distance of those pairs of a sample that are not near; infinity
    without any. The sample is SAMPLE rows of x and y together, at equal steps."""
    sample = (tl.program_id(0) // (SAMPLE // ROWS)).to(tl.int64)
    padded = sample * (n_padded + m_padded)
    offs_r = tl.arange(0, ROWS)
    offs_w = tl.arange(0, WIDTH)
    total = n.to(tl.int64) + m
    unit = tl.load(unit_ptr + sample * 2)
    row = ((tl.program_id(0) % (SAMPLE // ROWS)) * ROWS + offs_r) * total // SAMPLE
    row = padded + tl.where(row < n, row, row - n + n_padded)
    x2 = tl.load(square_ptr + row)
    least = tl.full((ROWS,), float("inf"), tl.float32)
    for start in range(0, SAMPLE, ROWS):
        column = (start + offs_r) * total // SAMPLE
        column = padded + tl.where(column < n, column, column - n + n_padded)
        dot = tl.zeros((ROWS, ROWS), tl.float32)
        for chunk in tl.static_range(CHUNKS):
            x_high = tl.load(high_ptr + row[:, None] * (CHUNKS * WIDTH) + (chunk * WIDTH + offs_w)[None, :])
            y_high = tl.load(high_ptr + column[:, None] * (CHUNKS * WIDTH) + (chunk * WIDTH + offs_w)[None, :])
            dot = tl.dot(x_high, tl.trans(y_high), dot)
        scale = x2[:, None] + tl.load(square_ptr + column)[None, :]
        t = scale - 2.0 * unit * unit * dot
        least = tl.minimum(least, tl.min(tl.where(t > 4.0 * NEAR * scale, t, float("inf")), axis=1))
    tl.store(floor_ptr + tl.program_id(0), tl.min(least[:, None]) / 2.0)


@triton.jit(do_not_specialize=["n", "m", "padded", "from_row", "from_column", "batch", "part_columns"])
def product_kernel(
    x_ptr,
    y_ptr,
    b_ptr,
    high_ptr,
    low_ptr,
    square_ptr,
    unit_ptr,
    floor_ptr,
    scale_ptr,
    value_ptr,
    slope_ptr,
    near_ptr,
    met_ptr,
    n,
    m,
    padded,
    from_row,
    from_column,
    batch,
    part_columns,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNKS: tl.constexpr,
    FROM: tl.constexpr,
    HELD: tl.constexpr,
    REUSE: tl.constexpr,
    FAMILY: tl.constexpr,
    COUNT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    PAIRS: tl.constexpr,
    GRAD: tl.constexpr,
    TINY: tl.constexpr,
    REACH: tl.constexpr,
    FLOOR: tl.constexpr,
    SLOPE_EXPONENT: tl.constexpr,
    FLOORS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """value (P, S, n) and slope (P, S, n, D) in float64, for points x (S, n, D), y (S, m, D) and weights b (S, m).

    Halves (S, padded, CHUNKS * WIDTH) and squares, those of x from `from_row` and those of y from `from_column` on, the
    unit of the halves and the largest weight, unit (S, 2), and floor (S, FLOORS), below whose least a distance may be
    near. The slopes of near pairs go to near (P, S, n, D), where met (P, S, n) is set. Of all chunks of WIDTH features,
    slopes are those of HELD from FROM on; with REUSE, for one chunk, both products take the same loads of y.
    """
    blocks = tl.cdiv(n, ROWS)
    row = (tl.program_id(0) % blocks) * ROWS
    sample = ((tl.program_id(0) // blocks) % batch).to(tl.int64)
    part = tl.program_id(0) // blocks // batch
    offs_r = tl.arange(0, ROWS)
    offs_c = tl.arange(0, TILE)
    offs_w = tl.arange(0, WIDTH)
    mask_r = row + offs_r < n
    x_ptr += (sample * n + row) * D
    y_ptr += sample * m * D
    b_ptr += sample * m
    x_place = sample * padded + from_row + row
    y_place = sample * padded + from_column
    x_high_ptr = high_ptr + x_place * (CHUNKS * WIDTH)
    x_low_ptr = low_ptr + x_place * (CHUNKS * WIDTH)
    y_high_ptr = high_ptr + y_place * (CHUNKS * WIDTH)
    y_low_ptr = low_ptr + y_place * (CHUNKS * WIDTH)
    y2_ptr = square_ptr + y_place
    out = (part.to(tl.int64) * batch + sample) * n + row
    x2 = tl.load(square_ptr + x_place + offs_r)
    unit = tl.load(unit_ptr + sample * 2)
    fold = -2.0 * unit * unit
    # A pair nearer than its reach is near; the lift takes the steepest slope of all others to 2^SLOPE_EXPONENT.
    floor = tl.min(tl.load(floor_ptr + sample * FLOORS + tl.arange(0, FLOORS)), axis=0)
    floor = tl.where(floor < float("inf"), floor, 0.0)
    reach = tl.maximum(REACH * x2 + FLOOR * unit * unit, floor)
    slope = tl.abs(profile(reach, scale_ptr, FAMILY, COUNT, TINY)[1]) * tl.load(unit_ptr + sample * 2 + 1)
    exponent = SLOPE_EXPONENT - tl.ceil(tl.log2(tl.maximum(slope, 1e-36)))
    lift = tl.exp2(tl.minimum(tl.maximum(exponent, -100.0), 100.0))
    offs_x = offs_r[:, None] * (CHUNKS * WIDTH) + offs_w[None, :]
    offs_y = offs_c[:, None] * (CHUNKS * WIDTH) + offs_w[None, :]
    first = part * part_columns
    if PAIRS == "above":
        # Columns before this block of rows hold no pair; a whole part may hold none.
        first = tl.minimum(tl.maximum(first, row // TILE * TILE), m)
    # Added to a column it makes an int64 of it.
    wide = sample * 0
    last = tl.minimum(part * part_columns + part_columns, m)
    if PAIRS == "above":
        tl.store(value_ptr + out + offs_r, tl.zeros((ROWS,), tl.float64), mask=mask_r)
    x_held = tl.load(x_high_ptr + offs_x)
    x_rest = tl.load(x_low_ptr + offs_x)
    met = part < 0
    for start in range(first, last, COLUMNS):
        u = x2 * 0.0
        total = x2 * 0.0
        g = tl.zeros((ROWS, WIDTH), tl.float32)
        g_next = g
        for j in tl.range(start, tl.minimum(start + COLUMNS, last), TILE):
            t = tl.zeros((ROWS, TILE), tl.float32)
            for c in tl.static_range(CHUNKS):
                x_high = x_held
                x_low = x_rest
                if CHUNKS > 1:
                    x_high = tl.load(x_high_ptr + c * WIDTH + offs_x)
                    x_low = tl.load(x_low_ptr + c * WIDTH + offs_x)
                y_high = tl.load(y_high_ptr + (wide + j) * (CHUNKS * WIDTH) + c * WIDTH + offs_y)
                y_low = tl.load(y_low_ptr + (wide + j) * (CHUNKS * WIDTH) + c * WIDTH + offs_y)
                t = tl.dot(x_high, tl.trans(y_low), t)
                t = tl.dot(x_low, tl.trans(y_high), t)
                t = tl.dot(x_high, tl.trans(y_high), t)
            t = (x2[:, None] + tl.load(y2_ptr + j + offs_c[None, :])) + fold * t
            rare = tl.max((tl.min(t, axis=1) <= reach).to(tl.int32)[:, None]) > 0
            rare = rare | (j + TILE > last)
            if PAIRS != "every":
                rare = rare | ((j < row + ROWS) & (row < j + TILE))
            if rare:
                mask = mask_r[:, None] & (j + offs_c < last)[None, :]
                if PAIRS == "off_diagonal":
                    mask = mask & ((row + offs_r)[:, None] != (j + offs_c)[None, :])
                if PAIRS == "above":
                    mask = mask & ((row + offs_r)[:, None] < (j + offs_c)[None, :])
                weights = mask.to(tl.float32)
                if WEIGHTED:
                    weights *= tl.load(b_ptr + j + offs_c, mask=j + offs_c < last, other=0.0)[None, :]
                crowded = tl.max((mask & (t <= reach[:, None])).to(tl.int32)) > 0
                if crowded:
                    t = tl.zeros((ROWS, TILE), tl.float32)
                    for d in range(D):
                        x_d = tl.load(x_ptr + offs_r * D + d, mask=mask_r, other=0.0)
                        y_d = tl.load(y_ptr + (wide + j + offs_c) * D + d, mask=j + offs_c < last, other=0.0)
                        delta = x_d[:, None] - y_d[None, :]
                        t += delta * delta
                k, p = profile(t, scale_ptr, FAMILY, COUNT, TINY)
                k = tl.where(mask, k * weights, 0.0)
                p = tl.where(mask, p * weights, 0.0)
                if GRAD:
                    if crowded:
                        for d in range(FROM * WIDTH, min(D, (FROM + HELD) * WIDTH)):
                            x_d = tl.load(x_ptr + offs_r * D + d, mask=mask_r, other=0.0)
                            y_d = tl.load(y_ptr + (wide + j + offs_c) * D + d, mask=j + offs_c < last, other=0.0)
                            pull = tl.sum(p * (x_d[:, None] - y_d[None, :]), axis=1)
                            g_ptr = near_ptr + out * D + (offs_r * D + d)
                            old = tl.load(g_ptr, mask=mask_r & (tl.zeros((ROWS,), tl.int32) + met > 0), other=0.0)
                            tl.store(g_ptr, old + pull.to(tl.float64), mask=mask_r)
                        p = tl.zeros((ROWS, TILE), tl.float32)
                        met = part >= 0
                    p *= lift[:, None]
                u += tl.sum(k, axis=1)
                if GRAD:
                    total += tl.sum(p, axis=1)
                p_high = p.to(tl.float16)
                p_low = (p - p_high.to(tl.float32)).to(tl.float16)
            else:
                k, p = profile(t, scale_ptr, FAMILY, COUNT, 0.0)
                if WEIGHTED:
                    w = tl.load(b_ptr + j + offs_c)[None, :]
                    k *= w
                    p *= w
                if GRAD:
                    p *= lift[:, None]
                u += tl.sum(k, axis=1)
                if GRAD:
                    total += tl.sum(p, axis=1)
                p_high = p.to(tl.float16)
                p_low = (p - p_high.to(tl.float32)).to(tl.float16)
            if GRAD:
                if not REUSE:
                    y_high = tl.load(y_high_ptr + (wide + j) * (CHUNKS * WIDTH) + FROM * WIDTH + offs_y)
                    y_low = tl.load(y_low_ptr + (wide + j) * (CHUNKS * WIDTH) + FROM * WIDTH + offs_y)
                g = tl.dot(p_high, y_low, g)
                g = tl.dot(p_low, y_high, g)
                g = tl.dot(p_high, y_high, g)
                if HELD > 1:
                    y_high = tl.load(y_high_ptr + (wide + j) * (CHUNKS * WIDTH) + (FROM + 1) * WIDTH + offs_y)
                    y_low = tl.load(y_low_ptr + (wide + j) * (CHUNKS * WIDTH) + (FROM + 1) * WIDTH + offs_y)
                    g_next = tl.dot(p_high, y_low, g_next)
                    g_next = tl.dot(p_low, y_high, g_next)
                    g_next = tl.dot(p_high, y_high, g_next)
        # The float64 sums live in memory, where this program alone touches them.
        mask_old = mask_r & (tl.full((ROWS,), start, tl.int32) > first)
        if PAIRS == "above":
            mask_old = mask_r
        if FROM == 0:
            u_ptr = value_ptr + out + offs_r
            tl.store(u_ptr, tl.load(u_ptr, mask=mask_old, other=0.0) + u.to(tl.float64), mask=mask_r)
        if GRAD:
            for c in tl.static_range(HELD):
                x_c = tl.load(x_high_ptr + (FROM + c) * WIDTH + offs_x).to(tl.float32)
                x_c += tl.load(x_low_ptr + (FROM + c) * WIDTH + offs_x).to(tl.float32)
                a = (x_c * total[:, None] - (g if c == 0 else g_next)) * (unit / lift)[:, None]
                inside = offs_w[None, :] + (FROM + c) * WIDTH < D
                g_ptr = slope_ptr + out * D + (offs_r[:, None] * D + offs_w[None, :] + (FROM + c) * WIDTH)
                old = tl.load(g_ptr, mask=mask_old[:, None] & inside, other=0.0)
                tl.store(g_ptr, old + a.to(tl.float64), mask=mask_r[:, None] & inside)
    if GRAD:
        tl.store(met_ptr + out + offs_r, tl.full((ROWS,), 0, tl.int32) + met.to(tl.int32), mask=mask_r)


class Halves:
    """Two samples as operands of `product_kernel`, for the sums over pairs of either with itself or the other.

    Args:
        x_BND, y_BMD: float32, 17 to 256 features.
        a_BN, b_BM: weights that the columns may have.
        family, constants: of the kernel.
    """

    def __init__(
        self,
        x_BND: Tensor,
        y_BMD: Tensor,
        a_BN: Tensor | None,
        b_BM: Tensor | None,
        family: str,
        constants: Sequence[float],
    ) -> None:
        self.x, self.family, self.constants = x_BND, family, constants
        self.scales = scales(family, constants, x_BND)
        batch, n, d = x_BND.shape
        m = y_BMD.shape[1]
        self.n_padded, m_padded = (cdiv(rows, ROWS) * ROWS for rows in (n, m))
        self.padded = self.n_padded + m_padded
        n_blocks, m_blocks = (max(1, min(BLOCKS, rows // (2 * BLOCK_ROWS))) for rows in (n, m))
        width = _width(d)
        chunks = cdiv(d, width)
        extent = x_BND.new_empty((batch, n_blocks + m_blocks, 3, d), dtype=torch.float64)
        largest = x_BND.new_empty((batch, n_blocks + m_blocks))
        high, low = x_BND.new_empty((2, batch, self.padded, chunks * width), dtype=torch.float16)
        square = x_BND.new_empty((batch, self.padded))
        unit = x_BND.new_empty((batch, 2))
        floor = x_BND.new_empty((batch, SAMPLE // SAMPLE_ROWS))
        x_BND, y_BMD = x_BND.contiguous(), y_BMD.contiguous()
        extent_kernel[((n_blocks + m_blocks) * batch, chunks)](
            x_BND,
            y_BMD,
            x_BND if a_BN is None else a_BN.contiguous(),
            x_BND if b_BM is None else b_BM.contiguous(),
            extent,
            largest,
            n,
            m,
            n_blocks,
            m_blocks,
            D=d,
            WIDTH=width,
            A_WEIGHTED=a_BN is not None,
            B_WEIGHTED=b_BM is not None,
            ROWS=BLOCK_ROWS,
            enable_fp_fusion=True,
        )
        halves_kernel[(self.padded // BLOCK_ROWS * batch,)](
            x_BND,
            y_BMD,
            extent,
            largest,
            high,
            low,
            square,
            unit,
            n,
            m,
            n_blocks,
            m_blocks,
            self.n_padded,
            m_padded,
            D=d,
            WIDTH=width,
            CHUNKS=chunks,
            POINT_EXPONENT=POINT_EXPONENT,
            BLOCKS=BLOCKS,
            ROWS=BLOCK_ROWS,
            enable_fp_fusion=True,
        )
        floor_kernel[(SAMPLE // SAMPLE_ROWS * batch,)](
            high,
            square,
            unit,
            floor,
            n,
            m,
            self.n_padded,
            m_padded,
            WIDTH=width,
            CHUNKS=chunks,
            NEAR=NEAR,
            SAMPLE=SAMPLE,
            ROWS=SAMPLE_ROWS,
            enable_fp_fusion=True,
        )
        self.operands = high, low, square, unit, floor

    def sums(self, x_BND: Tensor, y_BMD: Tensor, b_BM: Tensor | None, pairs: str, want_grad: bool) -> Sums:
        """The sums of `product_kernel`; x and y are the first or the second sample, or one of them twice."""
        batch, n, d = x_BND.shape
        m = y_BMD.shape[1]
        target = capability(x_BND.device)
        chosen = specialisation(d, self.family, self.constants, b_BM is not None, pairs, want_grad, target)
        rows, tile = chosen["ROWS"], chosen["TILE"]
        parts, part_columns = split_columns(cdiv(n, rows) * batch, m, x_BND.device, tile, RESIDENT)
        value = x_BND.new_empty((parts, batch, n), dtype=torch.float64)
        slope, near = x_BND.new_empty((2, parts, batch, n, d) if want_grad else (2, 1), dtype=torch.float64)
        met = x_BND.new_empty((parts, batch, n) if want_grad else 1, dtype=torch.int32)
        for first in range(0, chosen["CHUNKS"] if want_grad else 1, HELD):
            product_kernel[(cdiv(n, rows) * batch * parts,)](
                x_BND.contiguous(),
                y_BMD.contiguous(),
                x_BND if b_BM is None else b_BM.contiguous(),
                *self.operands,
                self.scales,
                value,
                slope,
                near,
                met,
                n,
                m,
                self.padded,
                0 if x_BND is self.x else self.n_padded,
                0 if y_BMD is self.x else self.n_padded,
                batch,
                part_columns,
                **{**chosen, "FROM": first},
                **options(d),
            )
        times = 2 if pairs == ABOVE else 1
        return Sums(value, slope, near, met, times) if want_grad else Sums(value, None, times=times)


def specialisation(
    d: int, family: str, constants: Sequence[float], weighted: bool, pairs: str, want_grad: bool, target: int = 0
) -> dict[str, Any]:
    """The compile-time arguments of `product_kernel` for this compute capability, as 90."""
    width = _width(d)
    chunks = cdiv(d, width)
    return {
        "D": d,
        "WIDTH": width,
        "CHUNKS": chunks,
        "FROM": 0,
        "HELD": min(chunks, HELD),
        # Without it sm_100 spills in the main loop, with it sm_80 does.
        "REUSE": chunks == 1 and target >= 100,
        "FAMILY": "energy_power" if family == "energy" and constants[0] != 1.0 else family,
        "COUNT": len(constants),
        "WEIGHTED": weighted,
        "PAIRS": pairs,
        "GRAD": want_grad,
        "TINY": 1e-36,
        "REACH": REACH,
        "FLOOR": FLOOR,
        "SLOPE_EXPONENT": SLOPE_EXPONENT,
        "FLOORS": SAMPLE // SAMPLE_ROWS,
        "ROWS": ROWS,
        "TILE": TILE if chunks == 1 else TILE // 2,
        "COLUMNS": COLUMNS,
    }


def options(d: int) -> dict[str, Any]:
    """The compiler's options: tiles of y are fetched ahead where shared memory has room for two."""
    return {"num_warps": WARPS, "num_stages": 2 if d <= 64 else 1, "enable_fp_fusion": True}


def peak_bytes(batch: int, n: int, m: int, d: int, itemsize: int, device: str) -> int:
    """Estimate of the extra memory of one pass: copies of the points, halves and the parts of the sums."""
    parts = split_columns(cdiv(n, ROWS) * batch, m, torch.device(device), TILE, RESIDENT)[0]
    return batch * (n + m) * d * 2 * itemsize + batch * n * (1 + 2 * d) * 8 * (parts + 1)


def _width(d: int) -> int:
    """Features of a chunk."""
    return 32 if d <= 32 else 64
