"""Parquet: arrays as lists of fixed size; units are metadata of the columns, the provenance of the file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kantor.generation.writers.base import Format, Layout, Write, Written
from kantor.machine.packages import optional


@contextmanager
def _open(path: Path, layout: Layout) -> Iterator[Write]:
    parquet = optional("pyarrow.parquet", "parquet", "writing Parquet")
    import pyarrow as pa

    schema = pa.schema(
        [pa.field(column.name, _type(column), metadata={"unit": column.unit}) for column in layout.columns],
        metadata={"provenance": layout.provenance},
    )
    # Hardly a value of a generated column stands twice: a dictionary would only cost time.
    with parquet.ParquetWriter(path, schema, use_dictionary=False) as file:

        def write(block: Mapping[str, np.ndarray]) -> None:
            arrays = [_array(block[column.name], column) for column in layout.columns]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield write


def _type(column: Written) -> Any:
    import pyarrow as pa

    kind = pa.from_numpy_dtype(column.dtype)
    for size in reversed(column.shape):
        kind = pa.list_(kind, size)
    return kind


def _array(values: np.ndarray, column: Written) -> Any:
    """(n, *shape) as Arrow has it: the numbers, and lists of lists around them."""
    import pyarrow as pa

    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(column.shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


PARQUET = Format("Parquet", (".parquet", ".pq"), _open)
