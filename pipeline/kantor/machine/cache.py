"""What is made once for each user and machine, and kept in the user's cache."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kantor.machine.files import explained


def user_cache() -> Path:
    """Where programs keep what they can make again (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cached_directory(name: str, fill: Callable[[Path], None]) -> Path:
    """A directory of the cache, which `fill` writes where it is not there yet.

    It appears whole or not at all; of processes that want it at once one fills it and the others wait. What a killed
    process left is removed by the next that fills. Without locks each fills a directory of its own; one is kept.

    Raises:
        InputError: the cache cannot be written.
    """
    path = user_cache() / "kantor" / name
    if path.is_dir():
        return path
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / f".{name}.lock") as alone:
            if alone:
                for left in path.parent.glob(f".{name}.partial-*"):
                    shutil.rmtree(left, ignore_errors=True)
            if not path.is_dir():
                _fill(path, fill)
    return path


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Wait until no other process holds this lock file. False on a file system without locks, where all go on."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def _fill(path: Path, fill: Callable[[Path], None]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # then another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
