"""A figure with its circumstances: one line of a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

# The folders that are measured, in the order of the page.
OPERATIONS = ("pairwise", "sliced", "gradient_penalty", "critic_step")


@dataclass(frozen=True)
class Row:
    """One measured figure, or the reason why there is none.

    Attributes:
        op: the operation's folder, such as "pairwise".
        case: what is computed, such as "energy distance, D = 8".
        backend: the contender: a backend of this library, or an opponent.
        ours: whether it is of this library.
        mode: what is measured, such as "value + gradient".
        shape: all sizes.
        size: the size along which the case is plotted (rows, the batch, ranks, or bytes).
        dtype: of the arguments.
        metric: "time", "peak memory" (beyond the arguments), or "collectives" (of ranks, in a step).
        unit: "s", "B" or "1".
        p20, p50, p80: quantiles over the repetitions; None where there is no figure.
        repetitions: how often it was measured.
        opponent: the fastest opponent of the same run, for rows of ours.
        ratio: opponent / this, the median over repetitions taken in turns; above 1 this one wins.
        roofline: fraction of the device's arithmetic peak, where that is known.
        threads, device, versions, commit, date: where, with what and when.
        note: why there is no figure, or what to know about it.
    """

    op: str
    case: str
    backend: str
    ours: bool
    mode: str
    shape: str
    size: int
    dtype: str
    metric: str
    unit: str
    p20: float | None
    p50: float | None
    p80: float | None
    repetitions: int
    opponent: str
    ratio: float | None
    roofline: float | None
    threads: int
    device: str
    versions: str
    commit: str
    date: str
    note: str = ""


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _text(value) for name, value in asdict(row).items()})
    return out.getvalue()


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(csv_text(rows), encoding="utf-8")
    temporary.replace(path)


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote.

    Raises:
        ValueError: the file is no benchmark of this version.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        expected = [field.name for field in fields(Row)]
        if reader.fieldnames != expected:
            raise ValueError(f"{path} is no benchmark of this version: its columns are {reader.fieldnames}")
        return [
            Row(**{field.name: _value(str(field.type), line[field.name]) for field in fields(Row)}) for line in reader
        ]


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(kind: str, text: str) -> Any:
    if kind == "float | None":
        return float(text) if text else None
    return {"int": int, "bool": lambda t: t == "True", "str": str}[kind](text)
