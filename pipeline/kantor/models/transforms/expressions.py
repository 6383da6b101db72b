"""Coordinates by the user's own expressions."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kantor.config import Expressions as Settings
from kantor.errors import ConfigError
from kantor.expressions import Expression
from kantor.models.transforms.base import Given
from kantor.models.transforms.coordinates import Coordinates
from kantor.shapes import Shapes


class Expressions(Coordinates):
    """Expressions of columns and conditions, and of coordinates and conditions; training rows must come back."""

    def __init__(self, settings: Settings, shapes: Shapes) -> None:
        super().__init__(settings, shapes)
        self._forward, self._inverse = (
            {name: Expression(text) for name, text in expressions.items()}
            for expressions in (settings.forward, settings.inverse)
        )

    def there(self, columns: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        return self._evaluated("forward", self._forward, columns, given)

    def back(self, coordinates: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        return self._evaluated("inverse", self._inverse, coordinates, given)

    def _evaluated(
        self, key: str, expressions: Mapping[str, Expression], values: Mapping[str, Tensor], given: Given
    ) -> Mapping[str, Tensor]:
        first = next(iter(values.values()))
        known = {**given.conditions, **values}
        found = {}
        for name, expression in expressions.items():
            where = f"{self._where()}, {key}.{name}"
            try:
                each = expression.rows(known, torch, len(first))
            except ConfigError as error:
                raise ConfigError(error.what, where=where, cure=error.cure) from error
            if each.ndim > 1:
                raise ConfigError("is an array, not a number", where=where, cure="name an element, or take a sum")
            found[name] = each.to(first.dtype)
        return found
