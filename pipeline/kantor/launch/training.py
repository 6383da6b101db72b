"""Starting a training, watching it, and waiting for its model."""

import os
import shutil
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from threadpoolctl import threadpool_limits

from kantor.data.manifest import Manifest
from kantor.errors import InputError, KantorError, TrainingError
from kantor.launch.ray_train import fit
from kantor.launch.stopping import on_signal, stopping
from kantor.machine.files import write_text
from kantor.machine.progress import Progress, log
from kantor.machine.signals import Told, stopped_before
from kantor.training.assembly import check_columns
from kantor.training.feed import check_batch
from kantor.training.job import Job
from kantor.training.state import Checkpoints
from kantor.training.worker import check_autocast, read_rows, work

# How long the last launch of this training may take to end [s].
_PATIENCE_LOCKED = 20.0


def launch(job: Job) -> None:
    """Train `job` and wait for its model: several workers with Ray Train, a single one in this process.

    A single worker needs no Ray, which takes longer to start than PyTorch; it goes to one that is asked for.
    SIGTERM and SIGUSR2 ask for a checkpoint and a stop.

    Raises:
        InputError: the data or configuration cannot be used; said before anything is started where possible.
        TrainingError: the training failed for good.
        Interrupted: stopped with a checkpoint; the same call goes on from there.
    """
    # Workers run in directories of their own.
    job = replace(job, manifest=job.manifest.absolute(), out=job.out.absolute())
    manifest = Manifest.read(job.manifest)
    check_columns(job.settings, manifest)
    check_batch(job.settings.batch, manifest.split.train, job.workers, job.settings.group)
    check_autocast(job, gpus=job.gpus)
    _check_nodes(job)
    checkpoints = Checkpoints(job.checkpoints, job.settings.keep_checkpoints)
    told = Told(stopped_before("the workers were there"))
    with on_signal(told), checkpoints.locked("launched", patience=_PATIENCE_LOCKED):
        job.stop_request.unlink(missing_ok=True)
        shutil.rmtree(job.notes, ignore_errors=True)
        with _progress(job):
            (_fit_here if _is_alone(job) else fit)(job, told)
        checkpoints.remove()


def _check_nodes(job: Job) -> None:
    """Raise `InputError` where the workers cannot be shared evenly by the nodes, or there is but one node."""
    where = f"training '{job.name}'"
    if job.workers % job.nodes:
        raise InputError(
            f"{job.workers} workers cannot be shared evenly by {job.nodes} nodes",
            where=where,
            cure="make --workers a multiple of --nodes",
        )
    if job.nodes > 1 and not (job.ray_address or "RAY_ADDRESS" in os.environ):
        raise InputError(
            f"{job.nodes} nodes need a Ray cluster, and neither RAY_ADDRESS nor --ray-address names one",
            where=where,
            cure="in a SLURM job: slurm/ray_train.sh NODES CPUS kantor train ...",
        )


def _is_alone(job: Job) -> bool:
    """Whether nobody has asked for a Ray, and nothing needs one."""
    return job.workers == 1 and not (job.ray_address or "RAY_ADDRESS" in os.environ)


def _fit_here(job: Job, told: Told) -> None:
    """The one worker, in this process."""
    log.info(f"training {job.name}, seed {job.seed}: one worker, {job.threads} thread(s)")
    with stopping(job), threadpool_limits(job.threads):
        told.check()
        try:
            work(job, "cuda:0" if job.gpus else "cpu")
        except (KantorError, OSError):
            raise
        except Exception as error:
            report = job.checkpoints / "traceback.txt"
            write_text(report, traceback.format_exc())
            raise TrainingError(
                f"failed with {type(error).__name__}: {error}",
                where=f"training '{job.name}', seed {job.seed}",
                cure=f"this is a fault of Kantor: report it with {report}",
            ) from error


@contextmanager
def _progress(job: Job, every: float = 1.0) -> Iterator[None]:
    """Show how far the workers are, as they write it to the metrics, and what they log."""
    done = threading.Event()
    said: set[str] = set()

    def repeat() -> None:
        for notes in sorted(job.notes.glob("*.txt")):
            for line in notes.read_text(encoding="utf-8").split("\n")[:-1]:
                if line not in said:  # ranks may say the same
                    said.add(line)
                    log.info(line)

    def watch() -> None:
        progress: Progress | None = None
        note = distance = ""
        seen, last = 0, False
        while not last:
            last = done.wait(every)  # and once more, for the last rows
            repeat()
            rows = read_rows(job.metrics, start=seen) if job.metrics.exists() else []
            if not rows:
                continue
            seen += len(rows)
            if progress is None:
                progress = Progress(f"training {job.name}, seed {job.seed}", job.settings.steps, done=rows[-1].step)
            evaluated = [row.energy_distance for row in rows if row.energy_distance is not None]
            distance = f", energy distance {evaluated[-1]:.2e}" if evaluated else distance
            note = f"(critic distance {rows[-1].distance:.3g}{distance})"
            progress.update(rows[-1].step, note)
        if progress is not None:
            progress.close(note)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
