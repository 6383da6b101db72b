"""What every format of files is to the rest: columns in chunks of rows, and what can go wrong with them.

A column is one number per row, unless an array of some shape is wanted. Where a file holds several numbers a row under
one name (a fixed-size branch, a dataset of several dimensions, a list), its elements are the columns `name[0]`,
`name[1]`, ...; those of a matrix in each row are `name[0][1]`. The fields of a record are `name.field`.
"""

import difflib
import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np

from kantor.errors import InputError, KantorError
from kantor.shapes import Shape, Shapes, shown

Table = dict[str, np.ndarray]
Index = tuple[int, ...]
File = Path | str  # a path here, or an address such as root://...
Key = TypeVar("Key")

DAMAGED = "the file is truncated or damaged: copy it again"
NAME_IT = "name one of them by 'table' in the configuration"
_SHOWN = 20
_ELEMENT = re.compile(r"(?P<name>.+)\[(?P<index>\d+)\]", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """Which columns of which table to read, at most `rows` rows at a time.

    header: the columns of a file that does not name them, CSV without a header line or an array in NPY.
    shapes: of the columns that are arrays in each row; the others are one number.
    """

    columns: tuple[str, ...]
    rows: int
    table: str | None = None
    header: Sequence[str] | None = None
    shapes: Shapes = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    read: chunks of the wanted columns, each (n,) with n <= request.rows, or (n, ...) where an array is wanted, in the
        shape that the file has; their dtype is anyone's.
    damage: whether an exception is what its library raises for a truncated or damaged file.
    explain: the error to show, where this format knows another cause of an exception.
    packed: whether compressed files are read too; remote: whether addresses are.
    """

    kind: str
    endings: tuple[str, ...]
    read: Callable[[File, Request], Iterator[Table]]
    damage: Callable[[File, Exception], bool]
    explain: Callable[[File, Exception], InputError | None] = lambda file, error: None
    packed: tuple[str, ...] = ()
    remote: bool = False


@contextmanager
def readable(file: File, format: Format) -> Iterator[None]:
    """Say what goes wrong while a file is read. An exception that nobody knows is not taken for damage."""
    try:
        if isinstance(file, Path):
            if file.is_dir():
                raise InputError("is a directory, not a file", where=file, cure="name its files, such as 'folder/*.h5'")
            # Some readers tell a missing file from a damaged one only in words.
            file.open("rb").close()
        yield
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=file, cure="check 'paths' in the configuration") from error
    except PermissionError as error:
        raise InputError("this file may not be read", where=file, cure="check its permissions") from error
    except (KantorError, MemoryError):
        raise
    except Exception as error:
        raise _explained(file, format, error) from error


def _explained(file: File, format: Format, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [""])[0]
    known = format.explain(file, error)
    if known is not None:
        return known
    if isinstance(error, BlockingIOError) or getattr(error, "errno", None) in (errno.EAGAIN, errno.EDEADLK):
        return InputError(
            "another program has locked this file",
            where=file,
            cure="wait until that program has closed it; on a file system without locks: "
            "export HDF5_USE_FILE_LOCKING=FALSE",
        )
    if format.damage(file, error):
        return InputError(
            f"cannot be read as {format.kind}: {reason or type(error).__name__}", where=file, cure=DAMAGED
        )
    return InputError(
        f"cannot be read as {format.kind}: {type(error).__name__}: {reason}",
        where=file,
        cure="if another program reads it, please report this with the file; or convert it: HDF5 columns always work",
    )


def regrouped(tables: Iterable[Table], rows: int) -> Iterator[Table]:
    """The same rows in chunks of `rows`; the last one may be shorter."""
    waiting: list[Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(next(iter(table.values())))
        if count < rows:
            continue
        joined = {name: np.concatenate([part[name] for part in waiting]) for name in table}
        begin = 0
        while count - begin >= rows:
            yield {name: values[begin : begin + rows] for name, values in joined.items()}
            begin += rows
        waiting, count = [{name: values[begin:] for name, values in joined.items()}], count - begin
    if count:
        yield {name: np.concatenate([part[name] for part in waiting]) for name in waiting[0]}


# ---------------------------------------------------------------------------------------------- columns and their names


def numbers(file: File, name: str, values: np.ndarray, shape: Shape = ()) -> np.ndarray:
    """A column as float64, (n, *shape)."""
    values = np.asarray(values)
    if values.ndim > 1 and not shape:
        raise several(file, name, values.shape[1:])
    if values.dtype.kind not in "biuf":
        raise not_numbers(file, name, str(values.dtype), python=values.dtype.kind == "O")
    return _shaped(file, name, values.astype(np.float64), shape)


def _shaped(file: File, name: str, values: np.ndarray, shape: Shape) -> np.ndarray:
    """Arrays of the shape that is wanted; in the file they may be flat, or have axes of size one besides."""
    there = values.shape[1:]
    flat = len(there) <= 1 and prod(there) == prod(shape)
    if not flat and [size for size in there if size > 1] != [size for size in shape if size > 1]:
        raise misfit(file, name, f"arrays of {shown(there)}" if there else "one number", shape, there)
    return values.reshape(len(values), *shape)


def misfit(file: File, name: str, what: str, shape: Shape, there: Sequence[int] | None = None) -> InputError:
    """A column whose rows hold something else than arrays of the shape that is wanted."""
    return InputError(
        f"column '{name}' holds {what} in each row, not arrays of {shown(shape)}",
        where=file,
        cure=f"set its shape to {list(there)}" if there else "check its shape in the configuration",
    )


def not_numbers(file: File, name: str, what: str, python: bool = False) -> InputError:
    return InputError(
        f"column '{name}' holds no plain numbers ({what})",
        where=file,
        cure="save it with a numeric type, one number per row" if python else "choose a numeric column",
    )


def several(file: File, name: str, shape: Sequence[int | None]) -> InputError:
    """A column that holds more than one number per row; None in the shape is any number of them."""
    if None in shape:
        return InputError(
            f"column '{name}' is jagged: its rows hold different numbers of values",
            where=file,
            cure=f"name an element: {name}[0] is the first (rows that have none are invalid); or flatten it to one "
            "number per row",
        )
    sizes = [size for size in shape if size is not None]
    first, last = (name + "".join(f"[{n}]" for n in index) for index in ([0] * len(sizes), [n - 1 for n in sizes]))
    return InputError(
        f"column '{name}' holds {tuple(sizes)} values per row, not one",
        where=file,
        cure=f"its elements are the columns {first} to {last}: write name: '{first}'",
    )


def elements(column: str) -> Iterator[tuple[str, Index]]:
    """What a column's name may mean: itself, or an element of another. A name may hold an index of its own."""
    index: Index = ()
    yield column, index
    while found := _ELEMENT.fullmatch(column):
        column, index = found["name"], (int(found["index"]), *index)
        yield column, index


def places(
    file: File, columns: Iterable[str], known: Mapping[str, Key], cure: str | None = None
) -> dict[str, tuple[Key, Index]]:
    """Where in a file its wanted columns are: column -> (what `known` has under its name, index within a row).

    Raises:
        InputError: one of them is not there.
    """
    found: dict[str, tuple[Key, Index]] = {}
    for column in columns:
        place = next(((known[name], index) for name, index in elements(column) if name in known), None)
        if place is None:
            _no_column(file, column, list(known), cure)
        found[column] = place
    return found


def _no_column(file: File, column: str, known: Sequence[str], cure: str | None) -> NoReturn:
    close = difflib.get_close_matches(column, known, n=3)
    ends = [name for name in known if re.split(r"[/.]", name)[-1] == column][:3]
    shown = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
    raise InputError(
        f"there is no column '{column}'; the columns are: {shown or 'none'}",
        where=file,
        cure=f"did you mean {' or '.join(ends or close)}?" if ends or close else cure,
    )


def no_table(file: File, table: str | None, tables: Sequence[str]) -> NoReturn:
    """Raise because `table` is not there, or None was named where there are several."""
    what = f"there is no table '{table}'" if table is not None else "it holds several tables"
    if table is None and not tables:
        raise InputError("it holds no table", where=file, cure="check that this is the file you mean")
    raise InputError(f"{what}; the tables are: {', '.join(tables[:_SHOWN]) or 'none'}", where=file, cure=NAME_IT)


def picked(file: File, column: str, values: np.ndarray, index: Index, array: bool = False) -> np.ndarray:
    """The element `index` of every row of an array (n, ...), (n,); a size of one needs no index.

    array: whether the element may be an array itself, (n, ...).
    """
    shape = values.shape[1:]
    if not index and np.prod(shape) == 1 and not array:
        return values.reshape(len(values))
    if len(index) > len(shape) or (len(index) < len(shape) and not array):
        if not index:
            raise several(file, column, shape)
        raise InputError(
            f"there is no column '{column}': a row holds {shape or 'one'} values", where=file, cure="mend its index"
        )
    for position, size in zip(index, shape, strict=False):
        if position >= size:
            raise InputError(
                f"there is no column '{column}': a row holds {shape} values, counted from 0",
                where=file,
                cure=f"the last one is [{size - 1}]",
            )
    return values[(slice(None), *index)]


def jagged(offsets: np.ndarray, content: np.ndarray, position: int) -> np.ndarray:
    """The element `position` of lists of different lengths, (n,) float64; NaN where a list is too short.

    offsets: (n + 1,), where in `content` each list begins and ends.
    """
    begin, length = offsets[:-1], np.diff(offsets)
    values = np.full(len(begin), np.nan)
    there = length > position
    values[there] = content[begin[there] + position]
    return values
