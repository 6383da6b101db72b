"""A detector as volumes of Geant4, whose cells add up what is deposited in them.

From the world inwards: section, layer, plate, and in plates that are read out the cells: first y, then x in a grid; the
cylinder that the cells cover, angle, radius in a cylinder. Lengths in mm, which is Geant4's own unit.

This module is imported only in a process that `process.py` has started: Geant4 is one for each process.
"""

from importlib import import_module
from math import pi
from typing import Any

from kantor.config import Detector, Plate, Section
from kantor.errors import InputError

# The types that geant4-pybind ships are wrong: no rotation, no mother volume, actions of one class only.
g4: Any = import_module("geant4_pybind")
Volume = Any  # a G4LogicalVolume

_MARGIN = 200.0  # of vacuum around the detector [mm]
ENERGY = "energy"  # name of the scorers


class Construction(g4.G4VUserDetectorConstruction):
    """Builds the detector, and a scorer of the shape of each section's feature."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self._detector = detector
        # Geant4 keeps pointers only.
        self._kept: list[Any] = []
        self._cells: dict[str, list[Volume]] = {}

    def Construct(self) -> Any:  # noqa: N802 - Geant4's name
        detector = self._detector
        half = _MARGIN + max(detector.radius or 0.0, *detector.size)
        world = self._logical("world", g4.G4Box("world", half, half, _MARGIN + detector.depth), "G4_Galactic")
        begin = 0.0
        for name, section in detector.sections.items():
            thickness = section.layers * section.thickness
            self._cells[name] = []
            block = self._logical(name, self._across(name, thickness), "G4_Galactic")
            self._place(name, block, world, begin + thickness / 2)
            self._build_section(name, section, block)
            begin += thickness
        return self._keep(g4.G4PVPlacement(None, g4.G4ThreeVector(), world, "world", None, False, 0))

    def ConstructSDandField(self) -> None:  # noqa: N802 - Geant4's name
        for name, section in self._detector.sections.items():
            counter = self._keep(g4.G4MultiFunctionalDetector(name))
            counter.RegisterPrimitive(self._keep(self._scorer(section)))
            g4.G4SDManager.GetSDMpointer().AddNewDetector(counter)
            for cell in self._cells[name]:
                self.SetSensitiveDetector(cell, counter)

    def _scorer(self, section: Section) -> Any:
        """Sums over copies of volumes, which are counted from the cell outwards; the section has one copy only."""
        first, second = section.cells
        grid = self._detector.geometry == "grid"
        # A cell is: x in y in plate in layer in section; or radius in angle in cylinder in plate in layer in section.
        depth_first, depth_second, depth_layer = (0, 1, 3) if grid else (1, 0, 4)
        layers, depth = (1, depth_layer + 1) if section.summed else (section.layers, depth_layer)
        return g4.G4PSEnergyDeposit3D(ENERGY, layers, first, second, depth, depth_first, depth_second)

    def _build_section(self, name: str, section: Section, block: Volume) -> None:
        label = f"{name}-layer"
        layer = self._logical(label, self._across(label, section.thickness), "G4_Galactic")
        self._repeat(label, layer, block, g4.kZAxis, section.layers, section.thickness)
        begin = -section.thickness / 2
        for number, plate in enumerate(section.plates):
            label = f"{name}-{number}"
            volume = self._logical(label, self._across(label, plate.thickness), plate.material)
            self._place(label, volume, layer, begin + plate.thickness / 2)
            begin += plate.thickness
            if plate.read_out:
                self._cells[name].append(self._divide(label, plate, section, volume))

    def _divide(self, label: str, plate: Plate, section: Section, volume: Volume) -> Volume:
        """Divide a plate into cells, all of which are one volume in many copies."""
        first, second = section.cells
        half = plate.thickness / 2
        if self._detector.geometry == "grid":
            x, y = self._detector.size
            row = self._logical(f"{label}-y", g4.G4Box(f"{label}-y", x / 2, y / second / 2, half), plate.material)
            self._repeat(f"{label}-y", row, volume, g4.kYAxis, second, y / second)
            cell = self._logical(
                f"{label}-x", g4.G4Box(f"{label}-x", x / first / 2, y / second / 2, half), plate.material
            )
            self._repeat(f"{label}-x", cell, row, g4.kXAxis, first, x / first)
            return cell
        (radius,), angle = self._detector.size, 2 * pi / first
        inner = self._logical(f"{label}-in", g4.G4Tubs(f"{label}-in", 0, radius, half, 0, 2 * pi), plate.material)
        self._place(f"{label}-in", inner, volume, 0.0)
        sector = self._logical(f"{label}-a", g4.G4Tubs(f"{label}-a", 0, radius, half, 0, angle), plate.material)
        # Angles are counted from -pi, as in the CaloChallenge.
        self._repeat(f"{label}-a", sector, inner, g4.kPhi, first, angle, -pi)
        cell = self._logical(f"{label}-r", g4.G4Tubs(f"{label}-r", 0, radius / second, half, 0, angle), plate.material)
        self._repeat(f"{label}-r", cell, sector, g4.kRho, second, radius / second)
        return cell

    def _across(self, name: str, thickness: float) -> Any:
        """The whole cross section of the detector."""
        if self._detector.geometry == "grid":
            x, y = self._detector.size
            return g4.G4Box(name, x / 2, y / 2, thickness / 2)
        return g4.G4Tubs(name, 0, self._detector.radius or self._detector.size[0], thickness / 2, 0, 2 * pi)

    def _logical(self, name: str, solid: Any, material: str) -> Volume:
        self._keep(solid)
        return self._keep(g4.G4LogicalVolume(solid, found_material(material), name))

    def _place(self, name: str, volume: Volume, mother: Volume, z: float) -> None:
        self._keep(g4.G4PVPlacement(None, g4.G4ThreeVector(0, 0, z), volume, name, mother, False, 0))

    def _repeat(
        self,
        name: str,
        volume: Volume,
        mother: Volume,
        axis: Any,
        count: int,
        width: float,
        offset: float = 0.0,
    ) -> None:
        self._keep(g4.G4PVReplica(name, volume, mother, axis, count, width, offset))

    def _keep(self, made: Any) -> Any:
        self._kept.append(made)
        return made


def found_material(name: str) -> Any:
    """A material of Geant4's data base.

    Raises:
        InputError: there is none of this name.
    """
    found = g4.G4NistManager.Instance().FindOrBuildMaterial(name)
    if found is None:
        raise InputError(
            f"Geant4 knows no material '{name}'",
            where="detector",
            cure="use a name of its NIST data base, such as G4_Pb, G4_W, G4_Si, G4_lAr, G4_Fe, G4_PbWO4",
        )
    return found
