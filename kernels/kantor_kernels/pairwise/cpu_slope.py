"""The slope of the energy kernel's potential on the CPU: matrix products, and what lies between them compiled.

With a = x_i - y_j and p = -1 / |a|, S_i = sum_j w_j p a. Under a cotangent V, with c = a . V_i and q = 1 / |a|^3,

    by x_i: sum_j w_j (p V_i + q c a)      by y_j: -w_j sum_i (p V_i + q c a)      by w_j: sum_i p c

The pairs are held, so that the backward pass has p. Where the product loses a close pair, its differences are taken.
Shapes: N rows of x, M rows of y, D features.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kantor_kernels.compiling import jit
from kantor_kernels.pairwise.kernels import Kernel
from kantor_kernels.pairwise.tiled import NEAR
from kantor_kernels.threads import Work, run_all

# Not "nnan" or "ninf": a NaN among the points must come out as a NaN.
_jit = jit(fastmath={"reassoc", "contract", "arcp", "afn", "nsz"}, error_model="numpy")


def kernel_slope(x_ND: Tensor, y_MD: Tensor, weight_M: Tensor | None, kernel: Kernel, skip_diagonal: bool) -> Tensor:
    """As `slope.kernel_slope`, for the energy kernel."""
    slope = _Slope.apply(x_ND, y_MD, weight_M, skip_diagonal)
    assert isinstance(slope, Tensor)
    return slope


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, y_MD: Tensor, weight_M: Tensor | None, skip_diagonal: bool) -> Tensor:
        # Products of points near the origin lose least.
        centre_D = y_MD.mean(0)
        x_ND, y_MD = x_ND - centre_D, y_MD - centre_D
        p_NM = x_ND @ y_MD.mT
        run = partial(_invert, p_NM.numpy(), *_arrays(x_ND, y_MD), _tau(x_ND), skip_diagonal)
        run_all(Work(run, len(x_ND), len(y_MD)))
        ctx.save_for_backward(x_ND, y_MD, weight_M, p_NM)
        return x_ND * _row_sums(p_NM, weight_M) - p_NM @ _weighted(y_MD, weight_M)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "kernel_slope is differentiable once; where more is asked for, pass backend='reference'"
            )
        x_ND, y_MD, weight_M, p_NM = ctx.saved_tensors
        v_ND = cotangents[0].contiguous()
        # Products of V with y become q c.
        qc_NM = v_ND @ y_MD.mT
        xv_N = (x_ND * v_ND).sum(1).numpy()
        run = partial(_turn, qc_NM.numpy(), p_NM.numpy(), *_arrays(x_ND, y_MD), v_ND.numpy(), xv_N, _tau(x_ND))
        run_all(Work(run, len(x_ND), len(y_MD)))
        by_x, by_y, by_weight = None, None, None
        if ctx.needs_input_grad[0]:
            by_x = v_ND * _row_sums(p_NM, weight_M) + x_ND * _row_sums(qc_NM, weight_M)
            by_x = by_x.addmm_(qc_NM, _weighted(y_MD, weight_M), alpha=-1)
        if ctx.needs_input_grad[1]:
            by_y = y_MD * qc_NM.sum(0)[:, None]
            by_y = _weighted(by_y.addmm_(p_NM.mT, v_ND, alpha=-1).addmm_(qc_NM.mT, x_ND, alpha=-1), weight_M)
        if ctx.needs_input_grad[2]:
            by_weight = torch.where(p_NM == 0, 0.0, -qc_NM / p_NM.square()).sum(0)
        return by_x, by_y, by_weight, None


def _arrays(x_ND: Tensor, y_MD: Tensor) -> tuple[Any, ...]:
    return x_ND.numpy(), y_MD.numpy(), x_ND.square().sum(1).numpy(), y_MD.square().sum(1).numpy()


def _tau(x: Tensor) -> Any:
    return x.new_tensor(NEAR).numpy()[()]


def _row_sums(pairs_NM: Tensor, weight_M: Tensor | None) -> Tensor:
    return (pairs_NM.sum(1) if weight_M is None else pairs_NM @ weight_M)[:, None]


def _weighted(y_MD: Tensor, weight_M: Tensor | None) -> Tensor:
    return y_MD if weight_M is None else weight_M[:, None] * y_MD


@_jit
def _invert(p: Any, x: Any, y: Any, x2: Any, y2: Any, tau: Any, skip_diagonal: bool, first: int, last: int) -> None:
    """Products x . y of rows first to last become -1 / |x - y|, 0 where points coincide."""
    one = p.dtype.type(1)
    nan = one * np.nan
    for i in range(first, last):
        row, size_of_x, close = p[i], x2[i], 0
        for j in range(len(row)):
            size = size_of_x + y2[j]
            t = size - (row[j] + row[j])
            far = t > tau * size
            close += not far
            row[j] = -one / np.sqrt(t) if far else nan
        if close > 0:
            for j in range(len(row)):
                if row[j] != row[j]:
                    t = one - one
                    for d in range(x.shape[1]):
                        t += (x[i, d] - y[j, d]) ** 2
                    row[j] = t if t == 0 else -one / np.sqrt(t)
        if skip_diagonal and i < len(row):
            row[i] = one - one


@_jit
def _turn(
    qc: Any, p: Any, x: Any, y: Any, x2: Any, y2: Any, v: Any, xv: Any, tau: Any, first: int, last: int
) -> None:  # fmt: skip
    """Products V . y of rows first to last become q c."""
    one = p.dtype.type(1)
    for i in range(first, last):
        row, inverse, size_of_x, along, close = qc[i], p[i], x2[i], xv[i], 0
        for j in range(len(row)):
            r = inverse[j]
            close += r * r * tau * (size_of_x + y2[j]) >= one
            row[j] = r * r * r * (row[j] - along)
        if close > 0:
            for j in range(len(row)):
                r = inverse[j]
                if r * r * tau * (size_of_x + y2[j]) >= one:
                    c = one - one
                    for d in range(x.shape[1]):
                        c += v[i, d] * (x[i, d] - y[j, d])
                    row[j] = -r * r * r * c
