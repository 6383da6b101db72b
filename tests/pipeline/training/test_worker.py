"""One rank from data to model: what is written, stopping and resuming to the bit, refusing what is not finite."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kantor.config import Training
from kantor.errors import InputError, Interrupted, TrainingError
from kantor.models.bundle import Bundle
from kantor.results import TrainingRun
from kantor.training.job import Job
from kantor.training.state import Checkpoints
from kantor.training.worker import read_rows, work


@pytest.fixture
def job(small_training: Training, weighted_manifest: Path, tmp_path: Path) -> Job:
    return Job("small", 1, small_training, weighted_manifest, tmp_path / "out", "code", workers=1)


def same_weights(a: Path, b: Path) -> bool:
    first, second = (Bundle.load(path / "model.pt").generator.state_dict() for path in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_writes_model_metrics_and_run(job: Job) -> None:
    work(job)
    run = TrainingRun.read(job.out / "run.json")
    rows = read_rows(job.out / "metrics.jsonl")
    assert [row.step for row in rows] == list(range(5, 45, 5))
    assert [row.step for row in rows if row.energy_distance is not None] == [20, 40]
    best = min((row for row in rows if row.energy_distance is not None), key=lambda row: row.energy_distance or 0)
    assert (run.steps, run.best_step, run.attempts) == (40, best.step, 1)
    assert run.effective_rows < run.rows == 1200
    assert Bundle.load(job.out / "model.pt").provenance["best_step"] == best.step


def test_the_generator_of_the_last_step_may_be_kept(job: Job) -> None:
    shorter = job.settings.model_copy(update={"keep": "last", "evaluate_every": 10})
    longer = shorter.model_copy(update={"evaluate_every": 40})
    for name, settings in (("often", shorter), ("once", longer)):
        work(replace(job, settings=settings, out=job.out / name))
        assert TrainingRun.read(job.out / name / "run.json").best_step is None
    assert same_weights(job.out / "often", job.out / "once")


@pytest.mark.parametrize(
    "objective", [{"kind": "wgan_gp"}, {"kind": "cramer", "embedding": 8}], ids=["wgan_gp", "cramer"]
)
def test_interrupted_and_uninterrupted_end_with_the_same_bits(job: Job, objective: dict[str, object]) -> None:
    settings = Training.model_validate(job.settings.model_dump() | {"objective": objective})
    straight = replace(job, settings=settings, out=job.out / "straight")
    work(straight)

    stopped = replace(job, settings=settings, out=job.out / "stopped", deadline=time.time() - 1)
    for _ in range(2):  # twice: a resumed run is interrupted again
        with pytest.raises(Interrupted):
            work(stopped)
    work(replace(stopped, deadline=None))

    assert same_weights(straight.out, stopped.out)
    steps = [[row.step for row in read_rows(j.out / "metrics.jsonl")] for j in (straight, stopped)]
    assert steps[0] == steps[1]
    assert TrainingRun.read(stopped.out / "run.json").attempts == 3


def test_a_killed_process_loses_at_most_one_checkpoint_interval(job: Job) -> None:
    # Long enough that it cannot end between the look at its metrics and the kill.
    settings = job.settings.model_copy(update={"log_every": 1, "steps": 200})
    straight = replace(job, settings=settings, out=job.out / "straight")
    work(straight)
    killed = replace(straight, out=job.out / "killed")
    process = multiprocessing.get_context("spawn").Process(target=work, args=(killed,))
    process.start()
    while not (killed.metrics.exists() and len(killed.metrics.read_text().splitlines()) >= 13):
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    steps = [int(path.stem.removeprefix("step-")) for path in killed.checkpoints.glob("step-*.pt")]
    assert max(steps) >= 10
    work(killed)
    assert same_weights(straight.out, killed.out)
    rows = read_rows(killed.out / "metrics.jsonl")
    assert [row.step for row in rows] == list(range(1, 201))


def test_a_stop_request_saves_a_checkpoint(job: Job) -> None:
    job.stop_request.parent.mkdir(parents=True)
    job.stop_request.touch()
    with pytest.raises(Interrupted, match="stopped at step 10 of 40; a checkpoint is saved"):
        work(job)
    assert (job.checkpoints / "step-000000010.pt").exists()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(job: Job) -> None:
    straight = replace(job, out=job.out / "straight")
    work(straight)
    work_until(job, 10)
    good = job.checkpoints / "step-000000010.pt"
    (job.checkpoints / "step-000000020.pt").write_bytes(good.read_bytes()[:100])
    work(job)
    assert same_weights(straight.out, job.out)


def work_until(job: Job, step: int) -> None:
    job.stop_request.parent.mkdir(parents=True, exist_ok=True)
    job.stop_request.touch()
    with pytest.raises(Interrupted, match=f"step {step} "):
        work(job)
    job.stop_request.unlink()


def test_only_the_latest_checkpoints_stay(job: Job) -> None:
    work_until(job, 10)
    work(job)
    kept = sorted(path.name for path in job.checkpoints.glob("step-*.pt"))
    assert kept == ["step-000000030.pt", "step-000000040.pt"]


def test_two_writers_are_kept_apart(job: Job) -> None:
    checkpoints = Checkpoints(job.checkpoints, 2)
    with (
        checkpoints.locked(),
        pytest.raises(InputError, match="another process is training this model"),
        Checkpoints(job.checkpoints, 2).locked(patience=0.3),
    ):
        pass


def test_not_finite_stops_before_the_step(job: Job) -> None:
    settings = job.settings.model_copy(
        update={"critic_optimiser": job.settings.critic_optimiser.model_copy(update={"learning_rate": 1e30})}
    )
    with pytest.raises(TrainingError, match=r"critic update \d+: loss .* gradient norm"):
        work(replace(job, settings=settings))


def test_the_key_names_everything_a_checkpoint_depends_on(job: Job) -> None:
    others = [
        replace(job, seed=2),
        replace(job, fingerprint="other code"),
        replace(job, settings=job.settings.model_copy(update={"n_critic": 4})),
    ]
    assert len({job.key, *(other.key for other in others)}) == 4
    assert replace(job, workers=2, threads=3, deadline=1.0).key == job.key


def test_a_last_line_cut_short_is_left_out(job: Job, tmp_path: Path) -> None:
    work(job)
    text = (job.out / "metrics.jsonl").read_text()
    cut = tmp_path / "cut.jsonl"
    cut.write_text(text + json.dumps({"step": 99})[:5])
    assert read_rows(cut) == read_rows(job.out / "metrics.jsonl")
