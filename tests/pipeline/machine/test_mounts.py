"""Telling a local disk from a shared file system and from memory."""

from pathlib import Path

import pytest

from kantor.machine.mounts import file_system

# As Linux writes it: a root disk, NFS homes, a Lustre file system, one mount over another, and a blank in a name.
TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /homes rw,relatime shared:9 - nfs4 server:/homes rw,vers=4.2,local_lock=none
31 22 0:41 / /lustre rw - lustre mgs@tcp:/fs rw,localflock
32 22 0:42 / /tmp rw shared:2 - ext4 /dev/sda2 rw
33 32 0:43 / /tmp rw - tmpfs tmpfs rw,size=1024k
34 22 8:3 / /local\\040disk rw - xfs /dev/sdb1 rw
35 22 0:50 / /remote rw - fuse.sshfs me@host: rw
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "mountinfo").write_text(TABLE)
    return tmp_path / "mountinfo"


@pytest.mark.parametrize(
    "path, kind, place",
    [
        ("/", "ext4", "disk"),
        ("/home", "ext4", "disk"),
        ("/homes/me/not/there", "nfs4", "network"),
        ("/lustre/data", "lustre", "network"),
        ("/tmp/job", "tmpfs", "memory"),
        ("/local disk/x", "xfs", "disk"),
        ("/remote/x", "fuse.sshfs", "network"),
    ],
)
def test_the_innermost_mount_counts(table: Path, path: str, kind: str, place: str) -> None:
    found = file_system(Path(path), table)
    assert (found.kind, found.place) == (kind, place)


def test_options_of_the_mount_and_of_the_file_system_are_known(table: Path) -> None:
    assert {"rw", "localflock"} <= file_system(Path("/lustre"), table).options


def test_this_machine_s_own_table() -> None:
    assert file_system(Path("/proc/self")).kind == "proc"
    assert file_system(Path("/dev/shm")).place == "memory"
