"""What clusters do to a training: every fault loses at most one checkpoint interval, and the model stays the same.

Every training has two workers on two nodes and one thread each, so that an interrupted one ends with the very weights
of the uninterrupted one. A table of what was lost is printed at the end (pytest -s).
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from kantor.models.bundle import Bundle
from kantor.results import TrainingRun
from kantor.training.worker import read_rows

Cluster = Any  # conftest's classes, which an importlib-mode test cannot import
Job = Any
Workflow = Any

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS, INTERVAL, HIT = 250, 50, 60
CONFIGURATION = {
    "trainings__wgan_gp__steps": STEPS,
    "trainings__wgan_gp__log_every": 2,
    "trainings__wgan_gp__checkpoint_every": INTERVAL,
    "trainings__wgan_gp__evaluate_every": 100,
    "trainings__wgan_gp__precision": "float64",
}


@dataclass(frozen=True)
class Moment:
    """How far a training is: its last row, its last checkpoint, and which file the rows are in."""

    step: int
    checkpoint: int
    file: int

    @classmethod
    def of(cls, out: Path) -> "Moment":
        for metrics in out.glob(".checkpoints/*/metrics.jsonl"):
            rows = read_rows(metrics)
            saved = [int(path.stem.partition("-")[2]) for path in metrics.parent.glob("step-*.pt")]
            return cls(rows[-1].step if rows else 0, max(saved, default=0), metrics.stat().st_ino)
        return cls(0, 0, 0)


class Trainings:
    """Trainings of one model on the cluster, as a user submits them."""

    def __init__(self, cluster: Cluster, workflow: Workflow) -> None:
        self.cluster, self.workflow = cluster, workflow
        self.config = workflow.directory / "config" / "config.yaml"
        self.manifest = workflow.directory / "staged" / "manifest.json"
        self.table: list[tuple[str, int, float]] = []
        self.took = 0.0  # the uninterrupted one [s]
        self.limits = "limits of jobs held" in cluster.script("status").stdout
        # Without cgroups SLURM sends SIGTERM to Ray, too, so that no checkpoint can be saved.
        self.lost_on_sigterm = 0 if self.limits else INTERVAL
        stage = ["kantor", "stage", "--config", str(self.config), "--dataset", "dis"]
        cluster.run(*stage, "--out", str(self.manifest.parent))

    def new(self, copy: Path | None = None) -> Path:
        """A directory for a model, perhaps with what another training left in its own."""
        out = self.workflow.directory / f"model-{time.monotonic_ns()}"
        if copy is not None:
            shutil.copytree(copy, out)
        return out

    def start(self, out: Path, *options: str, memory: int = 3000) -> Job:
        """The command that a user repeats until there is a model."""
        limits = ["--cpus-per-task=1", f"--mem={memory}", *options]
        _, *training = self.training(out)
        return self.cluster.sbatch(*limits, "slurm/train.sbatch", *training, directory=self.workflow.directory)

    def training(self, out: Path) -> list[str]:
        """What `kantor` has to be told."""
        data = ["--manifest", str(self.manifest)]
        return ["train", "--config", str(self.config), "--training", "wgan_gp", *data, "--out", str(out)]

    @contextmanager
    def held(self) -> Iterator[None]:
        """All workers stand still."""
        workers = [
            (node, str(process))
            for node in self.cluster.nodes
            for process, command in self.cluster.processes(node).items()
            if "RayTrainWorker" in command
        ]
        for node, process in workers:
            self.cluster.on(node, "kill", "-STOP", process)
        yield
        for node, process in workers:
            self.cluster.on(node, "kill", "-CONT", process)

    def until(self, out: Path, job: Job, step: int = HIT, *, after: Moment | None = None) -> Moment:
        """Wait for an update of this step, `after` a moment before a new start."""
        deadline = time.monotonic() + 480
        while time.monotonic() < deadline:
            now = Moment.of(out)
            if now.step >= step and (after is None or now.file != after.file):
                return now
            if after is not None and (out / "model.pt").exists():
                return Moment(STEPS, STEPS, 0)
            assert not job.is_over, f"job {job.number} is {job.state}: {job.said}"
            time.sleep(0.1)
        raise AssertionError(f"step {step} was not reached: {job.said}")

    def resumes(self, fault: str, out: Path, job: Job, left: Moment, since: float, *, lost: int = INTERVAL) -> None:
        """`job` goes on from the last checkpoint, at most `lost` updates are done again, and the model is the same."""
        assert 0 <= left.step - left.checkpoint <= lost
        self.until(out, job, left.checkpoint + 1, after=left)
        self.table.append((fault, left.step - left.checkpoint, time.monotonic() - since))
        assert job.wait(480) == 0, job.said
        self.assert_whole(out)

    def resume(self, fault: str, out: Path, *, lost: int = INTERVAL) -> Job:
        """Repeat the command."""
        left, since = Moment.of(out), time.monotonic()
        assert left.checkpoint > 0
        job = self.start(out)
        self.resumes(fault, out, job, left, since, lost=lost)
        return job

    def assert_whole(self, out: Path, *, attempts: int = 2) -> None:
        """The model is that of the uninterrupted training, of at least so many attempts, and nothing else is left."""
        straight = self.workflow.directory / "straight"
        first, second = (Bundle.load(path / "model.pt").generator.state_dict() for path in (straight, out))
        assert first
        assert first.keys() == second.keys()
        assert not [name for name in first if not torch.equal(first[name], second[name])]
        rows = [[row.step for row in read_rows(path / "metrics.jsonl")] for path in (straight, out)]
        assert rows[0] == rows[1]
        assert TrainingRun.read(out / "run.json").attempts >= attempts
        assert sorted(path.name for path in out.iterdir()) == ["metrics.jsonl", "model.pt", "run.json"]
        self.cluster.assert_clean_processes()


@pytest.fixture(scope="module")
def shared_trainings(running: Cluster, new_workflow: Any) -> Iterator[Trainings]:
    running.up()
    workflow = new_workflow(running.shared / "faults")
    workflow.configure(**CONFIGURATION)
    found = Trainings(running, workflow)
    began = time.monotonic()
    job = found.start(workflow.directory / "straight")
    assert job.wait(600) == 0, job.said
    found.took = time.monotonic() - began
    yield found
    print("\n\n| fault | updates done again | seconds to resume |\n| --- | --- | --- |")
    print("".join(f"| {fault} | {lost} | {seconds:.0f} |\n" for fault, lost, seconds in found.table))


@pytest.fixture
def trainings(shared_trainings: Trainings, cluster: Cluster) -> Trainings:
    assert cluster is shared_trainings.cluster
    return shared_trainings


@pytest.fixture(scope="module")
def cancelled(shared_trainings: Trainings) -> tuple[Job, Path]:
    """A training cancelled in its middle."""
    out = shared_trainings.new()
    job = shared_trainings.start(out)
    shared_trainings.until(out, job, 2 * INTERVAL + 10)
    shared_trainings.cluster.run("scancel", str(job.number))
    job.wait(60)
    return job, out


def test_scancel_saves_a_checkpoint_and_ends_the_job(trainings: Trainings, cancelled: tuple[Job, Path]) -> None:
    job, out = cancelled
    assert (job.state, job.restarts) == ("CANCELLED", 0)
    trainings.cluster.assert_clean_processes()
    trainings.resume("scancel", trainings.new(copy=out), lost=trainings.lost_on_sigterm)


def test_the_time_limit_puts_the_job_back_into_the_queue(trainings: Trainings) -> None:
    out = trainings.new()
    # Long enough for Ray to start: minutes, by how long the whole uninterrupted training took.
    job = trainings.start(out, f"--time={1 + trainings.took // 45:.0f}")
    trainings.until(out, job)
    with trainings.held():  # until the time to stop has come, however fast this machine is
        time.sleep(max(0.0, job.end_time - time.time() - 5))
    job.wait_for_restart(1)
    left, since = Moment.of(out), time.monotonic()
    assert "a checkpoint is saved" in job.said
    trainings.resumes("walltime reached", out, job, left, since, lost=0)
    trainings.cluster.assert_clean()


def test_a_lost_node_puts_the_job_back_into_the_queue(trainings: Trainings) -> None:
    out = trainings.new()
    job = trainings.start(out)
    trainings.until(out, job)
    cluster = trainings.cluster
    cluster.kill(cluster.nodes[1])
    since = time.monotonic()
    job.wait_for_restart(1)
    left = Moment.of(out)
    cluster.up()
    trainings.resumes("node down", out, job, left, since)


def test_a_preempted_job_goes_on(trainings: Trainings) -> None:
    out = trainings.new()
    job = trainings.start(out)
    trainings.until(out, job)
    urgent = trainings.cluster.submit("sleep 1", "--partition=urgent", "--exclusive")
    job.wait_for_restart(1)
    left, since = Moment.of(out), time.monotonic()
    assert urgent.wait() == 0
    trainings.resumes("preemption", out, job, left, since, lost=trainings.lost_on_sigterm)


def test_a_killed_worker_on_another_node_is_started_again(trainings: Trainings) -> None:
    out = trainings.new()
    job = trainings.start(out)
    trainings.until(out, job)
    cluster = trainings.cluster
    cluster.on(cluster.nodes[1], "kill", "-KILL", str(cluster.find(cluster.nodes[1], "RayTrainWorker")))
    left, since = Moment.of(out), time.monotonic()
    trainings.resumes("kill -9 of a worker", out, job, left, since)
    assert job.restarts == 0
    cluster.assert_clean()


def test_a_killed_driver_ends_the_job_and_the_next_one_goes_on(trainings: Trainings) -> None:
    out = trainings.new()
    job = trainings.start(out)
    trainings.until(out, job)
    cluster = trainings.cluster
    driver = cluster.find(cluster.nodes[0], r"^\S*python\S* \S*kantor train")
    cluster.on(cluster.nodes[0], "kill", "-KILL", str(driver))
    assert job.wait(60) == 137, job.said
    cluster.assert_clean()
    trainings.resume("kill -9 of the driver", out)


def test_too_little_memory_is_said_and_more_of_it_goes_on(trainings: Trainings, cancelled: tuple[Job, Path]) -> None:
    if not trainings.limits:
        pytest.skip("SLURM holds no memory limits here: it cannot write cgroups of version 1")
    out = trainings.new(copy=cancelled[1])
    job = trainings.start(out, memory=500)
    assert job.wait(120) not in (0, 75), job.said
    assert "oom" in job.said.lower(), job.said
    trainings.cluster.assert_clean_processes()
    trainings.resume("out of memory", out)


@pytest.fixture
def small_disk(trainings: Trainings) -> Iterator[Path]:
    """A shared directory of a few MiB."""
    directory, cluster = trainings.workflow.directory / "small", trainings.cluster
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", str(directory)], check=True)
    # Nodes see what was mounted before they started.
    for node in cluster.nodes:
        cluster.kill(node)
    cluster.up()
    yield directory
    for node in cluster.nodes:
        cluster.kill(node)
    subprocess.run(["umount", str(directory)], check=True)
    directory.rmdir()
    cluster.up()  # not every test looks whether the nodes are there


def test_a_full_results_directory_is_named_and_space_goes_on(trainings: Trainings, small_disk: Path) -> None:
    out = small_disk / "model"
    job = trainings.start(out)
    trainings.until(out, job)
    ballast = small_disk / "ballast"
    filled = subprocess.run(
        ["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], capture_output=True, text=True, check=False
    )
    assert "No space left on device" in filled.stderr
    assert job.wait(120) == 2, job.said
    assert f"{out}/.checkpoints" in job.said
    assert "cannot write: No space left on device" in job.said
    assert "free some space" in job.said
    assert not list(out.glob("**/.*.partial"))
    ballast.unlink()
    trainings.resume("full results directory", out)


def test_a_full_temporary_directory_is_named(trainings: Trainings) -> None:
    cluster = trainings.cluster
    node = cluster.nodes[0]
    cluster.on(node, "sh", "-c", "mkdir /tmp/full && mount -t tmpfs -o size=1M tmpfs /tmp/full")
    job = trainings.start(trainings.new(), "--nodes=1", f"--nodelist={node}", "--export=ALL,TMPDIR=/tmp/full")
    assert job.wait(60) == 2, job.said
    assert f"{node}:/tmp/full: 1 MiB are free here" in job.said
    cluster.on(node, "sh", "-c", "umount /tmp/full && rmdir /tmp/full")


def test_two_trainings_at_once_on_the_same_nodes(trainings: Trainings) -> None:
    first, second = trainings.new(), trainings.new()
    jobs = {first: trainings.start(first)}
    trainings.until(first, jobs[first], 2)
    with trainings.held():
        jobs[second] = trainings.start(second)
        refused = trainings.cluster.run("kantor", *trainings.training(first), "--workers", "1", check=False)
        trainings.until(second, jobs[second], 2)
    assert refused.returncode == 2, refused.stderr
    assert f"{first}/.checkpoints" in refused.stderr
    assert "another process is training this model" in refused.stderr
    for out, job in jobs.items():
        assert job.wait(240) == 0, job.said
        trainings.assert_whole(out, attempts=1)
    trainings.cluster.assert_clean()


def test_a_corrupted_checkpoint_is_skipped_and_named(trainings: Trainings, cancelled: tuple[Job, Path]) -> None:
    out = trainings.new(copy=cancelled[1])
    *_, before, newest = sorted(out.glob(".checkpoints/*/step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    left, since = Moment.of(out), time.monotonic()
    job = trainings.start(out)
    damaged = Moment(left.step, int(before.stem.partition("-")[2]), left.file)
    trainings.resumes("corrupted checkpoint", out, job, damaged, since, lost=2 * INTERVAL)
    assert f"{newest}: is not a checkpoint, or is damaged" in job.said
    assert "resume from the one before" in job.said


def test_two_workflows_at_once_one_of_which_is_stopped(trainings: Trainings, new_workflow: Any) -> None:
    cluster = trainings.cluster
    command = ["--workflow-profile", "slurm/testcluster", "results/models/wgan_gp/seed1/model.pt"]
    workflows = [new_workflow(cluster.shared / name) for name in ("one", "two")]
    with ThreadPoolExecutor() as pool:
        running = []
        for workflow in workflows:
            workflow.configure(**CONFIGURATION)
            # Such that both fit on the nodes at once.
            profile = "slurm/testcluster/profile.v9+.yaml"
            workflow.edit(profile, "train: 2\n", "train: 1\n")
            workflow.edit(profile, "worker_threads: 2", "worker_threads: 1")
            running.append(pool.submit(workflow.snakemake, *command, more=cluster.environment))
        first, out = workflows[0].directory, workflows[0].directory / "results" / "models" / "wgan_gp" / "seed1"

        def jobs() -> list[str]:
            """Those of the first workflow that run."""
            lines = cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%i %Z").stdout.splitlines()
            return [line.split()[0] for line in lines if line.endswith(f" {first}")]

        while not jobs() and not running[0].done():
            time.sleep(0.1)
        again = workflows[0].snakemake(*command, more=cluster.environment)
        assert again.returncode != 0
        assert "Directory cannot be locked" in again.stdout + again.stderr
        while Moment.of(out).step < HIT and not running[0].done():
            time.sleep(0.1)
        (job,) = jobs()
        cluster.run("scancel", "--signal=USR2", job)
        for future in running:
            done = future.result()
            assert done.returncode == 0, done.stdout + done.stderr
    for workflow in workflows:
        trainings.assert_whole(workflow.directory / out.relative_to(workflows[0].directory), attempts=1)
    assert TrainingRun.read(out / "run.json").attempts == 2
