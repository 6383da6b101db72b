"""CSV: a line of names, then the rows, each number in as few digits as give it back exactly."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kantor.generation.writers.base import Format, Layout, Write
from kantor.machine.packages import optional


@contextmanager
def _open(path: Path, layout: Layout) -> Iterator[Write]:
    csv = optional("pyarrow.csv", "parquet", "writing CSV")
    import pyarrow as pa

    names = [column.name for column in layout.columns]
    schema = pa.schema([(column.name, pa.from_numpy_dtype(column.dtype)) for column in layout.columns])
    with path.open("wb") as file:
        file.write((",".join(names) + "\n").encode())
        with csv.CSVWriter(file, schema, write_options=csv.WriteOptions(include_header=False)) as rows:

            def write(block: Mapping[str, np.ndarray]) -> None:
                arrays = [pa.array(np.ascontiguousarray(block[name])) for name in names]
                rows.write_table(pa.Table.from_arrays(arrays, schema=schema))

            yield write


CSV = Format("CSV", (".csv",), _open, shaped=False, facts=False)
