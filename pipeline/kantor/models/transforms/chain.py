"""Chains of transforms of one column, by their `kind` in the configuration. Shapes: N rows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from torch import Tensor, nn

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.base import NOTHING, ColumnTransform, Given
from kantor.models.transforms.columns import Log, LogDistance, QuantileNormal, Standardise
from kantor.models.transforms.dequantise import Dequantise
from kantor.models.transforms.quantised import Quantised
from kantor.models.transforms.spike import Spike
from kantor.shapes import Shape

_KINDS: dict[type[config.Settings], Callable[[Any, float, Shape], ColumnTransform]] = {
    config.Standardise: Standardise,
    config.Log: Log,
    config.LogDistance: LogDistance,
    config.QuantileNormal: QuantileNormal,
    config.Dequantise: Dequantise,
    config.Spike: Spike,
    config.Quantised: Quantised,
}


class Chain(nn.ModuleList):
    """Transforms of a column (N, *shape), one after the other.

    Args:
        settings: of each, in physical units.
        offset: by what the values are less than the physical ones.
        shape: of the column.
    """

    def __init__(self, settings: Sequence[config.Transform], offset: float = 0.0, shape: Shape = ()) -> None:
        shifts = [offset, *[0.0] * len(settings)][: len(settings)]  # only the first one sees them
        super().__init__(_KINDS[type(each)](each, shift, shape) for each, shift in zip(settings, shifts, strict=True))

    def fit(self, x_N: Tensor, weight_N: Tensor, given: Given, where: str) -> None:
        """Fit each on training rows, (N, *shape) float64, as those before it give them.

        Raises:
            InputError: values that a transform does not accept; `where` names them.
        """
        for transform in self._transforms():
            try:
                transform.fit(x_N, weight_N)
            except InputError as error:
                raise InputError(error.what, where=where, cure=error.cure) from error
            x_N = transform(x_N, given)

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        for transform in self._transforms():
            x_N = transform(x_N, given)
        return x_N

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        for transform in reversed([*self._transforms()]):
            y_N = transform.inverse(y_N, given)
        return y_N

    def _transforms(self) -> Iterator[ColumnTransform]:
        return cast(Iterator[ColumnTransform], iter(self))
