"""What every format of files is to the rest: a place to which blocks of rows are written one after the other."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kantor.shapes import Shape

Write = Callable[[Mapping[str, np.ndarray]], None]
"""Appends a block of rows: column name -> (n, *shape), in the column's dtype."""


@dataclass(frozen=True)
class Written:
    """A column of the file: in each row a number, or an array of this shape."""

    name: str
    unit: str
    shape: Shape
    dtype: np.dtype


@dataclass(frozen=True)
class Layout:
    """What a file will hold.

    rows: of all blocks together. facts: where the events come from, plain values that JSON knows.
    """

    columns: Sequence[Written]
    rows: int
    facts: Mapping[str, object]

    @property
    def provenance(self) -> str:
        """The facts as JSON, without anything that differs from one run to the next."""
        return json.dumps({**self.facts, "units": {column.name: column.unit for column in self.columns}}, indent=2)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    open: makes the file; what it yields is called once for each block, in their order. It closes the file at the end.
    shaped: whether a column can be an array in each row. facts: whether the file has a place for its provenance; where
    it has none, that goes into a file of its own, FILE.json.
    """

    kind: str
    endings: tuple[str, ...]
    open: Callable[[Path, Layout], AbstractContextManager[Write]]
    shaped: bool = True
    facts: bool = True
