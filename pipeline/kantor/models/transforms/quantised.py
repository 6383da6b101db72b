"""Values on a grid, such as counts, charges or 0 and 1. Shapes: N rows."""

import torch
from torch import Tensor

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.base import NOTHING, ColumnTransform, Given
from kantor.resolution import STEP
from kantor.shapes import Shape

_OFF_GRID = 1e-4  # of a step


class Quantised(ColumnTransform):
    """Each value is spread evenly over the step around it, and rounded back, between the ends seen in training.

    A model of the spread values is one of the discrete ones (Theis, van den Oord and Bethge, arXiv:1511.01844, section
    3.1); rounding has no slope, so that what a critic computes of the rounded column teaches the generator nothing.
    """

    least: Tensor
    most: Tensor

    def __init__(self, settings: config.Quantised, shift: float = 0.0, shape: Shape = ()) -> None:
        super().__init__()
        self.step, self.origin, self.shift = settings.step, settings.origin - shift, shift
        self.register_buffer("least", torch.zeros(shape))
        self.register_buffer("most", torch.zeros(shape))

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        place_N = self._place(x_N)
        off_N = (x_N - self._value(place_N)).abs() > _OFF_GRID * self.step + 2 * STEP * x_N.abs()
        if off_N.any():
            raise InputError(
                f"quantised: {int(off_N.sum())} training values are not {self.origin + self.shift:g} plus a multiple "
                f"of {self.step:g}, such as {float(x_N[off_N][0]) + self.shift:g}",
                cure="give the grid's 'step' and 'origin', or use 'dequantise' or 'spike' for single exact values",
            )
        self.least.copy_(place_N.amin(0))
        self.most.copy_(place_N.amax(0))

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        return x_N + self.step * (given.uniform(x_N) - 0.5)

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        # In double precision, so that it rounds to what is stored.
        place_N = self._place(y_N.double()).clamp(self.least.double(), self.most.double())
        return self._value(place_N).to(y_N.dtype)

    def _place(self, x_N: Tensor) -> Tensor:
        """Number of steps from the origin."""
        return torch.round((x_N - self.origin) / self.step)

    def _value(self, place_N: Tensor) -> Tensor:
        return self.origin + place_N * self.step
