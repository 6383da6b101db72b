"""The showers of CaloGAN (arXiv:1712.10321; doi:10.17632/pvn3xc3wy5.1): three layers and the energy beside them."""

from collections.abc import Mapping, Sequence

import numpy as np

from kantor.config import CaloGanSource, ShowerPhysics
from kantor.data.readers import Table
from kantor.data.sources.public import PublicFiles, check_showers
from kantor.errors import InputError
from kantor.machine.download import Published
from kantor.results import Column

_LAYERS = {"layer_0": (3, 96), "layer_1": (12, 12), "layer_2": (12, 6)}
_PAGE = "https://data.mendeley.com/datasets/pvn3xc3wy5/1"


class CaloGan(PublicFiles[CaloGanSource]):
    """Energies of cells [MeV] and of the incident particle [GeV]."""

    @property
    def features(self) -> Sequence[Column]:
        overflow = [Column(name="overflow", unit="MeV", shape=(3,))] if self._settings.overflow else []
        return [*self._layers, *overflow]

    @property
    def _layers(self) -> list[Column]:
        return [Column(name=name, unit="MeV", shape=shape) for name, shape in _LAYERS.items()]

    @property
    def conditions(self) -> Sequence[Column]:
        return [Column(name="energy", unit="GeV")]

    @property
    def physics(self) -> ShowerPhysics:
        return ShowerPhysics(
            kind="showers", layers=list(_LAYERS), energy="energy", scale=1000.0, size=[480.0, 480.0], length_unit="mm"
        )

    @property
    def layout(self) -> Mapping[str, tuple[int, ...]]:
        return {"energy": (), **{column.name: column.shape for column in self.features}}

    @property
    def published(self) -> Sequence[Published]:
        raise InputError(
            "the files of CaloGAN have no address of their own to be downloaded from",
            where=_PAGE,
            cure="download eplus.hdf5, gamma.hdf5 or piplus.hdf5 from this page, and name it by 'paths'",
        )

    def describe(self) -> str:
        return "CaloGAN's showers"

    def events(self, table: Table, piece: int, row: int) -> Mapping[str, np.ndarray]:
        check_showers(table, self.features, 1000.0, row, self.where(piece))
        return table
