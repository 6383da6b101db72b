"""What every transform is to the rest, and what it may read besides its own columns.

Shapes: N rows, E numbers that the networks see of some columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Given:
    """What transforms of features may read.

    conditions: physical values by name, (N, *shape) each. noise: what exact values are spread by where rows are
    transformed for training, and what drawn coordinates are drawn from in generation; without it, the same rows give
    the same numbers.
    """

    conditions: Mapping[str, Tensor] = field(default_factory=dict)
    noise: torch.Generator | None = None

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers in [0, 1) of the shape, type and device of `like`; 0.5 where there is no noise."""
        if self.noise is None:
            return torch.full_like(like, 0.5)
        # Drawn in one type, so that a seed means the same rows whatever the precision.
        return torch.rand(like.shape, generator=self.noise, device=self.noise.device).to(like)

    def rows(self, part: slice) -> "Given":
        """The same for some of the rows."""
        return Given({name: values[part] for name, values in self.conditions.items()}, self.noise)


NOTHING = Given()


class ColumnTransform(nn.Module):
    """One transform of one column, (N, *shape) to (N, *shape).

    Made from its settings, which mean physical values, the shift of these from what it is given, and its shape.
    """

    def fit(self, x_N: Tensor, weight_N: Tensor) -> None:
        """Set the buffers from the training rows; weights are at least zero."""

    def forward(self, x_N: Tensor, given: Given = NOTHING) -> Tensor:
        raise NotImplementedError

    def inverse(self, y_N: Tensor, given: Given = NOTHING) -> Tensor:
        raise NotImplementedError


class CoordinateMap(nn.Module):
    """A map of several columns at once, (N, *shape) each, to (N, E) and back.

    Made from its settings and the shapes of columns that are arrays.
    """

    columns: tuple[str, ...]
    size: int
    """E."""
    constant: Tensor
    """(E,) bool: what never varied in the training rows, and is 0."""
    draws = False
    """Whether the inverse draws random numbers."""

    def fit(self, columns: Mapping[str, Tensor], weight_N: Tensor, given: Given) -> None:
        """Set the buffers from the training rows, physical values by name; weights are at least zero.

        Raises:
            InputError: rows that the map does not accept.
        """
        raise NotImplementedError

    def forward(self, columns: Mapping[str, Tensor], given: Given = NOTHING) -> Tensor:
        """(N, *shape) of each column, by name, to (N, E)."""
        raise NotImplementedError

    def inverse(self, y_NE: Tensor, given: Given = NOTHING) -> dict[str, Tensor]:
        """(N, E) to (N, *shape) of each column, by name."""
        raise NotImplementedError

    @property
    def settles(self) -> bool:
        """Whether networks may say what no event is transformed to, which `settled` sets right."""
        return bool(self.constant.any())

    def settled(self, y_NE: Tensor) -> Tensor:
        """What networks say, as what it is taken for: 0 where constant."""
        return torch.where(self.constant, 0.0, y_NE)
