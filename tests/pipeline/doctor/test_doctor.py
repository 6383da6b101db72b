"""The doctor tells what does not work: on machines that are really broken, each in one way."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from kantor.cli import main
from kantor.doctor import launchers, machine, slurm, storage
from kantor.doctor.examine import checks, diagnosis, examine, line
from kantor.doctor.finding import Checked, Diagnosis, Finding, ok
from kantor.doctor.processes import Trouble, probe, run, running

ROOT = Path(__file__).parents[3]


def doctor(*arguments: str, python: str = sys.executable, **env: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "kantor.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env={**os.environ, **env})


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, Checked]:
    return {checked.name: checked for checked in Diagnosis.model_validate_json(done.stdout).checks}


@pytest.mark.slow
def test_a_healthy_machine_passes_in_time_and_nothing_stays(tmp_path: Path) -> None:
    began = time.monotonic()
    done = doctor("--json", "--results", str(tmp_path), TMPDIR="/tmp")
    assert done.returncode == 0, done.stdout + done.stderr
    # Less than 15 s on two quiet cores; the tests share them.
    assert time.monotonic() - began < 60
    found = findings(done)
    for name in (
        "Python",
        "packages",
        "PyTorch",
        "mpiexec",
        "Ray",
        "cache",
        "results",
        "network",
        "temporary directory",
    ):
        assert found[name].status in ("ok", "warning"), found[name]
    assert "2 ranks on 1 host(s) are one world; mpi4py runs on MPICH" in found["mpiexec"].found
    assert "a head with a token starts on free ports and answers" in found["Ray"].found
    assert list(tmp_path.iterdir()) == []
    assert not [one for one in psutil.process_iter() if f"--object-store-memory={80 * 2**20}" in words(one)]


def words(process: psutil.Process) -> str:
    """The command line; nothing of a process that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.slow
def test_text_has_a_line_for_each_check_and_a_cure_below(tmp_path: Path) -> None:
    done = doctor("--quick", "--results", str(tmp_path), "--scratch", str(tmp_path / "missing" / "scratch"))
    lines = [one for one in done.stdout.splitlines() if not one.lstrip().startswith("cure:")]
    assert len(lines) == len(checks(tmp_path, "none", quick=True))
    assert all(one.split()[0] in ("ok", "warning", "failure", "-") for one in lines)
    assert any(one.startswith("-        Ray                 not started (--quick)") for one in lines)
    assert "Traceback" not in done.stdout + done.stderr


def test_the_json_has_a_schema() -> None:
    properties = Diagnosis.model_json_schema()["$defs"]["Checked"]["properties"]
    assert list(properties) == ["name", "status", "found", "cure", "seconds"]
    assert properties["status"]["enum"] == ["ok", "warning", "failure", "skipped"]


def test_a_failure_ends_with_1_and_a_wrong_argument_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["doctor", "--quick", "--json", "--results", str(tmp_path / "file" / "results")]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["failures"] >= 1
    assert "check(s) failed" in captured.err
    assert doctor("--fast").returncode == 2


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """This Python and its packages in a directory of its own, without the programs that are installed beside it."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath(sys.executable))
    return python


def with_packages(path: Path) -> dict[str, str]:
    packages = [sysconfig.get_path("purelib"), str(ROOT / "pipeline"), str(ROOT / "kernels")]
    # mpi4py looks for an MPI library there.
    library = str(Path(sys.prefix) / "lib")
    return {"PATH": f"{path}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(packages), "LD_LIBRARY_PATH": library}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpiexec", path="/usr/bin:/bin") is not None, reason="the system has an mpiexec")
def test_without_mpiexec_validations_run_on_one_rank(bare_python: Path, tmp_path: Path) -> None:
    done = doctor("--quick", "--json", python=str(bare_python), **with_packages(tmp_path / "bin"))
    found = findings(done)["mpiexec"]
    assert (found.status, found.found) == ("warning", "there is no mpiexec: validations run on one rank")
    assert found.cure is not None
    assert "pip install mpich" in found.cure


@pytest.mark.slow
def test_a_launcher_of_another_mpi_is_found_out(bare_python: Path) -> None:
    """It starts two processes that the MPI library does not know to belong together: two worlds, and no error."""
    launcher = bare_python.with_name("mpiexec")
    launcher.write_text('#!/bin/sh\nshift 2\n"$@" & "$@"\nwait\n')
    launcher.chmod(0o755)
    done = doctor("--quick", "--json", python=str(bare_python), **with_packages(bare_python.parent))
    found = findings(done)["mpiexec"]
    assert found.status == "failure"
    assert "2 rank(s) in worlds of 1, instead of 2 in one world of 2" in found.found
    assert done.returncode == 1


def test_a_temporary_directory_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    found = machine.temporary_directory()
    assert found.status == "failure"
    assert "is too long" in found.found
    # Which is so: Ray itself does not start there.
    real = launchers.ray()
    assert real.status == "failure", real
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert machine.temporary_directory().status == "ok"


def test_a_full_results_directory(small_disk: Path) -> None:
    assert storage.results(small_disk).status == "failure"  # one megabyte and a lock do not fit into one megabyte
    found = storage.results(small_disk / "not" / "there")
    assert "No space left on device" in found.found
    assert found.cure is not None
    assert "free some space" in found.cure
    assert list(small_disk.iterdir()) == []


def test_a_read_only_results_directory(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    found = storage.results(small_disk)
    assert found.status == "failure"
    assert "Read-only file system" in found.found
    scratch = storage.scratch(str(small_disk))
    assert (scratch.status, "Read-only file system" in scratch.found) == ("warning", True)


def test_little_space_is_a_warning(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        assert storage.results(disk).status == "warning"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_locks_that_do_not_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Lustre mounted with neither flock nor localflock."""

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    assert storage.results(tmp_path).status != "failure"
    monkeypatch.setattr(fcntl, "flock", refuse)
    found = storage.results(tmp_path)
    assert (found.status, "flock does not lock" in found.found) == ("failure", True)


def test_scratch_in_memory_is_not_used_by_itself(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    found = storage.scratch(str(small_disk))
    assert (found.status, "in memory, which is the job's" in found.found) == ("warning", True)
    assert storage.scratch("none").status == "skipped"


@pytest.mark.parametrize(
    "groups, files, limit",
    [
        ("0::/job/step\n", {"job/memory.max": "4294967296", "job/step/memory.max": "max"}, 4294967296),
        ("0::/\n", {"memory.max": "1000000"}, 1000000),
        ("4:cpu:/x\n5:memory:/slurm/job_1\n", {"memory/slurm/job_1/memory.limit_in_bytes": "2097152"}, 2097152),
        ("5:memory:/x\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/elsewhere\n", {}, None),
    ],
    ids=["v2", "v2 container", "v1", "v1 without limit", "none"],
)
def test_the_memory_limit_of_a_control_group(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, value in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(value + "\n")
    assert machine.memory_limit(tmp_path / "cgroup", tmp_path / "sys") == limit


def test_a_package_out_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["numpy>=1000", "no-such-package>=1", 'no-such-extra>=18; extra == "x"']
    monkeypatch.setattr(machine, "requires", lambda _: needed)
    found = machine.packages()
    assert found.status == "failure"
    assert "is not >=1000; no-such-package is missing" in found.found


@pytest.fixture
def without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.mark.usefixtures("without_slurm")
@pytest.mark.parametrize("check", [slurm.commands, slurm.accounting, slurm.signals, slurm.allocation, launchers.srun])
def test_a_machine_without_slurm_is_no_failure(check: Callable[[], Finding]) -> None:
    assert check().status == "skipped"


def test_a_part_of_slurm_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = slurm.commands()
    assert (found.status, found.found) == ("failure", "not on PATH: sinfo, srun, squeue, scancel, scontrol")


def breaks() -> Finding:
    raise ZeroDivisionError("on purpose")


def hangs() -> Finding:
    time.sleep(60)
    return ok("never said")


def crashes() -> Finding:
    probe("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    return ok("never said")


def test_a_check_that_breaks_hangs_or_crashes_fails_alone() -> None:
    names = {"breaks": breaks, "hangs": hangs, "crashes": crashes, "works": lambda: ok("fine")}
    found = {one.name: one for one in examine(list(names.items()), patience=3)}
    assert found["breaks"].found == "the check itself failed: ZeroDivisionError: on purpose"
    assert found["hangs"].found == "no answer within 3 s"
    assert "was ended by SIGILL" in found["crashes"].found
    assert [one.status for one in found.values()] == ["failure", "failure", "failure", "ok"]
    assert line(found["works"]) == "ok       works               fine"
    assert diagnosis(list(found.values())).failures == 3


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match="sh did not end within 1 s"):
        run(["sh", "-c", f"sleep 300 & echo $! > {tmp_path}/child; wait"], seconds=1)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(Trouble, match="cannot be started: No such file"), running(["/no/such/program"]):
        pass


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "kantor.cli", "doctor", "--results", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


@pytest.mark.slow
def test_a_stopped_doctor_leaves_no_ray_behind(started: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    family: list[psutil.Process] = []
    while not any("gcs_server" in words(one) for one in family):
        assert started.poll() is None
        assert time.monotonic() < deadline
        family = psutil.Process(started.pid).children(recursive=True)
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nobody")
    found = storage.home()
    assert found.status == "failure"
    assert "export XDG_CACHE_HOME=" in str(found.cure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the cure
    assert storage.home().status == "ok"
