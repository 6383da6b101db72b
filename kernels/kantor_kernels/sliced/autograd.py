"""The registered operator and its first derivative, which comes with the value in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kantor_kernels import backends, transforms

_SECOND_ORDER = (
    "kantor::sliced_energy: the sliced energy distance is differentiable once; a second derivative was asked for"
)


@torch.library.custom_op("kantor::sliced_energy", mutates_args=())
def _energy_operator(
    x_BND: Tensor,
    y_BMD: Tensor,
    weight_BK: Tensor | None,
    excess_B2: Tensor,
    direction_PD: Tensor,
    want_slope: bool,
    want_pull: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(mean, values, spread, slope, pull) of a batch, as `tiled.energy`; mean is (B,) float64, that of values.

    weight_BK holds the normalised weights of x, then of y; without them they are equal.
    """
    n = x_BND.shape[1]
    results = []
    for s in range(len(x_BND)):
        # Centring keeps the differences of points far from the origin.
        centre_D = (x_BND[s].mean(0, dtype=torch.float64) + y_BMD[s].mean(0, dtype=torch.float64)) / 2
        z_KD = torch.cat([x_BND[s], y_BMD[s]]) - centre_D.to(x_BND.dtype)
        weight_K = None if weight_BK is None else weight_BK[s]
        arguments = z_KD, n, weight_K, excess_B2[s], direction_PD, want_slope, want_pull
        results.append(backends.run("sliced", backend, "energy", *arguments))
    values_BP, spread_B2, slope_BKD, pull_BK = (torch.stack(parts) for parts in zip(*results, strict=True))
    return values_BP.mean(-1), values_BP, spread_B2, slope_BKD, pull_BK


@_energy_operator.register_fake
def _(x_BND, y_BMD, weight_BK, excess_B2, direction_PD, want_slope, want_pull, backend):
    batch, n, d = x_BND.shape
    rows = n + y_BMD.shape[1]
    return (
        excess_B2.new_empty(batch),
        excess_B2.new_empty(batch, len(direction_PD)),
        torch.empty_like(excess_B2),
        x_BND.new_empty((batch, rows, d) if want_slope else (batch, 0)),
        excess_B2.new_empty(batch, rows if want_pull else 0),
    )


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    ctx.rows = inputs[0].shape[1]
    ctx.mark_non_differentiable(*output[1:])
    # Every derivative of a transform is made for another one: the gradient has to know what it depends on.
    ctx.transformed = transforms.active()
    return *output[2:], *(inputs[:4] if ctx.transformed else ())


def _slopes(ctx: Any, saved: Sequence[Any]) -> list[Tensor]:
    """The derivatives of the mean by x, y, weights and excess, constants but for an error if they are not."""
    spread_B2, slope_BKD, pull_BK, *depends = saved
    if ctx.transformed:
        constants = (transforms.constant(value, _SECOND_ORDER, *depends) for value in (spread_B2, slope_BKD, pull_BK))
        spread_B2, slope_BKD, pull_BK = constants
    return [slope_BKD[:, : ctx.rows], slope_BKD[:, ctx.rows :], pull_BK, spread_B2]


def _backward(ctx: Any, scale_B: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled() and not ctx.transformed:
        raise NotImplementedError(_SECOND_ORDER)
    slopes = _slopes(ctx, ctx.saved_tensors)
    products = (
        scale_B.to(slope.dtype).view(-1, *[1] * (slope.ndim - 1)) * slope if needed else None
        for slope, needed in zip(slopes, ctx.needs_input_grad, strict=False)
    )
    return *products, None, None, None, None


def _forward(ctx: Any, saved: Sequence[Any], *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
    total_B = saved[0].new_zeros(len(saved[0]))
    for tangent, slope in zip(tangents, _slopes(ctx, saved), strict=False):
        if tangent is not None:
            total_B = total_B + (tangent * slope).flatten(1).sum(1, dtype=torch.float64)
    return total_B, None, None, None, None


# The directions are those of the whole batch.
energy = transforms.with_derivatives(_energy_operator, _context, _backward, _forward, shared=(4,))
