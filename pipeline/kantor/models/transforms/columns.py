"""Transforms of one column at a time, of each element where it is an array. Shapes: N rows, Q quantiles, K elements."""

import torch
from torch import Tensor

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.base import NOTHING, ColumnTransform, Given
from kantor.resolution import STEP, is_coarse, is_constant
from kantor.shapes import Shape

_AT_ONCE = 1 << 22  # numbers that are sorted together


def rows_where(bad_N: Tensor) -> str:
    """How many training rows are such, (N, *shape) bool, and which is the first; empty where none is."""
    rows = bad_N.reshape(len(bad_N), -1).any(1).nonzero()
    return f"{len(rows):,} training rows (the first is row {int(rows[0])} of the split)" if len(rows) else ""


class Standardise(ColumnTransform):
    """(x - mean) / standard deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: config.Standardise, shift: float = 0.0, shape: Shape = ()) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        total = weight_N.sum()
        weight_N = weight_N.reshape(-1, *[1] * (x_N.ndim - 1))
        mean = (weight_N * x_N).sum(0) / total
        deviation = ((weight_N * (x_N - mean) ** 2).sum(0) / total).sqrt()
        present_N = x_N[weight_N.flatten() > 0]
        self.mean.copy_(mean)
        # What does not vary has nothing to scale.
        self.deviation.copy_(torch.where(is_constant(present_N.amin(0), present_N.amax(0)), 1.0, deviation))

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        return (x_N - self.mean) / self.deviation

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        return y_N * self.deviation + self.mean


class Log(ColumnTransform):
    """log(x + offset)."""

    def __init__(self, settings: config.Log, shift: float = 0.0, shape: Shape = ()) -> None:
        super().__init__()
        self.offset, self.shift = settings.offset + shift, shift

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        if outside := rows_where(x_N + self.offset <= 0):
            raise InputError(
                f"log: {outside} have x + {self.offset - self.shift:g} <= 0",
                cure="raise 'offset', or cut these rows in the dataset",
            )
        size, spread = float(x_N.max()) + self.offset, float(x_N.max() - x_N.min())
        if self.shift and is_coarse(STEP * size, spread):
            raise InputError(
                f"log: the values vary by {spread / size:.1g} of their size: float32 is too coarse for their logarithm",
                cure=f"use standardise, or 'offset' near {-self.shift:.15g}",
            )

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        return torch.log(x_N + self.offset)

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        return torch.exp(y_N) - self.offset


class LogDistance(ColumnTransform):
    """log |edge - x| for values on one side of the edge; its inverse never crosses the edge (arXiv:2001.11103)."""

    def __init__(self, settings: config.LogDistance, shift: float = 0.0, shape: Shape = ()) -> None:
        super().__init__()
        self.edge, self.shift = settings.edge - shift, shift
        self.sign = 1.0 if settings.side == "below" else -1.0

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        if outside := rows_where(self.sign * (self.edge - x_N) <= 0):
            side = "at or above" if self.sign > 0 else "at or below"
            raise InputError(
                f"log_distance: {outside} lie {side} the edge {self.edge + self.shift:g}",
                cure="move 'edge', change 'side', or cut these rows in the dataset",
            )

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        return torch.log(self.sign * (self.edge - x_N))

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        return self.edge - self.sign * torch.exp(y_N)


class QuantileNormal(ColumnTransform):
    """Quantiles to standard normal quantiles, linear in between; outside the training range the ends are returned."""

    values: Tensor
    normals: Tensor

    def __init__(self, settings: config.QuantileNormal, shift: float = 0.0, shape: Shape = ()) -> None:
        super().__init__()
        count = settings.quantiles
        # The outermost quantiles of a normal distribution are infinite: end a quarter of a step inside.
        levels = torch.linspace(0, 1, count, dtype=torch.float64).clamp(0.25 / count, 1 - 0.25 / count)
        self.register_buffer("values", torch.linspace(0, 1, count).expand(*shape, count).clone())
        self.register_buffer("normals", torch.special.ndtri(levels).to(torch.get_default_dtype()))

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        if x_N.ndim == 1:
            self.values.copy_(self._quantiles(x_N, weight_N))
            return
        values_KQ = self.values.view(-1, self.values.shape[-1])
        for begin in range(0, len(values_KQ), step := max(1, _AT_ONCE // len(x_N))):
            some_KN = x_N.flatten(1)[:, begin : begin + step].T.contiguous()
            values_KQ[begin : begin + step] = self._quantiles(some_KN, weight_N).to(values_KQ)

    def _quantiles(self, x_N: Tensor, weight_N: Tensor) -> Tensor:
        """(..., N) to (..., Q)."""
        x_N, order = x_N.sort(dim=-1)
        cumulative = weight_N[order].cumsum(-1)
        # Each row stands in the middle of its own weight; the first and last are stretched to levels 0 and 1.
        level_N = cumulative - weight_N[order] / 2
        level_N = (level_N - level_N[..., :1]) / (level_N[..., -1:] - level_N[..., :1])
        levels_Q = torch.linspace(0, 1, self.values.shape[-1], dtype=x_N.dtype)
        return interpolate(levels_Q.expand(*x_N.shape[:-1], -1), level_N, x_N)

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        return self._mapped(x_N, self.values, self.normals.expand_as(self.values))

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        return self._mapped(y_N, self.normals.expand_as(self.values), self.values)

    def _mapped(self, x_N: Tensor, from_Q: Tensor, to_Q: Tensor) -> Tensor:
        if x_N.ndim == 1:
            return interpolate(x_N, from_Q, to_Q)
        from_KQ, to_KQ = (table.reshape(-1, table.shape[-1]) for table in (from_Q, to_Q))
        return interpolate(x_N.flatten(1).T, from_KQ, to_KQ).T.reshape(x_N.shape)


def interpolate(x_N: Tensor, from_Q: Tensor, to_Q: Tensor) -> Tensor:
    """Piecewise linear map of `from_Q` (ascending) to `to_Q`; constant outside; ties map to their middle.

    Of one column, or of K with tables of their own: (K, N), (K, Q), (K, Q).
    """
    x_N = x_N.clamp(from_Q[..., :1], from_Q[..., -1:])
    right = torch.searchsorted(from_Q.contiguous(), x_N.detach().contiguous()).clamp(1, from_Q.shape[-1] - 1)
    low, high = from_Q.gather(-1, right - 1), from_Q.gather(-1, right)
    width = high - low
    part = torch.where(width > 0, (x_N - low) / torch.where(width > 0, width, 1.0), 0.5)
    return torch.lerp(to_Q.gather(-1, right - 1), to_Q.gather(-1, right), part)
