"""Showers in a calorimeter from Geant4; the detector is a configuration."""

from collections.abc import Iterator, Mapping, Sequence

from kantor.config import Geant4Source, ShowerPhysics
from kantor.data.geant4 import process
from kantor.data.manifest import GeneratorFacts
from kantor.data.sources.base import Chunk, Source
from kantor.results import Column


class Geant4Showers(Source):
    """Deposits in cells [MeV] given the incident energy [GeV], in independently seeded blocks, which are the pieces."""

    def __init__(self, settings: Geant4Source, rows: int) -> None:
        self._settings = settings

    @property
    def features(self) -> Sequence[Column]:
        sections = self._settings.geometry.sections.items()
        return [Column(name=name, unit="MeV", shape=section.shape) for name, section in sections]

    @property
    def conditions(self) -> Sequence[Column]:
        return [Column(name="energy", unit="GeV")]

    @property
    def physics(self) -> ShowerPhysics:
        detector = self._settings.geometry
        return ShowerPhysics(
            kind="showers",
            layers=list(detector.sections),
            energy="energy",
            scale=1000.0,
            threshold=detector.threshold,
            geometry=detector.geometry,
            size=detector.size,
            length_unit="mm",
        )

    def check(self) -> None:
        process.check()

    @property
    def pieces(self) -> int:
        return -(-self._settings.events // self._settings.block)

    def chunks(self, piece: int) -> Iterator[Chunk]:
        made = process.showers(self._settings, piece)
        yield Chunk(made.columns, facts=made.version)

    def describe(self) -> str:
        settings = self._settings
        low, high = min(settings.energy), max(settings.energy)
        energies = f"{low:g} GeV" if low == high else f"{low:g} to {high:g} GeV"
        return f"{settings.events:,} showers of {settings.particle} of {energies} from Geant4"

    def origin(self, piece: int) -> Mapping[str, str | int]:
        return {"seed": self._settings.seed, "source": self._settings.canonical()}

    def facts(self, parts: Sequence[object]) -> GeneratorFacts:
        versions = sorted({part for part in parts if isinstance(part, str)})
        return GeneratorFacts(name="Geant4", version=", ".join(versions), data=process.data_tables())
