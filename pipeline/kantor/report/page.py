"""The report: index.html, one file that can be mailed, and the same numbers as report.json and summary.csv."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from kantor.machine.files import explained, write_text
from kantor.machine.progress import duration, log
from kantor.report import figures
from kantor.report.content import Group, Model, ModelFiles, Section, read_sections, summarise
from kantor.report.numbers import p_value, rate
from kantor.report.summary import agreement, by_statistic, csv_text, labelled, shown
from kantor.results import Column, Report, ReportRow
from kantor.shapes import shown as shown_shape
from kantor.validation import verdicts
from kantor.validation.catalogue import STATISTICS

__all__ = ["ModelFiles", "write_report"]

MOST_DISTRIBUTIONS = 24


def write_report(
    title: str, models: Sequence[ModelFiles], out: Path, benchmark: Path | None = None, pictures: Path | None = None
) -> None:
    """Write out/index.html, out/report.json and out/summary.csv, each whole.

    Args:
        title: of the page.
        models: files of every (training, seed); trainings appear in this order.
        benchmark: directory of a benchmark, which then ends the page.
        pictures: directory in which the pictures of learning curves and of points are written too, as SVG.

    Raises:
        InputError: a file is missing or damaged, models of one dataset were compared with different truth, or the
            results cannot be written.
    """
    sections = read_sections(models)
    measured = None if benchmark is None else _benchmark(benchmark)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    report = summarise(title, sections)
    page = render(report, sections, measured)
    report.write(out / "report.json")
    write_text(out / "summary.csv", csv_text(report))
    if pictures is not None:
        _write_pictures(sections, pictures)
    # Last, so that where there is a page there is everything.
    write_text(out / "index.html", page)
    log.info(f"report: {out / 'index.html'}")


def render(report: Report, sections: Sequence[Section], benchmark: Mapping[str, object] | None = None) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["symbols"] = symbols
    return environment.get_template("page.html").render(
        title=report.title,
        sections=[_section(report, section) for section in sections],
        verdict_definition=verdicts.DEFINITION,
        benchmark=benchmark,
    )


def _write_pictures(sections: Sequence[Section], directory: Path) -> None:
    for section in sections:
        for draw in (figures.scatter, figures.learning, figures.quality):
            picture = draw(section)
            if picture is not None:
                write_text(directory / f"{section.dataset}-{draw.__name__}.svg", picture.svg)


def _benchmark(directory: Path) -> Mapping[str, object]:
    # The benchmark's module loads torch and every kernel, which a report without one does not need.
    from kantor.report.benchmark import content, read

    return content(read(directory))


def symbols(text: str) -> Markup:
    """Text with its subscripts as HTML: p_T becomes p<sub>T</sub>."""
    return Markup(re.sub(r"\b(\w)_(\w+)\b", r"<i>\1</i><sub>\2</sub>", str(escape(text))))


@dataclass(frozen=True)
class Cell:
    """One table cell: what it shows, the verdict below it and its level for the colour."""

    text: str
    note: str = ""
    level: str = ""


@dataclass(frozen=True)
class Line:
    """One table row: what it is, truth against truth, and a cell for every training."""

    label: str
    reference: str
    cells: list[Cell]


@dataclass(frozen=True)
class Provenance:
    """Where one model comes from: facts by name, and its configuration as text."""

    name: str
    facts: Mapping[str, str]
    checksums: Mapping[str, str]
    config: str


def _section(report: Report, section: Section) -> dict[str, object]:
    """Everything the template says about one dataset."""
    rows = {
        group.training: [row for row in report.rows if (row.dataset, row.training) == (section.dataset, group.training)]
        for group in section.groups
    }
    comparison, drawn = section.comparison, _drawn(section, rows)
    distances = [(name, statistic.title) for name, statistic in STATISTICS.items() if statistic.section == "distance"]
    seeds = max(len(group.seeds) for group in section.groups)
    return {
        "dataset": section.dataset,
        "rows": f"{comparison.rows:,}",
        "effective_rows": f"{comparison.effective_rows:,.0f}" if comparison.weighted_means else "",
        "splits": comparison.config["splits"],
        "replicas": comparison.config["replicas"],
        "confidence": comparison.config["confidence"],
        "seeds": seeds,
        "constant": comparison.constant,
        "arrays": _arrays([*comparison.features, *comparison.conditions]),
        "names": [group.training for group in section.groups],
        "colours": [figures.colour(number) for number in range(len(section.groups))],
        "headlines": [*_lines(rows, lambda row: row.headline), *_facts(section, rows)],
        "distances": [(title, _lines(rows, lambda row, name=name: row.statistic == name)) for name, title in distances],
        "checks": _lines(rows, lambda row: STATISTICS[row.statistic].section == "check"),
        "check_notes": _check_notes(rows),
        "distributions": [figures.distribution(section, index) for index in drawn],
        "omitted": len(section.truth.histograms) - len(drawn),
        "planes": [figures.plane(section, number) for number in range(len(section.truth.planes))],
        "scatter": figures.scatter(section),
        "modes": 0 if section.truth.scatter is None else len(section.truth.scatter.centres),
        "correlations": figures.correlations(section),
        "learning": figures.learning(section),
        "quality": figures.quality(section),
        "areas": figures.areas(section),
        "weighted_means": _weighted_means(section),
        "provenance": [_provenance(group, model) for group in section.groups for model in group.models],
    }


def _arrays(columns: Sequence[Column]) -> list[str]:
    """The columns that are arrays in each event, in words."""
    return [
        f"{column.name} {shown_shape(column.shape)}" + (f" [{column.unit}]" if column.unit else "")
        for column in columns
        if column.shape
    ]


def _drawn(section: Section, rows: Mapping[str, Sequence[ReportRow]]) -> list[int]:
    """Which observables get a figure: all, or where these are too many for a page those with the largest KS."""
    names = [each.observable.name for each in section.truth.histograms]
    if len(names) <= MOST_DISTRIBUTIONS:
        return list(range(len(names)))
    worst = dict.fromkeys(names, 0.0)
    for row in (row for of in rows.values() for row in of):
        if row.statistic == "ks" and row.observable is not None:
            worst[row.observable] = max(worst[row.observable], row.value)
    chosen = sorted(names, key=lambda name: worst[name], reverse=True)[:MOST_DISTRIBUTIONS]
    return [index for index, name in enumerate(names) if name in chosen]


def _lines(rows: Mapping[str, Sequence[ReportRow]], wanted: Callable[[ReportRow], bool]) -> list[Line]:
    """One line for each (statistic, observable) that any training has and that is wanted."""
    lines = []
    for found in by_statistic(rows).values():
        first = next(iter(found.values()))
        if wanted(first):
            reference, values = shown(list(found.values()))
            cells = {name: _cell(row, text) for (name, row), text in zip(found.items(), values, strict=True)}
            # Below a heading that names the statistic, the observable is enough.
            label = labelled(first).removeprefix(f"{STATISTICS[first.statistic].short} of ")
            lines.append(Line(label, reference, [cells.get(name, Cell("–")) for name in rows]))
    return lines


def _check_notes(rows: Mapping[str, Sequence[ReportRow]]) -> list[str]:
    """What the checks that were made need explained."""
    made = (STATISTICS[row.statistic] for of in rows.values() for row in of)
    return list(dict.fromkeys(each.note for each in made if each.section == "check" and each.note))


def _cell(row: ReportRow, text: str) -> Cell:
    note = row.verdict if row.p_value is None else f"{row.verdict}, {p_value(row.p_value)}"
    return Cell(text, note, row.level or "")


def _facts(section: Section, rows: Mapping[str, Sequence[ReportRow]]) -> list[Line]:
    """What the headline table says besides single statistics."""
    lines = []
    lines.append(Line("observables as truth, by KS", "", [_agreement(of, "ks") for of in rows.values()]))
    rates = [[model.comparison.generation_rate for model in group.models] for group in section.groups]
    lines.append(
        Line("generation, events per second and core", "", [Cell(rate(sum(each) / len(each))) for each in rates])
    )
    times = [[model.run.seconds for model in group.models] for group in section.groups]
    lines.append(Line("training time", "", [Cell(duration(sum(each) / len(each))) for each in times]))
    return lines


def _agreement(rows: Sequence[ReportRow], statistic: str) -> Cell:
    text, _, note = agreement(rows, statistic).partition(", ")
    return Cell(text, note)


def _weighted_means(section: Section) -> list[tuple[str, list[str]]]:
    """Observable, and its weighted mean under each policy for signed weights."""
    means = section.comparison.weighted_means
    if not means:
        return []
    policies = ("keep", "clip", "drop")
    labels = {each.observable.name: each.observable.label for each in section.truth.histograms}
    return [(labels.get(name, name), [f"{means[policy][name]:.5g}" for policy in policies]) for name in means["keep"]]


def _provenance(group: Group, model: Model) -> Provenance:
    run, comparison = model.run, model.comparison
    where = run.provenance
    facts = {
        "trained": f"{run.steps:,} generator updates in {duration(run.seconds)} on {run.workers} worker(s), "
        f"{run.attempts} attempt(s)",
        "kept": "last step"
        if run.best_step is None
        else f"step {run.best_step:,}, within one error of the least energy distance",
        "training rows": f"{run.rows:,} (effective {run.effective_rows:,.0f})",
        "parameters": ", ".join(f"{name} {number:,}" for name, number in run.parameters.items()),
        "validated": f"in {duration(comparison.seconds)} on {comparison.ranks} rank(s)",
        "host": f"{where.host}, {where.platform}, {where.cpus} CPUs"
        + (f", {', '.join(where.devices)}" if where.devices else ""),
        "versions": ", ".join(
            f"{name} {version}" for name, version in {"python": where.python, **where.versions}.items()
        ),
        "code fingerprint": run.fingerprint,
    }
    if where.slurm:
        facts["SLURM"] = ", ".join(f"{name}={value}" for name, value in where.slurm.items())
    return Provenance(
        name=f"{group.training}, seed {run.seed}",
        facts=facts,
        checksums=comparison.checksums,
        config=json.dumps({"training": run.config, "validation": comparison.config}, indent=2, ensure_ascii=False),
    )
