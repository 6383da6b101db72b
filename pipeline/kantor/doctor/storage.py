"""Checks of the directories in which results and scratch copies are written."""

import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from kantor.data.scratch import scratch_directory
from kantor.doctor.finding import Finding, failure, ok, skipped, warning
from kantor.doctor.processes import Trouble, run, srun_python
from kantor.machine.cache import user_cache
from kantor.machine.files import sync_directory
from kantor.machine.mounts import file_system

_FEW_BYTES = 2 * 10**9
# With these options a lock is seen on its own host alone, or nowhere.
_LOCAL_LOCKS = {"localflock", "noflock", "nolock", "local_lock=all", "local_lock=flock"}


def results(directory: Path) -> Finding:
    """It can be written, renames replace, what is written can be synced, locks lock, and there is space."""
    nearest = directory.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    where = f"{nearest} ({file_system(nearest).kind})"
    try:
        with tempfile.TemporaryDirectory(prefix=".kantor-doctor-", dir=nearest) as temporary:
            _write_sync_rename(Path(temporary))
            locks = _locks(Path(temporary))
    except OSError as error:
        return failure(
            f"{where}: {error.strerror or error}",
            _CURES.get(error.errno or 0, "choose another results directory: --config 'pathvars={results: DIR}'"),
        )
    found = f"{where}: can be written, synced and renamed in"
    if not locks:
        return failure(
            f"{found}, but flock does not lock: two trainings of one model would not notice each other",
            "choose a directory on another file system, or have it mounted with flock (Lustre: -o flock)",
        )
    usage = shutil.disk_usage(nearest)
    found = f"{found}, flock works on this host, {usage.free / 1e9:,.1f} GB are free"
    if usage.free < _FEW_BYTES:
        return warning(found, "free some space: checkpoints and a report take about a gigabyte")
    return ok(found)


def home() -> Finding:
    """Libraries keep what they look up and compile in the user's cache; Snakemake does not start without one."""
    cache = user_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache):
            pass
    except OSError as error:
        cure = "export XDG_CACHE_HOME=/a/directory/of/yours; Snakemake needs it"
        return failure(f"{cache}: {error.strerror}", cure)
    return ok(f"{cache} can be written")


_CURES = {
    errno.ENOSPC: "free some space (or files: df -i), or choose another results directory",
    errno.EDQUOT: "your quota is used up: free some space, or choose another results directory",
    errno.EROFS: "this file system is read-only here: choose another results directory",
    errno.EACCES: "you may not write here: choose another results directory",
    errno.EPERM: "you may not write here: choose another results directory",
}


def _write_sync_rename(directory: Path) -> None:
    old, new = directory / "old", directory / "new"
    old.write_text("old", encoding="utf-8")
    with new.open("wb") as file:
        file.write(bytes(2**20))
        file.flush()
        os.fsync(file.fileno())
    new.replace(old)
    sync_directory(directory)
    if old.stat().st_size != 2**20 or new.exists():
        raise OSError("a renamed file does not replace the one of that name")


def _locks(directory: Path) -> bool:
    """Whether a lock that is held keeps others out."""
    with (directory / "lock").open("w") as mine, (directory / "lock").open("w") as other:
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


# The first rank holds the lock until the second has tried to take it.
_TWO_HOSTS = """
import fcntl, os, sys, time
from pathlib import Path
place, first = Path(sys.argv[1]), os.environ["SLURM_PROCID"] == "0"
def wait_for(name):
    deadline = time.monotonic() + 20
    while name not in os.listdir(place):
        if time.monotonic() > deadline: sys.exit(3)
        time.sleep(0.1)
with (place / "lock").open("w") as lock:
    if first:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (place / "held").touch()
        wait_for("tried")
    else:
        wait_for("held")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("both")
        except BlockingIOError:
            print("one")
        (place / "tried").touch()
"""


def locks_across_hosts(directory: Path) -> Finding:
    """Whether the lock that keeps two trainings of one model apart also does so on two hosts."""
    options = file_system(directory).options & _LOCAL_LOCKS
    cure = "start no training twice at the same time; or have the file system mounted so that flock is shared"
    if options:
        return warning(f"mounted with {', '.join(sorted(options))}: a lock is not seen by other hosts", cure)
    if int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) < 2:
        return skipped("one host cannot tell: run this in an allocation of two nodes")
    nearest = directory.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".kantor-doctor-", dir=nearest) as temporary:
            said = run(srun_python(_TWO_HOSTS, temporary, nodes=2), 60)
    except (Trouble, OSError) as error:
        return failure(
            f"two nodes do not share {nearest}, or srun fails: {error}",
            "choose a results directory that all nodes see",
        )
    if said.split() != ["one"]:
        return warning("two nodes hold one lock at the same time", cure)
    return ok("two nodes see the same files, and a lock of one keeps the other out")


def scratch(configured: str) -> Finding:
    """The local disk on which a node keeps a copy of the shards while it reads them."""
    if configured == "none":
        return skipped("not wanted (--scratch none)")
    directory = scratch_directory() if configured == "auto" else Path(os.path.expandvars(configured))
    if directory is None:
        return skipped("none: $SLURM_TMPDIR and $TMPDIR are not set; shards are read where they are")
    where = f"{directory} ({file_system(directory).kind})"
    cure = "name another: kantor train --scratch DIR, or none; shards are then read where they are"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(2**20))
    except OSError as error:
        return warning(f"{where}: {error.strerror}", cure)
    found = f"{where}: can be written, {shutil.disk_usage(directory).free / 1e9:,.1f} GB are free"
    place = file_system(directory).place
    if place != "disk":
        what = "on the network" if place == "network" else "in memory, which is the job's"
        return warning(f"{found}, but it is {what}: auto does not use it", cure)
    return ok(found)
