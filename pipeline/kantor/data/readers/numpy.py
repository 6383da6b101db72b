"""NumPy's NPZ and NPY.

Columns are one-dimensional arrays, fields of record arrays, or columns of a two-dimensional array, which an array of
strings called `names` or `columns` beside it names, or `header` in the configuration.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kantor.data.readers.arrays import NAMES, Arrays, text_names
from kantor.data.readers.base import File, Format, Request, Table
from kantor.errors import InputError

_ALONE = "array"  # what the array of an NPY file is called


def _read_npz(file: File, request: Request) -> Iterator[Table]:
    with Path(file).open("rb") as raw:
        if not zipfile.is_zipfile(raw):
            raise zipfile.BadZipFile("it is not a ZIP archive, or its end is missing")
    # NumPy leaves a damaged file open if it opened it itself.
    with Path(file).open("rb") as raw, np.load(raw, allow_pickle=False) as content:
        headers = _headers(content.zip)
        names = None
        for name in NAMES:
            if name in headers and headers[name][1].kind in "SU":
                names = text_names(content[name])
                break
        arrays = Arrays(file, _Lazy(file, content, headers))
        for name, (shape, dtype) in headers.items():
            if name in NAMES and dtype.kind in "SU":
                continue
            fits = names is not None and len(shape) == 2 and len(names) == shape[1]
            arrays.add(name, shape, dtype, names if fits else None)
        yield from arrays.chunks(request)


def _headers(archive: zipfile.ZipFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array, without reading it."""
    found = {}
    for member in archive.namelist():
        if not member.endswith(".npy"):
            continue
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
        found[member.removesuffix(".npy")] = shape, dtype
    return found


class _Lazy(Mapping[str, Any]):
    """The arrays of an archive, each read when it is wanted, once."""

    def __init__(self, file: File, content: Any, headers: Mapping[str, Any]) -> None:
        self._file, self._content, self._headers = file, content, headers
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._read:
            _plain(self._file, name, self._headers[name][1])
            self._read[name] = self._content[name]
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


def _plain(file: File, name: str, dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise InputError(
            f"'{name}' holds Python objects, no plain numbers",
            where=file,
            cure="save it with a numeric type: array.astype(float)",
        )


def _read_npy(file: File, request: Request) -> Iterator[Table]:
    with Path(file).open("rb") as raw:
        version = np.lib.format.read_magic(raw)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _plain(file, _ALONE, read(raw)[2])
    content = np.load(file, mmap_mode="r", allow_pickle=False)
    arrays = Arrays(file, {_ALONE: content})
    arrays.add(_ALONE, content.shape, content.dtype, request.header)
    yield from arrays.chunks(request)


def _damaged_npz(file: File, error: Exception) -> bool:
    if isinstance(error, zipfile.BadZipFile | zlib.error | EOFError | OSError):
        return True
    # NumPy stumbles over altered headers in many ways; the archive has checksums.
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError):
        return True


def _damaged_npy(file: File, error: Exception) -> bool:
    return isinstance(error, ValueError | EOFError | OSError)  # it has no checksum, only a length


NPZ = Format("NPZ", (".npz",), _read_npz, _damaged_npz)
NPY = Format("NPY", (".npy",), _read_npy, _damaged_npy)
