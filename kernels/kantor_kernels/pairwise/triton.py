"""Backend `triton`: radial kernels on up to 16 features by direct differences, rows in registers; more features in
float32 go to `triton_products.py`.

A thread owns a few rows of x with their sums; columns of y are uniform loads, so the loop has no shuffle and no shared
memory. Columns are split over programs when there are too few rows to fill a device; the parts are added afterwards, in
a fixed order and without atomics, so results are deterministic. Partial sums leave float32 after 4,096 columns at most.
The energy distance on a line is sorted, and second derivatives are computed in float64 tiles, as in `tiled.py`.
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

from kantor_kernels.pairwise import line, triton_products
from kantor_kernels.pairwise.tiled import DIRECT_FEATURES, hvp
from kantor_kernels.pairwise.triton_profile import profile, scales, split_columns

__all__ = ["grad", "hvp", "peak_bytes", "potential", "self_value"]

ROWS, WARPS, UNROLL = 512, 4, 4
COLUMNS = 4096


@triton.jit(do_not_specialize=["n", "m", "part_columns"])
def pairwise_kernel(
    x_ptr,
    y_ptr,
    b_ptr,
    scale_ptr,
    value_ptr,
    slope_ptr,
    n,
    m,
    part_columns,
    D: tl.constexpr,
    FAMILY: tl.constexpr,
    COUNT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SKIP: tl.constexpr,
    GRAD: tl.constexpr,
    TINY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """value (P, S, n) and slope (P, S, D, n) in float64 for x (S, D, n), y (S, m, D), b (S, m); P parts of columns."""
    offs_i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sample = tl.program_id(1).to(tl.int64)
    part = tl.program_id(2).to(tl.int64)
    mask_i = offs_i < n
    x_ptr += sample * D * n
    y_ptr += sample * m * D
    b_ptr += sample * m
    out = (part * tl.num_programs(1) + sample) * n
    # Tuples grow by addition: Triton compiles no starred expression.
    x = ()
    for d in tl.static_range(D):
        x = x + (tl.load(x_ptr + d * n.to(tl.int64) + offs_i, mask=mask_i, other=0.0),)  # noqa: RUF005
    first = part * part_columns
    last = tl.minimum(first + part_columns, m)
    for start in range(first, last, COLUMNS):
        u = x[0] * 0.0
        g = ()
        for _ in tl.static_range(D):
            g = g + (u,)  # noqa: RUF005
        for j in tl.range(start, tl.minimum(start + COLUMNS, last), loop_unroll_factor=UNROLL):
            t = u * 0.0
            delta = ()
            for d in tl.static_range(D):
                a = x[d] - tl.load(y_ptr + j * D + d)
                t += a * a
                delta = delta + (a,)  # noqa: RUF005
            k, p = profile(t, scale_ptr, FAMILY, COUNT, TINY)
            if WEIGHTED:
                w = tl.load(b_ptr + j)
                k *= w
                p *= w
            if SKIP:
                k = tl.where(offs_i == j, 0.0, k)
                p = tl.where(offs_i == j, 0.0, p)
            u += k
            if GRAD:
                gained = ()
                for d in tl.static_range(D):
                    gained = gained + (g[d] + p * delta[d],)  # noqa: RUF005
                g = gained
        # The float64 sums live in memory, where this program alone touches them: in registers they would spill.
        mask_old = mask_i & (tl.full((ROWS,), start, tl.int32) > first)
        u_ptr = value_ptr + out + offs_i
        tl.store(u_ptr, tl.load(u_ptr, mask=mask_old, other=0.0) + u.to(tl.float64), mask=mask_i)
        if GRAD:
            for d in tl.static_range(D):
                g_ptr = slope_ptr + (out * D + d * n.to(tl.int64)) + offs_i
                tl.store(g_ptr, tl.load(g_ptr, mask=mask_old, other=0.0) + g[d].to(tl.float64), mask=mask_i)


def potential(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
    want_grad: bool,
) -> tuple[Tensor, Tensor]:
    """(U, G) as `tiled.potential`."""
    batch, n, d = x_BND.shape
    m = y_BMD.shape[1]
    if d > DIRECT_FEATURES:
        return triton_products.potential(x_BND, y_BMD, b_BM, family, constants, skip_diagonal, want_grad)
    if line.applies(d, family, constants):
        return line.potential(x_BND, y_BMD, b_BM, skip_diagonal)
    x_BDN, y_BMD = x_BND.mT.contiguous(), y_BMD.contiguous()
    parts, part_columns = split_columns(triton.cdiv(n, ROWS) * batch, m, x_BND.device)
    value = x_BND.new_empty((parts, batch, n), dtype=torch.float64)
    slope = x_BND.new_empty((parts, batch, d, n) if want_grad else (1,), dtype=torch.float64)
    pairwise_kernel[(triton.cdiv(n, ROWS), batch, parts)](
        x_BDN,
        y_BMD,
        x_BDN if b_BM is None else b_BM.contiguous(),
        scales(family, constants, x_BND),
        value,
        slope,
        n,
        m,
        part_columns,
        **specialisation(d, family, constants, b_BM is not None, skip_diagonal, want_grad, x_BND.dtype),
        num_warps=WARPS,
        enable_fp_fusion=True,
    )
    grad_BND = slope.sum(0).mT.to(x_BND.dtype).contiguous() if want_grad else x_BND.new_empty(0)
    return value.sum(0), grad_BND


def grad(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
) -> Tensor:
    """G as `tiled.grad`."""
    return potential(x_BND, y_BMD, b_BM, family, constants, skip_diagonal, True)[1]


def self_value(x_BND: Tensor, a_BN: Tensor | None, family: str, constants: Sequence[float]) -> Tensor:
    """sum_{i != j} a_i a_j k(x_i, x_j) as (B,) float64."""
    value_BN = potential(x_BND, x_BND, a_BN, family, constants, True, False)[0]
    return (value_BN if a_BN is None else a_BN * value_BN).sum(-1)


def specialisation(
    d: int,
    family: str,
    constants: Sequence[float],
    weighted: bool,
    skip_diagonal: bool,
    want_grad: bool,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """The compile-time arguments of `pairwise_kernel`."""
    return {
        "D": d,
        "FAMILY": "energy_power" if family == "energy" and constants[0] != 1.0 else family,
        "COUNT": len(constants),
        "WEIGHTED": weighted,
        "SKIP": skip_diagonal,
        "GRAD": want_grad,
        "TINY": 1e-36 if dtype == torch.float32 else 1e-200,
        "ROWS": ROWS,
        "COLUMNS": COLUMNS,
        "UNROLL": UNROLL,
    }


def peak_bytes(batch: int, n: int, m: int, d: int, itemsize: int, device: str) -> int:
    """Estimate of the extra memory of one pass: copies of the points and the parts of the sums."""
    if d > DIRECT_FEATURES:
        return triton_products.peak_bytes(batch, n, m, d, itemsize, device)
    parts = split_columns(triton.cdiv(n, ROWS) * batch, m, torch.device(device))[0]
    return batch * (n + m) * d * itemsize + batch * n * (1 + d) * 8 * (parts + 1)
