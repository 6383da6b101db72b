"""Samples: files of generated events that the workflow makes of its models."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kantor.config.base import Count, Name, NonNegativeCount, Seed, Settings
from kantor.errors import InputError
from kantor.machine.inputs import found, is_remote


class GeneratedSample(Settings):
    """Events of a trained model in one file (docs/generate.md)."""

    training: Name = Field(description="name of a training")
    training_seed: Seed = Field(default=1, description="which of its models: the seed it was trained with")
    events: Count | None = Field(default=None, description="number of events, of a model without conditions")
    conditions: str | None = Field(
        default=None,
        description="file of conditions, of a model that has any: columns by their names, an event for each row; "
        "formats, ~ and $VARIABLES as for the paths of a dataset",
    )
    table: str | None = Field(
        default=None, description="ROOT tree or HDF5 group of the conditions; none: the only one there is"
    )
    carry: list[str] = Field(default=[], description="columns of that file to be written beside the events")
    strict: bool = Field(
        default=False, description="fail where conditions are outside of the range of the training data"
    )
    seed: Seed = Field(default=0, description="random seed of the events")
    start: NonNegativeCount = Field(
        default=0, description="number of the first event: where another sample of the seed ends, this one goes on"
    )
    format: Literal["h5", "root", "parquet", "npz", "csv"] = Field(
        default="h5", description="ending of the file: HDF5, ROOT, Parquet, NPZ or CSV"
    )

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        if (self.events is None) == (self.conditions is None):
            raise ValueError("give either 'events' or 'conditions'")
        if self.conditions is None and (self.carry or self.table is not None or self.strict):
            raise ValueError("'carry', 'table' and 'strict' are about a file of 'conditions'")
        return self

    def check_conditions(self, names: list[str], dataset: str) -> None:
        """Raise `ValueError` unless the model gets the conditions that it needs, for validators."""
        if names and self.conditions is None:
            raise ValueError(f"dataset '{dataset}' has conditions ({', '.join(names)}): give a file of 'conditions'")
        if not names and self.events is None:
            raise ValueError(f"dataset '{dataset}' has no conditions: give the number of 'events'")

    @property
    def file(self) -> str | None:
        """The file of conditions that is there now.

        Raises:
            InputError: it stands for several, or a variable has no value.
        """
        if self.conditions is None:
            return None
        files = found([self.conditions])
        if len(files) > 1:
            raise InputError(
                f"stands for {len(files)} files", where=self.conditions, cure="name one; a sample for each"
            )
        return files[0]

    @property
    def files(self) -> list[str]:
        """The user's own file on this machine that is read."""
        return [] if self.file is None or is_remote(self.file) else [self.file]
