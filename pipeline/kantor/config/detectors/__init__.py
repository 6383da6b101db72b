"""Detectors that Geant4 simulates: plates behind each other, divided into cells.

One that comes with Kantor is a YAML file beside this.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, model_validator

from kantor.config.base import Count, Name, NonNegative, Positive, Settings, known
from kantor.shapes import Shape

_SHIPPED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


class Plate(Settings):
    """A plate across the whole detector."""

    material: str = Field(description="name in Geant4's NIST data base, such as G4_Pb, G4_lAr, G4_PbWO4")
    thickness: Positive = Field(description="along the beam [mm]")
    read_out: bool = Field(default=True, description="whether what is deposited in it counts")


class Section(Settings):
    """Equal layers behind each other, which are one feature."""

    layers: Count = Field(description="number of layers")
    plates: Annotated[list[Plate], Field(min_length=1)] = Field(description="plates of one layer, along the beam")
    cells: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(
        description="number of cells of a layer: along x and y in a grid, along angle and radius in a cylinder"
    )
    summed: bool = Field(
        default=True,
        description="the cells of all layers are added up, and the shape is that of 'cells'; else it is (layers, "
        "*cells), in a detector of one section",
    )

    @property
    def shape(self) -> Shape:
        first, second = self.cells
        return (first, second) if self.summed else (self.layers, first, second)

    @property
    def thickness(self) -> float:
        """Of one layer [mm]."""
        return sum(plate.thickness for plate in self.plates)


class Detector(Settings):
    """A calorimeter along z, whose front face is at z = 0, in vacuum."""

    geometry: Literal["grid", "cylinder"] = Field(default="grid", description="how layers are divided into cells")
    size: Annotated[list[Positive], Field(min_length=1, max_length=2)] = Field(
        description="what the cells cover [mm]: x and y of a grid, the radius of a cylinder"
    )
    radius: Positive | None = Field(
        default=None, description="of the plates of a cylinder, beyond the cells [mm]; none: that of the cells"
    )
    sections: Annotated[dict[Name, Section], Field(min_length=1)] = Field(
        description="features in the order of depth: name -> section"
    )
    sampling_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="what deposits are divided by"
    )
    threshold: NonNegative = Field(default=0.0, description="cells below it are 0, after that division [MeV]")
    cut: Positive = Field(
        default=0.7, description="production cut: secondaries that would range less are not tracked [mm]"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = 1 if self.geometry == "cylinder" else 2
        if len(self.size) != wanted:
            raise ValueError(f"size: a {self.geometry} has {wanted}, and there are {len(self.size)}")
        if self.radius is not None and (self.geometry == "grid" or self.radius < self.size[0]):
            raise ValueError("radius: that of the plates of a cylinder, at least that of its cells")
        if len(self.sections) > 1 and not all(section.summed for section in self.sections.values()):
            raise ValueError("summed: only a detector of one section has its layers apart")
        if "energy" in self.sections:
            raise ValueError("a section cannot be called 'energy', which is the incident energy")
        return self

    @property
    def depth(self) -> float:
        """Of all layers [mm]."""
        return sum(section.layers * section.thickness for section in self.sections.values())


def shipped(name: str) -> Detector:
    """A detector that comes with Kantor, for validators.

    Raises:
        ValueError: there is none of this name.
    """
    known(name, _SHIPPED, "detector")
    return Detector.model_validate(yaml.safe_load(_SHIPPED[name].read_text(encoding="utf-8")))
