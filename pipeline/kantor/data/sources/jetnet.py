"""The jets of JetNet (Kansal et al., arXiv:2106.11535; doi:10.5281/zenodo.6975118 and 6975117)."""

from collections.abc import Mapping, Sequence

import numpy as np

from kantor.config import JetNetSource
from kantor.data.readers import Table
from kantor.data.sources.public import PublicFiles
from kantor.machine.download import Published
from kantor.results import Column

# etarel, phirel, ptrel, mask; a particle whose mask is 0 is none.
_PROPERTIES = 4
_RECORDS = {30: 6975118, 150: 6975117}
_OF_JETS = {"pt": "GeV", "eta": "", "mass": "GeV", "num_particles": ""}


class JetNet(PublicFiles[JetNetSource]):
    """Particles (n, 4) of a jet: etarel, phirel, ptrel, mask; properties of the jet as conditions."""

    @property
    def features(self) -> Sequence[Column]:
        return [Column(name="particles", shape=(self._settings.particles, _PROPERTIES))]

    @property
    def conditions(self) -> Sequence[Column]:
        return [Column(name=name, unit=_OF_JETS[name]) for name in self._settings.conditions]

    @property
    def layout(self) -> Mapping[str, tuple[int, ...]]:
        jets = {"jet_features": (len(_OF_JETS),)} if self._settings.conditions else {}
        return {"particle_features": (self._settings.particles, _PROPERTIES), **jets}

    @property
    def published(self) -> Sequence[Published]:
        record = _RECORDS[self._settings.particles]
        name = f"{self._settings.jets}{'' if self._settings.particles == 30 else self._settings.particles}.hdf5"
        return [
            Published(
                name,
                f"https://zenodo.org/records/{record}/files/{name}",
                record=f"https://zenodo.org/api/records/{record}",
            )
        ]

    def describe(self) -> str:
        return f"JetNet's {self._settings.jets} jets of up to {self._settings.particles} particles"

    def events(self, table: Table, piece: int, row: int) -> Mapping[str, np.ndarray]:
        order = list(_OF_JETS)
        jets = {name: table["jet_features"][:, order.index(name)] for name in self._settings.conditions}
        return {"particles": table["particle_features"], **jets}
