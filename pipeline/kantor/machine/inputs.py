"""Where the user's own files are on this machine: patterns, ~ and variables in paths, folders of Parquet, addresses."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

from kantor.errors import InputError

_PARQUET = (".parquet", ".pq")


def is_remote(path: object) -> bool:
    """Whether this is an address such as root://host//path."""
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def found(paths: Iterable[str]) -> list[str]:
    """The files and addresses that `paths` stand for, those of each pattern sorted by name.

    Raises:
        InputError: a pattern has no match, or a variable has no value.
    """
    return [file for path in paths for file in _found(path)]


def _found(path: str) -> list[str]:
    if is_remote(path):
        if "*" in path:
            raise InputError("patterns are not expanded in addresses", where=path, cure="list the files one by one")
        return [path]
    # A file may have such a name.
    if Path(path).exists():
        return _inside(path)
    full = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - of text: a pattern is no path yet
    unset = re.search(r"\$(\w+|\{\w+\})", full)
    if unset is not None:
        raise InputError(
            f"the variable {unset.group()} has no value here", where=path, cure="export it, or write the path out"
        )
    if Path(full).exists() or not glob.has_magic(full):
        return _inside(full)
    files = [file for match in sorted(glob.glob(full, recursive=True)) for file in _inside(match)]  # noqa: PTH207
    if not files:
        raise InputError("no file matches this pattern", where=path, cure="check 'paths' in the configuration")
    return files


def _inside(path: str) -> list[str]:
    """The Parquet files of a folder, as Spark, Dask and Arrow write it; any other path itself."""
    if not Path(path).is_dir():
        return [path]
    inner = [file for file in Path(path).rglob("*") if file.suffix in _PARQUET and file.is_file()]
    # What begins with a dot or an underscore is not data, or not yet.
    data = [file for file in inner if all(part[0] not in "._" for part in file.relative_to(path).parts)]
    return sorted(map(str, data)) or [path]


def refuse_twice(paths: Iterable[str]) -> None:
    """Raise `InputError` where two of these are one file, also through a link: its events would be there twice."""
    seen: dict[object, str] = {}
    for path in paths:
        try:
            status = None if is_remote(path) else Path(path).stat()
        except OSError:
            continue  # who reads it says so
        key = path if status is None else (status.st_dev, status.st_ino)
        other = seen.get(key)
        seen[key] = path
        if other is not None:
            same = "stands there twice" if other == path else f"is the same file as {other}"
            raise InputError(
                f"{same}: its events would be in training and test", where=path, cure="list every file once"
            )
