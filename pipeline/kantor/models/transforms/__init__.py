"""Invertible transforms between physical columns and what the networks see, by their `kind` in the configuration.

Each is a torch module whose fitted values are buffers, so that a model bundle carries them and gradients pass through.
Fits use weighted moments and quantiles of the weights clipped at zero (negative sWeights have no quantiles).
Shapes: N rows, D columns.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any, cast

import torch
from torch import Tensor, nn

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.columns import ColumnTransform, Log, LogDistance, QuantileNormal, Standardise
from kantor.resolution import is_constant

__all__ = ["Transforms"]

_KINDS: dict[type[config.Settings], Callable[[Any, float], ColumnTransform]] = {
    config.Standardise: Standardise,
    config.Log: Log,
    config.LogDistance: LogDistance,
    config.QuantileNormal: QuantileNormal,
}


class Transforms(nn.Module):
    """A chain of transforms for each column, (N, D) as stored to (N, D) transformed and back.

    A column that is constant in the training rows becomes 0, whatever its chain, and comes back as what it was.

    Args:
        columns: names of the D columns.
        chains: column name -> settings of its chain, in physical units; a column not named is standardised.
        offsets: column name -> by what its stored values are less than the physical ones.
    """

    constant: Tensor
    value: Tensor

    def __init__(
        self,
        columns: Sequence[str],
        chains: Mapping[str, Sequence[config.Transform]],
        offsets: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.offsets = dict(offsets or {})
        self.chains = nn.ModuleList(
            _chain(chains.get(name, [config.Standardise()]), self.offsets.get(name, 0.0)) for name in columns
        )
        self.register_buffer("constant", torch.zeros(len(columns), dtype=torch.bool))
        self.register_buffer("value", torch.zeros(len(columns)))
        self.constant_columns: tuple[str, ...] = ()

    def fit(self, x_ND: Tensor, weight_N: Tensor | None = None) -> None:
        """Fit every chain on training rows (float64 arithmetic).

        Raises:
            InputError: a column holds values its transform does not accept; names the column.
        """
        weight_N = torch.ones(len(x_ND)) if weight_N is None else weight_N.clamp(min=0)
        weight_N, x_ND = weight_N.double(), x_ND.double()
        if self.columns:
            present_ND = x_ND[weight_N > 0]
            self.constant.copy_(is_constant(present_ND.amin(0), present_ND.amax(0)))
            self.value.copy_(present_ND[0])
        self.constant_columns = tuple(compress(self.columns, self.constant.tolist()))
        for name, chain, x_N in self._columns(x_ND):
            for transform in chain:
                try:
                    transform.fit(x_N, weight_N)
                except InputError as error:
                    raise InputError(error.what, where=f"column '{name}'", cure=error.cure) from error
                x_N = transform(x_N)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Stored to transformed."""
        columns = []
        for _, chain, x_N in self._columns(x_ND):
            for transform in chain:
                x_N = transform(x_N)
            columns.append(x_N)
        return torch.where(self.constant, 0.0, torch.stack(columns, dim=-1)) if columns else x_ND

    def inverse(self, y_ND: Tensor) -> Tensor:
        """Transformed to stored."""
        if not self.columns:
            return y_ND
        columns = []
        # Before the chains too, so that no overflow there turns a vanishing gradient into NaN.
        for _, chain, y_N in self._columns(torch.where(self.constant, 0.0, y_ND)):
            for transform in reversed(chain):
                y_N = transform.inverse(y_N)
            columns.append(y_N)
        return torch.where(self.constant, self.value, torch.stack(columns, dim=-1))

    def physical(self, y_ND: Tensor) -> dict[str, Tensor]:
        """The physical values of transformed columns by name, (N,) each, float64 where there is an offset."""
        stored = dict(zip(self.columns, self.inverse(y_ND).unbind(-1), strict=True))
        return stored | {name: stored[name].double() + offset for name, offset in self.offsets.items()}

    def _columns(self, x_ND: Tensor) -> list[tuple[str, list[ColumnTransform], Tensor]]:
        chains = [cast(list[ColumnTransform], list(cast(nn.ModuleList, chain))) for chain in self.chains]
        return list(zip(self.columns, chains, x_ND.unbind(-1), strict=True))


def _chain(chain: Sequence[config.Transform], offset: float) -> nn.ModuleList:
    """Makes of stored values what the settings make of physical ones."""
    shifts = [offset, *[0.0] * (len(chain) - 1)]  # only the first one sees them
    return nn.ModuleList(_KINDS[type(settings)](settings, shift) for settings, shift in zip(chain, shifts, strict=True))
