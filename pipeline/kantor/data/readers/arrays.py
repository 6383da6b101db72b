"""Columns in arrays of equal length, for the formats that are named arrays: HDF5, NPZ and NPY."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kantor.data.readers.base import File, Request, Table, elements, picked, places
from kantor.errors import InputError

NAMES = ("names", "columns")  # an array of strings, or an attribute, that names the columns of a matrix


@dataclass(frozen=True)
class Place:
    """An array, or a field of its records (of theirs, ...), or one column of the matrix that this is."""

    array: str
    fields: tuple[str, ...] = ()
    column: int | None = None


@dataclass
class Arrays:
    """Arrays by name, and where in them the columns are."""

    file: File
    arrays: Mapping[str, Any]
    places: dict[str, Place] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def add(self, key: str, shape: tuple[int, ...] | None, dtype: np.dtype, names: Sequence[str] | None) -> None:
        """Find the columns of one array. Whatever is wrong with it matters only if one of them is wanted."""
        if not shape:
            return
        if dtype.names is not None:
            self._record(key, dtype, (), "")
        elif names is None or len(shape) != 2:
            self.name(key, Place(key))
        elif len(names) != shape[1]:
            self.problems.append(f"'{key}' has {shape[1]} columns, but {len(names)} names")
        else:
            for index, name in enumerate(names):
                self.name(name, Place(key, column=index))

    def name(self, column: str, place: Place) -> None:
        if column in self.places:
            self.twice.add(column)
        self.places[column] = place

    def _record(self, key: str, dtype: np.dtype, fields: tuple[str, ...], prefix: str) -> None:
        for name in dtype.names or ():
            inner = dtype[name]
            if inner.names is not None:
                self._record(key, inner, (*fields, name), f"{prefix}{name}.")
            else:
                self.name(prefix + name, Place(key, (*fields, name)))

    def _knows(self, column: str) -> bool:
        return any(name in self.places for name, _ in elements(column))

    def chunks(self, request: Request) -> Iterator[Table]:
        if self.problems and not all(map(self._knows, request.columns)):
            raise InputError(self.problems[0], where=self.file, cure="give every column a name")
        found = places(self.file, request.columns, self.places)
        for column in request.columns:
            if column in self.twice:
                raise InputError(f"the column '{column}' is there twice", where=self.file, cure="say which by 'table'")
        lengths = {column: len(self.arrays[place.array]) for column, (place, _) in found.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(
                "the columns differ in length: " + ", ".join(f"{name} {rows:,}" for name, rows in lengths.items()),
                where=self.file,
            )
        for begin in range(0, next(iter(lengths.values())), request.rows):
            blocks: dict[tuple[str, str | None], np.ndarray] = {}
            chunk: Table = {}
            for column, (place, index) in found.items():
                part = (place.array, place.fields[0] if place.fields else None)
                if part not in blocks:
                    blocks[part] = _block(self.arrays[place.array], part[1], begin, begin + request.rows)
                values = blocks[part]
                for name in place.fields[1:]:
                    values = values[name]
                chunk[column] = picked(
                    self.file,
                    column,
                    values if place.column is None else values[:, place.column],
                    index,
                    column in request.shapes,
                )
            yield chunk


def _block(array: Any, name: str | None, begin: int, end: int) -> np.ndarray:
    if name is None:
        return array[begin:end]
    # An HDF5 dataset reads one field of its records; NumPy has no need to.
    return array.fields(name)[begin:end] if hasattr(array, "fields") else array[begin:end][name]


def text_names(values: Any) -> list[str] | None:
    """Names, if these are strings."""
    values = np.atleast_1d(np.asarray(values))
    if values.dtype.kind not in "SUO":
        return None
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
