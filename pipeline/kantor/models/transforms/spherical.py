"""A momentum as p = |p|, theta = atan2(pt, pz), phi = atan2(py, px): FAT-GAN's spherical momenta (arXiv:2001.11103)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kantor.models.transforms.base import Given
from kantor.models.transforms.coordinates import Coordinates


class Spherical(Coordinates):
    """(px, py, pz) to (p, theta, phi)."""

    def there(self, columns: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        px, py, pz = (columns[name] for name in self.columns)
        pt = torch.hypot(px, py)
        return {"p": torch.hypot(pt, pz), "theta": torch.atan2(pt, pz), "phi": torch.atan2(py, px)}

    def back(self, coordinates: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        p, theta, phi = (coordinates[name] for name in self.names)
        pt = p * theta.sin()
        return dict(zip(self.columns, (pt * phi.cos(), pt * phi.sin(), p * theta.cos()), strict=True))
