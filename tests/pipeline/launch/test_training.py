"""Real trainings, with Ray Train and without: killed workers and drivers, bad input, stopping in time."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from kantor.config import Training
from kantor.errors import TrainingError
from kantor.launch.training import launch
from kantor.models.bundle import Bundle
from kantor.results import TrainingRun
from kantor.training.job import Job
from kantor.training.worker import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(small_training: Training) -> Training:
    return small_training.model_copy(
        update={"steps": 300, "log_every": 10, "checkpoint_every": 50, "evaluate_every": 100, "precision": "float64"}
    )


@pytest.fixture(scope="module")
def straight(settings: Training, weighted_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training."""
    out = tmp_path_factory.mktemp("straight")
    process = start(settings, weighted_manifest, out)
    assert process.wait(timeout=300) == 0, output(out)
    return out


def start(
    settings: Training, manifest: Path, out: Path, *more: str, workers: int = 2, **environment: str
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kantor.cli", "train", "--training", "small", "--settings", settings.canonical()]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "output.txt").open("ab") as file:
        return subprocess.Popen(
            [
                *command,
                "--manifest",
                str(manifest),
                "--out",
                str(out),
                "--workers",
                str(workers),
                "--threads",
                "1",
                *more,
            ],
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def output(out: Path) -> str:
    return (out / "output.txt").read_text()


def wait_for_step(process: subprocess.Popen[bytes], out: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, output(out)
        for metrics in out.glob(".checkpoints/*/metrics.jsonl"):
            rows = read_rows(metrics)
            if rows and rows[-1].step >= step:
                return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached: {output(out)}")


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    family = psutil.Process(process.pid).children(recursive=True)
    return [child for child in family if "RayTrainWorker" in " ".join(child.cmdline())]


def assert_same_model(a: Path, b: Path) -> None:
    first, second = (Bundle.load(path / "model.pt").generator.state_dict() for path in (a, b))
    assert first
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]
    assert [row.step for row in read_rows(a / "metrics.jsonl")] == [row.step for row in read_rows(b / "metrics.jsonl")]


def test_two_workers_train_a_model(straight: Path) -> None:
    run = TrainingRun.read(straight / "run.json")
    assert (run.workers, run.steps, run.attempts) == (2, 300, 1)
    assert not (straight / ".checkpoints").exists()
    assert "critic distance" in output(straight)


def test_refused_killed_and_stopped_it_ends_with_the_same_model(
    straight: Path, settings: Training, weighted_manifest: Path, tmp_path: Path
) -> None:
    process = start(settings, weighted_manifest, tmp_path, "--scratch", str(tmp_path / "scratch"))
    wait_for_step(process, tmp_path, 10)
    # The copy of the shards was for both workers, and goes when they have read it.
    assert re.search(r"copied 1 shard\(s\), .* for 2 worker\(s\)", output(tmp_path))
    assert not list((tmp_path / "scratch").iterdir())

    for worker in workers(process):
        worker.suspend()
    again = start(settings, weighted_manifest, tmp_path)
    assert again.wait(timeout=120) == 2, output(tmp_path)
    assert "another process is training this model" in output(tmp_path)
    for worker in workers(process):
        worker.resume()

    wait_for_step(process, tmp_path, 60)
    os.kill(workers(process)[0].pid, signal.SIGKILL)  # Ray starts the workers again
    wait_for_step(process, tmp_path, 160)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    process = start(settings, weighted_manifest, tmp_path)
    wait_for_step(process, tmp_path, 210)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75, output(tmp_path)
    assert "a checkpoint is saved" in output(tmp_path)

    assert start(settings, weighted_manifest, tmp_path).wait(timeout=300) == 0, output(tmp_path)
    assert TrainingRun.read(tmp_path / "run.json").attempts == 4
    assert_same_model(straight, tmp_path)


@pytest.mark.parametrize("seconds", [0.0, 2.0, 4.0])
def test_sigterm_while_ray_starts_ends_with_75(
    straight: Path, settings: Training, weighted_manifest: Path, tmp_path: Path, seconds: float
) -> None:
    process = start(settings, weighted_manifest, tmp_path)
    deadline = time.monotonic() + 120
    while "starting Ray" not in output(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(seconds)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75, output(tmp_path)
    assert "cure: run the same command again" in output(tmp_path)
    assert not psutil.wait_procs(family, timeout=10)[1]
    if seconds == 0:  # and nothing of it is in the way
        assert start(settings, weighted_manifest, tmp_path).wait(timeout=300) == 0, output(tmp_path)
        assert_same_model(straight, tmp_path)


def test_sigterm_while_a_ray_that_was_named_is_looked_at_ends_with_75(
    settings: Training, weighted_manifest: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        process = start(settings, weighted_manifest, tmp_path, "--ray-address", address)
        deadline = time.monotonic() + 60
        while not (family := psutil.Process(process.pid).children(recursive=True)):
            assert time.monotonic() < deadline, output(tmp_path)
            time.sleep(0.05)
        time.sleep(2)  # it asks, and nobody answers
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 75, output(tmp_path)
    assert "SIGTERM before the workers were there" in output(tmp_path)
    assert not psutil.wait_procs(family, timeout=10)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 100_000}, "batch = 100000 is larger than the training split, which has 1200 rows"),
        ({"batch": 62}, "batch = 62 cannot be shared evenly: 2 workers"),
        ({"transforms": {"mass": [{"kind": "standardise"}]}}, "'mass' is not a column of dataset 'weighted'"),
    ],
    ids=["large batch", "odd batch", "unknown column"],
)
def test_bad_input_is_said_before_ray_starts(
    settings: Training, weighted_manifest: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    wrong = Training.model_validate(settings.model_dump() | change)
    assert start(wrong, weighted_manifest, tmp_path).wait(timeout=60) == 2
    assert message in output(tmp_path)
    assert "starting Ray" not in output(tmp_path)
    assert not list(tmp_path.glob("*.pt"))


def test_bad_data_found_by_the_workers_ends_with_2(settings: Training, weighted_manifest: Path, tmp_path: Path) -> None:
    wrong = Training.model_validate(settings.model_dump() | {"transforms": {"response": [{"kind": "log"}]}})
    assert start(wrong, weighted_manifest, tmp_path).wait(timeout=300) == 2, output(tmp_path)
    assert "column 'response': log:" in output(tmp_path)


def test_one_worker_needs_no_ray_and_has_the_bits_of_ray_s(
    settings: Training, weighted_manifest: Path, tmp_path: Path
) -> None:
    rays, here = tmp_path / "ray", tmp_path / "here"
    process = start(settings, weighted_manifest, rays, "--ray-address", "local", workers=1)
    assert process.wait(timeout=300) == 0, output(rays)
    assert "starting Ray with 1 worker(s)" in output(rays)

    # A Ray could not start below such a directory.
    process = start(settings, weighted_manifest, here, workers=1, RAY_TMPDIR="/" + "long/" * 30)
    wait_for_step(process, here, 60)
    assert not psutil.Process(process.pid).children(recursive=True)
    again = start(settings, weighted_manifest, here, workers=1)
    process.send_signal(signal.SIGSTOP)
    assert again.wait(timeout=120) == 2, output(here)
    assert "another process is training this model" in output(here)
    process.kill()
    process.wait()

    process = start(settings, weighted_manifest, here, workers=1)
    wait_for_step(process, here, 160)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75, output(here)
    assert "SIGTERM: saving a checkpoint and stopping" in output(here)
    assert "cure: run the same command again to go on" in output(here)

    assert start(settings, weighted_manifest, here, workers=1).wait(timeout=300) == 0, output(here)
    assert TrainingRun.read(here / "run.json").attempts == 3
    assert "critic distance" in output(here)
    assert_same_model(rays, here)


def test_a_fault_of_ours_in_this_process_is_one_line_and_a_file(
    settings: Training, weighted_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr("kantor.launch.training.work", broken)
    job = Job("small", 1, settings, weighted_manifest, tmp_path, fingerprint="")
    with pytest.raises(TrainingError, match="failed with ZeroDivisionError: by chance") as error:
        launch(job)
    report = tmp_path / ".checkpoints" / job.key / "traceback.txt"
    assert f"report it with {report}" in str(error.value)
    assert "in broken" in report.read_text()
