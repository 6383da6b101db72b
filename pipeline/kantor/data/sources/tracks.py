"""Charged tracks of minimum-bias pp collisions from PYTHIA 8, and what a toy detector answers to them.

Kinematics are PYTHIA's: non-diffractive collisions at 13 TeV, the charged particles within 2 < |eta| < 5 that live
longer than 10 mm / c. Both directions are alike, so that each collision counts twice, once with its eta mirrored;
nTracks are those of the same direction. The detector is a toy. Shapes: N tracks.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kantor.config import SPECIES, TrackSource
from kantor.data.manifest import GeneratorFacts
from kantor.data.sources import pythia, splot
from kantor.data.sources.base import Chunk, Source
from kantor.errors import InputError
from kantor.results import Column

MASSES = np.array([0.13957, 0.49368, 0.93827, 0.000511, 0.10566])  # of SPECIES [GeV]
P_RANGE, ETA_RANGE = (2.0, 150.0), (2.0, 5.0)  # [GeV]

_UNITS = {"p": "GeV"}
_PDG = {211: "pion", 321: "kaon", 2212: "proton", 11: "electron", 13: "muon"}
_CARDS = (
    "Beams:eCM = 13000.",
    "SoftQCD:nonDiffractive = on",
    "ParticleDecays:limitTau0 = on",
    "ParticleDecays:tau0Max = 10",
)


@dataclass(frozen=True)
class Tracks:
    """Tracks, as the detector meets them; each (N,)."""

    p: np.ndarray  # [GeV]
    eta: np.ndarray
    n_tracks: np.ndarray
    charge: np.ndarray
    species: np.ndarray  # place in SPECIES

    @property
    def theta(self) -> np.ndarray:
        """Polar angle [rad]."""
        return 2 * np.arctan(np.exp(-self.eta))


class DetectedTracks(Source):
    """Tracks in independently seeded blocks; a piece is as many whole blocks as fill a shard, but at least one."""

    detector: str
    names: Sequence[str]

    def __init__(self, settings: TrackSource, rows: int) -> None:
        self._settings = settings
        self._blocks = -(-settings.events // settings.block)
        self._blocks_per_piece = max(1, rows // settings.block)

    @abstractmethod
    def respond(self, tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
        """What the detector says of the tracks, (N, features) in the order of `names`."""

    @property
    def features(self) -> Sequence[Column]:
        return [Column(name=name) for name in self.names]

    @property
    def conditions(self) -> Sequence[Column]:
        return [Column(name=name, unit=_UNITS.get(name, "")) for name in self._settings.condition_names]

    @property
    def pieces(self) -> int:
        return -(-self._blocks // self._blocks_per_piece)

    def chunks(self, piece: int) -> Iterator[Chunk]:
        first = piece * self._blocks_per_piece
        for block in range(first, min(first + self._blocks_per_piece, self._blocks)):
            yield self.generate(block)

    def describe(self) -> str:
        return f"{self._settings.events:,} tracks from PYTHIA in a toy of a {self.detector}"

    def origin(self, piece: int) -> Mapping[str, str | int]:
        return {"seed": self._settings.seed, "source": self._settings.canonical()}

    def facts(self, parts: Sequence[object]) -> GeneratorFacts:
        return GeneratorFacts(name=f"PYTHIA's tracks in a toy of a {self.detector}", version=pythia.version())

    def generate(self, block: int) -> Chunk:
        """The tracks of one block and the answers to them; the last block may be shorter.

        A track of the background is softer than it would be, and answers as one of the other four species.
        """
        settings = self._settings
        rows = min(settings.block, settings.events - block * settings.block)
        tracks = collide(rows, pythia.block_seed(settings.seed, block))
        rng = np.random.default_rng([settings.seed, block])
        species = tracks.species
        if settings.species is not None:
            species = rng.choice([SPECIES.index(name) for name in settings.species], size=rows)
        is_background = rng.random(rows) < settings.background_fraction
        softer = P_RANGE[0] + (tracks.p - P_RANGE[0]) * rng.random(rows)
        other = (species + rng.integers(1, len(SPECIES), size=rows)) % len(SPECIES)
        p, answering = np.where(is_background, softer, tracks.p), np.where(is_background, other, species)
        met = Tracks(p, tracks.eta, tracks.n_tracks, tracks.charge, answering)
        columns = dict(zip(self.names, self.respond(met, rng).T, strict=True))
        given = {"p": p, "eta": met.eta, "nTracks": met.n_tracks, "charge": met.charge, "species": species}
        columns |= {name: given[name].astype(np.float64) for name in settings.condition_names}
        if not settings.sweights:
            return Chunk(columns)
        masses = splot.draw_masses(is_background, rng)
        return Chunk(columns, splot.sweights(masses, settings.background_fraction))


def collide(tracks: int, seed: int) -> Tracks:
    """As many tracks, of as many collisions as they take.

    Raises:
        InputError: PYTHIA is not installed, or fails.
    """
    refused = InputError(
        "PYTHIA cannot make collisions (its reason is printed above)", cure="pip install 'kantor[dis]'"
    )
    generator = pythia.start(_CARDS, seed, refused)
    found: list[tuple[float, float, int, float, int]] = []
    while len(found) < tracks:
        if not generator.next():
            continue
        charged = [
            (each.pAbs(), each.eta(), each.charge(), each.idAbs())
            for each in generator.event
            if each.isFinal() and each.isCharged()
        ]
        for direction in (1, -1):
            inside = [track for track in charged if ETA_RANGE[0] < direction * track[1] < ETA_RANGE[1]]
            found += [
                (p, direction * eta, len(inside), charge, SPECIES.index(_PDG[identity]))
                for p, eta, charge, identity in inside
                if P_RANGE[0] < p < P_RANGE[1] and identity in _PDG
            ]
    p, eta, n_tracks, charge, species = np.array(found[:tracks]).T
    return Tracks(p, eta, n_tracks, charge, species.astype(int))
