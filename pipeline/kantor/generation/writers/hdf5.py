"""HDF5: a dataset for each column, (N, *shape), with its unit as an attribute; the provenance is one of the file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from kantor.generation.writers.base import Format, Layout, Write


@contextmanager
def _open(path: Path, layout: Layout) -> Iterator[Write]:
    with h5py.File(path, "w") as file:
        file.attrs["provenance"] = layout.provenance
        columns: dict[str, h5py.Dataset] = {}
        for column in layout.columns:
            # Neither chunked nor compressed, and without times: the same rows are the same bytes, and quick to read.
            made = file.create_dataset(column.name, (layout.rows, *column.shape), column.dtype, track_times=False)
            made.attrs["unit"] = column.unit
            columns[column.name] = made
        done = 0

        def write(block: Mapping[str, np.ndarray]) -> None:
            nonlocal done
            rows = len(next(iter(block.values())))
            for name, values in block.items():
                columns[name].write_direct(np.ascontiguousarray(values), dest_sel=np.s_[done : done + rows])
            done += rows

        yield write


HDF5 = Format("HDF5", (".h5", ".hdf5", ".hdf"), _open)
