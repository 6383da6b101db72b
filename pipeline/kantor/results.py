"""The schema of every result that is written: what a number means is said here once."""

import os
import platform
import socket
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from kantor.errors import InputError
from kantor.machine.files import content, write_text
from kantor.shapes import Shape

R = TypeVar("R", bound="Result")


def _from_null(value: object) -> object:
    return float("nan") if value is None else value


# JSON knows no NaN: it is written as null, and stays "not known" when read back.
Number = Annotated[
    float,
    BeforeValidator(_from_null),
    PlainSerializer(lambda value: value if abs(value) < float("inf") else None, when_used="json"),
]


class Result(BaseModel):
    """Base of every written result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def write(self, path: Path) -> None:
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read a result.

        Raises:
            InputError: the file is missing, damaged or of another version.
        """
        try:
            return cls.model_validate_json(content(path, "run the stage that writes it"))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise InputError(
                f"is not a {cls.__name__} of this version ({field}: {first['msg']})",
                where=path,
                cure="remove it, and run the stage that writes it again",
            ) from error


class Column(Result):
    """A feature or condition: in each event a number, or an array of numbers."""

    name: str
    unit: str = Field(default="", description="such as GeV; empty: dimensionless")
    offset: float = Field(
        default=0.0, description="what the stored values are less by, where float32 could not tell them apart otherwise"
    )
    shape: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(), description="of the array that an event has; empty: a number"
    )

    def __str__(self) -> str:
        return f"{self.name} {self.shape}" if self.shape else self.name


def offsets_of(columns: Iterable[Column]) -> dict[str, float]:
    """Offset of every column that has one, by name."""
    return {column.name: column.offset for column in columns if column.offset}


def shapes_of(columns: Iterable[Column]) -> dict[str, Shape]:
    """Shape of every column that is an array, by name."""
    return {column.name: column.shape for column in columns if column.shape}


class Provenance(Result):
    """Where and with what a result was made."""

    host: str
    platform: str
    python: str
    versions: dict[str, str]
    cpus: int
    devices: list[str] = []
    slurm: dict[str, str] = Field(default={}, description="the SLURM_* variables that name the job")

    @classmethod
    def here(cls, devices: list[str] | None = None) -> "Provenance":
        return cls(
            host=socket.gethostname(),
            platform=platform.platform(),
            python=sys.version.split()[0],
            versions={name: found for name in _PACKAGES if (found := _version(name))},
            cpus=len(os.sched_getaffinity(0)),
            devices=devices or [],
            slurm={name: os.environ[name] for name in _SLURM if name in os.environ},
        )


_PACKAGES = "kantor torch triton numba ray mpi4py h5py numpy scipy scikit-learn pythia8mc snakemake".split()
_SLURM = "SLURM_JOB_ID SLURM_JOB_NODELIST SLURM_JOB_PARTITION SLURM_RESTART_COUNT".split()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---------------------------------------------------------------------------------------------------------- training


class TrainingRow(Result):
    """One line of metrics.jsonl. Losses and norms are those of the last update before the line."""

    step: int = Field(description="generator updates done")
    seconds: float = Field(description="time spent training so far, over all attempts [s]")
    critic_loss: Number = Field(description="not known (null) where there is no critic")
    generator_loss: Number
    distance: Number = Field(
        description="the critic's estimate of the objective's divergence (docs/objectives.md); without a critic, the "
        "generator's loss"
    )
    penalty: Number = Field(description="gradient penalty, without its factor (lambda, gamma / 2); null: none")
    gradient_norm: Number = Field(description="mean norm of the critic's gradient at the penalty's points; null: none")
    critic_learning_rate: float
    generator_learning_rate: float
    energy_distance: Number | None = Field(default=None, description="to the validation split, where it was evaluated")
    energy_distance_error: Number | None = None
    classifier_auc: Number | None = Field(
        default=None, description="of generated against validation events on held-out halves, where it was evaluated"
    )
    classifier_auc_error: Number | None = None


class TrainingRun(Result):
    """run.json: how a model came to be."""

    training: str
    seed: int
    steps: int
    best_step: int | None = Field(description="the step whose generator was kept; none: the last")
    workers: int
    parameters: dict[str, int] = Field(description="number of parameters of generator and critic")
    rows: int = Field(description="rows of the training split")
    effective_rows: float = Field(description="(sum w)^2 / sum w^2 of the training split")
    seconds: float = Field(description="time spent training, over all attempts [s]")
    attempts: int = Field(description="1 + how often the run was resumed")
    fingerprint: str = Field(description="checksum of the code that trained")
    config: dict[str, object] = Field(description="the training's configuration, defaults filled in")
    provenance: Provenance


# -------------------------------------------------------------------------------------------------------- validation


class Measurement(Result):
    """A statistic of generated against held-out events, beside the same statistic of truth against truth."""

    statistic: str = Field(description="short name, such as w1, ks, energy_distance, c2st_auc")
    label: str = Field(description="what the report calls it")
    observable: str | None = Field(
        default=None, description="the feature or derived quantity, or the law; none: all features jointly"
    )
    unit: str = ""
    value: Number
    low: Number = Field(description="lower end of the interval (68 % unless 'interval' says otherwise)")
    high: Number = Field(description="upper end of the interval")
    interval: str = "68 %"
    reference: Number = Field(description="truth against truth at the same size")
    reference_low: Number = Field(description="lower end of the reference's interval or spread")
    reference_high: Number
    p_value: float | None = Field(
        default=None,
        description="probability of a value at least as bad if both samples were equal, or the azimuth uniform",
    )
    headline: bool = Field(default=False, description="whether the summary shows it")


class Comparison(Result):
    """metrics.json: one model against held-out events."""

    training: str
    seed: int
    dataset: str
    rows: int = Field(description="rows of each sample")
    effective_rows: float = Field(description="(sum w)^2 / sum w^2 of the held-out sample")
    ranks: int
    seconds: float
    constant: list[str] = Field(
        default=[], description="columns that are constant in truth, which joint statistics leave out"
    )
    features: list[Column] = Field(default=[], description="of the dataset; empty: not known")
    conditions: list[Column] = []
    measurements: list[Measurement]
    weighted_means: dict[str, dict[str, float]] = Field(
        default={},
        description="policy for signed weights -> observable -> weighted mean of the truth; empty without weights",
    )
    generation_rate: float = Field(description="events generated per second on one core [1/s]")
    checksums: dict[str, str] = Field(default={}, description="file name -> sha256 of the model and of each shard")
    config: dict[str, object] = Field(description="settings of the comparison, defaults filled in")
    provenance: Provenance


# ------------------------------------------------------------------------------------------------------------- report


class ReportRow(Result):
    """One statistic of one training: a line of summary.csv. Over several seeds it is the mean and its error."""

    dataset: str
    training: str
    seeds: list[int]
    statistic: str = Field(description="short name, as in Measurement")
    label: str
    observable: str | None = None
    unit: str = ""
    value: Number
    low: Number
    high: Number
    interval: str = Field(description="what low and high are: a confidence level, or the standard error over seeds")
    reference: Number = Field(description="truth against truth at the same size")
    reference_low: Number
    reference_high: Number
    p_value: float | None = Field(default=None, description="over several seeds, the smallest times their number")
    headline: bool
    level: Literal["good", "fair", "poor"] | None = Field(description="how the value stands to the reference")
    verdict: str = Field(description="the same in words")


class ReportModel(Result):
    """One training, with means over its seeds."""

    dataset: str
    training: str
    objective: str
    seeds: list[int]
    rows: int = Field(description="rows of each compared sample")
    training_seconds: float
    validation_seconds: float
    generation_rate: float = Field(description="events generated per second on one core [1/s]")


class Report(Result):
    """report.json: everything the page's tables say."""

    title: str
    models: list[ReportModel]
    rows: list[ReportRow]
