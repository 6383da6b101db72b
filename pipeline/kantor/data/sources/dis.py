"""Scattered electrons of inclusive deep inelastic scattering, e p -> e' X, from PYTHIA 8.

The kinematics are those of FAT-GAN (arXiv:2001.11103): head-on beams, here with the electron along +z, and an event
is the momentum of the scattered electron; its energy follows from the mass shell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any

import numpy as np

from kantor.config import DisPhysics, DisSource
from kantor.data.manifest import GeneratorFacts
from kantor.data.sources import pythia as pythia8
from kantor.data.sources.base import Chunk, Source
from kantor.errors import InputError
from kantor.results import Column

CONSTANTS = {"proton_mass": 0.93827, "electron_mass": 0.000511}  # [GeV], as PYTHIA has them

_ELECTRON = 11
_PATIENCE = 10_000  # tries after which less than one event in a hundred is too few
_MILLIBARN = 1e6  # [nb]


@dataclass(frozen=True)
class CrossSection:
    """What one block knows of the cross section [nb] of the events it kept."""

    events: int
    value: float
    error: float


class DisEvents(Source):
    """Events in independently seeded blocks; a piece is as many whole blocks as fill a shard, but at least one."""

    def __init__(self, settings: DisSource, rows: int) -> None:
        self._settings = settings
        self._blocks = -(-settings.events // settings.block)
        self._blocks_per_piece = max(1, rows // settings.block)

    @property
    def features(self) -> Sequence[Column]:
        return [Column(name=name, unit="GeV") for name in ("px", "py", "pz")]

    @property
    def physics(self) -> DisPhysics:
        return self._settings.physics()

    @property
    def constants(self) -> Mapping[str, float]:
        return CONSTANTS

    @property
    def pieces(self) -> int:
        return -(-self._blocks // self._blocks_per_piece)

    def chunks(self, piece: int) -> Iterator[Chunk]:
        first = piece * self._blocks_per_piece
        for block in range(first, min(first + self._blocks_per_piece, self._blocks)):
            momenta, cross_section = generate(self._settings, block)
            names = (column.name for column in self.features)
            yield Chunk(dict(zip(names, momenta.T, strict=True)), facts=cross_section)

    def describe(self) -> str:
        return f"{self._settings.events:,} DIS events from PYTHIA"

    def origin(self, piece: int) -> Mapping[str, str | int]:
        return {"seed": self._settings.seed, "source": self._settings.canonical()}

    def facts(self, parts: Sequence[object]) -> GeneratorFacts:
        """What PYTHIA says about all blocks together: their mean, weighted by events."""
        blocks = [part for part in parts if isinstance(part, CrossSection)]
        events = sum(block.events for block in blocks)
        return GeneratorFacts(
            name="PYTHIA",
            version=pythia8.version(),
            cross_section=sum(block.events * block.value for block in blocks) / events,
            cross_section_error=sqrt(sum((block.events * block.error) ** 2 for block in blocks)) / events,
        )


def generate(source: DisSource, block: int) -> tuple[np.ndarray, CrossSection]:
    """Momenta (n, 3) = (px, py, pz) [GeV] of one block, and the cross section; the last block may be shorter.

    A block depends on the settings and its number only, so that any number of processes makes the same events.

    Raises:
        InputError: PYTHIA is not installed, or refuses the settings, or hardly any event passes them.
    """
    events = min(source.block, source.events - block * source.block)
    pythia = _pythia(source, pythia8.block_seed(source.seed, block))
    momenta = np.empty((events, 3))
    kept = generated = tried = 0
    while kept < events:
        if tried >= _PATIENCE and kept < tried / 100:
            raise InputError(
                f"PYTHIA kept {kept} events out of {tried:,} tries",
                where=_settings(source),
                cure="choose q2_min and scattered_energy_min well inside what the beam energies allow",
            )
        tried += 1
        if not pythia.next():
            continue
        generated += 1
        px, py, pz = _scattered_electron(pythia, source.parton_shower)
        # PYTHIA cuts on the Q2 of its hard process; in one event of 200 the shower's recoil still moves the electron.
        energy = hypot(px, py, pz)
        if energy > source.scattered_energy_min and 2 * source.electron_energy * (energy - pz) > source.q2_min:
            momenta[kept] = px, py, pz
            kept += 1
    return momenta, _cross_section(pythia.infoPython(), kept, generated)


def _pythia(source: DisSource, seed: int) -> Any:
    refused = InputError(
        "PYTHIA refuses these beams and cuts (its reason is printed above)",
        where=_settings(source),
        cure="raise the beam energies or lower q2_min",
    )
    return pythia8.start(_cards(source), seed, refused)


def _cards(source: DisSource) -> list[str]:
    shower = ["SpaceShower:dipoleRecoil = on"] if source.parton_shower else ["PartonLevel:all = off"]
    return [
        "Beams:idA = 2212",
        f"Beams:idB = {_ELECTRON}",
        "Beams:frameType = 2",
        f"Beams:eA = {source.proton_energy!r}",
        f"Beams:eB = {source.electron_energy!r}",
        "WeakBosonExchange:ff2ff(t:gmZ) = on",
        f"PhaseSpace:Q2Min = {source.q2_min!r}",
        "PDF:lepton = off",
        "TimeShower:QEDshowerByL = off",
        "HadronLevel:all = off",
        *shower,
    ]


def _scattered_electron(pythia: Any, parton_shower: bool) -> tuple[float, float, float]:
    """(px, py, pz) [GeV], turned by pi around the x axis: PYTHIA's second beam comes along -z."""
    record = pythia.event if parton_shower else pythia.process
    # 5 and 6 are the outgoing legs of the hard process.
    electron = record[6] if record[6].id() == _ELECTRON else record[5]
    if parton_shower:
        electron = record[electron.iBotCopyId()]
    return electron.px(), -electron.py(), -electron.pz()


def _cross_section(info: Any, kept: int, generated: int) -> CrossSection:
    fraction = kept / generated
    value, error = info.sigmaGen() * _MILLIBARN, info.sigmaErr() * _MILLIBARN
    binomial = sqrt(fraction * (1 - fraction) / generated)
    return CrossSection(kept, value * fraction, hypot(error * fraction, value * binomial))


def _settings(source: DisSource) -> str:
    return (
        f"electron_energy={source.electron_energy:g} GeV, proton_energy={source.proton_energy:g} GeV, "
        f"q2_min={source.q2_min:g} GeV2, scattered_energy_min={source.scattered_energy_min:g} GeV"
    )
