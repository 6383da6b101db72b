"""The part of backend `triton` for more than 16 features: distances from matrix products of split operands.

Points are centred, scaled by a power of two and split into two half-precision parts, 22 bits together, so that three
products on matrix units give x . y to about the accuracy of float32; the gradient x sum_j r_j - sum_j r_j y_j takes
three more, with r split in the same way. Rows of near pairs, whose distance the expanded square loses, are known by one
minimum a pair: a tile that has any is computed again from differences of the points as they came, gradient included.
The same rarely taken branch leaves out the diagonal and the columns behind the last one.
"""

# Jitted functions are not the Python that they look like.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kantor_kernels.pairwise.tiled import NEAR, centre, radial_profile
from kantor_kernels.pairwise.triton_profile import profile, scales, split_columns

# A matrix unit truncates its sums: they leave float32 before that shows.
COLUMNS = 1024
# Halves reach 65504; scaled slopes stay below 2^14, scaled coordinates below 2^6.
SLOPE_EXPONENT, POINT_EXPONENT = 14, 6
SAMPLE = 256
ROWS, TILE, WARPS = 128, 64, 8
# Chunks of 64 features whose gradient fits into registers; further ones take a pass of their own.
HELD = 2


@triton.jit(do_not_specialize=["n", "m", "n_padded", "m_padded", "part_columns"])
def product_kernel(
    x_ptr,
    y_ptr,
    b_ptr,
    x_high_ptr,
    x_low_ptr,
    y_high_ptr,
    y_low_ptr,
    x2_ptr,
    y2_ptr,
    reach_ptr,
    unit_ptr,
    scale_ptr,
    value_ptr,
    slope_ptr,
    near_ptr,
    n,
    m,
    n_padded,
    m_padded,
    part_columns,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNKS: tl.constexpr,
    FROM: tl.constexpr,
    HELD: tl.constexpr,
    FAMILY: tl.constexpr,
    COUNT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SKIP: tl.constexpr,
    GRAD: tl.constexpr,
    TINY: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """value (P, S, n) and slope (P, S, n, D) in float64, for points x (S, n, D), y (S, m, D) and weights b (S, m).

    Halves (S, padded, CHUNKS * WIDTH) and squares x2, y2 (S, padded) of the scaled points, reach (S, padded): the
    squared distance below which a pair is near, unit (S, 3): minus twice the square of a scaled
    unit, the factor of the slopes, that factor over a scaled unit.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS
    sample = tl.program_id(1).to(tl.int64)
    part = tl.program_id(2).to(tl.int64)
    offs_r = tl.arange(0, ROWS)
    offs_c = tl.arange(0, TILE)
    offs_w = tl.arange(0, WIDTH)
    mask_r = row + offs_r < n
    x_ptr += (sample * n + row) * D
    y_ptr += sample * m * D
    b_ptr += sample * m
    x_high_ptr += (sample * n_padded + row) * CHUNKS * WIDTH
    x_low_ptr += (sample * n_padded + row) * CHUNKS * WIDTH
    y_high_ptr += sample * m_padded * CHUNKS * WIDTH
    y_low_ptr += sample * m_padded * CHUNKS * WIDTH
    y2_ptr += sample * m_padded
    out = (part * tl.num_programs(1) + sample) * n + row
    x2 = tl.load(x2_ptr + sample * n_padded + row + offs_r)
    reach = tl.load(reach_ptr + sample * n_padded + row + offs_r)
    fold = tl.load(unit_ptr + sample * 3)
    lift = tl.load(unit_ptr + sample * 3 + 1)
    drop = tl.load(unit_ptr + sample * 3 + 2)
    offs_x = offs_r[:, None] * (CHUNKS * WIDTH) + offs_w[None, :]
    offs_y = offs_c[:, None] * (CHUNKS * WIDTH) + offs_w[None, :]
    first = tl.program_id(2) * part_columns
    # Added to a column it makes an int64 of it.
    wide = part * 0
    last = tl.minimum(first + part_columns, m)
    x_held = (tl.load(x_high_ptr + offs_x), tl.load(x_low_ptr + offs_x))
    for start in range(first, last, COLUMNS):
        u = x2 * 0.0
        total = x2 * 0.0
        g = ()
        for _ in tl.static_range(HELD):
            g = g + (tl.zeros((ROWS, WIDTH), tl.float32),)  # noqa: RUF005
        for j in tl.range(start, tl.minimum(start + COLUMNS, last), TILE):
            t = tl.zeros((ROWS, TILE), tl.float32)
            for c in tl.static_range(CHUNKS):
                x_high = x_held[0] if CHUNKS == 1 else tl.load(x_high_ptr + c * WIDTH + offs_x)
                x_low = x_held[1] if CHUNKS == 1 else tl.load(x_low_ptr + c * WIDTH + offs_x)
                y_high = tl.load(y_high_ptr + (wide + j) * (CHUNKS * WIDTH) + c * WIDTH + offs_y)
                y_low = tl.load(y_low_ptr + (wide + j) * (CHUNKS * WIDTH) + c * WIDTH + offs_y)
                t = tl.dot(x_high, tl.trans(y_low), t)
                t = tl.dot(x_low, tl.trans(y_high), t)
                t = tl.dot(x_high, tl.trans(y_high), t)
            t = (x2[:, None] + tl.load(y2_ptr + j + offs_c[None, :])) + fold * t
            crowded = tl.max((tl.min(t, axis=1) <= reach).to(tl.int32), axis=0) > 0
            edge = j + TILE > last
            if SKIP:
                edge = edge | ((j < row + ROWS) & (row < j + TILE))
            if crowded | edge:
                mask_c = j + offs_c < last
                if crowded:
                    t = tl.zeros((ROWS, TILE), tl.float32)
                    for d in range(D):
                        x_d = tl.load(x_ptr + offs_r * D + d, mask=mask_r, other=0.0)
                        y_d = tl.load(y_ptr + (wide + j + offs_c) * D + d, mask=mask_c, other=0.0)
                        delta = x_d[:, None] - y_d[None, :]
                        t += delta * delta
                k, p = profile(t, scale_ptr, FAMILY, COUNT, TINY)
                w = mask_c.to(tl.float32)
                if WEIGHTED:
                    w = tl.load(b_ptr + j + offs_c, mask=mask_c, other=0.0)
                k *= w[None, :]
                p *= w[None, :]
                if SKIP:
                    apart = (row + offs_r)[:, None] != (j + offs_c)[None, :]
                    k = tl.where(apart, k, 0.0)
                    p = tl.where(apart, p, 0.0)
                u += tl.sum(k, axis=1)
                if GRAD:
                    if crowded:
                        for d in range(FROM * WIDTH, min(D, (FROM + HELD) * WIDTH)):
                            x_d = tl.load(x_ptr + offs_r * D + d, mask=mask_r, other=0.0)
                            y_d = tl.load(y_ptr + (wide + j + offs_c) * D + d, mask=mask_c, other=0.0)
                            pull = tl.sum(p * (x_d[:, None] - y_d[None, :]), axis=1)
                            g_ptr = near_ptr + out * D + (offs_r * D + d)
                            tl.store(g_ptr, tl.load(g_ptr, mask=mask_r, other=0.0) + pull.to(tl.float64), mask=mask_r)
                        p = tl.zeros((ROWS, TILE), tl.float32)
                    p *= lift
            else:
                k, p = profile(t, scale_ptr, FAMILY, COUNT, 0.0)
                if WEIGHTED:
                    w = tl.load(b_ptr + j + offs_c)
                    k *= w[None, :]
                    if GRAD:
                        p *= (w * lift)[None, :]
                elif GRAD:
                    p *= lift
                u += tl.sum(k, axis=1)
            if GRAD:
                total += tl.sum(p, axis=1)
                p_high = p.to(tl.float16)
                p_low = (p - p_high.to(tl.float32)).to(tl.float16)
                gained = ()
                for c in tl.static_range(HELD):
                    y_high = tl.load(y_high_ptr + (wide + j) * (CHUNKS * WIDTH) + (FROM + c) * WIDTH + offs_y)
                    y_low = tl.load(y_low_ptr + (wide + j) * (CHUNKS * WIDTH) + (FROM + c) * WIDTH + offs_y)
                    a = tl.dot(p_high, y_low, g[c])
                    a = tl.dot(p_low, y_high, a)
                    gained = gained + (tl.dot(p_high, y_high, a),)  # noqa: RUF005
                g = gained
        # The float64 sums live in memory, zero at first, where this program alone touches them.
        if FROM == 0:
            u_ptr = value_ptr + out + offs_r
            tl.store(u_ptr, tl.load(u_ptr, mask=mask_r, other=0.0) + u.to(tl.float64), mask=mask_r)
        if GRAD:
            for c in tl.static_range(HELD):
                x_c = tl.load(x_high_ptr + (FROM + c) * WIDTH + offs_x).to(tl.float32)
                x_c += tl.load(x_low_ptr + (FROM + c) * WIDTH + offs_x).to(tl.float32)
                a = (x_c * total[:, None] - g[c]) / drop
                mask = mask_r[:, None] & (offs_w[None, :] + (FROM + c) * WIDTH < D)
                g_ptr = slope_ptr + out * D + (offs_r[:, None] * D + offs_w[None, :] + (FROM + c) * WIDTH)
                tl.store(g_ptr, tl.load(g_ptr, mask=mask, other=0.0) + a.to(tl.float64), mask=mask)


def potential(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
    want_grad: bool,
) -> tuple[Tensor, Tensor]:
    """(U, G) as `tiled.potential`, for float32 points of 17 to 256 features."""
    batch, n, d = x_BND.shape
    m = y_BMD.shape[1]
    chosen = specialisation(d, family, constants, b_BM is not None, skip_diagonal, want_grad)
    rows, tile, width = chosen["ROWS"], chosen["TILE"], chosen["WIDTH"] * chosen["CHUNKS"]
    centre_B1D = centre(x_BND, y_BMD)
    x_centred, y_centred = x_BND - centre_B1D, y_BMD - centre_B1D
    unit_B = torch.exp2(
        _exponent(torch.maximum(x_centred.abs().amax((1, 2)), y_centred.abs().amax((1, 2)))) - POINT_EXPONENT
    )
    x_high, x_low, x2_BN = _halves(x_centred, unit_B, rows, width)
    y_high, y_low, y2_BM = _halves(y_centred, unit_B, tile, width)
    floor_B = _floor(x_centred, y_centred)
    # |y|^2 <= (|x| + d)^2: what is near by NEAR (|x|^2 + |y|^2) is near by this as well.
    reach_BN = 2.2 * NEAR * x2_BN + floor_B.unsqueeze(-1)
    lift_B = _lift(floor_B, b_BM, family, constants)
    units_B3 = torch.stack([-2 * unit_B.square(), lift_B, lift_B / unit_B], -1).contiguous()
    parts, part_columns = split_columns(triton.cdiv(n, rows) * batch, m, x_BND.device, tile)
    value = x_BND.new_zeros((parts, batch, n), dtype=torch.float64)
    # The pairs far apart and the near ones: two threads may hold one of these sums, so they are kept apart.
    slope = x_BND.new_zeros((2, parts, batch, n, d) if want_grad else (2, 1), dtype=torch.float64)
    x_BND, y_BMD = x_BND.contiguous(), y_BMD.contiguous()
    for first in range(0, chosen["CHUNKS"] if want_grad else 1, HELD):
        product_kernel[(triton.cdiv(n, rows), batch, parts)](
            x_BND,
            y_BMD,
            x_BND if b_BM is None else b_BM.contiguous(),
            x_high,
            x_low,
            y_high,
            y_low,
            x2_BN,
            y2_BM,
            reach_BN,
            units_B3,
            scales(family, constants, x_BND),
            value,
            slope[0],
            slope[1],
            n,
            m,
            x_high.shape[1],
            y_high.shape[1],
            part_columns,
            **{**chosen, "FROM": first},
            **options(d),
        )
    grad_BND = slope.sum((0, 1)).to(x_BND.dtype) if want_grad else x_BND.new_empty(0)
    return value.sum(0), grad_BND


def specialisation(
    d: int, family: str, constants: Sequence[float], weighted: bool, skip_diagonal: bool, want_grad: bool
) -> dict[str, Any]:
    """The compile-time arguments of `product_kernel`."""
    width = 32 if d <= 32 else 64
    chunks = triton.cdiv(d, width)
    return {
        "D": d,
        "WIDTH": width,
        "CHUNKS": chunks,
        "FROM": 0,
        "HELD": min(chunks, HELD),
        "FAMILY": "energy_power" if family == "energy" and constants[0] != 1.0 else family,
        "COUNT": len(constants),
        "WEIGHTED": weighted,
        "SKIP": skip_diagonal,
        "GRAD": want_grad,
        "TINY": 1e-36,
        "ROWS": ROWS,
        "TILE": TILE if chunks == 1 else TILE // 2,
        "COLUMNS": COLUMNS,
    }


def options(d: int) -> dict[str, Any]:
    """The compiler's options: tiles of y are fetched ahead where shared memory has room for two."""
    return {"num_warps": WARPS, "num_stages": 2 if d <= 64 else 1, "enable_fp_fusion": True}


def peak_bytes(batch: int, n: int, m: int, d: int, itemsize: int, device: str) -> int:
    """Estimate of the extra memory of one pass: centred and split copies of the points and the parts of the sums."""
    parts = split_columns(triton.cdiv(n, ROWS) * batch, m, torch.device(device), TILE)[0]
    return batch * (n + m) * d * 3 * itemsize + batch * n * (1 + d) * 8 * (parts + 1)


def _exponent(largest_B: Tensor) -> Tensor:
    """The least e with |largest| < 2^e, and 0 for zero."""
    return torch.frexp(largest_B).exponent.to(largest_B.dtype)


def _halves(points_BND: Tensor, unit_B: Tensor, multiple: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(high, low, squares): the points in `unit` as two halves, rows and features zero-padded; |point|^2 in float32."""
    batch, n, d = points_BND.shape
    padded = triton.cdiv(n, multiple) * multiple
    scaled_BND = points_BND.new_zeros((batch, padded, width))
    scaled_BND[:, :n, :d] = points_BND / unit_B[:, None, None]
    high_BND = scaled_BND.half()
    low_BND = (scaled_BND - high_BND).half()
    # The squares are those of the points that the products see.
    squares_BN = (high_BND.float() + low_BND.float()).mul_(unit_B[:, None, None]).square().sum(-1)
    return high_BND, low_BND, squares_BN


def _floor(x_BND: Tensor, y_BMD: Tensor) -> Tensor:
    """A squared distance (B,) that few pairs fall below: half the least among a sample of pairs that are not near."""
    x_BND, y_BMD = (points[:, :: max(1, points.shape[1] // SAMPLE)][:, :SAMPLE] for points in (x_BND, y_BMD))
    scale = x_BND.square().sum(-1).unsqueeze(-1) + y_BMD.square().sum(-1).unsqueeze(1)
    d2 = torch.baddbmm(scale, x_BND, y_BMD.mT, alpha=-2.0)
    apart = d2 > 4 * NEAR * scale
    least_B = torch.where(apart, d2, torch.inf).amin((1, 2)) / 2
    return torch.where(least_B.isfinite(), least_B, scale.amax((1, 2))).clamp_min(1e-30)


def _lift(floor_B: Tensor, b_BM: Tensor | None, family: str, constants: Sequence[float]) -> Tensor:
    """The power of two (B,) that takes the steepest slope of a pair that is not near to about 2^14."""
    slope_B = radial_profile(floor_B.double(), family, constants, 1)[1]
    assert slope_B is not None
    steepest_B = slope_B.abs() if b_BM is None else slope_B.abs() * b_BM.abs().amax(1)
    return torch.exp2((SLOPE_EXPONENT - _exponent(steepest_B)).clamp(-100, 100)).to(floor_B.dtype)
