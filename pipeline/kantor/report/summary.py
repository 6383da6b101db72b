"""The tables of a report as files and as lines on a terminal."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from kantor.progress import duration
from kantor.report.numbers import common_power, percent, rate, with_error
from kantor.results import Report, ReportModel, ReportRow

COLUMNS = tuple(ReportRow.model_fields)
# What the top of the page and the terminal show, in this order.
HEADLINES = (
    "energy_distance",
    "c2st_auc",
    "correlation",
    "modes",
    "high_quality",
    "reverse_kl",
    "mode_width",
    "q2_below_cut",
    "x_outside",
    "azimuth_chi2",
)


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
    if is_fraction(rows[0]):
        first, *others = (percent(*each) for each in intervals)
    else:
        pairs = [(value, (high - low) / 2) for value, low, high in intervals]
        power = common_power(value for value, _ in pairs)
        first, *others = (with_error(*pair, power) for pair in pairs)
    return first, others


def labelled(row: ReportRow) -> str:
    """What the row is, with its unit."""
    return f"{row.label} [{row.unit}]" if row.unit else row.label


def is_fraction(row: ReportRow) -> bool:
    return row.better == "reference"


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
    for statistic in HEADLINES:
        found = {name: row for name, of in mine.items() for row in of if row.statistic == statistic}
        if found:
            reference, values = shown(list(found.values()))
            cells = {name: f"{value}  {row.verdict}" for (name, row), value in zip(found.items(), values, strict=True)}
            table.append([labelled(next(iter(found.values()))), reference, *(cells.get(name, "–") for name in mine)])
    table.append(["observables as truth (KS)", "", *(agreement(of, "ks") for of in mine.values())])
    table.append(["generation, events/s/core", "", *(rate(model.generation_rate) for model in models)])
    table.append(["training time", "", *(duration(model.training_seconds) for model in models)])
    return table


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return [lines[0], "─" * max(map(len, lines)), *lines[1:]]
