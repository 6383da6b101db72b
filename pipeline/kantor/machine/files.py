"""Writing files whole or not at all, and knowing them again by their checksum."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kantor.errors import InputError

_CURES = {
    errno.ENOSPC: "free some space or choose another results directory; nothing was left half-written",
    errno.EDQUOT: "your quota is used up: free some space or choose another results directory",
    errno.EACCES: "check the permissions of this directory or choose another results directory",
    errno.EPERM: "check the permissions of this directory or choose another results directory",
    errno.EROFS: "this file system is read-only: choose another results directory",
    errno.EEXIST: "a file of this name is in the way of a directory",
    errno.ENOTDIR: "a part of this path is a file, not a directory",
}


@contextmanager
def explained(where: Path) -> Iterator[None]:
    """Turn the operating system's refusals (disk full, no permission, ...) into an `InputError`."""
    try:
        yield
    except OSError as error:
        # h5py reports a full disk as an OSError without errno.
        code = error.errno or (errno.ENOSPC if "No space left" in str(error) else None)
        if code not in _CURES:
            raise
        raise InputError(f"cannot write: {os.strerror(code)}", where=where, cure=_CURES[code]) from error


def content(path: Path, missing: str) -> bytes:
    """All bytes of a file that a stage has written.

    Args:
        missing: the cure where there is no such file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=path, cure=missing) from error
    except IsADirectoryError as error:
        raise InputError("is a directory", where=path, cure="name the file that is meant") from error
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", where=path, cure="check the path and permissions"
        ) from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed, on failure removed.

    Raises:
        InputError: the disk is full or the directory cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
