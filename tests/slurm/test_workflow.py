"""The workflow through Snakemake's SLURM executor."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

Cluster = Any  # conftest's classes, which an importlib-mode test cannot import
Workflow = Any

# Two minutes on two idle cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def finished(running: Cluster, new_workflow: Any) -> Workflow:
    """The whole default workflow of one training, every job in SLURM."""
    running.up()
    workflow = new_workflow(running.shared / "workflow")
    workflow.configure(targets__run__trainings=["wgan_gp"])
    done = workflow.snakemake("--workflow-profile", "slurm/testcluster", more=running.environment, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return workflow


def test_the_report_is_made(finished: Workflow) -> None:
    report = json.loads((finished.directory / "results" / "report" / "report.json").read_text())
    assert "wgan_gp" in json.dumps(report)


def test_ranks_and_trainings_were_on_two_nodes_and_the_report_on_one(finished: Workflow, running: Cluster) -> None:
    jobs = (running.directory / "log" / "jobs.log").read_text().splitlines()
    here = [line for line in jobs if f"WorkDir={finished.directory} " in line]
    assert len(here) == 4
    assert all("JobState=COMPLETED" in line for line in here)
    assert Counter(re.findall(r"NodeCnt=(\d+)", " ".join(here))) == {"2": 3, "1": 1}
    for log in ("stage/dis", "validate/wgan_gp/seed1"):
        assert "2 MPI ranks" in (finished.directory / "results" / "logs" / f"{log}.log").read_text()
    log = (finished.directory / "results" / "logs" / "train" / "wgan_gp" / "seed1.log").read_text()
    assert "2 worker(s) on 2 nodes" in log


def test_neither_slurm_nor_this_machine_has_anything_left_to_do(finished: Workflow, running: Cluster) -> None:
    assert finished.would_run() == Counter()
    again = finished.snakemake("--workflow-profile", "slurm/testcluster", more=running.environment)
    assert "Nothing to be done" in again.stdout + again.stderr
    running.assert_clean()


def test_ranks_without_pmi2_are_refused(running: Cluster, finished: Workflow) -> None:
    data, out = (str(finished.directory / "results" / name) for name in ("data/dis/manifest.json", "refused"))
    model = str(finished.directory / "results" / "models" / "wgan_gp" / "seed1" / "model.pt")
    config = str(finished.directory / "config" / "config.yaml")
    command = ["kantor", "validate", "--config", config, "--model", model, "--manifest", data, "--out", out]
    done = running.run("srun", "-N2", "-n2", *command, "--expect-ranks", "2", check=False)
    assert done.returncode == 2
    assert "the MPI world has 1 rank(s), not the expected 2" in done.stderr
    assert "srun --mpi=pmi2" in done.stderr
    assert not Path(out).exists()


def test_ranks_on_two_nodes_meet_at_every_start(cluster: Cluster) -> None:
    # Over MPICH's own choice of network one start of five waits for ever (pipeline/kantor/machine/ranks.py).
    world = "from kantor.machine.ranks import world; ranks = world(2)"
    meet = f"{world}; assert ranks.gather(2, int) == [0, 1]; print('met')"
    start = f'timeout 60 srun --mpi=pmi2 python -c "{meet}"'
    job = cluster.submit(f"for start in $(seq 15); do {start} || exit; done", "--cpus-per-task=1")
    assert job.wait(300) == 0, job.said
    assert job.said.splitlines().count("met") == 30


def test_a_job_knows_when_it_has_to_stop(running: Cluster) -> None:
    known = "import time; from kantor.machine import slurm; "
    look = f"{known}print(slurm.end_time() - time.time(), slurm.deadline() - time.time())"
    end, stop = map(float, running.run("srun", "-N1", "--time=5", "python", "-c", look).stdout.split())
    assert 270 < end <= 300
    assert stop == pytest.approx(0.9 * end, abs=2)
    unlimited = running.run("srun", "-N1", "python", "-c", f"{known}print(slurm.deadline())").stdout
    assert unlimited.strip() == "None"


@pytest.mark.parametrize(
    ("target", "announced"),
    [
        ("all", ["gres=gpu:4", "ray_train.sh 2 32 kantor train", "--nodes 2 --workers 8 --threads 8 --gpus"]),
        ("benchmark", ["gres=gpu:1", "kantor benchmark --step measure"]),
    ],
)
def test_the_template_for_a_gpu_site_is_understood(
    finished: Workflow, running: Cluster, target: str, announced: list[str]
) -> None:
    # A dry run scales threads down to the cores it is given, a run does not.
    profile = ["--workflow-profile", "slurm/gpu-site", "--dry-run", "--forceall", "--printshellcmds", "--cores", "32"]
    done = finished.snakemake(*profile, target, more=running.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [words for words in announced if words not in done.stdout + done.stderr]
