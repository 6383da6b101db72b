"""Columns as they are: for those that are uniform or periodic."""

from collections.abc import Mapping

from torch import Tensor

from kantor.models.transforms.base import Given
from kantor.models.transforms.coordinates import Coordinates


class Plain(Coordinates):
    """Each column is a coordinate."""

    def there(self, columns: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        return columns

    def back(self, coordinates: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        return coordinates
