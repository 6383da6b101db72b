"""Coordinates with names: columns to coordinates and back, and how each coordinate is generated.

A coordinate is what networks see after a chain of transforms (a number), as cosine and sine of an angle (two numbers),
or not at all: what is uniform and independent of everything else is drawn. The kinds are the formulas in the files
beside this one. Shapes: N rows, K coordinates, E numbers that the networks see.
"""

from collections.abc import Iterator, Mapping
from math import pi
from typing import cast

import torch
from torch import Tensor, nn

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.base import NOTHING, CoordinateMap, Given
from kantor.models.transforms.chain import Chain
from kantor.models.transforms.columns import rows_where
from kantor.resolution import is_constant
from kantor.shapes import Shapes

_CLOSES = 1e-6
_HARMONICS = (1, 2, 3)
# Of a squared Fourier coefficient over its mean without structure, exponentially distributed: p = 1.4e-11 each.
_FAR = 25.0


class Coordinates(CoordinateMap):
    """Numbers (N,) by name to coordinates (N,) by name, and those to (N, E); and back.

    Args:
        settings: which columns, and how each coordinate is generated.
        shapes: of columns that are arrays, none of which may be mapped.
    """

    constant: Tensor
    value: Tensor

    def __init__(self, settings: config.Coordinates, shapes: Shapes) -> None:
        super().__init__()
        self.settings, self.columns, self.names = settings, tuple(settings.mapped), tuple(settings.names)
        self._drawn, self._circles = (
            {name: settings.range_of(name) for name in self.names if settings.treatment(name) == treatment}
            for treatment in ("uniform", "periodic")
        )
        self.draws = bool(self._drawn)
        self.chains = nn.ModuleList(
            Chain([] if isinstance(treatment, str) else treatment) for treatment in map(settings.treatment, self.names)
        )
        self._sizes = [0 if name in self._drawn else 2 if name in self._circles else 1 for name in self.names]
        self.size = sum(self._sizes)
        self.register_buffer("constant", torch.zeros(self.size, dtype=torch.bool))
        self.register_buffer("value", torch.zeros(len(self.names)))

    def there(self, columns: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        """Columns to coordinates, (N,) each by name; not finite where a row has none."""
        raise NotImplementedError

    def back(self, coordinates: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        """Coordinates to columns, with finite derivatives whatever a network says."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------- fitting

    def fit(self, columns: Mapping[str, Tensor], weight_N: Tensor, given: Given) -> None:
        columns = {name: values.double() for name, values in columns.items()}
        coordinates = self.there(columns, given)
        self._check_domain(coordinates)
        self._check_closure(columns, coordinates, given)
        for number, (name, chain, place) in enumerate(self._parts()):
            values = coordinates[name]
            if name in self._drawn or name in self._circles:
                self._check_range(name, values)
                continue
            present = values[weight_N > 0]
            self.constant[place] = is_constant(present.min(), present.max())
            self.value[number] = present[0]
            chain.fit(values, weight_N, given, self._where(name))
        for name in self._drawn:
            self._check_uniform(name, coordinates, weight_N, given)

    def _where(self, name: str = "") -> str:
        kind = getattr(self.settings, "kind", "")
        return f"coordinates, kind '{kind}'" + (f", coordinate '{name}'" if name else "")

    def _check_domain(self, coordinates: Mapping[str, Tensor]) -> None:
        for name, values in coordinates.items():
            if outside := rows_where(~values.isfinite()):
                raise InputError(
                    f"is not defined in {outside}",
                    where=self._where(name),
                    cure="cut these rows in the dataset, or choose coordinates that are defined there",
                )

    def _check_closure(self, columns: Mapping[str, Tensor], coordinates: Mapping[str, Tensor], given: Given) -> None:
        """Training rows must come back as they were, and their derivatives be finite."""
        inputs = {name: values.clone().requires_grad_() for name, values in coordinates.items()}
        with torch.enable_grad():
            found = self.back(inputs, given)
            total = cast(Tensor, sum(found[name].sum() for name in self.columns))
            slopes = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
        tolerance = getattr(self.settings, "tolerance", _CLOSES)
        for name in self.columns:
            was, now = columns[name], found[name].detach()
            size = was.abs() + (was.amax() - was.amin())
            if open_ := rows_where(~((now - was).abs() <= tolerance * size)):
                row = int((~((now - was).abs() <= tolerance * size)).nonzero()[0])
                raise InputError(
                    f"the way back does not lead to '{name}' in {open_}: from {float(was[row]):g} to "
                    f"{float(now[row]):g}",
                    where=self._where(),
                    cure="make 'inverse' undo 'forward' everywhere, or cut these rows in the dataset",
                )
        for name, slope in zip(inputs, slopes, strict=True):
            if slope is not None and (steep := rows_where(~slope.isfinite())):
                raise InputError(
                    f"the way back has no finite derivative by '{name}' in {steep}",
                    where=self._where(name),
                    cure="write 'inverse' without a root or logarithm of 0 there, or cut these rows in the dataset",
                )

    def _check_range(self, name: str, values: Tensor) -> None:
        low, high = self.settings.range_of(name)
        # What float32 makes of an end is still inside.
        slack = 1e-6 * max(abs(low), abs(high))
        if outside := rows_where((values < low - slack) | (values > high + slack)):
            raise InputError(
                f"is outside {low:g} to {high:g} in {outside}",
                where=self._where(name),
                cure="give where it begins and ends in 'ranges', in its unit",
            )

    def _check_uniform(self, name: str, coordinates: Mapping[str, Tensor], weight_N: Tensor, given: Given) -> None:
        """Neither it nor its product with anything else may have a Fourier coefficient far from zero."""
        low, high = self.settings.range_of(name)
        turns = (coordinates[name] - low) / (high - low)
        others = {other: values for other, values in coordinates.items() if other != name}
        others |= {condition: values.double() for condition, values in given.conditions.items() if values.ndim == 1}
        for harmonic in _HARMONICS:
            angle = 2 * pi * harmonic * turns
            far = _unevenness(angle, weight_N)
            if far > _FAR:
                raise InputError(
                    f"is not uniform between {low:g} and {high:g} in the training rows: its Fourier coefficient of "
                    f"order {harmonic} is {far**0.5:.1f} times what chance makes",
                    where=self._where(name),
                    cure="take it out of 'uniform'; an angle can be 'periodic'",
                )
            for other, values in others.items():
                mean = (weight_N @ values) / weight_N.sum()
                far = _unevenness(angle, weight_N * (values - mean))
                if far > _FAR:
                    raise InputError(
                        f"is not independent of '{other}' in the training rows: their product's Fourier coefficient "
                        f"of order {harmonic} is {far**0.5:.1f} times what chance makes",
                        where=self._where(name),
                        cure="take it out of 'uniform'; an angle can be 'periodic'",
                    )

    # ------------------------------------------------------------------------------------------------ there and back

    def forward(self, columns: Mapping[str, Tensor], given: Given = NOTHING) -> Tensor:
        coordinates = self.there(columns, given)
        parts = [next(iter(columns.values())).new_empty(len(next(iter(columns.values()))), 0)]
        for name, chain, _ in self._parts():
            if name in self._circles:
                low, high = self._circles[name]
                angle = (coordinates[name] - (low + high) / 2) * (2 * pi / (high - low))
                parts.append(torch.stack([angle.cos(), angle.sin()], dim=1))
            elif name not in self._drawn:
                parts.append(chain(coordinates[name], given)[:, None])
        return super().settled(torch.cat(parts, dim=1))

    def inverse(self, y_NE: Tensor, given: Given = NOTHING) -> dict[str, Tensor]:
        y_NE = self.settled(y_NE)
        coordinates = {}
        for number, (name, chain, place) in enumerate(self._parts()):
            if name in self._drawn:
                low, high = self._drawn[name]
                coordinates[name] = low + (high - low) * given.uniform(y_NE.new_empty(len(y_NE)))
            elif name in self._circles:
                low, high = self._circles[name]
                cosine, sine = y_NE[:, place].unbind(1)
                coordinates[name] = (low + high) / 2 + torch.atan2(sine, cosine) * ((high - low) / (2 * pi))
            else:
                found = chain.inverse(y_NE[:, place.start], given)
                coordinates[name] = torch.where(self.constant[place.start], self.value[number], found)
        found = self.back(coordinates, given)
        return {name: found[name] for name in self.columns}

    @property
    def settles(self) -> bool:
        return bool(self._circles) or super().settles

    def settled(self, y_NE: Tensor) -> Tensor:
        """0 where constant, and cosine and sine on the circle, since their radius means nothing."""
        y_NE = super().settled(y_NE)
        if not self._circles:
            return y_NE
        parts = []
        for name, _, place in self._parts():
            part = y_NE[:, place]
            parts.append(_on_circle(part) if name in self._circles else part)
        return torch.cat(parts, dim=1)

    def _parts(self) -> Iterator[tuple[str, Chain, slice]]:
        """Name and chain of each coordinate, and where among the E it stands."""
        begin = 0
        for name, chain, size in zip(self.names, self.chains, self._sizes, strict=True):
            yield name, cast(Chain, chain), slice(begin, begin + size)
            begin += size


def _on_circle(xy_N2: Tensor) -> Tensor:
    """At radius 1; the centre goes to (1, 0)."""
    square_N1 = (xy_N2 * xy_N2).sum(1, keepdim=True)
    centre = xy_N2.new_tensor([1.0, 0.0])
    # Where it is not taken, the division must still have a derivative.
    return torch.where(square_N1 > 0, xy_N2 * torch.where(square_N1 > 0, square_N1, 1.0).rsqrt(), centre)


def _unevenness(angle_N: Tensor, weight_N: Tensor) -> float:
    """|sum w exp(i a)|^2 / sum w^2: exponentially distributed with mean 1 where angles are even."""
    size = float(weight_N @ weight_N)
    real, imaginary = (float(weight_N @ part) for part in (angle_N.cos(), angle_N.sin()))
    return (real**2 + imaginary**2) / size if size > 0 else 0.0
