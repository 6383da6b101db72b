"""Scattered electrons of deep inelastic scattering as Q2, one more variable, and azimuth.

Beams are head-on with the electron along +z; with the masses of electron and proton neglected, both ways,

    Q2 = 2 E (E' - pz),    y = 1 - (E' + pz) / (2 E),    x = Q2 / (4 E E_p y),

so that E' - pz = Q2 / (2 E), E' + pz = 2 E (1 - y) and pt^2 = (E' - pz) (E' + pz)
(Particle Data Group, Review of Particle Physics, chapter "Structure functions"). Every Q2 > 0 and y < 1 is an electron.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from kantor.config import DisCoordinates
from kantor.models.transforms.base import Given
from kantor.models.transforms.coordinates import Coordinates
from kantor.shapes import Shapes

_LEAST = 1e-6  # pt [GeV]


class Dis(Coordinates):
    """(px, py, pz) [GeV] to (q2 [GeV2], pz [GeV] or y or x, phi [rad])."""

    def __init__(self, settings: DisCoordinates, shapes: Shapes) -> None:
        super().__init__(settings, shapes)
        self._beside, self._beam = settings.beside, settings.electron_energy
        self._s = 4 * settings.electron_energy * settings.proton_energy

    def there(self, columns: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        px, py, pz = (columns[name] for name in self.columns)
        pt = torch.hypot(px, py)
        energy = torch.hypot(pt, pz)
        # E' - |pz| loses its digits along the beam, where most electrons are.
        small = torch.where(energy > 0, pt * (pt / (energy + pz.abs())), 0.0)
        ahead, behind = torch.where(pz > 0, small, energy - pz), torch.where(pz > 0, energy + pz, small)
        q2, y = 2 * self._beam * ahead, 1 - behind / (2 * self._beam)
        second = {"pz": pz, "y": y, "x": q2 / (self._s * y)}[self._beside]
        return {"q2": q2, self._beside: second, "phi": torch.atan2(py, px)}

    def back(self, coordinates: Mapping[str, Tensor], given: Given) -> Mapping[str, Tensor]:
        q2, second, phi = (coordinates[name] for name in self.names)
        ahead = q2 / (2 * self._beam)
        if self._beside == "pz":
            pz = second
            behind = ahead + 2 * pz
        else:
            y = second if self._beside == "y" else q2 / (self._s * second)
            behind = 2 * self._beam * (1 - y)
            pz = (behind - ahead) / 2
        # What lies beyond the kinematic limit is put on it: along the beam, but for a pt by which one can still divide.
        pt = (ahead * behind).clamp(min=_LEAST**2).sqrt()
        return dict(zip(self.columns, (pt * phi.cos(), pt * phi.sin(), pz), strict=True))
