"""A momentum as pt = sqrt(px^2 + py^2), phi = atan2(py, px), and pz or eta = arcsinh(pz / pt) (PDG, Kinematics)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kantor.config import Cylindrical as Settings
from kantor.models.transforms.base import Given
from kantor.models.transforms.coordinates import Coordinates
from kantor.shapes import Shapes


class Cylindrical(Coordinates):
    """(px, py, pz) to (pt, pz or eta, phi). A momentum along the beam has no eta."""

    def __init__(self, settings: Settings, shapes: Shapes) -> None:
        super().__init__(settings, shapes)
        self._along = settings.along

    def there(self, columns: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        px, py, pz = (columns[name] for name in self.columns)
        pt = torch.hypot(px, py)
        along = pz if self._along == "pz" else torch.asinh(pz / pt)
        return {"pt": pt, self._along: along, "phi": torch.atan2(py, px)}

    def back(self, coordinates: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        pt, along, phi = (coordinates[name] for name in self.names)
        pz = along if self._along == "pz" else pt * along.sinh()
        return dict(zip(self.columns, (pt * phi.cos(), pt * phi.sin(), pz), strict=True))
