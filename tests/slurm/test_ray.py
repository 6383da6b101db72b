"""Ray on the nodes of a SLURM step: placement, limits, ends of every kind, and nothing left on any node."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Cluster = Any  # conftest's class, which an importlib-mode test cannot import
WorkflowKind = Any

pytestmark = pytest.mark.slow

PROBE = """
import json, os, pathlib, stat, subprocess, sys
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

ray.init(logging_level="ERROR", log_to_driver=False)
group = ray.util.placement_group([{"CPU": 1, "GPU": 2}] * 2, strategy="STRICT_SPREAD")
ray.get(group.ready())


@ray.remote(num_cpus=1, num_gpus=2)
def look():
    names = ("CUDA_VISIBLE_DEVICES", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {"host": os.uname().nodename, **{name: os.environ.get(name) for name in names}}


options = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index) for index in range(2)]
seen = ray.get([look.options(scheduling_strategy=option).remote() for option in options])
(meeting,) = pathlib.Path().glob(".kantor-ray-*.json")
stranger = subprocess.run(
    [sys.executable, "-c", "import os, ray; ray.init(os.environ['RAY_ADDRESS'])"],
    env={**os.environ, "RAY_AUTH_TOKEN": "0" * 64},
    capture_output=True,
    text=True,
)
found = {
    "tasks": seen,
    "resources": ray.cluster_resources(),
    "mode": oct(stat.S_IMODE(meeting.stat().st_mode)),
    "stranger": [stranger.returncode, stranger.stderr[-2000:]],
}
pathlib.Path("probe.json").write_text(json.dumps(found))
sys.exit(75)
"""


def test_every_node_takes_part_with_its_gpus_memory_and_a_token(
    cluster: Cluster, ray_train: Callable[..., str]
) -> None:
    probe = cluster.shared / "probe.py"
    probe.write_text(PROBE)
    job = cluster.submit(ray_train("python", str(probe)), "--gres=gpu:2", "--mem=3000")
    assert job.wait() == 75, job.said
    found = json.loads((job.output.parent / "probe.json").read_text())
    assert sorted(task["host"] for task in found["tasks"]) == cluster.nodes
    assert [sorted(task["CUDA_VISIBLE_DEVICES"].split(",")) for task in found["tasks"]] == [["0", "1"]] * 2
    assert {task["GLOO_SOCKET_IFNAME"] for task in found["tasks"]} == {"eth0"}
    assert found["resources"]["CPU"] == 4
    assert found["resources"]["GPU"] == 4
    assert found["resources"]["memory"] + found["resources"]["object_store_memory"] < 2 * 3000 << 20
    assert found["mode"] == "0o600"
    assert found["stranger"][0] != 0
    assert "token" in found["stranger"][1].lower(), found["stranger"][1]
    cluster.assert_clean()


def test_a_training_has_a_rank_on_each_node_and_stops_with_a_checkpoint_on_sigusr2(
    cluster: Cluster, ray_train: Callable[..., str], new_workflow: WorkflowKind
) -> None:
    workflow = new_workflow(cluster.shared / "long")
    workflow.configure(trainings__wgan_gp__steps=1_000_000, trainings__wgan_gp__log_every=10)
    config = str(workflow.directory / "config" / "config.yaml")
    assert yaml.safe_load(Path(config).read_text())["trainings"]["wgan_gp"]["steps"] == 1_000_000
    data = str(cluster.shared / "long" / "data")
    cluster.run("kantor", "stage", "--config", config, "--dataset", "dis", "--out", data)
    train = ["kantor", "train", "--config", config, "--training", "wgan_gp", "--manifest", f"{data}/manifest.json"]
    job = cluster.submit(ray_train(*train, "--out", "model", "--workers", "2", "--nodes", "2"))
    job.wait_for("critic distance")
    for node in cluster.nodes:
        workers = [command for command in cluster.processes(node).values() if "RayTrainWorker" in command]
        assert len(workers) == 1, f"{node}: {workers}"
    cluster.run("scancel", "--signal=USR2", str(job.number))
    assert job.wait() == 75, job.said
    assert "SIGUSR2: saving a checkpoint and stopping" in job.said
    assert "a checkpoint is saved" in job.said
    assert list(job.output.parent.glob("model/.checkpoints/*/*.pt"))
    cluster.assert_clean()


@pytest.mark.parametrize(
    ("node", "process", "said"),
    [
        (0, r"python \S*kantor ray --", None),
        (0, r"^\S*gcs/gcs_server ", r"Ray('s head)? ended .*on \S+1"),
        (1, r"python \S*kantor ray --", r"Ray ended on node \S+2"),
        (1, r"^\S*raylet/raylet ", r"Ray ended with exit status \d+ on \S+2"),
    ],
    ids=["first launcher", "head", "other launcher", "other Ray"],
)
def test_what_is_killed_ends_the_job_on_all_nodes(
    cluster: Cluster, ray_train: Callable[..., str], node: int, process: str, said: str | None
) -> None:
    job = cluster.submit(ray_train("bash", "-c", "echo started; exec sleep 300"))
    job.wait_for("Ray on 2 nodes")
    job.wait_for("started")
    cluster.on(cluster.nodes[node], "kill", "-KILL", str(cluster.find(cluster.nodes[node], process)))
    assert job.wait(60) not in (0, 75), job.said
    if said is not None:
        assert re.search(said, job.said), job.said
    cluster.assert_clean_processes()
    # The next launcher on a node removes what a killed one left there.
    shutil.rmtree(job.output.parent)


def test_scancel_leaves_nothing(cluster: Cluster, ray_train: Callable[..., str]) -> None:
    job = cluster.submit(ray_train("bash", "-c", "echo started; exec sleep 300"))
    job.wait_for("Ray on 2 nodes")
    cluster.run("scancel", str(job.number))
    job.wait(60)
    assert job.state == "CANCELLED"
    cluster.assert_clean()


def test_a_node_that_does_not_join_is_an_error(cluster: Cluster) -> None:
    late = '[ "$SLURM_PROCID" = 0 ] || sleep 8; exec kantor ray --join-timeout 5 -- sleep 300'
    done = cluster.run("srun", "-N2", "-n2", "-c2", "--mem=3000", "--wait=30", "bash", "-c", late, check=False)
    assert done.returncode == 1
    assert f"1 of 2 nodes did not join in 5 s: {cluster.nodes[1]}" in done.stderr
    assert f"{cluster.nodes[1]}: node {cluster.nodes[0]} started no Ray in 5 s" in done.stderr
    cluster.assert_clean()


def test_a_head_that_does_not_start_is_an_error(cluster: Cluster) -> None:
    command = ["srun", "-N2", "-n2", "-c2", "--mem=3000", "env", "RAY_OVERRIDE_RESOURCES=none", "kantor", "ray", "--"]
    done = cluster.run(*command, "sleep", "300", check=False, timeout=60)
    assert done.returncode == 1
    # Whichever is seen first: that its head is gone, or all of it.
    assert re.search(rf"Ray('s head)? ended .*on {cluster.nodes[0]}", done.stderr), done.stderr
    assert "JSONDecodeError" in done.stderr
    cluster.assert_clean()


def test_two_tasks_on_a_node_are_refused(cluster: Cluster) -> None:
    done = cluster.run("srun", "-N1", "-n2", "kantor", "ray", "--", "true", check=False)
    assert done.returncode == 1
    assert "2 tasks on 1 nodes" in done.stderr
