"""A real SLURM of two nodes on this machine, for all tests of a session."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm" / "testcluster" / "testcluster.sh"
NOT_ALLOWED = 77
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL"}
# What runs on a node without jobs.
_IDLE = re.compile(r"testcluster\.sh node \d+$|slurmd( |$)|slurmstepd: \[\d+\.extern\]")


class Job:
    """A batch job and what it wrote."""

    def __init__(self, cluster: "Cluster", number: int, output: Path) -> None:
        self._cluster, self.number, self.output = cluster, number, output

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def _field(self, name: str) -> str:
        shown = self._cluster.run("scontrol", "--oneliner", "show", "job", str(self.number)).stdout
        return re.findall(rf"(?:^| ){name}=(\S+)", shown)[0]

    @property
    def state(self) -> str:
        return self._field("JobState")

    @property
    def is_over(self) -> bool:
        return self.state in _OVER

    @property
    def restarts(self) -> int:
        """How often it went back into the queue."""
        return int(self._field("Restarts"))

    @property
    def deadline(self) -> float:
        """When a training in it stops by itself [seconds since the epoch]."""
        began, end = (datetime.fromisoformat(self._field(f"{name}Time")).timestamp() for name in ("Start", "End"))
        return began + 0.9 * (end - began)  # at the latest, as slurm.deadline says

    def wait(self, timeout: float = 300) -> int:
        """The exit status of the finished job (128 + N where signal N ended it)."""
        wait_until(lambda: self.state in _OVER, timeout, lambda: f"job {self.number} is {self.state}: {self.said}")
        status, ended_by = self._field("ExitCode").split(":")
        return int(status) or (128 + int(ended_by) if ended_by != "0" else 0)

    def wait_for_restart(self, count: int, timeout: float = 300) -> None:
        """Wait until it has gone back into the queue this often, and its last run has ended."""
        wait_until(
            lambda: self.restarts >= count and self.state != "COMPLETING",
            timeout,
            lambda: f"job {self.number} is {self.state}: {self.said}",
        )

    def wait_for(self, text: str, timeout: float = 300) -> None:
        """Wait until the job has said `text`; it must not end before."""

        def seen() -> bool:
            assert text in self.said or self.state not in _OVER, f"job {self.number} is {self.state}: {self.said}"
            return text in self.said

        wait_until(seen, timeout, lambda: f"'{text}' is not in {self.said}")


class Cluster:
    """The cluster: `shared` is a directory that all nodes see; /tmp and /dev/shm are each node's own."""

    def __init__(self, name: str, shared: Path) -> None:
        self.name, self.shared = name, shared
        self.directory = Path(f"/var/tmp/testcluster-{name}")
        # A file system of its own, of a few MiB, that all nodes see.
        self.small = shared / "small"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "SLURM_CONF": str(self.directory / "etc" / "slurm.conf"),
            "TESTCLUSTER": name,
            # Ray Train looks twice a second otherwise.
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        }

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run testcluster.sh for this cluster."""
        # What it starts in the background holds no pipe of ours.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(SCRIPT), *arguments], env=self.environment, stdout=output, stderr=subprocess.STDOUT, check=False
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read(), "")

    def up(self, nodes: int = 2) -> None:
        """Start what is not running: all of it, or nodes that were killed."""
        # Nodes see what was mounted before they started. Who may not mount may not start a cluster, which says so.
        if not self.small.is_mount():
            self.small.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", str(self.small)], check=False)
        done = self.script("up", str(nodes))
        if done.returncode == NOT_ALLOWED:
            pytest.skip(f"no SLURM here: {done.stdout.strip()}")
        assert done.returncode == 0, done.stdout

    def down(self) -> None:
        assert self.script("down").returncode == 0
        subprocess.run(["umount", str(self.small)], check=False)

    def cancel_all(self) -> None:
        """Leave no job."""
        self.run("scancel", "--user=root", "--signal=KILL", check=False)
        self.run("scancel", "--user=root", check=False)
        wait_until(lambda: not self.run("squeue", "--noheader").stdout, 60, lambda: self.run("squeue").stdout)

    @property
    def nodes(self) -> list[str]:
        return self.run("sinfo", "--noheader", "--Node", "--partition", "main", "--format", "%N").stdout.split()

    def run(self, *command: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command (srun, scancel, ...) outside of the nodes, in the shared directory."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.shared,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done

    def submit(self, command: str, *options: str, directory: Path | None = None) -> Job:
        """Submit a shell command with options of sbatch; by default a whole-cluster job of a few minutes."""
        wanted = ["--nodes=2", "--ntasks=2", "--cpus-per-task=2", "--mem=4000", "--time=10", *options]
        return self.sbatch(*wanted, f"--wrap={command}", directory=directory or Path(tempfile.mkdtemp(dir=self.shared)))

    def sbatch(self, *arguments: str, directory: Path) -> Job:
        """Submit a job that runs in a directory and writes its output there."""
        places = [f"--chdir={directory}", f"--output={directory}/job-%j.txt"]
        number = int(self.run("sbatch", "--parsable", *places, *arguments).stdout.split(";")[0])
        return Job(self, number, directory / f"job-{number}.txt")

    def on(self, node: str, *command: str) -> str:
        """What a command says on a node, past SLURM."""
        return self.script("on", node, *command).stdout

    def kill(self, node: str) -> None:
        """A power cut; `up` starts the node again."""
        assert self.script("kill", node).returncode == 0

    def processes(self, node: str) -> dict[int, str]:
        """What jobs run on a node: command lines by (the node's) process id."""
        found = {}
        for line in self.on(node, "ps", "axww", "-o", "pid=,stat=,args=").splitlines():
            pid, state, command = line.split(maxsplit=2)
            if "Z" not in state and not _IDLE.search(command) and not command.startswith("ps axww"):
                found[int(pid)] = command
        return found

    def find(self, node: str, pattern: str, timeout: float = 60) -> int:
        """The process id, on the node, of the one process whose command line matches; waits for it."""
        found: list[int] = []

        def one() -> bool:
            found[:] = [pid for pid, command in self.processes(node).items() if re.search(pattern, command)]
            return len(found) == 1

        wait_until(one, timeout, lambda: f"{len(found)} processes match '{pattern}': {self.processes(node)}")
        return found[0]

    def assert_clean(self) -> None:
        """No process, temporary directory or meeting point of a job is left on any node."""
        self.assert_clean_processes()
        for node in self.nodes:
            assert "kray-" not in self.on(node, "ls", "/tmp")
        assert not list(self.shared.rglob(".kantor-ray-*"))

    def assert_clean_processes(self) -> None:
        """Where a launcher was killed, files of it may be left, but nothing runs."""
        wait_until(
            lambda: not any(self.processes(node) for node in self.nodes),
            20,
            lambda: f"left: { {node: self.processes(node) for node in self.nodes} }",
        )


def wait_until(condition: Callable[[], bool], timeout: float, explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout} s: {explain()}"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def new_cluster() -> Iterator[Callable[[str], Cluster]]:
    """Makes clusters that are taken down at the end; `shared` is below /var/tmp, as each node has a /tmp of its own."""
    made: list[Cluster] = []

    def make(name: str) -> Cluster:
        made.append(Cluster(name, Path(tempfile.mkdtemp(prefix="kantor-", dir="/var/tmp"))))
        return made[-1]

    yield make
    for cluster in made:
        cluster.down()
        shutil.rmtree(cluster.shared, ignore_errors=True)


@pytest.fixture(scope="session")
def running(new_cluster: Callable[[str], Cluster]) -> Cluster:
    cluster = new_cluster(f"t{os.getpid() % 10**7}n")
    cluster.up()
    return cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """Two idle nodes; no job of a test is left for the next one."""
    running.up()
    yield running
    running.cancel_all()
    # Of launchers killed here, or by a test; its own assertions have been made.
    for meeting in running.shared.rglob(".kantor-ray-*"):
        meeting.unlink()


@pytest.fixture
def ray_train() -> Callable[..., str]:
    """The command line of slurm/ray_train.sh for a command over some nodes."""

    def line(*command: str, nodes: int = 2, cpus: int = 2) -> str:
        return " ".join([str(ROOT / "slurm" / "ray_train.sh"), str(nodes), str(cpus), *map(shlex.quote, command)])

    return line
