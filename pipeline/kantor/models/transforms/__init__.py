"""Invertible transforms between physical columns and what the networks see, by their `kind` in the configuration.

Each is a torch module whose fitted values are buffers, so that a model bundle carries them and gradients pass through.
Fits use weighted moments and quantiles of the weights clipped at zero (negative sWeights have no quantiles).
Shapes: N rows, D columns.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.columns import ColumnTransform, Log, LogDistance, QuantileNormal, Standardise

__all__ = ["Transforms"]

_KINDS: dict[type[config.Settings], Callable[[Any], ColumnTransform]] = {
    config.Standardise: Standardise,
    config.Log: Log,
    config.LogDistance: LogDistance,
    config.QuantileNormal: QuantileNormal,
}


class Transforms(nn.Module):
    """A chain of transforms for each column, (N, D) physical to (N, D) transformed and back.

    Args:
        columns: names of the D columns.
        chains: column name -> settings of its chain; a column not named is standardised.
    """

    def __init__(self, columns: Sequence[str], chains: dict[str, list[config.Transform]]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.chains = nn.ModuleList(
            nn.ModuleList(_KINDS[type(settings)](settings) for settings in chains.get(name, [config.Standardise()]))
            for name in columns
        )

    def fit(self, x_ND: Tensor, weight_N: Tensor | None = None) -> None:
        """Fit every chain on training rows (float64 arithmetic).

        Raises:
            InputError: a column holds values its transform does not accept; names the column.
        """
        weight_N = torch.ones(len(x_ND)) if weight_N is None else weight_N.clamp(min=0)
        weight_N = weight_N.double()
        for name, chain, x_N in self._columns(x_ND.double()):
            for transform in chain:
                try:
                    transform.fit(x_N, weight_N)
                except InputError as error:
                    raise InputError(error.what, where=f"column '{name}'", cure=error.cure) from error
                x_N = transform(x_N)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Physical to transformed."""
        columns = []
        for _, chain, x_N in self._columns(x_ND):
            for transform in chain:
                x_N = transform(x_N)
            columns.append(x_N)
        return torch.stack(columns, dim=-1) if columns else x_ND

    def inverse(self, y_ND: Tensor) -> Tensor:
        """Transformed to physical."""
        columns = []
        for _, chain, y_N in self._columns(y_ND):
            for transform in reversed(chain):
                y_N = transform.inverse(y_N)
            columns.append(y_N)
        return torch.stack(columns, dim=-1) if columns else y_ND

    def _columns(self, x_ND: Tensor) -> list[tuple[str, list[ColumnTransform], Tensor]]:
        chains = [cast(list[ColumnTransform], list(cast(nn.ModuleList, chain))) for chain in self.chains]
        return list(zip(self.columns, chains, x_ND.unbind(-1), strict=True))
