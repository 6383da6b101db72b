"""Columns of the user's own files, in chunks of rows: one module for each format, one table of them."""

from collections.abc import Iterator
from pathlib import Path

from kantor.data.readers.base import File, Format, Request, Table, numbers, readable
from kantor.data.readers.csv import CSV
from kantor.data.readers.hdf5 import HDF5
from kantor.data.readers.numpy import NPY, NPZ
from kantor.data.readers.parquet import PARQUET
from kantor.data.readers.root import ROOT
from kantor.errors import InputError
from kantor.machine.inputs import is_remote

__all__ = ["Request", "Table", "read"]

_FORMATS = (HDF5, NPZ, NPY, CSV, PARQUET, ROOT)
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")


def read(file: File, request: Request) -> Iterator[Table]:
    """Chunks of the wanted columns of one file: column -> float64 (n, *shape), n <= request.rows.

    Raises:
        InputError: the file is missing, truncated or of an unknown kind; a column or table is not there, not numeric
            or not of the wanted shape; the package that reads this kind of file is not installed.
    """
    file = file if is_remote(file) else Path(file)
    format = _format(file)
    with readable(file, format):
        for chunk in format.read(file, request):
            yield {name: numbers(file, name, values, request.shapes.get(name, ())) for name, values in chunk.items()}


def _format(file: File) -> Format:
    address = str(file).split("?")[0] if is_remote(file) else str(file)
    endings = [ending.lower() for ending in Path(address).suffixes[-2:]]
    last = endings[-1] if endings else ""
    packed = last in _PACKED
    ending = endings[0] if packed and len(endings) > 1 else last
    for format in _FORMATS:
        if ending not in format.endings:
            continue
        if packed and last not in format.packed:
            raise InputError(f"compressed {format.kind} files are not read", where=file, cure="unpack it first")
        if is_remote(file) and not format.remote:
            raise InputError(
                f"{format.kind} files are not read from afar", where=file, cure="copy it here first (xrdcp, curl)"
            )
        return format
    known = " ".join(ending for format in _FORMATS for ending in format.endings)
    raise InputError(
        f"the ending '{last}' is not known",
        where=file,
        cure=f"known are {known}; text also packed, {' '.join(f'.csv{ending}' for ending in CSV.packed)}",
    )
