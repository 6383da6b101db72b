"""What a report is made from: the files of its models, grouped by training, and statistics combined over seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import ValidationError

from kantor.errors import InputError
from kantor.machine.files import content
from kantor.results import Comparison, Measurement, Report, ReportModel, ReportRow, TrainingRow, TrainingRun
from kantor.validation.catalogue import STATISTICS
from kantor.validation.histograms import Figures


@dataclass(frozen=True)
class ModelFiles:
    """The files of one (training, seed)."""

    metrics: Path
    figures: Path
    curves: Path
    run: Path

    @classmethod
    def of(cls, model: Path, validation: Path) -> Self:
        """From the directory of the model and that of its validation."""
        return cls(
            metrics=validation / "metrics.json",
            figures=validation / "validation.h5",
            curves=model / "metrics.jsonl",
            run=model / "run.json",
        )


@dataclass(frozen=True, eq=False)
class Model:
    """One trained and validated model."""

    comparison: Comparison
    figures: Figures
    curves: list[TrainingRow]
    run: TrainingRun

    @classmethod
    def read(cls, files: ModelFiles) -> Self:
        """Read all four files.

        Raises:
            InputError: one of them is missing or damaged, or they are not of the same model.
        """
        model = cls(
            Comparison.read(files.metrics),
            Figures.read(files.figures),
            _read_rows(files.curves),
            TrainingRun.read(files.run),
        )
        trained, compared = ((of.training, of.seed) for of in (model.run, model.comparison))
        if trained != compared:
            raise InputError(
                f"is a comparison of {compared[0]}, seed {compared[1]}, not of {trained[0]}, seed {trained[1]}",
                where=files.metrics,
                cure="give models and validations in the same order",
            )
        unknown = [found.statistic for found in model.comparison.measurements if found.statistic not in STATISTICS]
        if unknown:
            raise InputError(
                f"holds the statistic '{unknown[0]}', which this version does not know",
                where=files.metrics,
                cure="validate the model again",
            )
        return model


@dataclass(frozen=True, eq=False)
class Group:
    """One training: its models, one for each seed."""

    training: str
    models: list[Model]

    @property
    def seeds(self) -> list[int]:
        return [model.run.seed for model in self.models]

    @property
    def first(self) -> Model:
        return self.models[0]


@dataclass(frozen=True, eq=False)
class Section:
    """All trainings on one dataset; the truth is the same for all."""

    dataset: str
    groups: list[Group]

    @property
    def truth(self) -> Figures:
        return self.groups[0].first.figures

    @property
    def comparison(self) -> Comparison:
        return self.groups[0].first.comparison


def read_sections(files: Iterable[ModelFiles]) -> list[Section]:
    """Read the models and group them by dataset and training, in the order given.

    Raises:
        InputError: a file is missing or damaged, or models of one dataset were compared with different truth.
    """
    sections: dict[str, dict[str, list[Model]]] = {}
    truth: dict[str, Figures] = {}
    for each in files:
        model = Model.read(each)
        dataset = model.comparison.dataset
        _check_truth(truth.setdefault(dataset, model.figures), model.figures, each.metrics)
        sections.setdefault(dataset, {}).setdefault(model.run.training, []).append(model)
    return [
        Section(dataset, [Group(training, models) for training, models in trainings.items()])
        for dataset, trainings in sections.items()
    ]


def summarise(title: str, sections: Sequence[Section]) -> Report:
    """Every statistic of every training, with its verdict."""
    groups = [(section, group) for section in sections for group in section.groups]
    return Report(
        title=title,
        models=[_model(section, group) for section, group in groups],
        rows=[row for section, group in groups for row in _rows(section, group)],
    )


def _read_rows(path: Path) -> list[TrainingRow]:
    try:
        lines = content(path, "train the model again").splitlines()
        return [TrainingRow.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise InputError(
            "holds a line that is not a row of metrics", where=path, cure="remove it, and train the model again"
        ) from error


def _check_truth(first: Figures, other: Figures, where: Path) -> None:
    pairs = zip(first.histograms, other.histograms, strict=False)
    same = len(first.histograms) == len(other.histograms) and all(
        np.array_equal(a.edges, b.edges) and np.array_equal(a.truth, b.truth) for a, b in pairs
    )
    if not same:
        raise InputError(
            "was compared with other true events than the models before it",
            where=where,
            cure="validate all models of a dataset with the same settings",
        )


def _model(section: Section, group: Group) -> ReportModel:
    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values)))

    objective = group.first.run.config.get("objective")
    return ReportModel(
        dataset=section.dataset,
        training=group.training,
        objective=str(objective["kind"]) if isinstance(objective, dict) and "kind" in objective else "",
        seeds=group.seeds,
        rows=section.comparison.rows,
        training_seconds=mean(model.run.seconds for model in group.models),
        validation_seconds=mean(model.comparison.seconds for model in group.models),
        generation_rate=mean(model.comparison.generation_rate for model in group.models),
    )


def _rows(section: Section, group: Group) -> list[ReportRow]:
    by_name: dict[tuple[str, str | None], list[Measurement]] = {}
    for model in group.models:
        for found in model.comparison.measurements:
            by_name.setdefault((found.statistic, found.observable), []).append(found)
    rows = []
    for found in by_name.values():
        combined = _combined(found, len(group.models))
        level, words = STATISTICS[combined.statistic].verdict(combined, section.comparison.effective_rows)
        rows.append(
            ReportRow(
                dataset=section.dataset,
                training=group.training,
                seeds=group.seeds,
                level=level,
                verdict=words,
                **combined.model_dump(),
            )
        )
    return rows


def _combined(found: Sequence[Measurement], seeds: int) -> Measurement:
    """Mean and standard error over seeds; one seed keeps its own interval."""
    if seeds == 1:
        return found[0]
    values = np.array([each.value for each in found])
    unseen = STATISTICS[found[0].statistic].unseen
    if unseen is not None:
        values = np.append(values, np.full(seeds - len(values), unseen))
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    p_values = [each.p_value for each in found if each.p_value is not None]
    return found[0].model_copy(
        update={
            "value": mean,
            "low": mean - error,
            "high": mean + error,
            "interval": f"standard error over {seeds} seeds",
            "p_value": min(1.0, len(p_values) * min(p_values)) if p_values else None,
        }
    )
