"""One block of showers: primaries, physics, run.

This module is imported only in a process that `process.py` has started: Geant4 is one for each process.
"""

import os
from collections.abc import Sequence
from math import cos, prod, radians, sin, tan
from typing import Any

import numpy as np

from kantor.config import Geant4Source
from kantor.data.geant4.primaries import draw_energies
from kantor.data.geant4.process import Showers
from kantor.data.geant4.tables import missing_elements
from kantor.data.geant4.volumes import ENERGY, Construction, found_material, g4
from kantor.errors import InputError

_BEFORE = 1.0  # the particle starts so far before the front face [mm]


def simulate(source: Geant4Source, block: int, parent: int) -> Showers:
    """One block; this process ends where `parent`, which waits for it, is gone.

    Raises:
        InputError: a material is unknown, or G4LEDATA has no tables for one of its elements.
    """
    detector = source.geometry
    _check_materials([plate.material for section in detector.sections.values() for plate in section.plates])
    rng = np.random.default_rng([source.seed, block])
    energies = draw_energies(source, min(source.block, source.events - block * source.block), rng)
    manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.Serial)
    # Geant4 keeps pointers only, and wants to know the physics before the actions are made.
    construction, physics = Construction(detector), _Physics()
    manager.SetUserInitialization(construction)
    manager.SetUserInitialization(physics)
    reader = _Reader(source, len(energies), parent)
    actions = _Actions([_Gun(source, energies), reader])
    manager.SetUserInitialization(actions)
    # The default that a physics list sets has no effect from Python.
    g4.G4UImanager.GetUIpointer().ApplyCommand(f"/run/setCut {detector.cut!r} mm")
    g4.HepRandom.setTheSeed(int(rng.integers(2**63)))
    manager.Initialize()
    manager.BeamOn(len(energies))
    deposits = {name: deposit / detector.sampling_fraction for name, deposit in reader.deposits.items()}
    shapes = {name: section.shape for name, section in detector.sections.items()}
    showers = {
        name: np.where(deposit < detector.threshold, 0.0, deposit).reshape(len(energies), *shapes[name])
        for name, deposit in deposits.items()
    }
    return Showers({**showers, "energy": energies}, _version())


def _version() -> str:
    """Of Geant4: its number 1141 is 11.4.1."""
    release, patch = divmod(g4.G4VERSION_NUMBER, 10)
    return f"{release // 10}.{release % 10}.{patch}"


def _check_materials(names: Sequence[str]) -> None:
    for name in ("G4_Galactic", *dict.fromkeys(names)):
        elements = [element.GetZasInt() for element in found_material(name).GetElementVector()]
        missing = missing_elements(os.environ, elements)
        if missing:
            raise InputError(
                f"the material '{name}' has the element Z = {missing[0]}, for which there are no data tables",
                where=f"G4LEDATA={os.environ['G4LEDATA']}",
                cure="unset G4LEDATA, and tables up to uranium are made; or name the directory of a whole G4EMLOW",
            )


class _Physics(g4.G4VModularPhysicsList):
    """Electromagnetic physics of option 1, without fluorescence, whose tables are not made."""

    def __init__(self) -> None:
        super().__init__()
        self.SetVerboseLevel(0)
        self._electromagnetic = g4.G4EmStandardPhysics_option1()
        self._electromagnetic.SetVerboseLevel(0)
        self.RegisterPhysics(self._electromagnetic)
        parameters = g4.G4EmParameters.Instance()
        parameters.SetFluo(False)
        parameters.SetAuger(False)
        parameters.SetVerbose(0)


class _Gun(g4.G4VUserPrimaryGeneratorAction):
    """One particle for each event, towards a point of the front face."""

    def __init__(self, source: Geant4Source, energies: np.ndarray) -> None:
        super().__init__()
        self._energies = iter(energies.tolist())
        angle, (x, y) = radians(source.angle), source.position
        self._gun = g4.G4ParticleGun(1)
        self._gun.SetParticleDefinition(g4.G4ParticleTable.GetParticleTable().FindParticle(source.particle))
        self._gun.SetParticleMomentumDirection(g4.G4ThreeVector(sin(angle), 0, cos(angle)))
        self._gun.SetParticlePosition(g4.G4ThreeVector(x - _BEFORE * tan(angle), y, -_BEFORE))

    def GeneratePrimaries(self, event: Any) -> None:  # noqa: N802 - Geant4's name
        self._gun.SetParticleEnergy(next(self._energies) * g4.GeV)
        self._gun.GeneratePrimaryVertex(event)


class _Reader(g4.G4UserEventAction):
    """Deposits of each section in each event, (n, cells) [MeV]."""

    def __init__(self, source: Geant4Source, events: int, parent: int) -> None:
        super().__init__()
        sections = source.geometry.sections
        self.deposits = {name: np.zeros((events, prod(section.shape))) for name, section in sections.items()}
        self._places: dict[str, int] = {}
        self._event = 0
        self._parent = parent

    def EndOfEventAction(self, event: Any) -> None:  # noqa: N802 - Geant4's name
        if os.getppid() != self._parent:
            # Nobody waits for these showers any more.
            os._exit(1)
        if not self._places:
            manager = g4.G4SDManager.GetSDMpointer()
            self._places = {name: manager.GetCollectionID(f"{name}/{ENERGY}") for name in self.deposits}
        found = event.GetHCofThisEvent()
        for name, place in self._places.items():
            row = self.deposits[name][self._event]
            for cell, deposit in found.GetHC(place):
                row[cell] = deposit
        self._event += 1


class _Actions(g4.G4VUserActionInitialization):
    def __init__(self, actions: Sequence[object]) -> None:
        super().__init__()
        self._actions = actions

    def Build(self) -> None:  # noqa: N802 - Geant4's name
        for action in self._actions:
            self.SetUserAction(action)
