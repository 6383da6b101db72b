"""Parquet, by any writer: whole, half and decimal numbers, with missing values, in dictionaries, lists and records."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from kantor.data.readers.base import (
    File,
    Format,
    Index,
    Request,
    Table,
    jagged,
    misfit,
    not_numbers,
    picked,
    places,
    several,
)
from kantor.errors import InputError
from kantor.machine.packages import optional
from kantor.shapes import Shape


def _read(file: File, request: Request) -> Iterator[Table]:
    parquet = optional("pyarrow.parquet", "parquet", "reading Parquet")
    with parquet.ParquetFile(file) as content:
        known: dict[str, tuple[str, ...]] = {}
        for field in content.schema_arrow:
            _find(known, field, ())
        found = places(file, request.columns, known)
        wanted = sorted({path[0] for path, _ in found.values()})
        for column in wanted:
            if content.schema_arrow.names.count(column) > 1:
                raise InputError(f"the column '{column}' is there twice", where=file)
        for batch in content.iter_batches(batch_size=request.rows, columns=wanted):
            yield {
                column: _values(file, column, batch.column(path[0]), path[1:], index, request.shapes.get(column, ()))
                for column, (path, index) in found.items()
            }


def _find(known: dict[str, tuple[str, ...]], field: Any, path: tuple[str, ...]) -> None:
    """The columns in a field, those of records by `record.name`."""
    path = (*path, field.name)
    known.setdefault(".".join(path), path)
    if hasattr(field.type, "fields") and _kind(field.type) == "struct":
        for inner in field.type.fields:
            _find(known, inner, path)


def _kind(kind: Any) -> str:
    return str(kind).partition("<")[0]


def _values(
    file: File, column: str, array: Any, fields: tuple[str, ...], index: Index, shape: Shape = ()
) -> np.ndarray:
    import pyarrow as pa

    compute = optional("pyarrow.compute", "parquet", "reading Parquet")
    for name in fields:
        array = compute.struct_field(array, name)
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if isinstance(kind, pa.BaseExtensionType):  # such as a tensor of fixed shape
        array = array.storage
        kind = array.type
    if shape:
        return picked(file, column, _whole(file, column, array, shape), index, array=True)
    if pa.types.is_fixed_size_list(kind):
        return _fixed(file, column, array, index)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if len(index) != 1:
            raise several(file, column, (None,))
        offsets = array.offsets.to_numpy()
        # A list that is missing as a whole may still have a length.
        gone = array.is_null().to_numpy(zero_copy_only=False)
        values = jagged(offsets, _float64(file, column, array.values), index[0])
        return np.where(gone, np.nan, values)
    if index:
        raise InputError(f"there is no column '{column}': a row holds one value", where=file, cure="mend its index")
    return _float64(file, column, array)


def _whole(file: File, column: str, array: Any, shape: Shape) -> np.ndarray:
    """The lists of a column, and the lists in them, as an array (n, ...); a missing one is NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types, there = pa.types, array.is_valid()
    sizes: list[int] = []
    rest = array.filter(there)
    if not len(rest):
        return np.full((len(array), *shape), np.nan)
    while types.is_fixed_size_list(rest.type) or types.is_list(rest.type) or types.is_large_list(rest.type):
        # A list that is missing among others has no length.
        lengths = pc.fill_null(pc.call_function("list_value_length", [rest]), 0).to_numpy()
        low, high = int(lengths.min()), int(lengths.max())
        if low < high:
            raise misfit(file, column, f"lists of {low} to {high} values", shape)
        sizes.append(low)
        rest = rest.flatten()
        if not low:
            break
    values = np.full((len(array), *sizes), np.nan)
    values[there.to_numpy(zero_copy_only=False)] = _float64(file, column, rest).reshape(-1, *sizes)
    return values


def _fixed(file: File, column: str, array: Any, index: Index) -> np.ndarray:
    """An element of lists of one size, and of lists of them."""
    import pyarrow as pa

    shape: list[int] = []
    gone = array.is_null().to_numpy(zero_copy_only=False)
    rows, offset = len(array), array.offset
    while pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        shape.append(size)
        # `values` holds what lies outside of a slice, too.
        array = array.values.slice(offset * size, len(array) * size)
        offset = array.offset
    values = picked(file, column, _float64(file, column, array).reshape(rows, *shape), index)
    return np.where(gone, np.nan, values)


def _float64(file: File, column: str, array: Any) -> np.ndarray:
    """Numbers as float64; a missing one is NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types = pa.types
    kind = array.type
    if types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if not (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    ):
        raise not_numbers(file, column, str(kind), python=types.is_nested(kind))
    if types.is_boolean(kind):
        array = pc.cast(array, pa.uint8())
    # Unsafe means rounded to 53 bits, as NumPy does.
    return pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _damaged(file: File, error: Exception) -> bool:
    return type(error).__name__ == "ArrowInvalid" or isinstance(error, OSError)


PARQUET = Format("Parquet", (".parquet", ".pq"), _read, _damaged)
