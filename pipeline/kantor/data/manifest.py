"""The manifest of a staged dataset: what its shards hold, and how to know that they are whole."""

from typing import Annotated, Literal

from pydantic import Field

from kantor.config import Physics
from kantor.results import Column, Result, offsets_of, shapes_of
from kantor.shapes import Shape

FILE_NAME = "manifest.json"
Rows = Annotated[int, Field(ge=0)]


class Shard(Result):
    """One HDF5 file of rows."""

    file: str = Field(description="file name, beside the manifest")
    rows: Rows
    bytes: int
    sha256: str


class Dropped(Result):
    """Rows of the source that were left out."""

    invalid: Rows = Field(description="rows with NaN or infinity, or with values too large for float32")
    cuts: Rows = Field(description="valid rows that fail a cut")


class SplitRows(Result):
    """How `numpy.random.default_rng(seed).permutation(rows)` is divided: training rows first, then validation, test."""

    seed: int
    train: Rows
    validation: Rows
    test: Rows

    def bounds(self, split: Literal["train", "validation", "test"]) -> tuple[int, int]:
        """Where a split begins and ends in the permutation."""
        ends = {
            "train": self.train,
            "validation": self.train + self.validation,
            "test": self.train + self.validation + self.test,
        }
        return ends[split] - getattr(self, split), ends[split]


class GeneratorFacts(Result):
    """What the event generator says about its run."""

    name: str
    version: str
    cross_section: float | None = Field(
        default=None, description="of the generated events, before the cuts, if known [nb]"
    )
    cross_section_error: float | None = Field(default=None, description="its statistical error [nb]")
    data: str | None = Field(default=None, description="which data tables it read")


class Manifest(Result):
    """manifest.json: written last, so that a dataset without it is not complete."""

    format: Literal[1] = 1
    kantor: str = Field(description="version that staged the dataset")
    dataset: str
    features: list[Column]
    conditions: list[Column]
    weighted: bool
    shards: list[Shard]
    rows: Rows = Field(description="rows of all shards together")
    dropped: Dropped
    split: SplitRows
    source: dict[str, object] = Field(description="settings of the source, defaults filled in")
    cuts: list[str] = Field(description="expressions that hold for every row")
    quantities: dict[str, str] = Field({}, description="name -> expression, which cuts may name")
    physics: Physics | None = Field(None, description="what is known of the physics of these events")
    constants: dict[str, float] = Field(
        {}, description="constants of nature that the generator used, such as proton_mass [GeV]"
    )
    generator: GeneratorFacts | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.features)

    @property
    def condition_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.conditions)

    @property
    def offsets(self) -> dict[str, float]:
        """Offset of every column that has one, by name."""
        return offsets_of([*self.features, *self.conditions])

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every column that is an array, by name."""
        return shapes_of([*self.features, *self.conditions])

    @property
    def units(self) -> dict[str, str]:
        """Unit of every feature and condition, by name."""
        return {column.name: column.unit for column in [*self.features, *self.conditions]}
