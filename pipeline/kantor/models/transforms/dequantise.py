"""Exact values, such as the zeros below a detector's threshold, as a uniform interval. Shapes: N rows."""

import numpy as np
import torch
from torch import Tensor

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.base import NOTHING, ColumnTransform, Given
from kantor.shapes import Shape


class Dequantise(ColumnTransform):
    """What equals the value is spread evenly over an interval in which nothing else lies, and snapped back from there.

    A density has no spikes, and a critic would see the exact value at once. Where nothing lies below (above) the
    interval in training, everything below (above) it snaps, too.
    """

    below: Tensor
    above: Tensor

    def __init__(self, settings: config.Dequantise, shift: float = 0.0, shape: Shape = ()) -> None:
        super().__init__()
        # As it is stored.
        self.value = float(np.float32(settings.value - shift))
        self.low, self.high = (end - shift for end in settings.interval)
        self.shift = shift
        self.register_buffer("below", torch.zeros((), dtype=torch.bool))
        self.register_buffer("above", torch.zeros((), dtype=torch.bool))

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        others = x_N != self.value
        inside = int((others & (x_N >= self.low) & (x_N <= self.high)).sum())
        if inside:
            raise InputError(
                f"dequantise: {inside} training values in the interval {self.low + self.shift:g} to "
                f"{self.high + self.shift:g} are not {self.value + self.shift:g}, and would become it",
                cure="choose an 'interval' in which no other value lies",
            )
        self.below.copy_((others & (x_N < self.low)).any())
        self.above.copy_((others & (x_N > self.high)).any())

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        return torch.where(x_N == self.value, self.low + (self.high - self.low) * given.uniform(x_N), x_N)

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        snapped = ((y_N >= self.low) | ~self.below) & ((y_N <= self.high) | ~self.above)
        return torch.where(snapped, self.value, y_N)
