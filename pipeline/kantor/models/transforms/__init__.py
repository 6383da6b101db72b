"""Invertible transforms between physical columns and what the networks see, by their `kind` in the configuration.

Each is a torch module whose fitted values are buffers, so that a model bundle carries them and gradients pass through.
Fits use weighted moments and quantiles of the weights clipped at zero (negative sWeights have no quantiles).
Shapes: N rows, D numbers of an event, E transformed ones; E = D unless coordinates have others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kantor import config
from kantor.models.transforms.base import NOTHING, CoordinateMap, Given
from kantor.models.transforms.chain import Chain
from kantor.models.transforms.cylindrical import Cylindrical
from kantor.models.transforms.dis import Dis
from kantor.models.transforms.expressions import Expressions
from kantor.models.transforms.plain import Plain
from kantor.models.transforms.shower import Shower
from kantor.models.transforms.spherical import Spherical
from kantor.resolution import is_constant
from kantor.shapes import Shapes, elements, named, slices, taken, width

__all__ = ["Given", "Transforms"]

_MAPS: dict[type[config.Settings], Callable[[Any, Shapes], CoordinateMap]] = {
    config.Shower: Shower,
    config.Plain: Plain,
    config.Cylindrical: Cylindrical,
    config.Spherical: Spherical,
    config.DisCoordinates: Dis,
    config.Expressions: Expressions,
}


class Transforms(nn.Module):
    """Chains of transforms of columns, and coordinates of several: (N, D) as stored to (N, E) transformed and back.

    Of the E, what the coordinates give comes first, then the other columns in their order.

    What is constant in the training rows becomes 0, whatever its chain, and comes back as what it was; of an array that
    is each element by itself.

    Args:
        columns: names of the columns.
        chains: column name -> settings of its chain, in physical units; a column not named is standardised.
        offsets: column name -> by what its stored values are less than the physical ones.
        shapes: column name -> shape, of those that are arrays.
        coordinates: settings of maps of several columns, which then have no chain.
    """

    constant: Tensor
    value: Tensor

    def __init__(
        self,
        columns: Sequence[str],
        chains: Mapping[str, Sequence[config.Transform]],
        offsets: Mapping[str, float] | None = None,
        shapes: Shapes | None = None,
        coordinates: Sequence[config.AnyCoordinates] = (),
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.offsets = dict(offsets or {})
        self.shapes = dict(shapes or {})
        self.maps = nn.ModuleList(_MAPS[type(settings)](settings, self.shapes) for settings in coordinates)
        mapped = {name: [] for each in self._maps for name in each.columns}
        self.others = tuple(name for name in columns if name not in mapped)
        chains = {name: mapped.get(name, chains.get(name, [config.Standardise()])) for name in columns}
        self.chains = nn.ModuleList(
            Chain(chains[name], self.offsets.get(name, 0.0), self.shapes.get(name, ())) for name in columns
        )
        size = width(self.columns, self.shapes)
        self.size = sum(each.size for each in self._maps) + width(self.others, self.shapes)
        self.register_buffer("constant", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("value", torch.zeros(size))
        self.constant_columns: tuple[str, ...] = ()
        self.settles = False

    @property
    def elements(self) -> list[str]:
        """A name for each of the D numbers."""
        return elements(self.columns, self.shapes)

    def fit(self, x_ND: Tensor, weight_N: Tensor | None = None, given: Given = NOTHING) -> None:
        """Fit every chain on training rows (float64 arithmetic), and every map.

        Raises:
            InputError: a column holds values its transform does not accept; names the column.
        """
        weight_N = torch.ones(len(x_ND)) if weight_N is None else weight_N.clamp(min=0)
        weight_N = weight_N.double()
        places = slices(self.columns, self.shapes)
        if self.columns:
            present_ND = x_ND if (weight_N > 0).all() else x_ND[weight_N > 0]
            self.constant.copy_(is_constant(present_ND.amin(0).double(), present_ND.amax(0).double()))
            self.value.copy_(present_ND[0])
        self.constant_columns = tuple(name for name, place in places.items() if self.constant[place].all())
        values = self.values(x_ND)
        for each in self._maps:
            each.fit({name: values[name] for name in each.columns}, weight_N, given)
            for name in each.columns:
                # A map knows for itself what never varies.
                self.constant[places[name]] = False
        self.settles = bool(self.constant.any()) or any(each.settles for each in self._maps)
        for name, chain, x_N in self._columns(x_ND, places):
            chain.fit(x_N.double(), weight_N, given, f"column '{name}'")

    def forward(self, x_ND: Tensor, given: Given = NOTHING) -> Tensor:
        """Stored to transformed."""
        values = self.values(x_ND) if self._maps else {}
        columns = [each({name: values[name] for name in each.columns}, given).to(x_ND.dtype) for each in self._maps]
        for _, chain, x_N in self._columns(x_ND, slices(self.columns, self.shapes)):
            columns.append(chain(x_N, given))
        return self.settled(_joined(columns)) if columns else x_ND

    def inverse(self, y_ND: Tensor, given: Given = NOTHING) -> Tensor:
        """Transformed to stored."""
        if not self.columns:
            return y_ND
        # Before the chains too, so that no overflow there turns a vanishing gradient into NaN.
        y_ND = self.settled(y_ND)
        columns: dict[str, Tensor] = {}
        begin = 0
        for each in self._maps:
            physical = each.inverse(y_ND[:, begin : begin + each.size], given)
            columns |= {
                name: (values - self.offsets.get(name, 0.0)).to(y_ND.dtype) for name, values in physical.items()
            }
            begin += each.size
        places = {
            name: slice(begin + place.start, begin + place.stop)
            for name, place in slices(self.others, self.shapes).items()
        }
        for name, chain, y_N in self._columns(y_ND, places):
            columns[name] = chain.inverse(y_N, given)
        return torch.where(self.constant, self.value, _joined([columns[name] for name in self.columns]))

    def settled(self, y_ND: Tensor) -> Tensor:
        """What networks say, as what it is taken for: 0 where constant, cosine and sine on the circle."""
        if not self.maps:
            return torch.where(self.constant, 0.0, y_ND)
        places = slices(self.columns, self.shapes)
        others = torch.cat([self.constant[places[name]] for name in self.others] or [self.constant[:0]])
        *mapped, rest = y_ND.split([*(each.size for each in self._maps), len(others)], dim=-1)
        parts = [each.settled(part) for each, part in zip(self._maps, mapped, strict=True)]
        return torch.cat([*parts, torch.where(others, 0.0, rest)], dim=-1)

    @property
    def draws(self) -> bool:
        """Whether the inverse draws some of the columns."""
        return any(each.draws for each in self._maps)

    @property
    def _maps(self) -> list[CoordinateMap]:
        return cast(list[CoordinateMap], list(self.maps))

    def values(self, x_ND: Tensor) -> dict[str, Tensor]:
        """The physical values of stored columns by name, (N, *shape) each, float64 where there is an offset."""
        stored = named(x_ND, self.columns, self.shapes)
        return stored | {name: stored[name].double() + offset for name, offset in self.offsets.items()}

    def physical(self, y_ND: Tensor, given: Given = NOTHING) -> dict[str, Tensor]:
        """The physical values of transformed columns by name, (N, *shape) each, float64 where there is an offset."""
        return self.values(self.inverse(y_ND, given))

    def _columns(self, x_ND: Tensor, places: Mapping[str, slice]) -> Iterator[tuple[str, Chain, Tensor]]:
        """Columns that have a chain: name, chain, numbers (N, *shape), which stand at `places`."""
        for name, chain in zip(self.columns, self.chains, strict=True):
            if name in self.others:
                yield name, cast(Chain, chain), taken(x_ND, places[name], self.shapes.get(name, ()))


def _joined(columns: Sequence[Tensor]) -> Tensor:
    """Columns (N, *shape) side by side, (N, D)."""
    return torch.cat([column.reshape(len(column), -1) for column in columns], dim=-1)
