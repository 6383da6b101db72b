"""The figures of the lessons, and a lesson's files: its numbers as CSV, with the figure's lines as JSON, an SVG."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from kantor.lessons.base import Number, Result
from kantor.machine.files import write_text
from kantor.report.figures import Picture
from kantor.report.lessons import bias, clipping, quality, slopes, vanishing

DRAWINGS: dict[str, Callable[[Any], Picture]] = {
    "bias": bias.draw,
    "clipping": clipping.draw,
    "quality": quality.draw,
    "slopes": slopes.draw,
    "vanishing": vanishing.draw,
}


def write_lesson(name: str, result: Result, out: Path) -> None:
    """Write out/NAME.csv, NAME.json and NAME.svg.

    Raises:
        InputError: they cannot be written.
    """
    write_text(out / f"{name}.csv", _table(result))
    write_text(out / f"{name}.json", json.dumps(asdict(result), default=_plain) + "\n")  # pyright: ignore[reportArgumentType]
    write_text(out / f"{name}.svg", _compact(DRAWINGS[name](result).svg))


def _table(result: Result) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [field.name for field in fields(Number)]
    writer.writerow(columns)
    writer.writerows([getattr(number, column) for column in columns] for number in result.numbers)
    return text.getvalue()


def _compact(svg: str) -> str:
    """Paths and places to a hundredth of a point, without indents: small enough to stand on a page."""
    rounded = re.sub(r' (d|x|y)="[^"]*"', lambda found: re.sub(r"(\d\.\d\d)\d+", r"\1", found[0]), svg)
    return re.sub(r"\s*\n\s*", "\n", rounded).replace(" \n", "\n")


def _plain(value: object) -> object:
    """What JSON does not know: arrays, to six digits."""
    if isinstance(value, np.ndarray):
        return [float(f"{each:.6g}") if np.isscalar(each) else _plain(each) for each in value]
    raise TypeError(type(value).__name__)
