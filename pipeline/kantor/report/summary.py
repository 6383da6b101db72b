"""The tables of a report as files and as lines on a terminal."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from kantor.machine.progress import duration
from kantor.report.numbers import common_power, percent, rate, with_error
from kantor.results import Report, ReportModel, ReportRow
from kantor.validation.catalogue import STATISTICS

COLUMNS = tuple(ReportRow.model_fields)
Key = tuple[str, str | None]


def csv_text(report: Report) -> str:
    """summary.csv: the rows of report.json, one line each; seeds are separated by spaces, unknown numbers empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in report.rows:
        values = row.model_dump(mode="json") | {"seeds": " ".join(map(str, row.seeds))}
        writer.writerow(["" if values[name] is None else values[name] for name in COLUMNS])
    return text.getvalue()


def summary_lines(directory: Path) -> list[str]:
    """The headline table of the report in `directory`, one table for each dataset.

    Raises:
        InputError: there is no report, or it is damaged.
    """
    report = Report.read(directory / "report.json")
    lines = [report.title]
    for dataset in dict.fromkeys(model.dataset for model in report.models):
        models = [model for model in report.models if model.dataset == dataset]
        rows = [row for row in report.rows if row.dataset == dataset]
        seeds = max(len(model.seeds) for model in models)
        what = f", mean and standard error over {seeds} seeds" if seeds > 1 else ""
        lines += ["", f"{dataset}: generated against held-out events, {models[0].rows:,} rows each{what}"]
        lines += _aligned(_table(models, rows))
    lines += ["", f"report: {directory / 'index.html'}"]
    return lines


def shown(rows: Sequence[ReportRow]) -> tuple[str, list[str]]:
    """Truth against truth, and the value of each row with its uncertainty, all with the same power of ten.

    Args:
        rows: the same statistic of several trainings.
    """
    references = [(row.reference, row.reference_low, row.reference_high) for row in rows[:1]]
    intervals = [*references, *((row.value, row.low, row.high) for row in rows)]
    if STATISTICS[rows[0].statistic].is_fraction:
        first, *others = (percent(*each) for each in intervals)
    else:
        pairs = [(value, (high - low) / 2) for value, low, high in intervals]
        power = common_power(value for value, _ in pairs)
        first, *others = (with_error(*pair, power) for pair in pairs)
    return first, others


def labelled(row: ReportRow) -> str:
    """What the row is, with its unit."""
    return f"{row.label} [{row.unit}]" if row.unit else row.label


def by_statistic(rows: Mapping[str, Sequence[ReportRow]]) -> dict[Key, dict[str, ReportRow]]:
    """(statistic, observable) -> training -> its row, in the order in which they were measured.

    Args:
        rows: training -> rows.
    """
    found: dict[Key, dict[str, ReportRow]] = {}
    for training, of in rows.items():
        for row in of:
            found.setdefault((row.statistic, row.observable), {})[training] = row
    return found


def agreement(rows: Sequence[ReportRow], statistic: str) -> str:
    """In how many observables a one-dimensional statistic is as in truth, and where it is worst."""
    mine = [row for row in rows if row.statistic == statistic]
    good = sum(row.level == "good" for row in mine)
    if good == len(mine):
        return f"{good} of {len(mine)}"
    worst = max(mine, key=lambda row: row.value / row.reference if row.reference > 0 else 0.0)
    return f"{good} of {len(mine)}, worst {worst.label.partition(' of ')[2]}"


def _table(models: Sequence[ReportModel], rows: Sequence[ReportRow]) -> list[list[str]]:
    mine = {model.training: [row for row in rows if row.training == model.training] for model in models}
    table = [["", "truth vs truth", *mine]]
    for found in by_statistic(mine).values():
        first = next(iter(found.values()))
        if first.headline:
            reference, values = shown(list(found.values()))
            cells = {name: f"{value}  {row.verdict}" for (name, row), value in zip(found.items(), values, strict=True)}
            table.append([labelled(first), reference, *(cells.get(name, "–") for name in mine)])
    table.append(["observables as truth (KS)", "", *(agreement(of, "ks") for of in mine.values())])
    table.append(["generation, events/s/core", "", *(rate(model.generation_rate) for model in models)])
    table.append(["training time", "", *(duration(model.training_seconds) for model in models)])
    return table


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return [lines[0], "─" * max(map(len, lines)), *lines[1:]]
