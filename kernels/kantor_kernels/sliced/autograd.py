"""The registered operator and its first derivative, which comes with the value in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kantor_kernels import backends


@torch.library.custom_op("kantor::sliced_energy", mutates_args=())
def energy(
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
        with torch.autocast(x_BND.device.type, enabled=False):
            arguments = z_KD, n, weight_K, excess_B2[s], direction_PD, want_slope, want_pull
            results.append(backends.run("sliced", backend, "energy", *arguments))
    values_BP, spread_B2, slope_BKD, pull_BK = (torch.stack(parts) for parts in zip(*results, strict=True))
    return values_BP.mean(-1), values_BP, spread_B2, slope_BKD, pull_BK


@energy.register_fake
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


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[2:])
    ctx.rows = inputs[0].shape[1]
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, scale_B: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "kantor::sliced_energy: the sliced energy distance is differentiable once; create_graph asks for more"
        )
    spread_B2, slope_BKD, pull_BK = ctx.saved_tensors
    by_x = by_y = by_weight = by_excess = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        slope_BKD = scale_B.to(slope_BKD.dtype)[:, None, None] * slope_BKD
        by_x, by_y = slope_BKD[:, : ctx.rows], slope_BKD[:, ctx.rows :]
    if ctx.needs_input_grad[2]:
        by_weight = scale_B[:, None] * pull_BK
    if ctx.needs_input_grad[3]:
        by_excess = scale_B[:, None] * spread_B2
    return by_x, by_y, by_weight, by_excess, None, None, None, None


energy.register_autograd(_backward, setup_context=_context)
