"""What kind of file system a path is on: this machine's own disk, one that many machines share, or memory."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_MEMORY = {"tmpfs", "ramfs"}
_NETWORK = set(
    "nfs nfs4 lustre gpfs beegfs beegfs_nodev ceph cifs smb3 9p afs panfs pvfs2 orangefs wekafs virtiofs dvs".split()
)


@dataclass(frozen=True)
class FileSystem:
    """kind: as the kernel calls it, such as ext4 or nfs4. options: of the mount and of the file system."""

    kind: str
    options: frozenset[str]

    @property
    def place(self) -> Literal["disk", "network", "memory"]:
        if self.kind in _MEMORY:
            return "memory"
        # What FUSE serves comes from elsewhere (sshfs, glusterfs, cvmfs); its block devices are called fuseblk.
        return "network" if self.kind in _NETWORK or self.kind.startswith("fuse.") else "disk"


def file_system(path: Path, table: Path = Path("/proc/self/mountinfo")) -> FileSystem:
    """The file system of `path`, or of its nearest parent that exists; `table` as in proc_pid_mountinfo(5)."""
    path = path.resolve()
    found, depth = FileSystem("unknown", frozenset()), -1
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, kind = line.partition(" - ")
        point, options = mount.split()[4:6]
        # Blanks and the like are written as octal numbers.
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
        # Of several mounts on one point the last is seen.
        if path.is_relative_to(point) and len(point.parts) >= depth:
            name, _, super_options = kind.split(maxsplit=2)
            depth = len(point.parts)
            found = FileSystem(name, frozenset([*options.split(","), *super_options.split(",")]))
    return found
