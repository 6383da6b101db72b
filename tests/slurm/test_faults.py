"""What clusters do to a training: every fault loses at most one checkpoint interval, and the model stays the same.

Every training has two workers on two nodes and one thread each, so that an interrupted one ends with the very weights
of the uninterrupted one. One training suffers all faults, in whatever order; each test asks that it goes on, and the
end of the module that it has the right weights. A table of what was lost is printed at the end (pytest -s).
"""

import math
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

STEPS, INTERVAL = 300, 20
# A fault comes so many updates after a checkpoint, at least, and so many before the end.
LATER, EARLIER = 6, 100
CONFIGURATION = {
    "trainings__wgan_gp__steps": STEPS,
    "trainings__wgan_gp__n_critic": 3,
    "trainings__wgan_gp__log_every": 2,
    "trainings__wgan_gp__checkpoint_every": INTERVAL,
    "trainings__wgan_gp__evaluate_every": 100,
    "trainings__wgan_gp__precision": "float64",
}


@dataclass(frozen=True)
class Moment:
    """How far a training is: its last row, its last checkpoint, and which file the rows are in."""

    step: int = 0
    checkpoint: int = 0
    file: int = 0

    @classmethod
    def of(cls, out: Path) -> "Moment":
        for metrics in out.glob(".checkpoints/*/metrics.jsonl"):
            rows = read_rows(metrics)
            saved = [int(path.stem.partition("-")[2]) for path in metrics.parent.glob("step-*.pt")]
            return cls(rows[-1].step if rows else 0, max(saved, default=0), metrics.stat().st_ino)
        return cls()


class Trainings:
    """Trainings of one model on the cluster, as a user submits them."""

    def __init__(self, cluster: Cluster, workflow: Workflow) -> None:
        self.cluster, self.workflow = cluster, workflow
        self.config = workflow.directory / "config" / "config.yaml"
        self.manifest = workflow.directory / "staged" / "manifest.json"
        self.limits = "limits of jobs held" in cluster.script("status").stdout
        # Without cgroups SLURM sends SIGTERM to Ray, too, so that no checkpoint can be saved.
        self.lost_on_sigterm = 0 if self.limits else INTERVAL
        stage = ["kantor", "stage", "--config", str(self.config), "--dataset", "dis"]
        cluster.run(*stage, "--out", str(self.manifest.parent))

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

    def until(self, out: Path, job: Job, step: int, *, checkpoint: int = 0, after: Moment | None = None) -> Moment:
        """Wait for an update of this step, past a checkpoint of that one, `after` a moment before a new start."""
        deadline = time.monotonic() + 480
        while time.monotonic() < deadline:
            now = Moment.of(out)
            far = now.step >= max(step, now.checkpoint + LATER if checkpoint else 0) and now.checkpoint >= checkpoint
            if far and (after is None or now.file != after.file):
                return now
            if (out / "model.pt").exists():
                return Moment(STEPS, STEPS)
            assert not job.is_over, f"job {job.number} is {job.state}: {job.said}"
            time.sleep(0.1)
        raise AssertionError(f"step {step} was not reached: {job.said}")


class Pair:
    """Two trainings at once on the same nodes, to which nothing else happens: what all others are compared with."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        began = time.monotonic()
        first, second = (trainings.workflow.directory / name for name in ("straight", "beside"))
        self.jobs = {first: trainings.start(first)}
        trainings.until(first, self.jobs[first], 2)
        # From submitting to an update [s].
        self.took = time.monotonic() - began
        with trainings.held():
            self.jobs[second] = trainings.start(second)
            again = trainings.training(first)
            self.refused = trainings.cluster.run("kantor", *again, "--workers", "1", check=False)
            trainings.until(second, self.jobs[second], 2)
        self.statuses = [job.wait(480) for job in self.jobs.values()]
        self.straight = first

    def assert_whole(self, out: Path, *, attempts: int) -> None:
        """The model is that of the uninterrupted training, of at least so many attempts, and nothing else is left."""
        first, second = (Bundle.load(path / "model.pt").generator.state_dict() for path in (self.straight, out))
        assert first
        assert first.keys() == second.keys()
        assert not [name for name in first if not torch.equal(first[name], second[name])]
        rows = [[row.step for row in read_rows(path / "metrics.jsonl")] for path in (self.straight, out)]
        assert rows[0] == rows[1]
        assert TrainingRun.read(out / "run.json").attempts >= attempts
        assert sorted(path.name for path in out.iterdir()) == ["metrics.jsonl", "model.pt", "run.json"]
        self.trainings.cluster.assert_clean_processes()


class Victim:
    """The training that suffers: the same command goes on with it after each fault."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.trainings = pair, pair.trainings
        self.out, self.faults = self._place(), 0
        self.job: Any = None
        self.table: list[tuple[str, int, float]] = []
        # From submitting to an update, the longest [s].
        self.start_took = 0.0

    def _place(self) -> Path:
        return self.trainings.cluster.small / f"model-{time.monotonic_ns()}"

    def running(self, *options: str) -> Moment:
        """A moment of it in a job (one it has, or a new one with these options), past a checkpoint of this job."""
        self._look()
        assert self.job is None or not options
        if self.job is None:
            self.start(*options)
        now = self.trainings.until(self.out, self.job, 1, checkpoint=Moment.of(self.out).checkpoint + INTERVAL)
        assert now.step < STEPS
        return now

    def stopped(self) -> Moment:
        """Where it stands in no job, with two checkpoints."""
        self._look()
        if Moment.of(self.out).checkpoint < 2 * INTERVAL and self.job is None:
            self.start()
        if self.job is not None:
            self.trainings.until(self.out, self.job, 1, checkpoint=2 * INTERVAL)
            self.cancel()
        return Moment.of(self.out)

    def rest(self) -> None:
        """Leave the nodes to others."""
        self._look()
        if self.job is not None:
            self.cancel()

    def cancel(self) -> Job:
        """Let a user end its job."""
        job, self.job = self.job, None
        self.trainings.cluster.run("scancel", str(job.number))
        job.wait(60)
        self.trainings.cluster.assert_clean_processes()
        return job

    def start(self, *options: str) -> None:
        """The command, and the first update."""
        left, since = Moment.of(self.out), time.monotonic()
        self.job = self.trainings.start(self.out, *options)
        self.trainings.until(self.out, self.job, left.checkpoint + 1, after=left)
        self.start_took = max(self.start_took, time.monotonic() - since)

    def goes_on(self, fault: str, left: Moment, since: float, *, lost: int = INTERVAL) -> None:
        """It does so from the last checkpoint, and at most `lost` updates are done again."""
        assert left.checkpoint > 0
        assert 0 <= left.step - left.checkpoint <= lost
        self.trainings.until(self.out, self.job, left.checkpoint + 1, after=left)
        self.table.append((fault, left.step - left.checkpoint, time.monotonic() - since))
        self.faults += 1

    def repeat(self, fault: str, left: Moment | None = None, *, lost: int = INTERVAL) -> None:
        """The same command goes on."""
        left, since = left or Moment.of(self.out), time.monotonic()
        self.job = self.trainings.start(self.out)
        self.goes_on(fault, left, since, lost=lost)

    def _look(self) -> None:
        """See what the test before has left; near its end it comes to it, and there is another training."""
        if self.job is not None and self.job.is_over:
            self.job = None
        if Moment.of(self.out).step > STEPS - EARLIER or (self.out / "model.pt").exists():
            self.finish()
            self.out, self.job, self.faults = self._place(), None, 0

    def finish(self) -> None:
        """It ends with the very weights of the uninterrupted training."""
        if self.job is None and not (self.out / "model.pt").exists():
            self.job = self.trainings.start(self.out)
        if self.job is not None:
            assert self.job.wait(480) == 0, self.job.said
        self.pair.assert_whole(self.out, attempts=1 + bool(self.faults))


@pytest.fixture(scope="module")
def trainings(running: Cluster, new_workflow: Any) -> Iterator[Trainings]:
    running.up()
    workflow = new_workflow(running.shared / "faults")
    workflow.configure(**CONFIGURATION)
    yield Trainings(running, workflow)
    running.cancel_all()


@pytest.fixture(scope="module")
def pair(trainings: Trainings) -> Pair:
    return Pair(trainings)


@pytest.fixture(scope="module")
def only_victim(pair: Pair) -> Iterator[Victim]:
    found = Victim(pair)
    yield found
    print("\n\n| fault | updates done again | seconds to resume |\n| --- | --- | --- |")
    print("".join(f"| {fault} | {lost} | {seconds:.0f} |\n" for fault, lost, seconds in found.table))
    found.finish()


@pytest.fixture
def victim(only_victim: Victim) -> Victim:
    only_victim.trainings.cluster.up()
    return only_victim


def test_two_trainings_at_once_on_the_same_nodes(pair: Pair) -> None:
    assert pair.statuses == [0, 0], [job.said for job in pair.jobs.values()]
    for out in pair.jobs:
        pair.assert_whole(out, attempts=1)
    assert pair.refused.returncode == 2, pair.refused.stderr
    assert f"{pair.straight}/.checkpoints" in pair.refused.stderr
    assert "another process is training this model" in pair.refused.stderr


def test_scancel_saves_a_checkpoint_and_ends_the_job(victim: Victim) -> None:
    victim.running()
    restarts = victim.job.restarts
    job = victim.cancel()
    assert (job.state, job.restarts) == ("CANCELLED", restarts)
    victim.repeat("scancel", lost=victim.trainings.lost_on_sigterm)


def test_the_time_limit_puts_the_job_back_into_the_queue(victim: Victim) -> None:
    victim.rest()
    # Minutes, long enough for Ray to start.
    victim.running(f"--time={math.ceil(2 * (victim.start_took or victim.pair.took) / 60)}")
    job = victim.job
    with victim.trainings.held():  # until the time to stop has come, however fast this machine is
        time.sleep(max(0.0, job.deadline + 1 - time.time()))
    job.wait_for_restart(1)
    left, since = Moment.of(victim.out), time.monotonic()
    assert "a checkpoint is saved" in job.said
    victim.goes_on("walltime reached", left, since, lost=0)
    victim.cancel()


def test_a_lost_node_puts_the_job_back_into_the_queue(victim: Victim) -> None:
    victim.running()
    job, cluster = victim.job, victim.trainings.cluster
    restarts = job.restarts
    cluster.kill(cluster.nodes[1])
    since = time.monotonic()
    job.wait_for_restart(restarts + 1)
    left = Moment.of(victim.out)
    cluster.up()
    victim.goes_on("node down", left, since)


def test_a_preempted_job_goes_on(victim: Victim) -> None:
    victim.running()
    job = victim.job
    restarts = job.restarts
    urgent = victim.trainings.cluster.submit("sleep 1", "--partition=urgent", "--exclusive")
    job.wait_for_restart(restarts + 1)
    left, since = Moment.of(victim.out), time.monotonic()
    assert urgent.wait() == 0
    victim.goes_on("preemption", left, since, lost=victim.trainings.lost_on_sigterm)


def test_a_killed_worker_on_another_node_is_started_again(victim: Victim) -> None:
    victim.running()
    cluster, restarts = victim.trainings.cluster, victim.job.restarts
    cluster.on(cluster.nodes[1], "kill", "-KILL", str(cluster.find(cluster.nodes[1], "RayTrainWorker")))
    left, since = Moment.of(victim.out), time.monotonic()
    victim.goes_on("kill -9 of a worker", left, since)
    assert (victim.job.state, victim.job.restarts) == ("RUNNING", restarts)


def test_a_killed_driver_ends_the_job_and_the_next_one_goes_on(victim: Victim) -> None:
    victim.running()
    cluster = victim.trainings.cluster
    driver = cluster.find(cluster.nodes[0], r"^\S*python\S* \S*kantor train")
    cluster.on(cluster.nodes[0], "kill", "-KILL", str(driver))
    assert victim.job.wait(60) == 137, victim.job.said
    cluster.assert_clean()
    victim.repeat("kill -9 of the driver")


def test_too_little_memory_is_said_and_more_of_it_goes_on(victim: Victim) -> None:
    if not victim.trainings.limits:
        pytest.skip("SLURM holds no memory limits here: it cannot write cgroups of version 1")
    victim.stopped()
    job = victim.trainings.start(victim.out, memory=500)
    assert job.wait(120) not in (0, 75), job.said
    assert "oom" in job.said.lower(), job.said
    victim.trainings.cluster.assert_clean_processes()
    victim.repeat("out of memory")


def test_a_full_results_directory_is_named_and_space_goes_on(victim: Victim) -> None:
    victim.running()
    job, ballast = victim.job, victim.trainings.cluster.small / "ballast"
    command = ["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"]
    filled = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        assert "No space left on device" in filled.stderr
        assert job.wait(120) == 2, job.said
    finally:
        ballast.unlink()
    assert f"{victim.out}/.checkpoints" in job.said
    assert "cannot write: No space left on device" in job.said
    assert "free some space" in job.said
    assert not list(victim.out.glob("**/.*.partial"))
    victim.repeat("full results directory")


def test_a_full_temporary_directory_is_named(trainings: Trainings) -> None:
    cluster = trainings.cluster
    cluster.up()
    node = cluster.nodes[0]
    cluster.on(node, "sh", "-c", "mkdir /tmp/full && mount -t tmpfs -o size=1M tmpfs /tmp/full")
    out = trainings.workflow.directory / "nowhere"
    job = trainings.start(out, "--nodes=1", f"--nodelist={node}", "--export=ALL,TMPDIR=/tmp/full")
    assert job.wait(120) == 2, job.said
    assert f"{node}:/tmp/full: 1 MiB are free here" in job.said
    cluster.on(node, "sh", "-c", "umount /tmp/full && rmdir /tmp/full")


def test_a_corrupted_checkpoint_is_skipped_and_named(victim: Victim) -> None:
    left = victim.stopped()
    *_, before, newest = sorted(victim.out.glob(".checkpoints/*/step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    damaged = Moment(left.step, int(before.stem.partition("-")[2]), left.file)
    victim.repeat("corrupted checkpoint", damaged, lost=2 * INTERVAL)
    assert f"{newest}: is not a checkpoint, or is damaged" in victim.job.said
    assert "resume from the one before" in victim.job.said


def test_two_workflows_at_once_one_of_which_is_stopped(victim: Victim, new_workflow: Any) -> None:
    victim.rest()
    cluster = victim.trainings.cluster
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
        while Moment.of(out).step < LATER and not running[0].done():
            time.sleep(0.1)
        (job,) = jobs()
        cluster.run("scancel", "--signal=USR2", job)
        for future in running:
            done = future.result()
            assert done.returncode == 0, done.stdout + done.stderr
    for workflow in workflows:
        victim.pair.assert_whole(workflow.directory / out.relative_to(workflows[0].directory), attempts=1)
    assert TrainingRun.read(out / "run.json").attempts == 2
