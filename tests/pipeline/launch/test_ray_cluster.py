"""Ray for one command on this machine; on several nodes: tests/slurm."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kantor.config import Training
from kantor.errors import TrainingError
from kantor.launch.ray_cluster import Node, _own_directory
from kantor.machine import slurm
from kantor.machine.addresses import address_towards, free_ports, interface_of, listens


def environment(directory: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))}
    return kept | {"TMPDIR": str(directory)}


def kantor(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kantor.cli", *arguments],
        cwd=directory,
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_the_command_s_exit_status_is_ours_and_nothing_is_left(tmp_path: Path) -> None:
    look = "import os, ray; ray.init(); print('CPUs', ray.cluster_resources()['CPU']); os._exit(75)"
    done = kantor("ray", "--", sys.executable, "-c", look, directory=tmp_path)
    assert done.returncode == 75, done.stderr
    assert "CPUs" in done.stdout
    left = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
    assert not [command for command in left if str(tmp_path).encode() in command]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sigterm_before_the_command_runs_ends_with_75(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kantor.cli", "ray", "--", "touch", str(tmp_path / "started")]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as ray:
        while not list(tmp_path.glob(".kantor-ray-*.json")):
            assert ray.poll() is None
            time.sleep(0.01)
        ray.send_signal(signal.SIGTERM)
        _, said = ray.communicate(timeout=60)
    assert ray.returncode == 75, said
    assert "SIGTERM before Ray was there" in said
    assert not list(tmp_path.iterdir())


def test_without_a_command_it_says_how(tmp_path: Path) -> None:
    done = kantor("ray", directory=tmp_path)
    assert done.returncode == 2
    assert "kantor ray -- kantor train" in done.stderr


@pytest.mark.parametrize(
    ("workers", "message"),
    [("3", "3 workers cannot be shared evenly by 2 nodes"), ("2", "2 nodes need a Ray cluster")],
)
def test_nodes_that_are_not_there_are_said_before_ray_starts(
    small_training: Training, weighted_manifest: Path, tmp_path: Path, workers: str, message: str
) -> None:
    settings = small_training.model_copy(update={"batch": 60}).canonical()
    what = ["--training", "small", "--settings", settings, "--manifest", str(weighted_manifest), "--out", "out"]
    done = kantor("train", *what, "--workers", workers, "--nodes", "2", directory=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_what_a_killed_launcher_left_is_removed_and_a_living_one_s_stays(tmp_path: Path) -> None:
    killed = tmp_path / "kray-killed"
    killed.mkdir()
    (killed / "lock").touch()
    with _own_directory(tmp_path) as living, _own_directory(tmp_path) as mine:
        assert sorted(tmp_path.iterdir()) == sorted([living, mine])
    assert not list(tmp_path.iterdir())


def test_a_step_is_what_slurm_says() -> None:
    alone = Node.of_step({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "3000", "CUDA_VISIBLE_DEVICES": "0,3"})
    assert (alone.rank, alone.hosts, alone.gpus, alone.memory) == (0, ("localhost",), 2, 3000 << 20)
    assert slurm.memory({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "4"}) == 4000 << 20
    assert slurm.memory({"SLURM_MEM_PER_NODE": "0"}) > 100 << 20


def test_a_margin_is_kept_before_the_end_of_a_job() -> None:
    now = time.time()
    for left, margin in ((600.0, 60.0), (36_000.0, 120.0)):
        stop = slurm.deadline({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(now + left))})
        assert stop == pytest.approx(now + left - margin, abs=2)
    assert slurm.deadline({}) is None


def test_addresses_ports_and_interfaces() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.77") is None
    (port,) = free_ports("127.0.0.1", 1)
    assert not listens("127.0.0.1", port)
    with pytest.raises(OSError, match="No such device"):
        address_towards("127.0.0.1", interface="none0")


def test_a_step_with_two_tasks_a_node_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "hosts", lambda environment: ["n1"])
    with pytest.raises(TrainingError, match="2 tasks on 1 nodes"):
        Node.of_step({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"})
