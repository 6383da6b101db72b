"""Files that samples are written to: one module for each format, one table of them."""

from pathlib import Path

from kantor.errors import InputError
from kantor.generation.writers.base import Format, Layout, Written
from kantor.generation.writers.csv import CSV
from kantor.generation.writers.hdf5 import HDF5
from kantor.generation.writers.npz import NPZ
from kantor.generation.writers.parquet import PARQUET
from kantor.generation.writers.root import ROOT

__all__ = ["FORMATS", "Format", "Layout", "Written", "format_of"]

FORMATS = (HDF5, ROOT, PARQUET, NPZ, CSV)


def format_of(path: Path, columns: list[Written]) -> Format:
    """The format of a file by its ending.

    Raises:
        InputError: the ending is not known, or the format has no arrays and a column is one.
    """
    found = next((format for format in FORMATS if path.suffix.lower() in format.endings), None)
    if found is None:
        known = " ".join(ending for format in FORMATS for ending in format.endings)
        raise InputError(
            f"no format is known by the ending '{path.suffix}'", where=path, cure=f"the endings are: {known}"
        )
    shaped = next((column for column in columns if column.shape), None)
    if shaped is not None and not found.shaped:
        others = ", ".join(f"{format.kind} ({format.endings[0]})" for format in FORMATS if format.shaped)
        raise InputError(
            f"{found.kind} has no place for '{shaped.name}', an array of shape {shaped.shape} in each event",
            where=path,
            cure=f"choose a format that has: {others}",
        )
    return found
