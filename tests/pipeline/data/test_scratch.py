"""A node's copy of the shards: made once, verified, shared, removed; a training never fails for it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kantor.data import scratch
from kantor.data.manifest import Manifest
from kantor.data.samples import read_splits, verified
from kantor.data.scratch import node_copy
from kantor.errors import InputError

if TYPE_CHECKING:
    from conftest import Table


@pytest.fixture
def manifest_path(table: Table) -> Path:
    table.stage(shard_rows=150)
    return table.out / "manifest.json"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is logged, even after a command ran in this process."""
    monkeypatch.setattr(logging.getLogger("kantor"), "propagate", True)
    caplog.set_level(logging.INFO, "kantor")
    return caplog


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return tmp_path / "local"


def same_as_source(manifest_path: Path, copy: Path | None) -> bool:
    mine, source = (read_splits(manifest_path, "train", "test", copy=where) for where in (copy, None))
    return all(np.array_equal(a.features, b.features) for a, b in zip(mine, source, strict=True))


def test_shards_are_copied_and_removed(manifest_path: Path, local: Path, said: pytest.LogCaptureFixture) -> None:
    with node_copy(manifest_path, str(local), workers=2) as copy:
        assert copy is not None
        assert sorted(path.name for path in copy.glob("*.h5")) == [s.file for s in Manifest.read(manifest_path).shards]
        for shard in Manifest.read(manifest_path).shards:
            verified(copy / shard.file, shard)
        assert copy.parent.stat().st_mode & 0o777 == 0o700
        # What is read is the copy: the source may vanish.
        shards = list(manifest_path.parent.glob("*.h5"))
        assert len(shards) == 7
        for shard in shards:
            shard.rename(shard.with_suffix(".away"))
        assert read_splits(manifest_path, "train", copy=copy)[0].rows == 600
    assert list(local.iterdir()) == []
    assert "copied 7 shard(s)" in said.text
    assert "for 2 worker(s)" in said.text


# Enters and leaves on command, several times; says what it logged.
WORKER = """
import sys
from pathlib import Path
from kantor.data.samples import read_splits
from kantor.data.scratch import node_copy
from kantor.machine.progress import configure
configure(None)
manifest, disk, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(times):
    with node_copy(manifest, disk, workers=4) as copy:
        if times == 1:
            print("entered", flush=True)
            sys.stdin.readline()
        assert copy is not None and len(list(copy.glob("*.h5"))) == 7
        assert read_splits(manifest, "train", copy=copy)[0].rows == 600
"""


@contextmanager
def workers(count: int, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-c", WORKER, *map(str, arguments)]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1) for _ in range(count)
    ]
    try:
        hear(started, "ready")
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def tell(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")


def hear(processes: list[subprocess.Popen[str]], word: str) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{word}\n"


def ended(processes: list[subprocess.Popen[str]]) -> str:
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return "".join(said)


def test_workers_that_start_at_once_copy_once(manifest_path: Path, local: Path) -> None:
    with workers(4, manifest_path, local, 1) as started:
        tell(started)
        hear(started, "entered")
        assert len(list(local.glob("*/*"))) == 1
        tell(started)
        assert ended(started).count("copied 7 shard(s)") == 1
    assert list(local.iterdir()) == []


def test_coming_and_going_never_takes_a_copy_away(manifest_path: Path, local: Path) -> None:
    """Workers of several trainings: one removes what another is about to hold."""
    with workers(4, manifest_path, local, 50) as started:
        tell(started)
        assert "copied 7 shard(s)" in ended(started)
    assert list(local.iterdir()) == []


def test_an_altered_copy_is_read_from_the_source(
    manifest_path: Path, local: Path, said: pytest.LogCaptureFixture
) -> None:
    with node_copy(manifest_path, str(local), workers=2) as copy:
        assert copy is not None
        altered, missing = sorted(copy.glob("*.h5"))[:2]
        content = bytearray(altered.read_bytes())
        content[len(content) // 2] ^= 1
        altered.write_bytes(content)
        missing.unlink()
        assert same_as_source(manifest_path, copy)
    assert f"{altered}: the checksum of this shard is not the manifest's; it is read from" in said.text


def test_a_damaged_source_is_not_copied_and_named(manifest_path: Path, local: Path) -> None:
    shard = manifest_path.parent / "shard-0003.h5"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with node_copy(manifest_path, str(local), workers=2) as copy:
        assert copy is not None
        assert not (copy / shard.name).exists()
        with pytest.raises(InputError, match="checksum") as caught:
            read_splits(manifest_path, "train", copy=copy)
    assert caught.value.where == shard
    assert list(local.iterdir()) == []


def test_a_full_disk_means_the_source(manifest_path: Path, small_disk: Path, said: pytest.LogCaptureFixture) -> None:
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "others").write_bytes(bytes(free - 20_000))
    with node_copy(manifest_path, str(small_disk), workers=2) as copy:
        assert same_as_source(manifest_path, copy)
    assert "do not fit into" in said.text
    assert [path.name for path in small_disk.iterdir()] == ["others"]


def test_a_disk_that_fills_up_meanwhile_means_the_source(
    manifest_path: Path, small_disk: Path, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write, too, and a quota does not show in what is free."""
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "others").write_bytes(bytes(free - 20_000))
    usage = scratch.shutil.disk_usage
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda path: usage(path)._replace(free=1 << 40))
    with node_copy(manifest_path, str(small_disk), workers=2) as copy:
        assert same_as_source(manifest_path, copy)
    assert "No space left on device" in said.text
    assert [path.name for path in small_disk.iterdir()] == ["others"]


def test_a_directory_that_cannot_be_used_means_the_source(
    manifest_path: Path, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with node_copy(manifest_path, str(tmp_path / "file"), workers=2) as copy:
        assert copy is None
    assert "no scratch copy of the dataset" in said.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to another user")
def test_a_directory_of_another_user_is_not_trusted(
    manifest_path: Path, local: Path, said: pytest.LogCaptureFixture
) -> None:
    own = local / f"kantor-{os.getuid()}"
    own.mkdir(parents=True)
    os.chown(own, 65534, 65534)
    with node_copy(manifest_path, str(local), workers=2) as copy:
        assert copy is None
    assert "is not yours" in said.text


def test_what_a_killed_worker_left_is_removed_by_the_next(table: Table, manifest_path: Path, local: Path) -> None:
    with workers(1, manifest_path, local, 1) as (started,):
        tell([started])
        hear([started], "entered")
        (held,) = local.glob("*/*")

        table.stage(shard_rows=300)  # into the same place: another dataset from here on
        with node_copy(manifest_path, str(local), workers=2):
            assert held.exists()  # its holder lives

        started.kill()
        started.wait()
        assert held.exists()
        with node_copy(manifest_path, str(local), workers=2) as copy:
            assert copy is not None
            assert not held.exists()
    assert list(local.iterdir()) == []


def test_the_directory_may_be_named_by_a_variable_of_the_node(
    manifest_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_DISK", str(local))
    with node_copy(manifest_path, "$LOCAL_DISK/mine", workers=1) as copy:
        assert copy is not None
        assert copy.is_relative_to(local / "mine")


def test_none_and_auto_read_a_local_dataset_where_it_is(
    manifest_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", str(local))
    for choice in ("none", "auto"):
        with node_copy(manifest_path, choice, workers=8) as copy:
            assert copy is None


@pytest.mark.parametrize(
    "source, target, workers, copied",
    [
        ("nfs4", "ext4", 2, True),
        ("nfs4", "ext4", 1, False),  # copying costs what reading costs
        ("nfs4", "tmpfs", 2, False),  # the memory is the job's
        ("nfs4", "lustre", 2, False),  # no nearer than the source
        ("ext4", "ext4", 2, False),
    ],
)
def test_auto_copies_from_a_shared_to_a_local_disk_for_several_workers(
    manifest_path: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str,
    workers: int, copied: bool,
) -> None:  # fmt: skip
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 8:1 / / rw - ext4 d rw\n2 1 0:1 / {manifest_path.parent} rw - {source} d rw\n"
        f"3 1 0:2 / {local} rw - {target} d rw\n"
    )
    real = scratch.file_system
    monkeypatch.setattr(scratch, "file_system", lambda path: real(path, table))
    monkeypatch.setenv("SLURM_TMPDIR", str(local))
    with node_copy(manifest_path, "auto", workers) as copy:
        assert (copy is not None) == copied
