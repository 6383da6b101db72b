"""NumPy's NPZ: an array for each column, (N, *shape), and the provenance as a string beside them.

An archive holds one array after the other, and blocks bring all of them at once: each column waits in a file of its own
beside the archive, so that memory stays bounded. The disk needs room for the sample twice.
"""

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np

from kantor.generation.writers.base import Format, Layout, Write

_PIECE = 1 << 24  # bytes that are copied at once


@contextmanager
def _open(path: Path, layout: Layout) -> Iterator[Write]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(dir=path.parent, prefix=f"{path.name}-")))
        waiting: dict[str, BinaryIO] = {
            column.name: stack.enter_context((directory / str(number)).open("w+b"))
            for number, column in enumerate(layout.columns)
        }

        def write(block: Mapping[str, np.ndarray]) -> None:
            for name, values in block.items():
                waiting[name].write(np.ascontiguousarray(values).data)

        yield write
        with zipfile.ZipFile(path, "w") as archive:
            for column in layout.columns:
                with _member(archive, column.name) as file:
                    _header(file, (layout.rows, *column.shape), column.dtype)
                    waiting[column.name].seek(0)
                    shutil.copyfileobj(waiting[column.name], file, _PIECE)
            with _member(archive, "provenance") as file:
                np.lib.format.write_array(file, np.array(layout.provenance), allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    # Without the time of day: the same rows are the same bytes.
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)  # pyright: ignore[reportReturnType]


def _header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


NPZ = Format("NPZ", (".npz",), _open)
