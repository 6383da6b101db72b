"""One rank of a training, from reading the data to writing the model. It knows no launcher."""

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from kantor.data.samples import Sample
from kantor.data.scratch import node_copy
from kantor.errors import InputError, Interrupted, TrainingError
from kantor.losses.reduction import joined_mean, joined_sum
from kantor.machine.files import explained, sha256, whole, write_text
from kantor.machine.progress import log
from kantor.models.bundle import Bundle
from kantor.results import Provenance, TrainingRow, TrainingRun
from kantor.training.assembly import Assembly, assemble
from kantor.training.constrainers import fit_constrainers
from kantor.training.feed import Feed
from kantor.training.job import Job
from kantor.training.loop import LastUpdate, train
from kantor.training.state import Best, Checkpoints, State
from kantor.validation.energy import energy_distance_estimate

# All ranks ask together whether to stop, so that none waits for one that left.
_AGREE_EVERY = 10
_TRIES = 10


def work(job: Job, device: torch.device | str = "cpu") -> None:
    """Train this rank's part of `job`; rank 0 writes the model.

    Raises:
        InputError: the data or the configuration cannot be used.
        TrainingError: a loss or gradient is not finite.
        Interrupted: the deadline came or a stop was asked for; a checkpoint is saved.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    check_autocast(job, gpus=torch.device(device).type == "cuda")
    torch.set_num_threads(job.threads)
    with node_copy(job.manifest, job.scratch, workers=int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) as copy:
        joined_sum(torch.zeros(()))  # all workers of a node hold their copy before the first lets go of it
        assembly = assemble(job.settings, job.seed, job.manifest, device, copy)
    feed = Feed(
        assembly.rows,
        batch=job.settings.batch,
        latent=job.settings.generator.latent,
        seed=job.seed,
        rank=rank,
        world=world,
        group=job.settings.critic.minibatch_std,
    )
    checkpoints = Checkpoints(job.checkpoints, job.settings.keep_checkpoints)
    with checkpoints.locked() if rank == 0 else nullcontext():
        joined_sum(torch.zeros(()))  # no rank reads a checkpoint before the writer holds the directory
        if not checkpoints.resume(assembly.state):
            if rank == 0:
                _log_advice(job, assembly)
            fit_constrainers(assembly.state.terms, assembly.rows, batch=job.settings.batch, seed=job.seed)
        _same_start(assembly.state)
        keeper = Keeper(job, assembly, checkpoints, writes=rank == 0)
        try:
            train(job.settings, assembly.state, assembly.objective, feed, assembly.view, keeper)
        except TrainingError as error:
            latest = checkpoints.latest()
            raise TrainingError(
                f"{error.what}; the last checkpoint: {latest or 'none yet'}",
                where=f"training '{job.name}', seed {job.seed}",
                cure=error.cure,
            ) from error
        if rank == 0:
            _finish(job, assembly, world)


def _log_advice(job: Job, assembly: Assembly) -> None:
    for advice in assembly.advice:
        cure = json.dumps(advice.cure)  # which is YAML, too
        log.warning(f"{job.name}: {advice.field} may hide an edge: {advice.seen}\n  cure: {cure}")


def check_autocast(job: Job, *, gpus: bool) -> None:
    """Raise `InputError` where bfloat16 is asked for without GPUs, on which alone it is worth its rounding."""
    if job.settings.autocast != "none" and not gpus:
        raise InputError(
            f"autocast = {job.settings.autocast} is for GPUs, and the workers run on CPUs",
            where=f"training '{job.name}'",
            cure="set autocast to none, or give the workers GPUs",
        )


class Keeper:
    """Maintenance between updates: metrics, evaluation, checkpoints, stopping. Only one rank writes."""

    def __init__(self, job: Job, assembly: Assembly, checkpoints: Checkpoints, *, writes: bool) -> None:
        self._job, self._assembly, self._checkpoints, self._writes = job, assembly, checkpoints, writes
        self._since = time.monotonic()
        self._evaluation: dict[str, float] = {}
        if writes:
            _forget_rows_after(job.metrics, assembly.state.step)

    def __call__(self, state: State, last: LastUpdate) -> None:
        settings = self._job.settings
        now = time.monotonic()
        state.seconds += now - self._since
        self._since = now

        evaluate = state.step % settings.evaluate_every == 0 or state.step == settings.steps
        if evaluate and self._writes:
            self._evaluate(state)
        # The rank that evaluates decides for all.
        if evaluate and settings.patience is not None and joined_sum(torch.tensor(float(state.finished))) > 0:
            state.finished = True
        at_end = state.finished or state.step == settings.steps
        if evaluate or state.step % settings.log_every == 0:
            losses = last.joined()
            if self._writes:
                self._log(state, losses, evaluated=evaluate)
        if self._writes and (state.step % settings.checkpoint_every == 0 or at_end):
            self._checkpoints.save(state)
        if state.step % _AGREE_EVERY == 0 and not at_end and self._must_stop():
            if self._writes:
                self._checkpoints.save(state)
            raise Interrupted(
                f"stopped at step {state.step} of {settings.steps}; a checkpoint is saved",
                cure="run the same command again to go on",
            )

    def _evaluate(self, state: State) -> None:
        bundle = self._assembly.bundle(self._job.name, {})
        self._evaluation = _evaluation(self._assembly.validation, bundle, self._job.settings.evaluate_classifier)
        value, error = self._evaluation["energy_distance"], self._evaluation["energy_distance_error"]
        if self._job.settings.keep == "best" and state.is_best(value, error):
            weights = {name: tensor.detach().cpu().clone() for name, tensor in state.averaged.state_dict().items()}
            state.best = Best(state.step, weights)
        state.judge(value, error, self._job.settings.patience)

    def _log(self, state: State, losses: list[float], *, evaluated: bool) -> None:
        critic_loss, generator_loss, distance, penalty, gradient_norm = losses
        row = TrainingRow(
            step=state.step,
            seconds=state.seconds,
            critic_loss=critic_loss,
            generator_loss=generator_loss,
            distance=distance,
            penalty=penalty,
            gradient_norm=gradient_norm,
            critic_learning_rate=state.critic_optimiser.param_groups[0]["lr"],
            generator_learning_rate=state.generator_optimiser.param_groups[0]["lr"],
            **(self._evaluation if evaluated else {}),
        )
        with explained(self._job.metrics), self._job.metrics.open("a", encoding="utf-8") as file:
            file.write(row.model_dump_json() + "\n")

    def _must_stop(self) -> bool:
        late = self._job.deadline is not None and time.time() > self._job.deadline
        return bool(joined_sum(torch.tensor(float(late or self._job.stop_request.exists()))) > 0)


def _evaluation(truth: Sample, bundle: Bundle, classifier: bool) -> dict[str, float]:
    """The figures of a `TrainingRow` that compare generated with real events."""
    # A young generator may hardly ever pass the cuts: its evaluation need not wait until it does.
    generated = bundle.draw(truth.rows, truth.conditions, seed=bundle.seed, tries=_TRIES, strict=False).events
    if not np.isfinite(generated).all():
        return {"energy_distance": float("inf"), "energy_distance_error": float("inf")}
    weights = truth.weights if truth.conditions.shape[1] else None
    value, error = energy_distance_estimate(generated, truth.features, weights, truth.weights)
    found = {"energy_distance": value, "energy_distance_error": error}
    if classifier:
        # scikit-learn is a third of what a worker imports, and few trainings ask for it.
        from kantor.validation.classifier import classifier_test

        # Both know the conditions, so that it sees whether the features go with them.
        x, y = (np.hstack([features, truth.conditions]) for features in (generated, truth.features))
        area = classifier_test(x, y, weights, truth.weights, seed=bundle.seed)
        found |= {"classifier_auc": area.value, "classifier_auc_error": area.high - area.value}
    return found


def _same_start(state: State) -> None:
    """Every rank must have read the same checkpoint before any of them writes the next one."""
    if joined_mean(torch.tensor(float(state.step))) != state.step:
        raise TrainingError("the ranks resume from different checkpoints", cure="run the same command again")


def _forget_rows_after(metrics: Path, step: int) -> None:
    """Rows written after the checkpoint that is resumed will be written again."""
    if metrics.exists():
        rows = [row for row in read_rows(metrics) if row.step <= step]
        write_text(metrics, "".join(row.model_dump_json() + "\n" for row in rows))


def read_rows(metrics: Path, start: int = 0) -> list[TrainingRow]:
    """The rows of a metrics.jsonl from `start` on; a last line cut short by a killed writer is left out."""
    lines = metrics.read_text(encoding="utf-8").split("\n")[start:-1]
    return [TrainingRow.model_validate_json(line) for line in lines]


def _finish(job: Job, assembly: Assembly, workers: int) -> None:
    state, best = assembly.state, assembly.state.best
    if best is not None:
        state.averaged.load_state_dict(best.weights)
    run = TrainingRun(
        training=job.name,
        seed=job.seed,
        steps=state.step,
        best_step=None if best is None else best.step,
        workers=workers,
        parameters={
            "generator": sum(p.numel() for p in state.generator.parameters()),
            "critic": sum(p.numel() for p in state.critic.parameters()),
        },
        rows=len(assembly.rows.real),
        effective_rows=assembly.effective_rows,
        seconds=state.seconds,
        attempts=state.attempts,
        fingerprint=job.fingerprint,
        config=job.settings.model_dump(mode="json"),
        provenance=Provenance.here(_devices()),
    )
    provenance = {"fingerprint": job.fingerprint, "manifest_sha256": sha256(job.manifest), "best_step": run.best_step}
    with whole(job.out / "metrics.jsonl") as temporary:
        temporary.write_bytes(job.metrics.read_bytes())
    run.write(job.out / "run.json")
    # Written last: where there is a model, everything about it is there.
    assembly.bundle(job.name, provenance).save(job.out / "model.pt")


def _devices() -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
