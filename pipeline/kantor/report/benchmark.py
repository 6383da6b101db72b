"""The benchmark's page: benchmark/index.html, one file, drawn from the CSV files beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from kantor.errors import InputError
from kantor.machine.files import explained, write_text
from kantor.report.figures import _DASHES, _GREY, Picture, _figure, _picture, colour
from kantor_kernels.benchmark.rows import OPERATIONS, Row, read_rows

# The operation whose rows are of numbers of ranks.
RANKS = "scaling"
_WIDTH, _HEIGHT, _COLUMNS = 3.6, 2.9, 3


@dataclass(frozen=True)
class Line:
    """One contender at one shape, as the page's table says it."""

    shape: str
    contender: str
    ours: bool
    time: str
    spread: str
    ratio: str
    memory: str
    roofline: str
    note: str


@dataclass(frozen=True)
class Table:
    """One case: a line for each shape and contender."""

    case: str
    mode: str
    lines: list[Line]


@dataclass(frozen=True)
class Scaled:
    """A number of ranks, as the page's table says it."""

    case: str
    ranks: str
    time: str
    spread: str
    rate: str
    efficiency: str
    communication: str
    collectives: str
    note: str


@dataclass(frozen=True)
class Sum:
    """A sum over ranks, as the page's table says it."""

    size: str
    ranks: str
    time: str
    spread: str


@dataclass(frozen=True)
class Ranks:
    """How training scales with ranks."""

    lines: list[Scaled]
    sums: list[Sum]
    picture: Picture | None


def write_page(directory: Path) -> Path:
    """Draw directory/index.html from every CSV file in the directory.

    Raises:
        InputError: there is none, one is of another version, or the page cannot be written.
    """
    page = directory / "index.html"
    text = render(read(directory))
    with explained(page):
        write_text(page, text)
    return page


def read(directory: Path) -> list[Row]:
    """The rows of every CSV file in the directory, operations in their order.

    Raises:
        InputError: there is none, or one is of another version.
    """
    files = sorted(directory.glob("*.csv"), key=_place)
    if not files:
        raise InputError("there is no CSV file of a benchmark", where=directory, cure="run: kantor benchmark")
    try:
        return [row for file in files for row in read_rows(file)]
    except ValueError as error:
        raise InputError(str(error), where=directory, cure="measure again: kantor benchmark") from error


def _place(file: Path) -> tuple[int, str]:
    return (OPERATIONS.index(file.stem) if file.stem in OPERATIONS else len(OPERATIONS), file.stem)


def render(rows: Sequence[Row]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("benchmark.html").render(found=content(rows))


def content(rows: Sequence[Row]) -> dict[str, object]:
    """What benchmark_tables.html shows."""
    kernels = [row for row in rows if row.op != RANKS]
    cases = dict.fromkeys(row.case for row in kernels)
    return {
        "tables": [_table([row for row in kernels if row.case == case]) for case in cases],
        "scaling": scaling(kernels),
        "ranks": ranks([row for row in rows if row.op == RANKS]),
        "roofline": any(row.roofline is not None for row in rows),
        "circumstances": _circumstances(rows),
    }


def scaling(rows: Sequence[Row]) -> Picture | None:
    """Time against size on logarithmic axes: a panel for each case with several sizes, a line for each contender."""
    timed = [row for row in rows if row.metric == "time" and row.p50 is not None]
    panels = [
        case
        for case in dict.fromkeys(row.case for row in timed)
        if len({row.size for row in timed if row.case == case}) > 1
    ]
    if not panels:
        return None
    # Ours first, so that they keep their colours whatever they compete with.
    names = list(dict.fromkeys(row.backend for row in sorted(timed, key=lambda row: not row.ours)))
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    with _figure(_WIDTH * columns, 0.4 + _HEIGHT * lines) as figure:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        handles = {}
        for axes, case in zip(grid.flat, panels, strict=False):
            here = [row for row in timed if row.case == case]
            for number, name in enumerate(names):
                points = sorted((row for row in here if row.backend == name), key=lambda row: row.size)
                if points:
                    handles[name] = _draw(axes, points, number)
            _finish(axes, here)
        shown = [name for name in names if name in handles]
        figure.legend([handles[name] for name in shown], shown, loc="outside upper center", ncols=min(6, len(shown)))
        return _picture(figure, f"Time against size of {', '.join(panels)}, for {', '.join(shown)}.")


def _draw(axes: Axes, points: Sequence[Row], number: int) -> object:
    sizes = [row.size for row in points]
    middle = [1e3 * (row.p50 or 0.0) for row in points]
    low, high = (
        [1e3 * (value or 0.0) for value in of] for of in zip(*((row.p20, row.p80) for row in points), strict=True)
    )
    axes.fill_between(sizes, low, high, color=colour(number), alpha=0.2, lw=0)
    style = {"linestyle": _DASHES[number % len(_DASHES)], "marker": "o" if points[0].ours else "s", "markersize": 4}
    (drawn,) = axes.plot(sizes, middle, color=colour(number), **style)
    return drawn


def _finish(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({row.size for row in rows})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    # Whole decades: a part of one would have no tick to read.
    times = [1e3 * value for row in rows for value in (row.p20, row.p80) if value]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    axes.set_ylim(10.0**low, 10.0 ** max(high, low + 1))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(rows[0].case, loc="left")
    axes.set_xlabel("batch" if rows[0].shape.startswith("B =") else "rows of each sample")
    axes.set_ylabel("time [ms]")
    axes.grid(which="major", color="#d8dee4", lw=0.5)


def _table(rows: Sequence[Row]) -> Table:
    memory = {(row.shape, row.backend): row for row in rows if row.metric == "peak memory"}
    lines = []
    seen = ""
    for row in sorted((row for row in rows if row.metric == "time"), key=lambda row: (row.size, not row.ours)):
        needed = memory.get((row.shape, row.backend))
        lines.append(
            Line(
                shape=row.shape if row.shape != seen else "",
                contender=row.backend,
                ours=row.ours,
                time="–" if row.p50 is None else duration(row.p50),
                spread=_spread(row),
                ratio="" if row.ratio is None else f"{_factor(row.ratio)} × {row.opponent}",
                memory="" if needed is None or needed.p50 is None else size(needed.p50),
                roofline="" if row.roofline is None else f"{100 * row.roofline:.0f} %",
                note=row.note,
            )
        )
        seen = row.shape
    return Table(rows[0].case[0].upper() + rows[0].case[1:], rows[0].mode, lines)


def ranks(rows: Sequence[Row]) -> Ranks | None:
    """Steps and sums over ranks; None where they were not measured."""
    steps = [row for row in rows if row.ours and row.metric == "time"]
    sums = [row for row in rows if row.case.startswith("all_reduce")]
    calls = {(row.case, row.size): row.p50 for row in rows if row.metric == "collectives"}
    single = {row.case: row.p50 for row in steps if row.size == 1 and row.p50 is not None}
    lines = []
    for row in sorted(steps, key=lambda row: (row.case, row.size)):
        call = calls.get((row.case, row.size))
        efficiency = _efficiency(row, single.get(row.case))
        lines.append(
            Scaled(
                case=row.case if row.case not in {line.case for line in lines} else "",
                ranks=row.shape,
                time="–" if row.p50 is None else duration(row.p50),
                spread=_spread(row),
                rate="" if row.p50 is None else f"{_digits(1 / row.p50)} / s",
                efficiency="" if efficiency is None else f"{100 * efficiency:.0f} %",
                communication="" if row.ratio is None else f"{100 * (1 - row.ratio):.0f} %",
                collectives="" if call is None else f"{call:g}",
                note=row.note,
            )
        )
    found = [
        Sum(f"{row.size:,} B", row.case.removeprefix("all_reduce, "), duration(row.p50), _spread(row))
        for row in sums
        if row.p50 is not None
    ]
    return Ranks(lines, found, _ranks_picture(steps, single, sums)) if lines else None


def _efficiency(row: Row, single: float | None) -> float | None:
    """What a rank does of what it would do alone: of the same work in all, or of as much work for each."""
    if row.p50 is None or single is None:
        return None
    return single / row.p50 / (row.size if row.case.startswith("strong") else 1)


def _ranks_picture(steps: Sequence[Row], single: dict[str, float], sums: Sequence[Row]) -> Picture | None:
    """Efficiency against ranks, and the time of a sum over ranks against its size."""
    if not sums or not single:
        return None
    with _figure(2 * _WIDTH, 0.4 + _HEIGHT) as figure:
        left, right = figure.subplots(1, 2)
        for number, case in enumerate(single):
            points = sorted((row for row in steps if row.case == case and row.p50), key=lambda row: row.size)
            sizes = [row.size for row in points]
            middle = [100 * (_efficiency(row, single[case]) or 0.0) for row in points]
            style = {"linestyle": _DASHES[number], "marker": "o", "markersize": 4, "color": colour(number)}
            left.plot(sizes, middle, label=case, **style)
        left.axhline(100, color=_GREY, lw=0.8, zorder=0)
        left.set_xscale("log", base=2)
        left.set_xticks(sorted({row.size for row in steps}), [str(size) for size in sorted({r.size for r in steps})])
        left.set_ylim(0)
        left.set_xlabel("ranks")
        left.set_ylabel("efficiency [%]")
        left.legend(loc="lower left")
        for number, case in enumerate(dict.fromkeys(row.case for row in sums)):
            points = sorted((row for row in sums if row.case == case and row.p50), key=lambda row: row.size)
            _draw(right, points, number)
            right.lines[-1].set_label(case)
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xlabel("bytes")
        right.set_ylabel("time [ms]")
        right.legend(loc="upper left")
        return _picture(figure, "Efficiency against ranks, and the time of an all_reduce against its size.")


def _spread(row: Row) -> str:
    return "" if row.p20 is None or row.p80 is None else f"{duration(row.p20)} to {duration(row.p80)}"


def _circumstances(rows: Sequence[Row]) -> dict[str, str]:
    """Where and with what: one value each, or all of them where files come from several runs."""
    facts = {
        "device": [row.device for row in rows],
        "threads": [str(row.threads) for row in rows],
        "versions": [row.versions for row in rows],
        "commit": [row.commit for row in rows if row.commit],
        "date": [row.date for row in rows],
        "dtype": [row.dtype for row in rows],
    }
    return {name: ", ".join(dict.fromkeys(values)) for name, values in facts.items() if values}


def duration(seconds: float) -> str:
    """Three digits in s, ms or µs."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale or unit == "µs":
            return f"{_digits(seconds / scale)} {unit}"
    raise AssertionError


def size(number: float) -> str:
    """Three digits in GB, MB or kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale or unit == "kB":
            return f"{_digits(number / scale)} {unit}"
    raise AssertionError


def _factor(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
