"""The sums of the Triton kernels: columns are split over programs, their parts are added here, in a fixed order."""

# Jitted functions are not the Python that they look like.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kantor_kernels.pairwise.triton_profile import cdiv


@dataclass(frozen=True)
class Sums:
    """Potentials and slopes in P parts.

    Attributes:
        value: (P, B, N).
        slope: (P, B, N, D), None where it is not wanted.
        near, met: (P, B, N, D) slopes of near pairs, written only where met (P, B, N) is not 0; None without any.
        times: how often each pair counts.
    """

    value: Tensor
    slope: Tensor | None
    near: Tensor | None = None
    met: Tensor | None = None
    times: int = 1

    def pointers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """value, slope, near, met; any tensor for those that are not there."""
        found = (self.slope, self.near, self.met)
        slope, near, met = (self.value if tensor is None else tensor for tensor in found)
        return self.value, slope, near, met


@triton.jit
def added(
    value_ptr,
    slope_ptr,
    near_ptr,
    met_ptr,
    row,
    mask_r,
    rows,
    parts,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    GRAD: tl.constexpr,
    NEAR: tl.constexpr,
):
    """The sums over the parts of value (P, rows) and slope (P, rows, D) for these rows, in float64."""
    offs_w = tl.arange(0, WIDTH)
    place = row[:, None] * D + offs_w[None, :]
    mask = mask_r[:, None] & (offs_w[None, :] < D)
    u = row.to(tl.float64) * 0.0
    g = place.to(tl.float64) * 0.0
    for part in range(parts):
        skipped = tl.cast(part, tl.int64) * rows
        u += tl.load(value_ptr + skipped + row, mask=mask_r, other=0.0)
        if GRAD:
            g += tl.load(slope_ptr + skipped * D + place, mask=mask, other=0.0)
            if NEAR:
                met = tl.load(met_ptr + skipped + row, mask=mask_r, other=0) > 0
                g += tl.load(near_ptr + skipped * D + place, mask=mask & met[:, None], other=0.0)
    return u, g


@triton.jit(do_not_specialize=["rows", "parts"])
def gather_kernel(
    value_ptr,
    slope_ptr,
    near_ptr,
    met_ptr,
    total_ptr,
    grad_ptr,
    rows,
    parts,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    GRAD: tl.constexpr,
    NEAR: tl.constexpr,
    ROWS: tl.constexpr,
):
    """total (rows) and grad (rows, D) of the parts."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask_r = row < rows
    u, g = added(value_ptr, slope_ptr, near_ptr, met_ptr, row, mask_r, rows, parts, D, WIDTH, GRAD, NEAR)
    tl.store(total_ptr + row, u, mask=mask_r)
    if GRAD:
        offs_w = tl.arange(0, WIDTH)
        mask = mask_r[:, None] & (offs_w[None, :] < D)
        tl.store(grad_ptr + row[:, None] * D + offs_w[None, :], g.to(grad_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "batch", "own_parts", "cross_parts"])
def share_kernel(
    own_value_ptr,
    own_slope_ptr,
    own_near_ptr,
    own_met_ptr,
    cross_value_ptr,
    cross_slope_ptr,
    cross_near_ptr,
    cross_met_ptr,
    weight_ptr,
    factor_ptr,
    share_ptr,
    grad_ptr,
    n,
    batch,
    own_parts,
    cross_parts,
    OWN_FACTOR: tl.constexpr,
    OWN_TIMES: tl.constexpr,
    CROSS_TIMES: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GRAD: tl.constexpr,
    NEAR: tl.constexpr,
    ROWS: tl.constexpr,
):
    """share (S, blocks) of the rows of one sample in a squared MMD, and grad (S, n, D) by them.

    With sums u, g over the pairs within the sample and across, each in parts (P, S, n), and weights w (S, n):
    sum_i w_i (OWN_TIMES f_own u_own - CROSS_TIMES f_1 u_cross) and 2 w_i (f_own g_own - f_1 g_cross); no parts, no sum.
    """
    blocks = tl.cdiv(n, ROWS)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    offs_r = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    mask_r = offs_r < n
    row = sample * n + offs_r
    rows = n.to(tl.int64) * batch
    own, own_g = added(
        own_value_ptr, own_slope_ptr, own_near_ptr, own_met_ptr, row, mask_r, rows, own_parts, D, WIDTH, GRAD, NEAR
    )
    cross, cross_g = added(
        cross_value_ptr, cross_slope_ptr, cross_near_ptr, cross_met_ptr, row, mask_r, rows, cross_parts, D, WIDTH, GRAD,
        NEAR,
    )  # fmt: skip
    own_factor = tl.load(factor_ptr + sample * 3 + OWN_FACTOR)
    cross_factor = tl.load(factor_ptr + sample * 3 + 1)
    share = OWN_TIMES * own_factor * own - CROSS_TIMES * cross_factor * cross
    slope = 2.0 * (own_factor * own_g - cross_factor * cross_g)
    if WEIGHTED:
        w = tl.load(weight_ptr + row, mask=mask_r, other=0.0).to(tl.float64)
        share *= w
        slope *= w[:, None]
    tl.store(share_ptr + tl.program_id(0), tl.sum(share, axis=0))
    if GRAD:
        offs_w = tl.arange(0, WIDTH)
        mask = mask_r[:, None] & (offs_w[None, :] < D)
        tl.store(grad_ptr + row[:, None] * D + offs_w[None, :], slope.to(grad_ptr.dtype.element_ty), mask=mask)


def gather(sums: Sums, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(U, G): (B, N) in float64 and (B, N, D) in this dtype, empty without slopes."""
    parts, batch, n = sums.value.shape
    d = 1 if sums.slope is None else sums.slope.shape[-1]
    total_BN = sums.value.new_empty((batch, n))
    grad_BND = sums.value.new_empty((batch, n, d) if sums.slope is not None else 0, dtype=dtype)
    width, rows = _block(d)
    gather_kernel[(cdiv(batch * n, rows),)](
        *sums.pointers(),
        total_BN,
        grad_BND,
        batch * n,
        parts,
        D=d,
        WIDTH=width,
        GRAD=sums.slope is not None,
        NEAR=sums.near is not None,
        ROWS=rows,
        enable_fp_fusion=True,
    )
    return total_BN, grad_BND


def share(
    own: Sums | None,
    cross: Sums | None,
    weight_BN: Tensor | None,
    factor_B3: Tensor,
    own_factor: int,
    count_cross: bool,
    points_BND: Tensor,
    want_grad: bool,
) -> tuple[Tensor, Tensor]:
    """A sample's share in a squared MMD, (B, blocks) in float64 to be added up, and the gradient (B, N, D) by it.

    Args:
        own, cross: sums over the pairs within the sample and with the other one, with slopes if a gradient is wanted.
        weight_BN: of its rows.
        factor_B3: as in `autograd.mmd`; that of `own` is number `own_factor`.
        count_cross: whether the value of `cross` is part of this share.
        points_BND: the sample.
        want_grad: whether to compute the gradient; empty otherwise.
    """
    batch, n, d = points_BND.shape
    width, rows = _block(d if want_grad else 1)
    share_BK = factor_B3.new_empty((batch, cdiv(n, rows)))
    grad_BND = torch.empty_like(points_BND) if want_grad else points_BND.new_empty(0)
    there = own or cross
    assert there is not None
    share_kernel[(cdiv(n, rows) * batch,)](
        *(own or there).pointers(),
        *(cross or there).pointers(),
        share_BK if weight_BN is None else weight_BN.contiguous(),
        factor_B3.contiguous(),
        share_BK,
        grad_BND if want_grad else share_BK,
        n,
        batch,
        0 if own is None else own.value.shape[0],
        0 if cross is None else cross.value.shape[0],
        OWN_FACTOR=own_factor,
        OWN_TIMES=1 if own is None else own.times,
        CROSS_TIMES=2 if count_cross else 0,
        D=d if want_grad else 1,
        WIDTH=width,
        WEIGHTED=weight_BN is not None,
        GRAD=want_grad,
        NEAR=want_grad and there.near is not None,
        ROWS=rows,
        enable_fp_fusion=True,
    )
    return share_BK, grad_BND


def _block(d: int) -> tuple[int, int]:
    """(features, rows) of a program."""
    width = triton.next_power_of_2(d)
    return width, max(4, 1024 // width)
