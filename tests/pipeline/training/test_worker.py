"""One rank from data to model: what is written, stopping and resuming to the bit, refusing what is not finite."""

import json
import math
import multiprocessing
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kantor.config import Training
from kantor.errors import InputError, Interrupted, TrainingError
from kantor.losses import Constrainer
from kantor.models.bundle import Bundle
from kantor.results import TrainingRow, TrainingRun
from kantor.training.assembly import assemble
from kantor.training.feed import Feed
from kantor.training.job import Job
from kantor.training.loop import train
from kantor.training.state import Checkpoints
from kantor.training.worker import read_rows, work


@pytest.fixture
def job(small_training: Training, weighted_manifest: Path, tmp_path: Path) -> Job:
    return Job("small", 1, small_training, weighted_manifest, tmp_path / "out", "code", workers=1)


def same_weights(a: Path, b: Path) -> bool:
    first, second = (Bundle.load(path / "model.pt").generator.state_dict() for path in (a, b))
    assert first
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def judged(row: TrainingRow) -> tuple[float, float]:
    """The energy distance and its error, both of which an evaluation gives."""
    assert row.energy_distance is not None
    assert row.energy_distance_error is not None
    return row.energy_distance, row.energy_distance_error


def test_a_training_writes_model_metrics_and_run(job: Job) -> None:
    work(job)
    run = TrainingRun.read(job.out / "run.json")
    rows = read_rows(job.out / "metrics.jsonl")
    assert [row.step for row in rows] == list(range(5, 45, 5))
    evaluated = [row for row in rows if row.energy_distance is not None]
    assert [row.step for row in evaluated] == [20, 40]
    assert (run.steps, run.attempts) == (40, 1)
    assert run.effective_rows < run.rows == 1200
    first, last = map(judged, evaluated)
    nearest, error = min(first, last)
    assert run.best_step == (40 if last[0] <= nearest + error else 20)
    assert Bundle.load(job.out / "model.pt").provenance["best_step"] == run.best_step


def test_the_latest_of_generators_that_cannot_be_told_apart_is_the_best(job: Job) -> None:
    state = assemble(job.settings, 1, job.manifest).state
    judged = [state.is_best(distance, 0.1) for distance in (1.0, 0.5, 0.55, 0.45, 0.56, 0.54, math.inf)]
    # Measured against the least distance, not the last kept: small losses do not add up.
    assert judged == [True, True, True, True, False, True, False]


def test_the_generator_of_the_last_step_may_be_kept(job: Job) -> None:
    shorter = job.settings.model_copy(update={"keep": "last", "evaluate_every": 10})
    longer = shorter.model_copy(update={"evaluate_every": 40})
    for name, settings in (("often", shorter), ("once", longer)):
        work(replace(job, settings=settings, out=job.out / name))
        assert TrainingRun.read(job.out / name / "run.json").best_step is None
    assert same_weights(job.out / "often", job.out / "once")


VARIANTS: dict[str, dict[str, Any]] = {
    "wgan_gp": {},
    "cramer": {"objective": {"kind": "cramer", "embedding": 8}},
    "all pairs": {"objective": {"kind": "cramer", "pairs": "all", "embedding": 8}},
    "energy": {"objective": {"kind": "energy"}, "n_critic": 0},
    "sn_gan": {
        "objective": {"kind": "sn_gan"},
        "critic": {"width": 16, "depth": 2, "spectral_norm": True},
        "generator": {"latent": 4, "width": 16, "depth": 2, "spectral_norm": True},
    },
    "wgan": {"objective": {"kind": "wgan"}, "critic_optimiser": {"kind": "rmsprop"}, "head_start": {"steps": 15}},
    "what is drawn and scheduled": {
        "critic": {"width": 16, "depth": 2, "dropout": 0.2},
        "instance_noise": {"deviation": 0.2, "steps": 30},
        "terms": [{"kind": "constrainer", "steps": 20}, {"kind": "mmd"}],
        "generator_optimiser": {"schedule": "cosine", "warm_up": 15, "clip_norm": 1.0},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_uninterrupted_end_with_the_same_bits(job: Job, variant: str) -> None:
    settings = Training.model_validate(job.settings.model_dump() | VARIANTS[variant])
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


@pytest.mark.slow
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


def test_a_lock_removed_by_its_holder_is_taken_in_a_new_directory(job: Job) -> None:
    def wait() -> bool:
        with Checkpoints(job.checkpoints, 2).locked(patience=30):
            return (job.checkpoints / "lock").exists()

    with ThreadPoolExecutor() as pool:
        with Checkpoints(job.checkpoints, 2).locked():
            waiting = pool.submit(wait)
            time.sleep(0.5)
            Checkpoints(job.checkpoints, 2).remove()
        assert waiting.result()


def test_not_finite_stops_before_the_step(job: Job) -> None:
    settings = job.settings.model_copy(
        update={"critic_optimiser": job.settings.critic_optimiser.model_copy(update={"learning_rate": 1e30})}
    )
    with pytest.raises(TrainingError, match=r"step 0, critic update 2: loss .* gradient norm .*checkpoint: none yet"):
        work(replace(job, settings=settings))


def test_a_diverging_run_names_step_phase_and_its_last_checkpoint(job: Job) -> None:
    rising = {"learning_rate": 1e30, "warm_up": 39}
    settings = Training.model_validate(job.settings.model_dump() | {"generator_optimiser": {"learning_rate": 1e-9}})
    work_until(replace(job, settings=settings), 10)
    good = replace(job, settings=settings).checkpoints / "step-000000010.pt"

    diverging = replace(job, settings=Training.model_validate(job.settings.model_dump() | {"critic_optimiser": rising}))
    diverging.checkpoints.mkdir(parents=True)
    (diverging.checkpoints / good.name).write_bytes(good.read_bytes())
    with pytest.raises(TrainingError) as error:
        work(diverging)
    assert re.search(r"training 'small', seed 1: step 10, critic update \d: loss", str(error.value))
    assert str(diverging.checkpoints / good.name) in str(error.value)
    assert "lower the learning rates" in str(error.value)


def test_the_weights_of_a_clipped_critic_stay_within_their_bounds(job: Job) -> None:
    settings = Training.model_validate(job.settings.model_dump() | {"objective": {"kind": "wgan", "clip": 0.03}})
    clipped = replace(job, settings=settings)
    work_until(clipped, 10)
    weights = torch.load(clipped.checkpoints / "step-000000010.pt", weights_only=True)["critic"]
    assert max(weight.abs().max().item() for weight in weights.values()) == pytest.approx(0.03)


def test_a_training_without_a_critic_has_none(job: Job) -> None:
    work(replace(job, settings=Training.model_validate(job.settings.model_dump() | VARIANTS["energy"])))
    assert TrainingRun.read(job.out / "run.json").parameters["critic"] == 0
    rows = read_rows(job.out / "metrics.jsonl")
    assert all(math.isnan(row.penalty) and math.isnan(row.critic_loss) for row in rows)
    assert rows[-1].distance == rows[-1].generator_loss
    assert rows[-1].distance < rows[0].distance


def test_constrainers_learn_before_the_training_and_stay_frozen(job: Job) -> None:
    term = {"kind": "constrainer", "steps": 300, "learning_rate": 0.01, "network": {"width": 16, "depth": 2}}
    settings = Training.model_validate(job.settings.model_dump() | {"terms": [term]})
    constrained = replace(job, settings=settings)
    learned = []
    for step in (10, 20):
        work_until(constrained, step)
        learned.append(torch.load(constrained.checkpoints / f"step-{step:09d}.pt", weights_only=True)["terms"])
    assert all(torch.equal(value, learned[1][name]) for name, value in learned[0].items())

    assembly = assemble(settings, 1, job.manifest)
    assembly.state.terms.load_state_dict(learned[0])
    (constrainer,) = assembly.state.terms
    assert isinstance(constrainer, Constrainer)
    rows = assembly.rows
    # The conditions are standardised: knowing nothing means an error of one.
    assert constrainer.errors(rows.real, rows.conditions).mean() < 0.3


# ---------------------------------------------------------------------------------------------------------- early stop


def test_evaluations_measure_the_classifier_where_asked_to(job: Job) -> None:
    curious = {"evaluate_every": 10, "evaluate_classifier": True}
    work(replace(job, settings=Training.model_validate(job.settings.model_dump() | curious)))
    rows = read_rows(job.out / "metrics.jsonl")
    # A generator that has hardly learnt is told from truth at once; between evaluations nothing is measured.
    areas = {row.step: row.classifier_auc for row in rows if row.classifier_auc is not None}
    assert list(areas) == [row.step for row in rows if row.step % 10 == 0] == [10, 20, 30, 40]
    assert all(0.7 < area <= 1.0 for area in areas.values())


def test_patience_counts_evaluations_without_an_improvement_beyond_its_error(job: Job) -> None:
    state = assemble(job.settings, 1, job.manifest).state
    judged = []
    for distance in (1.0, 0.95, 0.8, 0.75, 0.9, 0.72):
        state.judge(distance, 0.07, 3)  # an improvement has to exceed 0.1
        judged.append((state.stale, state.finished))
    assert judged == [(0, False), (1, False), (0, False), (1, False), (2, False), (3, True)]


def test_a_training_that_does_not_improve_stops_early(job: Job) -> None:
    idle = {"evaluate_every": 5, "patience": 2, "generator_optimiser": {"learning_rate": 1e-12}}
    early = replace(job, settings=Training.model_validate(job.settings.model_dump() | idle))
    work(early)
    rows = read_rows(early.out / "metrics.jsonl")
    assert [row.step for row in rows if row.energy_distance is not None] == [5, 10, 15]
    assert TrainingRun.read(early.out / "run.json").steps == 15
    assert Bundle.load(early.out / "model.pt").name == "small"


def test_a_run_that_stopped_early_stays_stopped(job: Job) -> None:
    idle = {"evaluate_every": 5, "patience": 2, "generator_optimiser": {"learning_rate": 1e-12}}
    early = replace(job, settings=Training.model_validate(job.settings.model_dump() | idle))
    work(early)
    (early.out / "run.json").unlink()
    work(early)  # as after a kill before the model was written: the last checkpoint is still there
    run = TrainingRun.read(early.out / "run.json")
    assert (run.steps, run.attempts) == (15, 2)


def test_bfloat16_on_a_cpu_is_refused(job: Job) -> None:
    settings = Training.model_validate(job.settings.model_dump() | {"autocast": "bfloat16"})
    with pytest.raises(InputError, match="autocast = bfloat16 is for GPUs"):
        work(replace(job, settings=settings))


@pytest.mark.parametrize("objective", [{"kind": "wgan_gp"}, {"kind": "cramer", "pairs": "all"}, {"kind": "ns_gan"}])
def test_the_loop_itself_runs_in_bfloat16(job: Job, objective: dict[str, Any]) -> None:
    """The same losses to the precision of bfloat16, parameters and their gradients in single precision."""

    def losses(autocast: str) -> list[float]:
        changes = {"objective": objective, "autocast": autocast, "steps": 2}
        settings = Training.model_validate(job.settings.model_dump() | changes)
        assembly = assemble(settings, 1, job.manifest)
        feed = Feed(assembly.rows, batch=settings.batch, latent=settings.generator.latent, seed=1)
        found: list[float] = []
        train(
            settings,
            assembly.state,
            assembly.objective,
            feed,
            assembly.view,
            lambda _, last: found.extend(last.joined()),
        )
        assert {p.dtype for p in assembly.state.critic.parameters()} == {torch.float32}
        return [value for value in found if math.isfinite(value)]

    single, half = losses("none"), losses("bfloat16")
    assert half == pytest.approx(single, rel=0.05, abs=0.05)
    assert half != single


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
