"""A study: the whole file, with the comparisons and the targets that are made of its trainings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from kantor.config.base import Fraction, Name, Seed, Settings, known, parsed
from kantor.config.datasets import Dataset
from kantor.config.samples import GeneratedSample
from kantor.config.trainings import Training


class Validation(Settings):
    """The comparison of generated with held-out events."""

    rows: Annotated[int, Field(ge=100)] = Field(
        default=10_000,
        description="rows of each sample; at most half of the test split, whose other half is the reference",
    )
    splits: Annotated[int, Field(ge=5)] = Field(
        default=20, description="random splits of held-out events for the truth-against-truth reference"
    )
    replicas: Annotated[int, Field(ge=20)] = Field(
        default=100, description="bootstrap replicas behind one-dimensional errors"
    )
    bins: Annotated[int, Field(ge=5)] = Field(default=50, description="bins of each histogram")
    confidence: Fraction = Field(default=0.95, description="level of the Clopper-Pearson intervals")
    seed: Seed = Field(default=1, description="random seed of generation, splits and replicas")
    observables: dict[Name, dict[str, str]] = Field(
        default={},
        description="dataset -> further quantities to compare: name -> expression of the columns; an expression of "
        "arrays may give several (docs/arrays.md)",
    )

    @field_validator("observables")
    @classmethod
    def _observables_parse(cls, observables: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        parsed(text for named in observables.values() for text in named.values())
        return observables

    def for_dataset(self, dataset: str) -> Self:
        """The same settings with the observables of one dataset only."""
        mine = {name: named for name, named in self.observables.items() if name == dataset}
        return self.model_copy(update={"observables": mine})


class Target(Settings):
    """What one target of the workflow trains, validates and reports."""

    title: str | None = Field(default=None, description="title of its report; none: that of the file")
    trainings: Annotated[list[Name], Field(min_length=1)] = Field(description="names of trainings")
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        default=[1], description="one model is trained for each seed"
    )


class Config(Settings):
    """Everything a run of the workflow is made from."""

    title: str = Field(default="Kantor", description="title of the report")
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]
    trainings: Annotated[dict[Name, Training], Field(min_length=1)]
    validation: Validation = Validation()
    targets: dict[Name, Target] = Field(
        description="run: what `snakemake` and `make run` do; any other name: what `snakemake report-NAME` does"
    )
    samples: dict[Name, GeneratedSample] = Field(
        default={}, description="files of generated events, which `snakemake samples` makes"
    )

    @field_validator("targets")
    @classmethod
    def _run_is_there(cls, targets: dict[str, Target]) -> dict[str, Target]:
        if "run" not in targets:
            raise ValueError("'run' is missing, the target of `snakemake` without a name: add it, or rename one")
        return targets

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name, training in self.trainings.items():
            known(training.dataset, self.datasets, f"trainings.{name}.dataset")
        for name, target in self.targets.items():
            for training in target.trainings:
                known(training, self.trainings, f"targets.{name}.trainings")
        for name, sample in self.samples.items():
            known(sample.training, self.trainings, f"samples.{name}.training")
        for dataset in self.validation.observables:
            known(dataset, self.datasets, "validation.observables")
        return self

    @model_validator(mode="after")
    def _trainings_suit_their_data(self) -> Self:
        for name, training in self.trainings.items():
            source = self.datasets[training.dataset].source
            with _inside(f"trainings.{name}"):
                training.objective.check_weights(source.weighted and training.signed_weights == "keep")
                training.check_conditions(source.condition_names)
            with _inside(f"trainings.{name}.terms"):
                for term in training.terms:
                    term.check_conditions(source.condition_names, training.dataset)
        return self

    @model_validator(mode="after")
    def _samples_suit_their_models(self) -> Self:
        for name, sample in self.samples.items():
            dataset = self.trainings[sample.training].dataset
            with _inside(f"samples.{name}"):
                sample.check_conditions(self.datasets[dataset].source.condition_names, dataset)
        return self


@contextmanager
def _inside(field: str) -> Iterator[None]:
    """Say where in the file it is that parts disagree."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
