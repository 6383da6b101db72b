"""An exact value among others that lie arbitrarily near it, as in likelihood ratios. Shapes: N rows."""

import torch
from torch import Tensor

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.base import NOTHING, Given
from kantor.models.transforms.dequantise import Dequantise
from kantor.shapes import Shape


class Spike(Dequantise):
    """Dequantise with an interval that is made: the values on either side move away by half its width, and back.

    Where nothing lies below (above) the value in training, everything below (above) snaps to it, too. What is nearer to
    the value than rounding becomes it.
    """

    def __init__(self, settings: config.Spike, shift: float = 0.0, shape: Shape = ()) -> None:
        half = settings.width / 2
        interval = (settings.value - half, settings.value + half)
        super().__init__(config.Dequantise(kind="dequantise", value=settings.value, interval=interval), shift, shape)
        self.aside = half

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        if not (x_N == self.value).any():
            raise InputError(
                f"spike: no training value is exactly {self.value + self.shift:g}",
                cure="give the 'value' that is exact, or leave 'spike' out",
            )
        super().fit(self._apart(x_N, self.aside), weight_N)

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        return super().forward(self._apart(x_N, self.aside), given)

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        found_N = super().inverse(y_N, given)
        return torch.where(found_N == self.value, self.value, self._apart(y_N, -self.aside))

    def _apart(self, x_N: Tensor, distance: float) -> Tensor:
        """Moved away from the value, which stays."""
        return x_N + distance * torch.sign(x_N - self.value)
