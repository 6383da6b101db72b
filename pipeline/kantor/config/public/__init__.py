"""Public data sets in the layout in which they are published. What is in their files is a YAML file beside this."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator

from kantor.config.base import Count, Name, Settings
from kantor.config.sources import SourceOfFiles
from kantor.shapes import Shape

_HERE = Path(__file__).parent


class Layer(Settings):
    """Cells of a layer of a cylinder: angles evenly from -pi on, radii between edges [mm]."""

    angles: Count
    radii: Annotated[list[float], Field(min_length=2)]
    layers: Count = 1  # equal ones behind each other, which are one feature

    @property
    def shape(self) -> Shape:
        cells = (self.angles, len(self.radii) - 1)
        return cells if self.layers == 1 else (self.layers, *cells)


class Binning(Settings):
    """What a data set of the CaloChallenge is: how its voxels follow each other, and where it is published."""

    record: int = Field(description="at zenodo.org")
    md5: dict[str, str] = Field(description="checksum of each file that is published")
    threshold: float = Field(description="of a voxel [MeV]")
    layers: dict[Name, Layer]


class PublicSource(SourceOfFiles):
    """A public data set: its files on this machine, or downloaded."""

    paths: list[str] = Field(
        default=[],
        description="its files, read in this order; patterns, ~ and $VARIABLES are expanded; none: those "
        "that are published, of the user's cache",
    )
    download: bool = Field(
        default=False, description="download what is not in the user's cache (pip install 'kantor[download]')"
    )


class CaloChallengeSource(PublicSource):
    """Showers of the CaloChallenge (arXiv:2410.21611) [MeV] given the incident energy [MeV]."""

    kind: Literal["calochallenge"]
    dataset: Literal["1_photons", "1_pions", "2", "3"] = Field(description="which of its data sets")

    @field_validator("dataset", mode="before")
    @classmethod
    def _number_is_name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @property
    def binning(self) -> Binning:
        return _binning(self.dataset)

    @property
    def condition_names(self) -> list[str]:
        return ["energy"]


class CaloGanSource(PublicSource):
    """Showers of CaloGAN (arXiv:1712.10321) [MeV] given the incident energy [GeV]."""

    kind: Literal["calogan"]
    overflow: bool = Field(default=False, description="also the energy beside the cells of each layer, a feature (3,)")

    @property
    def condition_names(self) -> list[str]:
        return ["energy"]


JetCondition = Literal["pt", "eta", "mass", "num_particles"]


class JetNetSource(PublicSource):
    """Jets of JetNet (arXiv:2106.11535): particles' etarel, phirel, ptrel and mask."""

    kind: Literal["jetnet"]
    jets: Literal["g", "q", "t", "w", "z"] = Field(description="gluons, light quarks, top quarks, W or Z bosons")
    particles: Literal[30, 150] = Field(default=30, description="most particles of a jet, which names the data set")
    conditions: list[JetCondition] = Field(default=[], description="properties of the jet that it is generated for")

    @field_validator("conditions")
    @classmethod
    def _each_once(cls, value: list[JetCondition]) -> list[JetCondition]:
        if len(set(value)) < len(value):
            raise ValueError("a condition stands twice")
        return value

    @property
    def condition_names(self) -> list[str]:
        return list(self.conditions)


@cache
def _binning(dataset: str) -> Binning:
    return Binning.model_validate(yaml.safe_load((_HERE / f"calochallenge_{dataset}.yaml").read_text(encoding="utf-8")))
