"""Backend `triton`: radial kernels on up to 16 features by direct differences, rows in registers; more features in
float32 go to `triton_products.py`.

A thread owns a few rows of x with their sums; columns of y are uniform loads, so the loop has no shuffle and no shared
memory. Columns are split over programs when there are too few rows to fill a device; the parts are added afterwards, in
a fixed order and without atomics, so results are deterministic. Partial sums leave float32 after 4,096 columns at most.
The energy distance on a line is sorted, and second derivatives are computed in float64, in `triton_hvp.py`.
Nothing waits for the device, so every call can become part of a CUDA graph.
"""

# Jitted functions are not the Python that they look like.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kantor_kernels.pairwise import line, triton_products
from kantor_kernels.pairwise.tiled import DIRECT_FEATURES
from kantor_kernels.pairwise.triton_hvp import hvp
from kantor_kernels.pairwise.triton_profile import (
    ABOVE,
    EVERY,
    LEAST_COLUMNS,
    OFF_DIAGONAL,
    RESIDENT,
    cdiv,
    processors,
    profile,
    scales,
    split_columns,
)
from kantor_kernels.pairwise.triton_sums import Sums, gather, share

__all__ = ["grad", "hvp", "mmd", "peak_bytes", "potential", "self_value"]

ROWS, FEW_ROWS, WARPS, UNROLL = 512, 128, 4, 4
COLUMNS = 4096


@triton.jit(do_not_specialize=["n", "m", "batch", "part_columns"])
def pairwise_kernel(
    x_ptr,
    y_ptr,
    b_ptr,
    scale_ptr,
    value_ptr,
    slope_ptr,
    n,
    m,
    batch,
    part_columns,
    D: tl.constexpr,
    FAMILY: tl.constexpr,
    COUNT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    PAIRS: tl.constexpr,
    GRAD: tl.constexpr,
    TINY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """value (P, S, n) and slope (P, S, n, D) in float64 for x (S, n, D), y (S, m, D), b (S, m); P parts of columns.

    PAIRS is EVERY, OFF_DIAGONAL (no i = j) or ABOVE (i < j).
    """
    blocks = tl.cdiv(n, ROWS)
    offs_i = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    sample = ((tl.program_id(0) // blocks) % batch).to(tl.int64)
    part = (tl.program_id(0) // blocks // batch).to(tl.int64)
    mask_i = offs_i < n
    row = offs_i.to(tl.int64)
    x_ptr += sample * n * D
    y_ptr += sample * m * D
    b_ptr += sample * m
    out = (part * batch + sample) * n + row
    # Tuples grow by addition: Triton compiles no starred expression.
    x = ()
    for d in tl.static_range(D):
        x = x + (tl.load(x_ptr + row * D + d, mask=mask_i, other=0.0),)  # noqa: RUF005
    first = part * part_columns
    last = tl.minimum(first + part_columns, m)
    flush = first
    if PAIRS == "above":
        # Columns before this block of rows hold no pair; a whole part may hold none.
        flush = tl.minimum(tl.maximum(first, (tl.program_id(0) % blocks).to(tl.int64) * ROWS), last)
        tl.store(value_ptr + out, tl.zeros((ROWS,), tl.float64), mask=mask_i)
    for start in range(flush, last, COLUMNS):
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
            if PAIRS == "off_diagonal":
                k = tl.where(offs_i == j, 0.0, k)
                p = tl.where(offs_i == j, 0.0, p)
            if PAIRS == "above":
                k = tl.where(offs_i < j, k, 0.0)
            u += k
            if GRAD:
                gained = ()
                for d in tl.static_range(D):
                    gained = gained + (g[d] + p * delta[d],)  # noqa: RUF005
                g = gained
        # The float64 sums live in memory, where this program alone touches them: in registers they would spill.
        mask_old = mask_i & (tl.full((ROWS,), 0, tl.int64) + start > first)
        if PAIRS == "above":
            mask_old = mask_i
        old = tl.load(value_ptr + out, mask=mask_old, other=0.0)
        tl.store(value_ptr + out, old + u.to(tl.float64), mask=mask_i)
        if GRAD:
            for d in tl.static_range(D):
                g_ptr = slope_ptr + out * D + d
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
    if line.applies(x_BND.shape[-1], family, constants):
        return line.potential(x_BND, y_BMD, b_BM, skip_diagonal)
    pairs = OFF_DIAGONAL if skip_diagonal else EVERY
    return gather(_sums(x_BND, y_BMD, b_BM, family, constants, pairs, want_grad), x_BND.dtype)


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
    one_B3 = x_BND.new_ones((x_BND.shape[0], 3), dtype=torch.float64)
    sums = _sums(x_BND, x_BND, a_BN, family, constants, ABOVE, False)
    return share(sums, None, a_BN, one_B3, 0, False, x_BND, False)[0].sum(-1)


def mmd(
    x_BND: Tensor,
    y_BMD: Tensor,
    a_BN: Tensor | None,
    b_BM: Tensor | None,
    factor_B3: Tensor,
    family: str,
    constants: Sequence[float],
    want_yy: bool,
    want_x: bool,
    want_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(value, by_x, by_y) as `autograd.mmd`."""
    x_BND, y_BMD = x_BND.contiguous(), y_BMD.contiguous()
    sums = partial(_sums, family=family, constants=constants)
    if x_BND.shape[-1] > DIRECT_FEATURES:
        sums = triton_products.Halves(x_BND, y_BMD, a_BN, b_BM, family, constants).sums
    xx = sums(x_BND, x_BND, a_BN, pairs=OFF_DIAGONAL if want_x else ABOVE, want_grad=want_x)
    xy = sums(x_BND, y_BMD, b_BM, pairs=EVERY, want_grad=want_x) if want_x or not want_y else None
    yx = sums(y_BMD, x_BND, a_BN, pairs=EVERY, want_grad=True) if want_y else None
    yy = sums(y_BMD, y_BMD, b_BM, pairs=OFF_DIAGONAL if want_y else ABOVE, want_grad=want_y) if want_yy else None
    share_x, by_x = share(xx, xy, a_BN, factor_B3, 0, True, x_BND, want_x)
    if yy is None and yx is None:
        return share_x.sum(-1), by_x, y_BMD.new_empty(0)
    share_y, by_y = share(yy, yx, b_BM, factor_B3, 2, xy is None, y_BMD, want_y)
    return torch.cat([share_x, share_y], -1).sum(-1), by_x, by_y


def _sums(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    pairs: str,
    want_grad: bool,
) -> Sums:
    """The sums of `pairwise_kernel`, or those that stand for it."""
    batch, n, d = x_BND.shape
    m = y_BMD.shape[1]
    if d > DIRECT_FEATURES:
        halves = triton_products.Halves(x_BND, y_BMD, None, b_BM, family, constants)
        return halves.sums(x_BND, y_BMD, b_BM, pairs, want_grad)
    if line.applies(d, family, constants):
        value_BN, slope_BN1 = line.potential(x_BND, y_BMD, b_BM, pairs != EVERY)
        return Sums(value_BN[None], slope_BN1[None] if want_grad else None)
    if pairs == OFF_DIAGONAL and family == "energy" and x_BND is y_BMD:
        # A point and itself have energy and slope 0: to leave such pairs out costs something.
        pairs = EVERY
    rows, parts, part_columns = _split(batch, n, m, x_BND.device)
    x_BND, y_BMD = x_BND.contiguous(), y_BMD.contiguous()
    value = x_BND.new_empty((parts, batch, n), dtype=torch.float64)
    slope = x_BND.new_empty((parts, batch, n, d), dtype=torch.float64) if want_grad else None
    pairwise_kernel[(cdiv(n, rows) * batch * parts,)](
        x_BND,
        y_BMD,
        x_BND if b_BM is None else b_BM.contiguous(),
        scales(family, constants, x_BND),
        value,
        value if slope is None else slope,
        n,
        m,
        batch,
        part_columns,
        **specialisation(d, family, constants, b_BM is not None, pairs, want_grad, x_BND.dtype, rows),
        num_warps=WARPS,
        enable_fp_fusion=True,
    )
    return Sums(value, slope, times=2 if pairs == ABOVE else 1)


@lru_cache(maxsize=1024)
def _split(batch: int, n: int, m: int, device: torch.device) -> tuple[int, int, int]:
    """(rows of a program, parts, columns of a part)."""
    programs = cdiv(n, ROWS) * batch
    few = programs * cdiv(m, 4 * LEAST_COLUMNS) < RESIDENT * processors(device)
    rows = FEW_ROWS if few else ROWS
    return rows, *split_columns(cdiv(n, rows) * batch, m, device)


def specialisation(
    d: int,
    family: str,
    constants: Sequence[float],
    weighted: bool,
    pairs: str,
    want_grad: bool,
    dtype: torch.dtype,
    rows: int = ROWS,
) -> dict[str, Any]:
    """The compile-time arguments of `pairwise_kernel`."""
    return {
        "D": d,
        "FAMILY": "energy_power" if family == "energy" and constants[0] != 1.0 else family,
        "COUNT": len(constants),
        "WEIGHTED": weighted,
        "PAIRS": pairs,
        "GRAD": want_grad,
        "TINY": 1e-36 if dtype == torch.float32 else 1e-200,
        "ROWS": rows,
        "COLUMNS": COLUMNS,
        "UNROLL": UNROLL,
    }


def peak_bytes(batch: int, n: int, m: int, d: int, itemsize: int, device: str) -> int:
    """Estimate of the extra memory of one pass: the parts of the sums and, for the line, copies of the points."""
    if d > DIRECT_FEATURES:
        return triton_products.peak_bytes(batch, n, m, d, itemsize, device)
    parts = _split(batch, n, m, torch.device(device))[1]
    return batch * (n + m) * d * itemsize + batch * n * (1 + d) * 8 * (parts + 1)
