"""The part of backend `triton` for second derivatives: radial kernels, any number of features, float64 throughout.

A thread owns rows of x and takes a few columns of y at a time: once over the features for the squared distances and the
differences along the tangents, once more for the sums, which are kept in memory. 1/d^3 would overflow float32 for close
pairs; differences are formed, so no pair needs repair.
"""

# Jitted functions are not the Python that they look like.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kantor_kernels.pairwise.triton_profile import bends, cdiv, scales, split_columns

ROWS, COLUMNS, WARPS = 256, 8, 4


@triton.jit(do_not_specialize=["n", "m", "batch", "part_columns"])
def hvp_kernel(
    x_ptr,
    y_ptr,
    b_ptr,
    v_ptr,
    w_ptr,
    scale_ptr,
    turn_ptr,
    bend_ptr,
    n,
    m,
    batch,
    part_columns,
    D: tl.constexpr,
    FAMILY: tl.constexpr,
    COUNT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SKIP: tl.constexpr,
    ROW_TANGENT: tl.constexpr,
    COLUMN_TANGENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """turn (P, S, n) and bend (P, S, D, n) for x, v (S, D, n), y, w (S, m, D), b (S, m); P parts of columns."""
    blocks = tl.cdiv(n, ROWS)
    offs_i = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    sample = ((tl.program_id(0) // blocks) % batch).to(tl.int64)
    part = (tl.program_id(0) // blocks // batch).to(tl.int64)
    mask_i = offs_i < n
    height = n.to(tl.int64)
    x_ptr += sample * D * n + offs_i
    v_ptr += sample * D * n + offs_i
    y_ptr += sample * m * D
    w_ptr += sample * m * D
    b_ptr += sample * m
    bend_ptr += (part * batch + sample) * D * n + offs_i
    first = part * part_columns
    last = tl.minimum(first + part_columns, m)
    turn = tl.zeros((ROWS,), tl.float64)
    pull = tl.zeros((ROWS,), tl.float64)
    for j in range(first, last, COLUMNS):
        t = ()
        along = ()
        for _ in tl.static_range(COLUMNS):
            t = t + (turn * 0.0,)  # noqa: RUF005
            along = along + (turn * 0.0,)  # noqa: RUF005
        for d in range(D):
            x_d = tl.load(x_ptr + d * height, mask=mask_i, other=0.0)
            v_d = x_d
            if ROW_TANGENT:
                v_d = tl.load(v_ptr + d * height, mask=mask_i, other=0.0)
            squares = ()
            products = ()
            for c in tl.static_range(COLUMNS):
                place = tl.minimum(j + c, last - 1) * D + d
                delta = x_d - tl.load(y_ptr + place)
                squares = squares + (t[c] + delta * delta,)  # noqa: RUF005
                tangent = turn * 0.0
                if ROW_TANGENT:
                    tangent = v_d
                if COLUMN_TANGENT:
                    tangent -= tl.load(w_ptr + place)
                products = products + (along[c] + delta * tangent,)  # noqa: RUF005
            t = squares
            along = products
        slopes = ()
        curves = ()
        for c in tl.static_range(COLUMNS):
            p, q = bends(t[c], scale_ptr, FAMILY, COUNT)
            if WEIGHTED:
                weight = tl.load(b_ptr + tl.minimum(j + c, last - 1))
                p *= weight
                q *= weight
            apart = tl.full((ROWS,), 0, tl.int64) + (j + c) < last
            if SKIP:
                apart = apart & (offs_i != j + c)
            p = tl.where(apart, p, 0.0)
            q = tl.where(apart, q, 0.0) * along[c]
            turn += p * along[c]
            pull += p
            slopes = slopes + (p,)  # noqa: RUF005
            curves = curves + (q,)  # noqa: RUF005
        mask_old = mask_i & (tl.full((ROWS,), 0, tl.int64) + j > first)
        for d in range(D):
            x_d = tl.load(x_ptr + d * height, mask=mask_i, other=0.0)
            bend = tl.load(bend_ptr + d * height, mask=mask_old, other=0.0)
            for c in tl.static_range(COLUMNS):
                place = tl.minimum(j + c, last - 1) * D + d
                bend += curves[c] * (x_d - tl.load(y_ptr + place))
                if COLUMN_TANGENT:
                    bend -= slopes[c] * tl.load(w_ptr + place)
            tl.store(bend_ptr + d * height, bend, mask=mask_i)
    if ROW_TANGENT:
        for d in range(D):
            bend = tl.load(bend_ptr + d * height, mask=mask_i, other=0.0)
            bend += pull * tl.load(v_ptr + d * height, mask=mask_i, other=0.0)
            tl.store(bend_ptr + d * height, bend, mask=mask_i)
    tl.store(turn_ptr + (part * batch + sample) * n + offs_i, turn, mask=mask_i)


def hvp(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    v_BND: Tensor | None,
    w_BMD: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
) -> tuple[Tensor, Tensor]:
    """(dU, dG) as `tiled.hvp`."""
    batch, n, d = x_BND.shape
    m = y_BMD.shape[1]
    parts, part_columns = split_columns(cdiv(n, ROWS) * batch, m, x_BND.device, COLUMNS)
    x_BDN, y_BMD = _double(x_BND.mT), _double(y_BMD)
    turn = x_BDN.new_empty((parts, batch, n))
    bend = x_BDN.new_empty((parts, batch, d, n))
    hvp_kernel[(cdiv(n, ROWS) * batch * parts,)](
        x_BDN,
        y_BMD,
        x_BDN if b_BM is None else _double(b_BM),
        x_BDN if v_BND is None else _double(v_BND.mT),
        y_BMD if w_BMD is None else _double(w_BMD),
        scales(family, constants, x_BDN),
        turn,
        bend,
        n,
        m,
        batch,
        part_columns,
        **specialisation(d, family, constants, b_BM is not None, skip_diagonal, v_BND is not None, w_BMD is not None),
        num_warps=WARPS,
        enable_fp_fusion=True,
    )
    return turn.sum(0).to(x_BND.dtype), bend.sum(0).mT.to(x_BND.dtype).contiguous()


def specialisation(
    d: int,
    family: str,
    constants: Sequence[float],
    weighted: bool,
    skip_diagonal: bool,
    row_tangent: bool,
    column_tangent: bool,
) -> dict[str, Any]:
    """The compile-time arguments of `hvp_kernel`."""
    return {
        "D": d,
        "FAMILY": "energy_power" if family == "energy" and constants[0] != 1.0 else family,
        "COUNT": len(constants),
        "WEIGHTED": weighted,
        "SKIP": skip_diagonal,
        "ROW_TANGENT": row_tangent,
        "COLUMN_TANGENT": column_tangent,
        "ROWS": ROWS,
        "COLUMNS": COLUMNS,
    }


def _double(points: Tensor) -> Tensor:
    """A contiguous copy in float64, in one pass; the tensor itself where it is one already."""
    if points.dtype == torch.float64:
        return points.contiguous()
    return torch.empty(points.shape, dtype=torch.float64, device=points.device).copy_(points)
