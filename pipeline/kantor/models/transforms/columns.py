"""Transforms of one column at a time. Shapes: N rows, Q quantiles."""

import torch
from torch import Tensor, nn

from kantor import config
from kantor.errors import InputError
from kantor.resolution import STEP, is_coarse, is_constant


class ColumnTransform(nn.Module):
    """One transform of one column, (N,) to (N,).

    Made from its settings, which mean physical values, and the shift of these from what it is given.
    """

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        """Set the buffers from the training rows; weights are at least zero."""

    def forward(self, x_N: Tensor) -> Tensor:
        raise NotImplementedError

    def inverse(self, y_N: Tensor) -> Tensor:
        raise NotImplementedError


class Standardise(ColumnTransform):
    """(x - mean) / standard deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: config.Standardise, shift: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        total = weight_N.sum()
        mean = (weight_N * x_N).sum() / total
        deviation = ((weight_N * (x_N - mean) ** 2).sum() / total).sqrt()
        present_N = x_N[weight_N > 0]
        self.mean.copy_(mean)
        # What does not vary has nothing to scale.
        self.deviation.copy_(torch.where(is_constant(present_N.min(), present_N.max()), 1.0, deviation))

    def forward(self, x_N: Tensor) -> Tensor:
        return (x_N - self.mean) / self.deviation

    def inverse(self, y_N: Tensor) -> Tensor:
        return y_N * self.deviation + self.mean


class Log(ColumnTransform):
    """log(x + offset)."""

    def __init__(self, settings: config.Log, shift: float = 0.0) -> None:
        super().__init__()
        self.offset, self.shift = settings.offset + shift, shift

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        outside = int((x_N + self.offset <= 0).sum())
        if outside:
            raise InputError(
                f"log: {outside} training rows have x + {self.offset - self.shift:g} <= 0", cure="raise 'offset'"
            )
        size, spread = float(x_N.max()) + self.offset, float(x_N.max() - x_N.min())
        if self.shift and is_coarse(STEP * size, spread):
            raise InputError(
                f"log: the values vary by {spread / size:.1g} of their size: float32 is too coarse for their logarithm",
                cure=f"use standardise, or 'offset' near {-self.shift:.15g}",
            )

    def forward(self, x_N: Tensor) -> Tensor:
        return torch.log(x_N + self.offset)

    def inverse(self, y_N: Tensor) -> Tensor:
        return torch.exp(y_N) - self.offset


class LogDistance(ColumnTransform):
    """log |edge - x| for values on one side of the edge; its inverse never crosses the edge (arXiv:2001.11103)."""

    def __init__(self, settings: config.LogDistance, shift: float = 0.0) -> None:
        super().__init__()
        self.edge, self.shift = settings.edge - shift, shift
        self.sign = 1.0 if settings.side == "below" else -1.0

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        outside = int((self.sign * (self.edge - x_N) <= 0).sum())
        if outside:
            side = "at or above" if self.sign > 0 else "at or below"
            raise InputError(
                f"log_distance: {outside} training rows lie {side} the edge {self.edge + self.shift:g}",
                cure="move 'edge', change 'side', or cut these rows in the dataset",
            )

    def forward(self, x_N: Tensor) -> Tensor:
        return torch.log(self.sign * (self.edge - x_N))

    def inverse(self, y_N: Tensor) -> Tensor:
        return self.edge - self.sign * torch.exp(y_N)


class QuantileNormal(ColumnTransform):
    """Quantiles to standard normal quantiles, linear in between; outside the training range the ends are returned."""

    values: Tensor
    normals: Tensor

    def __init__(self, settings: config.QuantileNormal, shift: float = 0.0) -> None:
        super().__init__()
        count = settings.quantiles
        # The outermost quantiles of a normal distribution are infinite: end a quarter of a step inside.
        levels = torch.linspace(0, 1, count, dtype=torch.float64).clamp(0.25 / count, 1 - 0.25 / count)
        self.register_buffer("values", torch.linspace(0, 1, count))
        self.register_buffer("normals", torch.special.ndtri(levels).to(torch.get_default_dtype()))

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        x_N, order = x_N.sort()
        cumulative = weight_N[order].cumsum(0)
        # Each row stands in the middle of its own weight; the first and last are stretched to levels 0 and 1.
        level_N = cumulative - weight_N[order] / 2
        level_N = (level_N - level_N[0]) / (level_N[-1] - level_N[0])
        levels_Q = torch.linspace(0, 1, len(self.values), dtype=x_N.dtype)
        self.values.copy_(interpolate(levels_Q, level_N, x_N))

    def forward(self, x_N: Tensor) -> Tensor:
        return interpolate(x_N, self.values, self.normals)

    def inverse(self, y_N: Tensor) -> Tensor:
        return interpolate(y_N, self.normals, self.values)


def interpolate(x_N: Tensor, from_Q: Tensor, to_Q: Tensor) -> Tensor:
    """Piecewise linear map of `from_Q` (ascending) to `to_Q`; constant outside; ties map to their middle."""
    x_N = x_N.clamp(from_Q[0], from_Q[-1])
    right = torch.searchsorted(from_Q, x_N.detach().contiguous()).clamp(1, len(from_Q) - 1)
    low, high = from_Q[right - 1], from_Q[right]
    width = high - low
    part = torch.where(width > 0, (x_N - low) / torch.where(width > 0, width, 1.0), 0.5)
    return torch.lerp(to_Q[right - 1], to_Q[right], part)
