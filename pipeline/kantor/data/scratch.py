"""A dataset's shards on a node's own disk, copied once for all workers of the node and removed when they are read.

Workers find each other through locks, of which the operating system lets go when a process dies: a copy that nobody
holds is a dead job's, and the next training on this node removes it.
"""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kantor.data.manifest import Manifest, Shard
from kantor.data.samples import verified
from kantor.errors import InputError
from kantor.machine.files import sha256
from kantor.machine.mounts import file_system
from kantor.machine.progress import log


def scratch_directory() -> Path | None:
    """The node-local directory that the scheduler, or else the site, names."""
    named = os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR")
    return Path(named) if named else None


@contextmanager
def node_copy(manifest_path: Path, scratch: str, workers: int) -> Iterator[Path | None]:
    """Yield the directory of this node's copy of the shards; None where they are to be read where they are.

    What the copy lacks (a full disk, no permission) is read from the source: a training never fails for its scratch.

    Args:
        scratch: a directory, in which $VARIABLES are this node's; `none`; or `auto`: `scratch_directory()`, if it is a
            local disk, the dataset is on a network file system, and several workers read it here.
        workers: how many workers read the dataset on this node.
    """
    directory = _chosen(scratch, manifest_path, workers)
    if directory is None:
        yield None
        return
    # Several users may share a scratch directory.
    own = directory / f"kantor-{os.getuid()}"
    copy = own / sha256(manifest_path)[:16]
    try:
        hold = _lock_shared(copy)
    except OSError as error:
        log.info(f"{socket.gethostname()}: no scratch copy of the dataset in {directory}: {error.strerror or error}")
        yield None
        return
    try:
        _remove_unused(own)
        _fill(copy, manifest_path, workers)
        yield copy
    finally:
        _remove_if_unused(copy, hold)
        os.close(hold)
        with suppress(OSError):
            os.rmdir(own)  # noqa: PTH106 - only when there is no other copy


def _chosen(scratch: str, manifest_path: Path, workers: int) -> Path | None:
    if scratch == "none":
        return None
    if scratch != "auto":
        return Path(os.path.expandvars(scratch)).absolute()
    directory = scratch_directory()
    if directory is None or workers < 2 or file_system(manifest_path).place != "network":
        return None
    return directory if file_system(directory).place == "disk" else None


def _lock_shared(copy: Path) -> int:
    """Hold `copy` together with the other workers; a descriptor, which is closed to let go of it."""
    while True:
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if copy.parent.is_symlink() or copy.parent.stat().st_uid != os.getuid():
            raise PermissionError(f"{copy.parent} is not yours")
        with suppress(FileNotFoundError):  # the last of others removed it meanwhile: again
            copy.mkdir(exist_ok=True)
            hold = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(hold, fcntl.LOCK_SH)
            if copy.exists() and os.path.samestat(os.fstat(hold), copy.stat()):
                return hold
            os.close(hold)


def _remove_if_unused(copy: Path, hold: int) -> None:
    """Remove `copy` unless another worker holds it."""
    with suppress(OSError):
        fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(copy, ignore_errors=True)


def _remove_unused(own: Path) -> None:
    """Remove the copies that dead jobs left."""
    for copy in own.iterdir():
        with suppress(OSError):
            hold = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
            _remove_if_unused(copy, hold)
            os.close(hold)


def _fill(copy: Path, manifest_path: Path, workers: int) -> None:
    """Copy the shards that are not there, while the other workers of this node wait; each is verified."""
    manifest = Manifest.read(manifest_path)
    source, host = manifest_path.parent, socket.gethostname()
    try:
        with (copy / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = [shard for shard in manifest.shards if not _there(copy, shard)]
            size = sum(shard.bytes for shard in missing)
            free = shutil.disk_usage(copy).free
            if size > free:
                log.info(
                    f"{host}: the dataset is read from {source}: {size / 1e6:,.1f} MB do not fit into {copy.parent},"
                    f" where {free / 1e6:,.1f} MB are free"
                )
                return
            began = time.monotonic()
            for shard in missing:
                temporary = copy / f".{shard.file}.{os.getpid()}"
                temporary.write_bytes(verified(source / shard.file, shard))
                temporary.replace(copy / shard.file)
            if missing:
                log.info(
                    f"{host}: copied {len(missing)} shard(s), {size / 1e6:,.1f} MB, to {copy}"
                    f" in {time.monotonic() - began:.1f} s, for {workers} worker(s)"
                )
    except OSError as error:
        log.info(f"{host}: what {copy} lacks is read from {source}: {error.strerror}")
    except InputError:
        return  # of the source: whoever reads it there says so


def _there(copy: Path, shard: Shard) -> bool:
    with suppress(OSError):
        return (copy / shard.file).stat().st_size == shard.bytes
    return False
