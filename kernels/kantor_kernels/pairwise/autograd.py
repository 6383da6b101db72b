"""The registered operators and their derivatives.

With B(s, b) = sum_ij s_i b_j k(x_i, y_j) and k symmetric, the derivatives of the potential U = sum_j b_j k(x_i, y_j)
under a cotangent s are again potentials and gradients:
    dB/dx = s * grad(x, y, b)      dB/dy = b * grad(y, x, s)      dB/db = potential(y, x, s)
and those of the gradient under a cotangent V are directional derivatives:
    d/dx = hvp(x, y, b; V, 0).grad      (d/db, d/dy) = (hvp(y, x, 1; 0, V).value, b * hvp(y, x, 1; 0, V).grad)
So `potential` is differentiable twice. A third order raises NotImplementedError.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kantor_kernels import backends
from kantor_kernels.transforms import with_derivatives

_THIRD_ORDER = "kantor::pairwise_hvp: pairwise statistics are differentiable twice, a third order was asked for"


_run = partial(backends.run, "pairwise")


@torch.library.custom_op("kantor::pairwise_potential", mutates_args=())
def _potential_operator(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
    want_grad: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """(U, G): U_i = sum_j b_j k(x_i, y_j), (B, N) float64, and its gradient by x_i (for the backward pass only)."""
    return _run(backend, "potential", x_BND, y_BMD, b_BM, family, constants, skip_diagonal, want_grad)


@torch.library.custom_op("kantor::pairwise_grad", mutates_args=())
def _grad_operator(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
    backend: str,
) -> Tensor:
    """G_i = sum_j b_j grad_1 k(x_i, y_j), (B, N, D)."""
    return _run(backend, "grad", x_BND, y_BMD, b_BM, family, constants, skip_diagonal)


@torch.library.custom_op("kantor::pairwise_hvp", mutates_args=())
def _hvp_operator(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    v_BND: Tensor | None,
    w_BMD: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The derivatives (B, N) of U and (B, N, D) of G along x -> x + v, y -> y + w."""
    return _run(backend, "hvp", x_BND, y_BMD, b_BM, v_BND, w_BMD, family, constants, skip_diagonal)


@torch.library.custom_op("kantor::pairwise_self", mutates_args=())
def _self_operator(
    x_BND: Tensor,
    a_BN: Tensor | None,
    family: str,
    constants: Sequence[float],
    want_rows: bool,
    want_grad: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, U, G): Q = sum_{i != j} a_i a_j k(x_i, x_j), (B,) float64, with U and G of `potential` without i = j.

    One operator of its own, because the two halves of dQ/dx are equal: one pass gives value and gradient.
    """
    if not want_rows and not want_grad:
        # The value alone takes half the pairs.
        value_B = _run(backend, "self_value", x_BND, a_BN, family, constants)
        return value_B, value_B.new_empty(0), x_BND.new_empty(0)
    value_BN, grad_BND = _run(backend, "potential", x_BND, x_BND, a_BN, family, constants, True, want_grad)
    weighted = value_BN if a_BN is None else a_BN * value_BN
    return weighted.sum(-1), value_BN, grad_BND


@torch.library.custom_op("kantor::pairwise_mmd", mutates_args=())
def _mmd_operator(
    x_BND: Tensor,
    y_BMD: Tensor,
    a_BN: Tensor | None,
    b_BM: Tensor | None,
    factor_B3: Tensor,
    family: str,
    constants: Sequence[float],
    want: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, by_x, by_y): Q = f_0 sum_{i != j} a_i a_j k(x_i, x_j) - 2 f_1 sum_ij a_i b_j k(x_i, y_j)
    + f_2 sum_{i != j} b_i b_j k(y_i, y_j), (B,) float64, with its gradients.

    Everything at once, since overhead is what small samples cost; not differentiable by the weights.

    Args:
        factor_B3: f, float64.
        want: the last sum, by_x, by_y; the sum that is not wanted counts 0, a gradient that is not is empty.
    """
    return _run(backend, "mmd", x_BND, y_BMD, a_BN, b_BM, factor_B3, family, constants, *want)


@_potential_operator.register_fake
def _(x_BND, y_BMD, b_BM, family, constants, skip_diagonal, want_grad, backend):
    grad_BND = torch.empty_like(x_BND) if want_grad else x_BND.new_empty(0)
    return x_BND.new_empty(x_BND.shape[:2], dtype=torch.float64), grad_BND


@_grad_operator.register_fake
def _(x_BND, y_BMD, b_BM, family, constants, skip_diagonal, backend):
    return torch.empty_like(x_BND)


@_hvp_operator.register_fake
def _(x_BND, y_BMD, b_BM, v_BND, w_BMD, family, constants, skip_diagonal, backend):
    return x_BND.new_empty(x_BND.shape[:2]), torch.empty_like(x_BND)


@_self_operator.register_fake
def _(x_BND, a_BN, family, constants, want_rows, want_grad, backend):
    grad_BND = torch.empty_like(x_BND) if want_grad else x_BND.new_empty(0)
    batch_rows = x_BND.shape[:2]
    rows = batch_rows if want_rows or want_grad else (0,)
    return (
        x_BND.new_empty(batch_rows[:1], dtype=torch.float64),
        x_BND.new_empty(rows, dtype=torch.float64),
        grad_BND,
    )


@_mmd_operator.register_fake
def _(x_BND, y_BMD, a_BN, b_BM, factor_B3, family, constants, want, backend):
    by_x = torch.empty_like(x_BND) if want[1] else x_BND.new_empty(0)
    by_y = torch.empty_like(y_BMD) if want[2] else y_BMD.new_empty(0)
    return factor_B3.new_empty(x_BND.shape[:1]), by_x, by_y


Saved = Sequence[Any]  # a tensor or None each


def _potential_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> Saved:
    x_BND, y_BMD, b_BM, family, constants, skip_diagonal, want_grad, backend = inputs
    ctx.setting = family, constants, skip_diagonal
    ctx.backend = backend
    ctx.mark_non_differentiable(output[1])
    return x_BND, y_BMD, b_BM, output[1] if want_grad else None


def _potential_backward(ctx: Any, s_BN: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x_BND, y_BMD, b_BM, grad_BND = ctx.saved_tensors
    family, constants, skip = ctx.setting
    s_BN = s_BN.to(x_BND.dtype)
    by_x = by_y = by_b = None
    if ctx.needs_input_grad[0]:
        # The gradient of the forward pass is a constant: right unless it is to be differentiated again.
        if grad_BND is None or torch.is_grad_enabled():
            grad_BND = grad(x_BND, y_BMD, b_BM, family, constants, skip, ctx.backend)
        by_x = s_BN.unsqueeze(-1) * grad_BND
    if ctx.needs_input_grad[1] and b_BM is None:
        by_y = grad(y_BMD, x_BND, s_BN, family, constants, skip, ctx.backend)
    elif ctx.needs_input_grad[1]:
        by_y = b_BM.unsqueeze(-1) * grad(y_BMD, x_BND, s_BN, family, constants, skip, ctx.backend)
    if b_BM is not None and ctx.needs_input_grad[2]:
        by_b = potential(y_BMD, x_BND, s_BN, family, constants, skip, False, ctx.backend)[0].to(b_BM.dtype)
    return by_x, by_y, by_b, None, None, None, None, None


def _potential_forward(ctx: Any, saved: Saved, *tangents: Tensor | None) -> tuple[Tensor, None]:
    x_BND, y_BMD, b_BM, _ = saved
    v_BND, w_BMD, b_tangent_BM, *_ = tangents
    total_BN = x_BND.new_zeros(x_BND.shape[:2], dtype=torch.float64)
    if w_BMD is not None:
        total_BN = total_BN + hvp(x_BND, y_BMD, b_BM, v_BND, w_BMD, *ctx.setting, ctx.backend)[0]
    elif v_BND is not None:
        # Unlike `hvp`, this can be differentiated again.
        total_BN = total_BN + (v_BND * grad(x_BND, y_BMD, b_BM, *ctx.setting, ctx.backend)).sum(-1)
    if b_tangent_BM is not None:
        total_BN = total_BN + potential(x_BND, y_BMD, b_tangent_BM, *ctx.setting, False, ctx.backend)[0]
    return total_BN, None


def _grad_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> Saved:
    ctx.setting = inputs[3:]
    return inputs[:3]


def _grad_backward(ctx: Any, v_BND: Tensor) -> tuple[Tensor | None, ...]:
    x_BND, y_BMD, b_BM = ctx.saved_tensors
    by_x = by_y = by_b = None
    if ctx.needs_input_grad[0]:
        by_x = hvp(x_BND, y_BMD, b_BM, v_BND, None, *ctx.setting)[1]
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        along_BM, by_y = hvp(y_BMD, x_BND, None, None, v_BND, *ctx.setting)
        if b_BM is not None:
            by_y = b_BM.unsqueeze(-1) * by_y
            by_b = along_BM.to(b_BM.dtype)
    return by_x, by_y, by_b, None, None, None, None


def _grad_forward(ctx: Any, saved: Saved, *tangents: Tensor | None) -> Tensor:
    x_BND, y_BMD, b_BM = saved
    v_BND, w_BMD, b_tangent_BM, *_ = tangents
    total_BND = torch.zeros_like(x_BND)
    if v_BND is not None or w_BMD is not None:
        total_BND = total_BND + hvp(x_BND, y_BMD, b_BM, v_BND, w_BMD, *ctx.setting)[1]
    if b_tangent_BM is not None:
        total_BND = total_BND + grad(x_BND, y_BMD, b_tangent_BM, *ctx.setting)
    return total_BND


def _hvp_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> Saved:
    ctx.setting = inputs[5:]
    ctx.set_materialize_grads(False)
    return inputs[:5]


def _hvp_backward(ctx: Any, s_BN: Tensor | None, bend_BND: Tensor | None) -> tuple[Tensor | None, ...]:
    """With T = sum_i s_i dU_i, again symmetric in x and y: dT/dx = s dG(x, y, b; v, w), dT/db = dU(y, x, s; w, v)."""
    if bend_BND is not None:
        raise NotImplementedError(_THIRD_ORDER)
    if s_BN is None:
        return (None,) * 9
    x_BND, y_BMD, b_BM, v_BND, w_BMD = ctx.saved_tensors
    by_x = by_y = by_b = by_v = by_w = None
    if ctx.needs_input_grad[0]:
        by_x = s_BN.unsqueeze(-1) * hvp(x_BND, y_BMD, b_BM, v_BND, w_BMD, *ctx.setting)[1]
    if ctx.needs_input_grad[1] or (b_BM is not None and ctx.needs_input_grad[2]):
        turn_BM, by_y = hvp(y_BMD, x_BND, s_BN, w_BMD, v_BND, *ctx.setting)
        by_y = by_y if b_BM is None else b_BM.unsqueeze(-1) * by_y
        by_b = None if b_BM is None else turn_BM
    if v_BND is not None and ctx.needs_input_grad[3]:
        by_v = s_BN.unsqueeze(-1) * grad(x_BND, y_BMD, b_BM, *ctx.setting)
    if w_BMD is not None and ctx.needs_input_grad[4]:
        by_w = grad(y_BMD, x_BND, s_BN, *ctx.setting)
        by_w = by_w if b_BM is None else b_BM.unsqueeze(-1) * by_w
    return by_x, by_y, by_b, by_v, by_w, None, None, None, None


def _hvp_forward(ctx: Any, saved: Saved, *tangents: Tensor | None) -> tuple[Tensor, ...]:
    raise NotImplementedError(_THIRD_ORDER)


def _self_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> Saved:
    x_BND, a_BN, family, constants, want_rows, want_grad, backend = inputs
    ctx.setting = family, constants, True
    ctx.backend = backend
    ctx.mark_non_differentiable(output[1], output[2])
    return x_BND, a_BN, output[1] if want_rows else None, output[2] if want_grad else None


def _self_backward(ctx: Any, scale_B: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    x_BND, a_BN, value_BN, grad_BND = ctx.saved_tensors
    again = torch.is_grad_enabled()
    by_x = by_a = None
    factor_BN = (2 * scale_B).unsqueeze(-1).to(x_BND.dtype)
    if ctx.needs_input_grad[0]:
        if grad_BND is None or again:
            grad_BND = grad(x_BND, x_BND, a_BN, *ctx.setting, ctx.backend)
        row_BN = factor_BN if a_BN is None else factor_BN * a_BN
        by_x = row_BN.unsqueeze(-1) * grad_BND
    if a_BN is not None and ctx.needs_input_grad[1]:
        if value_BN is None or again:
            value_BN = potential(x_BND, x_BND, a_BN, *ctx.setting, False, ctx.backend)[0]
        by_a = (factor_BN * value_BN).to(a_BN.dtype)
    return by_x, by_a, None, None, None, None, None


def _self_forward(ctx: Any, saved: Saved, *tangents: Tensor | None) -> tuple[Tensor, None, None]:
    x_BND, a_BN, *_ = saved
    v_BND, a_tangent_BN, *_ = tangents
    total_BN = x_BND.new_zeros(x_BND.shape[:2], dtype=torch.float64)
    if v_BND is not None:
        along_BN = (v_BND * grad(x_BND, x_BND, a_BN, *ctx.setting, ctx.backend)).sum(-1)
        total_BN = total_BN + 2 * (along_BN if a_BN is None else a_BN * along_BN)
    if a_tangent_BN is not None:
        value_BN = potential(x_BND, x_BND, a_BN, *ctx.setting, False, ctx.backend)[0]
        total_BN = total_BN + 2 * a_tangent_BN * value_BN
    return total_BN.sum(-1), None, None


def _mmd_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> Saved:
    *tensors, family, constants, want, backend = inputs
    ctx.setting = family, constants
    ctx.want_yy, ctx.backend = want[0], backend
    ctx.mark_non_differentiable(output[1], output[2])
    return *tensors, *(slope if wanted else None for slope, wanted in zip(output[1:], want[1:], strict=True))


def _mmd_slopes(ctx: Any, saved: Saved, by_x: bool, by_y: bool) -> tuple[Any, Any]:
    """The gradients of Q by the samples that are asked for, made of operators that can be differentiated."""
    x_BND, y_BMD, a_BN, b_BM, factor_B3, *_ = saved
    twice_3B11 = (2 * factor_B3.mT).to(x_BND.dtype)[..., None, None]

    def slope(z: Tensor, w: Tensor | None, other: Tensor, v: Tensor | None, own: Tensor | None) -> Tensor:
        total = -twice_3B11[1] * grad(z, other, v, *ctx.setting, False, ctx.backend)
        if own is not None:
            total = total + own * grad(z, z, w, *ctx.setting, True, ctx.backend)
        return total if w is None else w.unsqueeze(-1) * total

    return (
        slope(x_BND, a_BN, y_BMD, b_BM, twice_3B11[0]) if by_x else None,
        slope(y_BMD, b_BM, x_BND, a_BN, twice_3B11[2] if ctx.want_yy else None) if by_y else None,
    )


def _mmd_backward(ctx: Any, scale_B: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    saved: Saved = ctx.saved_tensors
    x_BND, by_x, by_y = saved[0], saved[-2], saved[-1]
    wanted = ctx.needs_input_grad[:2]
    # As in `_potential_backward`.
    if torch.is_grad_enabled() or (wanted[0] and by_x is None) or (wanted[1] and by_y is None):
        by_x, by_y = _mmd_slopes(ctx, saved, *wanted)
    scale_B11 = scale_B.to(x_BND.dtype)[:, None, None]
    by_x = scale_B11 * by_x if wanted[0] else None
    by_y = scale_B11 * by_y if wanted[1] else None
    return by_x, by_y, *[None] * 7


def _mmd_forward(ctx: Any, saved: Saved, *tangents: Tensor | None) -> tuple[Tensor, None, None]:
    x_BND, *_ = saved
    along = tangents[:2]
    total_B = x_BND.new_zeros(len(x_BND), dtype=torch.float64)
    for tangent, slope in zip(along, _mmd_slopes(ctx, saved, *(v is not None for v in along)), strict=True):
        if tangent is not None:
            total_B = total_B + (tangent * slope).sum((-2, -1), dtype=torch.float64)
    return total_B, None, None


potential = with_derivatives(_potential_operator, _potential_context, _potential_backward, _potential_forward)
grad = with_derivatives(_grad_operator, _grad_context, _grad_backward, _grad_forward)
hvp = with_derivatives(_hvp_operator, _hvp_context, _hvp_backward, _hvp_forward)
self_potential = with_derivatives(_self_operator, _self_context, _self_backward, _self_forward)
mmd = with_derivatives(_mmd_operator, _mmd_context, _mmd_backward, _mmd_forward)
