"""The conditions that events are generated under, from a file of any format that staging reads.

C numbers of conditions an event; "stored" is as the model has them, float32 and less the offsets of their columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kantor.data import readers
from kantor.errors import InputError
from kantor.machine.inputs import is_remote
from kantor.machine.packages import optional
from kantor.models.bundle import Bundle
from kantor.results import Column
from kantor.shapes import elements


@dataclass
class Survey:
    """What a first pass over the file finds.

    outside: column or element of one -> rows outside of the training's range, where there are any.
    """

    rows: int = 0
    outside: dict[str, int] = field(default_factory=dict)


class Conditions:
    """Columns of a file: the conditions of a model by their names, and others that are carried along.

    Args:
        table: the ROOT tree or HDF5 group; None: the only one there is.
        carried: columns that are to stand beside the generated ones, a number in each row.
    """

    def __init__(self, file: str, model: Bundle, table: str | None = None, carried: Sequence[str] = ()) -> None:
        self.file = file if is_remote(file) else Path(file)
        self._model, self._table = model, table
        self._names = [*model.condition_names, *carried]

    def survey(self, rows: int) -> Survey:
        """Read everything once, at most `rows` rows at a time, before any work is done.

        Raises:
            InputError: the file cannot be read, lacks a column, states another unit, or holds conditions that are NaN,
                infinite or too large for float32.
        """
        _check_units(self.file, self._model.conditions)
        found, training = Survey(), self._model.condition_range
        names = elements(self._model.condition_names, self._model.shapes)
        for table in self._tables(rows):
            stored_NC = stored(table, self._model.conditions)
            self._check_finite(stored_NC, names, found.rows)
            if training is not None:
                outside_C = ((stored_NC < training[0]) | (stored_NC > training[1])).sum(axis=0)
                for name, count in zip(names, outside_C.tolist(), strict=True):
                    if count:
                        found.outside[name] = found.outside.get(name, 0) + count
            found.rows += len(stored_NC)
        if not found.rows:
            raise InputError("it holds no rows", where=self.file, cure="check that this is the file you mean")
        return found

    def blocks(self, sizes: Iterable[int]) -> Iterator[readers.Table]:
        """The rows in blocks of these sizes, in their order: column -> float64 (n, *shape)."""
        sizes = list(sizes)
        tables, waiting, have = self._tables(max(sizes)), list[readers.Table](), 0
        for size in sizes:
            while have < size:
                waiting.append(next(tables))
                have += _rows(waiting[-1])
            joined = {name: np.concatenate([table[name] for table in waiting]) for name in self._names}
            yield {name: values[:size] for name, values in joined.items()}
            waiting, have = [{name: values[size:] for name, values in joined.items()}], have - size

    def _tables(self, rows: int) -> Iterator[readers.Table]:
        shapes = {column.name: column.shape for column in self._model.conditions if column.shape}
        return readers.read(self.file, readers.Request(tuple(self._names), rows, self._table, shapes=shapes))

    def _check_finite(self, stored_NC: np.ndarray, names: Sequence[str], begin: int) -> None:
        finite_NC = np.isfinite(stored_NC)
        if not finite_NC.all():
            row, number = np.argwhere(~finite_NC)[0]
            raise InputError(
                f"the condition '{names[number]}' is NaN, infinite or too large for float32 in row {begin + row:,}, "
                "counted from 0",
                where=self.file,
                cure="remove these rows: events cannot be generated under conditions that are not known",
            )


def stored(table: readers.Table, columns: Sequence[Column]) -> np.ndarray:
    """The conditions of a block as a model has them, (n, C) float32."""
    with np.errstate(over="ignore"):
        numbers = [
            (table[column.name] - column.offset).astype(np.float32).reshape(_rows(table), -1) for column in columns
        ]
    return np.concatenate(numbers, axis=1)


def _rows(table: readers.Table) -> int:
    return len(next(iter(table.values())))


# --------------------------------------------------------------------------------------------------------------- units


def _check_units(file: readers.File, columns: Sequence[Column]) -> None:
    """Compare units with those that the file states: HDF5 and Parquet have a place for them, other formats have not.

    Raises:
        InputError: a unit is another one.
    """
    stated: dict[str, str] = {}
    if isinstance(file, Path) and file.suffix.lower() in (".h5", ".hdf5", ".hdf"):
        with h5py.File(file, "r") as content:
            content.visititems(lambda _, item: stated.update(_units_in(file, item)))
    elif isinstance(file, Path) and file.suffix.lower() in (".parquet", ".pq") and file.is_file():
        parquet = optional("pyarrow.parquet", "parquet", "reading Parquet")
        for each in parquet.read_schema(file):
            if b"unit" in (each.metadata or {}):
                stated[each.name] = each.metadata[b"unit"].decode()
    for column in columns:
        if stated.get(column.name, column.unit) != column.unit:
            raise InputError(
                f"the column '{column.name}' is in '{stated[column.name]}', the model has it in '{column.unit}'",
                where=file,
                cure=f"convert it to {column.unit or 'a number without unit'}",
            )


def _units_in(file: Path, item: Any) -> dict[str, str]:
    """Units of the columns that a dataset is: `unit`, or as staging writes them, `names` and `units`."""
    if not isinstance(item, h5py.Dataset):
        return {}
    if "unit" in item.attrs:
        return {str(item.name).rsplit("/", 1)[-1]: str(item.attrs["unit"])}
    if "offsets" in item.attrs:
        raise InputError(
            f"'{item.name}' is stored less offsets, as staging does where float32 is too coarse",
            where=file,
            cure="name the file that was staged",
        )
    if "names" in item.attrs and "units" in item.attrs:
        names, units = (map(str, np.asarray(item.attrs[key])) for key in ("names", "units"))
        return dict(zip(names, units, strict=True))
    return {}
