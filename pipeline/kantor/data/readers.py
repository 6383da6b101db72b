"""Columns of the user's own files: HDF5, NPZ, CSV, Parquet and ROOT, in chunks of rows.

A column is one number per row. In HDF5 and NPZ it is a one-dimensional array, a field of a compound array, or one
column of a two-dimensional array `a`: named by the attribute `names` or `columns` (HDF5), by an array of strings called
`names` or `columns` beside it (NPZ), or else called `a[0]`, `a[1]`, ...
"""

import csv
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

import h5py
import numpy as np

from kantor.errors import InputError, KantorError
from kantor.machine.packages import optional

Table = dict[str, np.ndarray]
_NAMES = ("names", "columns")
_SHOWN = 20


@dataclass(frozen=True)
class Request:
    """Which columns of which table to read, at most `rows` rows at a time; `header` names the columns of a CSV file."""

    columns: tuple[str, ...]
    rows: int
    table: str | None = None
    header: Sequence[str] | None = None


def read(path: Path, request: Request) -> Iterator[Table]:
    """Chunks of the wanted columns of one file: column -> float64 (n,), n <= request.rows.

    Raises:
        InputError: the file is missing, truncated or of an unknown kind; a column or table is not there, not numeric
            or not one number per row; the package that reads this kind of file is not installed.
    """
    readers = {
        "HDF5": ((".h5", ".hdf5", ".hdf"), _read_hdf5),
        "NPZ": ((".npz",), _read_npz),
        "CSV": ((".csv", ".tsv", ".txt", ".dat"), _read_csv),
        "Parquet": ((".parquet", ".pq"), _read_parquet),
        "ROOT": ((".root",), _read_root),
    }
    for kind, (endings, reader) in readers.items():
        if path.suffix.lower() in endings:
            with _readable(path, kind):
                for chunk in reader(path, request):
                    yield {name: _numbers(path, name, values) for name, values in chunk.items()}
            return
    endings = [ending for known, _ in readers.values() for ending in known]
    raise InputError(f"the ending '{path.suffix}' is not known", where=path, cure=f"known are {' '.join(endings)}")


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        if path.is_dir():
            raise InputError("is a directory, not a file", where=path)
        # Some readers tell a missing file from a damaged one only in words.
        path.open("rb").close()
        yield
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=path, cure="check 'paths' in the configuration") from error
    except PermissionError as error:
        raise InputError("this file may not be read", where=path, cure="check its permissions") from error
    except (KantorError, MemoryError):
        raise
    except Exception as error:
        # Every reader has its own exceptions for a damaged file, struct.error and KeyError among them.
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InputError(
            f"cannot be read as {kind}: {reason}", where=path, cure="the file is truncated or damaged: copy it again"
        ) from error


def _numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """A column as float64."""
    values = np.asarray(values)
    if values.ndim > 1:
        raise InputError(f"column '{name}' holds {values.shape[1:]} values per row, not one", where=path)
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"column '{name}' holds no plain numbers ({values.dtype})",
            where=path,
            cure="flatten it to one number per row" if values.dtype.kind == "O" else "choose a numeric column",
        )
    return values.astype(np.float64)


def _require(path: Path, columns: Iterable[str], known: Iterable[str], cure: str | None = None) -> None:
    """Raise if one of `columns` is not among the `known` ones of the file."""
    known = list(known)
    for column in columns:
        if column in known:
            continue
        close = difflib.get_close_matches(column, known, n=3)
        shown = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
        raise InputError(
            f"there is no column '{column}'; the columns are: {shown or 'none'}",
            where=path,
            cure=f"did you mean {' or '.join(close)}?" if close else cure,
        )


# ----------------------------------------------------------------------------------------------------- HDF5 and NPZ


@dataclass
class _Arrays:
    """Arrays of equal length, and where in them the columns are: column -> (array, index or field or None)."""

    path: Path
    arrays: Mapping[str, Any]
    places: dict[str, tuple[str, int | str | None]] = field(default_factory=dict)

    def add(self, key: str, shape: tuple[int, ...], dtype: np.dtype, names: Sequence[str] | None) -> None:
        """Find the columns of one array."""
        if len(shape) == 1 and dtype.names is not None:
            found = {name: (key, name) for name in dtype.names}
        elif len(shape) == 1 or (len(shape) == 2 and shape[1] == 1 and names is None):
            found = {key: (key, None if len(shape) == 1 else 0)}
        elif len(shape) == 2 and names is None:
            found = {f"{key}[{index}]": (key, index) for index in range(shape[1])}
        elif len(shape) == 2 and names is not None and len(names) == shape[1]:
            found = {name: (key, index) for index, name in enumerate(names)}
        elif len(shape) == 2:
            raise InputError(f"'{key}' has {shape[1]} columns, but {len(names or [])} names", where=self.path)
        else:
            return
        twice = set(found) & set(self.places)
        if twice:
            raise InputError(f"the column '{min(twice)}' is there twice", where=self.path, cure="say which by 'table'")
        self.places |= found

    def chunks(self, request: Request) -> Iterator[Table]:
        _require(self.path, request.columns, self.places)
        lengths = {column: len(self.arrays[self.places[column][0]]) for column in request.columns}
        if len(set(lengths.values())) > 1:
            raise InputError(
                "the columns differ in length: " + ", ".join(f"{name} {rows:,}" for name, rows in lengths.items()),
                where=self.path,
            )
        needed = {self.places[column][0] for column in request.columns}
        for begin in range(0, next(iter(lengths.values())), request.rows):
            blocks = {key: self.arrays[key][begin : begin + request.rows] for key in needed}
            yield {column: self._column(blocks, column) for column in request.columns}

    def _column(self, blocks: Mapping[str, np.ndarray], column: str) -> np.ndarray:
        key, index = self.places[column]
        if index is None:
            return blocks[key]
        return blocks[key][index] if isinstance(index, str) else blocks[key][:, index]


def _read_hdf5(path: Path, request: Request) -> Iterator[Table]:
    with h5py.File(path, "r") as file:
        yield from _hdf5_arrays(path, file, request.table).chunks(request)


def _hdf5_arrays(path: Path, file: h5py.File, table: str | None) -> _Arrays:
    node: Any = file
    if table is not None:
        if table not in file:
            tables: list[str] = []
            file.visit(tables.append)
            _no_table(path, table, tables)
        node = file[table]
    while True:
        datasets = {name: item for name, item in _items(node) if isinstance(item, h5py.Dataset)}
        groups = [item for _, item in _items(node) if isinstance(item, h5py.Group)]
        if datasets or not groups:
            break
        if len(groups) > 1:
            _no_table(path, None, [str(group.name).lstrip("/") for group in groups])
        node = groups[0]
    arrays = _Arrays(path, datasets)
    for name, dataset in datasets.items():
        arrays.add(name, dataset.shape, dataset.dtype, _hdf5_names(dataset))
    return arrays


def _items(node: h5py.Group | h5py.Dataset) -> list[tuple[str, Any]]:
    if isinstance(node, h5py.Dataset):
        return [(str(node.name).rsplit("/", 1)[-1], node)]
    # A link to another file that is not there must not hide the columns that are.
    return [(str(name), item) for name in node if (item := node.get(name)) is not None]


def _hdf5_names(dataset: h5py.Dataset) -> list[str] | None:
    """Column names of a two-dimensional dataset, from its own attributes or those of its group."""
    own = _names_in(dataset.attrs)
    if own is not None or len(dataset.shape) != 2:
        return own
    outer = _names_in(dataset.parent.attrs)
    return outer if outer is not None and len(outer) == dataset.shape[1] else None


def _names_in(mapping: Mapping[str, Any]) -> list[str] | None:
    for name in _NAMES:
        if name in mapping:
            values = np.atleast_1d(np.asarray(mapping[name]))
            if values.dtype.kind in "SUO":
                return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    return None


def _no_table(path: Path, table: str | None, tables: Sequence[str]) -> NoReturn:
    what = "it holds several tables" if table is None else f"there is no table '{table}'"
    raise InputError(
        f"{what}; the tables are: {', '.join(tables[:_SHOWN]) or 'none'}",
        where=path,
        cure="name one of them by 'table' in the configuration",
    )


def _read_npz(path: Path, request: Request) -> Iterator[Table]:
    # NumPy leaves a damaged file open if it opened it itself.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    names = _names_in(content)
    arrays = _Arrays(path, content)
    for name, values in content.items():
        if name in _NAMES and values.dtype.kind in "SU":
            continue
        fits = names is not None and values.ndim == 2 and len(names) == values.shape[1]
        arrays.add(name, values.shape, values.dtype, names if fits else None)
    yield from arrays.chunks(request)


# --------------------------------------------------------------------------------------------------------------- CSV


def _read_csv(path: Path, request: Request) -> Iterator[Table]:
    """Text with one row per line, separated by tabs, commas, semicolons or blanks."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = _lines(file)
        _, first = next(lines, (0, ""))
        separator = next((mark for mark in "\t,;" if mark in first), None)
        names = _fields(first.lstrip("# "), separator)
        if request.header is not None:
            if names == list(request.header):
                raise InputError("the file has a header line", where=path, cure="leave out 'header'")
            names = list(request.header)
            file.seek(0)
            lines = _lines(file)
        _check_header(path, names, request)
        while chunk := list(islice(lines, request.rows)):
            yield _csv_chunk(path, chunk, separator, names, request)


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is neither empty nor, after the first, a comment."""
    began = False
    for number, line in enumerate(file, start=1):
        if line.strip() and not (began and line.startswith("#")):
            began = True
            yield number, line.rstrip("\r\n")


def _fields(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    return [text.strip() for text in next(csv.reader([line], delimiter=separator))]


def _check_header(path: Path, names: list[str], request: Request) -> None:
    cure = None if request.header is not None else "if the file has no header line, name its columns by 'header'"
    _require(path, request.columns, names, cure)
    twice = [column for column in request.columns if names.count(column) > 1]
    if twice:
        raise InputError(f"the column '{twice[0]}' is there twice", where=path)


def _csv_chunk(
    path: Path, chunk: list[tuple[int, str]], separator: str | None, names: list[str], request: Request
) -> Table:
    for number, line in chunk:
        plain = separator is not None and '"' not in line
        count = line.count(separator) + 1 if plain and separator else len(_fields(line, separator))
        if count != len(names):
            raise InputError(
                f"line {number:,} has {count} fields instead of {len(names)}",
                where=path,
                cure="the file is truncated or damaged: copy it again",
            )
    text = [line for _, line in chunk]
    use = [names.index(column) for column in request.columns]
    options: dict[str, Any] = {"delimiter": separator, "usecols": use, "ndmin": 2, "comments": None, "quotechar": '"'}
    try:
        values = np.loadtxt(text, **options)
    except ValueError:
        # Empty fields are missing values; only the slow way knows them.
        values = _load_with_gaps(path, chunk, options)
    return dict(zip(request.columns, values.T, strict=True))


def _load_with_gaps(path: Path, chunk: list[tuple[int, str]], options: dict[str, Any]) -> np.ndarray:
    rows = []
    for number, line in chunk:
        fields = _fields(line, options["delimiter"])
        try:
            rows.append([float(fields[index] or "nan") for index in options["usecols"]])
        except ValueError as error:
            raise InputError(f"line {number:,}: {error}", where=path, cure="mend the line") from error
    return np.array(rows)


# -------------------------------------------------------------------------------------------------- Parquet and ROOT


def _read_parquet(path: Path, request: Request) -> Iterator[Table]:
    parquet = optional("pyarrow.parquet", "parquet", "reading Parquet")
    with parquet.ParquetFile(path) as file:
        _require(path, request.columns, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=request.rows, columns=list(request.columns)):
            yield {column: batch.column(column).to_numpy(zero_copy_only=False) for column in request.columns}


def _read_root(path: Path, request: Request) -> Iterator[Table]:
    uproot = optional("uproot", "root", "reading ROOT")
    with uproot.open(path) as file:
        trees = sorted(set(file.keys(cycle=False, filter_classname=["TTree", "TNtuple*", "ROOT::RNTuple"])))
        if request.table not in trees and (request.table is not None or len(trees) != 1):
            _no_table(path, request.table, trees)
        tree = file[request.table or trees[0]]
        _require(path, request.columns, tree.keys())
        for begin in range(0, tree.num_entries, request.rows):
            yield {column: _branch(path, tree[column], begin, request.rows) for column in request.columns}


def _branch(path: Path, branch: Any, begin: int, rows: int) -> np.ndarray:
    values = branch.array(entry_start=begin, entry_stop=begin + rows, library="np")
    if values.dtype.kind == "O":
        raise InputError(
            f"the branch '{branch.name}' is jagged ({branch.typename}): its rows hold different numbers of values",
            where=path,
            cure="flatten it to one number per row, for instance one row per track",
        )
    return values
