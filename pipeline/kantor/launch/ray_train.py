"""Launching a training with Ray Train: the only module that knows Ray."""

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kantor.data.manifest import Manifest
from kantor.errors import InputError, Interrupted, KantorError, TrainingError
from kantor.launch.address import ray_address
from kantor.machine.files import explained, write_text
from kantor.machine.progress import Progress, log
from kantor.machine.signals import Told, stopped_before
from kantor.training.assembly import check_columns
from kantor.training.feed import check_batch
from kantor.training.job import Job
from kantor.training.state import Checkpoints
from kantor.training.worker import check_autocast, read_rows, work

# A worker that dies is started again this often; it resumes from the latest checkpoint.
_RESTARTS = 3
# How long a Ray cluster may take to have what the workers need, and a Ray of our own [s].
_PATIENCE, _PATIENCE_LOCAL = 120.0, 20.0
# How long the last launch of this training may take to end [s].
_PATIENCE_LOCKED = 20.0
_ERRORS = {kind.__name__: kind for kind in (InputError, TrainingError, Interrupted)}


def launch(job: Job) -> None:
    """Train `job` with Ray Train's TorchTrainer (data parallel: gloo on CPUs, NCCL on GPUs) and wait for the model.

    A Ray cluster that is asked for is used (see `ray_address`); otherwise one is started on this machine for this
    training alone. SIGTERM and SIGUSR2 ask for a checkpoint and a stop.

    Raises:
        InputError: the data or configuration cannot be used; said before Ray is started where possible.
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
    with _on_signal(told), checkpoints.locked("launched", patience=_PATIENCE_LOCKED):
        for left_over in (job.stop_request, job.failure):
            left_over.unlink(missing_ok=True)
        shutil.rmtree(job.notes, ignore_errors=True)
        write_text(job.reserve, " " * 4096)
        on = f" on {job.nodes} nodes" if job.nodes > 1 else ""
        log.info(f"training {job.name}, seed {job.seed}: starting Ray with {job.workers} workers{on}")
        with _progress(job):
            _fit(job, ray_address(job.ray_address), told)
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


def _fit(job: Job, address: str, told: Told) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with _ray(job, address):
        _wait_for_resources(job, _PATIENCE_LOCAL if address == "local" else _PATIENCE, told)
        trainer = TorchTrainer(
            _on_worker,
            train_loop_config={"job": job},
            torch_config=TorchConfig(backend="nccl" if job.gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=job.workers,
                use_gpu=job.gpus,
                resources_per_worker={"CPU": job.threads, "GPU": int(job.gpus)},
                placement_strategy=_placement(job),
            ),
            run_config=RunConfig(
                # Ray Train does nothing for the name of a finished run: the key changes with what is trained.
                name=job.key,
                storage_path=str((job.checkpoints / "ray").absolute()),
                failure_config=FailureConfig(max_failures=_RESTARTS),
            ),
        )
        try:
            with _on_signal(partial(_ask_to_stop, job.stop_request)):
                told.check()
                trainer.fit()
        except Interrupted:
            raise
        except Exception as error:
            _raise_failure(job.failure)
            raise _given_up(job, error) from error
        _raise_failure(job.failure)


def _given_up(job: Job, error: Exception) -> TrainingError:
    """What it means that Ray Train has given up.

    A worker that was killed, or a node that was lost, may live the next time; an error of the code comes again.
    """
    failures = list(getattr(error, "worker_failures", {}).values())
    own = [failure for failure in failures if type(failure).__name__ == "UserExceptionWithTraceback"]
    # A rank whose peer was killed fails in its own code, too: all of them have to.
    if own and len(own) == len(failures):
        reason = str(own[0]).strip().splitlines()[-1]
        return TrainingError(
            f"failed in {_RESTARTS + 1} attempts, in the last with: {reason}",
            where=f"training '{job.name}'",
            cure=f"this is a fault of Kantor: report it with what stands below {job.checkpoints / 'ray'}",
        )
    return TrainingError(
        f"Ray Train gave up after {_RESTARTS} restarts: {error}",
        where=f"training '{job.name}'",
        cure="run the same command again to resume from the latest checkpoint",
    )


@contextmanager
def _ray(job: Job, address: str) -> Iterator[None]:
    """Ray at an address, or one of the training's own.

    Raises:
        InputError: it does not start.
    """
    import ray

    local: dict[str, Any] = {"num_cpus": job.workers * job.threads, "include_dashboard": False}
    options = {"logging_level": logging.ERROR, "log_to_driver": False, **(local if address == "local" else {})}
    # In the main thread Ray would take SIGTERM for its own, and end half started with processes left; what it starts
    # ends with the thread.
    with ThreadPoolExecutor(1) as thread:
        try:
            try:
                thread.submit(ray.init, address, **options).result()
            except KantorError:
                raise
            except Exception as error:
                raise InputError(
                    f"does not start: {(str(error).splitlines() or [type(error).__name__])[0]}",
                    where="Ray",
                    cure="see what `kantor doctor` says here, of the temporary directory, memory and network",
                ) from error
            yield
        finally:
            thread.submit(ray.shutdown).result()


def _placement(job: Job) -> str:
    """Ray's name for where the workers go; `_on_worker` checks what came of it."""
    if job.nodes == 1:
        return "PACK"
    return "STRICT_SPREAD" if job.workers == job.nodes else "SPREAD"


def _wait_for_resources(job: Job, patience: float, told: Told) -> None:
    """Wait until Ray has what the workers need: Ray Train would wait for it without end.

    Raises:
        TrainingError: it does not have it in time.
    """
    import ray

    needed = {"CPU": job.workers * job.threads, "GPU": job.workers * int(job.gpus)}
    deadline = time.monotonic() + patience
    while True:
        told.check()
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        there = {name: int(ray.cluster_resources().get(name, 0)) for name in needed}
        if nodes >= job.nodes and all(there[name] >= count for name, count in needed.items()):
            return
        if time.monotonic() > deadline:
            raise TrainingError(
                f"the workers need {_amount(job.nodes, needed)}; in {patience:.0f} s Ray had {_amount(nodes, there)}",
                where=f"training '{job.name}'",
                cure="give the job more, or choose fewer --workers, --threads or --nodes",
            )
        time.sleep(0.2)


def _amount(nodes: int, resources: dict[str, int]) -> str:
    return ", ".join([f"{nodes} node(s)", *(f"{count} {name}s" for name, count in resources.items() if count)])


def _on_worker(config: dict[str, Job]) -> None:
    import ray.train.torch

    job = config["job"]
    if job.failure.exists():
        return  # started again after an error that starting again does not mend
    context = ray.train.get_context()
    here, world = context.get_local_world_size(), context.get_world_size()
    try:
        _log_to(job.notes / f"rank{context.get_world_rank()}.txt")
        if here * job.nodes != world:
            raise TrainingError(
                f"Ray put {here} of {world} workers on one node, where {job.nodes} nodes share them",
                cure="offer Ray as many CPUs per node as its workers need: --cpus-per-task of srun",
            )
        work(job, ray.train.torch.get_device())
    except (Interrupted, TrainingError) as error:
        # All ranks stop together; an error raised here would make Ray start them again.
        _say_failure(job, error)
    except KantorError as error:
        # Perhaps this rank alone: raising ends the others, which wait for it.
        _say_failure(job, error)
        raise


def _log_to(notes: Path) -> None:
    """What a worker logs would end in Ray's own files: the driver repeats what stands in `notes`."""
    log.setLevel(logging.INFO)
    with explained(notes):
        notes.parent.mkdir(exist_ok=True)
        log.addHandler(logging.FileHandler(notes, encoding="utf-8"))


def _say_failure(job: Job, error: KantorError) -> None:
    """The first one that says it is believed."""
    kind = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
    where = None if error.where is None else str(error.where)
    said = json.dumps({"kind": kind, "what": error.what, "where": where, "cure": error.cure})
    with suppress(FileNotFoundError):
        mine = job.reserve.rename(job.failure.with_suffix(".partial"))
        with mine.open("r+", encoding="utf-8") as file:
            file.write(said)
            file.flush()
            os.fsync(file.fileno())
        mine.rename(job.failure)


def _raise_failure(path: Path) -> None:
    if path.exists():
        failure = json.loads(path.read_text(encoding="utf-8"))
        raise _ERRORS[failure.pop("kind")](**failure)


def _ask_to_stop(stop_request: Path, number: int, _: object) -> None:
    """Ray runs the training in threads of other processes, where signals cannot be handled: a file tells them."""
    log.info(f"{signal.Signals(number).name}: saving a checkpoint and stopping")
    stop_request.touch()


@contextmanager
def _on_signal(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """On SIGTERM and SIGUSR2."""
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        note = ""
        while not done.wait(every):
            repeat()
            rows = read_rows(job.metrics) if job.metrics.exists() else []
            if not rows:
                continue
            if progress is None:
                progress = Progress(f"training {job.name}, seed {job.seed}", job.settings.steps, done=rows[-1].step)
            evaluated = [row for row in rows if row.energy_distance is not None]
            distance = f", energy distance {evaluated[-1].energy_distance:.2e}" if evaluated else ""
            note = f"(critic distance {rows[-1].distance:.3g}{distance})"
            progress.update(rows[-1].step, note)
        repeat()
        if progress is not None:
            progress.close(note)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # How often Ray looks whether the workers are done, or dead [s].
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # A process of its own, which imports all of Ray Train first; a preemption is told by SLURM's signals.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Nobody asks for them.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # The job's limits are the scheduler's business; Ray would look at the whole machine and kill workers.
    "RAY_memory_monitor_refresh_ms": "0",
}
