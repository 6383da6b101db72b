"""The data sets of the CaloChallenge (arXiv:2410.21611): voxels of one layer after the other, the radius fastest."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from kantor.config import CaloChallengeSource, ShowerPhysics
from kantor.data.readers import Table
from kantor.data.sources.public import PublicFiles, check_showers
from kantor.machine.download import Published
from kantor.results import Column, shapes_of
from kantor.shapes import named, width


class CaloChallenge(PublicFiles[CaloChallengeSource]):
    """Energies of voxels and of the incident particle [MeV]."""

    @property
    def features(self) -> Sequence[Column]:
        layers = self._settings.binning.layers.items()
        return [Column(name=name, unit="MeV", shape=layer.shape) for name, layer in layers]

    @property
    def conditions(self) -> Sequence[Column]:
        return [Column(name="energy", unit="MeV")]

    @property
    def physics(self) -> ShowerPhysics:
        binning = self._settings.binning
        return ShowerPhysics(
            kind="showers",
            layers=list(binning.layers),
            energy="energy",
            threshold=binning.threshold,
            geometry="cylinder",
            axes=["eta", "phi"],
            radii={name: layer.radii for name, layer in binning.layers.items()},
            length_unit="mm",
        )

    @property
    def layout(self) -> Mapping[str, tuple[int, ...]]:
        return {"incident_energies": (), "showers": (sum(prod(column.shape) for column in self.features),)}

    @property
    def published(self) -> Sequence[Published]:
        binning = self._settings.binning
        address = f"https://zenodo.org/record/{binning.record}/files"
        return [Published(name, f"{address}/{name}", md5) for name, md5 in binning.md5.items()]

    def describe(self) -> str:
        return f"the CaloChallenge's data set {self._settings.dataset}"

    def events(self, table: Table, piece: int, row: int) -> Mapping[str, np.ndarray]:
        layers = self.features
        names, shapes = [layer.name for layer in layers], shapes_of(layers)
        assert width(names, shapes) == table["showers"].shape[1]
        columns = {**named(table["showers"], names, shapes), "energy": table["incident_energies"]}
        check_showers(columns, layers, 1.0, row, self.where(piece))
        return columns
